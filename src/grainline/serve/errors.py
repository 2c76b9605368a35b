"""Errors as the OpenAI API words them: a status, and ``{"error": {message, type, param, code}}``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

UNKNOWN = "unknown_parameter"
UNSUPPORTED = "unsupported_parameter"
QUEUE_FULL_RETRY_SECONDS = 5


class ApiError(Exception):
    """An answer that is an error.

    `param` names the field at fault as a client would write it (``messages[0].content``), `code` is the word that
    programs test for, `kind` is OpenAI's ``type``.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        kind: str = "invalid_request_error",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.kind = kind
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The JSON that says it, also inside an event stream that has begun."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def invalid(param: str, message: str, code: str = "invalid_value") -> ApiError:
    """400: one field doesn't hold."""
    return ApiError(400, f"{param}: {message}", param=param, code=code)


def too_long(prompt_tokens: int, context_tokens: int, param: str) -> ApiError:
    """400: the prompt leaves no room in the context."""
    return ApiError(
        400,
        f"This model's context length is {context_tokens} tokens, but the prompt has {prompt_tokens}. Shorten it.",
        param=param,
        code="context_length_exceeded",
    )


def queue_full(waiting: int) -> ApiError:
    """429: too many requests wait already."""
    return ApiError(
        429,
        f"{waiting} generations are waiting already. Try again in a few seconds.",
        code="queue_full",
        kind="rate_limit_error",
        headers={"Retry-After": str(QUEUE_FULL_RETRY_SECONDS)},
    )


def stopping(message: str) -> ApiError:
    """503: the server shuts down."""
    return ApiError(503, message, code="server_stopping", kind="server_error")


def failed(error: BaseException) -> ApiError:
    """500: not the client's fault; the server's log has the traceback."""
    message = f"The server failed ({type(error).__name__}); its log says more."
    return ApiError(500, message, code="internal_error", kind="server_error")


def param_of(location: Sequence[str | int]) -> str:
    """A pydantic location as a client writes it: ``("messages", 0, "content")`` is ``messages[0].content``."""
    name = ""
    for step in location:
        name += f"[{step}]" if isinstance(step, int) else f".{step}" if name else step
    return name


def from_validation(errors: Sequence[Mapping[str, Any]], body: Any) -> ApiError:
    """The first of FastAPI's complaints about a request body, as one ApiError (400)."""
    error = errors[0]
    location = tuple(error["loc"])[1:]  # the first step is "body"
    if error["type"] == "json_invalid":
        return ApiError(400, f"The body is not well-formed JSON: {_json_problem(error, body)}.", code="invalid_json")
    if not location:
        problem = "is required" if error["type"] == "missing" else "must be a JSON object"
        return ApiError(400, f"The body {problem}; send it with the header 'Content-Type: application/json'.")
    param = param_of(location)
    if error["type"] == "missing":
        return invalid(param, "is required.", code="missing_required_parameter")
    if error["type"] in (UNKNOWN, UNSUPPORTED):
        return invalid(param, error["msg"], code=error["type"])
    message = error["msg"].removeprefix("Value error, ").replace("Input should", "should", 1)
    message = message.removesuffix(" or object to extract fields from").replace("a valid dictionary", "an object")
    shown = repr(error["input"])
    given = f", not {shown}" if len(shown) <= 80 else ""
    return invalid(param, f"{message}{given}.")


def _json_problem(error: Mapping[str, Any], body: Any) -> str:
    position = error["loc"][-1]
    problem = error.get("ctx", {}).get("error", error["msg"])
    if not isinstance(body, str) or not isinstance(position, int):
        return f"{problem}"
    line = body.count("\n", 0, position) + 1
    column = position - body.rfind("\n", 0, position)
    return f"{problem} at line {line}, column {column} (character {position})"
