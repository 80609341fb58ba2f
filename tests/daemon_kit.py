"""A real daemon on a home of tiny random models, for tests that come in through the sockets like any client."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
)

import kelm
from kelm.store import Store
from kelm.testing import tokenizers

SRC = Path(kelm.__file__).parents[1]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTEXT = 512


def write_llama(folder: Path, *, layers: int = 2, hidden: int = 32) -> Path:
    """A random decoder with a chat template, whose logits are far enough apart that greedy is greedy."""
    files = tokenizers.write(folder, config={"chat_template": CHATML, "tokenizer_class": "PreTrainedTokenizerFast"})
    tokenizer = Tokenizer.from_file(files["tokenizer.json"])
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        bos_token_id=tokenizer.token_to_id("<s>"),
        eos_token_id=tokenizer.token_to_id("<|im_end|>"),
        initializer_range=0.3,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def write_bert(folder: Path, kind: type[Any], labels: list[str]) -> Path:
    """A random encoder with [CLS] and [SEP] as BERT has them."""
    tokenizer = tokenizers.make("word_piece")
    tokenizer.add_special_tokens(["[CLS]", "[SEP]", "[PAD]"])
    cls, sep = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", cls), ("[SEP]", sep)],
    )
    torch.manual_seed(11)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
        pad_token_id=tokenizer.token_to_id("[PAD]"),
        initializer_range=0.3,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )
    kind(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **special}))
    return folder


def make_home(folder: Path) -> Path:
    """toy (decoder), emb, cls, cross, ner (encoders). The folders stay beside the home for transformers to read."""
    home = folder / "home"
    store = Store(home)
    store.import_folder(write_llama(folder / "toy"), "toy")
    store.import_folder(write_bert(folder / "emb", BertModel, ["LABEL_0", "LABEL_1"]), "emb")
    store.import_folder(write_bert(folder / "cls", BertForSequenceClassification, ["bad", "fair", "good"]), "cls")
    store.import_folder(write_bert(folder / "cross", BertForSequenceClassification, ["LABEL_0"]), "cross")
    store.import_folder(write_bert(folder / "ner", BertForTokenClassification, ["O", "B-PER", "I-PER"]), "ner")
    return home


@dataclass
class Daemon:
    process: subprocess.Popen[bytes]
    url: str
    log: Path

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=30) as response:
            body = response.read()
        return json.loads(body) if body[:1] in b"{[" else body.decode()

    def post(self, path: str, body: Any) -> Any:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.loads(response.read())

    def metric(self, name: str) -> float:
        lines = self.get("/metrics").splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((name + " ", name + "{")))

    def until(self, condition: Any, seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"not in time; the log ends with\n{self.tail()}"
            time.sleep(0.02)

    def idle(self) -> None:
        """Until no process is left and every block is free."""
        self.until(lambda: not self.get("/admin/processes")["processes"])
        self.until(lambda: self.metric("kelm_kv_blocks_free") == self.metric("kelm_kv_blocks_total"))

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-30:])

    def stop(self, seconds: float = 15) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


def environment(home: Path, **settings: Any) -> dict[str, str]:
    """What a daemon of ``home`` is started with."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("KELM_", "OPENAI_"))}
    given = {"home": home, "port": 0, "memory": "384MiB", "threads": 1, "dtype": "float32", **settings}
    path = os.pathsep.join(filter(None, [str(SRC), env.get("PYTHONPATH")]))
    return {**env, "PYTHONPATH": path, **{f"KELM_{name.upper()}": str(value) for name, value in given.items()}}


@contextmanager
def daemon(home: Path, **settings: Any) -> Iterator[Daemon]:
    """Running and ready; ended by SIGTERM, and by force if that fails."""
    log = home.parent / f"daemon-{time.monotonic_ns()}.log"
    with log.open("wb") as stream:
        command = [sys.executable, "-m", "kelm.cli", "serve"]
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment(home, **settings))
    try:
        yield _ready(process, home, log)
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _ready(process: subprocess.Popen[bytes], home: Path, log: Path) -> Daemon:
    found = Daemon(process, "", log)

    def up() -> bool:
        assert process.poll() is None, found.tail()
        try:
            owner = json.loads((home / "run" / "daemon.json").read_text())
            found.url = owner["address"]
            return owner["pid"] == process.pid and found.get("/ready") is not None
        except (OSError, ValueError, urllib.error.URLError):
            return False

    found.until(up, 60)
    return found
