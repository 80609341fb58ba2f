"""Every body of every door: field -> type -> bound, on one page.

What OpenAI knows and we don't support yet is in REFUSED with the reason; what OpenAI accepts without an effect on
the answer (user, metadata, ...) is a field that nothing reads. The docstrings of the fields say what is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from kelm import limits
from kelm.errors import InvalidRequest
from kelm.serve.checks import Flag, ListOf, Mapping, Number, Object, OneOf, Only, Text
from kelm.serve.inputs import IDS, TEXT, Documents, Ids, Prompt, Prompts
from kelm.serve.job_spec import SpecField
from kelm.serve.messages import Message, Messages
from kelm.serve.structure import AnswerSchema, ResponseFormat, Tool, ToolChoice, ToolChoices, Tools
from kelm.wire.jobs import Spec

_NAME = Text(limits.STRING_BYTES)


def _token_key(field: str, key: str) -> int:
    if not (key.isascii() and key.isdigit()) or len(key) > len(str(limits.TOKEN_ID.most)):
        raise InvalidRequest(f"{field} must map token ids to biases, got the key {key!r:.80}", param=field)
    return int(key)


def _text_key(field: str, key: str) -> str:
    return str(_NAME(f"{field} (a key)", key))


_NO_AUDIO = "models here read and write text only"
_METADATA = Mapping(limits.METADATA, _NAME, _text_key)


@dataclass(frozen=True, kw_only=True)
class SamplingFields:
    """What completions and chat share. None: the checkpoint's generation_config.json, then OpenAI's default."""

    temperature: Annotated[float | None, Number(limits.TEMPERATURE)] = None
    top_p: Annotated[float | None, Number(limits.TOP_P)] = None
    top_k: Annotated[int | None, Number(limits.TOP_K)] = None
    """vLLM's, as the next five."""
    min_p: Annotated[float | None, Number(limits.MIN_P)] = None
    repetition_penalty: Annotated[float | None, Number(limits.REPETITION_PENALTY)] = None
    stop_token_ids: Annotated[Sequence[int], Ids(limits.STOP_TOKEN_IDS)] = ()
    include_stop_str_in_output: Annotated[bool, Flag()] = False
    skip_special_tokens: Annotated[bool, Flag()] = True
    presence_penalty: Annotated[float, Number(limits.PRESENCE_PENALTY)] = 0.0
    frequency_penalty: Annotated[float, Number(limits.FREQUENCY_PENALTY)] = 0.0
    logit_bias: Annotated[
        dict[int, float] | None, Mapping(limits.LOGIT_BIAS_ENTRIES, Number(limits.LOGIT_BIAS), _token_key)
    ] = None
    seed: Annotated[int | None, Number(limits.SEED)] = None
    n: Annotated[int, Number(limits.N)] = 1
    stop: Annotated[tuple[str, ...], ListOf(limits.STOP_STRINGS, Text(limits.STOP_BYTES), lone=True)] = ()
    min_tokens: Annotated[int, Number(limits.MIN_TOKENS)] = 0
    ignore_eos: Annotated[bool, Flag()] = False
    prompt_logprobs: Annotated[int | None, Number(limits.PROMPT_LOGPROBS)] = None
    return_token_ids: Annotated[bool, Flag()] = False
    grammar: Annotated[str | None, Text(limits.GRAMMAR_BYTES)] = None
    """llama.cpp's name; Lark in llguidance's dialect. None: the one that the checkpoint carries, for chat."""
    stream: Annotated[bool, Flag()] = False
    stream_options: Annotated[
        dict[str, bool] | None, Object({"include_usage": Flag(), "include_obfuscation": Only((False,))})
    ] = None
    user: Annotated[str | None, _NAME] = None
    priority: Annotated[int, Number(limits.PRIORITY)] = 0
    """vLLM's: lower is earlier."""


@dataclass(frozen=True, kw_only=True)
class CompletionRequest(SamplingFields):
    """POST /v1/completions."""

    REFUSED: ClassVar[dict[str, str]] = {"suffix": "no model here was trained to fill in the middle"}

    model: Annotated[str, _NAME]
    prompt: Annotated[list[Prompt], Prompts(limits.PROMPTS)]
    max_tokens: Annotated[int | None, Number(limits.MAX_TOKENS)] = None
    logprobs: Annotated[int | None, Number(limits.LOGPROBS)] = None
    echo: Annotated[bool, Flag()] = False
    add_special_tokens: Annotated[bool, Flag()] = True
    """What the tokenizer itself puts around a text (bos); token ids are taken as they are."""
    best_of: Annotated[int | None, Number(limits.N)] = None
    """Only when it equals n: choices are never thrown away."""


