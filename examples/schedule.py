"""Two tenants share a model as their weights are, and one request goes before them all.

    kelm serve -d --max-num-seqs 4
    export ALICE=$(kelm key create alice --weight 2) BOB=$(kelm key create bob)
    pip install openai
    python examples/schedule.py MODEL

Each tenant always wants more than there are rows. Alice's weight is twice Bob's, so she is served two tokens for each
of his, whoever asks more often or for longer answers.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys

import openai

AT_ONCE = 12
"""Requests that each tenant has open."""
SECONDS = 3.0


def kelm(*words: str) -> str:
    """The command, shown as on a terminal."""
    done = subprocess.run([sys.executable, "-m", "kelm.cli", *words], capture_output=True, text=True, check=True)
    print(f"$ kelm {' '.join(words)}\n{done.stdout}")
    return done.stdout


def client(key: str) -> openai.AsyncOpenAI:
    url = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8420/v1")
    return openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0)


async def keep_asking(tenant: openai.AsyncOpenAI, model: str, took: list[float]) -> None:
    while True:
        begun = asyncio.get_running_loop().time()
        await tenant.completions.create(model=model, prompt="Once", max_tokens=80, extra_body={"ignore_eos": True})
        took.append(asyncio.get_running_loop().time() - begun)


async def urgent(tenant: openai.AsyncOpenAI, model: str) -> float:
    """A request that the operator lets pass; the seconds it took from then on."""
    answer = await tenant.completions.with_raw_response.create(
        model=model, prompt="Help!", max_tokens=80, stream=True, extra_body={"ignore_eos": True}
    )
    pid = answer.headers["x-kelm-pid"]
    await asyncio.to_thread(kelm, "why", pid)
    await asyncio.to_thread(kelm, "nice", pid, "-10")
    begun = asyncio.get_running_loop().time()
    async for _ in answer.parse():
        pass
    return asyncio.get_running_loop().time() - begun


async def main(model: str) -> None:
    alice, bob = client(os.environ["ALICE"]), client(os.environ["BOB"])
    took: list[float] = []
    asking = [asyncio.create_task(keep_asking(each, model, took)) for each in (alice, bob) for _ in range(AT_ONCE)]
    await asyncio.sleep(SECONDS)
    await asyncio.to_thread(kelm, "ps")
    seconds = await urgent(bob, model)
    rows = json.loads(await asyncio.to_thread(kelm, "ps", "--tenants", "--json"))
    served = {row["tenant"]: row["served_tokens"] for row in rows}
    print(f"alice was served {served['alice'] / served['bob']:.2f} tokens for each of bob's")
    print(f"the urgent request took {seconds:.2f} s, the others {sum(took) / len(took):.2f} s")
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
