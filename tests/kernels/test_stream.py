"""One generic source on every target: against NumPy, against closed forms, and who touches what."""

from __future__ import annotations

import ctypes
import importlib.util
import math
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grainline import _compiled
from grainline.documents import GrainlineError
from grainline.kernels.executor import Executor, blocks
from grainline.kernels.stream import (
    BODIES,
    KERNELS,
    POLICIES,
    Backend,
    Blocked,
    Native,
    Stream,
    Tensors,
    expected,
    instruction_sets,
)
from grainline.kernels.stream.backend import Body
from grainline.kernels.stream.triton import Triton, why_not
from grainline.kernels.targets import ANYWHERE, Target, cpu_list, cpu_targets, find_target

CORE = pytest.mark.skipif(_compiled.library() is None, reason="needs the compiled core")
PRIME = 1009
WAYS = [
    (policy, store, each.name)
    for each in instruction_sets()
    for policy in POLICIES
    for store in ("ordinary", "streaming")
    if store == "ordinary" or ("simd" in policy and each.can_stream)
]
WORKERS = 3
"""More than this machine may have cores: unbound, so that the cut is what is tested, anywhere."""


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor | None]:
    if _compiled.library() is None:
        yield None
        return
    with Executor(Target("cpu", "cpu", (ANYWHERE,) * WORKERS, (0,) * WORKERS)) as made:
        yield made


def truth(body: Body, x: Any, y: Any, s: float, dtype: str) -> Any:
    """By NumPy: multiplication and addition rounded one after the other."""
    scalar = np.dtype(dtype).type(s)
    return {
        "fill": lambda: np.full_like(x, scalar),
        "copy": lambda: x.copy(),
        "scale": lambda: scalar * x,
        "add": lambda: x + y,
        "triad": lambda: x + scalar * y,
    }[body]()


def case(n: int, dtype: str, offset: int = 0) -> tuple[Any, Any, Any]:
    """x, y and out of n elements, which begin `offset` elements after an aligned address."""
    random = np.random.default_rng(n + offset)
    x, y, out = (random.standard_normal(n + offset).astype(dtype)[offset:] for _ in range(3))
    return x, y, out


@CORE
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("policy", "store", "instructions"), WAYS)
def test_every_algorithm_equals_numpy_to_the_bit(policy, store, instructions, dtype, executor) -> None:
    native = Native(executor, policy, store, instructions)
    width = 64 // np.dtype(dtype).itemsize
    for n in (0, 1, 2, width - 1, width, width + 1, 3 * width + 2, PRIME):
        for offset in (0, 1, 3):
            for body, inputs in BODIES.items():
                x, y, out = case(n, dtype, offset)
                native.transform(body, *(x, y)[:inputs], out=out, s=0.1)
                np.testing.assert_array_equal(out, truth(body, x, y, 0.1, dtype), f"{body} {n} {offset}", strict=True)


@CORE
@pytest.mark.parametrize(("policy", "store", "instructions"), WAYS)
def test_nothing_is_written_beyond_the_output(policy, store, instructions, executor) -> None:
    native = Native(executor, policy, store, instructions)
    for n in (1, 15, 16, 17, 100):
        room = np.full(n + 64, -1.0)
        native.transform("fill", out=room[32 : 32 + n], s=7.0)
        assert (room[32 : 32 + n] == 7).all()
        assert (np.delete(room, slice(32, 32 + n)) == -1).all()


@CORE
def test_output_may_be_the_very_input(executor) -> None:
    for policy in POLICIES:
        x, y, _ = case(PRIME, "float64")
        want = truth("triad", x, y, 3.0, "float64")
        Native(executor, policy).transform("triad", x, y, out=x, s=3.0)
        np.testing.assert_array_equal(x, want)


@CORE
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2.0**-10), ("float64", 2.0**-36)])
@pytest.mark.parametrize("n", [0, 1, 7, 16, 17, PRIME, 100_003])
def test_sums_are_close_to_the_exact_one_and_equal_to_the_bit_when_repeated(n, dtype, tolerance, executor) -> None:
    x, _, _ = case(n, dtype)
    exact = float(sum(map(Fraction, x.tolist()), Fraction(0)))
    bound = tolerance * float(np.abs(x).sum(dtype=np.float64))
    for policy, store, instructions in WAYS:
        native = Native(executor, policy, store, instructions)
        found = native.sum(x)
        assert abs(found - exact) <= bound
        assert all(native.sum(x) == found for _ in range(5))


