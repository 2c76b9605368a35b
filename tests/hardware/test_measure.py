"""Measuring the machine: what is refused, what is left out, what becomes of it in a Cluster, and that nothing stays."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from grainline.cli import main
from grainline.documents import Cluster, GrainlineError
from grainline.hardware import Accelerator, disk, look, measure, memory_rates, network_probe, rates
from grainline.hardware.caches import Cache, caches, check_is_memory, last_level_bytes, memory_bytes_needed
from grainline.hardware.disk import DiskRates, disk_rates, file_system
from grainline.hardware.host_link import HostLink
from grainline.hardware.measured import Measured
from grainline.hardware.memory_rates import CpuStream, SetRate, StreamRates, of_memory
from grainline.hardware.network_probe import GLOO, SOCKETS, ProbeError, Route, gloo_route, socket_route
from grainline.hardware.roofline import roofline_svg
from grainline.hardware.topology import topology
from grainline.kernels.targets import cpu_targets

KIB, MIB = 1 << 10, 1 << 20
KERNELS = ("copy", "scale", "add", "triad")


class TestCaches:
    def lay_out(self, root: Path, caches_of: dict[int, list[tuple[str, str, str, str]]]) -> Path:
        """CPU → (level, type, size, shared_cpu_list) of its caches."""
        for cpu, found in caches_of.items():
            for i, row in enumerate(found):
                folder = root / f"sys/devices/system/cpu/cpu{cpu}/cache/index{i}"
                folder.mkdir(parents=True)
                for name, text in zip(("level", "type", "size", "shared_cpu_list"), row, strict=True):
                    (folder / name).write_text(f"{text}\n")
        return root

    def test_each_is_counted_once_and_instructions_not_at_all(self, tmp_path: Path) -> None:
        """Two groups of two cores, each group with a last level of its own."""
        rows = {
            cpu: [
                ("1", "Data", "32K", f"{cpu}"),
                ("1", "Instruction", "64K", f"{cpu}"),
                ("2", "Unified", "1M", f"{cpu}"),
                ("3", "Unified", "16384K", f"{cpu // 2 * 2}-{cpu // 2 * 2 + 1}"),
            ]
            for cpu in range(4)
        }
        root = self.lay_out(tmp_path, rows)
        assert caches(root, range(4)) == (
            Cache(1, "data", 32 * KIB, 4, 1),
            Cache(2, "unified", MIB, 4, 1),
            Cache(3, "unified", 16 * MIB, 2, 2),
        )
        assert last_level_bytes(caches(root, range(4))) == 32 * MIB
        assert last_level_bytes(caches(root, [0, 1])) == 16 * MIB

    def test_a_system_that_tells_nothing(self, tmp_path: Path) -> None:
        assert caches(tmp_path, [0]) == ()
        assert last_level_bytes(()) == 0
        assert memory_bytes_needed(0) == 128 * MIB

    def test_a_caches_rate_is_not_called_memorys(self) -> None:
        check_is_memory(400 * MIB, 100 * MIB)
        with pytest.raises(GrainlineError, match=r"arrays of 4 MB lie in part in .* At least 419 MB each are needed"):
            check_is_memory(4_000_000, 100 * MIB)


def stream_rates(how: str, threads: int, triad: float, is_memory: bool = True, target: str = "cpu") -> StreamRates:
    speeds: Any = dict(zip(KERNELS, (triad - 3, triad - 2, triad - 1, triad), strict=True))
    return StreamRates(target, how, threads, 1 << 30, speeds, speeds, 1.0, is_memory)


def test_memorys_rate_is_the_triad_of_ordinary_stores_by_all_cores() -> None:
    ordinary, streaming = stream_rates("par_simd, ordinary stores", 4, 30e9), stream_rates("streaming stores", 4, 40e9)
    one_core = stream_rates("simd, ordinary stores", 1, 35e9)
    assert of_memory([streaming, one_core, ordinary]) is ordinary
    assert of_memory([streaming, one_core]) is one_core
    assert of_memory([dataclasses.replace(ordinary, is_memory=False), streaming]) is None
    torch, triton = (stream_rates(name, 0, rate, target="cuda:0") for name, rate in (("torch", 2e12), ("Triton", 3e12)))
    assert of_memory([torch, triton]) is triton


def whole() -> Measured:
    """All of it, made up."""
    gpu = Accelerator("H100", "cuda", 80 << 30, "9.0", {"bfloat16": 8e14}, 1e12)
    machine = dataclasses.replace(
        look(measure=False), accelerators=(gpu, gpu), flops_per_second={"float32": 1e11}, memory_bytes_per_second=9e99
    )
    return Measured(
        machine=machine,
        caches=(Cache(1, "data", 32 * KIB, 4, 1), Cache(2, "unified", MIB, 4, 1), Cache(3, "unified", 16 * MIB, 1, 4)),
        stream=(
            stream_rates("par_simd, ordinary stores", 4, 30e9),
            stream_rates("par_simd, streaming stores", 4, 40e9),
            stream_rates("torch on cuda:0", 0, 3e12, target="cuda:0"),
        ),
        working_sets=tuple(
            SetRate(threads, size, threads * 1e15 / size, threads * 1e14 / size)
            for threads in (1, 4)
            for size in (16 * KIB << i for i in range(12))
        ),
        matmul={
            "cpu": {"float32": {64: 5e10, 512: 2e11, 1024: 1.5e11}, "bfloat16": {64: 1e10, 512: 4e11}},
            "cuda:0": {"bfloat16": {4096: 9e14}},
        },
        processes=(Route("TCP loopback", 5e-6, 2e9), Route(GLOO, 5e-5, 1.5e9)),
        host_links=(HostLink("H100", 1e-5, 5e10, 4e10),),
        disk=DiskRates("/data", 1 << 29, 2e9, 1e9, "O_DIRECT"),
    )


def test_everything_measured_is_in_the_cluster(tmp_path: Path) -> None:
    found = whole()
    cluster = found.to_cluster("mine")
    cpu, gpu = cluster.device_type(found.machine.cpu), cluster.device_type("H100")
    assert cpu.flops_per_second == {"float32": 2e11, "bfloat16": 4e11}
    assert gpu.flops_per_second == {"bfloat16": 9e14}
    assert (cpu.memory[0].bytes_per_second, gpu.memory[0].bytes_per_second) == (30e9, 3e12)
    assert cpu.origin("memory").source == cpu.origin("flops_per_second").source == "measured"
    assert cpu.origin("memory").reference == "grainline hardware measure, STREAM triad: par_simd, ordinary stores"
    (node,) = cluster.nodes
    assert node.name == "mine"
    assert [(d.name, d.read_bytes_per_second, d.source) for d in node.disks] == [("/data", 2e9, "measured")]
    processes, host = cluster.links
    assert (processes.type, processes.bytes_per_second, processes.joins) == (GLOO, 1.5e9, (found.machine.cpu,))
    assert (host.joins, host.latency_seconds, host.bytes_per_second) == (("H100",), 1e-5, 4e10)
    cluster.save(tmp_path / "cluster.toml")
    assert Cluster.load(tmp_path / "cluster.toml") == cluster
    seen = topology(cluster)
    assert seen.bytes_per_second(1, 2) == 4e10, "GPU to GPU goes through the host"
    json.dumps(found.as_dict())


def test_what_was_not_measured_is_left_out_and_what_was_disturbed_says_so() -> None:
    found = dataclasses.replace(whole(), stream=(), processes=(), host_links=(), disk=None, matmul={})
    cluster = found.to_cluster()
    assert cluster.device_type(found.machine.cpu).memory[0].bytes_per_second is None, "copies may fit into a cache"
    assert cluster.links == ()
    assert cluster.nodes[0].disks == ()
    disturbed = dataclasses.replace(whole(), disturbed=("STREAM on cpu",)).to_cluster()
    assert "beside other programs" in disturbed.device_type(found.machine.cpu).origin("memory").reference
    assert all("beside other programs" in link.reference for link in disturbed.links)


def test_a_caches_rate_is_that_of_sets_that_fill_half_of_it_and_not_the_level_before() -> None:
    found = whole()
    assert found.cache_rates(1) == {1: 1e15 / (16 * KIB), 2: 1e15 / (512 * KIB), 3: 1e15 / (8 * MIB)}
    assert found.cache_rates() == {1: 4e15 / (64 * KIB), 2: 4e15 / (2 * MIB), 3: 4e15 / (8 * MIB)}
    assert dataclasses.replace(found, working_sets=()).cache_rates() == {}


def test_the_roofline_says_every_figure() -> None:
    svg = roofline_svg(whole())
    for words in ("memory 30 GB/s", "float32 200 GFLOP/s", "bfloat16 400 GFLOP/s", "H100 (cuda:0)", "3,000 GB/s"):
        assert words in svg
    assert svg.count("<svg") == 1
    for part in ({"matmul": {}}, {"stream": (), "working_sets": ()}):
        with pytest.raises(GrainlineError, match="a roofline needs memory's rate and matmuls' rates"):
            roofline_svg(dataclasses.replace(whole(), **part))


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine is looked at and not timed."""
    monkeypatch.setattr(measure, "look", lambda fresh, disk: look(measure=False, disk=disk))
    monkeypatch.setattr(measure, "targets", cpu_targets)


