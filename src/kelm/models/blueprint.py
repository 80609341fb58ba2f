"""A decoder as its files describe it, before a tensor is read. Knows no torch: every executor starts from here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from kelm.errors import ModelFormatError, UnsupportedModel
from kelm.limits import VOCAB
from kelm.models.families import Family, find_family
from kelm.models.fields import Fields, read_json
from kelm.models.info import ModelInfo
from kelm.models.layout import Slot, aliases, slots
from kelm.models.part import Part
from kelm.models.quantization import Quantization, read_quantization
from kelm.models.spec import DecoderSpec
from kelm.models.tensor_index import TensorIndex, elements

Files = Mapping[str, str]
"""Name in the checkpoint ('config.json') -> path."""
DTYPES = ("float32", "bfloat16", "float16")
Index = TypeVar("Index", bound=TensorIndex)


@dataclass(frozen=True, slots=True)
class Blueprint(Generic[Index]):
    """``prefix``: before the tensors' names; ``context_tokens``: the most that it is made for."""

    family: Family
    spec: DecoderSpec
    index: Index
    quantization: Quantization | None
    prefix: str
    context_tokens: int
    eos_ids: tuple[int, ...]

    @property
    def unused(self) -> tuple[str, ...]:
        """Ends of names of tensors that may be there and hold nothing of the model."""
        layout = self.family.layout
        return layout.ignored + ((f"{layout.head}.weight",) if self.spec.tied else ())

    @property
    def aliases(self) -> dict[str, str]:
        """What other classes of the same model call its tensors -> what this checkpoint does."""
        return aliases(self.slots(), (self.slots(prefix=other) for other in ("", *self.family.layout.prefixes)))

    def slots(self, part: Part | None = None, prefix: str | None = None) -> dict[str, Slot]:
        return slots(self.spec, self.family.layout, self.prefix if prefix is None else prefix, part)

    def check(self, dtype: str) -> str:
        """Every check that reads no tensor. The precision: ``dtype``, or for auto that of the first slot, float16 as
        bfloat16. Raises ModelFormatError."""
        found = self.slots()
        self.index.check(found, self.unused)
        stored = self.index.entries[next(iter(found.values())).names[0]].dtype
        return dtype if dtype != "auto" else "bfloat16" if stored in ("BF16", "F16") else "float32"

    def info(self, dtype: str, weight_bytes: int) -> ModelInfo:
        """``dtype``: of what isn't quantized."""
        return ModelInfo(
            kind="decoder",
            architecture=self.family.architecture,
            dtype=self.quantization.label if self.quantization is not None else dtype,
            parameters=sum(elements(slot) for slot in self.slots().values()),
            weight_bytes=weight_bytes,
            max_context_tokens=self.context_tokens,
            vocab=self.spec.vocab,
            hidden=self.spec.hidden,
            tasks=("generate",),
            eos_ids=self.eos_ids,
        )


def read_config(files: Files) -> Fields:
    if "config.json" not in files:
        raise ModelFormatError("config.json is missing; it says what kind of model this is")
    return read_json(files["config.json"], "config.json")


def read_blueprint(files: Files, make_index: Callable[[Files, Quantization | None], Index]) -> Blueprint[Index]:
    """Reads config.json and the weights' headers. Raises UnsupportedModel when no decoder family can run it,
    ModelFormatError when a file is malformed."""
    config = read_config(files)
    quantization = read_quantization(config)
    family = find_family(config)
    spec = family.read(config)
    index = make_index(files, quantization)
    prefix = index.prefix(family.layout.prefixes, f"{family.layout.embed}.weight")
    return Blueprint(family, spec, index, quantization, prefix, family.context(config), _eos_ids(config, files))


def known_dtype(dtype: str) -> str:
    if dtype != "auto" and dtype not in DTYPES:
        raise UnsupportedModel(f"dtype must be auto, {', '.join(DTYPES)}, got {dtype!r}")
    return dtype


def _eos_ids(config: Fields, files: Files) -> tuple[int, ...]:
    name = "generation_config.json"
    for fields in ([read_json(files[name], name)] if name in files else []) + [config]:
        value = fields.raw("eos_token_id")
        if value is not None:
            return tuple(_token_id(fields, i) for i in (value if isinstance(value, list) else [value]))
    return ()


def _token_id(fields: Fields, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < VOCAB.most:
        raise fields.wrong("eos_token_id", "a token id or a list of them")
    return value
