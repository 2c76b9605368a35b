"""The Triton kernels against the reference in float64: interpreted where there is no GPU, else on the GPU."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from grainline import kernels
from grainline.documents import GrainlineError
from grainline.kernels import reference, rounding
from grainline.kernels.stream.triton import why_not
from grainline.kernels.triton import launch, tiles, token_rounding
from grainline.kernels.triton.mixture import HALVES
from grainline.kernels.triton.router import top_k
from grainline.kernels.triton.tiles import CANDIDATES, KERNELS, ShapeClass, Tile
from grainline.kernels.triton.tune import Layer, tune

pytestmark = pytest.mark.filterwarnings("ignore:invalid value")  # NumPy's, of infinities that are masked out
interpreted = pytest.mark.skipif(bool(why_not("cpu")), reason=why_not("cpu") or "")
DEVICES = [pytest.param("cpu", marks=interpreted), pytest.param("cuda", marks=pytest.mark.gpu)]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.02}
"""Of a result's norm. The interpreter rounds to bfloat16 towards zero, which a GPU doesn't."""


@dataclass(frozen=True)
class Case:
    tokens: int
    width: int
    hidden: int
    counts: tuple[int, ...]
    distinct: bool = False  # units that come once


RAGGED = Case(50, 40, 24, (32, 0, 37, 5))
CASES = {
    "ragged sizes, an expert without rows, full and partial tiles": RAGGED,
    "one expert has all rows": Case(20, 33, 17, (0, 0, 0, 41)),
    "one row each": Case(9, 16, 16, (1,) * 20),
    "no rows at all": Case(5, 24, 16, (0, 0)),
    "most tokens have no entry": Case(90, 16, 31, (3, 1), distinct=True),
    "one expert": Case(18, 48, 32, (18,), distinct=True),
}


def draw(case: Case, dtype: torch.dtype, device: str) -> tuple[list[Tensor], Tensor, Tensor]:
    """(x, w13, w2, score), units, counts: none is zero or one."""
    generator = torch.Generator().manual_seed(sum(case.counts))

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    experts, rows, D, F = len(case.counts), sum(case.counts), case.width, case.hidden
    inputs = [normal(case.tokens, D), normal(experts, 2, F, D) / D**0.5, normal(experts, D, F) / F**0.5, normal(rows)]
    if case.distinct:
        unit_N = torch.randperm(case.tokens, generator=generator)[:rows]
    else:
        unit_N = torch.randint(0, case.tokens, (rows,), generator=generator)
    moved = [x.to(device, dtype).requires_grad_() for x in inputs]
    return moved, unit_N.to(device), torch.tensor(case.counts, device=device)


def outputs_and_grads(function, inputs, *rest):
    out = function(*inputs, *rest)
    seed = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(out.shape).to(out)
    return [out.detach(), *torch.autograd.grad(out, inputs, seed)]


def wide(x):
    return x.detach().cpu().double().requires_grad_()


def close(found, expected, tolerance):
    for mine, truth in zip(found, expected, strict=True):
        assert mine.shape == truth.shape
        error = (mine.detach().cpu().double() - truth.detach()).norm()
        assert error <= tolerance * truth.detach().norm(), f"off by {error:.2g} of {truth.norm():.2g}"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_a_mixture_and_all_its_gradients_equal_the_reference(name, dtype, device):
    if dtype == torch.float64 and device == "cuda":
        pytest.skip("the kernels take float64 in the interpreter alone")
    inputs, unit_N, counts_E = draw(CASES[name], dtype, device)
    with kernels.use({"expert_mixture": "triton"}):
        found = outputs_and_grads(kernels.expert_mixture, inputs, unit_N, counts_E)
    truth = outputs_and_grads(reference.expert_mixture, [wide(x) for x in inputs], unit_N.cpu(), counts_E.cpu())
    assert all(x.dtype == dtype and x.device.type == device for x in found)
    close(found, truth, TOLERANCE[dtype])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rows_that_are_sorted_already_equal_the_reference(dtype, device):
    (_, w13, w2, _), _, counts_E = draw(CASES["one expert has all rows"], dtype, device)
    rows = torch.randn(41, 33, device=device).to(dtype).requires_grad_()
    with kernels.use({"swiglu_experts": "triton"}):
        found = outputs_and_grads(kernels.swiglu_experts, [rows, w13, w2], counts_E)
    truth = outputs_and_grads(reference.swiglu_experts, [wide(x) for x in (rows, w13, w2)], counts_E.cpu())
    close(found, truth, TOLERANCE[dtype])


@interpreted
@settings(max_examples=8, deadline=None)
@given(
    counts=st.lists(st.integers(0, 20), min_size=1, max_size=4),
    tokens=st.integers(1, 30),
    width=st.integers(1, 40),
    hidden=st.integers(1, 36),
)
def test_any_sizes_will_do(counts, tokens, width, hidden):
    inputs, unit_N, counts_E = draw(Case(tokens, width, hidden, tuple(counts)), torch.float64, "cpu")
    found = outputs_and_grads(kernels.BACKENDS["expert_mixture"]["triton"], inputs, unit_N, counts_E)
    close(found, outputs_and_grads(reference.expert_mixture, inputs, unit_N, counts_E), 1e-12)


@pytest.mark.parametrize("device", DEVICES)
def test_weights_of_another_dtype_get_their_gradients_in_it(device):
    (x, w13, w2, score), unit_N, counts_E = draw(CASES["one expert"], torch.float32, device)
    narrow = x.detach().bfloat16().requires_grad_()
    found = outputs_and_grads(kernels.BACKENDS["expert_mixture"]["triton"], [narrow, w13, w2, score], unit_N, counts_E)
    assert [each.dtype for each in found] == [torch.bfloat16] * 2 + [torch.float32] * 3
    inputs = [wide(each) for each in (x, w13, w2, score)]
    close(found, outputs_and_grads(reference.expert_mixture, inputs, unit_N.cpu(), counts_E.cpu()), 0.03)


@pytest.mark.parametrize("device", DEVICES)
def test_tensors_in_any_layout_are_taken(device):
    (x, w13, w2, _), unit_N, counts_E = draw(CASES["one expert"], torch.float32, device)
    spread = torch.empty(18, 96, device=device)[:, ::2].copy_(x.detach()).requires_grad_()
    w2_F = w2.detach().mT.contiguous().mT.requires_grad_()
    score_N = torch.tensor([0.7], device=device).expand(18)
    units = torch.stack((unit_N, unit_N), dim=1)[:, 0]
    assert not any(each.is_contiguous() for each in (spread, w2_F, score_N, units))
    out = kernels.BACKENDS["expert_mixture"]["triton"](spread, w13, w2_F, score_N, units, counts_E)
    out.sum().backward()  # an expanded gradient
    truth = [wide(each) for each in (spread, w13, w2_F)]
    expected = reference.expert_mixture(*truth, score_N.cpu().double(), units.cpu(), counts_E.cpu())
    expected.sum().backward()
    close((out, spread.grad, w13.grad, w2_F.grad), (expected, *(each.grad for each in truth)), 1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_only_x_one_activation_and_the_lists_are_kept(device):
    """SonicMoE's formula: 2TD + 4TKF bytes in 16 bits, beside weights and indices."""
    inputs, unit_N, counts_E = draw(RAGGED, torch.bfloat16, device)
    kept: dict[int, Tensor] = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.setdefault(x.data_ptr(), x), lambda x: x):
        kernels.BACKENDS["expert_mixture"]["triton"](*inputs, unit_N, counts_E)
    given = {x.data_ptr() for x in (*inputs[1:], unit_N, counts_E)}
    x, rows, hidden = inputs[0], len(unit_N), 24
    assert given < kept.keys()
    assert sum(x.nbytes for key, x in kept.items() if key not in given) == x.nbytes + 2 * rows * 2 * hidden


