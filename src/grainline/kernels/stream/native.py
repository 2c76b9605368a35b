"""STREAM's loops from the compiled core: one generic source under four policies, on the workers of an executor."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from grainline import _compiled
from grainline.documents import GrainlineError
from grainline.kernels.executor import MISSING, Executor
from grainline.kernels.stream.backend import BODIES, Body, Span, check, names

Array = NDArray[Any]
Policy = Literal["seq", "simd", "par", "par_simd"]
"""What may be assumed of the body: one element after another, packs of elements, and either by many threads."""
Store = Literal["ordinary", "streaming"]
"""An ordinary store reads the line that it writes into first; a streaming one goes past the caches."""
POLICIES: tuple[Policy, ...] = get_args(Policy)
STORES: tuple[Store, ...] = get_args(Store)
KINDS = {("one", "ordinary"): 0, ("packs", "ordinary"): 1, ("packs", "streaming"): 2}
CHECKED = 1 << 15  # elements at a time, so that they stay in the cache


class InstructionSet(NamedTuple):
    """The widest packs that a loop uses."""

    name: str  # "portable", "avx2", "avx512"
    pack_bytes: int
    can_stream: bool


def instruction_sets() -> tuple[InstructionSet, ...]:
    """Those that this processor can run, the narrowest first; none without the compiled core."""
    count = _compiled.function("gl_instruction_sets", [], ctypes.c_int64)
    if count is None:
        return ()
    name = _function("gl_instruction_set_name", [ctypes.c_int64], ctypes.c_char_p)
    pack_bytes = _function("gl_pack_bytes", [ctypes.c_int64], ctypes.c_int64)
    can_stream = _function("gl_can_stream", [ctypes.c_int64], ctypes.c_int32)
    return tuple(InstructionSet(name(i).decode(), pack_bytes(i), bool(can_stream(i))) for i in range(count()))


class Native:
    """A backend: the executor's workers under `par` and `par_simd`, the calling thread alone under `seq` and `simd`.

    `repeats`: how often each worker goes over its block in a call, for arrays so small that launching takes longer.
    """

    def __init__(
        self,
        executor: Executor,
        policy: Policy = "par_simd",
        store: Store = "ordinary",
        instruction_set: str | None = None,
        repeats: int = 1,
    ) -> None:
        """`instruction_set`: the widest by default. Raises GrainlineError that lists what there is."""
        sets = {each.name: i for i, each in enumerate(instruction_sets())}
        if not sets:
            raise GrainlineError(MISSING)
        chosen = list(sets)[-1] if instruction_set is None else instruction_set
        for what, asked, there in (
            ("policy", policy, POLICIES),
            ("store", store, STORES),
            ("instruction set", chosen, tuple(sets)),
        ):
            if asked not in there:
                raise GrainlineError(f"{what} '{asked}': there is none here. There is {', '.join(there)}.")
        packs = "packs" if policy.endswith("simd") else "one"
        if (packs, store) not in KINDS:
            raise GrainlineError(
                f"policy '{policy}' has ordinary stores only; streaming ones write whole packs (simd)."
            )
        if store == "streaming" and not instruction_sets()[sets[chosen]].can_stream:
            raise GrainlineError("streaming stores: the compiler knew none for this processor. Use ordinary ones.")
        self.name = f"{policy}, {chosen if packs == 'packs' else 'scalar'}, {store} stores"
        self.executor, self.policy, self.store, self.repeats = executor, policy, store, repeats
        self.threads = executor.workers if self._parallel else 1
        self._set, self._kind = sets[chosen], KINDS[packs, store]
        i32, i64, pointer, f64 = ctypes.c_int32, ctypes.c_int64, ctypes.c_void_p, ctypes.c_double
        head = [pointer, i64, i32, i32]
        self._transform = _function("gl_transform", [*head, i32, pointer, pointer, f64, pointer, i64, i64], None)
        self._sum = _function("gl_sum", [*head, pointer, i64, i64], f64)

    @property
    def _parallel(self) -> bool:
        return self.policy.startswith("par")

    def empty(self, n: int, dtype: str) -> Array:
        """Pages that are reserved and not touched: whoever writes first decides on which NUMA domain they lie."""
        size = max(1, n * np.dtype(dtype).itemsize)
        if not hasattr(mmap, "MAP_PRIVATE"):
            return np.empty(n, dtype)
        pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        return np.frombuffer(pages, dtype, count=n)

    def transform(self, body: Body, *inputs: Array, out: Array, s: float = 0.0) -> None:
        """See `Backend`."""
        check(body, [span(name, a) for name, a in zip(names(len(inputs)), (*inputs, out), strict=True)])
        if not out.flags.writeable:
            raise GrainlineError(f"{body}: out can't be written.")
        x, y = ([a.ctypes.data for a in inputs] + [None, None])[:2]
        self._transform(*self._head(out), list(BODIES).index(body), x, y, s, out.ctypes.data, len(out), self.repeats)

    def sum(self, x: Array) -> float:
        """Each worker's part in packs, the parts added in order: bit-equal whenever it is computed again.

        Against the exact sum: an error below 2⁻¹⁰ · Σ |x| in float32, and 2⁻³⁶ · Σ |x| in float64 up to 2³¹ elements.
        """
        check("fill", [span("x", x)])
        return float(self._sum(*self._head(x), x.ctypes.data, len(x), self.repeats))

    def wait(self) -> None:
        """Calls return when all is done."""

    def wrong(self, x: Array, value: float, relative: float) -> int:
        """See `Backend`."""
        return wrong(x, value, relative)

    def _head(self, a: Array) -> tuple[int | None, int, int, int]:
        return (self.executor.handle if self._parallel else None), self._set, self._kind, int(a.dtype == np.float64)


def span(name: str, a: Array) -> Span:
    """A NumPy array for `check`."""
    flaw = ""
    if a.ndim != 1:
        flaw = f"has {a.ndim} dimensions; it must have one"
    elif not a.flags.c_contiguous or not a.flags.aligned:
        flaw = "is no contiguous, aligned array; copy it first"
    return Span(name, "the CPU", str(a.dtype), len(a), a.ctypes.data, a.ctypes.data + a.nbytes, flaw)


def wrong(x: Array, value: float, relative: float) -> int:
    """How many elements are further from `value` than `relative` of it; a few at a time, to need no memory."""
    wanted, tolerance, found = x.dtype.type(value), relative * abs(value), 0
    for i in range(0, len(x), CHECKED):
        part = x[i : i + CHECKED]
        right = np.abs(part - wanted) <= tolerance if relative else part == wanted
        found += len(part) - int(np.count_nonzero(right))
    return found


def _function(name: str, arguments: list[Any], result: Any) -> Callable[..., Any]:
    found = _compiled.function(name, arguments, result)
    if found is None:
        raise GrainlineError(MISSING)
    return found
