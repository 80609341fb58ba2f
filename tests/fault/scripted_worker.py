"""A worker without a model: speaks the wire, makes tokens by hashing, and misbehaves as its script says.

    python scripted_worker.py '{"die_on": 7}' FD

The next token is a function of (seed, choice, position, token before), so a continuation that lost or doubled a
token, or began at the wrong place, gives other tokens.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from kelm.wire import framing
from kelm.wire import messages as m


class Script(msgspec.Struct, forbid_unknown_fields=True):
    step_s: float = 0.001
    vocab: int = 256
    blocks: int = 10_000
    context: int = 100_000
    die_on: int | None = None
    """SIGKILL itself in a step of a process with this token in its prompt."""
    die_after: int = 0
    """... once it has generated so many tokens."""
    die_on_load: str = ""
    """SIGKILL itself when asked to load a model whose key has this in it."""
    budget: int = 0
    """Bytes that models may take together; 0: any."""
    sizes: dict[str, int] = {}
    """Part of a model's key -> what it takes."""
    load_s: float = 0.0
    """Between half of a load and all of it; and before a model is dropped."""
    refuse: str = ""
    """Answer a Load of such a key with LoadFailed."""
    hang_once: str = ""
    """Path of a file: the worker that finds it missing makes it and hangs in its first step."""
    rubbish_once: str = ""
    """As hang_once: sends bytes that are no frame."""
    deaf_once: str = ""
    """As hang_once: closes its socket and lives on."""
    never_hello: bool = False
    exit_while: str = ""
    """Path: leaves at once while there is such a file."""
    log: str = ""
    """Path: a line for every command and step."""


def next_token(seed: int, choice: int, position: int, before: int, vocab: int) -> int:
    digest = hashlib.blake2b(f"{seed} {choice} {position} {before}".encode(), digest_size=8).digest()
    return 97 + int.from_bytes(digest, "little") % min(26, vocab - 97)


def first_time(path: str) -> bool:
    if not path or Path(path).exists():
        return False
    Path(path).touch()
    return True


@dataclass
class Work:
    submit: m.Submit
    rows: dict[int, list[int]]
    paused: bool = False
    started: bool = False


