"""This machine, looked at; and what was measured, remembered."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from grainline.cli import main
from grainline.documents import Cluster
from grainline.hardware import Accelerator, Machine, figures, look, rates


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    figures._measured.cache_clear()
    yield tmp_path / "cache" / "grainline"
    figures._measured.cache_clear()  # or made-up figures would be kept, for good, by whatever looks next


def test_this_machine() -> None:
    machine = look(measure=False, disk="no/such/folder/yet")
    assert 1 <= machine.usable_cores <= machine.physical_cores <= machine.logical_cores
    assert machine.threads >= 1
    assert 0 < machine.memory_available_bytes <= machine.memory_bytes
    assert machine.disk_free_bytes > 0
    assert machine.disk_path == str(Path("no/such/folder/yet").absolute())
    assert machine.cpu
    assert machine.torch
    assert (dict(machine.flops_per_second), machine.bfloat16_gain()) == ({}, None)


def test_matmul_rates_are_plausible_and_threads_are_put_back() -> None:
    import torch

    before = torch.get_num_threads()
    rate = rates.matmul_rate("float32", threads=1)
    assert rate is not None
    assert 1e8 < rate.per_second < 1e14
    assert 0 < rate.share <= 1
    assert 1e8 < rates.copy_rate(threads=1, size_bytes=1 << 22).per_second < 1e13
    assert torch.get_num_threads() == before


def test_a_dtype_without_a_matmul_has_no_rate() -> None:
    assert rates.matmul_rate("bits8", threads=1) is None


class Clock:
    """Stands for the clock: the n-th measurement gives n, with a share of the CPU that the test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked, self.share = 0, 1.0
        monkeypatch.setattr(rates, "matmul_rate", lambda *arguments: self.rate())
        monkeypatch.setattr(rates, "copy_rate", lambda *arguments: self.rate())

    def rate(self) -> rates.Rate:
        self.asked += 1
        return rates.Rate(float(self.asked), self.share)


def measured(fresh: bool = False, threads: int = 2) -> float:
    return figures.figures("CPU", "cpu", threads, "2.13", fresh).flops_per_second["float32"]


def test_figures_are_kept_for_later_processes(monkeypatch: pytest.MonkeyPatch, empty_cache: Path) -> None:
    clock = Clock(monkeypatch)
    assert measured() == measured() == 1
    figures._measured.cache_clear()  # as in another process
    assert measured() == 1
    assert clock.asked == 3
    assert measured(threads=4) == 4, "other threads, other figures"
    assert measured(fresh=True) == measured() == 7
    assert len(list(empty_cache.iterdir())) == 2


def test_disturbed_figures_are_kept_for_this_process_only(monkeypatch: pytest.MonkeyPatch, empty_cache: Path) -> None:
    clock = Clock(monkeypatch)
    clock.share = 0.5
    assert figures.figures("CPU", "cpu", 2, "2.13").disturbed
    assert measured() == 1
    assert not empty_cache.exists()
    figures._measured.cache_clear()
    clock.share = 1.0
    assert measured() == 4


def test_a_broken_cache_only_costs_measuring_again(monkeypatch: pytest.MonkeyPatch, empty_cache: Path) -> None:
    Clock(monkeypatch)
    measured()
    (file,) = empty_cache.iterdir()
    for broken in ("", "{}", '{"figures": {"of": "another time"}}', "[]"):
        file.write_text(broken)
        figures._measured.cache_clear()
        assert measured() > 0
    file.unlink()
    empty_cache.rmdir()
    empty_cache.write_text("a file where the folder should be")
    figures._measured.cache_clear()
    assert measured() > 0


def test_a_machine_as_a_cluster(tmp_path: Path) -> None:
    gpu = Accelerator("H100", "cuda", 80 << 30, "9.0", {"bfloat16": 8e14, "float32": 4e14}, 3e12)
    machine = dataclasses.replace(
        look(measure=False), accelerators=(gpu, gpu), flops_per_second={"float32": 1e11}, memory_bytes_per_second=2e10
    )
    cluster = machine.to_cluster("mine")
    assert cluster.nodes[0].devices == {machine.cpu: 1, "H100": 2}
    assert cluster.device_type("H100").flops_per_second == {"bfloat16": 8e14, "float32": 4e14}
    assert cluster.device_type("H100").source == cluster.device_type(machine.cpu).source == "measured"
    assert cluster.device_type(machine.cpu).memory[0].bytes_per_second == 2e10
    cluster.save(tmp_path / "cluster.toml")
    assert Cluster.load(tmp_path / "cluster.toml") == cluster


def test_bfloat16_pays_where_the_device_that_computes_is_faster_in_it() -> None:
    v100 = Accelerator("V100", "cuda", 32 << 30, "7.0", {"bfloat16": 1e13, "float32": 1.4e13})
    h100 = dataclasses.replace(v100, name="H100", flops_per_second={"bfloat16": 7e14, "float32": 5e13})
    alone = dataclasses.replace(look(measure=False), accelerators=(), flops_per_second={"float32": 1e11})
    amx = dataclasses.replace(alone, flops_per_second={"float32": 1e11, "bfloat16": 3e11})
    with_v100, with_h100 = (dataclasses.replace(amx, accelerators=(gpu,)) for gpu in (v100, h100))
    assert (amx.bfloat16_gain(), with_h100.bfloat16_gain()) == (3, 14)
    assert (with_h100.bfloat16_gain("cpu"), alone.bfloat16_gain("cuda")) == (3, None)
    assert [m.bfloat16_pays() for m in (alone, amx, with_v100, with_h100)] == [False, True, False, True]
    assert with_v100.bfloat16_pays("cpu")
    little = dataclasses.replace(amx, flops_per_second={"float32": 1e11, "bfloat16": 1.1e11})
    assert not little.bfloat16_pays()


def test_figures_that_nobody_measured_are_said_to_be_assumed() -> None:
    machine = look(measure=False)
    assert machine.to_cluster().device_type(machine.cpu).source == "assumed"


def test_the_platforms_that_are_promised() -> None:
    def on(system: str, architecture: str) -> Machine:
        return dataclasses.replace(look(measure=False), system=system, architecture=architecture)

    assert on("Linux", "x86_64").platform_is_promised
    assert on("Linux", "aarch64").platform_is_promised
    assert on("Darwin", "arm64").platform_is_promised
    assert not on("Darwin", "x86_64").platform_is_promised
    assert not on("Windows", "AMD64").platform_is_promised


def test_the_verb_prints_and_writes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    Clock(monkeypatch)
    assert main(["hardware", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["flops_per_second"] == {"float32": 1.0, "bfloat16": 2.0}
    assert main(["hardware", "--no-measure"]) == 0
    assert "threads" in capsys.readouterr().out
    only = ["--quick", "--only", "disk", "--disk", str(tmp_path)]
    assert main(["hardware", "measure", "--out", str(tmp_path / "c.toml"), "--name", "mine", *only]) == 0
    cluster = Cluster.load(tmp_path / "c.toml")
    assert cluster.nodes[0].name == "mine"
    assert cluster.device_types[0].flops_per_second == {"float32": 4.0, "bfloat16": 5.0}
    assert main(["hardware", "measure", "--out", str(tmp_path / "c.txt")]) == 2
    assert "must end in .toml or .json" in capsys.readouterr().err
