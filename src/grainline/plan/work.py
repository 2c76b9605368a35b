"""The work of a cell: FLOPs of its matrix products and bytes that memory must move, op by op and pass by pass.

One op is what one kernel does at a time, so that a roofline can say of each what binds it.
"""

from __future__ import annotations

from dataclasses import dataclass

from grainline.documents import ModelConfig
from grainline.models.count import attention_flops_per_token
from grainline.plan.memory import LONGEST_WRITTEN_SCORES, PARAMETER, MicroBatch
from grainline.schedule.cells import Cell


@dataclass(frozen=True)
class Op:
    """Of one kernel."""

    flops: float  # of matrix products
    bytes: float  # read and written


@dataclass(frozen=True)
class Passes:
    """Ops of the forward, of the two halves of the backward, and of a forward more where there is recomputation."""

    forward: tuple[Op, ...] = ()
    input_gradient: tuple[Op, ...] = ()
    weight_gradient: tuple[Op, ...] = ()
    again: tuple[Op, ...] = ()

    def __add__(self, other: Passes) -> Passes:
        return Passes(
            self.forward + other.forward,
            self.input_gradient + other.input_gradient,
            self.weight_gradient + other.weight_gradient,
            self.again + other.again,
        )

    @classmethod
    def of(
        cls,
        forward: tuple[Op, ...] = (),
        input_gradient: tuple[Op, ...] = (),
        weight_gradient: tuple[Op, ...] = (),
    ) -> Passes:
        """The usual: what is run again is the forward."""
        return cls(forward, input_gradient, weight_gradient, forward)

    @property
    def flops(self) -> float:
        """Of all but recomputation."""
        return sum(op.flops for op in self.forward + self.input_gradient + self.weight_gradient)


def work_of(config: ModelConfig, cell: Cell, batch: MicroBatch) -> Passes:
    """What one micro-batch asks of a cell; the FLOPs of all cells are `models.count.flops_per_token`'s."""
    size, tokens = config.hidden_size, batch.tokens_of(cell)
    match cell.kind:
        case "embedding":
            return _embedding(config, batch)
        case "dense" | "moe":
            return _block(config, cell.layer, tokens, batch)
        case "mtp":
            trunk_norm = _norm(batch.tokens, size, batch.width)
            ends = _norm(3 * tokens, size, batch.width) + _passes(4 * tokens * size * batch.width)
            projection = linear(tokens, 2 * size, size, batch)
            return trunk_norm + ends + projection + _block(config, config.layers, tokens, batch)
        case "mtp_head":
            return _head(config, tokens, batch)
    norm = Passes() if config.mtp_depth else _norm(tokens, size, batch.width)
    return norm + _head(config, tokens, batch)


def linear(rows: float, inner: int, outer: int, batch: MicroBatch, matrices: float = 1, width: int = 0) -> Passes:
    """rows × inner → rows × outer, by `matrices` weights that share the rows; the gradient adds up over micro-batches.

    In a narrower dtype than the parameters', weights are made narrow first and their gradients wide afterwards.
    """
    width = width or batch.width
    flops, values, weights = 2 * rows * inner * outer, rows * (inner + outer), matrices * inner * outer
    narrow, wide = (weights * (PARAMETER + width),) * 2 if width != PARAMETER else (0.0, 0.0)
    product = Op(flops, width * (values + weights))
    added = Op(0, wide + 3 * PARAMETER * weights)  # two read, one written
    return Passes.of((*_ops(narrow), product), (product,), (product, added))


def _ops(moved: float) -> tuple[Op, ...]:
    return (Op(0, moved),) if moved else ()


def _passes(forward: float, backward: float | None = None) -> Passes:
    """Of ops without products: bytes forward, and backward (default: half as much again)."""
    return Passes.of(_ops(forward), _ops(1.5 * forward if backward is None else backward))


def _norm(rows: float, size: int, width: int) -> Passes:
    """x is read, the normalised x and its multiple written; backward reads two and writes one, twice."""
    return _passes(3 * rows * size * width, 6 * rows * size * width)


def _embedding(config: ModelConfig, batch: MicroBatch) -> Passes:
    rows = float(batch.tokens * config.hidden_size)
    table = float(config.vocab_size * config.hidden_size)
    look_up = Op(0, rows * (PARAMETER + batch.width))
    # The gradient is as large as the table: cleared, its rows written, added to what is there.
    gradient = Op(0, rows * (batch.width + 2 * PARAMETER) + 4 * PARAMETER * table)
    return Passes.of((look_up,), (), (gradient,))


