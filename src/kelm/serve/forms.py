"""The form that a chat's answer must have, from the checked fields: its grammar, and how its text is read.

tool_choice     grammar                            read for calls
no tools, none  response_format's, or none         no
auto            response_format's or calls, or none  yes
required        calls (of one tool if it is named) yes
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from kelm import limits
from kelm.errors import InvalidRequest, UnsupportedModel
from kelm.serve import grammars
from kelm.serve.ports import Call, Model
from kelm.serve.requests import ChatRequest
from kelm.serve.structure import ToolChoice
from kelm.text import call_format
from kelm.text.call_format import CallFormat, Offer
from kelm.text.call_reader import CallReader
from kelm.text.chat import Chat


@dataclass(frozen=True, slots=True)
class Form:
    grammar: str | None = None
    reader: Callable[[], CallReader] | None = None
    """Makes one for each choice; None: the answer is text."""
    only_calls: bool = False
    """What was cut off before it became a call is no text either."""
    shows_special: bool = False
    """The marks around calls are special tokens, and must be seen to be read."""


def check(body: ChatRequest) -> None:
    """Raise InvalidRequest for fields that contradict each other."""
    choice = _choice(body)
    if not body.tools:
        if choice.mode == "required":
            raise InvalidRequest("tool_choice needs tools", param="tool_choice")
        if body.parallel_tool_calls is not None:
            raise InvalidRequest("parallel_tool_calls needs tools", param="parallel_tool_calls")
    if choice.name is not None and all(tool["function"]["name"] != choice.name for tool in body.tools):
        raise InvalidRequest(
            f"tool_choice names the tool {choice.name!r}, which is not among tools", param="tool_choice"
        )
    if body.response_format is None and choice.mode != "required":
        return
    what = "tool_choice" if choice.mode == "required" else "response_format"
    for name, given in (("grammar", body.grammar), ("ignore_eos", body.ignore_eos), ("min_tokens", body.min_tokens)):
        if given:
            raise InvalidRequest(f"{name} does not go with {what}, which says what the answer is", param=name)


async def of(call: Call, model: Model, body: ChatRequest) -> Form:
    """The form of ``body``'s answer, its grammar compiled once in the helper.

    Raises InvalidRequest naming response_format or tools when no text can meet a schema or it is over the bounds.
    """
    choice = _choice(body)
    reads = bool(body.tools) and choice.mode != "none"
    form = call_format.of_templates(model.tokenizer.chat_templates)
    grammar = await _grammar(call, model, body, form)
    if not reads:
        return Form(grammar)
    names = frozenset(call_format.names(body.tools)) if choice.name is None else frozenset([choice.name])
    most = 1 if body.parallel_tool_calls is False else int(limits.TOOL_CALLS.most)
    return Form(
        grammar,
        lambda: CallReader(form, names, most),
        only_calls=choice.mode == "required",
        shows_special=call_format.hides_markers(form, model.tokenizer),
    )


async def _grammar(call: Call, model: Model, body: ChatRequest, form: CallFormat) -> str | None:
    choice = _choice(body)
    answer = None if choice.mode == "required" else body.response_format
    if answer is None and choice.mode != "required":
        return await grammars.of_chat(call, model, body.grammar)
    field = "tools" if answer is None else "response_format"

    def write() -> str:
        if answer is not None and (choice.mode == "none" or not body.tools):
            return call_format.answer_grammar(answer)
        tools = call_format.names(body.tools)
        offered = tools if choice.name is None else {choice.name: tools[choice.name]}
        many = choice.name is None and body.parallel_tool_calls is not False
        return call_format.call_grammar(form, Offer(offered, many, answer), model.tokenizer)

    try:
        grammar = await asyncio.to_thread(write)  # a schema may be long
        await call.kernel.helper.compile_grammar(model.files, grammar)
    except UnsupportedModel:
        raise
    except InvalidRequest as error:
        raise InvalidRequest(f"{field} can't be kept: {error.message}", param=field) from None
    return grammar


def chat(body: ChatRequest) -> Chat:
    """What the template is given; tools only where they may be called."""
    return Chat(body.messages, tools=body.tools if _choice(body).mode != "none" else None)


def _choice(body: ChatRequest) -> ToolChoice:
    return body.tool_choice or ToolChoice("auto" if body.tools else "none")
