"""Smaller models of one that a daemon has: 8 bits, 4 bits, fewer layers. What does each cost?

    kelm serve &
    python examples/compress.py [MODEL]

MODEL is a decoder (default: the one that comes with Kelm). Without ``data`` and ``file``, perplexity is measured on
what MODEL writes itself. On the command line the same is `kelm compress MODEL --bits 4 --text FILE --wait`.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from typing import Any

from kelm.clock import SYSTEM

URL = os.environ.get("KELM_URL", "http://127.0.0.1:8420")
WAYS: dict[str, dict[str, Any]] = {
    "int8": {"bits": 8},
    "int4": {"bits": 4, "group": 32},
    "drop1": {"drop_layers": 1},
}
TEXT = "Use `kelm ps` to see the requests that are running.\n用 `kelm list` 列出本机硬盘上的模型。\n"


def ask(path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(URL + path, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request) as response:
        answer: dict[str, Any] = json.load(response)
        return answer


def compress(model: str, tag: str) -> dict[str, Any]:
    """Before and after, once the result is in the daemon's memory."""
    spec = {"kind": "compress", "model": model, "name": f"{model}:{tag}", "file": "text.txt", **WAYS[tag]}
    pid = ask("/admin/jobs", {"spec": spec, "data": TEXT})["pid"]
    while (job := ask(f"/admin/jobs/{pid}"))["state"] in ("queued", "running"):
        SYSTEM.sleep_s(0.5)
    if job["state"] != "done":
        sys.exit(f"{tag}: {job['state']}, {job['error']}")
    ask("/admin/models/load", {"model": spec["name"]})
    record: dict[str, Any] = job["result"]["compression"]
    return record


def line(name: str, side: dict[str, Any]) -> str:
    disk, memory = (side[key] / 2**20 for key in ("size_bytes", "weight_bytes"))
    return f"{name:14}{side['precision']:16}{side['layers']:6}{disk:10.2f}{memory:10.2f}{side['perplexity']:12.2f}"


def main(model: str = "nano") -> None:
    print(f"{'MODEL':14}{'PRECISION':16}{'LAYERS':>6}{'DISK MiB':>10}{'RAM MiB':>10}{'PERPLEXITY':>12}")
    for number, tag in enumerate(WAYS):
        record = compress(model, tag)
        if not number:
            print(line(model, record["before"]))
        print(line(f"{model}:{tag}", record["after"]))
    answer = ask("/v1/completions", {"model": f"{model}:int4", "prompt": "How", "max_tokens": 8})
    print("int4 goes on from 'How':", repr(answer["choices"][0]["text"]))


if __name__ == "__main__":
    main(*sys.argv[1:])
