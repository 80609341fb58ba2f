"""Tiny random models behind a real daemon, with the templates of the families that call tools."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from daemon_kit import Daemon, daemon
from kelm.store import Store
from kelm.testing.checkpoints import Shape, write_llama

SHAPE = Shape(max_position_embeddings=2048)
HERMES = (
    "{% if tools %}<|im_start|>system\n<tools>{{ tools | tojson }}</tools> answer inside <tool_call></tool_call>"
    "<|im_end|>\n{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for call in m.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }} Respond in the format "
    '{"name": function name, "parameters": dictionary of argument name and its value}.<|im_end|>\n{% endif %}'
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write(folder: Path, template: str | None = None) -> Path:
    """A random Llama; ``template`` instead of plain ChatML."""
    write_llama(folder, seed=3, shape=SHAPE)
    if template is not None:
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template}))
    return folder


def _mark_special(folder: Path) -> Path:
    """The same, with the marks around calls as special tokens, which decoding leaves out."""
    path = folder / "tokenizer.json"
    file = json.loads(path.read_text())
    for token in file["added_tokens"]:
        token["special"] |= "tool_call" in token["content"]
    path.write_text(json.dumps(file))
    return folder


@contextmanager
def serving(folder: Path) -> Iterator[Daemon]:
    """plain, hermes and llama: the same weights, three templates; marked: hermes with special tokens."""
    store = Store(folder / "home")
    for name, template in (("plain", None), ("hermes", HERMES), ("llama", LLAMA)):
        store.import_folder(write(folder / name, template), name)
    store.import_folder(_mark_special(write(folder / "marked", HERMES)), "marked")
    with daemon(folder / "home") as running:
        yield running