@given(n=st.integers(0, 10**12), m=st.integers(1, 300))
def test_blocks_cover_the_range_once_in_order_and_alike(n: int, m: int) -> None:
    cut = blocks(n, m)
    assert len(cut) == m
    assert [begin for begin, _ in cut] == [0, *(end for _, end in cut[:-1])]
    assert cut[-1][1] == n
    lengths = [end - begin for begin, end in cut]
    assert max(lengths) - min(lengths) <= 1


@CORE
@pytest.mark.parametrize("n", [0, 1, 2, 5, PRIME])
def test_whoever_touches_an_element_first_reads_it_later(n, executor) -> None:
    native = Native(executor, "par_simd")
    a, b, c = (native.empty(n, "float64") for _ in range(3))
    native.transform("fill", out=a, s=1.0)
    touched = executor.seen()
    assert [(seen.begin, seen.end) for seen in touched] == blocks(n, WORKERS)
    assert len({seen.thread for seen in touched}) == WORKERS
    native.transform("fill", out=b, s=1.0)
    native.transform("triad", a, b, out=c, s=3.0)
    assert [(s.thread, s.begin, s.end) for s in executor.seen()] == [(s.thread, s.begin, s.end) for s in touched]


@CORE
@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="threads can't be bound here")
def test_workers_stay_on_their_cores() -> None:
    (target, *_) = cpu_targets()
    with Executor(target) as executor:
        assert executor.bound == executor.workers == len(target.cores)
        Native(executor).transform("fill", out=np.empty(PRIME), s=1.0)
        assert [seen.cpu for seen in executor.seen()] == list(target.cores)


@CORE
@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="mincore is Linux's")
def test_memory_is_untouched_until_the_executor_touches_it(executor) -> None:
    native = Native(executor)
    array = native.empty(1 << 18, "float64")
    pages = array.nbytes // os.sysconf("SC_PAGE_SIZE")

    def present() -> int:
        found = (ctypes.c_ubyte * pages)()
        assert ctypes.CDLL(None).mincore(ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes), found) == 0
        return sum(page & 1 for page in found)

    assert present() == 0
    native.transform("fill", out=array, s=1.0)
    assert present() == pages


@CORE
def test_an_executor_ends_and_says_what_it_needs(executor) -> None:
    one = Executor(executor.target)
    one.close()
    one.close()
    with pytest.raises(RuntimeError, match="closed"):
        one.seen()
    with pytest.raises(GrainlineError, match=r"'cuda:0': an executor's threads need a CPU target"):
        Executor(Target("cuda:0", "cuda"))


@CORE
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux tells what is loaded")
def test_no_second_openmp_pool_is_loaded() -> None:
    torch.ones(10).sum()
    loaded = {
        line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "omp" in line.split()[-1]
    }
    pools = {path for path in loaded if Path(path).name.startswith(("libgomp", "libomp", "libiomp"))}
    assert len(pools) <= 1


def backends(executor: Executor) -> list[Backend]:
    found: list[Backend] = [Blocked(), Tensors("cpu")]
    if _compiled.library() is not None:
        found += [Native(executor, policy, store, instructions) for policy, store, instructions in WAYS]
    return found


@pytest.mark.parametrize(("dtype", "exact"), [("float64", 13), ("float32", 6)])
def test_stream_ends_in_its_closed_form(dtype, exact, executor) -> None:
    for backend in backends(executor):
        stream = Stream(backend, PRIME, dtype)
        for _ in range(exact + 5):
            assert set(stream.repetition()) == set(KERNELS)
            stream.check()
            if stream.repetitions == exact:
                for array, value in zip((stream.a, stream.b, stream.c), expected(exact, dtype), strict=True):
                    assert (np.asarray(array) == value).all(), backend.name


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_one_wrong_element_is_found(name, executor) -> None:
    for backend in backends(executor):
        stream = Stream(backend, PRIME)
        stream.repetition()
        getattr(stream, name)[-1] *= 1 + 2**-52
        with pytest.raises(GrainlineError, match=rf"1 of {PRIME} elements of {name} aren't"):
            stream.check()


