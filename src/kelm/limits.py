"""Every bound on one page: name, least, most, default, unit, why.

A request field outside its bound is a 400 that names the field, the value and the bound. Tests generate the
boundary table (least - 1, least, most, most + 1, NaN, bool for int, ...) from this page.
"""

from __future__ import annotations

import math
import reprlib
from dataclasses import dataclass

from kelm.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Bound:
    """An inclusive range with a default. ``default`` is None where leaving the value out means something else."""

    name: str
    least: float
    most: float
    default: float | None
    unit: str
    why: str
    integer: bool = True

    @property
    def value(self) -> float:
        """The default of a bound that always has one."""
        assert self.default is not None, self.name
        return self.default

    def check(self, value: object, *, field: str | None = None) -> None:
        """Raise InvalidRequest unless ``value`` is a finite number of the right kind inside the range."""
        name = field or self.name
        wanted = "an integer" if self.integer else "a number"
        ok = isinstance(value, int if self.integer else (int, float)) and not isinstance(value, bool)
        if not ok:
            raise InvalidRequest(f"{name} must be {wanted}, got {shown(value)}", param=name)
        assert isinstance(value, (int, float))
        # A huge int is compared, never converted: math.isfinite(10**400) overflows.
        if (isinstance(value, float) and not math.isfinite(value)) or not self.least <= value <= self.most:
            raise InvalidRequest(
                f"{name} must be between {self.least} and {self.most} {self.unit}".rstrip() + f", got {shown(value)}",
                param=name,
            )


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60
_SHORT.maxlist = _SHORT.maxdict = 4


def shown(value: object) -> str:
    """``value`` for an error message: short, and without walking through the whole of something large."""
    return _SHORT.repr(value)


def _int(name: str, least: float, most: float, default: float | None, unit: str, why: str) -> Bound:
    return Bound(name, least, most, default, unit, why)


def _num(name: str, least: float, most: float, default: float | None, unit: str, why: str) -> Bound:
    return Bound(name, least, most, default, unit, why, integer=False)


MIB = 1 << 20
GIB = 1 << 30

# --- Request fields (OpenAI's ranges where it has one, vLLM's where it extends) ----------------------------
TEMPERATURE = _num("temperature", 0, 2, 1.0, "", "OpenAI's range")
TOP_P = _num("top_p", 0, 1, 1.0, "", "a probability; 0 keeps the most likely token only")
TOP_K = _int("top_k", -1, 1 << 20, -1, "tokens", "-1 or 0 switches it off, as in vLLM")
MIN_P = _num("min_p", 0, 1, 0.0, "", "a share of the most likely token's probability")
REPETITION_PENALTY = _num("repetition_penalty", 0.01, 10, 1.0, "", "divides logits: 0 would be infinite")
PRESENCE_PENALTY = _num("presence_penalty", -2, 2, 0.0, "", "OpenAI's range")
FREQUENCY_PENALTY = _num("frequency_penalty", -2, 2, 0.0, "", "OpenAI's range")
LOGIT_BIAS = _num("logit_bias", -100, 100, 0.0, "", "OpenAI's range for each value")
LOGIT_BIAS_ENTRIES = _int("logit_bias", 0, 1024, 0, "entries", "a dense bias would be a vocabulary-sized body")
SEED = _int("seed", -(1 << 63), (1 << 63) - 1, None, "", "a signed 64-bit integer")
N = _int("n", 1, 128, 1, "choices", "each choice holds KV blocks and a row of the batch")
LOGPROBS = _int("logprobs", 0, 20, None, "tokens", "OpenAI allows 5 (completions) and 20 (chat); lm-eval asks for 1")
PROMPT_LOGPROBS = _int("prompt_logprobs", 0, 20, None, "tokens", "as logprobs")
MAX_TOKENS = _int("max_tokens", 0, 1 << 20, None, "tokens", "0 with echo scores a prompt; the context bounds the rest")
MIN_TOKENS = _int("min_tokens", 0, 1 << 20, 0, "tokens", "must not pass max_tokens")
STOP_STRINGS = _int("stop", 0, 16, 0, "strings", "each is searched for in every stream")
STOP_BYTES = _int("stop", 1, 1024, None, "bytes", "the longest text a stream may have to hold back")
STOP_TOKEN_IDS = _int("stop_token_ids", 0, 128, 0, "ids", "compared with every token")
PROMPTS = _int("prompt", 1, 1024, None, "prompts", "a batch becomes as many processes")
EMBEDDING_INPUTS = _int("input", 1, 2048, None, "inputs", "OpenAI's bound")
DIMENSIONS = _int("dimensions", 1, 1 << 16, None, "", "the model's own width is the real bound")
RERANK_DOCUMENTS = _int("documents", 1, 1000, None, "documents", "one pass over all of them")
SCORE_TEXTS = _int("text", 1, 1000, None, "texts", "as rerank's documents")
TOP_N = _int("top_n", 1, 1000, None, "documents", "as many as may be sent")
METADATA = _int("metadata", 0, 16, None, "entries", "OpenAI's bound")
CONTENT_PARTS = _int("content", 1, 1024, None, "parts", "joined into one text")
TOOLS = _int("tools", 1, 128, None, "tools", "OpenAI's bound; each is a rule of a grammar")
TOOL_NAME = _int("name", 1, 64, None, "bytes", "OpenAI's bound for names of tools and schemas")
TOOL_CALLS = _int("tool_calls", 1, 32, None, "calls", "of one answer, and of one message")
TOKEN_IDS = _int("tokens", 0, 8 * MIB, None, "ids", "the context is the real bound")
TOKEN_ID = _int("token", 0, 4 * MIB - 1, None, "", "the model's vocabulary is the real bound")
MESSAGES = _int("messages", 1, 4096, None, "messages", "rendered by the template in one go")
PROMPT_BYTES = _int("prompt", 0, 8 * MIB, None, "bytes", "tokenizing is linear in it; checked before")
STRING_BYTES = _int("string", 0, 4096, None, "bytes", "names, user tags and other small strings")

