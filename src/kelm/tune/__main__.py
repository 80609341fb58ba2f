"""The job's own process: ``python -m kelm.tune RECIPE [--out FOLDER] [--fresh]``, what `kelm pretrain` runs.

Without --out the model goes into the store under the recipe's name. Exit codes: 0 done, 2 a bad recipe, 130 stopped
by Ctrl-C at a checkpoint."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from kelm.errors import ConfigError, KelmError

FAILED, REFUSED, STOPPED = 1, 2, 130


def main() -> int:
    parser = argparse.ArgumentParser(prog="kelm pretrain", description="Train a small model from a recipe.")
    parser.add_argument("recipe", type=Path, metavar="RECIPE")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write the model here instead of into the store")
    parser.add_argument("--fresh", action="store_true", help="begin anew instead of continuing an interrupted run")
    args = parser.parse_args()
    # before torch: threads that spin while they wait cost a shared machine far more than they gain here
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        return _run(args.recipe, args.out, args.fresh)
    except KelmError as error:
        print(f"kelm: {error.message}", file=sys.stderr)
        return REFUSED if isinstance(error, ConfigError) else FAILED


def _run(recipe: Path, out: Path | None, fresh: bool) -> int:
    import torch

    from kelm.config import load_settings
    from kelm.store import Store
    from kelm.tune.pretrain import pretrain

    settings = load_settings()
    torch.set_num_threads(settings.threads)
    result = pretrain(recipe, out, fresh=fresh)
    if result.folder is None:
        return STOPPED
    if out is not None:
        print(f"the model is in {out}")
    else:
        print(f"{Store(settings.home).import_folder(result.folder, result.name).name} is in the store")
    return 0


if __name__ == "__main__":
    sys.exit(main())
