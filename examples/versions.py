"""A variant of a model: served, updated by a sparse and by a dense delta while a stream runs, and rolled back.

    kelm serve -d
    pip install openai
    python examples/versions.py [MODEL]

The deltas are made here by changing some weights at random; yours come from training (`kelm tune`, PEFT, a checkpoint).
On the command line the same is `kelm update MODEL@example DELTA`, `kelm versions MODEL@example` and
`kelm rollback MODEL@example`.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import openai

from kelm.config import load_settings
from kelm.store import Store
from kelm.store.difference import Tensors, write_delta


def make_delta(store: Store, model: str, path: Path, share: float, size: float) -> Path:
    """A delta that changes ``share`` of all weights, by ``size`` times their standard deviation."""
    base, chance = store.resolve(model), np.random.default_rng(1)
    old = Tensors(store.paths(base))
    new = {}
    for name, values in old.items():
        noise = chance.standard_normal(values.shape) * size * values.std()
        new[name] = values + np.where(chance.random(values.shape) < share, noise, 0).astype(np.float32)
    write_delta(path, base.digest, old, new)
    return path


def main(model: str = "nano") -> None:
    store, variant = Store(load_settings().home), f"{model}@example"
    client = openai.OpenAI(base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8420/v1"), api_key="any")
    prompt, more = "How do I see the models", {"ignore_eos": True}

    def ask(name: str) -> None:
        made = client.completions.create(model=name, prompt=prompt, max_tokens=16, temperature=0, extra_body=more)
        print(f"{made.model:20} {made.choices[0].text!r}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        first = make_delta(store, model, Path(folder) / "first", share=0.02, size=1.0)
        sparse = make_delta(store, model, Path(folder) / "sparse", share=0.05, size=1.0)
        dense = make_delta(store, model, Path(folder) / "dense", share=1.0, size=0.3)
        ask(model)
        store.add_version(model, "example", layer=first, parent=0, note="made by examples/versions.py")
        ask(variant)
        stream = client.completions.create(
            model=variant, prompt=prompt, max_tokens=200, temperature=0, stream=True, extra_body=more
        )
        chunks = [next(stream)]
        for delta in (sparse, dense):
            version = store.add_version(model, "example", layer=delta)
            print(f"updated to version {version.number}: {version.kind}, over version {version.parent}")
            ask(variant)
        chunks += stream
        answered = {chunk.model for chunk in chunks}
        print(f"the stream that ran meanwhile was answered by {', '.join(answered)} to its end")
    back = store.rollback(variant)
    print(f"rolled back to version {back.current}")
    ask(variant)
    ask(f"{variant}:{len(back.versions)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
