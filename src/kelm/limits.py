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
PRIORITY = _int("priority", -1000, 1000, 0, "", "vLLM's sense: lower is earlier; under 0 is the operator's to give")
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

# --- Tenants and who runs ----------------------------------------------------------------------------------
TENANT_BYTES = _int("tenant", 1, 64, None, "bytes", "a name in tables, logs and metric labels")
WEIGHT = _int("weight", 1, 1000, 1, "", "shares are in proportion to it; 0 would never be served")
KEYS = _int("keys", 0, 10_000, None, "keys", "held in the daemon's memory")
PID = _int("pid", 1, (1 << 63) - 1, None, "", "as kelm ps shows it")
SHARE_WINDOW_S = _int("share_window", 1, 3600, 60, "seconds", "over which served shares are shown")
ROOM_WAIT_S = _num("room_wait", 0, 3600, 30, "seconds", "a load waits for models in use to become idle, then fails")

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
IMAGE_HEADER_BYTES = _int("header", 2, 16 * MIB, None, "bytes", "of an image; parsed before the rest is mapped")
IMAGE_EXTENTS = _int("extents", 0, 4096, None, "extents", "of an image: one for each layer and each table")
IMAGE_TENSORS = _int("tensors", 0, 100_000, None, "tensors", "of an image, as many arrays")
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

# --- `kelm bench` ------------------------------------------------------------------------------------------
BENCH_PROMPT = _int("prompt_tokens", 1, 1 << 20, 512, "tokens", "of the measured prefill; the context bounds it too")
BENCH_TOKENS = _int("tokens", 2, 1 << 20, 64, "tokens", "that each stream decodes; the first one is prefill")
BENCH_STREAMS = _int("streams", 1, 4096, None, "streams", "as many rows as a step may have")
BENCH_REPEATS = _int("repeats", 1, 100, 3, "runs", "of each measurement; the median is shown")

# --- Data and settings of `kelm tune` ----------------------------------------------------------------------
TUNE_EPOCHS = _int("epochs", 1, 1000, None, "epochs", "at most; early stopping ends sooner")
TUNE_RATE = _num("learning_rate", 1e-7, 1, None, "", "the peak, after the warm-up")
TUNE_RANK = _int("rank", 1, 256, None, "", "of the low-rank matrices")
TUNE_SEED = _int("seed", 0, (1 << 63) - 1, 1, "", "every random choice of a job derives from it")

