"""Measured ops from a file: what kernels took on a device type, to calibrate its costs with.

A CSV file with the columns type, family, dtype, weights, sizes and seconds; sizes are separated by spaces:

    type,family,dtype,weights,sizes,seconds
    A100-80,product,bfloat16,int8,16 4096 4096,2.1e-5
    A100-80,decode,bfloat16,bfloat16,32 1000 32 8 128 0,6.0e-5
    A100-80,all-reduce,bfloat16,bfloat16,1048576 4,2.2e-5
"""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

from grainline.documents import DocumentError, GrainlineError, nearest
from grainline.hardware.catalogue import catalogue
from grainline.models.count import WIDTH
from grainline.plan.serving import ops
from grainline.plan.serving.calibrate import Sample
from grainline.plan.serving.ops import Family, Op

SIZES: Mapping[str, str] = {
    "product": "rows columns inner",
    "experts": "tokens size hidden pool top_k share_here",
    "prefill": "sequences new past heads kv_heads head_dim window",
    "decode": "sequences context heads kv_heads head_dim window",
    "move": "bytes",
    **dict.fromkeys(("all-reduce", "all-gather", "reduce-scatter", "all-to-all"), "bytes ranks"),
}
"""What a family's sizes are; a window of 0 is none."""


def op_of(family: str, dtype: str, weights: str, sizes: tuple[float, ...]) -> Op:
    """An op by its family and sizes, computed in `dtype`, with weights or cache held in `weights`.

    Raises GrainlineError for a family, a dtype or a number of sizes that there isn't.
    """
    if family not in SIZES:
        raise GrainlineError(f"no family '{family}'.{nearest(family, SIZES)}")
    names = SIZES[family].split()
    if len(sizes) != len(names) or any(not 0 <= size < math.inf for size in sizes):
        raise GrainlineError(f"a {family} has {len(names)} sizes that aren't negative: {' '.join(names)}.")
    for name in (dtype, weights):
        if name not in WIDTH:
            raise GrainlineError(f"no dtype '{name}'.{nearest(name, WIDTH)}")
    if family == "product":
        rows, columns, inner = sizes
        return ops.product(rows, columns, inner, dtype, weights)
    if family == "experts":
        tokens, size, hidden, pool, top_k, here = sizes
        return ops.experts(tokens, size, hidden, int(pool), int(top_k), dtype, weights, local=here)
    if family == "prefill":
        sequences, new, past, heads, kv_heads, dim, window = (int(size) for size in sizes)
        return ops.prefill(sequences, new, past, heads, kv_heads, dim, dim, dtype, weights, window or None)
    if family == "decode":
        sequences, context, heads, kv_heads, dim, window = (int(size) for size in sizes)
        return ops.decode(sequences, context, heads, kv_heads, dim, dim, dtype, weights, window or None)
    if family == "move":
        return ops.move(sizes[0])
    kind: Family = next(name for name in get_args(Family) if name == family)
    return ops.collective(kind, sizes[0], int(sizes[1]))


def read_ops(path: Path) -> dict[str, list[Sample]]:
    """Samples by device type, under the catalogue's names. Raises DocumentError with the line that isn't right."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DocumentError([f"can't be read: {getattr(error, 'strerror', None) or 'not UTF-8 text'}."], path) from None
    found: dict[str, list[Sample]] = defaultdict(list)
    for number, row in enumerate(csv.DictReader(lines), 2):
        missing = [key for key in ("type", "family", "dtype", "weights", "sizes", "seconds") if not row.get(key)]
        if missing:
            raise DocumentError([f"line {number}: has no {', '.join(missing)}."], path)
        try:
            sizes, seconds = tuple(map(float, row["sizes"].split())), float(row["seconds"])
        except ValueError:
            raise DocumentError([f"line {number}: sizes and seconds must be numbers."], path) from None
        if not 0 < seconds < math.inf:
            raise DocumentError([f"line {number}: {seconds:g} s isn't a time; it must be positive."], path)
        try:
            name = catalogue().device(row["type"]).name
            op = op_of(row["family"], row["dtype"], row["weights"], sizes)
        except GrainlineError as error:
            raise DocumentError([f"line {number}: {error}"], path) from None
        found[name].append(Sample(op, seconds))
    if not found:
        raise DocumentError(["holds no ops."], path)
    return dict(found)