@pytest.mark.parametrize("device", DEVICES)
def test_nothing_is_written_for_a_backward_that_cannot_come(device):
    inputs, unit_N, counts_E = draw(CASES["one expert"], torch.float32, device)
    out_TD, hidden_NG = HALVES.forward(*inputs, unit_N, counts_E, keep=False)
    truth = reference.expert_mixture(*(wide(x) for x in inputs), unit_N.cpu(), counts_E.cpu())
    assert hidden_NG is None
    close([out_TD], [truth], 1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_gradients_of_weights_can_come_later(device):
    inputs, unit_N, counts_E = draw(CASES["one row each"], torch.float32, device)
    truth = [wide(x) for x in inputs]
    queue = kernels.WeightQueue()
    x, w13, w2, _ = inputs
    with kernels.use({"expert_mixture": "triton"}), queue.collecting() as work:
        kernels.expert_mixture(*inputs, unit_N, counts_E, queue).square().sum().backward()
    assert w13.grad is None
    assert w2.grad is None
    for add in work:
        add()
    reference.expert_mixture(*truth, unit_N.cpu(), counts_E.cpu()).square().sum().backward()
    close((x.grad, w13.grad, w2.grad), [each.grad for each in truth[:3]], 1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_a_compiler_takes_the_layer_as_one_op(device):
    torch._dynamo.reset()
    inputs, unit_N, counts_E = draw(CASES["one row each"], torch.float32, device)
    with kernels.use({"expert_mixture": "triton"}):
        compiled = torch.compile(kernels.expert_mixture, backend="aot_eager", fullgraph=True)
        found = outputs_and_grads(compiled, inputs, unit_N, counts_E)
        close(found, outputs_and_grads(kernels.expert_mixture, inputs, unit_N, counts_E), 0)


@pytest.mark.parametrize("device", DEVICES)
def test_what_is_infinite_in_one_expert_stays_there(device):
    """Past an expert's last row lie the next one's, and 0 times infinity would be NaN."""
    case = Case(40, 24, 16, (17, 5, 18), distinct=True)
    inputs, unit_N, counts_E = draw(case, torch.float32, device)
    with torch.no_grad():
        inputs[0][unit_N[17:22]] = torch.inf
    found = outputs_and_grads(kernels.BACKENDS["expert_mixture"]["triton"], inputs, unit_N, counts_E)
    for each in found[2:4]:  # w13's and w2's
        assert each[[0, 2]].isfinite().all()
        assert not each[1].isfinite().all()


@pytest.mark.parametrize("device", DEVICES)
def test_two_runs_are_equal_to_the_last_bit(device):
    inputs, unit_N, counts_E = draw(CASES["one row each"], torch.bfloat16, device)
    mixture = kernels.BACKENDS["expert_mixture"]["triton"]
    first, second = (outputs_and_grads(mixture, inputs, unit_N, counts_E) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@interpreted
@given(counts=st.lists(st.integers(0, 70), min_size=1, max_size=9), tile_rows=st.sampled_from([16, 32, 64]))
@settings(max_examples=25, deadline=None)
def test_the_tile_table_has_every_row_once(counts, tile_rows):
    expert_T, first_T, end_T = launch.row_tiles(torch.tensor(counts), sum(counts), tile_rows).tolist()
    starts = [sum(counts[:e]) for e in range(len(counts))]
    expected = [
        (e, starts[e] + i, starts[e] + count) for e, count in enumerate(counts) for i in range(0, count, tile_rows)
    ]
    assert list(zip(expert_T, first_T, end_T, strict=True))[: len(expected)] == expected
    assert set(expert_T[len(expected) :]) <= {-1}


SCORES = {"none": lambda x: x, "softmax": lambda x: x.softmax(-1), "sigmoid": torch.sigmoid}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("scoring", SCORES)
@pytest.mark.parametrize(("tokens", "experts", "k"), [(37, 12, 3), (5, 4, 4), (3, 130, 16), (1, 1, 1), (0, 6, 2)])
def test_top_k_equals_a_stable_sort(tokens, experts, k, scoring, device):
    """Logits are small whole numbers, so that many scores tie."""
    torch.manual_seed(experts)
    logits_TE = torch.randint(-2, 3, (tokens, experts)).float().to(device).requires_grad_()
    bias_E = torch.randint(0, 2, (experts,)).float().to(device)
    for bias in (None, bias_E):
        score_TK, expert_TK = top_k(logits_TE, k, scoring, bias)
        truth_TE = wide(logits_TE)
        scores_TE = SCORES[scoring](truth_TE)
        key_TE = SCORES[scoring](logits_TE.detach()) + (0 if bias is None else bias)  # ties as they are in float32
        best_TK = key_TE.sort(dim=1, descending=True, stable=True).indices[:, :k].cpu()
        assert torch.equal(expert_TK.cpu(), best_TK)
        expected_TK = scores_TE.gather(1, best_TK)
        seed_TK = torch.randn(tokens, k)
        close([score_TK], [expected_TK], 1e-6)
        (found,) = torch.autograd.grad(score_TK, logits_TE, seed_TK.to(device))
        (expected,) = torch.autograd.grad(expected_TK, truth_TE, seed_TK.double())
        close([found], [expected], 1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_top_k_takes_nan_first_and_tells_experts_of_no_score_apart(device):
    logits_TE = torch.tensor([[0.0, torch.nan, 1.0], [-torch.inf] * 3], device=device)
    score_TK, expert_TK = top_k(logits_TE, 2, "none")
    assert expert_TK.tolist() == [[1, 2], [0, 1]]
    assert score_TK[0, 0].isnan()


@pytest.mark.parametrize("device", DEVICES)
def test_the_choice_by_scores_equals_the_reference(device):
    score_TE = torch.randint(0, 5, (30, 9)).float().to(device).requires_grad_()
    with kernels.use({"route_topk": "triton"}):
        expert_TK, score_TK = kernels.route_topk(score_TE, 4)
    expected_TK, best_TK = reference.route_topk(score_TE, 4)
    assert torch.equal(expert_TK, expected_TK)
    assert torch.equal(score_TK, best_TK)
    (found,), (expected,) = (torch.autograd.grad(x.square().sum(), score_TE) for x in (score_TK, best_TK))
    assert torch.equal(found, expected)


@interpreted
def test_top_k_says_what_cannot_be_chosen():
    with pytest.raises(GrainlineError, match="4 experts can't be chosen of 3"):
        top_k(torch.zeros(2, 3), 4, "softmax")
    with pytest.raises(GrainlineError, match="at most 64 of 4096 experts"):
        top_k(torch.zeros(2, 4097), 4, "softmax")
    with pytest.raises(GrainlineError, match="'relu' is no way to score; there is none, softmax, sigmoid"):
        top_k(torch.zeros(2, 3), 1, "relu")


@interpreted
@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(0, 50), min_size=1, max_size=9),
    tile=st.integers(1, 9),
    seed=st.integers(0, 99),
    kind=st.sampled_from(sorted(rounding.ROUNDINGS)),
)
def test_counts_are_rounded_as_by_the_host(counts, tile, seed, kind):
    mass_TE = torch.rand(50, len(counts)).sort(0, descending=True).values
    draw_E = torch.rand(len(counts), generator=torch.Generator().manual_seed(seed))
    arguments = torch.tensor(counts), mass_TE, tile, kind, draw_E
    assert torch.equal(token_rounding.round_counts(*arguments), rounding.on_host(*arguments))


def test_stochastic_rounding_needs_its_draws():
    with pytest.raises(GrainlineError, match="needs draw_E"):
        token_rounding.round_counts(torch.tensor([3]), torch.rand(9, 1), 2, "stochastic")


class TestTiles:
    @pytest.fixture(autouse=True)
    def cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        tiles._measured.cache_clear()
        yield tmp_path
        tiles._measured.cache_clear()

    def test_what_was_measured_is_found_again_for_the_nearest_number_of_rows(self) -> None:
        cpu = torch.device("cpu")
        few, many = ({kernel: Tile(rows, 16, 16) for kernel in KERNELS} for rows in (16, 32))
        shape = ShapeClass("float32", 40, 24, 8)
        assert tiles.tiles_for(shape, cpu)["up"] == Tile(16, 16, 16, group=2)  # the guess
        tiles.save(tiles.INTERPRETER, {shape: few})
        tiles.save(tiles.INTERPRETER, {ShapeClass("float32", 40, 24, 512): many})
        assert tiles.tiles_for(ShapeClass("float32", 40, 24, 16), cpu) == few
        assert tiles.tiles_for(ShapeClass("float32", 40, 24, 4096), cpu) == many
        assert tiles.tiles_for(ShapeClass("bfloat16", 40, 24, 8), cpu)["up"].group == 2
        assert tiles.tiles_for(ShapeClass("float32", 40, 25, 8), cpu)["up"].group == 2

    def test_a_damaged_file_is_named(self, cache: Path) -> None:
        path = tiles.save(tiles.INTERPRETER, {})
        path.write_text(json.dumps({"tiles": {"x": {"up": {}}}}))
        tiles._measured.cache_clear()
        with pytest.raises(GrainlineError, match=r"interpreter\.json doesn't hold measured tiles"):
            tiles.tiles_for(ShapeClass("float32", 8, 8, 8), torch.device("cpu"))

    @pytest.mark.parametrize("shared", [64 << 10, 99 << 10, 163 << 10, 227 << 10])
    @pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
    def test_a_guess_fits_the_device_and_its_rows(self, shared: int, dtype: str) -> None:
        for rows in (1, 32, 4096):
            shape = ShapeClass(dtype, 1536, 256, rows)
            for kernel in KERNELS:
                tile = tiles.guess(kernel, shape, shared)
                assert tiles.shared_bytes(kernel, tile, getattr(torch, dtype).itemsize) <= shared
                assert kernel in tiles.OVER_ROWS or tile.rows <= max(16, rows)

    def test_rows_of_an_expert_are_rounded_up_to_powers_of_two(self) -> None:
        assert str(ShapeClass.of(torch.bfloat16, 8, 4, 10, 4)) == "bfloat16 D=8 F=4 rows=4"
        assert ShapeClass.of(torch.float32, 8, 4, 0, 4).rows == 1

    @interpreted
    def test_the_fastest_candidate_of_each_kernel_is_kept_and_used(self, cache: Path) -> None:
        """The clock is made up; the kernels really run."""
        layer, calls = Layer(tokens=12, width=24, hidden=16, experts=3, top_k=2), []
        candidates = {kernel: (Tile(16, 16, 16), Tile(32, 16, 16), Tile(16, 32, 16)) for kernel in KERNELS}

        def clock(work) -> float:
            calls.append(work())
            return (3.0, 1.0, 2.0)[(len(calls) - 1) % 3]

        found = tune(layer, torch.float32, torch.device("cpu"), clock, candidates)
        assert len(calls) == 3 * len(KERNELS)
        assert set(found.tiles.values()) == {Tile(32, 16, 16)}
        assert found.seconds["up"] == dict(zip(candidates["up"], (3.0, 1.0, 2.0), strict=True))
        tiles.save(tiles.INTERPRETER, {found.shape: found.tiles})
        assert tiles.tiles_for(layer.shape_class(torch.float32), torch.device("cpu")) == found.tiles

    @interpreted
    def test_a_candidate_that_does_not_fit_is_left_out(self) -> None:
        from triton.runtime.errors import OutOfResources

        layer = Layer(tokens=4, width=16, hidden=16, experts=2, top_k=1)
        small, large = Tile(16, 16, 16), Tile(32, 16, 16)

        def clock(work) -> float:
            work()
            if fits == 0 or (fits == 1 and len(tried) % 2):
                tried.append(work)
                raise OutOfResources(300_000, 200_000, "shared memory")
            tried.append(work)
            return 1.0

        fits, tried = 1, []
        found = tune(layer, torch.float32, torch.device("cpu"), clock, dict.fromkeys(KERNELS, (small, large)))
        assert all(list(seconds) == [small] for seconds in found.seconds.values())
        fits = 0
        with pytest.raises(GrainlineError, match=r"none of the tiles for 'up' runs on this device.*shared memory"):
            tune(layer, torch.float32, torch.device("cpu"), clock, dict.fromkeys(KERNELS, (small,)))


class TestChoice:
    def test_a_person_chooses_for_a_block_or_for_the_process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        default = kernels.CHOICE["cuda"]["expert_mixture"]
        assert kernels.backend_of("expert_mixture", "cuda") == default
        monkeypatch.setenv("GRAINLINE_BACKENDS", "expert_mixture=sonic, attention=reference")
        assert kernels.backend_of("expert_mixture", "cuda") == "sonic"
        assert kernels.backend_of("attention", "cpu") == "reference"
        with kernels.use({"expert_mixture": "triton"}):
            with kernels.use({"attention": "short"}):
                assert kernels.backend_of("expert_mixture", "cuda") == "triton"
                assert kernels.op("attention", "cuda") is kernels.BACKENDS["attention"]["short"]
            assert kernels.backend_of("attention", "cuda") == "reference"
        assert kernels.backend_of("expert_mixture", "cuda") == "sonic"

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("expert_mixture", "'expert_mixture' must be op=backend"),
            ("expert_mixtures=triton", "there is no op 'expert_mixtures'. Did you mean 'expert_mixture'?"),
            ("rms_norm=triton", "'rms_norm' has no backend 'triton'. It has reference, by_hand"),
        ],
    )
    def test_a_wrong_name_is_refused(self, text: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GRAINLINE_BACKENDS", text)
        with pytest.raises(GrainlineError) as error:
            kernels.rms_norm(torch.ones(3), torch.ones(3), 1e-6)
        assert message in str(error.value)

    def test_a_name_given_in_code_is_refused_at_once(self) -> None:
        with pytest.raises(GrainlineError, match=r"kernels\.use: 'expert_mixture' has no backend 'cuda'"):
            kernels.use({"expert_mixture": "cuda"}).__enter__()


def test_without_triton_or_a_gpu_the_backend_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    inputs, unit_N, counts_E = draw(CASES["one expert"], torch.float32, "cpu")
    with pytest.raises(GrainlineError, match=r"experts by Triton: triton .*Other backends: grouped, sonic, reference"):
        kernels.BACKENDS["expert_mixture"]["triton"](*inputs, unit_N, counts_E)


COMPILE = Path(__file__).parent / "compile_triton.py"


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton isn't installed")
def test_every_kernel_and_candidate_compiles_for_gpus_that_are_not_here(tmp_path: Path) -> None:
    """Triton brings NVIDIA's assembler: what it says of registers and shared memory holds for the device."""
    run = subprocess.run([sys.executable, COMPILE, tmp_path], capture_output=True, text=True, timeout=500, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    compiled = json.loads(run.stdout)
    kernels_of = {arch: {each["kernel"] for each in compiled if each["arch"] == arch} for arch in (80, 90)}
    assert all(found > CANDIDATES.keys() for found in kernels_of.values())
    for each in compiled:
        assert each["spilled_bytes"] <= 64, each
        if each["kernel"] in CANDIDATES:
            assert each["shared_bytes"] <= each["bound_bytes"], each
            assert each["matrix_instructions"], each
            assert each["copies_of_16_bytes"], each
