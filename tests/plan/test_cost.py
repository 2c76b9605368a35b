"""Costs of cells: FLOPs against the model's, bytes against what autograd keeps, seconds by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from grainline import kernels
from grainline.documents import GrainlineError, ModelConfig, Moe
from grainline.documents.cluster import DeviceType
from grainline.models.blocks import Around
from grainline.models.build import build
from grainline.models.count import flops_per_token, kv_cache_bytes_per_token, parameters, weight_bytes
from grainline.models.dial import bottleneck_twin, config_for_depth, dense_twin
from grainline.models.model import Model, Trunk
from grainline.plan import memory
from grainline.plan.cost import Speed, cell_cost, cells_at, costs_for, stage_cost
from grainline.plan.memory import MicroBatch
from grainline.plan.work import Op, linear, work_of
from grainline.schedule.actions import Kind
from grainline.schedule.cells import Cell, cells_of

LENGTH, VOCABULARY = 64, 512
SPARSE = config_for_depth(4, VOCABULARY, LENGTH)
DENSE = dense_twin(SPARSE).model_copy(update={"mtp_depth": 0, "tie_embeddings": True})
MLA = SPARSE.model_copy(
    update={
        "family": "deepseek-v3",
        "attention": SPARSE.attention.model_copy(
            update={"kind": "mla", "kv_heads": None, "qk_norm": False}
            | {"kv_rank": 32, "q_rank": 48, "rope_dim": 16, "value_dim": 24}
        ),
    }
)
SHARED = SPARSE.model_copy(update={"moe": SPARSE.moe and SPARSE.moe.model_copy(update={"reuse": 2})})
ZAYA = SPARSE.model_copy(
    update={
        "family": "zaya",
        "mtp_depth": 0,
        "tie_embeddings": True,
        "residual_scaling": True,
        "attention": SPARSE.attention.model_copy(update={"kind": "cca", "qk_norm": False}),
        "moe": Moe(
            experts=16, top_k=1, expert_hidden=32, router="depth-averaged", router_hidden=24, zero=1,
            bias_balanced=True, normalize=False,
        ),
    }
)  # fmt: skip
COSTLESS = SPARSE.model_copy(
    update={
        "moe": Moe(
            experts=24, top_k=4, expert_hidden=32, router="gating-residual", zero=1, copy_experts=1, constant=6,
            tau=1.0, dense_layers=(1,),
        ),
    }
)  # fmt: skip
NARROW = bottleneck_twin(SPARSE, 32)
CONFIGS = {
    "zaya": ZAYA,
    "sparse": SPARSE,
    "dense": DENSE,
    "mla": MLA,
    "shared": SHARED,
    "costless": COSTLESS,
    "bottleneck": NARROW,
}
SPEED = Speed(1e12, 1e11, "made up")


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("mtp_every", [1, 4])
def test_the_work_of_all_cells_is_the_models(config: ModelConfig, mtp_every: int) -> None:
    batch = MicroBatch(3, LENGTH, mtp_every=mtp_every)
    total = sum(work_of(config, cell, batch).flops for cell in cells_of(config))
    assert total == pytest.approx(batch.tokens * flops_per_token(config, LENGTH, mtp=1 / mtp_every))


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_experts_of_the_compiled_core_have_the_same_products_and_move_less(compute: str) -> None:
    cell = next(cell for cell in cells_of(SPARSE) if cell.kind == "moe")
    apart, fused = (
        work_of(SPARSE, cell, MicroBatch(4, LENGTH, compute, fuses_experts=fuses)) for fuses in (False, True)
    )
    for half in ("forward", "input_gradient", "weight_gradient"):
        of_apart, of_fused = getattr(apart, half), getattr(fused, half)
        assert sum(op.flops for op in of_fused) == pytest.approx(sum(op.flops for op in of_apart))
        assert sum(op.bytes for op in of_fused) < sum(op.bytes for op in of_apart)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_forward_flops_are_those_that_torch_counts(config: ModelConfig) -> None:
    """All but attention's, which torch counts whole and we by half: what the mask hides isn't needed."""
    model, batch = build(config), MicroBatch(2, LENGTH, "float32")
    visible = kernels.use({"expert_mixture": "sonic"})  # torch doesn't see into compiled kernels
    with visible, FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.randint(0, VOCABULARY, (2, LENGTH), generator=torch.Generator().manual_seed(0)))
    counted = {str(op): n for op, n in counter.get_flop_counts()["Global"].items()}
    products = sum(n for op, n in counted.items() if "attention" not in op and "bmm" not in op)
    if config.attention.kind == "cca":  # whose convolution of heads is a product for each of them
        products += sum(n for op, n in counted.items() if "bmm" in op)
    trunk = [cell for cell in cells_of(config) if cell.kind in ("embedding", "dense", "moe")]
    attention = config.layers * batch.tokens * (LENGTH + 1) / 2
    forward = sum(op.flops for cell in trunk for op in work_of(config, cell, batch).forward)
    scores = attention * _attention_flops_per_key(config)
    head = 2 * batch.tokens * config.vocab_size * config.hidden_size
    even = config.moe is not None and config.moe.costless > 0  # then costs are of loads as tau has them
    assert forward - scores + head == (pytest.approx(products, rel=0.03) if even else products)


def _attention_flops_per_key(config: ModelConfig) -> int:
    a = config.attention
    per_head = a.head_dim + (a.rope_dim or 0) + a.value_dim if a.kind == "mla" and a.value_dim else 2 * a.head_dim
    return 2 * a.heads * per_head


def _saved_bytes(model: Model, run: Callable[[], object], known: tuple[Tensor, ...] = ()) -> int:
    """What autograd keeps of `run`: every storage once, parameters and `known` tensors left out."""
    apart = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *known)}
    kept: dict[int, int] = {}
    alive = []

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in apart:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)  # else its place could be given to another
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        result = run()
    assert result is not None
    return sum(kept.values())


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_kept_bytes_are_what_autograd_keeps(config: ModelConfig, compute: str) -> None:
    dtype = getattr(torch, compute)
    model = build(config)
    model.compute_dtype = dtype
    # PyTorch has no attention for CPUs whose values are of another size than its keys, and writes scores out.
    writes_scores = compute == "bfloat16" or config.attention.kind == "mla"
    batch = MicroBatch(2, LENGTH, compute, writes_scores=writes_scores)
    ids_BS = torch.randint(0, VOCABULARY, (2, LENGTH), generator=torch.Generator().manual_seed(0))
    rope, mask = model.positions(LENGTH, 0, None)
    tables = (rope.cos, rope.sin)
    x_BSD = torch.randn(2, LENGTH, config.hidden_size, dtype=model.stream_dtype, requires_grad=True)
    for layer in {0, config.layers - 1}:
        cell = Cell("moe" if config.is_sparse(layer) else "dense", layer)
        carry_TC = torch.randn(batch.tokens, config.moe.carry_width if config.moe else 0, requires_grad=True)
        run = partial(model.run_block, layer, x_BSD, Around(rope, mask, report=True), carry_TC)
        found = _saved_bytes(model, run, tables)
        assert memory.kept_bytes(config, cell, batch) == pytest.approx(found, rel=0.06), cell.name
    ends: dict[str, Callable[[], object]] = {
        "embedding": lambda: model.embed(ids_BS),
        "head": lambda: _loss(model, x_BSD, ids_BS, norm=not config.mtp_depth),
    }
    if config.mtp_depth:
        trunk = lambda: model.predict_further(Trunk(model.norm(x_BSD)), ids_BS, report=True)  # noqa: E731
        ends |= {"mtp": trunk, "mtp_head": ends["head"]}
    for kind, run in ends.items():
        cell = next(cell for cell in cells_of(config) if cell.kind == kind)
        found = _saved_bytes(model, run, (*tables, ids_BS) if kind == "head" else tables)
        assert memory.kept_bytes(config, cell, batch) == pytest.approx(found, rel=0.06), kind


def _loss(model: Model, x_BSD: Tensor, ids_BS: Tensor, norm: bool) -> Tensor:
    hidden = model.normalise(x_BSD) if norm else x_BSD
    return kernels.linear_cross_entropy(hidden.flatten(0, 1), model.head_VD, ids_BS.flatten())


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_parameters_of_all_cells_are_the_models(config: ModelConfig) -> None:
    count = parameters(config)
    found = memory.parameters_of_all(config, cells_of(config))
    assert sum(found.values()) == count.total + count.mtp == sum(p.numel() for p in build(config).parameters())
    state = memory.state_bytes(found, "adamw")
    assert state.total == 16 * (count.total + count.mtp)
    assert memory.state_bytes(found, "muon").optimizer < state.optimizer
    assert weight_bytes(config) == 2 * (count.total + count.mtp)
    assert weight_bytes(config, "float32") == sum(p.nbytes for p in build(config).parameters())


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_cache_of_a_position_is_what_generation_keeps(config: ModelConfig) -> None:
    model = build(config)
    state = model.new_state()
    with torch.no_grad():
        model(torch.zeros(1, 10, dtype=torch.long), state)
    held = sum(buffer[:, :10].nbytes for cache in state.caches for buffer in cache._buffers)
    assert held == 10 * kv_cache_bytes_per_token(config, "float32")


def test_cells_that_share_a_table_have_it_once_on_one_rank() -> None:
    cells = {cell.kind: cell for cell in cells_of(SPARSE)}
    table = SPARSE.vocab_size * SPARSE.hidden_size
    alone = sum(memory.parameters_of(SPARSE, cells["mtp_head"]).values())
    both = memory.parameters_of_all(SPARSE, [cells["mtp_head"], cells["head"]])
    assert alone == sum(both.values()) == table
    tied = SPARSE.model_copy(update={"tie_embeddings": True})
    assert sum(memory.parameters_of_all(tied, [cells["embedding"], cells["head"]]).values()) == table


def test_an_op_takes_as_long_as_what_binds_it() -> None:
    assert SPEED.seconds([Op(3e12, 1e9), Op(1e9, 2e11)]) == pytest.approx(3.0 + 2.0)


def test_a_matrix_product_by_hand() -> None:
    found = linear(10, 4, 6, MicroBatch(1, 10, "float32"))
    values, weights = 10 * (4 + 6), 4 * 6
    assert found.forward == (Op(2 * 10 * 24, 4 * (values + weights)),)
    assert found.weight_gradient[1] == Op(0, 12 * weights)
    narrow = linear(10, 4, 6, MicroBatch(1, 10, "bfloat16"))
    assert narrow.forward[0] == Op(0, 6 * weights)  # read wide, written narrow


def test_a_stage_is_the_sum_of_its_cells() -> None:
    batch = MicroBatch(2, LENGTH)
    cells = cells_of(DENSE)
    of = [cell_cost(DENSE, cell, batch, SPEED) for cell in cells]
    whole = stage_cost(of, 0.0)
    for kind in (Kind.F, Kind.B, Kind.I, Kind.W, Kind.R):
        assert whole.seconds[kind] == pytest.approx(sum(cost.seconds[kind] for cost in of))
    assert whole.seconds[Kind.B] == pytest.approx(whole.seconds[Kind.I] + whole.seconds[Kind.W])
    assert whole.output_bytes == 0  # the head's
    assert whole.input_bytes == 8 * batch.tokens  # ids
    middle = stage_cost(of[1:3], 5.0)
    assert middle.output_bytes == middle.input_bytes == 2 * LENGTH * 2 * DENSE.hidden_size
    assert middle.seconds[Kind.R] == middle.seconds[Kind.F]
    nothing = stage_cost((), 7.0)
    assert nothing.output_bytes == 7.0
    assert set(nothing.seconds.values()) == {0.0}


def test_costs_of_a_cut_depend_on_the_device() -> None:
    cells, batch = cells_of(SPARSE), MicroBatch(2, LENGTH)
    stages = (cells[:3], (), cells[3:])
    slow = dataclasses.replace(SPEED, flops_per_second=1e11, bytes_per_second=1e10)
    speeds = (SPEED, slow)
    costs = costs_for(SPARSE, stages, ((0, 2), (1,)), batch, cells_at(SPARSE, batch, speeds), speeds)
    assert costs.stage(0, 1).seconds[Kind.F] == pytest.approx(10 * costs.stage(0, 0).seconds[Kind.F])
    assert costs.stage(1, 1).output_bytes == costs.stage(0, 0).output_bytes
    assert costs.static_bytes[1] == 0
    count = parameters(SPARSE)
    assert costs.static_bytes[0] == 16 * (count.total + count.mtp)


def test_a_recomputed_head_makes_its_gradients_once() -> None:
    """Of two forwards one is without gradients: a third of the products."""
    work = work_of(DENSE, Cell("head"), MicroBatch(2, LENGTH))
    flops = {name: sum(op.flops for op in getattr(work, name)) for name in ("forward", "input_gradient", "again")}
    assert flops["forward"] == 3 * flops["again"] > 0 == flops["input_gradient"]


def test_a_speed_says_where_it_comes_from_and_what_is_missing() -> None:
    memory_tier = {"name": "HBM", "capacity_bytes": 80 * 10**9, "bytes_per_second": 2e12}
    gpu = DeviceType.model_validate(
        {"name": "A100-80", "kind": "gpu", "flops_per_second": {"bfloat16": 312e12}, "memory": [memory_tier]}
    )
    found = Speed.of(gpu, "bfloat16")
    assert (found.flops_per_second, found.bytes_per_second) == (156e12, 1.6e12)
    assert "312 TFLOP/s bfloat16 (data sheet), 50% of it reached (assumed)" in found.origin
    assert Speed.of(gpu, "bfloat16", share=0.5).flops_per_second == 78e12
    with pytest.raises(GrainlineError, match=r"'A100-80': no rate for float32 is told \(known: bfloat16\)"):
        Speed.of(gpu, "float32")
