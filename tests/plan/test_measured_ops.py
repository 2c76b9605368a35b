"""Measured ops: read from a file, and what they change."""

from __future__ import annotations

from pathlib import Path

import pytest

from grainline.documents import DocumentError
from grainline.models.catalogue import config_of
from grainline.plan.fleet.types import listed_types
from grainline.plan.serving.calibrate import key_of
from grainline.plan.serving.measured_ops import SIZES, op_of, read_ops
from grainline.plan.serving.replica import listed_replica
from grainline.plan.serving.step import Chunk, step_ops

HEAD = "type,family,dtype,weights,sizes,seconds\n"


def test_ops_of_a_file_are_those_of_a_step(tmp_path: Path) -> None:
    """Every op of a step can be written down and is found again as itself."""
    replica = listed_replica("2xA100-80", config_of("Qwen3-30B-A3B"))
    counted = step_ops(replica, 4, 100, (Chunk(200, 30),))
    lines = [
        f"a100,{op.family},{op.dtype},{op.weights},{' '.join(map(str, op.sizes))},{1e-5 * (i + 1)}"
        for i, (op, _) in enumerate(counted)
    ]
    (tmp_path / "ops.csv").write_text(HEAD + "\n".join(lines))
    samples = read_ops(tmp_path / "ops.csv")["A100-80"]
    assert [sample.op for sample in samples] == [op for op, _ in counted]
    assert {sample.op.family for sample in samples} >= {"product", "experts", "prefill", "decode", "move", "all-reduce"}


def test_slower_kernels_make_slower_steps(tmp_path: Path) -> None:
    config = config_of("Llama-2-7B")
    plain = listed_types(("A100-80",), config)[0].times
    assert plain is not None
    speed = plain.replica.speed
    lines = []
    for op, _ in step_ops(plain.replica, 8, 300, (Chunk(100),)):
        sizes = " ".join(map(str, op.sizes))
        lines.append(f"A100-80,{op.family},{op.dtype},{op.weights},{sizes},{3 * speed.seconds(op)}")
    (tmp_path / "ops.csv").write_text(HEAD + "\n".join(lines))
    slow = listed_types(("A100-80", "H100"), config, measured=read_ops(tmp_path / "ops.csv"))
    assert slow[0].times is not None
    assert slow[1].times is not None
    kernels = plain.exact(8, 300) - speed.step_seconds
    assert slow[0].times.exact(8, 300) - speed.step_seconds == pytest.approx(3 * kernels, rel=0.15)
    assert slow[0].times.replica.speed.source == "calibrated"
    assert slow[1].times.replica.speed.source == "data sheet"


def test_every_family_has_sizes() -> None:
    for family, names in SIZES.items():
        sizes = tuple(float(2 + i) for i in range(len(names.split())))
        assert key_of(op_of(family, "bfloat16", "bfloat16", sizes))[0] == family


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "holds no ops"),
        (
            "A100,product,bfloat16,int8,1 2,1e-5",
            "line 2: a product has 3 sizes that aren't negative: rows",
        ),
        ("A100,produkt,bfloat16,int8,1 2 3,1e-5", "Did you mean 'product'"),
        ("A100,product,bfloat16,int9,1 2 3,1e-5", "no dtype 'int9'"),
        ("A100,product,bfloat16,int8,1 2 three,1e-5", "line 2: sizes and seconds must be numbers"),
        ("A100,product,bfloat16,int8,1 2 3,-1", "line 2: -1 s isn't a time"),
        ("A101,product,bfloat16,int8,1 2 3,1e-5", "line 2: the catalogue has no device 'A101'"),
        ("A100,product,bfloat16,,1 2 3,1e-5", "line 2: has no weights"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "ops.csv").write_text(HEAD + line)
    with pytest.raises(DocumentError, match=message):
        read_ops(tmp_path / "ops.csv")
