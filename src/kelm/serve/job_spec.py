"""What a job is asked to do, as a field of a body: an object with ``kind`` and that kind's own fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import msgspec

from kelm import limits
from kelm.errors import InvalidRequest
from kelm.serve.checks import Schema, refuse, unknown
from kelm.wire import jobs

_KINDS: dict[str, type[msgspec.Struct]] = {str(kind.__struct_config__.tag): kind for kind in get_args(jobs.Spec)}

_BOUNDS = {
    "epochs": limits.TUNE_EPOCHS,
    "learning_rate": limits.TUNE_RATE,
    "rank": limits.TUNE_RANK,
    "seed": limits.TUNE_SEED,
    "limit": limits.EVAL_ROWS,
    "max_tokens": limits.EVAL_MAX_TOKENS,
}
"""Of the numbers in any kind."""


@dataclass(frozen=True, slots=True)
class SpecField:
    """An object with ``kind`` and that kind's fields (wire.jobs)."""

    def __call__(self, field: str, value: object) -> jobs.Spec:
        if not isinstance(value, dict):
            raise refuse(field, "an object", value)
        kind = value.get("kind")
        if not isinstance(kind, str) or kind not in _KINDS:
            raise refuse(f"{field}.kind", f"one of {', '.join(_KINDS)}", kind)
        known = {"kind", *_KINDS[kind].__struct_fields__}
        for name, each in value.items():
            if name not in known:
                raise unknown(f"{field}.{name}", name, known)
            if name in _BOUNDS and each is not None:
                _BOUNDS[name].check(each, field=f"{field}.{name}")
            if isinstance(each, str) and (len(each) > limits.STRING_BYTES.most or not each.isprintable()):
                raise refuse(f"{field}.{name}", "one line of at most 4096 letters", each)
        try:
            spec: jobs.Spec = msgspec.convert(value, _KINDS[kind])  # type: ignore[assignment]
        except msgspec.ValidationError as error:
            message = str(error).replace("$", field, 1)[:300]
            raise InvalidRequest(f"{field} is not a job: {message}", param=field) from None
        return spec

    def schema(self) -> Schema:
        return {"type": "object", "properties": {"kind": {"enum": list(_KINDS)}}, "required": ["kind"]}
