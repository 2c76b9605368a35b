"""The expert layer as custom ops: what the compiler believes of them is true, and graphs with them have no breaks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from grainline import kernels
from grainline.kernels import library

SIZE, HIDDEN, EXPERTS, TOP_K = 16, 8, 4, 2


def _inputs(counts: list[int], tokens: int, gathered: bool, dtype: torch.dtype = torch.float32) -> list[Tensor | None]:
    g = torch.Generator().manual_seed(tokens + sum(counts))
    rows = sum(counts)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g).to(dtype).requires_grad_()

    unit_N = torch.randint(0, tokens, (rows,), generator=g) if gathered else None
    score_N = drawn(rows) if gathered else None
    x = drawn(tokens if gathered else rows, SIZE)
    weights = (drawn(len(counts), 2, HIDDEN, SIZE), drawn(len(counts), SIZE, HIDDEN))
    return [x, *weights, score_N, unit_N, torch.tensor(counts)]


@pytest.mark.parametrize("backend", library.HALVES)
@pytest.mark.parametrize("gathered", [True, False])
def test_the_ops_are_what_they_say(backend: str, gathered: bool) -> None:
    """Schema, fake kernels, autograd and tracing with variable shapes, by PyTorch's own check."""
    for counts in ([3, 0, 5], [2, 2, 2]):
        inputs = _inputs(counts, 7, gathered)
        torch.library.opcheck(library.experts, (*inputs, backend, True))
        with torch.no_grad():
            torch.library.opcheck(library.experts, (*inputs, backend, False))
            x, w13, w2, score, unit, counts_E = (None if each is None else each.detach() for each in inputs)
            hidden = torch.randn(sum(counts), 2 * HIDDEN)
            for wants in ([True, True, True, gathered], [True, False, False, False]):
                arguments = (torch.randn_like(x), x, w13, w2, score, unit, counts_E, hidden, backend, wants)
                torch.library.opcheck(library.experts_backward, arguments)


class Layer(nn.Module):
    """Routes and computes, as a model does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gate = nn.Linear(SIZE, EXPERTS, bias=False)
        self.w13_E2FD = nn.Parameter(torch.randn(EXPERTS, 2, HIDDEN, SIZE))
        self.w2_EDF = nn.Parameter(torch.randn(EXPERTS, SIZE, HIDDEN))

    def forward(self, x_TD: Tensor) -> Tensor:
        score_TK, expert_TK = self.gate(x_TD).softmax(-1).topk(TOP_K, dim=-1)
        expert_N = expert_TK.flatten()
        order_N = kernels.sort_by_expert(expert_N, EXPERTS)
        counts_E = torch.zeros(EXPERTS, dtype=torch.long).scatter_add_(0, expert_N, torch.ones_like(expert_N))
        unit_N = torch.arange(x_TD.shape[0]).repeat_interleave(TOP_K)
        score_N = score_TK.flatten()[order_N]
        return kernels.expert_mixture(x_TD, self.w13_E2FD, self.w2_EDF, score_N, unit_N[order_N], counts_E)


def _results(function: object, layer: Layer, x_TD: Tensor) -> list[Tensor]:
    assert callable(function)
    layer.zero_grad()
    x_TD = x_TD.clone().requires_grad_()
    out = function(x_TD)
    out.square().sum().backward()
    assert x_TD.grad is not None
    return [out.detach(), x_TD.grad, *(p.grad.clone() for p in layer.parameters() if p.grad is not None)]


def test_a_layer_compiles_without_a_break_for_any_number_of_tokens() -> None:
    layer, compiled_sizes = Layer(), (9, 14, 5)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True, dynamic=True)
    for tokens in compiled_sizes:
        x_TD = torch.randn(tokens, SIZE)
        for ours, truth in zip(_results(compiled, layer, x_TD), _results(layer, layer, x_TD), strict=True):
            torch.testing.assert_close(ours, truth, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x_TD), layer(x_TD))


def test_a_layer_is_exported_with_the_op_in_it() -> None:
    layer, x_TD = Layer(), torch.randn(6, SIZE)
    tokens = torch.export.Dim("tokens", min=2, max=64)
    program = torch.export.export(layer, (x_TD,), dynamic_shapes=({0: tokens},))
    names = {str(node.target) for node in program.graph.nodes}
    assert "grainline.experts.default" in names
    other = torch.randn(11, SIZE)
    torch.testing.assert_close(program.module()(other), layer(other))


def test_the_compiled_op_runs_the_backend_that_the_table_names(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    sonic = library.HALVES["sonic"]

    def forward(*arguments: object, **named: object) -> object:
        asked.append("mine")
        return sonic.forward(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setitem(library.HALVES, "mine", library.Halves(forward, sonic.backward))  # type: ignore[arg-type]
    monkeypatch.setitem(kernels.CHOICE["cpu"], "expert_mixture", "mine")
    layer, x_TD = Layer(), torch.randn(6, SIZE)
    torch.compile(layer, backend="aot_eager", fullgraph=True)(x_TD)
    assert asked == ["mine"]
