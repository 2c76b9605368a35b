"""The exhibit's parts: the race's turns, the native program, the placement's simulation, and what it does without."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grainline import _compiled
from grainline.documents import GrainlineError
from grainline.exhibits import modern_cpp, native_stream, stream_race
from grainline.exhibits.frame import NotRun, Scale
from grainline.exhibits.modern_cpp import GPU, NUMPY, PLACEMENT, scattered_seconds
from grainline.exhibits.native_stream import NativeStream, compile_native
from grainline.exhibits.stream_race import Race, race
from grainline.kernels.stream import KERNELS, POLICIES, Stream
from grainline.kernels.targets import ANYWHERE, Target

CORE = pytest.mark.skipif(
    _compiled.library() is None or not hasattr(os, "memfd_create"), reason="needs the compiled core, and Linux"
)
COMPILER = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
TARGET = Target("cpu", "cpu", (ANYWHERE, ANYWHERE), (0, 0))


@given(link=st.floats(0.01, 10), memory=st.floats(0.1, 100))
def test_the_simulator_knows_what_placement_is_worth(link: float, memory: float) -> None:
    """N is 1 byte: N/(2W) placed; max(N/W, (N/2)/L) where all of it lies on one domain."""
    assert math.isclose(scattered_seconds(memory, link, 1), 1 / (2 * memory), rel_tol=1e-9)
    assert math.isclose(scattered_seconds(memory, link, 0), max(1 / memory, 1 / (2 * link)), rel_tol=1e-9)


def test_a_wrong_simulation_would_not_hold(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scale = Scale.of(PLACEMENT, quick=True, folder=tmp_path)
    assert modern_cpp.measure_placement(scale).measured <= PLACEMENT.bound
    monkeypatch.setattr(modern_cpp, "scattered_seconds", lambda memory, link, home: 1.0 if home else 2.0)
    assert modern_cpp.measure_placement(scale).measured > PLACEMENT.bound


def test_every_policy_has_a_claim() -> None:
    assert set(modern_cpp.NATIVE.values()) == set(POLICIES)


def test_a_races_figures() -> None:
    laps: Any = {("ordinary", "copy"): 2.0, ("ordinary", "triad"): 1.0, ("streaming", "copy"): 4.0}
    one = Race(ours=laps, native=dict.fromkeys(laps, 2.0), threads=2, elements=1000)
    assert one.ratios == {("ordinary", "copy"): 1.0, ("ordinary", "triad"): 2.0, ("streaming", "copy"): 0.5}
    assert one.ratio == 1.0
    assert one.bytes_per_second("ours")["ordinary", "triad"] == 24_000
    assert one.bytes_per_second("native")["ordinary", "copy"] == 8_000
    svg = stream_race.race_figure("par_simd", [one, one])
    assert "native C, OpenMP" in svg
    assert "generic / native" in svg


@CORE
@pytest.mark.parametrize("seed", [0, 1])
def test_turns_alternate_and_the_best_but_the_first_counts(
    seed: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    happened: list[str] = []

    class Fake:
        """Seconds that fall: 9, 8, 7, …"""

        threads, left = 2, 10

        def __init__(self, program: Path, elements: int, cores: tuple[int, ...], memory: int) -> None:
            happened.append(f"native {cores}")

        def __enter__(self) -> Fake:
            return self

        def __exit__(self, *exception: object) -> None:
            happened.append("native ends")

        def reset(self) -> None:
            happened.append("native touches")

        def repetition(self, store: str) -> dict[str, float]:
            happened.append(f"native {store}")
            self.left -= 1
            return dict.fromkeys(KERNELS, float(self.left))

    class Ours(Stream):
        def reset(self) -> None:
            happened.append("reset")
            super().reset()

        def repetition(self) -> Any:
            happened.append(f"ours {self.backend.name.split()[-2]}")
            super().repetition()
            return dict.fromkeys(KERNELS, 1.0 if self.repetitions == 1 else 2.0)

        def check(self, repetitions: int | None = None) -> None:
            happened.append(f"checked for {repetitions}")

    monkeypatch.setattr(stream_race, "NativeStream", Fake)
    monkeypatch.setattr(stream_race, "Stream", Ours)
    monkeypatch.setattr(stream_race, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(stream_race, "MOST_COUNTED", 2)
    monkeypatch.setattr(stream_race, "compile_native", lambda folder, scalar: folder)
    found = race("par_simd", ("streaming",), TARGET, 1000, 3, seed, tmp_path)
    pairs = (("ours", "native"), ("native", "ours")) if seed else (("native", "ours"), ("ours", "native"))
    legs = []
    for counted in (2, 1):
        turns = [f"{who} streaming" for n in range(1 + counted) for who in pairs[n % 2]]
        legs += ["reset", *turns, f"checked for {2 + 2 * counted}"]
    touches = ["native touches"] if seed else []
    assert happened == ["native (-1, -1)", *touches, "reset", *legs, "native ends"]
    assert set(found.ours.values()) == {2.0}, "the first of a leg is a warm-up"
    assert set(found.native.values()) == {5.0}
    assert found.ratio == 2.5


@CORE
def test_a_result_between_two_resets_is_exact_and_memory_is_shared() -> None:
    assert 2 * (1 + stream_race.MOST_COUNTED) <= 13
    file = os.memfd_create("test")
    try:
        first, second = stream_race._arrays(file, 1000), stream_race._arrays(file, 1000)
        first[1][:] = 7.0
        assert (second[1] == 7.0).all()
        assert not second[0].any()
        assert not second[2].any()
        assert all(array.ctypes.data % os.sysconf("SC_PAGE_SIZE") == 0 for array in first)
    finally:
        os.close(file)


@COMPILER
@pytest.mark.multiprocess
class TestNative:
    @pytest.fixture(scope="class")
    def program(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return compile_native(tmp_path_factory.mktemp("native"), scalar=False)

    @pytest.mark.parametrize("elements", [1, 2, 1009])
    def test_it_computes_rightly_and_ends(self, program: Path, elements: int) -> None:
        stores: list[Any] = list(stream_race.both_stores("par_simd"))
        with NativeStream(program, elements, (ANYWHERE, ANYWHERE)) as native:
            assert native.threads == 2
            for store in stores:
                for _ in range(13):
                    seconds = native.repetition(store)
                    assert list(seconds) == list(KERNELS)
                    assert all(0 <= spent < 60 for spent in seconds.values())
                native.check()
                native.reset()
        assert native._process.poll() is not None

    @CORE
    def test_a_native_program_that_computes_wrongly_is_found(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        wrong = tmp_path / "wrong.c"
        wrong.write_text(
            native_stream.SOURCE.read_text().replace("c[i] = a[i] + b[i]", "c[i] = a[i] + b[i] + (i == 7)")
        )
        monkeypatch.setattr(native_stream, "SOURCE", wrong)
        with pytest.raises(GrainlineError, match=r"elements of [abc] aren't"):
            race("par_simd", ("ordinary",), TARGET, 2000, 1, 0, tmp_path)

    def test_an_end_on_the_way_is_a_reason(self, program: Path) -> None:
        with pytest.raises(NotRun, match="ended with exit code"):
            NativeStream(program, 0, (ANYWHERE,))
        with NativeStream(program, 10, (ANYWHERE,)) as native:
            native._process.kill()
            native._process.wait()
            with pytest.raises((NotRun, BrokenPipeError)):
                native.check()

    @CORE
    @pytest.mark.parametrize("policy", POLICIES)
    def test_both_run_in_turns(self, policy: Any, tmp_path: Path) -> None:
        for seed in (0, 1):
            found = race(policy, stream_race.both_stores(policy), TARGET, 2003, 6, seed, tmp_path)
        assert found.threads == (2 if policy.startswith("par") else 1)
        assert len(found.ratios) == len(KERNELS) * len(stream_race.both_stores(policy))
        assert found.ratio > 0

    def test_a_program_that_does_not_compile_is_a_reason(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        broken = tmp_path / "broken.c"
        broken.write_text("int main(void) { return nothing; }\n")
        monkeypatch.setattr(native_stream, "SOURCE", broken)
        with pytest.raises(NotRun, match=r"can't be compiled by .*: .*nothing"):
            compile_native(tmp_path, scalar=True)


def test_without_a_compiler_it_is_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(native_stream.shutil, "which", lambda name: None)
    with pytest.raises(NotRun, match="needs a C compiler"):
        compile_native(tmp_path, scalar=False)


def test_without_a_gpu_it_is_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(NotRun, match="needs a CUDA GPU"):
        modern_cpp.measure_gpu(Scale.of(GPU, quick=True, folder=tmp_path))


def test_too_little_memory_is_a_reason_and_no_smaller_arrays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from grainline import hardware

    small = dataclasses.replace(hardware.look(measure=False), memory_available_bytes=100_000)
    monkeypatch.setattr(hardware, "look", lambda measure: small)
    with pytest.raises(NotRun, match="four times this machine's last-level cache"):
        modern_cpp.elements_needed(Scale.of(NUMPY, quick=False, folder=tmp_path), arrays=6)


@CORE
def test_the_ways_to_write_triad_agree_and_threads_are_put_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(modern_cpp, "QUICK_ELEMENTS", 3 * modern_cpp.BLOCK + 5)
    left: list[Any] = []

    def alternate(ways: Any, rounds: int) -> dict[str, list[float]]:
        closure = ways["NumPy, a[:] = b + s * c"].__closure__
        (a,) = (cell.cell_contents for cell in closure if (cell.cell_contents == 0).all())
        for run in ways.values():
            a[:] = 0
            run()
            left.append(a.copy())
        return {name: [float(i)] * rounds for i, name in enumerate(ways, 1)}

    monkeypatch.setattr(modern_cpp, "alternate", alternate)
    threads = torch.get_num_threads()
    found = modern_cpp.measure_numpy(Scale.of(NUMPY, quick=True, folder=tmp_path))
    assert torch.get_num_threads() == threads
    assert found.measured == 0.5
    assert len(left) == 5
    assert all((a == 3.5).all() for a in left)
    json.dumps(found.details)
    assert found.figure is not None