def _head(config: ModelConfig, rows: float, batch: MicroBatch) -> Passes:
    """Output layer and loss in one op: all three products in the forward, as kernels/cross_entropy.py has them.

    Where it is computed again, only one of the two forwards makes gradients; the other is the logits alone.
    """
    product = linear(rows, config.hidden_size, config.vocab_size, batch)
    table = float(config.vocab_size * config.hidden_size)
    softmax = Op(0, 4 * PARAMETER * rows * config.vocab_size)  # float32 logits: maximum, exponentials, sum, gradient
    made = (*product.forward, softmax, *product.input_gradient, product.weight_gradient[0])
    scaled = Op(0, 2 * rows * config.hidden_size * batch.width)
    added = Op(0, 5 * PARAMETER * table)  # scaled, then added to what is there
    return Passes(made, (scaled,), (added,), (*product.forward, softmax))


def _block(config: ModelConfig, layer: int, tokens: float, batch: MicroBatch) -> Passes:
    size, width = config.hidden_size, batch.width
    norms, residuals = _norm(2 * tokens, size, width), _residuals(config, tokens, width)
    sparse = config.is_sparse(layer)
    ffn = _experts(config, layer, tokens, batch) if sparse else _swiglu(tokens, size, config.ffn_hidden, batch)
    return norms + residuals + _attention(config, tokens, batch) + ffn


def _residuals(config: ModelConfig, tokens: float, width: int) -> Passes:
    """Of both additions to the stream: two read and one written. Scaled, each of the two is read and written twice
    more, with the stream in float32, and made narrow for the norm.
    """
    values = 2 * tokens * config.hidden_size
    if not config.residual_scaling:
        return _passes(3 * values * width, 2 * values * width)
    return _passes(values * (6 * width + 8 * PARAMETER), values * (6 * width + 12 * PARAMETER))


def _attention(config: ModelConfig, tokens: float, batch: MicroBatch) -> Passes:
    a, size, width = config.attention, config.hidden_size, batch.width
    if a.kind == "mla":
        assert a.kv_rank and a.rope_dim and a.value_dim
        q, out, still = a.heads * (a.head_dim + a.rope_dim), a.heads * a.value_dim, a.heads * a.head_dim
        k, v = q, out
        found = linear(tokens, size, a.kv_rank + a.rope_dim, batch)
        found += linear(tokens, a.kv_rank, still + v, batch) + _norm(tokens, a.kv_rank, width)
        if a.q_rank:
            found += linear(tokens, size, a.q_rank, batch) + linear(tokens, a.q_rank, q, batch)
            found += _norm(tokens, a.q_rank, width)
        else:
            found += linear(tokens, size, q, batch)
        found += _passes(2 * tokens * (q + k) * width)  # turned and put together
    else:
        q = out = a.heads * a.head_dim
        k = v = a.key_value_heads * a.head_dim
        found = linear(tokens, size, q, batch) + linear(tokens, size, k, batch) + linear(tokens, size, v, batch)
        if a.kind == "cca":
            found += _convolutions(config, tokens, batch)
        if a.qk_norm or a.kind == "cca":
            found += _norm(tokens, q + k, width)
        found += _passes(2 * tokens * (q + k) * width, 2 * tokens * (q + k) * width)
    flops = tokens * attention_flops_per_token(config, (batch.length + 1) / 2)
    scores = 0.0
    if batch.writes_scores and batch.length <= LONGEST_WRITTEN_SCORES:
        scores = 4 * tokens * a.heads * batch.length * width  # written, made to sum to one, read
    seen = Op(flops, tokens * (q + k + v + out) * width + scores)
    back = Op(2 * flops, 2 * tokens * (q + k + v + out) * width + 2 * scores)
    return found + Passes.of((seen,), (back,)) + linear(tokens, out, size, batch)


def _convolutions(config: ModelConfig, tokens: float, batch: MicroBatch) -> Passes:
    """CCA's: of single channels, which only move, and of heads, which are products; then means of q and k are added."""
    a = config.attention
    of_channel, of_head = a.conv_kernels
    values = tokens * a.conv_channels * batch.width
    moved = _passes((2 + 2 * of_channel + 2 * of_head + 8) * values)
    heads = a.heads + a.key_value_heads
    return moved + linear(tokens * heads, a.head_dim * of_head, a.head_dim, batch, heads)


