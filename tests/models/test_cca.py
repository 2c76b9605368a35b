"""Compressed convolutional attention against a loop over positions, transformers' own, and itself a token at a time."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from grainline.documents import Attention, DocumentError, GrainlineError, ModelConfig, Rope
from grainline.models.attention import Cache
from grainline.models.attention.cca import CompressedConvolutionalAttention
from grainline.models.attention.mask import causal_mask
from grainline.models.attention.rope import rope_table

D, HEAD_DIM = 14, 6


def config(heads: int = 4, kv_heads: int = 2, kernels: tuple[int, int] = (2, 2), **attention: object) -> ModelConfig:
    return ModelConfig(
        vocab_size=32,
        hidden_size=D,
        layers=2,
        ffn_hidden=24,
        attention=Attention.model_validate(
            {
                "kind": "cca",
                "heads": heads,
                "kv_heads": kv_heads,
                "head_dim": HEAD_DIM,
                "conv_kernels": kernels,
                "rope": Rope(theta=50.0, fraction=2 / 3),
                **attention,
            }
        ),
    )


def randomised(of: ModelConfig, seed: int = 0) -> CompressedConvolutionalAttention:
    module = CompressedConvolutionalAttention(of).double()
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        scale = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.5
        parameter.data = scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return module


def states(length: int, seed: int = 1, rows: int = 1) -> Tensor:
    return torch.randn(rows, length, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def run(
    module: CompressedConvolutionalAttention,
    of: ModelConfig,
    x_BSD: Tensor,
    cache: Cache | None = None,
    document_BS: Tensor | None = None,
) -> Tensor:
    past = 0 if cache is None else cache.length
    position_S = torch.arange(past, past + x_BSD.shape[1])
    rope = rope_table(of.attention.rope, of.attention.rotating_dims, position_S, torch.float64)
    mask = causal_mask(x_BSD.shape[1], past, window=of.attention.window, document_BS=document_BS)
    out_BSD: Tensor = module(x_BSD, rope, mask, cache)
    return out_BSD


def by_hand(m: CompressedConvolutionalAttention, of: ModelConfig, x_SD: Tensor) -> Tensor:
    """One position after another, one head after another, from the published equations."""
    a = of.attention
    h, H, G, (K0, K1) = a.head_dim, a.heads, a.key_value_heads, a.conv_kernels
    group = H // G
    table = rope_table(a.rope, a.rotating_dims, torch.arange(len(x_SD)), torch.float64)  # whose angles are float32

    def product(linear: torch.nn.Linear, x_D: Tensor) -> Tensor:
        return linear.weight @ x_D + (0 if linear.bias is None else linear.bias)

    def raw(t: int) -> Tensor:  # zeros before the start
        return torch.cat([product(m.q, x_SD[t]), product(m.k, x_SD[t])]) if t >= 0 else torch.zeros(len(m.depthwise_CK))

    def first(t: int) -> Tensor:
        taps = [m.depthwise_CK[:, j] * raw(t - (K0 - 1) + j) for j in range(K0)]
        return torch.stack(taps).sum(0) + m.depthwise_bias_C

    def second(t: int, head: int) -> Tensor:
        weight_hhK = m.grouped_Ahx[head].view(h, h, K1)
        out = m.grouped_bias_C[head * h : (head + 1) * h].clone()
        for j in range(K1):
            out = out + weight_hhK[:, :, j] @ first(t - (K1 - 1) + j)[head * h : (head + 1) * h]
        return out

    def turned(x_h: Tensor, t: int) -> Tensor:
        out, half = x_h.clone(), a.rotating_dims // 2
        for i in range(half):
            c, s = table.cos[t, i], table.sin[t, i]
            out[i] = x_h[i] * c - x_h[i + half] * s
            out[i + half] = x_h[i + half] * c + x_h[i] * s
        return out

    queries, keys, values = [], [], []
    for t in range(len(x_SD)):
        q, k = product(m.q, x_SD[t]).view(H, h), product(m.k, x_SD[t]).view(G, h)
        mean = [(q[i] + k[i // group]) / 2 for i in range(H)]
        of_query = [second(t, i) + mean[i] for i in range(H)]
        of_key = [second(t, H + g) + sum(mean[g * group : (g + 1) * group]) / group for g in range(G)]
        queries.append([turned(v * math.sqrt(h) / v.norm(), t) for v in of_query])
        keys.append([turned(v * math.sqrt(h) / v.norm() * m.temperature_G[g], t) for g, v in enumerate(of_key)])
        before = x_SD[t - 1] if t else torch.zeros(D, dtype=torch.float64)
        values.append(torch.cat([product(m.v, x_SD[t]), product(m.v_before, before)]).view(G, h))
    out = []
    for t in range(len(x_SD)):
        earliest = 0 if a.window is None else max(0, t - a.window + 1)
        heads = []
        for i in range(H):
            score = torch.stack([queries[t][i] @ keys[s][i // group] / math.sqrt(h) for s in range(earliest, t + 1)])
            share = score.softmax(0)
            heads.append(sum(share[n] * values[earliest + n][i // group] for n in range(len(share))))
        out.append(product(m.o, torch.cat(heads)))
    return torch.stack(out)


@pytest.mark.parametrize(
    "of",
    [
        config(),
        config(kernels=(3, 2), bias=True, output_bias=True),
        config(heads=2, kv_heads=2, kernels=(1, 4)),
        config(kernels=(1, 1), kv_heads=1),
        config(window=3),
    ],
    ids=["published", "longer, with biases", "no grouping", "no look back", "window"],
)
@torch.no_grad()
def test_it_equals_a_loop_over_positions(of: ModelConfig) -> None:
    module, x_BSD = randomised(of), states(7, rows=2)
    found = run(module, of, x_BSD)
    for row in range(2):
        torch.testing.assert_close(found[row], by_hand(module, of, x_BSD[row]), rtol=1e-11, atol=1e-11)


@given(
    cuts=st.sets(st.integers(1, 11)), kernels=st.tuples(st.integers(1, 4), st.integers(1, 4)), seed=st.integers(0, 9)
)
@settings(deadline=None, max_examples=30)
@torch.no_grad()
def test_pieces_of_any_size_with_a_cache_equal_one_pass(cuts: set[int], kernels: tuple[int, int], seed: int) -> None:
    of = config(kernels=kernels, bias=True)
    module, x_BSD, cache = randomised(of, seed), states(12, seed + 100, rows=2), Cache()
    parts = [run(module, of, x_BSD[:, a:b], cache) for a, b in pairwise([0, *sorted(cuts), 12])]
    torch.testing.assert_close(torch.cat(parts, 1), run(module, of, x_BSD), rtol=1e-11, atol=1e-11)
    rows_BC, before_BX = cache.tail
    assert rows_BC.shape == (2, sum(kernels) - 2, of.attention.conv_channels)
    assert before_BX.shape == (2, 1, HEAD_DIM)


@torch.no_grad()
def test_what_comes_later_changes_nothing_before() -> None:
    of = config()
    module, x_BSD = randomised(of), states(9)
    whole = run(module, of, x_BSD)
    for t in range(9):
        other = x_BSD.clone()
        other[:, t] += 1.0
        changed = (run(module, of, other) != whole).any(-1)[0]
        assert not changed[:t].any()
        assert changed[t]


@pytest.mark.parametrize("bias", [False, True])
@torch.no_grad()
def test_documents_of_one_sequence_are_as_if_alone(bias: bool) -> None:
    """Neither convolution nor delayed values reach into another one, as attention doesn't."""
    of = config(kernels=(3, 3), bias=bias, rope=Rope(theta=50.0))
    module, x_BSD = randomised(of), states(11, rows=2)
    lengths = ((4, 1, 2, 4), (1, 1, 9))
    numbers = [[i for i, n in enumerate(of_row) for _ in range(n)] for of_row in lengths]
    found = run(module, of, x_BSD, document_BS=torch.tensor(numbers))
    for row, of_row in enumerate(lengths):
        start = 0
        for length in of_row:
            # Rotations are relative, so that a document may begin anywhere; their angles are float32.
            alone = run(module, of, x_BSD[row : row + 1, start : start + length])
            torch.testing.assert_close(found[row : row + 1, start : start + length], alone, rtol=1e-6, atol=1e-6)
            start += length


