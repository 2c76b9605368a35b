"""From a verb's typed arguments to its command line, and argument types that several verbs share."""

from __future__ import annotations

import inspect
import shutil
import textwrap
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import tyro

Settings = Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="KEY=VALUE")]
"""``--set a.b=c``, as often as wanted: assignments that `Document.load` takes as overrides."""

CONFIG = (
    tyro.conf.FlagCreatePairsOff,  # --flag or --no-flag, whichever isn't the default
    tyro.conf.PositionalMetavarFromFieldName,
    tyro.conf.DisallowNone,  # an option is left out, not set to None
)


def call(run: Callable[..., int], name: str, arguments: Sequence[str]) -> int:
    """Read the arguments by `run`'s annotations and docstring, and call it. `name` is what a person typed.

    Raises SystemExit after ``--help`` (0) and after an argument that isn't right (2).
    """
    if {"-h", "--help"} & set(arguments):
        print(_description(inspect.getdoc(run) or ""))
    as_written = run.__annotations__
    run.__annotations__ = {name: _quiet(p) for name, p in inspect.signature(run, eval_str=True).parameters.items()}
    try:
        return tyro.cli(run, prog=name, description="", args=arguments, config=CONFIG)
    finally:
        run.__annotations__ = as_written


def _description(docstring: str) -> str:
    """What stands before ``Args:``, wrapped for the terminal; tyro would put each paragraph into one line."""
    width = min(shutil.get_terminal_size().columns, 100)
    paragraphs = docstring.split("\nArgs:")[0].strip("\n").split("\n\n")
    # An indented paragraph is an example, and stays as it is.
    wrapped = [p if p.startswith("  ") else textwrap.fill(" ".join(p.split()), width) for p in paragraphs]
    return "\n\n".join(wrapped) + "\n"


def _quiet(parameter: inspect.Parameter) -> Any:
    """The parameter's type, without a help's "(default: None)", which tells nobody anything."""
    unset = parameter.default is None or parameter.default == () or isinstance(parameter.default, bool)
    hint = tyro.conf.arg(help_behavior_hint="")
    return Annotated[parameter.annotation, hint] if unset else parameter.annotation
