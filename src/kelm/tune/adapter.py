"""Low-rank matrices on a model, by peft: put on, written as peft writes them, and rounded as they are served."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from kelm.errors import UnsupportedModel

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def put_on(model: Any, rank: int, dropout: float, whole: Sequence[str] = ()) -> Any:
    """``model`` with LoRA on every linear of its body; ``whole``: ends of modules' names that are trained as they are.

    Draws from torch's generator. Raises UnsupportedModel when the model has no linears that peft's LoRA can lie on.
    """
    from peft import LoraConfig, get_peft_model

    output = model.get_output_embeddings()
    targets = [
        name
        for name, module in model.named_modules()
        if type(module) is nn.Linear and module is not output and not name.endswith(tuple(whole) or ("\0",))
    ]
    if not targets:
        raise UnsupportedModel(f"{type(model).__name__} has no plain linears, and LoRA needs some to lie on")
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=dropout,
        target_modules=targets,
        modules_to_save=list(whole) or None,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about tied embeddings, which are not touched
        return get_peft_model(model, config)


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def write(model: Any, folder: Path) -> Path:
    """adapter_config.json and adapter_model.safetensors, under the names that peft gives them."""
    from peft import get_peft_model_state_dict

    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = get_peft_model_state_dict(model, save_embedding_layers=False)
    save_file(
        {name: value.detach().contiguous().cpu() for name, value in sorted(tensors.items())},
        folder / WEIGHTS,
        metadata={"format": "pt"},
    )
    settings = model.peft_config["default"].to_dict()
    settings |= {"inference_mode": True, "base_model_name_or_path": None}
    plain = {name: sorted(value) if isinstance(value, set) else value for name, value in settings.items()}
    (folder / CONFIG).write_text(json.dumps(plain, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return folder


@torch.no_grad()
def round_as_served(model: Any, dtype: torch.dtype) -> None:
    """Round what is served in ``dtype``: the base's weights and whole tensors; low-rank matrices stay float32."""
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and ".lora_" not in name:
            parameter.copy_(parameter.to(dtype).to(parameter.dtype))
