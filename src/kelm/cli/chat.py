"""`kelm run`: a conversation through the daemon's HTTP door, or one answer."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from typing import Any

from kelm.cli import daemon, loading, shelf
from kelm.cli.client import Client, Json, running
from kelm.config import load_settings
from kelm.errors import ContextTooLong, InvalidRequest, KelmError
from kelm.store import Name
from kelm.suggest import did_you_mean

HELP = """\
/clear   forget the conversation so far
/help    this list
/bye     end (Ctrl-D does too)
Ctrl-C   stop the answer"""
_COMMANDS = ("/clear", "/help", "/bye")
_UNPRINTABLE = {code: None for code in (*range(32), 127, *range(128, 160)) if chr(code) not in "\n\t"}
"""Control characters: what a model writes must not steer somebody's terminal."""


def run(model: str, prompt: str | None) -> None:
    """Answer ``prompt``, or the text on standard input when it is not a terminal, or chat."""
    Name.parse(model)
    if prompt is None and not sys.stdin.isatty():
        prompt = sys.stdin.read().strip()
        if not prompt:
            raise InvalidRequest("standard input is empty: there is nothing to answer")
    conversation = Conversation(daemon_with(model), model)
    if prompt is None:
        _talk(conversation)
    else:
        _show(conversation.answer(prompt))


def daemon_with(model: str) -> Client:
    """The daemon, started if none runs, with the model in its memory, pulled if it is not here."""
    shelf.ensure(model)
    client = running(load_settings()) or daemon.start({})
    loading.bring_up(client, model)
    return client


class Conversation:
    """The messages so far. A model without a chat template has none: each text is completed by itself."""

    def __init__(self, client: Client, model: str) -> None:
        self._client = client
        self._model = model
        self._messages: list[Json] = []
        self.chats = bool(client.call("GET", f"/tokenizer_info?model={model}").get("chat_template"))

    def answer(self, text: str) -> Generator[str]:
        """Pieces of the answer as they come; closing the iterator cancels the rest, and keeps what has come."""
        if not self.chats:
            yield from self._completion(text)
            return
        self._messages.append({"role": "user", "content": text})
        pieces: list[str] = []
        try:
            for piece in self._reply():
                pieces.append(piece)
                yield piece
        finally:
            if pieces:
                self._messages.append({"role": "assistant", "content": "".join(pieces)})
            else:
                self._messages.pop()

    def clear(self) -> None:
        self._messages.clear()

    def _reply(self) -> Iterator[str]:
        body = {"model": self._model, "messages": self._messages, "stream": True}
        with closing(self._client.events("/v1/chat/completions", body)) as events:
            for event in events:
                yield from _texts(choice.get("delta", {}).get("content") for choice in event["choices"])

    def _completion(self, text: str) -> Iterator[str]:
        body = {"model": self._model, "prompt": text, "stream": True, "max_tokens": 256}
        with closing(self._client.events("/v1/completions", body)) as events:
            for event in events:
                yield from _texts(choice.get("text") for choice in event["choices"])


def _texts(values: Iterable[Any]) -> Iterator[str]:
    return (value for value in values if value)


def _talk(conversation: Conversation) -> None:
    import readline  # noqa: F401  (input() edits lines and remembers them)

    what = "Ask something" if conversation.chats else "No chat template: texts are completed, not answered"
    print(f"{what}; /help lists the commands.")
    while True:
        try:
            line = input(">>> ").strip()
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print("\n(/bye or Ctrl-D ends)")
            continue
        if line == "/bye":
            return
        if line.startswith("/"):
            _command(line, conversation)
        elif line:
            _exchange(conversation, line)


def _command(line: str, conversation: Conversation) -> None:
    if line == "/clear":
        conversation.clear()
        print("(forgotten)")
    elif line == "/help":
        print(HELP)
    else:
        print(f"(unknown command{did_you_mean(line, _COMMANDS) or '; /help lists them'})")


def _exchange(conversation: Conversation, line: str) -> None:
    """One question and its answer; Ctrl-C stops the answer, and an error ends nothing but it."""
    pieces = conversation.answer(line)
    try:
        with closing(pieces):
            _show(pieces)
    except KeyboardInterrupt:
        print("\n(stopped)")
    except ContextTooLong as error:
        print(f"kelm: {error.message}; /clear begins anew", file=sys.stderr)
    except KelmError as error:
        print(f"kelm: {error.message}", file=sys.stderr)


def _show(pieces: Iterator[str]) -> None:
    last = ""
    for piece in pieces:
        last = piece.translate(_UNPRINTABLE) if sys.stdout.isatty() else piece
        sys.stdout.write(last)
        sys.stdout.flush()
    if not last.endswith("\n"):
        sys.stdout.write("\n")