# --- The support desk (`kelm support`) ---------------------------------------------------------------------
SUPPORT_PORT = _int("port", 0, 65535, 8440, "", "0 takes a free port")
SUPPORT_FILE_BYTES = _int("file", 1, 8 * MIB, None, "bytes", "desk.yaml, templates.yaml, intents.csv, calibration.csv")
SUPPORT_ARTICLE_BYTES = _int("article", 1, MIB, None, "bytes", "one file of articles/, parsed in one go")
SUPPORT_ARTICLES = _int("articles", 1, 5000, None, "files", "read at every start")
SUPPORT_PASSAGE_CHARS = _int("passage", 100, 4000, 1000, "characters", "what fits a small embedding model's context")
SUPPORT_PASSAGES = _int("passages", 1, 20_000, None, "passages", "their vectors are held in memory")
SUPPORT_EXAMPLES = _int("rows", 1, 100_000, None, "rows", "of intents.csv and calibration.csv")
SUPPORT_SLOTS = _int("slots", 0, 16, None, "slots", "of a template; each missing one is a question back")
SUPPORT_PATTERN_CHARS = _int("pattern", 1, 200, None, "characters", "of a slot's regular expression")
SUPPORT_PATTERN_WAYS = _int("pattern", 1, 4096, None, "ways", "to try at each character of the longest message")
SUPPORT_TEMPLATE_CHARS = _int("template", 1, 4000, None, "characters", "of one answer")
SUPPORT_SHARE = _num("threshold", 0, 1, None, "", "a share or a cosine")
SUPPORT_QUERY_TERMS = _int("terms", 1, 64, 32, "terms", "of a question; each is looked up by itself")
SUPPORT_CANDIDATES = _int("candidates", 1, 200, 20, "passages", "of each search, before the ranks are fused")
SUPPORT_SOURCES = _int("sources", 1, 10, 3, "passages", "shown with an answer and given to the chat model")
SUPPORT_ANSWER_TOKENS = _int("max_tokens", 16, 1024, 160, "tokens", "of a generated answer")
SUPPORT_QUOTED = _int("sentences", 1, 10, 3, "sentences", "of the best passage, when it is quoted in part")
SUPPORT_QUOTED_CHARS = _int("passage", 50, 4000, 400, "characters", "a passage that is shorter is quoted whole")
SUPPORT_OVERLAP = _num("overlap", 0, 1, 0.8, "", "the share of a generated sentence's terms that its passage must have")
SUPPORT_MESSAGE_CHARS = _int("text", 1, 2000, None, "characters", "of one message")
SUPPORT_MESSAGES = _int("messages", 1, 1000, 400, "messages", "of one conversation")
SUPPORT_BODY_BYTES = _int("body", 0, 64 * 1024, None, "bytes", "a message of the longest kind, escaped")
SUPPORT_CONVERSATIONS = _int(
    "conversations", 1, 1_000_000, 100_000, "conversations", "past it the oldest without an open ticket go"
)
SUPPORT_TICKETS = _int("tickets", 1, 100_000, 10_000, "open tickets", "more than anybody answers")
SUPPORT_LISTED = _int("tickets", 1, 500, 200, "tickets", "in one list of the agents' page")
SUPPORT_RATE = _int("messages", 1, 600, 20, "messages a minute", "of one session")
SUPPORT_NEW_SESSIONS = _int("sessions", 1, 6000, 60, "new sessions a minute", "from one address")
SUPPORT_LOGINS = _int("logins", 1, 600, 10, "tries a minute", "from one address")
SUPPORT_ASKING = _int("questions", 1, 1024, 32, "questions", "answered at the same time; past it 503")
SUPPORT_STREAMS = _int("streams", 1, 64, 4, "streams", "of one session: its open tabs")
SUPPORT_CONNECTIONS = _int("connections", 1, 8192, 1024, "sockets", "descriptors are finite")
SUPPORT_CALL_S = _num("call", 0.1, 600, 20, "seconds", "of classifying or embedding; a model may have to load first")
SUPPORT_CHAT_S = _num("chat", 0.1, 600, 60, "seconds", "of a generated answer; then the passage is quoted")
SUPPORT_DOWNS = _int("votes", 1, 10, 2, "thumbs down", "in one conversation, then a person is asked")
SUPPORT_HEARTBEAT_S = _num("heartbeat", 1, 60, 15, "seconds", "between two signs of life of a stream")
# --- Several machines (cluster/) ---------------------------------------------------------------------------
CLUSTER_NODES = _int("nodes", 1, 64, 2, "nodes", "each keeps a connection to every other")
CLUSTER_JOIN_S = _num("join_timeout", 0.1, 3600, 60, "seconds", "until every node has joined")
CLUSTER_OP_S = _num("timeout", 0.1, 3600, 60, "seconds", "of one operation between nodes; then somebody is named")
CLUSTER_LOAD_S = _num("load_timeout", 1, 7200, 600, "seconds", "until every stage of a model has read its layers")
CLUSTER_BEAT_S = _num("beat", 0.01, 10, 0.5, "seconds", "how often a node says that it lives; three missed: it is dead")
CLUSTER_KEY_BYTES = _int("key", 1, 256, None, "bytes", "of the shared store")
CLUSTER_VALUE_BYTES = _int("value", 0, MIB, None, "bytes", "node 0 holds every value in memory; arrays are for compute")
CLUSTER_VERSIONS = _int("versions", 2, 1024, 8, "versions", "of one key, kept for readers that are on their way")
CLUSTER_ARRAY_BYTES = _int("array", 0, GIB, None, "bytes", "allocated on a neighbour's word")
CLUSTER_TAG = _int("tag", 0, (1 << 30) - 1, 0, "", "what tells two messages between the same nodes apart")
REPLICAS = _int("replicas", 1, 64, 2, "replicas", "each holds the whole model, on a node of its own")
REPLICA_TRIES = _int("replica_tries", 1, 10, 3, "replicas", "that may die under one request before it has more to show")
REPLICA_WAIT_S = _num("replica_wait", 0, 3600, 300, "seconds", "what a request that was begun waits for a replica")
REPLICA_START_S = _num("replica_start", 1, 3600, 300, "seconds", "until a daemon is ready")
REPLICA_PAUSE_S = _num("replica_pause", 0, 60, 1, "seconds", "before another start; doubles with each in vain")
REPLICA_LOOK_S = _num("replica_look", 0.01, 60, 1, "seconds", "between two looks whether a replica answers")
REPLICA_ANSWER_S = _num("replica_answer", 0.01, 60, 5, "seconds", "what a look waits for /ready")
REPLICA_MISSES = _int("replica_misses", 1, 100, 3, "looks", "in vain in a row, then its requests go elsewhere")