@pytest.mark.usefixtures("still")
def test_small_arrays_give_a_rate_that_is_not_taken_for_memorys() -> None:
    told: list[str] = []
    found = measure.measure(quick=True, parts=("memory",), elements=1000, tell=told.append)
    assert any("STREAM on cpu" in line for line in told)
    assert found.stream
    for rate in found.stream:
        assert not rate.is_memory
        assert rate.array_bytes == 8000
        assert all(0 < rate.worst_bytes_per_second[k] <= rate.bytes_per_second[k] for k in KERNELS)
    assert found.memory_bytes_per_second("cpu") is None
    assert found.to_cluster().device_type(found.machine.cpu).memory[0].bytes_per_second is None
    assert "isn't taken for memory's" in " ".join(found.remarks)
    with pytest.raises(GrainlineError, match=r"--elements 10{12}: three such arrays don't fit"):
        measure.measure(parts=("memory",), elements=10**12)


@pytest.mark.usefixtures("still")
def test_large_ones_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grainline.hardware.caches.AT_LEAST", 8000)
    monkeypatch.setattr(measure, "last_level_bytes", lambda found: 1000)
    found = measure.measure(quick=True, parts=("memory",))
    assert {rate.array_bytes for rate in found.stream} == {8000}
    triads = [rate.bytes_per_second["triad"] for rate in found.stream if "streaming" not in rate.how]
    assert found.memory_bytes_per_second("cpu") in triads
    assert not any("aren't" in remark or "isn't taken" in remark for remark in found.remarks)


