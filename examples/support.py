"""Ask a support desk a few questions, and see how each was answered.

    kelm support examples/support --tune &     once; later without --tune
    python examples/support.py [http://127.0.0.1:8440]

The desk is HTTP and JSON, so a shop's own page or app can talk to it as its page does: a cookie is the conversation.
"""

from __future__ import annotations

import sys
from typing import Any

import httpx2

QUESTIONS = [
    "Where is my order JL-204118?",
    "I want to send something back.",
    "JL-300417",
    "Which plants are dangerous for my cat?",
    "特快配送多少钱？",
    "Could you write my school essay?",
]


def main(url: str = "http://127.0.0.1:8440") -> None:
    with httpx2.Client(base_url=url, timeout=120) as http:
        http.get("/").raise_for_status()  # gives the cookie
        for question in QUESTIONS:
            state = http.post("/api/messages", json={"text": question}).raise_for_status().json()
            reply = state["messages"][-1]
            print(f"customer: {question}\ndesk: {reply['text']}")
            print(f"    {how(reply['made'], url)}\n")


def how(made: dict[str, Any], url: str) -> str:
    """One line: the way, and what spoke for it."""
    match made["route"]:
        case "template" | "ask" if "intent_confidence" in made:
            return f"{made['route']}: {made['intent']}, confidence {made['intent_confidence']:.2f}"
        case "template" | "ask":
            return f"{made['route']}: {made['intent']}, with {made['slots']}"
        case "passages":
            best = made["sources"][0]
            scores = f"words {best['coverage']:.2f}" + (f", meaning {best['cosine']:.2f}" if best["cosine"] else "")
            return f"passages: {best['title']} ({scores}), {url}{best['url']}"
        case _:
            return f"handover: {made.get('why')}"


if __name__ == "__main__":
    main(*sys.argv[1:])
