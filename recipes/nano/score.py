"""Scores a trained nano: ``python score.py MODEL_FOLDER QUESTIONS.jsonl [--show]``.

Greedy, through `transformers`, every token masked by the grammar that `kelm ask` uses. Prints shares only;
--show lists the misses and is for questions of one's own, never for the held-out ones."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path

import llguidance
import llguidance.torch
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

CODE = re.compile(r"`([^`]*)`")


def names(answer: str, accept: list[str]) -> bool:
    """Whether the first command in ``answer`` is one of ``accept``; arguments may stand between verb and flag."""
    found = CODE.search(answer)
    return found is not None and any(_begins(found.group(1).split(), prefix.split()) for prefix in accept)


def _begins(words: list[str], prefix: list[str]) -> bool:
    verb = [word for word in prefix if not word.startswith("-")]
    flags = [word for word in prefix if word.startswith("-")]
    return words[: len(verb)] == verb and all(flag in words for flag in flags)


def declined(answer: str) -> bool:
    """A decline names no command and says that it doesn't know."""
    return "`" not in answer and ("don't know" in answer or "不知道" in answer)


class Greedy:
    """A model folder decoded greedily under a grammar."""

    def __init__(self, folder: Path, lark: str) -> None:
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        raw = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._vocab = raw.get_vocab_size()
        self._end = self._tokenizer.eos_token_id
        self._guide = llguidance.LLTokenizer(raw.to_str(), eos_token=self._end)
        self._lark = lark

    @torch.no_grad()
    def answer(self, question: str, limit: int = 128) -> str:
        messages = [{"role": "user", "content": question}]
        ids = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
        matcher, mask = (
            llguidance.LLMatcher(self._guide, self._lark),
            llguidance.torch.allocate_token_bitmask(1, self._vocab),
        )
        given, cache, step = len(ids), None, torch.tensor([ids])
        while len(ids) - given < limit:
            out = self._model(input_ids=step, past_key_values=cache, use_cache=True)
            cache, logits = out.past_key_values, out.logits[0, -1:]
            if matcher.is_error():
                raise RuntimeError(f"the grammar failed: {matcher.get_error()}")
            llguidance.torch.fill_next_token_bitmask(matcher, mask, 0)
            llguidance.torch.apply_token_bitmask_inplace(logits, mask)
            token = int(logits.argmax())
            if token == self._end:
                break
            if not matcher.consume_token(token):
                raise RuntimeError(f"the grammar stopped: {matcher.get_error()}")
            ids.append(token)
            step = torch.tensor([[token]])
        return str(self._tokenizer.decode(ids[given:], skip_special_tokens=True))


def score(answer: Callable[[str], str], questions: list[dict]) -> tuple[dict[str, float], list[tuple[dict, str]]]:
    """Shares of commands named right and of off-topic questions declined, and the misses."""
    misses, hits = [], {"command": [0, 0], "off_topic": [0, 0]}
    for question in questions:
        said = answer(question["question"])
        right = declined(said) if question["kind"] == "off_topic" else names(said, question["accept"])
        hits[question["kind"]][0] += right
        hits[question["kind"]][1] += 1
        if not right:
            misses.append((question, said))
    return {kind: good / max(1, total) for kind, (good, total) in hits.items()}, misses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("questions", type=Path)
    parser.add_argument("--show", action="store_true")
    args = parser.parse_args()
    from tree import tree

    from kelm.apps import answer_grammar
    from kelm.apps.commands import verbs

    questions = [json.loads(line) for line in args.questions.read_text(encoding="utf-8").splitlines() if line]
    shares, misses = score(Greedy(args.model, answer_grammar.lark(verbs(tree()))).answer, questions)
    print(json.dumps(shares))
    for question, said in misses if args.show else []:
        print(f"{question['question']}\n    wanted {question['accept'] or 'a decline'}, got {said}")


if __name__ == "__main__":
    main()
