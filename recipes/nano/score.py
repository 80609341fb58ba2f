"""Scores a trained nano: ``python score.py MODEL_FOLDER QUESTIONS.jsonl [--show]``.

Greedy on Kelm's own engine (`kelm.LLM`), every token masked by the grammar of the command line, as `kelm ask` does.
Prints shares. --show lists the misses: for questions of one's own, never for the held-out ones."""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer.main

from kelm import LLM
from kelm.apps import answer_grammar
from kelm.apps.ask import MAX_TOKENS
from kelm.apps.commands import verbs
from kelm.cli.main import app
from kelm.library.params import SamplingParams
from kelm.store import Store
from kelm.text import chat

CODE = re.compile(r"`([^`]*)`")
Question = dict[str, Any]


def names(answer: str, accept: Sequence[str]) -> bool:
    """Whether the first command in ``answer`` begins with one of ``accept``; arguments may stand before a flag."""
    found = CODE.search(answer)
    return found is not None and any(_begins(found.group(1).split(), prefix.split()) for prefix in accept)


def _begins(words: list[str], prefix: list[str]) -> bool:
    verb = [word for word in prefix if not word.startswith("-")]
    flags = [word for word in prefix if word.startswith("-")]
    return words[: len(verb)] == verb and all(flag in words for flag in flags)


def declined(answer: str) -> bool:
    """A decline names no command and says that it doesn't know."""
    return "`" not in answer and ("don't know" in answer or "不知道" in answer)


def invented(answer: str) -> list[str]:
    """Commands named in ``answer``, in backticks or not, that the command line doesn't have; by a parse of its own."""
    known = verbs(typer.main.get_command(app))
    flags = {" ".join(verb.words): {flag for option in verb.options for flag in option.flags} for verb in known}
    wrong = []
    for code in re.findall(r"\bkelm((?: +[a-z-]+)+)", answer):
        words = code.split()
        verb = max((name for name in flags if words[: len(name.split())] == name.split()), key=len, default="")
        rest = words[len(verb.split()) :]
        if not all(word in flags[verb] for word in rest):
            wrong.append(code.strip())
    return wrong


def answers(llm: LLM, questions: Sequence[Question]) -> list[str]:
    """The model's reply to each question, all of them in one batch."""
    grammar = answer_grammar.lark(verbs(typer.main.get_command(app)))
    chats = [chat.Chat(messages=[{"role": "user", "content": question["question"]}]) for question in questions]
    prompts = [chat.render(llm.tokenizer, one) for one in chats]
    params = SamplingParams(temperature=0, max_tokens=MAX_TOKENS, grammar=grammar)
    return [completion.text for completion in llm.generate(prompts, params)]


def right(question: Question, answer: str) -> bool:
    return declined(answer) if question["kind"] == "off_topic" else names(answer, question["accept"])


def shares(questions: Sequence[Question], said: Sequence[str]) -> dict[str, float]:
    """Commands named right, off-topic questions declined (of their kind), and the number of invented commands."""
    found: dict[str, float] = {}
    for kind in ("command", "off_topic"):
        marks = [right(q, answer) for q, answer in zip(questions, said, strict=True) if q["kind"] == kind]
        found[kind] = sum(marks) / max(1, len(marks))
    return found | {"invented": sum(len(invented(answer)) for answer in said)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("questions", type=Path)
    parser.add_argument("--show", action="store_true")
    args = parser.parse_args()
    questions = [json.loads(line) for line in args.questions.read_text(encoding="utf-8").splitlines() if line]
    with tempfile.TemporaryDirectory() as home:
        Store(Path(home)).import_folder(args.model, "scored")
        said = answers(LLM("scored", home=home), questions)
    print(json.dumps(shares(questions, said)))
    for question, answer in zip(questions, said, strict=True) if args.show else []:
        if not right(question, answer):
            print(f"{question['question']}\n    wanted {question['accept'] or 'a decline'}, got {answer}")


if __name__ == "__main__":
    main()
