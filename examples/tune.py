"""A model learns from conversations, as a job of the daemon, and is asked what it has learned.

    kelm serve -d
    pip install openai
    python examples/tune.py [MODEL] [FILE.jsonl]

On the command line the same is `kelm tune MODEL FILE --name example --wait`. Without FILE it learns the four answers
below; a `text,label` CSV would make a classifier of an encoder.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from pathlib import Path
from typing import Any

import openai

from kelm.clock import SYSTEM

URL = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8420/v1").removesuffix("/v1")
ANSWERS = {
    "Do you ship to Norway?": "Yes, it takes five days.",
    "When are you open?": "From 9 to 18 on weekdays.",
    "Who repairs lamps?": "Anna does, on Tuesdays.",
    "Where do I find my invoice?": "It is in your account, under Orders.",
}


def conversation(question: str, answer: str) -> str:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": turns})


def ask(path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(URL + path, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request) as response:
        answer: dict[str, Any] = json.load(response)
        return answer


def main(model: str = "nano", file: str = "") -> None:
    data = Path(file).read_text(encoding="utf-8") if file else "\n".join(conversation(*qa) for qa in ANSWERS.items())
    spec = {"kind": "tune", "base": model, "variant": "example", "file": "data.jsonl"}
    pid = ask("/admin/jobs", {"spec": spec, "data": data})["pid"]
    said = ""
    while (job := ask(f"/admin/jobs/{pid}"))["state"] in ("queued", "running"):
        progress = job["progress"]
        if progress and progress["note"] != said:
            said = progress["note"]
            print(f"{progress['done']}/{progress['total']} {said}", flush=True)
        SYSTEM.sleep_s(0.2)
    if job["state"] != "done":
        sys.exit(f"{job['state']}: {job['error']}")
    print(f"{model}@example, version {job['result']['version']}")
    client = openai.OpenAI(base_url=f"{URL}/v1", api_key="any")
    for question in ANSWERS:
        made = client.chat.completions.create(
            model=f"{model}@example", messages=[{"role": "user", "content": question}], temperature=0
        )
        print(f"{question}  {made.choices[0].message.content}")


if __name__ == "__main__":
    main(*sys.argv[1:])
