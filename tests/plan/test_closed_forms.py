"""Megatron-LM's formulas against counters: modules walked, FLOPs counted, schedules simulated, the paper's own rows."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from grainline.plan.closed_forms import (
    Gpt,
    batch_seconds,
    bubble_of_split,
    bubble_overhead,
    checkpointed_size,
    checkpoints,
    data_elements,
    in_flight_stages,
    pipeline_elements,
    tensor_elements,
    training_seconds,
)
from grainline.schedule import (
    Kind,
    Network,
    Timeline,
    add_messages,
    equal_costs,
    lower,
    make_schedule,
    peak_in_flight,
    simulate,
)
from grainline.schedule.simulator.collectives import crossing

DAY = 86_400


class Layer(nn.Module):
    """A GPT layer as in 2019: biases everywhere, attention over the whole square."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.qkv, self.out = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.up, self.down = nn.Linear(hidden, 4 * hidden), nn.Linear(4 * hidden, hidden)

    def forward(self, x_BSD: Tensor) -> Tensor:
        heads = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(self.norm_1(x_BSD)).chunk(3, -1))
        q_BHSh, k_BHSh, v_BHSh = heads
        seen_BHSh = (q_BHSh @ k_BHSh.mT).softmax(-1) @ v_BHSh
        x_BSD = x_BSD + self.out(seen_BHSh.transpose(1, 2).flatten(2))
        return x_BSD + self.down(self.up(self.norm_2(x_BSD)).relu())


class Whole(nn.Module):
    def __init__(self, gpt: Gpt) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(gpt.vocabulary, gpt.hidden), nn.Embedding(gpt.length, gpt.hidden)
        self.layers = nn.ModuleList(Layer(gpt.hidden, 2) for _ in range(gpt.layers))

    def forward(self, ids_BS: Tensor) -> Tensor:
        x_BSD = self.tokens(ids_BS) + self.positions(torch.arange(ids_BS.shape[1]))
        for layer in self.layers:
            x_BSD = layer(x_BSD)
        return x_BSD @ self.tokens.weight.T


SMALL = Gpt(layers=3, hidden=16, vocabulary=50, length=12)


def test_parameters_are_those_of_the_modules() -> None:
    assert sum(p.numel() for p in Whole(SMALL).parameters()) == SMALL.parameters
    deep, h, v, s = SMALL.layers, SMALL.hidden, SMALL.vocabulary, SMALL.length
    assert pytest.approx(12 * deep * h**2 * (1 + 13 / (12 * h) + (v + s) / (12 * deep * h))) == SMALL.parameters


def test_flops_are_those_that_torch_counts() -> None:
    model, ids_BS = Whole(SMALL), torch.zeros(2, SMALL.length, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        model(ids_BS).sum().backward()
    assert counter.get_total_flops() == pytest.approx(SMALL.flops(2, recompute=False))
    with FlopCounterMode(display=False) as again, torch.no_grad():
        x_BSD = torch.zeros(2, SMALL.length, SMALL.hidden)
        for layer in model.layers:
            layer(x_BSD)
    both = counter.get_total_flops() + again.get_total_flops()
    assert both == pytest.approx(SMALL.flops(2))
    b, s, deep, h, v = 2, SMALL.length, SMALL.layers, SMALL.hidden, SMALL.vocabulary
    assert both == pytest.approx(96 * b * s * deep * h**2 * (1 + s / (6 * h) + v / (16 * deep * h)))


def _played(name: str, ranks: int, microbatches: int, chunks: int, output_bytes: float = 0.0) -> Timeline:
    schedule = add_messages(make_schedule(name, ranks, microbatches, chunks=chunks))
    network = Network.uniform(ranks, 0.0, 1e9) if output_bytes else Network.ideal(ranks)
    return simulate(lower(schedule, equal_costs(1.0, 2.0, output_bytes=output_bytes), network))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 8), st.integers(1, 4), st.integers(1, 4))
def test_simulated_bubbles_are_the_formulas(ranks: int, chunks: int, groups: int) -> None:
    microbatches = ranks * groups
    for name, of in (("interleaved", chunks), ("1f1b", 1), ("gpipe", 1)):
        found = _played(name, ranks, microbatches, of)
        assert found.bubble_overhead == pytest.approx(bubble_overhead(ranks, microbatches, of), abs=1e-12)


