"""A checkpoint's blobs as the folder that `transformers` wants, without anything it could execute."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from kelm.errors import ModelFormatError, UnsupportedModel

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_WANTED = (".safetensors", ".safetensors.index.json", "config.json")


def build_model(files: Mapping[str, str], dtype: str) -> Any:
    """A `transformers` causal or sequence-to-sequence language model with the weights in it.

    ``files``: name in the checkpoint -> path; ``dtype``: auto, float32, bfloat16 or float16, where auto is the
    checkpoint's own (float16 as bfloat16). Raises UnsupportedModel, ModelFormatError.
    """
    with tempfile.TemporaryDirectory(prefix="kelm-") as folder:
        config = _lay_out(files, Path(folder))
        return _load(folder, config, dtype)


def build_classifier(files: Mapping[str, str], config: Mapping[str, Any]) -> Any:
    """A `transformers` sequence classifier in float32: ``config`` (config.json as it is to be, with architectures and
    id2label) over the weights of an encoder. What of its head they lack is drawn from torch's generator.

    Raises UnsupportedModel, ModelFormatError.
    """
    from transformers import AutoModelForSequenceClassification

    with tempfile.TemporaryDirectory(prefix="kelm-") as folder:
        _lay_out(files, Path(folder))
        kept = {name: value for name, value in config.items() if name != "auto_map"}
        (Path(folder) / "config.json").write_text(json.dumps(kept))
        parsed = _parse_config(folder, config.get("model_type"))
        model, _ = _from_pretrained(AutoModelForSequenceClassification, folder, parsed, "float32", attention=None)
        return model


def _lay_out(files: Mapping[str, str], folder: Path) -> dict[str, Any]:
    """Links the weights, writes config.json without its hooks for remote code; returns the config."""
    for name, path in files.items():
        if name.endswith(_WANTED) and "/" not in name and name != "config.json":
            (folder / name).symlink_to(path)
    try:
        config = json.loads(Path(files["config.json"]).read_bytes())
    except (KeyError, ValueError) as error:
        raise ModelFormatError(f"config.json: missing or not JSON ({type(error).__name__})") from None
    if not isinstance(config, dict):
        raise ModelFormatError("config.json: must hold a JSON object")
    config.pop("auto_map", None)
    (folder / "config.json").write_text(json.dumps(config))
    return config


def _load(folder: str, config: dict[str, Any], dtype: str) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    name = config.get("model_type")
    parsed = _parse_config(folder, name)
    auto = AutoModelForSeq2SeqLM if parsed.is_encoder_decoder else AutoModelForCausalLM
    mapping: Any = auto._model_mapping
    made = mapping[type(parsed)].__name__ if type(parsed) in mapping else None
    if made is not None and made in (config.get("architectures") or [made]):
        model, missing = _from_pretrained(auto, folder, parsed, dtype, attention="eager")
        if missing:
            raise ModelFormatError(f"the weights lack {len(missing)} tensors, the first is {missing[0]!r}")
        return model
    raise UnsupportedModel(f"config.json: model_type {name!r} is not a language model that can generate text")


def _parse_config(folder: str, name: object) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (ValueError, KeyError, TypeError, OSError):
        raise UnsupportedModel(
            f"config.json: model_type {name!r} is neither a native family nor known to the installed transformers"
        ) from None


def _from_pretrained(
    auto: Any, folder: str, config: Any, dtype: str, attention: str | None
) -> tuple[Any, Sequence[str]]:
    """The model, and the tensors that the weights lack."""
    wanted = _DTYPES.get(dtype) or _own_dtype(config)
    try:
        model, report = auto.from_pretrained(
            folder,
            config=config,
            dtype=wanted,
            trust_remote_code=False,
            local_files_only=True,
            use_safetensors=True,
            attn_implementation=attention,
            output_loading_info=True,
        )
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise ModelFormatError(f"the weights do not fit config.json: {str(error).splitlines()[0][:200]}") from None
    return model, sorted(report["missing_keys"])


def _own_dtype(config: Any) -> torch.dtype:
    own = getattr(config, "dtype", None) or torch.float32
    if isinstance(own, str):
        own = _DTYPES.get(own, torch.float32)
    return torch.bfloat16 if own == torch.float16 else own
