"""The benchmark of GPUs, on sizes that the interpreter can do: what it compares computes the same."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from grainline.kernels.stream.triton import why_not
from grainline.kernels.triton.tune import Layer

PATH = Path(__file__).parents[2] / "benchmarks" / "bench_gpu.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_gpu", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(bool(why_not("cpu")), reason=why_not("cpu") or "none")
def test_all_ways_compute_the_same_and_ours_keeps_least(bench, capsys):
    layer = Layer(tokens=20, width=32, hidden=16, experts=3, top_k=2)
    found = bench.measure(layer, torch.device("cpu"), rounds=1)
    assert set(found["relative_errors"]) == set(bench.OPS)
    for name, errors in found["relative_errors"].items():
        assert max(errors) < 0.03, name
    kept = found["kept_bytes"]
    rows, in_16_bits = 40, 2
    assert kept["triton"] == in_16_bits * (20 * 32 + rows * 2 * 16)
    assert all(kept["triton"] < kept[name] for name in ("scattermoe", "grouped_mm", "loop"))
    assert found["forward_flops"] == 6 * rows * 32 * 16
    assert set(found["seconds"]) == {f"{op} {part}" for op in bench.OPS for part in ("forward", "step")} | {"matmul"}
    bench.report("tiny", found)
    json.dumps(found)
    assert capsys.readouterr().out.count("of matmul") == len(bench.OPS)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_writes_nothing(bench, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["bench_gpu.py"])
    monkeypatch.setattr(bench, "RESULT", tmp_path / "gpu.json")
    bench.main()
    assert "bench_gpu measures nothing here: t" in capsys.readouterr().out
    assert not bench.RESULT.exists()