# --- The doors -------------------------------------------------------------------------------------------
BODY_BYTES = _int("body", 0, 32 * MIB, None, "bytes", "a batch of the longest prompts fits")
HEADER_BYTES = _int("headers", 0, 64 * 1024, None, "bytes", "read before any check")
JSON_DEPTH = _int("body", 0, 64, None, "levels", "recursion in parsers and templates")
JSON_STRINGS = _int("body", 0, 1 << 18, None, "strings", "each is an object in memory, whatever it is for")
JSON_CONTAINERS = _int("body", 0, 1 << 18, None, "lists and objects", "as the strings; counting depth walks over them")
BODY_TIMEOUT_S = _num("body_timeout", 1, 3600, 60, "seconds", "until the whole body is here: dribbling holds memory")
HEADER_TIMEOUT_S = _num("header_timeout", 1, 600, 10, "seconds", "until the headers are complete")
LINGER_S = _num("linger", 0, 60, 1, "seconds", "what is still read, and dropped, from a client that was refused")
KEEP_ALIVE_S = _int("keep_alive", 1, 3600, 60, "seconds", "an idle connection is closed")
CONNECTIONS = _int("connections", 1, 8192, 2048, "sockets", "descriptors are finite")
STREAM_BUFFER_BYTES = _int(
    "stream_buffer", 1024, 64 * MIB, 256 * 1024, "bytes", "past it a slow reader's process is paused"
)
STALL_TIMEOUT_S = _num("stall_timeout", 1, 3600, 120, "seconds", "a reader that takes nothing for so long is gone")
RETRY_AFTER_S = _num("retry_after", 0.1, 600, 2, "seconds", "what a 429 or 503 suggests, before jitter")

# --- Settings (config.py): environment names are KELM_ + the upper-case name ------------------------------
PORT = _int("port", 0, 65535, 8420, "", "0 takes a free port")
THREADS = _int("threads", 1, 1024, None, "threads", "default: affinity and cgroup quota")
MAX_NUM_SEQS = _int("max_num_seqs", 1, 4096, 64, "sequences", "rows of one step")
MAX_QUEUED = _int("max_queued", 0, 1 << 20, 1024, "requests", "over it: 429 with Retry-After")
STEP_TOKENS = _int(
    "step_tokens", 16, 1 << 16, 512, "tokens", "the budget of one step: a long prompt is cut into chunks"
)
DRAIN_S = _num("drain_s", 0, 3600, 5, "seconds", "what SIGTERM leaves to unfinished requests")
MEMORY_BYTES = _int("memory", 64 * MIB, 1 << 50, None, "bytes", "under it no model and its KV fit")
MEMORY_SHARE = _num("memory", 0.01, 1, 0.7, "", "of the least of RAM, cgroup limit and what is available at start")

JOB_MEMORY_SHARE = _num("job_memory", 0.01, 1, 0.25, "", "of the same; what the serving worker's share leaves")