@dataclass(frozen=True, kw_only=True)
class ChatRequest(SamplingFields):
    """POST /v1/chat/completions."""

    REFUSED: ClassVar[dict[str, str]] = {
        "functions": "OpenAI replaced it by tools",
        "function_call": "OpenAI replaced it by tool_choice",
        "audio": _NO_AUDIO,
        "prediction": "predicted outputs are not supported yet",
        "reasoning_effort": "reasoning models are not supported yet",
        "web_search_options": "the daemon never fetches from the network",
        "moderation": "there is no moderation model here",
        "prompt_cache_options": "the prefix cache needs no options",
    }

    model: Annotated[str, _NAME]
    messages: Annotated[list[Message], Messages(limits.MESSAGES)]
    max_completion_tokens: Annotated[int | None, Number(limits.MAX_TOKENS)] = None
    max_tokens: Annotated[int | None, Number(limits.MAX_TOKENS)] = None
    """OpenAI's old name of max_completion_tokens."""
    logprobs: Annotated[bool, Flag()] = False
    top_logprobs: Annotated[int | None, Number(limits.LOGPROBS)] = None
    response_format: Annotated[AnswerSchema | None, ResponseFormat()] = None
    """The schema that the answer must meet; None: any text."""
    tools: Annotated[tuple[Tool, ...], Tools(limits.TOOLS)] = ()
    tool_choice: Annotated[ToolChoice | None, ToolChoices()] = None
    """None: auto where there are tools."""
    parallel_tool_calls: Annotated[bool | None, Flag()] = None
    """None: true."""
    modalities: Annotated[object, Only((["text"],))] = None
    service_tier: Annotated[object, Only(("auto", "default"))] = None
    store: Annotated[object, Only((False,))] = None
    verbosity: Annotated[object, Only(("medium",))] = None
    add_special_tokens: Annotated[object, Only((False,))] = None
    """The template writes them."""
    metadata: Annotated[dict[str, str] | None, _METADATA] = None
    safety_identifier: Annotated[str | None, _NAME] = None
    prompt_cache_key: Annotated[str | None, _NAME] = None
    prompt_cache_retention: Annotated[object, Only(("in_memory",))] = None


@dataclass(frozen=True, kw_only=True)
class EmbeddingRequest:
    """POST /v1/embeddings."""

    REFUSED: ClassVar[dict[str, str]] = {}

    model: Annotated[str, _NAME]
    input: Annotated[list[Prompt], Prompts(limits.EMBEDDING_INPUTS)]
    encoding_format: Annotated[str, OneOf(("float", "base64"))] = "float"
    dimensions: Annotated[int | None, Number(limits.DIMENSIONS)] = None
    user: Annotated[str | None, _NAME] = None
    priority: Annotated[int, Number(limits.PRIORITY)] = 0


@dataclass(frozen=True, kw_only=True)
class ClassifyRequest:
    """POST /classify, as vLLM has it."""

    REFUSED: ClassVar[dict[str, str]] = {}

    model: Annotated[str, _NAME]
    input: Annotated[list[Prompt], Prompts(limits.EMBEDDING_INPUTS)]
    user: Annotated[str | None, _NAME] = None
    priority: Annotated[int, Number(limits.PRIORITY)] = 0


@dataclass(frozen=True, kw_only=True)
class ScoreRequest:
    """POST /score and /v1/score, as vLLM has it: one text against each of many, or pairs of equally many."""

    REFUSED: ClassVar[dict[str, str]] = {}

    model: Annotated[str, _NAME]
    text_1: Annotated[tuple[str, ...], ListOf(limits.SCORE_TEXTS, TEXT, lone=True)]
    text_2: Annotated[tuple[str, ...], ListOf(limits.SCORE_TEXTS, TEXT, lone=True)]
    priority: Annotated[int, Number(limits.PRIORITY)] = 0


@dataclass(frozen=True, kw_only=True)
class RerankRequest:
    """POST /rerank and /v1/rerank, as Jina and Cohere have it."""

    REFUSED: ClassVar[dict[str, str]] = {}

    model: Annotated[str, _NAME]
    query: Annotated[str, TEXT]
    documents: Annotated[list[str], Documents(limits.RERANK_DOCUMENTS)]
    top_n: Annotated[int | None, Number(limits.TOP_N)] = None
    return_documents: Annotated[bool, Flag()] = True
    priority: Annotated[int, Number(limits.PRIORITY)] = 0


@dataclass(frozen=True, kw_only=True)
class TokenizeRequest:
    """POST /tokenize, as vLLM has it: a prompt, or messages as chat would render them."""

    REFUSED: ClassVar[dict[str, str]] = {}

    model: Annotated[str | None, _NAME] = None
    """None: the one model that is resident; see tokens.py."""
    prompt: Annotated[str | None, TEXT] = None
    messages: Annotated[list[Message] | None, Messages(limits.MESSAGES)] = None
    add_special_tokens: Annotated[bool, Flag()] = True
    add_generation_prompt: Annotated[bool, Flag()] = True
    return_token_strs: Annotated[bool, Flag()] = False


@dataclass(frozen=True, kw_only=True)
class DetokenizeRequest:
    """POST /detokenize, as vLLM has it. Special tokens are shown."""

    REFUSED: ClassVar[dict[str, str]] = {}

    tokens: Annotated[list[int], IDS]
    model: Annotated[str | None, _NAME] = None


@dataclass(frozen=True, kw_only=True)
class ModelRequest:
    """POST /admin/models/load and /admin/models/unload."""

    REFUSED: ClassVar[dict[str, str]] = {}

    model: Annotated[str, _NAME]


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """POST /admin/jobs."""

    REFUSED: ClassVar[dict[str, str]] = {}

    spec: Annotated[Spec, SpecField()]
    data: Annotated[str | None, Text(limits.JOB_DATA_BYTES)] = None
    """The whole text of the file that the spec's ``file`` names."""


@dataclass(frozen=True, kw_only=True)
class NiceRequest:
    """POST /admin/processes/{pid}/nice."""

    REFUSED: ClassVar[dict[str, str]] = {}

    priority: Annotated[int, Number(limits.PRIORITY)]


@dataclass(frozen=True, kw_only=True)
class EmptyRequest:
    """A POST without fields (/admin/shutdown, /admin/processes/{pid}/cancel)."""

    REFUSED: ClassVar[dict[str, str]] = {}


TABLES: tuple[type[Any], ...] = (
    CompletionRequest,
    ChatRequest,
    EmbeddingRequest,
    ClassifyRequest,
    ScoreRequest,
    RerankRequest,
    TokenizeRequest,
    DetokenizeRequest,
    ModelRequest,
    JobRequest,
    NiceRequest,
    EmptyRequest,
)
