"""A checkpoint's own sampling defaults: the five fields of generation_config.json that vLLM takes too."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from kelm import limits
from kelm.errors import InvalidRequest

log = logging.getLogger(__name__)

FILE = "generation_config.json"
BOUNDS = (limits.TEMPERATURE, limits.TOP_P, limits.TOP_K, limits.MIN_P, limits.REPETITION_PENALTY)


def read_defaults(path: Path) -> dict[str, Any]:
    """Sampling fields inside our bounds. A file that can't be read as such counts as empty."""
    try:
        with path.open("rb") as file:
            config = json.loads(file.read(int(limits.CONFIG_BYTES.most)))
    except (OSError, ValueError, RecursionError):
        log.warning("generation_config_unreadable")
        return {}
    found = {}
    for bound in BOUNDS if isinstance(config, dict) else ():
        value = config.get(bound.name)
        if value is None:
            continue
        try:
            bound.check(value)
        except InvalidRequest as error:
            log.warning("generation_config_ignored field=%s reason=%s", bound.name, error)
            continue
        found[bound.name] = value
    return found
