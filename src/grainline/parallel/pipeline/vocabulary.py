"""The vocabulary split over the ranks of a pipeline: passes S and T of the output layer, look-up and its gradient.

*Balancing Pipeline Parallelism with Vocabulary Parallelism*, arXiv 2411.05288, section 4. Rank r of P holds the rows
[r·⌈V/P⌉, (r+1)·⌈V/P⌉) of a matrix [V, D]; the last ranks hold fewer, or none: no row is made up, so none needs a mask.

Of N rows x, with logits y = x · Wᵀ, S takes m_r = max y and s_r = Σ exp(y − m_r) over the rank's own rows alone. C1
makes m = max m_r and s = Σ s_r · exp(m_r − m) of them, and with c_r = s_r · exp(m_r − m) / s the rank's softmax P_r is
the share c_r · P_r of the whole one. The label's own entry is kept apart from P_r and made of the statistics: it is the
one that 1 is taken from, which a rounded probability doesn't survive.

    vocab1   S: P_r                C1: m, s      T: dx_r = (c_r P_r − 1) W_r, dW_r += (c_r P_r − 1)ᵀ x    C2: Σ dx_r
    vocab2   S: P_r, A_r = P_r W_r   C1: m, s, Σ (c_r A_r − W_r[label])      T: dW_r += (c_r P_r − 1)ᵀ x
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from grainline.schedule.passes.vocabulary import Algorithm

CHUNK_ELEMENTS = 1 << 20  # logits of one chunk: small enough for the last-level cache, large enough for the matmul
CHUNK_ROWS = 64  # and no fewer rows than that
IGNORED = -100


class Exchange(Protocol):
    """The collectives among the ranks that share a vocabulary, called by all in one order."""

    @property
    def rank(self) -> int:
        """This one's place."""

    @property
    def ranks(self) -> int:
        """How many there are."""

    def all_gather(self, x: Tensor) -> Tensor:
        """[…] → [P, …], by rank."""

    def all_reduce_(self, x: Tensor) -> None:
        """Sum over ranks, in place."""