def test_the_closed_form_is_what_the_loop_does() -> None:
    a, b, c = Fraction(2), Fraction(2), Fraction(0)
    for k in range(40):
        assert expected(k) == (float(a), float(b), float(c))
        assert (max(a, b, c) < 2**53) == (k <= 13)
        c = a
        b = 3 * c
        c = a + b
        a = b + 3 * c
    assert math.isfinite(expected(31, "float32")[0])
    with pytest.raises(GrainlineError, match="after 33 repetitions its numbers are too large"):
        expected(33, "float32")


def test_rates_count_what_the_source_moves() -> None:
    ticks = iter(range(100))
    stream = Stream(Blocked(), 1000, "float32", clock=lambda: float(next(ticks)))
    seconds = stream.repetition()
    assert set(seconds.values()) == {1.0}
    assert stream.bytes_per_second(seconds) == {"copy": 8e3, "scale": 8e3, "add": 12e3, "triad": 12e3}


@pytest.mark.parametrize("body", [body for body in BODIES if BODIES[body]])
def test_arrays_must_fit(body, executor) -> None:
    for backend in backends(executor)[:3]:
        x, y, out = (backend.empty(8, "float64") for _ in range(3))

        def call(*inputs: Any, out: Any, backend: Backend = backend) -> None:
            backend.transform(body, *inputs[: BODIES[body]], out=out)

        with pytest.raises(GrainlineError, match=rf"{body}: x has 7 elements, but out has 8"):
            call(x[:7], y, out=out)
        with pytest.raises(GrainlineError, match=rf"{body}: x is float64, but out is float32"):
            call(x, y, out=backend.empty(8, "float32"))
        with pytest.raises(GrainlineError, match=rf"{body}: out overlaps x in part"):
            call(x[1:], y[1:], out=x[:7])
        with pytest.raises(GrainlineError, match=rf"{body}: x has 2 dimensions"):
            call(x.reshape(2, 4), y, out=out)
        with pytest.raises(GrainlineError, match=rf"{body}: x is (no|not) contiguous"):
            call(x[::2], y[:4], out=out[:4])
        with pytest.raises(GrainlineError, match=rf"{body}: out is int64; it must be float32 or float64"):
            call(x, y, out=np.zeros(8, np.int64) if isinstance(out, np.ndarray) else torch.zeros(8, dtype=torch.int64))
        with pytest.raises(GrainlineError, match=rf"{body} takes {BODIES[body]} inputs, not 0"):
            backend.transform(body, out=out)
        with pytest.raises(GrainlineError, match="'power' is nothing that can be computed here"):
            backend.transform("power", x, out=out)


def test_what_is_not_there_is_answered_with_what_is(executor) -> None:
    with pytest.raises(GrainlineError, match=r"target 'cuda:7': there is none here\. There is cpu\."):
        find_target("cuda:7", cpu_targets())
    assert find_target("cpu").kind == "cpu"
    with pytest.raises(GrainlineError, match="STREAM in float16: it must be float32 or float64"):
        Stream(Blocked(), 8, "float16")
    with pytest.raises(GrainlineError, match="STREAM over 0 elements"):
        Stream(Blocked(), 0)
    if _compiled.library() is not None:
        with pytest.raises(
            GrainlineError, match=r"policy 'gpu': there is none here\. There is seq, simd, par, par_simd"
        ):
            Native(executor, "gpu")  # type: ignore[arg-type]
        with pytest.raises(GrainlineError, match=r"instruction set 'sve': there is none here\. There is portable"):
            Native(executor, instruction_set="sve")
        with pytest.raises(GrainlineError, match="policy 'par' has ordinary stores only"):
            Native(executor, "par", "streaming")
        frozen = np.zeros(4)
        frozen.flags.writeable = False
        with pytest.raises(GrainlineError, match="out can't be written"):
            Native(executor).transform("fill", out=frozen)


def test_without_the_compiled_core_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_compiled, "library", lambda: None)
    assert instruction_sets() == ()
    with pytest.raises(GrainlineError, match="the compiled core isn't there"):
        Executor(Target("cpu", "cpu", (ANYWHERE,), (0,)))