def _experts(config: ModelConfig, layer: int, tokens: float, batch: MicroBatch) -> Passes:
    moe, width = config.moe, batch.width
    assert moe is not None
    rows, size = tokens * moe.top_k * moe.ffn_share, moe.latent or config.hidden_size
    router = _router(config, layer, tokens, batch) + _passes(8 * tokens * moe.choices * PARAMETER)
    shared = _swiglu(tokens, config.hidden_size, moe.shared_width, batch) if moe.shared_experts else Passes()
    around = router + shared + _beside_experts(config, tokens, batch)
    if batch.fuses_experts:
        return around + _fused(rows, tokens, size, moe.expert_hidden, moe.pool, width)
    # A gather reads and writes a row, a sum reads two and writes one. Backward gathers both the output's gradient and,
    # once more, the input, and adds up the input's gradient. Scores are multiplied where a row is narrowest.
    moved = _passes((5 * rows + tokens) * size * width, (7 * rows + tokens) * size * width)
    scored = _passes(2 * rows * moe.expert_hidden * width, 5 * rows * moe.expert_hidden * width)
    experts = _swiglu(rows, size, moe.expert_hidden, batch, moe.pool)
    if batch.casts:  # weights, which nobody keeps narrow
        experts += Passes(input_gradient=_ops(3 * moe.pool * size * moe.expert_hidden * (PARAMETER + width)))
    return around + moved + scored + experts


def _fused(rows: float, tokens: float, size: int, hidden: int, experts: int, width: int) -> Passes:
    """Of routed experts in the compiled core (kernels/native/experts), phase by phase.

    It reads weights as they are, gathers rows in the loads of products, and sums them, in float32, as they are made. A
    weight's gradient is written where it is kept, or added to what is there (kernels/sink.py).
    """
    product = 2 * rows * size * hidden
    row, act, weight = rows * size * width, rows * hidden * width, PARAMETER * experts * size * hidden
    summed = 2 * rows * size * PARAMETER + tokens * size * width
    gate_and_up = Op(2 * product, row + 2 * weight + 3 * act)  # these two and the act are written
    down = Op(product, act + weight + summed)
    back = Op(product, row + weight + 5 * act)  # gate and up are read; their gradients and the act are written
    input_gradient = Op(2 * product, 2 * act + 2 * weight + summed)
    weight_gradients = Op(product, row + act + 2 * weight), Op(2 * product, row + 2 * act + 4 * weight)
    return Passes.of((gate_and_up, down), (back, input_gradient), weight_gradients)


def _beside_experts(config: ModelConfig, tokens: float, batch: MicroBatch) -> Passes:
    """A bottleneck's way down and up; costless experts, which are computed for all tokens at once."""
    moe, size = config.moe, config.hidden_size
    assert moe is not None
    found = Passes()
    if moe.latent:
        found += linear(tokens, size, moe.latent, batch) + linear(tokens, moe.latent, size, batch)
    if moe.constant:
        found += linear(tokens, size, 2 * moe.constant, batch) + linear(tokens, moe.constant, size, batch)
    if moe.costless:
        found += _passes(5 * tokens * size * batch.width)  # x times a number, and both sums
    return found


def _router(config: ModelConfig, layer: int, tokens: float, batch: MicroBatch) -> Passes:
    """Logits, in float32."""
    moe, size = config.moe, config.hidden_size
    assert moe is not None
    if not moe.router_hidden:
        logits = linear(tokens, size, moe.choices, batch, width=PARAMETER)
        if moe.router == "gating-residual" and config.takes_carry(layer):
            logits += linear(tokens, moe.choices, moe.choices, batch, width=PARAMETER)
        return logits
    R = moe.router_hidden
    down, out = (linear(tokens, i, o, batch, width=PARAMETER) for i, o in ((size, R), (R, moe.choices)))
    hidden = linear(tokens, R, R, batch, width=PARAMETER)
    averaged = _passes(3 * tokens * R * PARAMETER) + _norm(tokens, R, PARAMETER)
    return down + averaged + hidden + hidden + out + _passes(4 * tokens * R * PARAMETER)


def _swiglu(rows: float, size: int, hidden: int, batch: MicroBatch, matrices: int = 1) -> Passes:
    """Gate and up as one product, the nonlinearity, down."""
    act = _passes(5 * rows * hidden * batch.width, 9 * rows * hidden * batch.width)
    up = linear(rows, size, 2 * hidden, batch, matrices)
    return up + act + linear(rows, hidden, size, batch, matrices)