# --- Jobs (tune, compress, evaluate) -----------------------------------------------------------------------
JOBS_RUNNING = _int("jobs_running", 1, 64, 1, "jobs", "at once: each has a copy of its model, and all share the cores")
JOBS_QUEUED = _int("jobs_queued", 1, 4096, 64, "jobs", "that wait for their turn; over it: 429")
JOBS_KEPT = _int("jobs_kept", 1, 4096, 64, "jobs", "that have ended; the oldest go, folders and logs")
JOB_DEATHS = _int("job_deaths", 1, 16, 3, "deaths", "a job whose process was killed so often is failed")
JOB_STOP_S = _num("job_stop", 0.1, 600, 10, "seconds", "what Stop leaves to a job's process before SIGKILL")
JOB_DATA_BYTES = _int("data", 0, 16 * MIB, None, "bytes", "sent in one body, where JSON may double it")
JOB_LOG_BYTES = _int("log", 1, MIB, 256 * 1024, "bytes", "of one answer of the log's door")
JOB_LINE_BYTES = _int("line", 1, 1 << 16, 4096, "bytes", "of a job's log; a longer one is cut")
JOB_ID = _int("pid", 1, (1 << 53) - 1, None, "", "JSON numbers are exact up to it")
PIDS_AT_ONCE = _int("pids", 1, 1 << 20, 10_000, "pids", "reserved on disk in one go; a crash skips what is left")

# --- Memory ----------------------------------------------------------------------------------------------
BLOCK_TOKENS = _int("block_tokens", 1, 256, 16, "tokens", "of one KV block")
SLAB_BYTES = _int("slab_bytes", 2 * MIB, GIB, 2 * MIB, "bytes", "the unit in which the arena is handed to models")

# --- Supervision -----------------------------------------------------------------------------------------
WORKER_START_S = _num("worker_start", 1, 600, 60, "seconds", "until a new worker says hello")
WORKER_DEATHS_ALONE = _int(
    "worker_deaths_alone", 1, 10, 2, "deaths", "a request that kills its worker alone so often is failed"
)
RESTART_BACKOFF_S = _num("restart_backoff", 0, 60, 0.2, "seconds", "doubles with each death without a step in between")
WORKER_HANG_S = _num(
    "worker_hang", 1, 3600, 300, "seconds", "a worker with work that reports nothing for so long is killed"
)
WORKER_QUIT_S = _num("worker_quit", 0.1, 60, 3, "seconds", "what Quit leaves to a worker before SIGKILL")
WORKER_START_TRIES = _int(
    "worker_start_tries", 1, 100, 5, "starts", "in a row without a hello, then requests stop waiting for it"
)
COMMAND_BACKLOG_BYTES = _int(
    "command_backlog", 0, 256 * MIB, 64 * MIB, "bytes", "unsent commands past which nothing new is admitted"
)
SUPERSEDED_S = _num(
    "superseded",
    0,
    3600,
    10,
    "seconds",
    "a model that no name stands for stays so long: requests are on their way to it",
)
HELPER_CALL_S = _num("helper_call", 0.1, 60, 5, "seconds", "a template or grammar that takes longer is killed")
HELPER_LOAD_S = _num("helper_load", 0.1, 300, 30, "seconds", "a tokenizer read for the first time: 35 MB take 5 s")
HELPER_MEMORY_BYTES = _int(
    "helper_memory", 64 * MIB, 8 * GIB, GIB, "bytes", "address space above what the helper starts with"
)
TEMPLATE_OUTPUT_BYTES = _int("template_output", 1, 64 * MIB, 16 * MIB, "bytes", "a template can multiply its input")

# --- Files (untrusted) -----------------------------------------------------------------------------------
SAFETENSORS_HEADER_BYTES = _int("header", 8, 16 * MIB, None, "bytes", "parsed before anything is mapped")
SAFETENSORS_TENSORS = _int("tensors", 0, 100_000, None, "tensors", "as many dictionary entries")
CONFIG_BYTES = _int("config.json", 2, 4 * MIB, None, "bytes", "parsed in the daemon")
TOKENIZER_BYTES = _int("tokenizer.json", 2, 128 * MIB, None, "bytes", "the largest known is about 35 MB")
VOCAB = _int("vocab_size", 1, 4 * MIB, None, "tokens", "rows of the embedding")
LAYERS = _int("num_hidden_layers", 1, 1024, None, "layers", "of a decoder or encoder")
WIDTH = _int("hidden_size", 1, 1 << 20, None, "", "of hidden and intermediate states")
QUANT_GROUP = _int("group_size", 1, 1 << 20, None, "inputs", "that share a scale in a quantized checkpoint")
HEADS = _int("num_attention_heads", 1, 4096, None, "heads", "of one layer")
HEAD_DIM = _int("head_dim", 1, 4096, None, "", "of one head")
POSITIONS = _int("max_position_embeddings", 1, 1 << 24, None, "tokens", "the longest context a checkpoint may claim")
LABELS = _int("num_labels", 1, 1 << 16, None, "labels", "of a classifier")
LORA_RANK = _int("r", 1, 4096, None, "", "of a low-rank layer: two products of that width a linear")
VARIANT_LAYERS = _int("layers", 1, 256, None, "layers", "of one version: each is applied when it is loaded")
VARIANT_VERSIONS = _int("versions", 1, 10_000, None, "versions", "of one variant, in one file that is read in one go")
VERSION_FACTS_BYTES = _int("evaluation", 0, 64 * 1024, None, "bytes", "evaluation and settings of a version, as JSON")
VERSION_NOTE_BYTES = _int("note", 0, 4096, None, "bytes", "of UTF-8; shown in a table")
HISTORY_EVENTS = _int("events", 1, 1 << 16, 1000, "events", "kept of what happened to a variant, newest last")
WIRE_FRAME_BYTES = _int("frame", 0, 256 * MIB, None, "bytes", "one message between daemon and worker")
GRAMMAR_BYTES = _int("grammar", 1, 256 * 1024, None, "bytes", "compiled once per request")

