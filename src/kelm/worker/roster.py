"""Who is here: processes and their sequences, from submission to their end."""

from __future__ import annotations

from kelm.errors import ContextTooLong, InvalidRequest
from kelm.wire.messages import Submit, Tokens
from kelm.worker.account import Account
from kelm.worker.bill import Bill
from kelm.worker.residency import Residency, Resident
from kelm.worker.sequence import Generation, Sequence


class Roster:
    """Every change of a sequence's life but its computing. ``notices`` are for the next report."""

    def __init__(self, residency: Residency, account: Account) -> None:
        self._residency = residency
        self._account = account
        self.bill = Bill()
        self._next_sequence = 0
        self.generations: dict[int, Generation] = {}
        self.notices: list[Tokens] = []
        """Ends that no step brings about: cancelled, or known to be over when submitted."""

    def submit(self, submit: Submit) -> None:
        """Raises ModelNotFound, UnsupportedModel, InvalidRequest, ContextTooLong; nothing is changed then."""
        resident = self._residency.get(submit.model)
        _check(submit, resident)
        if submit.pid in self.generations:
            raise InvalidRequest(f"process {submit.pid} is running already")
        generation = Generation(submit, resident.opened.decoder_start)
        waiting = [self._choice(submit, generation, resident, n) for n in range(submit.n) if n not in submit.finished]
        for sequence in waiting:
            reason = sequence.ending(resident.loaded.max_context_tokens) if sequence.generated else None
            if reason is not None:
                stop = sequence.known[-1] if reason == "stop" else None
                self.notices.append(Tokens(submit.pid, sequence.choice, [], finish=reason, stop_token=stop))
                continue
            generation.add(sequence)
            resident.sequences[sequence.id] = sequence
        if generation.choices:
            self.generations[submit.pid] = generation
            self.bill.open(submit.share, submit.weight, submit.counter)

    def cancel(self, pid: int, choice: int | None = None) -> None:
        """End a process or one choice of it with reason ``abort``; nothing happens when it is over already."""
        generation = self.generations.get(pid)
        if generation is None:
            return
        for sequence in list(generation.choices.values()):
            if choice is None or sequence.choice == choice:
                self.notices.append(Tokens(pid, sequence.choice, [], finish="abort"))
                self.end(sequence)

    def end(self, sequence: Sequence) -> None:
        """It is over: its blocks go back, and what it led goes to the next choice."""
        generation = sequence.generation
        resident = self._residency.get(generation.model)
        del generation.choices[sequence.choice]
        del resident.sequences[sequence.id]
        if generation.leader is sequence and generation.choices:
            self._hand_over(sequence)
        self._release(resident, sequence)
        if not generation.choices:
            del self.generations[generation.pid]

    def drop(self, generation: Generation) -> None:
        """End all of its choices without a notice."""
        for sequence in list(generation.choices.values()):
            self.end(sequence)

    def preempt(self, sequence: Sequence) -> None:
        """Take its blocks; it is computed again when there is room."""
        self._account.preemptions += 1
        self._release(self._residency.get(sequence.generation.model), sequence)
        sequence.computed = 0

    def fork(self, parent: Sequence, child: Sequence) -> None:
        """``child``, which holds nothing, goes on from what ``parent`` computed: blocks are shared."""
        assert parent.tables is not None and child.tables is None
        child.tables = parent.tables.fork(parent.computed)
        child.computed = child.seen = child.charged = parent.computed
        decoder = self._residency.get(parent.generation.model).opened.decoder
        assert decoder is not None
        decoder.fork(parent.id, child.id)

    def _choice(self, submit: Submit, generation: Generation, resident: Resident, choice: int) -> Sequence:
        generated = submit.generated[choice] if submit.generated else []
        sequence = Sequence(self._next_sequence, generation, choice, generated)
        self._next_sequence += 1
        if submit.sampling.grammar is not None:
            sequence.grammar = resident.grammars.start(submit.sampling.grammar, generated)
        return sequence

    def _hand_over(self, leader: Sequence) -> None:
        """The leader ended before the prompt was computed: the next choice leads, from where it was."""
        generation = leader.generation
        heir = next(iter(generation.choices.values()))
        generation.leader = heir if len(generation.choices) > 1 else None
        if leader.tables is not None:
            self.fork(leader, heir)

    def _release(self, resident: Resident, sequence: Sequence) -> None:
        if sequence.tables is None:
            return
        sequence.tables.release()
        sequence.tables = None
        if resident.opened.decoder is not None:
            resident.opened.decoder.forget(sequence.id)


def _check(submit: Submit, resident: Resident) -> None:
    """What a wrong caller could break the step with. The doors check more, and first."""
    loaded, sampling = resident.loaded, submit.sampling
    if resident.opened.decoder is None:
        raise InvalidRequest(f"this model ({loaded.architecture}) does not generate", param="model")
    if resident.opened.decoder_start is not None and sampling.prompt_logprobs is not None:
        raise InvalidRequest("an encoder-decoder gives no prompt log-probabilities", param="prompt_logprobs")
    if not submit.prompt:
        raise InvalidRequest("the prompt has no tokens; it needs at least one", param="prompt")
    known = [submit.prompt, *submit.generated, list(sampling.logit_bias)]
    if any(not 0 <= token < loaded.vocab for tokens in known for token in tokens):
        raise InvalidRequest(f"a token id is outside the model's vocabulary of {loaded.vocab}", param="prompt")
    if submit.n < 1 or (submit.generated and len(submit.generated) != submit.n):
        raise InvalidRequest(f"n is {submit.n} and known tokens are given for {len(submit.generated)} choices")
    room = loaded.max_context_tokens - (1 if sampling.max_tokens else 0)
    if len(submit.prompt) > room:
        raise ContextTooLong(
            f"the prompt has {len(submit.prompt)} tokens; this model takes at most {room} here (the least of its "
            "context and of what the KV memory holds)",
            param="prompt",
        )