@torch.no_grad()
def test_without_convolutions_it_is_the_mean_of_q_and_k_alone() -> None:
    of = config(heads=2, kv_heads=1)
    module, x_BSD = randomised(of), states(5)
    for parameter in (module.grouped_Ahx, module.grouped_bias_C):
        parameter.zero_()
    q, k = module.q(x_BSD).unflatten(-1, (2, -1)), module.k(x_BSD).unsqueeze(2)
    found_q, found_k = module._mixed(module.q(x_BSD), module.k(x_BSD), torch.zeros(1, 5, 3 * HEAD_DIM).double())
    mean = (q + k) / 2
    torch.testing.assert_close(found_q, mean * HEAD_DIM**0.5 / mean.norm(dim=-1, keepdim=True))
    whole = (q.sum(2, keepdim=True) / 2 + k) / 2
    torch.testing.assert_close(found_k, whole * HEAD_DIM**0.5 / whole.norm(dim=-1, keepdim=True) * module.temperature_G)


@torch.no_grad()
def test_a_state_is_cut_back_to_nothing_or_not_at_all() -> None:
    of = config()
    module, x_BSD, cache = randomised(of), states(6), Cache()
    whole = run(module, of, x_BSD, cache)
    cache.truncate(6)
    cache.truncate(9)
    with pytest.raises(GrainlineError, match=r"6 positions can't be cut back to 5: .* Start a new state"):
        cache.truncate(5)
    assert cache.length == 6
    cache.truncate(0)
    torch.testing.assert_close(run(module, of, x_BSD, cache), whole)