class TestTargets:
    @pytest.fixture
    def two_domains(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Two domains of two cores with two hardware threads each; CPU 3, the second of core 1, is core 1's too."""
        for domain, cpus in ((0, "0-3"), (1, "4-7")):
            folder = tmp_path / f"sys/devices/system/node/node{domain}"
            folder.mkdir(parents=True)
            (folder / "cpulist").write_text(f"{cpus}\n")
        for cpu in range(8):
            folder = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/topology"
            folder.mkdir(parents=True)
            (folder / "thread_siblings_list").write_text(f"{cpu // 2 * 2}-{cpu // 2 * 2 + 1}\n")
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
        return tmp_path

    def test_domains_are_targets_of_their_own(self, two_domains: Path) -> None:
        whole, first, second = cpu_targets(root=two_domains)
        assert (whole.name, whole.cores, whole.domains, whole.domain_count) == ("cpu", (0, 2, 4, 6), (0, 0, 1, 1), 2)
        assert (first.name, first.cores, second.name, second.cores) == ("cpu:0", (0, 2), "cpu:1", (4, 6))

    def test_few_threads_are_spread_over_the_domains(self, two_domains: Path) -> None:
        assert cpu_targets(3, two_domains)[0].cores == (0, 2, 4)
        assert cpu_targets(2, two_domains)[0].cores == (0, 4)
        (only,) = cpu_targets(1, two_domains)
        assert only.cores == (0,)

    def test_affinity_is_kept(self, two_domains: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {5, 6, 7})
        (only,) = cpu_targets(root=two_domains)
        assert (only.cores, only.domains) == ((5, 6), (1, 1))

    def test_a_system_that_tells_nothing_has_one_domain(self, tmp_path: Path) -> None:
        (only,) = cpu_targets(root=tmp_path)
        assert only.domain_count == 1

    def test_the_kernels_lists(self) -> None:
        assert cpu_list("0-3,8\n") == [0, 1, 2, 3, 8]
        assert cpu_list("\n") == []


@pytest.mark.skipif(bool(why_not("cpu")), reason=f"{why_not('cpu')}")
class TestTriton:
    def test_it_equals_torch(self) -> None:
        for dtype in ("float32", "float64"):
            for n in (0, 1, 1023, 1024, 1025, 3001):
                for body, inputs in BODIES.items():
                    x, y, out = (torch.from_numpy(a.copy()) for a in case(n, dtype))
                    Triton("cpu").transform(body, *(x, y)[:inputs], out=out, s=0.1)
                    wanted = torch.from_numpy(truth(body, x.numpy(), y.numpy(), 0.1, dtype))
                    torch.testing.assert_close(out, wanted)

    def test_stream_ends_in_its_closed_form(self) -> None:
        stream = Stream(Triton("cpu"), 2000)
        for _ in range(13):
            stream.repetition()
        stream.check()


@pytest.mark.skipif(importlib.util.find_spec("triton") is not None, reason="triton is there")
def test_without_triton_it_is_said() -> None:
    with pytest.raises(GrainlineError, match="STREAM by Triton: triton isn't installed"):
        Triton("cuda:0")


@pytest.mark.gpu
def test_stream_ends_in_its_closed_form_on_a_gpu() -> None:
    kinds = [Tensors] if why_not("cuda:0") else [Tensors, Triton]
    for kind in kinds:
        stream = Stream(kind("cuda:0"), 1 << 20)
        for _ in range(13):
            stream.repetition()
        stream.check()


def test_doctor_says_whether_the_compiled_core_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    from grainline.cli.doctor import _compiled_core

    monkeypatch.setattr(_compiled, "library", object)
    assert (_compiled_core().state, _compiled_core().mend) == ("ok", "")
    monkeypatch.setattr(_compiled, "library", lambda: None)
    monkeypatch.delenv(_compiled.OFF, raising=False)
    assert _compiled_core().state == "limited"
    assert "pip install" in _compiled_core().mend
    monkeypatch.setenv(_compiled.OFF, "1")
    assert _compiled_core().mend == f"unset {_compiled.OFF}"