@pytest.mark.usefixtures("still")
def test_too_little_memory_is_a_remark(monkeypatch: pytest.MonkeyPatch) -> None:
    small = dataclasses.replace(look(measure=False), memory_available_bytes=100_000)
    monkeypatch.setattr(measure, "look", lambda fresh, disk: small)
    found = measure.measure(quick=True, parts=("memory",))
    assert max(rate.array_bytes for rate in found.stream) == 20_000
    assert any("more free memory" in remark for remark in found.remarks)


def test_working_sets_double_and_are_read_by_one_core_and_by_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_rates, "SECONDS", 1e-4)
    (target, *_) = cpu_targets()
    with CpuStream(target, 1 << 14, 1 << 30) as stream:
        found = stream.by_working_set(1 << 16, seconds=60)
        if stream.executor is None:
            assert found == []
            return
        policies = {1, stream.executor.workers}
        assert {(s.threads, s.set_bytes) for s in found} == {(t, 1 << i) for t in policies for i in (14, 15, 16)}
        assert all(s.read > 0 and s.triad > 0 for s in found)
        assert stream.by_working_set(1 << 16, seconds=0) == []


def test_matmuls_by_size_stop_where_one_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(rates, "_matmul", lambda n, dtype, device: n)
    monkeypatch.setattr(rates, "_best", lambda n, device, seconds: (2 * n**3 / 1e9, 0.7))
    before = torch.get_num_threads()
    found = rates.matmul_by_size("float32", threads=before + 1)
    assert found == {n: rates.Rate(pytest.approx(1e9), 0.7) for n in (64, 128, 256, 512)}, "1024 would take 2 seconds"
    assert torch.get_num_threads() == before
    assert rates.matmul_by_size("float32", most_seconds=0) == {}
    monkeypatch.undo()
    assert rates.matmul_by_size("bits8") == {}


