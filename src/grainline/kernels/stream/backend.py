"""What computes on arrays: the protocol of STREAM's backends, and what they all check."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

from grainline.documents import GrainlineError

Body = Literal["fill", "copy", "scale", "add", "triad"]
BODIES: dict[Body, int] = {"fill": 0, "copy": 1, "scale": 1, "add": 2, "triad": 2}
"""What is computed → how many inputs it has: s; x; s·x; x + y; x + s·y."""
DTYPES = ("float32", "float64")


class Backend(Protocol):
    """A target with a way to compute on it. Arrays are the backend's own kind, of one dimension."""

    name: str
    threads: int  # that compute; 0 for an accelerator

    def empty(self, n: int, dtype: str) -> Any:
        """An array of n elements whose memory nobody has touched yet, where the system allows that."""
        ...

    def transform(self, body: Body, *inputs: Any, out: Any, s: float = 0.0) -> None:
        """out[i] = body(x[i], y[i], s). `out` may be an input, but not overlap one in part.

        Raises GrainlineError where arrays don't fit each other.
        """
        ...

    def sum(self, x: Any) -> float:
        """Σ x, the same whenever it is computed again."""
        ...

    def wait(self) -> None:
        """Until all is done."""
        ...

    def wrong(self, x: Any, value: float, relative: float) -> int:
        """How many elements are further from `value` than the tolerance."""
        ...


class Span(NamedTuple):
    """An array as its checks see it."""

    name: str
    place: str  # the device
    dtype: str
    length: int
    start: int  # address of its first byte
    end: int
    flaw: str = ""  # why it can't be taken at all


def check(body: Body, spans: Sequence[Span]) -> None:
    """Whether the inputs of `body` and its output fit each other. Raises GrainlineError that names those that don't."""
    if body not in BODIES:
        raise GrainlineError(f"'{body}' is nothing that can be computed here. There is {', '.join(BODIES)}.")
    if len(spans) != BODIES[body] + 1:
        raise GrainlineError(f"{body} takes {BODIES[body]} inputs, not {len(spans) - 1}.")
    *inputs, out = spans
    for span in spans:
        if span.flaw:
            raise GrainlineError(f"{body}: {span.name} {span.flaw}.")
        if span.dtype not in DTYPES:
            raise GrainlineError(f"{body}: {span.name} is {span.dtype}; it must be {' or '.join(DTYPES)}.")
    for x in inputs:
        if x.place != out.place:
            raise GrainlineError(f"{body}: {x.name} is on {x.place}, but {out.name} is on {out.place}.")
        if x.dtype != out.dtype:
            raise GrainlineError(f"{body}: {x.name} is {x.dtype}, but {out.name} is {out.dtype}.")
        if x.length != out.length:
            raise GrainlineError(f"{body}: {x.name} has {x.length} elements, but {out.name} has {out.length}.")
        if x.start < out.end and out.start < x.end and x.start != out.start:
            raise GrainlineError(
                f"{body}: {out.name} overlaps {x.name} in part, so what is read depends on the order. "
                "Write to the very same array, or to one apart from it."
            )


def names(inputs: int) -> tuple[str, ...]:
    """How errors call the arrays of a call: ("x", "y", "out")."""
    return (*("x", "y", "z", "w")[:inputs], "out")
