"""Every error Kelm raises on purpose.

    KelmError
    ├── InvalidRequest          400  a field is malformed or outside its bound (limits.py)
    │   ├── UnsupportedField    400  a field we know and do not support yet
    │   ├── ContextTooLong      400  prompt + max_tokens do not fit the model's context
    │   └── UnsupportedModel    400  no executor can run this model, or not for this door
    ├── Unauthorized            401  no key, or a wrong one
    ├── Forbidden               403  a Host or Origin that may not ask
    ├── NotFound                404  no such route or process
    │   └── ModelNotFound       404  no such model; carries near matches
    ├── MethodNotAllowed        405  the route exists, for other methods
    ├── RequestTimeout          408  headers or body came too slowly
    ├── PayloadTooLarge         413  the body is over its bound
    ├── HeadersTooLarge         431  the headers are over their bound
    ├── Cancelled               499  the client went away, or somebody cancelled the process
    ├── Overloaded              429  a queue is full; carries retry_after_s
    ├── WorkerFailed            500  the worker died too often under this request, or an op failed
    ├── Unavailable             503  draining, or starting; carries retry_after_s
    ├── NodeFailed              503  a node of a cluster can't be reached, died or does not take part; names it
    ├── ModelFormatError        422  a malformed weights, config or tokenizer file: names file and field
    ├── OutOfMemory             507  the ledger cannot grant it; says how many bytes are missing
    ├── ConfigError             —    settings are wrong; the command line exits with 2
    └── StoreError              —    KELM_HOME is unusable (newer version, no space, no permission)

Messages say what failed, what was got, the limit and what to do; never a path outside the user's own
arguments, an address or a stack trace.
"""

from __future__ import annotations


class KelmError(Exception):
    """Root of the tree.

    Attributes:
        code: stable snake_case identifier, OpenAI's ``error.code``.
        status: HTTP status of the doors.
        type: OpenAI's ``error.type``.
        retryable: whether the same request may succeed later.
        param: name of the offending request field, if there is one.
    """

    code: str = "internal_error"
    status: int = 500
    type: str = "server_error"
    retryable: bool = False

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s


class InvalidRequest(KelmError):
    code, status, type = "invalid_value", 400, "invalid_request_error"


class UnsupportedField(InvalidRequest):
    code = "unsupported_parameter"


class ContextTooLong(InvalidRequest):
    code = "context_length_exceeded"


class UnsupportedModel(InvalidRequest):
    code = "unsupported_model"


class Unauthorized(KelmError):
    code, status, type = "invalid_api_key", 401, "authentication_error"


class NotFound(KelmError):
    code, status, type = "not_found", 404, "invalid_request_error"


class ModelNotFound(NotFound):
    code = "model_not_found"


class Forbidden(KelmError):
    code, status, type = "forbidden", 403, "invalid_request_error"


class MethodNotAllowed(KelmError):
    code, status, type = "method_not_allowed", 405, "invalid_request_error"


class RequestTimeout(KelmError):
    code, status, type, retryable = "request_timeout", 408, "invalid_request_error", True


class HeadersTooLarge(KelmError):
    code, status, type = "headers_too_large", 431, "invalid_request_error"


class PayloadTooLarge(KelmError):
    code, status, type = "payload_too_large", 413, "invalid_request_error"


class Cancelled(KelmError):
    code, status, type = "cancelled", 499, "cancelled"


class Overloaded(KelmError):
    code, status, type, retryable = "overloaded", 429, "rate_limit_error", True


class WorkerFailed(KelmError):
    code, status, type, retryable = "worker_failed", 500, "server_error", True


class Unavailable(KelmError):
    code, status, type, retryable = "unavailable", 503, "server_error", True


class NodeFailed(KelmError):
    code, status, type, retryable = "node_failed", 503, "server_error", True


class ModelFormatError(KelmError):
    code, status, type = "malformed_model", 422, "invalid_request_error"


class OutOfMemory(KelmError):
    code, status, type, retryable = "out_of_memory", 507, "server_error", True
    missing_bytes: int = 0
    """What would have to come free; 0 where nothing that came free would help."""


class ConfigError(KelmError):
    code = "config_error"


class StoreError(KelmError):
    code = "store_error"


def by_code(code: str) -> type[KelmError]:
    """The class with this ``code``; ``KelmError`` for an unknown one (a newer peer on the wire)."""
    pending: list[type[KelmError]] = [KelmError]
    while pending:
        cls = pending.pop()
        if cls.__dict__.get("code") == code:
            return cls
        pending.extend(cls.__subclasses__())
    return KelmError
