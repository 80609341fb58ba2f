"""`kelm pretrain`: the job runs in this process, which imports torch; nothing else of the command line does."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

from kelm.errors import ConfigError

STOPPED = 130


def pretrain(recipe: Path, out: Path, fresh: bool) -> None:
    """Train to the end, or to a checkpoint when interrupted. Raises ConfigError for a bad recipe, or without torch."""
    if importlib.util.find_spec("torch") is None:
        raise ConfigError("training needs torch, which is not installed: pip install 'kelm[tune]'")
    # read when torch is loaded: threads that spin while they wait cost a shared machine several times what they gain
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from kelm.tune import pretrain as job

    result = job.pretrain(recipe, out, fresh=fresh)
    if result.folder is None:
        sys.exit(STOPPED)
    print(f"the model is in {result.folder}; `kelm import {result.folder}` takes it into the store")
