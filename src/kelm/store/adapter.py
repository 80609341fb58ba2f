"""PEFT adapters as data: adapter_config.json and adapter_model.safetensors, as peft's save_pretrained writes them.

    base_model.model.<module>.lora_A.weight   [rank, in]     y = W x + scale * B (A x)
    base_model.model.<module>.lora_B.weight   [out, rank]    scale = alpha / rank, or alpha / sqrt(rank) (rsLoRA)
    base_model.model.<tensor>                 a whole tensor (modules_to_save, bias)

LoRA: Hu et al. 2021, arXiv 2106.09685; rsLoRA: Kalajdzievski 2023, arXiv 2312.03732. What would change the result and
isn't computed here is refused, by name; so is a setting that this page doesn't know, unless it is off.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kelm import limits
from kelm.errors import InvalidRequest, ModelFormatError, UnsupportedModel
from kelm.store.base_tensors import BaseTensors
from kelm.store.checkpoint import read_json
from kelm.store.tensors import FLOATS, TensorFile

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_A, _B = ".lora_A.weight", ".lora_B.weight"
_PLAIN = re.compile(r"\^?[A-Za-z0-9_.]+")

_HARMLESS = frozenset(
    [
        *("alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "eva_config"),
        *("exclude_modules", "fan_in_fan_out", "inference_mode", "layers_pattern", "layers_to_transform"),
        *("loftq_config", "lora_alpha", "lora_dropout", "lora_ga_config", "megatron_config", "megatron_core"),
        *("modules_to_save", "peft_type", "peft_version", "qalora_group_size", "r", "rank_pattern", "revision"),
        *("target_modules", "task_type", "use_rslora"),
    ]
)
"""Settings that say how an adapter was trained, or that its tensors say again, or that are read here."""
_SAME_BASE = (True, False, None, "gaussian", "eva", "orthogonal")
"""Values of init_lora_weights that leave the base's own weights as they are."""


@dataclass(frozen=True, slots=True)
class LowRank:
    """The tensors ``a`` [rank, in] and ``b`` [out, rank] of the file: scale * b @ a is added to a module's weight."""

    module: str
    a: str
    b: str
    scale: float


@dataclass(frozen=True, slots=True)
class Adapter:
    """Module and tensor names without peft's prefix. ``whole``: tensor of the model -> tensor of the file."""

    low_rank: tuple[LowRank, ...]
    whole: Mapping[str, str]


def read(config: bytes, file: TensorFile) -> Adapter:
    """Raises ModelFormatError (file and field), UnsupportedModel for what isn't plain LoRA."""
    settings = _Settings(read_json(CONFIG, config))
    low_rank, whole = [], {}
    for stored, info in file.tensors.items():
        if info.dtype not in FLOATS:
            raise file.wrong(stored, f"is {info.dtype}; adapters are {', '.join(FLOATS)}")
        name = stored.removeprefix(_PREFIX)
        if name == stored:
            raise file.wrong(stored, f"doesn't begin with {_PREFIX}, as peft writes it")
        if name.endswith(_A):
            low_rank.append(_low_rank(settings, file, stored))
        elif name.endswith(_B):
            if stored.removesuffix(_B) + _A not in file.tensors:
                raise file.wrong(stored, f"comes without its {_A[1:]}")
        elif "lora_" in name:
            raise UnsupportedModel(f"{WEIGHTS}: {stored}: only lora_A.weight and lora_B.weight of linears are served")
        else:
            whole[name.replace(".base_layer.", ".").replace(".modules_to_save.", ".")] = stored
    if not low_rank and not whole:
        raise ModelFormatError(f"{WEIGHTS}: holds no tensor")
    return Adapter(tuple(low_rank), whole)


