"""Backends that a person names: for a block of code, or for a process by a variable of the environment."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

from grainline.documents import GrainlineError, nearest

VARIABLE = "GRAINLINE_BACKENDS"
"""op=backend, several with commas: GRAINLINE_BACKENDS="expert_mixture=triton,swiglu_experts=triton"."""

Table = Mapping[str, Mapping[str, object]]
"""op → backend → anything."""

_named: ContextVar[Mapping[str, str]] = ContextVar("grainline_backends", default=MappingProxyType({}))


@contextmanager
def naming(backends: Mapping[str, str], table: Table) -> Iterator[None]:
    """Within the block these ops run on these backends. Raises GrainlineError for names that aren't in the table."""
    _check(backends, table, "kernels.use")
    token = _named.set({**_named.get(), **backends})
    try:
        yield
    finally:
        _named.reset(token)


def named(op: str, table: Table) -> str | None:
    """The backend that somebody named for this op: by `naming`, else in the environment. Raises GrainlineError."""
    backend = _named.get().get(op)
    text = os.environ.get(VARIABLE)
    if backend is None and text:
        pairs = _read(text)
        _check(pairs, table, VARIABLE)
        backend = pairs.get(op)
    return backend


@functools.lru_cache(maxsize=8)
def _read(text: str) -> Mapping[str, str]:
    pairs = [pair.strip().partition("=") for pair in text.split(",") if pair.strip()]
    for op, equals, backend in pairs:
        if not (op and equals and backend):
            raise GrainlineError(f"{VARIABLE}={text}: '{op}{equals}{backend}' must be op=backend; commas go between.")
    return {op.strip(): backend.strip() for op, _, backend in pairs}


def _check(backends: Mapping[str, str], table: Table, where: str) -> None:
    for op, backend in backends.items():
        if op not in table:
            raise GrainlineError(f"{where}: there is no op '{op}'.{nearest(op, table)} There is {', '.join(table)}.")
        if backend not in table[op]:
            raise GrainlineError(f"{where}: '{op}' has no backend '{backend}'. It has {', '.join(table[op])}.")