def rows_of(vocab_size: int, rank: int, ranks: int) -> range:
    """Rows of a [V, D] matrix that a rank holds: as torch.chunk and DTensor's Shard(0) cut it."""
    each = -(-vocab_size // ranks)
    return range(min(rank * each, vocab_size), min((rank + 1) * each, vocab_size))


@dataclass
class Scoring:
    """Some rows on their way through the output layer: what each pass leaves for the next."""

    x_ND: Tensor
    local_n: Tensor  # label's row in this rank's shard, of the rows whose label is there
    owned_n: Tensor  # which rows these are
    scale_N: Tensor  # by which each row's loss counts; 0 where it has no label
    statistics_3N: Tensor  # m_r, s_r, and the label's logit (0 where it isn't here)
    p_NR: Tensor | None = None  # P_r without the label's entry
    d_x_ND: Tensor | None = None  # vocab2: A_r, and after C1 the gradient; vocab1: dx_r, and after C2 the gradient
    loss_N: Tensor | None = None  # after C1, unscaled; 0 where there is no label
    share_N: Tensor | None = None  # after C1: c_r · scale
    missing_N: Tensor | None = None  # after C1: (1 − probability of the label) · scale


class OutputLayer:
    """The passes of one rank's rows of the output layer and its loss; weights and their gradient belong to the caller.

    `weight_RD.grad` is added to by T.
    """

    def __init__(self, weight_RD: Tensor, rows: range, algorithm: Algorithm, exchange: Exchange) -> None:
        if len(rows) != weight_RD.shape[0]:
            raise ValueError(f"a shard of {weight_RD.shape[0]} rows for the rows {rows} of the vocabulary")
        self.weight_RD, self.rows, self.exchange = weight_RD, rows, exchange
        self.sums_in_s = algorithm == "vocab2"

    @torch.no_grad()
    def s(self, x_ND: Tensor, label_N: Tensor, scale_N: Tensor, *, gradient: bool = True) -> Scoring:
        """Logits and local softmax of rows x_ND. Row n counts scale_N[n] times; label −100: not at all.

        `gradient` off: no more than the loss is wanted.
        """
        wide = torch.promote_types(x_ND.dtype, torch.float32)
        w_RD = self.weight_RD.to(x_ND.dtype)
        owned_n = ((label_N >= self.rows.start) & (label_N < self.rows.stop)).nonzero().squeeze(1)
        local_n = label_N[owned_n] - self.rows.start
        statistics_3N = x_ND.new_zeros(3, x_ND.shape[0], dtype=wide)
        p_NR = x_ND.new_empty(x_ND.shape[0], w_RD.shape[0]) if gradient else None
        d_x_ND = torch.zeros_like(x_ND, dtype=wide) if gradient and self.sums_in_s else None
        scoring = Scoring(x_ND, local_n, owned_n, scale_N.to(wide), statistics_3N, p_NR, d_x_ND)
        scoring.scale_N = torch.where(label_N == IGNORED, 0, scoring.scale_N)
        if not self.rows:
            statistics_3N[0] = -torch.inf
            return scoring
        rows = max(CHUNK_ROWS, CHUNK_ELEMENTS // w_RD.shape[0])
        label_R = torch.full_like(label_N, -1)
        label_R[owned_n] = local_n
        for start in range(0, x_ND.shape[0], rows):
            span = slice(start, start + rows)
            row_n = (label_R[span] >= 0).nonzero().squeeze(1)
            at_n = label_R[span][row_n]
            logits_nR = (x_ND[span] @ w_RD.t()).to(wide)
            statistics_3N[2, span][row_n] = logits_nR[row_n, at_n]
            m_n1 = logits_nR.amax(1, keepdim=True)
            s_n1 = logits_nR.sub_(m_n1).exp_().sum(1, keepdim=True)
            statistics_3N[0, span], statistics_3N[1, span] = m_n1.squeeze(1), s_n1.squeeze(1)
            if p_NR is not None:
                p_NR[span] = logits_nR.div_(s_n1)
                p_NR[span][row_n, at_n] = 0
            if d_x_ND is not None and p_NR is not None:
                d_x_ND[span] = p_NR[span] @ w_RD
        return scoring

    @torch.no_grad()
    def c1(self, scoring: Scoring) -> None:
        """Statistics over all ranks; the loss, and with vocab2 the gradient of x. A collective."""
        statistics_P3N = self.exchange.all_gather(scoring.statistics_3N)
        m_PN, s_PN, label_PN = statistics_P3N.unbind(1)
        m_N, label_N = m_PN.amax(0), label_PN.sum(0)
        s_N = (s_PN * (m_PN - m_N).exp()).sum(0)
        loss_N = s_N.log() + (m_N - label_N)
        scoring.loss_N = torch.where(scoring.scale_N == 0, 0, loss_N)
        m_r_N, s_r_N, _ = scoring.statistics_3N
        scoring.share_N = (m_r_N - m_N).exp() * s_r_N / s_N * scoring.scale_N
        scoring.missing_N = -torch.expm1(-loss_N) * scoring.scale_N
        if scoring.d_x_ND is not None:
            n = scoring.owned_n
            scoring.d_x_ND.mul_(scoring.share_N.unsqueeze(1))
            w_nD = self.weight_RD[scoring.local_n].to(scoring.x_ND.dtype)
            scoring.d_x_ND[n] -= w_nD * scoring.missing_N[n].unsqueeze(1)
            self.exchange.all_reduce_(scoring.d_x_ND)

    @torch.no_grad()
    def t(self, scoring: Scoring) -> None:
        """What is left: the gradient of the weights, and with vocab1 this rank's part of that of x."""
        x_ND, p_NR = scoring.x_ND, scoring.p_NR
        assert p_NR is not None and scoring.share_N is not None and scoring.missing_N is not None
        d_logits_NR = p_NR.mul_(scoring.share_N.unsqueeze(1).to(p_NR.dtype))
        d_logits_NR[scoring.owned_n, scoring.local_n] = -scoring.missing_N[scoring.owned_n].to(p_NR.dtype)
        if not self.sums_in_s:
            w_RD = self.weight_RD.to(x_ND.dtype)
            scoring.d_x_ND = (d_logits_NR @ w_RD).to(scoring.scale_N.dtype)
        gradient_RD = gradient_of(self.weight_RD)
        if gradient_RD.dtype == x_ND.dtype:
            gradient_RD.addmm_(d_logits_NR.t(), x_ND)
        else:
            gradient_RD += d_logits_NR.t() @ x_ND
        scoring.p_NR = None

    @torch.no_grad()
    def c2(self, scoring: Scoring) -> None:
        """vocab1: the gradient of x, summed over ranks. A collective."""
        assert scoring.d_x_ND is not None
        self.exchange.all_reduce_(scoring.d_x_ND)


@torch.no_grad()
def look_up(weight_RD: Tensor, rows: range, ids: Tensor, dtype: torch.dtype) -> Tensor:
    """Embeddings […, D] of the ids in a rank's rows, zero for the others: summed over ranks, those of all."""
    if not rows:
        return weight_RD.new_zeros(*ids.shape, weight_RD.shape[1], dtype=dtype)
    elsewhere = (ids < rows.start) | (ids >= rows.stop)
    local = (ids - rows.start).clamp(0, len(rows) - 1)
    return weight_RD[local].to(dtype).masked_fill_(elsewhere.unsqueeze(-1), 0)


@torch.no_grad()
def add_embedding_gradient(weight_RD: Tensor, rows: range, ids: Tensor, gradient: Tensor) -> None:
    """Add the gradient […, D] of the embeddings of `ids` to that of a rank's rows."""
    here = (ids >= rows.start) & (ids < rows.stop)
    gradient_RD = gradient_of(weight_RD)
    gradient_RD.index_add_(0, ids[here] - rows.start, gradient[here].to(gradient_RD.dtype))


def gradient_of(weight: Tensor) -> Tensor:
    """A parameter's gradient to add to; zeros if there is none yet."""
    if weight.grad is None:
        weight.grad = torch.zeros_like(weight)
    return weight.grad
