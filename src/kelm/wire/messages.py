"""Messages between the daemon and a worker; the same structs drive the worker core inside a caller's process.

msgpack on the wire (msgspec, tagged unions), one length-prefixed frame a message. Token ids are Python ints,
vectors travel as little-endian float32 bytes. A worker never learns a tenant's name, only a cache salt.
"""

from __future__ import annotations

from typing import Literal

import msgspec

PROTOCOL = 1


class Sampling(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How one process picks tokens. Checked against limits.py at the door; ``seed`` is always set by then.

    The noise at a position is a pure function of (seed, choice, position), so the same request gives the same
    tokens after a restart, and whoever else is being served.
    """

    seed: int
    max_tokens: int
    min_tokens: int = 0
    temperature: float = 1.0
    top_k: int = 0
    """0: off."""
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end a choice, the model's end tokens included unless ``ignore_eos``."""
    banned_token_ids: tuple[int, ...] = ()
    """Tokens that may never be picked (the end tokens, under ``ignore_eos`` they are allowed and ignored)."""
    logprobs: int | None = None
    """None: none; k: the picked token's and the k most likely ones'."""
    prompt_logprobs: int | None = None
    grammar: str | None = None
    """llguidance grammar (JSON text as ``llguidance.grammar_from`` makes it); masks what does not fit."""


class TokenLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """Log-probabilities at one position, natural logarithm of the model's own distribution (before penalties,
    temperature and masks, as OpenAI and vLLM report them)."""

    token: int
    logprob: float
    rank: int
    """1 for the most likely token."""
    top: list[tuple[int, float]]
    """(token, logprob), most likely first; the picked token is not added when it is not among them."""


FinishReason = Literal["stop", "length", "abort", "error"]

# --- daemon -> worker ----------------------------------------------------------------------------------


class Load(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Make a model resident. Answered by Loaded or LoadFailed (LoadProgress in between)."""

    model: str
    """Key of this loaded model, chosen by the daemon (name, digest, dtype); opaque to the worker."""
    files: dict[str, str]
    """Name inside the checkpoint ('config.json', 'model.safetensors') -> absolute path of the blob."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    images: str = ""
    """Folder of packed weights (store/images.py); empty: they are packed in memory, as a variant's own are."""
    digest: str = ""
    """The manifest's; names the image."""
    base: str | None = None
    """Of a variant: the key of the resident model that it lies on; its weights are shared, copy on write."""
    layers: list[dict[str, str]] = []
    """Of a variant, from the base up: an adapter's or a delta's files, name -> path."""


class Unload(msgspec.Struct, frozen=True, tag=True):
    """Drop a model; its unfinished processes end with reason ``abort``. Answered by Unloaded."""

    model: str


class Submit(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Start a generation, or go on with one after a restart: ``generated[choice]`` is what is known already."""

    pid: int
    model: str
    prompt: list[int]
    """At least one token."""
    sampling: Sampling
    n: int = 1
    generated: list[list[int]] = []
    """Empty, or one list for each choice. Known tokens are not reported again."""
    finished: list[int] = []
    """Choices that had ended before the restart and are not to be run again."""
    salt: bytes = b""
    priority: int = 0
    """Lower is earlier."""
    share: int = 0
    """A number for the tenant, good for this worker's life."""
    weight: int = 1
    counter: float = 0.0
    """Virtual tokens (sched/shares.py): at least where the tenant's counter stands now."""


class Encode(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Run an encoder (or pool a decoder) over token lists. Answered by Encoded or Failed."""

    pid: int
    model: str
    task: Literal["embed", "classify", "token_classify", "fill_mask"]
    inputs: list[list[int]]
    types: list[list[int]] = []
    """Token type ids for each input; empty where the model has none or all are 0."""
    pooling: Literal["auto", "mean", "cls", "last"] = "auto"
    """auto: what the checkpoint says (1_Pooling/config.json), else mean for encoders, last for decoders."""
    normalize: bool = True
    priority: int = 0
    """As in Submit, as the next three."""
    share: int = 0
    weight: int = 1
    counter: float = 0.0


class Cancel(msgspec.Struct, frozen=True, tag=True):
    """End a process, or one choice of it (its stop string was found); takes effect before the next step."""

    pid: int
    choice: int | None = None


class Pause(msgspec.Struct, frozen=True, tag=True):
    """Park a process (its reader is slow): blocks kept, no tokens until Resume."""

    pid: int


class Resume(msgspec.Struct, frozen=True, tag=True):
    """``counter``: as in Submit."""

    pid: int
    counter: float = 0.0


class Renice(msgspec.Struct, frozen=True, tag=True):
    """Another priority, from the next step on."""

    pid: int
    priority: int


class Quit(msgspec.Struct, frozen=True, tag=True):
    """Leave now, exit code 0."""


Command = Load | Unload | Submit | Encode | Cancel | Pause | Resume | Renice | Quit

# --- worker -> daemon ----------------------------------------------------------------------------------


class Hello(msgspec.Struct, frozen=True, tag=True):
    """First message of a worker."""

    protocol: int
    pid: int
    threads: int
    numerics: str
    """Numerics id: op version, instruction set, library versions. Same id, same bits; ``system_fingerprint``."""


class Loaded(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """``executor``: 'native', 'torch' (ops/reference.py) or 'fallback' (transformers)."""

    model: str
    executor: str
    kind: Literal["decoder", "encoder", "encoder-decoder"]
    architecture: str
    dtype: str
    parameters: int
    weight_bytes: int
    """Its own."""
    shared_bytes: int = 0
    """Of a variant: what it uses of its base's."""
    max_context_tokens: int
    vocab: int
    hidden: int
    tasks: list[str]
    """Any of generate, embed, classify, token_classify, fill_mask."""
    labels: list[str] = []
    seconds: float = 0.0
    held_bytes: int = 0
    """Of the budget: what unloading it gives back."""


class LoadProgress(msgspec.Struct, frozen=True, tag=True):
    model: str
    done_bytes: int
    total_bytes: int


class LoadFailed(msgspec.Struct, frozen=True, tag=True):
    model: str
    code: str
    message: str
    missing_bytes: int = 0
    """Of the budget, for out_of_memory: what unloading others would have to give."""


class Unloaded(msgspec.Struct, frozen=True, tag=True):
    model: str


class Tokens(msgspec.Struct, frozen=True, array_like=True):
    """What one choice got in one step."""

    pid: int
    choice: int
    ids: list[int]
    logprobs: list[TokenLogprobs] | None = None
    finish: FinishReason | None = None
    stop_token: int | None = None
    """The token that ended it, when one of ``stop_token_ids`` did (it is the last of ``ids``)."""


class PromptLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """Of a whole prompt: entry i is position i; entry 0 is None (nothing comes before it)."""

    pid: int
    entries: list[TokenLogprobs | None]


class Counters(msgspec.Struct, frozen=True, array_like=True):
    """State after a step; totals since the worker started."""

    blocks_free: int
    blocks_total: int
    running: int
    """Sequences that hold blocks."""
    waiting: int
    """Processes admitted and without a block yet."""
    preemptions: int
    prompt_tokens: int
    generated_tokens: int
    recomputed_tokens: int
    cached_tokens: int
    steps: dict[str, int]
    """By executor: native, torch, fallback."""
    rows: int = 0
    """Sequences in this step."""


class Move(msgspec.Struct, frozen=True, array_like=True):
    """A process is elsewhere than before this step. ``wants``: what it lacks to run, where it doesn't.

    running: it was in the step. parked: it holds blocks and was not. queued: it holds none (after it ran: preempted).
    """

    pid: int
    state: Literal["running", "parked", "queued"]
    wants: Literal["", "row", "tokens", "blocks"] = ""


class Charge(msgspec.Struct, frozen=True, array_like=True):
    """What a tenant was served, and where its counter stands after it."""

    share: int
    tokens: int
    counter: float


class Started(msgspec.Struct, frozen=True, array_like=True):
    """A process got its first blocks; ``cached_tokens`` of its prompt were found computed."""

    pid: int
    cached_tokens: int


class Step(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """One message for each step."""

    number: int
    seconds: float
    counters: Counters
    started: list[Started] = []
    tokens: list[Tokens] = []
    prompts: list[PromptLogprobs] = []
    moves: list[Move] = []
    charges: list[Charge] = []
    recomputed: dict[int, int] = {}
    """Process -> its tokens in this step that were computed before, and lost."""


class StepBegin(msgspec.Struct, frozen=True, tag=True):
    """Sent before a step: the processes in it. They are the suspects if the worker dies in it."""

    number: int
    pids: list[int]


class Encoded(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """``shape`` of each result and its little-endian float32 bytes. embed: [hidden]; classify: [labels]
    probabilities; token_classify: [tokens, labels] probabilities; fill_mask: [masks, vocab] log-probabilities."""

    pid: int
    shapes: list[list[int]]
    data: list[bytes]
    charges: list[Charge] = []


class Failed(msgspec.Struct, frozen=True, tag=True):
    """A process ended in an error that is its own; the others go on."""

    pid: int
    code: str
    message: str


Report = Hello | Loaded | LoadProgress | LoadFailed | Unloaded | StepBegin | Step | Encoded | Failed
