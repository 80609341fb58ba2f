"""GET /v1/models and /v1/models/{id}: what the store has, in OpenAI's shape."""

from __future__ import annotations

import asyncio

from starlette.responses import Response

from kelm.serve import replies
from kelm.serve.ports import Call, Json
from kelm.store.manifest import Manifest


async def answer_list(call: Call) -> Response:
    manifests = await asyncio.to_thread(call.store.list)
    return replies.reply({"object": "list", "data": [_card(each, each.asked_as) for each in manifests]})


async def answer_one(call: Call, name: str) -> Response:
    """``name`` may have slashes, and any spelling that the store resolves. Raises ModelNotFound with near matches."""
    return replies.reply(_card(await asyncio.to_thread(call.store.resolve, name), name))


def _card(manifest: Manifest, name: str) -> Json:
    return {"id": name, "object": "model", "created": int(manifest.created), "owned_by": "kelm"}
