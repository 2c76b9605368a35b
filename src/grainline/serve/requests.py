"""What clients may send: the OpenAI API's request bodies, checked strictly.

A field that would change the answer and isn't done here is an error that names it. A field that changes nothing for
this server (`user`, `metadata`, …) is accepted. null means "not given".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from grainline.documents import nearest
from grainline.serve.errors import UNKNOWN, UNSUPPORTED, from_validation, invalid, param_of

MAX_CHOICES = 128
MAX_SEQUENCES = 2048
MAX_STOPS = 16
MAX_STOP_CHARACTERS = 256
MAX_TOP_LOGPROBS = 20
MAX_ID_DIGITS = 18  # of a token id written as a key: far more than any vocabulary needs


def _said(message: str) -> WrapValidator:
    """One plain message in place of a complaint from every branch of a union."""

    def check(value: Any, handler: Callable[[Any], Any]) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise ValueError(message) from None

    return WrapValidator(check)


Body = TypeVar("Body", bound=BaseModel)
Ids = list[Annotated[int, Field(ge=0)]]
Stop = Annotated[
    str | list[str] | None, _said("must be a string or a list of strings"), Field(description="where the text ends")
]
Prompt = Annotated[
    str | list[str] | Ids | list[Ids],
    _said("must be a string, a list of strings, a list of token ids, or a list of lists of token ids"),
]


def _refused(model: type[BaseModel], name: str, value: Any, message: str, code: str) -> ValidationError:
    """A complaint about one key, which pydantic then locates in the whole body."""
    error = InitErrorDetails(
        type=PydanticCustomError(code, "{message}", {"message": message}), loc=(name,), input=value
    )
    return ValidationError.from_exception_data(model.__name__, [error])


def _refuse_half_characters(fields: Mapping[str, Any]) -> None:
    """Raises ApiError for a string with a lone surrogate: JSON can write one ("\\ud800"), but UTF-8 can't hold it."""
    todo: list[tuple[tuple[str | int, ...], Any]] = [((), fields)]  # a list, since values may be nested deeply
    while todo:
        place, value = todo.pop()
        if isinstance(value, str):
            if not _is_text(value):
                raise invalid(param_of(place), "is not text: it has half of a surrogate pair, such as \\ud800, alone.")
        elif isinstance(value, list):
            todo += [((*place, i), item) for i, item in enumerate(value) if isinstance(item, str | list | dict)]
        elif isinstance(value, dict):
            for key in value:
                if not _is_text(key):
                    shown = param_of((*place, ascii(key)[1:-1]))
                    raise invalid(shown, "is a name with half of a surrogate pair alone, and so not text.")
            todo += [((*place, key), item) for key, item in value.items()]


def _is_text(value: str) -> bool:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


