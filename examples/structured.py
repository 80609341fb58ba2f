"""Answers that a program can use: objects by schema, and calls of tools, from any model that `kelm serve` has.

    kelm serve &
    pip install openai
    python examples/structured.py MODEL

The form is held by a mask over the model's tokens, so even a model with random weights gives objects that parse;
what is in them is as good as the model.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, Literal

import openai
from pydantic import BaseModel, Field


class Ticket(BaseModel):
    """What a message of a customer is about."""

    subject: str = Field(max_length=40)
    urgent: bool
    stars: int = Field(ge=1, le=5)
    labels: list[Literal["delivery", "payment", "other"]] = Field(max_length=2)


def weather(city: str, unit: str = "celsius") -> dict[str, Any]:
    """Stands for a call of yours."""
    return {"city": city, "temperature": 3, "unit": unit}


PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"enum": ["celsius", "fahrenheit"]}},
    "required": ["city"],
}
TOOL: Any = {"type": "function", "function": {"name": "weather", "description": "Now", "parameters": PARAMETERS}}


def main(model: str) -> None:
    client = openai.OpenAI(base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8420/v1"), api_key="any")

    asked: Any = [{"role": "user", "content": "My parcel is late, please help!"}]
    ticket = client.chat.completions.parse(model=model, messages=asked, response_format=Ticket, max_tokens=400)
    print("ticket", repr(ticket.choices[0].message.parsed))

    talk: Any = [{"role": "user", "content": "What is the weather in Oslo?"}]
    answer = client.chat.completions.create(
        model=model, messages=talk, tools=[TOOL], tool_choice="required", parallel_tool_calls=False, max_tokens=200
    ).choices[0]
    print("finish", answer.finish_reason)
    talk.append(answer.message)
    for call in answer.message.tool_calls or []:
        result = weather(**json.loads(call.function.arguments))
        print("call", call.function.name, call.function.arguments)
        talk.append({"role": "tool", "tool_call_id": call.id, "content": json.dumps(result)})

    final = client.chat.completions.create(model=model, messages=talk, tools=[TOOL], tool_choice="none", max_tokens=30)
    print("answer", repr(final.choices[0].message.content))


if __name__ == "__main__":
    main(sys.argv[1])
