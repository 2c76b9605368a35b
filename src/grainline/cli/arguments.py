"""Argument types that several verbs share."""

from typing import Annotated

import tyro

Settings = Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="KEY=VALUE")]
"""``--set a.b=c``, as often as wanted: assignments that `Document.load` takes as overrides."""