class TestProcesses:
    @pytest.fixture
    def children(self, monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[str]]:
        """All that are started."""
        started: list[subprocess.Popen[str]] = []
        original = network_probe._other

        def other(*words: str, **more: Any) -> subprocess.Popen[str]:
            started.append(original(*words, **more))
            return started[-1]

        monkeypatch.setattr(network_probe, "_other", other)
        return started

    @pytest.mark.multiprocess
    @pytest.mark.parametrize("name", [*SOCKETS, pytest.param(GLOO, marks=pytest.mark.slow)])
    def test_two_processes_talk_and_none_is_left(self, name: str, children: list[subprocess.Popen[str]]) -> None:
        route = gloo_route() if name == GLOO else socket_route(name)
        assert route.name == name
        assert 0 < route.latency_seconds < 1
        assert 1e6 < route.bytes_per_second < 1e13
        assert len(children) == (2 if name == GLOO else 1)
        assert all(child.poll() is not None for child in children)

    def test_a_process_that_ends_is_a_reason(
        self, children: list[subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(network_probe.sys, "executable", "/bin/false")
        monkeypatch.setattr(network_probe, "PATIENCE_SECONDS", 0.3)
        for probe in (lambda: socket_route(SOCKETS[0]), lambda: socket_route(SOCKETS[1]), gloo_route):
            with pytest.raises(ProbeError, match=r"unix sockets: |doesn't answer|gloo: ended"):
                probe()
        assert all(child.poll() is not None for child in children)

    @pytest.mark.usefixtures("still")
    def test_a_reason_becomes_a_remark(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(name: str) -> Route:
            raise ProbeError(f"{name}: not here")

        monkeypatch.setattr(measure, "socket_route", fail)
        found = measure.measure(quick=True, parts=("processes",))
        assert found.processes == ()
        assert found.remarks == tuple(f"processes: {name}: not here." for name in SOCKETS)


class TestDisk:
    def test_it_reads_and_writes_and_leaves_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(disk, "IN_MEMORY", ())
        found = disk_rates(tmp_path, 3 * disk.BLOCK, tries=2)
        assert found.file_bytes == 3 * disk.BLOCK
        assert found.read_bytes_per_second > 0
        assert found.write_bytes_per_second > 0
        assert list(tmp_path.iterdir()) == []

    def test_an_interrupt_leaves_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[list[Path]] = []

        def interrupt(*arguments: object) -> None:
            seen.append(list(tmp_path.iterdir()))
            raise KeyboardInterrupt

        monkeypatch.setattr(disk, "IN_MEMORY", ())
        monkeypatch.setattr(disk, "_read", interrupt)
        with pytest.raises(KeyboardInterrupt):
            disk_rates(tmp_path, disk.BLOCK)
        assert len(seen) == 1
        assert list(tmp_path.iterdir()) == []

    def test_what_is_no_disk_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(GrainlineError, match="No such file"):
            disk_rates(tmp_path / "nowhere", disk.BLOCK)
        monkeypatch.setattr(disk, "file_system", lambda folder: "tmpfs")
        with pytest.raises(GrainlineError, match=r"is in memory \(tmpfs\): name a folder on a disk with --disk"):
            disk_rates(tmp_path, disk.BLOCK)
        monkeypatch.setattr(disk, "file_system", lambda folder: "ext4")
        with pytest.raises(GrainlineError, match="MB free, and measuring it needs"):
            disk_rates(tmp_path, 1 << 60)

    @pytest.mark.skipif(not Path("/proc/mounts").exists(), reason="Linux lists its file systems")
    def test_the_file_system_is_the_innermost(self) -> None:
        assert file_system(Path("/proc/self")) == "proc"
        assert file_system(Path("/")) not in ("", "proc")


def test_the_verb_prints_json_and_writes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    asked: dict[str, Any] = {}

    def fake(**options: Any) -> Measured:
        asked.update(options)
        return dataclasses.replace(whole(), disturbed=("STREAM on cpu",), remarks=("a remark",))

    monkeypatch.setattr(measure, "measure", fake)
    out, plot = tmp_path / "new" / "c.toml", tmp_path / "r.svg"
    options = ["--only", "memory", "disk", "--elements", "77", "--disk", str(tmp_path), "--quick"]
    assert main(["hardware", "measure", "--json", "--out", str(out), "--plot", str(plot), *options]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["cluster"] == json.loads(json.dumps(Cluster.load(out).tables()))
    assert said["matmul"]["cpu"]["float32"]["512"] == 2e11
    assert plot.read_text() == roofline_svg(whole())
    assert (asked["quick"], asked["parts"], asked["elements"], asked["disk"]) == (
        True,
        ("memory", "disk"),
        77,
        tmp_path,
    )
    assert main(["hardware", "measure"]) == 0
    shown = capsys.readouterr().out
    for words in ("triad", "30.0", "L3 unified", "Matmuls n×n on cpu", GLOO, "O_DIRECT", "disturbed", "a remark"):
        assert words in shown
    assert asked["parts"] == measure.PARTS


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--out", "c.txt"], "--out c.txt: the name must end in .toml or .json"),
        (["--plot", "r.png"], "--plot r.png: the name must end in .svg"),
        (["--elements", "0"], "--elements 0: must be at least 1"),
    ],
)
def test_the_verb_refuses_before_it_measures(options, words, monkeypatch, capsys) -> None:
    monkeypatch.setattr(measure, "measure", lambda **options: pytest.fail("measured"))
    assert main(["hardware", "measure", *options]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.usefixtures("still")
def test_one_thread_is_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    one = dataclasses.replace(look(measure=False), threads=1)
    monkeypatch.setattr(measure, "look", lambda fresh, disk: one)
    found = measure.measure(quick=True, parts=("memory",), elements=1000)
    assert {rate.threads for rate in found.stream} == {1}
