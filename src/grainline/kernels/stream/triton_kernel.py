"""The kernel; imported only where triton is there."""

import triton
import triton.language as tl

FILL, COPY, SCALE, ADD = (tl.constexpr(i) for i in range(4))  # as in BODIES; the next is triad


@triton.jit
def transform(x, y, s, out, n, BODY: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """out[i] = body(x[i], y[i], s[0]) for i below n; each program takes BLOCK of them."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    scalar = tl.load(s)
    if BODY == FILL:
        value = tl.zeros((BLOCK,), out.dtype.element_ty) + scalar
    elif BODY == COPY:
        value = tl.load(x + i, mask=inside)
    elif BODY == SCALE:
        value = scalar * tl.load(x + i, mask=inside)
    elif BODY == ADD:
        value = tl.load(x + i, mask=inside) + tl.load(y + i, mask=inside)
    else:
        value = tl.load(x + i, mask=inside) + scalar * tl.load(y + i, mask=inside)
    tl.store(out + i, value, mask=inside)