@pytest.mark.parametrize(
    ("ranks", "chunks", "microbatches", "overhead"),
    [(8, 1, 32, 0.21875), (8, 2, 32, 0.109375), (8, 4, 32, 0.0546875), (4, 2, 8, 0.1875)],
)
def test_bubbles_of_the_brief(ranks: int, chunks: int, microbatches: int, overhead: float) -> None:
    assert bubble_overhead(ranks, microbatches, chunks) == overhead
    assert _played("interleaved", ranks, microbatches, chunks).bubble_overhead == overhead


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 6), st.integers(1, 4))
def test_activations_held_are_the_formulas(ranks: int, chunks: int) -> None:
    microbatches = 4 * ranks
    found = peak_in_flight(make_schedule("interleaved", ranks, microbatches, chunks=chunks))
    assert [n / chunks for n in found] == pytest.approx([in_flight_stages(ranks, chunks, r) for r in range(ranks)])


def test_a_batch_takes_as_long_as_simulated() -> None:
    found = _played("1f1b", 4, 12, 1)
    assert found.makespan == batch_seconds(24, 2, 4, 1.0, 2.0) == 15 * 3


@pytest.mark.parametrize("chunks", [1, 3])
def test_traffic_between_stages_is_what_crosses_the_links(chunks: int) -> None:
    """Of a rank in the middle, forward out: every chunk's output; the ring's last hop is one less."""
    elements = pipeline_elements(2, 5, 7, chunks=chunks)
    found = _played("interleaved", 4, 8, chunks, output_bytes=2.0 * 5 * 7)
    forward = 8 * elements  # micro-batches
    assert found.link_bytes["rank 1 out"] == 2 * forward  # its gradients go back to rank 0, as large
    assert pipeline_elements(2, 5, 7, tensor=7, chunks=chunks) == elements / 7


def test_traffic_of_tensor_and_data_parallelism_is_a_rings() -> None:
    network = Network.uniform(8, 0.0, 1.0)
    one_sum = crossing(Kind.REDUCE, tuple(range(8)), -1, 2 * 5 * 7, network).bytes
    assert tensor_elements(2, 5, 7, tensor=8, layers=3) == pytest.approx(3 * 4 * one_sum)  # two forward, two backward
    assert tensor_elements(2, 5, 7, 8, 3, recompute=True) == pytest.approx(3 * 6 * one_sum)
    gradients = crossing(Kind.REDUCE, tuple(range(4)), -1, 1000 / (2 * 5), Network.uniform(4, 0.0, 1.0)).bytes
    assert data_elements(1000, pipeline=2, tensor=5, data=4) == pytest.approx(gradients)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 8]), st.integers(1, 8))
def test_the_bubble_of_a_split_is_the_bubble_of_its_pipelines(tensor: int, data: int, ranks: int, each: int) -> None:
    gpus, in_all = tensor * data * ranks, each * data
    assert bubble_of_split(gpus, tensor, data, in_all) == pytest.approx(bubble_overhead(ranks, each))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 60), st.floats(0.5, 2), st.floats(1, 40))
def test_no_other_number_of_checkpoints_takes_less(layers: int, input_size: float, inner_size: float) -> None:
    best = checkpointed_size(checkpoints(layers, input_size, inner_size), layers, input_size, inner_size)
    assert best <= min(checkpointed_size(c, layers, input_size, inner_size) for c in range(1, 2 * layers + 1)) * (
        1 + 1e-12
    )


def test_days_are_the_papers() -> None:
    """Section 5.1: 175B on 1,024 GPUs at 140 TFLOP/s in 34 days, 1T on 3,072 at 163 in 84."""
    assert training_seconds(300e9, 175e9, 1024, 140e12) / DAY == pytest.approx(34, rel=0.01)
    assert training_seconds(450e9, 1e12, 3072, 163e12) / DAY == pytest.approx(84, rel=0.01)


@pytest.mark.parametrize(
    ("layers", "hidden", "billions"),
    [(24, 2304, 1.7), (80, 12288, 145.6), (96, 16384, 310.1), (105, 20480, 529.6), (128, 25600, 1008.0)],
)
def test_sizes_are_those_of_table_1(layers: int, hidden: int, billions: float) -> None:
    assert Gpt(layers, hidden).parameters / 1e9 == pytest.approx(billions, rel=0.03)  # 1.7 is 1.65, rounded up
