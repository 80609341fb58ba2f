"""Streams from two replicas of a model; the node under one of them is killed, and no stream notices.

    kelm cluster serve nano --replicas 2 &
    pip install openai httpx2
    python examples/replicas.py [MODEL]

A conversation goes where its beginning was last computed (consistent hashing); `x-kelm-replica` says where.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import httpx2
import openai

URL = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8420/v1").removesuffix("/v1")
STREAMS = 6
MORE = {"ignore_eos": True}


def replicas() -> dict[str, Any]:
    rows = httpx2.get(f"{URL}/admin/replicas").raise_for_status().json()["replicas"]
    return {row["name"]: row for row in rows}


async def read_all(model: str, disturb: Callable[[list[str]], None] | None = None) -> list[str]:
    """What each stream said. ``disturb`` is called once all have begun, with the replica of each."""
    client = openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key="any", max_retries=0)
    begun: dict[int, str] = {}

    async def read(number: int) -> str:
        answer = await client.completions.with_raw_response.create(
            model=model, prompt=f"{number} is a number", max_tokens=150, seed=number, stream=True, extra_body=MORE
        )
        text = ""
        async for chunk in answer.parse():
            text += "".join(choice.text for choice in chunk.choices)
            begun[number] = answer.headers["x-kelm-replica"]
            if len(begun) == STREAMS and not told.is_set():
                told.set()
                if disturb is not None:
                    disturb(list(begun.values()))
        return text

    told = asyncio.Event()
    return await asyncio.gather(*[read(number) for number in range(STREAMS)])


def kill_a_node(places: list[str]) -> None:
    victim = max(set(places), key=places.count)
    print(f"{places.count(victim)} of {STREAMS} streams run on {victim}; its node is killed", flush=True)
    os.kill(replicas()[victim]["pids"]["raylet"], signal.SIGKILL)


async def main(model: str = "nano") -> None:
    while any(row["state"] != "up" for row in replicas().values()):
        await asyncio.sleep(0.2)
    undisturbed = await read_all(model)
    disturbed = await read_all(model, kill_a_node)
    same = sum(a == b for a, b in zip(undisturbed, disturbed, strict=True))
    print(f"{same} of {STREAMS} streams say what they said before, to the letter")
    for name, row in replicas().items():
        print(f"{name}: {row['state']}, took over {row['taken_over']} streams")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
