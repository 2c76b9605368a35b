"""STREAM without a compiler: NumPy over blocks that stay in the cache, where a second pass costs little."""

from __future__ import annotations

import numpy as np

from grainline.documents import GrainlineError
from grainline.kernels.stream.backend import Body, check, names
from grainline.kernels.stream.native import Array, span, wrong

BLOCK = 16_384  # elements; three arrays of them fit into any second-level cache


class Blocked:
    """A backend on one thread, and named as what it is: no native rate."""

    name = f"NumPy in blocks of {BLOCK}"
    threads = 1

    def empty(self, n: int, dtype: str) -> Array:
        """See `Backend`."""
        return np.empty(n, dtype)

    def transform(self, body: Body, *inputs: Array, out: Array, s: float = 0.0) -> None:
        """See `Backend`."""
        check(body, [span(name, a) for name, a in zip(names(len(inputs)), (*inputs, out), strict=True)])
        if not out.flags.writeable:
            raise GrainlineError(f"{body}: out can't be written.")
        scalar = out.dtype.type(s)
        for i in range(0, len(out), BLOCK):
            into, (x, *y) = out[i : i + BLOCK], [a[i : i + BLOCK] for a in inputs] or [out[:0]]
            if body == "fill":
                into[:] = scalar
            elif body == "copy":
                into[:] = x
            elif body == "scale":
                np.multiply(x, scalar, out=into)
            elif body == "add":
                np.add(x, y[0], out=into)
            else:
                np.add(x, y[0] * scalar, out=into)

    def sum(self, x: Array) -> float:
        """See `Backend`."""
        check("fill", [span("x", x)])
        return float(np.sum(x, dtype=np.float64))

    def wait(self) -> None:
        """Calls return when all is done."""

    def wrong(self, x: Array, value: float, relative: float) -> int:
        """See `Backend`."""
        return wrong(x, value, relative)
