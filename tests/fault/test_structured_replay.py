"""A worker killed in the middle of an object: the next one goes on inside the grammar, with the same text."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import jsonschema
import openai

from daemon_kit import Daemon
from structured_kit import serving

LETTER = {"enum": ["a", "b", "cc", "ddd"]}
LONG: dict[str, Any] = {"type": "array", "items": LETTER, "minItems": 90, "maxItems": 90}
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"l": LONG}, "required": ["l"]}
TOOL: Any = {"type": "function", "function": {"name": "spell", "parameters": SCHEMA}}
BODY: Any = {
    "model": "hermes", "messages": [{"role": "user", "content": "spell"}], "seed": 5, "n": 2, "max_tokens": 900,
    "stream": True,
}  # fmt: skip


def workers(daemon: Daemon) -> list[int]:
    pid = daemon.process.pid
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [child for child in children if b"kelm.worker" in Path(f"/proc/{child}/cmdline").read_bytes()]


def stream(daemon: Daemon, client: openai.OpenAI, kill_after: int | None, **more: Any) -> tuple[list[str], set[Any]]:
    """Each choice's text (its calls' arguments where it has calls), and how they ended."""
    texts, finished = ["", ""], set()
    for count, chunk in enumerate(client.chat.completions.create(**BODY, **more)):
        if count == kill_after:
            for pid in workers(daemon):
                os.kill(pid, signal.SIGKILL)
        for choice in chunk.choices:
            calls = choice.delta.tool_calls or []
            texts[choice.index] += (choice.delta.content or "") + "".join(call.function.arguments for call in calls)
            finished.add(choice.finish_reason)
    return texts, finished - {None}


def test_a_kill_in_the_middle_changes_nothing(tmp_path: Path) -> None:
    forms: list[tuple[dict[str, Any], str]] = [
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}}, "stop"),
        ({"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False}, "tool_calls"),
    ]
    with serving(tmp_path) as daemon, openai.OpenAI(base_url=daemon.url + "/v1", api_key="any") as client:
        for done, (form, finish) in enumerate(forms, start=1):
            whole, ends = stream(daemon, client, None, **form)
            assert ends == {finish}
            for text in whole:
                jsonschema.validate(json.loads(text), SCHEMA)
            assert stream(daemon, client, 40, **form) == (whole, ends)
            assert daemon.metric("kelm_worker_restarts_total") == done
