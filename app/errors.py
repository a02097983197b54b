"""What can go wrong while serving, without any web framework in it.

    ServeError
    ├── InvalidRequest                 400  the client's mistake; `param` names the field
    │   ├── UnsupportedParameter       400  a known field that this server cannot honour
    │   └── ContextLengthExceeded      400
    ├── AuthenticationFailed           401
    ├── ModelNotFound                  404
    ├── RouteNotFound                  404
    ├── ItemNotFound                   404  a response, an item, a conversation
    ├── MethodNotAllowed               405
    ├── HeadTimeout                    408
    ├── BodyTimeout                    408
    ├── BodyTooLarge                   413
    ├── TooLargeToKeep                 413  a response in the background, which must be kept
    ├── UnsupportedEncoding            415
    ├── HeadersTooLarge                431
    ├── RequestCancelled               409  its own client ended it; only in logs
    ├── ClientGone                     499  the client disconnected; only in logs and metrics
    ├── InternalError                  500
    ├── RequestAborted                 503  the operator aborted it; clients must not retry
    ├── RequestTimedOut                504  it took longer than the operator allows; likewise
    └── Unavailable                    503  retry here or elsewhere after `retry_after_s`
        ├── StoreUnavailable                what was stored cannot be read or written now
        ├── NotReady                        the model is not loaded yet
        ├── Overloaded                      the engine and the queue are full
        ├── Draining                        the server is shutting down
        └── EngineDied                      the engine's processes have ended

`type` and `code` are OpenAI's (https://platform.openai.com/docs/guides/error-codes, read 2026-11);
the other dialects translate from them.
"""

from __future__ import annotations


class ServeError(Exception):
    """An answer that is an error.

    `message` is shown to the client: it never holds the client's input at length, paths or stack
    traces. `param` is the dotted name of the offending field, such as `messages[0].content`.
    """

    status = 500
    type = "server_error"
    code: str | None = "server_error"
    retry_after_s: int | None = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code


class InvalidRequest(ServeError):
    status = 400
    type = "invalid_request_error"
    code = "invalid_value"


class UnsupportedParameter(InvalidRequest):
    code = "unsupported_parameter"


class AdapterRefused(InvalidRequest):
    """An adapter that cannot be served; its message says why, and is the operator's to read."""

    code = "invalid_adapter"


class ContextLengthExceeded(InvalidRequest):
    """`size`: of the prompt, with its unit, and the `most` that fits, if the prompt alone is at
    fault: the other dialects have words of their own."""

    code = "context_length_exceeded"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        size: tuple[int, str] | None = None,
        most: int = 0,
    ):
        super().__init__(message, param=param)
        self.size = size
        self.most = most


class AuthenticationFailed(ServeError):
    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class ModelNotFound(ServeError):
    status = 404
    type = "invalid_request_error"
    code = "model_not_found"


class RouteNotFound(ServeError):
    status = 404
    type = "invalid_request_error"
    code = "unknown_url"


class ItemNotFound(ServeError):
    status = 404
    type = "invalid_request_error"
    code = "not_found"


class MethodNotAllowed(ServeError):
    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"


class HeadTimeout(ServeError):
    status = 408
    type = "invalid_request_error"
    code = "request_timeout"


class BodyTimeout(ServeError):
    status = 408
    type = "invalid_request_error"
    code = "request_timeout"


class BodyTooLarge(ServeError):
    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class TooLargeToKeep(ServeError):
    """A response that the store does not take."""

    status = 413
    type = "invalid_request_error"
    code = "response_too_large"


class UnsupportedEncoding(ServeError):
    status = 415
    type = "invalid_request_error"
    code = "unsupported_content_encoding"


class HeadersTooLarge(ServeError):
    status = 431
    type = "invalid_request_error"
    code = "request_header_fields_too_large"


class ClientGone(ServeError):
    status = 499
    type = "invalid_request_error"
    code = "client_closed_request"


class InternalError(ServeError):
    """Something that should not happen did. The cause is in the log under the request's id."""


class RequestAborted(ServeError):
    status = 503
    type = "service_unavailable_error"
    code = "request_aborted"


class RequestTimedOut(ServeError):
    """Its answer took too long. Asked again it would take as long."""

    status = 504
    type = "server_error"
    code = "request_timed_out"


class RequestCancelled(ServeError):
    """Its own client has ended it."""

    status = 409
    type = "invalid_request_error"
    code = "request_cancelled"


class Unavailable(ServeError):
    status = 503
    type = "service_unavailable_error"
    code = "service_unavailable"
    retry_after_s = 5


class StoreUnavailable(Unavailable):
    """What has been stored cannot be read or written now."""

    code = "store_unavailable"


class NotReady(Unavailable):
    code = "model_not_ready"


class Asleep(Unavailable):
    code = "engine_asleep"


class Overloaded(Unavailable):
    code = "server_is_overloaded"
    retry_after_s = 1


class Draining(Unavailable):
    code = "server_shutting_down"
    retry_after_s = 2


class EngineDied(Unavailable):
    code = "engine_dead"
    retry_after_s = 15


def too_many(param: str, most: int) -> InvalidRequest:
    """For an array or object with more entries than `most`."""
    return InvalidRequest(
        f"Invalid value for '{param}': must have at most {most} entries.",
        param=param,
        code="array_above_max_length",
    )


def above(param: str, most: int) -> InvalidRequest:
    """For an integer above `most`."""
    return InvalidRequest(
        f"Invalid value for '{param}': must be at most {most}.",
        param=param,
        code="integer_above_max_value",
    )


class StartError(Exception):
    """The server cannot start. `str()` is the one line that the operator reads."""

    exit_code = 71


class ConfigError(StartError):
    """A setting is wrong; the message names it, its value's source and what is accepted."""

    exit_code = 78