def check(files: Mapping[str, Path], base: BaseTensors) -> None:
    """Check an adapter for ``base`` down to its last value.

    Raises ModelFormatError: malformed, a module that the base lacks, shapes that don't fit, values that are not finite;
    UnsupportedModel for what isn't plain LoRA.
    """
    file = TensorFile(files[WEIGHTS], WEIGHTS)
    adapter = read(_bounded(files[CONFIG]), file)
    for part in adapter.low_rank:
        target = base.counterpart(f"{part.module}.weight")
        if target is None:
            raise file.wrong(part.a, f"{base.name} has no tensor {part.module}.weight")
        shape = base.shape(target)
        made = (file.tensors[part.b].shape[0], file.tensors[part.a].shape[1])
        if shape not in (made, made[::-1]):  # GPT-2 keeps [in, out]
            raise file.wrong(part.a, f"makes a difference of shape {list(made)}, {target} has {list(shape)}")
    for tensor, stored in adapter.whole.items():
        base.check_whole(file, stored, base.counterpart(tensor))
    for stored in file.tensors:
        file.check_finite(stored)


def _low_rank(settings: _Settings, file: TensorFile, a: str) -> LowRank:
    b, module = a.removesuffix(_A) + _B, a.removeprefix(_PREFIX).removesuffix(_A)
    if b not in file.tensors:
        raise file.wrong(a, f"comes without its {_B[1:]}")
    shape_a, shape_b, rank = file.tensors[a].shape, file.tensors[b].shape, settings.rank(module)
    if len(shape_a) != 2 or len(shape_b) != 2 or shape_a[0] != shape_b[1]:
        raise file.wrong(a, f"has the shape {list(shape_a)}, and B {list(shape_b)}: they make no product B A")
    if shape_a[0] != rank:
        raise file.wrong(a, f"has rank {shape_a[0]}, {CONFIG} says {rank}")
    return LowRank(module, a, b, settings.scale(module))


class _Settings:
    """A checked adapter_config.json."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config
        if config.get("peft_type") != "LORA":
            raise UnsupportedModel(f"{CONFIG}: peft_type is {_shown(config.get('peft_type'))}; LORA is served")
        if config.get("init_lora_weights", True) not in _SAME_BASE:
            raise UnsupportedModel(
                f"{CONFIG}: init_lora_weights is {_shown(config['init_lora_weights'])}, which changed the base's own "
                "weights: convert the adapter to plain LoRA (save_pretrained, path_initial_model_for_weight_conversion)"
            )
        for name, value in config.items():
            if value and name not in _HARMLESS and name != "init_lora_weights":
                raise UnsupportedModel(f"{CONFIG}: {name} is {_shown(value)}; plain LoRA and rsLoRA are served")

    def rank(self, module: str) -> int:
        value = self._of("rank_pattern", module, self._config.get("r", 8))
        try:
            limits.LORA_RANK.check(value)
        except InvalidRequest as error:
            raise ModelFormatError(f"{CONFIG}: {error.message}", param="r") from None
        return int(value)

    def scale(self, module: str) -> float:
        alpha = self._of("alpha_pattern", module, self._config.get("lora_alpha", 8))
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 <= alpha <= 1e6:
            raise ModelFormatError(f"{CONFIG}: lora_alpha must be a number from 0 to 1e6, got {_shown(alpha)}")
        rank = self.rank(module)
        return float(alpha / math.sqrt(rank)) if self._config.get("use_rslora") else float(alpha / rank)

    def _of(self, pattern: str, module: str, default: Any) -> Any:
        """peft takes the first key that matches the end of the module's name as a regular expression. Here a key is a
        name, or the whole name behind a ^: a stranger's regular expression may take for ever."""
        table = self._config.get(pattern) or {}
        if not isinstance(table, dict):
            raise ModelFormatError(f"{CONFIG}: {pattern} must be an object, got {_shown(table)}", param=pattern)
        for key, value in table.items():
            if not _PLAIN.fullmatch(key):
                raise UnsupportedModel(f"{CONFIG}: {pattern}: {_shown(key)} is a pattern; write out the modules' names")
            if module == key.removeprefix("^") or (key[0] != "^" and module.endswith("." + key)):
                return value
        return default


def _bounded(path: Path) -> bytes:
    with path.open("rb") as stream:
        raw = stream.read(int(limits.CONFIG_BYTES.most) + 1)
    if len(raw) > limits.CONFIG_BYTES.most:
        raise ModelFormatError(f"{CONFIG}: is longer than {limits.CONFIG_BYTES.most} bytes", param=CONFIG)
    return raw


def _shown(value: object) -> str:
    return limits.shown(value)