@dataclass
class Worker:
    script: Script
    sock: socket.socket
    work: dict[int, Work] = field(default_factory=dict)
    encodes: list[m.Encode] = field(default_factory=list)
    loaded: dict[str, int] = field(default_factory=dict)
    steps: int = 0
    changed: bool = False

    def send(self, message: m.Report) -> None:
        self.sock.sendall(framing.encode(message))

    def run(self) -> None:
        reader: framing.Reader[m.Command] = framing.Reader(m.Command)
        self.send(m.Hello(m.PROTOCOL, os.getpid(), 1, "scripted"))
        while True:
            wait = 0.0 if self.runnable() or self.encodes or self.changed else None
            if select.select([self.sock], [], [], wait)[0]:
                data = self.sock.recv(1 << 16)
                if not data:
                    return
                for command in reader.feed(data):
                    self.note(type(command).__name__, getattr(command, "pid", None) or getattr(command, "model", ""))
                    if isinstance(command, m.Quit):
                        return
                    self.obey(command)
            if self.encodes:
                self.encode(self.encodes.pop(0))
            elif self.runnable() or self.changed:
                self.step()

    def runnable(self) -> list[Work]:
        return [work for work in self.work.values() if not work.paused]

    def note(self, *words: object) -> None:
        if self.script.log:
            with Path(self.script.log).open("a") as file:
                print(*words, file=file)

    def obey(self, command: m.Command) -> None:
        match command:
            case m.Load():
                self.load(command)
            case m.Unload():
                time.sleep(self.script.load_s)
                self.loaded.pop(command.model, None)
                self.work = {pid: w for pid, w in self.work.items() if w.submit.model != command.model}
                self.send(m.Unloaded(command.model))
            case m.Submit():
                share = (command.share, command.weight, command.counter)
                self.note("Stand", command.pid, command.priority, *share)
                known = command.generated or [[] for _ in range(command.n)]
                rows = {c: list(known[c]) for c in range(command.n) if c not in command.finished}
                self.work[command.pid] = Work(command, rows)
            case m.Encode():
                self.encodes.append(command)
            case m.Cancel():
                self.cancel(command)
            case m.Renice():
                self.note("Renice", command.pid, command.priority)
            case m.Pause() | m.Resume() if command.pid in self.work:
                self.work[command.pid].paused = isinstance(command, m.Pause)

    def cancel(self, command: m.Cancel) -> None:
        self.changed = True
        work = self.work.get(command.pid)
        if work is not None and command.choice is not None:
            work.rows.pop(command.choice, None)
        if work is not None and (command.choice is None or not work.rows):
            del self.work[command.pid]

    def load(self, load: m.Load) -> None:
        if self.script.die_on_load and self.script.die_on_load in load.model:
            self.die()
        if self.script.refuse and self.script.refuse in load.model:
            self.send(m.LoadFailed(load.model, "malformed_model", "model.safetensors: header is not JSON"))
            return
        size = next((size for part, size in self.script.sizes.items() if part in load.model), 0)
        missing = sum(self.loaded.values()) + size - self.script.budget if self.script.budget else 0
        if missing > 0:
            told = f"the model needs {size} bytes: {missing} bytes are missing"
            self.send(m.LoadFailed(load.model, "out_of_memory", told, missing))
            return
        self.loaded[load.model] = size
        self.send(m.LoadProgress(load.model, 50, 100))
        time.sleep(self.script.load_s)
        self.send(m.LoadProgress(load.model, 100, 100))
        info = m.Loaded(
            model=load.model, executor="native", kind="decoder", architecture="Scripted", dtype="float32",
            parameters=1, weight_bytes=100, max_context_tokens=self.script.context, vocab=self.script.vocab, hidden=4,
            tasks=["generate", "embed"], held_bytes=size,
        )  # fmt: skip
        self.send(info)

    def encode(self, encode: m.Encode) -> None:
        self.begin([encode.pid])
        time.sleep(self.script.step_s)
        if any(self.script.die_on in tokens for tokens in encode.inputs):
            self.die()
        import numpy as np

        rows = [np.array([len(tokens), sum(tokens)], dtype="<f4") for tokens in encode.inputs]
        self.send(m.Encoded(pid=encode.pid, shapes=[[2]] * len(rows), data=[row.tobytes() for row in rows]))

    def begin(self, pids: list[int]) -> None:
        self.steps += 1
        self.note("step", *pids)
        self.send(m.StepBegin(self.steps, pids))

    def step(self) -> None:
        self.changed = False
        members = self.runnable()
        self.begin([work.submit.pid for work in members])
        time.sleep(self.script.step_s)
        self.misbehave(members)
        started = [m.Started(work.submit.pid, 0) for work in members if not work.started]
        moves = [m.Move(work.submit.pid, "running") for work in members]
        tokens = [tokens for work in members for tokens in self.advance(work)]
        prompts = [self.scores(w) for w in members if not w.started and w.submit.sampling.prompt_logprobs is not None]
        for work in members:
            work.started = True
            if not work.rows:
                del self.work[work.submit.pid]
        self.send(
            m.Step(
                number=self.steps,
                seconds=0.0,
                counters=self.counters(),
                started=started,
                moves=moves,
                tokens=tokens,
                prompts=prompts,
            )
        )

    def misbehave(self, members: list[Work]) -> None:
        for work in members:
            generated = max(map(len, work.rows.values()), default=0)
            if self.script.die_on in work.submit.prompt and generated >= self.script.die_after:
                self.die()
        if members and first_time(self.script.hang_once):
            time.sleep(3600)
        if members and first_time(self.script.deaf_once):
            self.sock.close()
            time.sleep(3600)
        if members and first_time(self.script.rubbish_once):
            self.sock.sendall(b"\x05\0\0\0rubbish")

    def advance(self, work: Work) -> list[m.Tokens]:
        submit, sampling = work.submit, work.submit.sampling
        out = []
        for choice, row in list(work.rows.items()):
            before = row[-1] if row else submit.prompt[-1]
            token = next_token(sampling.seed, choice, len(submit.prompt) + len(row), before, self.script.vocab)
            row.append(token)
            finish = (
                "stop" if token in sampling.stop_token_ids else "length" if len(row) >= sampling.max_tokens else None
            )
            if finish:
                del work.rows[choice]
            stop = token if finish == "stop" else None
            out.append(m.Tokens(submit.pid, choice, [token], None, finish, stop))
        return out

    def scores(self, work: Work) -> m.PromptLogprobs:
        entries = [m.TokenLogprobs(token, -1.0, 1, []) for token in work.submit.prompt[1:]]
        return m.PromptLogprobs(work.submit.pid, [None, *entries])

    def counters(self) -> m.Counters:
        used = sum(
            (len(work.submit.prompt) + sum(map(len, work.rows.values()))) // 16 + 1
            for work in self.work.values()
            if work.started
        )
        rows = sum(len(work.rows) for work in self.work.values())
        return m.Counters(self.script.blocks - used, self.script.blocks, rows, 0, 0, 0, 0, 0, 0, {"native": self.steps})

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    script = msgspec.convert(json.loads(sys.argv[1]), Script)
    if script.exit_while and Path(script.exit_while).exists():
        sys.exit(3)
    if script.never_hello:
        time.sleep(3600)
    with socket.socket(fileno=int(sys.argv[2])) as sock, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        Worker(script, sock).run()


if __name__ == "__main__":
    main()
