"""lm-eval's ``local-completions`` with a task file of our own, offline; its loglikelihoods against transformers'."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from daemon_kit import Daemon

DOCS = [
    {"context": "The quick brown fox", "choices": [" jumps over", " sleeps"], "gold": 0},
    {"context": "def main(argument: int)", "choices": [" -> None:", " is lazy", " 世界"], "gold": 0},
    {"context": "It's 12:34,", "choices": [" isn't it?", " dog"], "gold": 0},
]
TASK = """
task: kelm_choices
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{context}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: gold
target_delimiter: ""
metric_list:
  - metric: acc
"""


@pytest.mark.filterwarnings("default")  # what other people's packages warn about
def test_loglikelihoods(served: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    import lm_eval
    from lm_eval.tasks import TaskManager

    data = tmp_path / "docs.jsonl"
    data.write_text("\n".join(json.dumps(doc) for doc in DOCS))
    (tmp_path / "task.yaml").write_text(TASK.format(data=data))
    served.post("/admin/models/load", {"model": "toy"})
    result = lm_eval.simple_evaluate(
        model="local-completions",
        model_args={
            "model": "toy",
            "base_url": served.url + "/v1/completions",
            "tokenizer_backend": "remote",
            "num_concurrent": 2,
            "max_length": 512,
        },
        tasks=["kelm_choices"],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        log_samples=True,
        bootstrap_iters=0,
        confirm_run_unsafe_code=False,
    )
    assert result is not None
    samples: list[Any] = sorted(result["samples"]["kelm_choices"], key=lambda sample: sample["doc_id"])
    found = [float(pair[0]) for sample in samples for pair in sample["filtered_resps"]]
    greedy = [pair[1] for sample in samples for pair in sample["filtered_resps"]]
    expected = reference(served.log.parent / "toy")
    assert found == pytest.approx([value for value, _ in expected], abs=1e-3)
    assert greedy == [is_greedy for _, is_greedy in expected]


def reference(folder: Path) -> list[tuple[float, bool]]:
    """Sum of the continuation's log-probabilities after its context, and whether it is what greedy would say."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    found = []
    for doc in DOCS:
        for choice in doc["choices"]:
            context = tokenizer.encode(doc["context"], add_special_tokens=False)
            whole = tokenizer.encode(doc["context"] + choice, add_special_tokens=False)
            with torch.inference_mode():
                logprobs = model(torch.tensor([whole])).logits[0].log_softmax(-1)
            places = range(len(context), len(whole))
            total = sum(float(logprobs[place - 1, whole[place]]) for place in places)
            found.append((total, all(int(logprobs[place - 1].argmax()) == whole[place] for place in places)))
    return found
