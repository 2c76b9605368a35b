"""Errors for people: what was wrong, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class GrainlineError(Exception):
    """Something a person can mend. The command line prints its message without a traceback and exits with 2."""


class AlreadyTold(GrainlineError):
    """What another process of the same run met, and tells of: the command line says nothing more about it."""


class DocumentError(GrainlineError):
    """A document that can't be read or doesn't hold: every problem with its key, and the nearest right key."""

    def __init__(self, problems: Iterable[str], where: str | Path) -> None:
        self.problems = tuple(problems)
        self.where = str(where)
        super().__init__("\n".join(f"{self.where}: {problem}" for problem in self.problems))


def nearest(word: str, choices: Iterable[str]) -> str:
    """` Did you mean 'x'?`, or the list of what there is, or nothing where there is nothing."""
    choices = sorted(set(choices))
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.55)
    if close:
        return f" Did you mean '{close[0]}'?"
    return f" Known here: {', '.join(choices)}." if choices else ""
