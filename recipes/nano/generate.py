"""Writes nano's corpus: ``python generate.py --split train --documents 1000 --seed 1 --out corpus.jsonl``.

One JSON object a line, {"messages": [...]}. Seeded: the same arguments give the same bytes. Standard library only.
The held-out split uses phrase lines that training never sees, and a generator of its own."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from random import Random

from commands import commands_sha256
from corpus import Corpus
from decontaminate import Filter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--split", choices=("train", "heldout"), default="train")
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--exclude", type=Path, nargs="*", default=[], help="JSONL of questions that no text may share a 5-gram with"
    )
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    rng = Random(f"{args.split}:{args.seed}")
    corpus, excluded = Corpus(held_out=args.split == "heldout"), Filter(args.exclude)
    with args.out.open("w", encoding="utf-8", newline="\n") as out:
        written = dropped = 0
        while written < args.documents:
            messages = corpus.document(rng)
            if any(excluded.refuses(message["content"]) for message in messages):
                dropped += 1
                continue
            out.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
            written += 1
    print(json.dumps({"documents": written, "dropped": dropped, "commands_sha256": commands_sha256()}))


if __name__ == "__main__":
    main()