@torch.no_grad()
def test_it_equals_transformers_in_float64() -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.models.zaya.modeling_zaya import ZayaAttention

    of = config(kernels=(3, 2), bias=True, output_bias=True)
    module, x_BSD = randomised(of), states(9, rows=2)
    theirs = ZayaAttention(
        transformers.ZayaConfig(
            hidden_size=D,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=HEAD_DIM,
            cca_time0=3,
            cca_time1=2,
            attention_bias=True,
            num_hidden_layers=1,
            attn_implementation="sdpa",
        ),
        0,
    ).double()
    own = theirs.qkv_proj
    for ours, other in (
        (module.q, own.q_proj),
        (module.k, own.k_proj),
        (module.v, own.v_proj_current),
        (module.v_before, own.v_proj_delayed),
        (module.o, theirs.o_proj),
    ):
        other.load_state_dict(ours.state_dict())
    own.conv_qk_depthwise.weight.copy_(module.depthwise_CK.unsqueeze(1))
    own.conv_qk_depthwise.bias.copy_(module.depthwise_bias_C)
    own.conv_qk_grouped.weight.copy_(module.grouped_Ahx.reshape(own.conv_qk_grouped.weight.shape))
    own.conv_qk_grouped.bias.copy_(module.grouped_bias_C)
    theirs.qk_norm.temp.copy_(module.temperature_G)
    table = rope_table(of.attention.rope, of.attention.rotating_dims, torch.arange(9), torch.float64)
    angles = tuple(torch.cat((t, t), -1).unsqueeze(0) for t in (table.cos, table.sin))
    wanted, _ = theirs(x_BSD, attention_mask={}, position_embeddings=angles)
    torch.testing.assert_close(run(module, of, x_BSD), wanted, rtol=1e-12, atol=1e-12)


def test_gradients_are_right() -> None:
    of = config(kernels=(2, 3))
    module, x_BSD = randomised(of), states(4).requires_grad_()
    document_BS = torch.tensor([[0, 0, 1, 1]])
    assert torch.autograd.gradcheck(lambda x: run(module, of, x, document_BS=document_BS), (x_BSD,))


@pytest.mark.parametrize(
    ("attention", "message"),
    [
        ({"kv_heads": 3}, "heads 4 must be a multiple of kv_heads 3"),
        ({"kv_heads": 1, "head_dim": 7, "rope": {"fraction": 0.5}}, "must be even"),
        ({"qk_norm": True}, "normalises q and k itself"),
        ({"conv_kernels": [2, 0]}, "greater than 0"),
    ],
)
def test_what_cannot_be_is_refused(attention: dict[str, object], message: str) -> None:
    tables = {
        "vocab_size": 8, "hidden_size": 8, "layers": 1, "ffn_hidden": 8,
        "attention": {"kind": "cca", "heads": 4, "kv_heads": 2, "head_dim": 8, **attention},
    }  # fmt: skip
    with pytest.raises(DocumentError, match=message):
        ModelConfig.parse(tables, "m.toml")