# --- Recipes of `kelm pretrain` ----------------------------------------------------------------------------
RECIPE_BYTES = _int("recipe", 1, MIB, None, "bytes", "parsed in one go")
RECIPE_SEED = _int("seed", 0, (1 << 63) - 1, 1, "", "every random choice of a run derives from it")
RECIPE_DOCUMENTS = _int("documents", 1, 100_000_000, None, "documents", "asked of the recipe's generator")
RECIPE_VOCAB = _int("vocab_size", 300, 262_144, None, "tokens", "256 bytes, the special tokens and some merges")
RECIPE_HIDDEN = _int("hidden_size", 16, 8192, None, "", "width of the residual stream")
RECIPE_LAYERS = _int("num_hidden_layers", 1, 256, None, "layers", "trained in plain torch on this machine")
RECIPE_HEADS = _int("num_attention_heads", 1, 256, None, "heads", "divides hidden_size into even parts")
RECIPE_INTERMEDIATE = _int("intermediate_size", 16, 65_536, None, "", "width of the gated MLP")
RECIPE_CONTEXT = _int("max_position_embeddings", 16, 1 << 20, None, "tokens", "written to config.json")
RECIPE_ROW_TOKENS = _int("row_tokens", 16, 8192, None, "tokens", "a mask of its square is held for each row")
RECIPE_BATCH_ROWS = _int("batch_rows", 1, 4096, None, "rows", "of one step")
RECIPE_STEPS = _int("steps", 1, 100_000_000, None, "steps", "the cosine ends at the last one")
RECIPE_WARMUP = _int("warmup_steps", 0, 10_000_000, 0, "steps", "at most steps")
RECIPE_EVERY = _int("checkpoint_every", 1, 10_000_000, 250, "steps", "what a power cut can cost")
RECIPE_LR = _num("learning_rate", 1e-7, 1, None, "", "the peak, after the warm-up")
RECIPE_SHARE = _num("share", 0, 1, None, "", "a share of a whole")
RECIPE_BETA = _num("beta", 0, 0.99999, None, "", "AdamW's running averages")
RECIPE_DECAY = _num("weight_decay", 0, 1, None, "", "decoupled, matrices only")
RECIPE_CLIP = _num("clip_norm", 0.001, 1000, None, "", "the gradient's norm is cut to it")
RECIPE_DROPOUT = _num("dropout", 0, 0.9, 0.0, "", "on the embedding and every residual branch")
RECIPE_THETA = _num("rope_theta", 100, 1e8, 10_000.0, "", "base of the rotary frequencies")

# --- Task files of `kelm eval` -----------------------------------------------------------------------------
EVAL_ROWS = _int("rows", 1, 1_000_000, None, "rows", "held in memory, each with its result")
EVAL_LINE_BYTES = _int("line", 2, 32 * MIB, None, "bytes", "parsed in one go; as a body of the doors")
EVAL_LABELS = _int("labels", 2, 256, None, "labels", "a decoder reads each row once for every one of them")
EVAL_CLASSES = _int("labels", 2, 2048, None, "labels", "of a classifier: the confusion matrix has its square")
CALIBRATION_TOKENS = _int(
    "calibration", 1, 1 << 24, 16_384, "tokens", "which layers matter least settles long before; each costs a pass"
)
EVAL_MAX_TOKENS = _int("max_tokens", 1, 1 << 20, 256, "tokens", "of one generated answer; the context bounds it too")

# --- Data and settings of `kelm tune` ----------------------------------------------------------------------
TUNE_EPOCHS = _int("epochs", 1, 1000, None, "epochs", "at most; early stopping ends sooner")
TUNE_RATE = _num("learning_rate", 1e-7, 1, None, "", "the peak, after the warm-up")
TUNE_RANK = _int("rank", 1, 256, None, "", "of the low-rank matrices")
TUNE_SEED = _int("seed", 0, (1 << 63) - 1, 1, "", "every random choice of a job derives from it")