class _Body(BaseModel):
    """A JSON object whose unknown keys are errors. Subclasses list what they know and don't do."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)

    harmless: ClassVar[frozenset[str]] = frozenset()
    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    """Fields that are refused, each with the values that ask for nothing and so may be sent."""

    @model_validator(mode="before")
    @classmethod
    def _only_what_is_done(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        kept = {}
        for name, value in fields.items():
            if value is None or name in cls.harmless:
                continue
            if name in cls.unsupported:
                if value not in cls.unsupported[name]:
                    raise _refused(cls, name, value, "is not supported by this server; leave it out.", UNSUPPORTED)
            elif name not in cls.model_fields:
                raise _refused(cls, name, value, f"unknown field.{nearest(name, cls.model_fields)}", UNKNOWN)
            else:
                kept[name] = value
        return kept


def parse(kind: type[Body], fields: Mapping[str, Any]) -> Body:
    """A body from plain values, as from JSON. Raises ApiError."""
    try:
        return kind.model_validate(dict(fields))
    except ValidationError as error:
        located = [{**problem, "loc": ("body", *problem["loc"])} for problem in error.errors()]
        raise from_validation(located, fields) from None


class StreamOptions(_Body):
    """How a stream is told."""

    harmless = frozenset({"include_obfuscation"})

    include_usage: bool = Field(False, description="one more chunk at the end, with the token counts")


class SamplingBody(_Body):
    """What both kinds of completion share: sampling, stopping and streaming."""

    harmless = frozenset(
        {"user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "service_tier"}
    )

    model: str | None = Field(None, description="the served model's name; may be left out, there is only one")
    temperature: float = Field(1.0, ge=0, le=2, description="0 takes the likeliest token each time")
    top_p: float = Field(1.0, ge=0, le=1)
    top_k: int = Field(0, ge=-1, description="only the k likeliest tokens; 0 or -1: all")
    min_p: float = Field(0.0, ge=0, le=1, description="only tokens at least this share as likely as the likeliest")
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    # The bounds keep a logit divided or multiplied by it finite in float32.
    repetition_penalty: float = Field(
        1.0, ge=0.01, le=100, description="divides the logits of tokens already in the sequence"
    )
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] = Field({}, description="token id → added logit")
    n: int = Field(1, ge=1, le=MAX_CHOICES)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Stop = None
    stop_token_ids: Ids = Field([], description="more token ids that end the generation")
    ignore_eos: bool = Field(False, description="go on past the model's end-of-text tokens")
    stream: bool = False
    stream_options: StreamOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _is_text_throughout(cls, fields: Any) -> Any:
        if isinstance(fields, dict):
            _refuse_half_characters(fields)
        return fields

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise invalid("stream_options", "only goes with 'stream': true.")
        stops = self.stops
        if len(stops) > MAX_STOPS:
            raise invalid("stop", f"at most {MAX_STOPS} stop strings, not {len(stops)}.")
        if any(not 0 < len(stop) <= MAX_STOP_CHARACTERS for stop in stops):
            raise invalid("stop", f"each stop string must have 1 to {MAX_STOP_CHARACTERS} characters.")
        for key in self.logit_bias:
            if not key.isascii() or not key.isdigit() or len(key) > MAX_ID_DIGITS:
                shown = repr(key) if len(key) <= 2 * MAX_ID_DIGITS else f"one of {len(key):,} characters"
                raise invalid("logit_bias", f"keys must be token ids, not {shown}.")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings, however few were given."""
        return () if self.stop is None else (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def biases(self) -> dict[int, float]:
        """`logit_bias` by token id."""
        return {int(id): bias for id, bias in self.logit_bias.items()}

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the token counts."""
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionRequest(SamplingBody):
    """The body of ``POST /v1/completions``."""

    unsupported = {"suffix": ("",), "best_of": (1,)}

    prompt: Prompt
    max_tokens: int = Field(16, ge=0, description="0 goes with echo: the prompt is scored, nothing is generated")
    echo: bool = Field(False, description="the prompt before the completion, with its logprobs if those are asked for")
    logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS, description="0: of the chosen tokens alone")

    @model_validator(mode="after")
    def _prompts_are_some(self) -> Self:
        prompts = self.prompts
        if not prompts or any(isinstance(prompt, list) and not prompt for prompt in prompts):
            raise invalid("prompt", "is an empty list.")
        if len(prompts) * self.n > MAX_SEQUENCES:
            raise invalid("prompt", f"at most {MAX_SEQUENCES} sequences (prompts times n) in one request.")
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts one by one, each a text or token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [self.prompt]  # a list of ids, by its first
        return list(self.prompt)  # type: ignore[arg-type]


class Message(_Body):
    """One message of a chat; its content is text, whole or in parts."""

    harmless = frozenset({"refusal", "annotations"})
    unsupported = {"tool_calls": ((), []), "tool_call_id": (), "function_call": (), "audio": ()}

    role: Literal["system", "developer", "user", "assistant"]
    content: str
    name: str | None = None

    @field_validator("content", mode="before")
    @classmethod
    def _join_parts(cls, content: Any) -> Any:
        if not isinstance(content, list):
            return content
        for part in content:
            if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
                raise ValueError("parts must be of type 'text' and have a text")
        return "\n".join(part["text"] for part in content)


class ChatRequest(SamplingBody):
    """The body of ``POST /v1/chat/completions``."""

    harmless = SamplingBody.harmless | {"prediction"}
    unsupported = {
        "tools": ([],),
        "tool_choice": ("none", "auto"),
        "parallel_tool_calls": (True, False),
        "functions": ([],),
        "function_call": ("none", "auto"),
        "response_format": ({"type": "text"},),
        "modalities": (["text"],),
        "audio": (),
        "reasoning_effort": (),
        "verbosity": (),
        "store": (False,),
        "web_search_options": (),
        "moderation": (),
    }

    messages: list[Message]
    max_tokens: int | None = Field(None, ge=1, description="default: up to the end of the context")
    max_completion_tokens: int | None = Field(None, ge=1, description="the newer name of max_tokens")
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=MAX_TOP_LOGPROBS)
    chat_template_kwargs: dict[str, Any] = Field({}, description="more variables for the chat template")

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        if not self.messages:
            raise invalid("messages", "is an empty list.")
        if self.top_logprobs and not self.logprobs:
            raise invalid("top_logprobs", "only goes with 'logprobs': true.")
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise invalid("max_tokens", "differs from max_completion_tokens; send one of them.")
        return self

    @property
    def limit(self) -> int | None:
        """How many tokens may be generated, if the client said."""
        return self.max_completion_tokens or self.max_tokens
