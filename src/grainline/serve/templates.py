"""Chat templates: messages → the prompt text that a model was tuned on, rendered in a sandbox.

A template comes with the model or from a file, in the Jinja dialect of Hugging Face's tokenizers: blocks trimmed, loop
controls, `tojson`, `raise_exception`, `strftime_now` and `{% generation %}`. It is a stranger's program, so it runs
in Jinja's immutable sandbox: no underscore attributes, no changes to what it is given, bounded `range`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from grainline.documents import GrainlineError

PLAIN = """\
{% for message in messages %}
{{ message.role }}: {{ message.content }}
{% endfor %}
{% if add_generation_prompt %}assistant:{% endif %}"""
PLAIN_STOPS = ("\nuser:", "\nsystem:", "\nassistant:")
"""A base model knows no end of a turn, so under the plain template the next turn's opening ends the answer."""


class TemplateRefusal(Exception):
    """The template doesn't take these messages (it called `raise_exception`, or tripped over them)."""


class UnsafeTemplate(Exception):
    """The template tried to leave the sandbox."""


class ChatTemplate:
    """A compiled chat template.

    `name` says where it came from; `stops` are strings that end an answer under it; `adds_bos`: whether the text still
    needs the token that begins every text (a model's own template writes it itself).
    """

    def __init__(self, source: str, name: str, tokens: Mapping[str, str] | None = None) -> None:
        """`tokens`: special tokens by their template names, such as ``{"bos_token": "<|endoftext|>"}``.

        Raises GrainlineError if the template isn't well-formed.
        """
        self.name = name
        self.stops: tuple[str, ...] = ()
        self.adds_bos = False
        self._tokens = dict(tokens or {})
        try:
            self._template = _environment().from_string(source)
        except TemplateSyntaxError as error:
            raise GrainlineError(
                f"{name}, line {error.lineno}: the chat template is not well-formed: {error}."
            ) from None

    @classmethod
    def plain(cls) -> ChatTemplate:
        """What a base model without a template is served with: ``role: content`` lines, then ``assistant:``."""
        template = cls(PLAIN, "plain")
        template.stops, template.adds_bos = PLAIN_STOPS, True
        return template

    @classmethod
    def load(cls, path: str | Path, tokens: Mapping[str, str] | None = None) -> ChatTemplate:
        """Read a template file. Raises GrainlineError if it is missing, isn't text or isn't well-formed."""
        path = Path(path)
        try:
            source = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise GrainlineError(f"--chat-template {path}: no such file; name a Jinja file, or 'plain'.") from None
        except (IsADirectoryError, UnicodeDecodeError):
            raise GrainlineError(f"--chat-template {path}: is no text file; name a Jinja file, or 'plain'.") from None
        return cls(source, str(path), tokens)

    def render(self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any] | None = None) -> str:
        """The prompt, ready for the assistant's turn.

        messages: dicts with `role` and `content`. variables: more names for the template, such as `enable_thinking`.
        Raises TemplateRefusal, or UnsafeTemplate if the template tries to leave the sandbox.
        """
        given = {
            **self._tokens,
            "tools": None,
            "documents": None,
            **(variables or {}),
            "messages": [dict(message) for message in messages],
            "add_generation_prompt": True,
        }
        try:
            return self._template.render(given)
        except SecurityError as error:
            raise UnsafeTemplate(f"chat template {self.name}: {error}") from None
        except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as error:
            raise TemplateRefusal(str(error)) from None


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[LoopControlExtension, _GenerationExtension]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


class _GenerationExtension(Extension):
    """``{% generation %}…{% endgeneration %}`` marks the assistant's text for training masks; here it is just text."""

    tags = {"generation"}  # noqa: RUF012  # jinja2 declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as models saw it in training: without the HTML escapes of Jinja's own filter."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)
