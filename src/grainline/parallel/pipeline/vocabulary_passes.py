"""Vocabulary passes in a pipeline's runtime: what each of their actions does with the tensors of a step.

Every rank holds its rows of both tables, or of the one that is both where they are tied. Of a micro-batch with N tokens
and n of MTP, the last stage's hidden states [N, D] and MTP's [n, D] are scored together: the head is the same, and each
row counts for what its loss does. Where there is MTP, ids and labels are looked up together, [B, S + 1]: the sums go to
the first stage and to MTP's, and the gradients of both come back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from grainline.documents import ModelConfig
from grainline.documents.recipe import Loss
from grainline.models.cells import Batch
from grainline.models.loss import LossSums
from grainline.models.model import Model
from grainline.parallel.pipeline.boundary import Cells
from grainline.parallel.pipeline.mail import Arrival
from grainline.parallel.pipeline.runtime import Do, PipelineRuntime
from grainline.parallel.pipeline.vocabulary import (
    Exchange,
    OutputLayer,
    Scoring,
    add_embedding_gradient,
    look_up,
    rows_of,
)
from grainline.schedule import Action, Kind
from grainline.schedule.passes.vocabulary import Algorithm
from grainline.schedule.schedule import Path


class PipelineExchange(Exchange, Protocol):
    """The collectives that passes need besides the output layer's."""

    def broadcast_(self, x: Tensor, source: int) -> None:
        """From one rank to all, in place."""

    def reduce_(self, x: Tensor, to: int) -> None:
        """Sum over ranks, in place at one; what the others have then means nothing."""


VOCABULARY_CELLS = ("embedding", "mtp_head", "head")


def without_vocabulary(config: ModelConfig, stages: Sequence[Cells]) -> tuple[Cells, ...]:
    """Stages without their embedding and heads; where the head did the trunk's last norm, that stays behind."""

    def kept(cell: str) -> Cells:
        if cell == "head" and not config.mtp_depth:
            return ("norm",)
        return () if cell in VOCABULARY_CELLS else (cell,)

    return tuple(tuple(k for cell in cells for k in kept(cell)) for cells in stages)


@dataclass
class _Rows:
    """A micro-batch on its way through the vocabulary, at one rank."""

    embedded_BTD: Tensor | None = None  # T is S, or S + 1 where labels are looked up too
    x_ND: Tensor | None = None
    scoring: Scoring | None = None
    d_x_ND: Tensor | None = None  # at the last stage
    gradient_BTD: Tensor | None = None  # of the embeddings
    running: dict[Kind, Future[None]] = field(default_factory=dict)


class VocabularyPasses:
    """The `Passes` of a rank whose `model` has its rows of the vocabulary (`models.part.keep_rows`).

    Gradients are added to the two tables' `.grad`. The loss is counted by the rank of the last stage.
    """

    def __init__(self, model: Model, algorithm: Algorithm, exchange: PipelineExchange, loss: Loss, batch_tokens: int):
        self.model, self.exchange, self.loss, self.batch_tokens = model, exchange, loss, batch_tokens
        self.rows = rows_of(model.config.vocab_size, exchange.rank, exchange.ranks)
        self.embedding_RD = model.embedding.weight
        self.output = OutputLayer(model.head_VD, self.rows, algorithm, exchange)
        self.gradient_after = Kind.C2 if algorithm == "vocab1" else Kind.C1

    own_modules = ("embedding", "head")

    def table(self, runtime: PipelineRuntime) -> Mapping[Kind, Do]:
        """See `Passes`."""
        step = _Step(self, runtime)
        return {
            Kind.EMBED: step.embed,
            Kind.C_EMBED: step.sum_embedded,
            Kind.C0: step.share_output,
            Kind.S: step.s,
            Kind.C1: step.c1,
            Kind.T: step.t,
            Kind.C2: step.c2,
            Kind.C_EMBED_GRAD: step.share_embedding_gradient,
            Kind.EMBED_GRAD: step.embedding_gradient,
        }


class _Step:
    """The passes of one runtime; what they hold of a micro-batch is gone when its last pass is done."""

    def __init__(self, passes: VocabularyPasses, runtime: PipelineRuntime) -> None:
        self.passes, self.runtime, self.exchange = passes, runtime, passes.exchange
        self.has_mtp = passes.model.config.mtp_depth > 0
        self.trains = any(action.kind is Kind.T for action in runtime.schedule.actions[runtime.rank])
        self.at: dict[int, _Rows] = {}

    def _path(self, action: Action) -> Path:
        return self.runtime.schedule.paths[action.microbatch]

    def _batch(self, action: Action) -> Batch:
        return self.runtime.batches[action.microbatch]

    def _ids(self, action: Action) -> Tensor:
        """What is looked up of a micro-batch: ids, and with MTP the last label too."""
        batch = self._batch(action)
        return torch.cat((batch.ids_BS, batch.label_BS[:, -1:]), 1) if self.has_mtp else batch.ids_BS

    def _mtp_stage(self, action: Action) -> Action | None:
        """The forward that embeds labels, if it is this rank's."""
        for stage, rank in self._path(action):
            if rank == self.runtime.rank and "mtp" in self.runtime.stages[stage]:
                return Action(Kind.F, stage, action.microbatch)
        return None

    def _beside(self, action: Action, run: Do) -> None:
        self.at[action.microbatch].running[action.kind] = self.runtime.beside(action, lambda: run(action))

    def _ended(self, kind: Kind, action: Action) -> _Rows:
        """Wait for a micro-batch's collective; returns what there is of the micro-batch."""
        rows = self.at[action.microbatch]
        self.runtime.ended(Action(kind, microbatch=action.microbatch), rows.running[kind])
        return rows

    # Embedding

    def embed(self, action: Action) -> None:
        """This rank's part of the embeddings."""
        ids_BT, passes = self._ids(action), self.passes
        embedded_BTD = look_up(passes.embedding_RD, passes.rows, ids_BT, self.runtime.dtype)
        self.at[action.microbatch] = _Rows(embedded_BTD)

    def sum_embedded(self, action: Action) -> None:
        """Of all ranks; the first stage and MTP take it from there."""
        first, user = self._path(action)[0], self._mtp_stage(action)
        if first.rank == self.runtime.rank:
            user = Action(Kind.F, first.stage, action.microbatch)

        def run(action: Action) -> None:
            rows = self.at[action.microbatch]
            assert rows.embedded_BTD is not None
            if self.has_mtp:
                self.exchange.all_reduce_(rows.embedded_BTD)
            else:
                self.exchange.reduce_(rows.embedded_BTD, first.rank)
            if user is None:
                rows.embedded_BTD = None

        self._beside(action, run)
        if user is not None:
            self.runtime.before[user] = lambda: self._enter(action)

    def _enter(self, action: Action) -> None:
        """Before the forward of the first stage, or of MTP's: whichever is this rank's first."""
        rows, batch = self._ended(Kind.C_EMBED, action), self._batch(action)
        embedded_BTD, rows.embedded_BTD = rows.embedded_BTD, None
        assert embedded_BTD is not None
        first = self._path(action)[0]
        if first.rank == self.runtime.rank:
            hidden_BSD = embedded_BTD[:, : batch.ids_BS.shape[1]].contiguous()
            self.runtime.inputs[first.stage, action.microbatch] = Arrival((hidden_BSD,))
        if self._mtp_stage(action) is not None:
            assert batch.further is not None
            batch.next_bSD = embedded_BTD[batch.further.row_b, 1:].requires_grad_(self.trains)

    def share_embedding_gradient(self, action: Action) -> None:
        """From the first stage, and from MTP, to all."""
        batch, first = self._batch(action), self._path(action)[0]
        ids_BT = self._ids(action)
        wide = torch.promote_types(self.runtime.dtype, torch.float32)  # where two gradients add up
        dtype = wide if self.has_mtp else self.runtime.dtype
        gradient_BTD = ids_BT.new_zeros(*ids_BT.shape, self.passes.embedding_RD.shape[1], dtype=dtype)
        if first.rank == self.runtime.rank:
            (of_hidden_BSD,) = self.runtime.input_gradients.pop((first.stage, action.microbatch))
            gradient_BTD[:, : batch.ids_BS.shape[1]] = of_hidden_BSD
        if batch.next_bSD is not None and batch.next_bSD.grad is not None:
            assert batch.further is not None
            gradient_BTD[batch.further.row_b, 1:] += batch.next_bSD.grad
            batch.next_bSD = None
        self.at[action.microbatch].gradient_BTD = gradient_BTD
        if self.has_mtp:
            self._beside(action, lambda _: self.exchange.all_reduce_(gradient_BTD))
        else:
            self._beside(action, lambda _: self.exchange.broadcast_(gradient_BTD, first.rank))

    def embedding_gradient(self, action: Action) -> None:
        """Into this rank's rows."""
        rows = self._ended(Kind.C_EMBED_GRAD, action)
        assert rows.gradient_BTD is not None
        add_embedding_gradient(self.passes.embedding_RD, self.passes.rows, self._ids(action), rows.gradient_BTD)
        rows.gradient_BTD = None

    # Output layer

    def share_output(self, action: Action) -> None:
        """The last stage's output, and MTP's, to all."""
        batch, last = self._batch(action), self._path(action)[-1]
        rows = self.at[action.microbatch]
        if last.rank == self.runtime.rank:
            left = self.runtime.outputs.pop((last.stage, action.microbatch))
            rows.x_ND = torch.cat([t.flatten(0, 1) for t in left])
        else:
            count = batch.label_BS.numel() + (0 if batch.further is None else batch.further.label_bS.numel())
            size = self.passes.model.config.hidden_size
            rows.x_ND = torch.empty(count, size, dtype=self.runtime.dtype, device=self.runtime.device)
        x_ND = rows.x_ND
        self._beside(action, lambda _: self.exchange.broadcast_(x_ND, last.rank))

    def s(self, action: Action) -> None:
        """Logits and local softmax."""
        rows, batch = self._ended(Kind.C0, action), self._batch(action)
        assert rows.x_ND is not None
        label_N, weight, loss = batch.label_BS.flatten(), 1 / self.passes.batch_tokens, self.passes.loss
        scale_N = torch.full(label_N.shape, weight, dtype=torch.float64, device=label_N.device)
        if batch.further is not None:
            label_n = batch.further.label_bS.flatten()
            scale_n = torch.full_like(scale_N[:1], loss.mtp_weight * loss.mtp_every * weight).expand(len(label_n))
            label_N, scale_N = torch.cat((label_N, label_n)), torch.cat((scale_N, scale_n))
        rows.scoring = self.passes.output.s(rows.x_ND, label_N, scale_N, gradient=self.trains)
        rows.x_ND = None

    def c1(self, action: Action) -> None:
        """Statistics over all ranks."""
        self._beside(action, self._c1)
        self._then_backward(action)

    def _c1(self, action: Action) -> None:
        rows, batch = self.at[action.microbatch], self._batch(action)
        scoring = rows.scoring
        assert scoring is not None
        self.passes.output.c1(scoring)
        assert scoring.loss_N is not None
        rows.d_x_ND, scoring.d_x_ND = scoring.d_x_ND, None
        if self._path(action)[-1].rank == self.runtime.rank:
            self.runtime.add_sums(action.microbatch, _sums(self.passes.model.config, batch, scoring.loss_N))
        else:
            rows.d_x_ND = None

    def t(self, action: Action) -> None:
        """What is left of the gradients."""
        rows = self._ended(Kind.C1, action)
        assert rows.scoring is not None
        self.passes.output.t(rows.scoring)
        if self.passes.gradient_after is Kind.C1:
            rows.scoring = None

    def c2(self, action: Action) -> None:
        """vocab1: the gradient of the hidden states, over all ranks."""
        self._beside(action, self._c2)
        self._then_backward(action)

    def _c2(self, action: Action) -> None:
        rows = self.at[action.microbatch]
        scoring, rows.scoring = rows.scoring, None
        assert scoring is not None
        self.passes.output.c2(scoring)
        if self._path(action)[-1].rank == self.runtime.rank:
            rows.d_x_ND = scoring.d_x_ND

    def _then_backward(self, action: Action) -> None:
        """The backward of the last stage waits for the gradient of what it left."""
        last = self._path(action)[-1]
        if self.trains and last.rank == self.runtime.rank and action.kind is self.passes.gradient_after:
            for kind in (Kind.B, Kind.I):
                self.runtime.before[Action(kind, last.stage, action.microbatch)] = lambda: self._give_back(action)

    def _give_back(self, action: Action) -> None:
        rows, batch, last = self._ended(action.kind, action), self._batch(action), self._path(action)[-1]
        assert rows.d_x_ND is not None
        d_x_ND, rows.d_x_ND = rows.d_x_ND.to(self.runtime.dtype), None
        tokens, size = batch.label_BS.numel(), d_x_ND.shape[1]
        gradients = [d_x_ND[:tokens].view(*batch.label_BS.shape, size)]
        if batch.further is not None:
            gradients.append(d_x_ND[tokens:].view(*batch.further.label_bS.shape, size))
        self.runtime.gradients[last.stage, action.microbatch] = Arrival(gradients)


def _sums(config: ModelConfig, batch: Batch, loss_N: Tensor) -> LossSums:
    """The heads' part of a micro-batch's sums; the routers' is their stages'."""
    tokens, zero, sparse = batch.label_BS.numel(), loss_N.new_zeros(()), len(config.sparse_layers)
    experts = config.moe.choices if config.moe is not None and sparse else 0
    return LossSums(
        cross_entropy=loss_N[:tokens].sum(),
        mtp=loss_N[tokens:].sum(),
        z=zero,
        balance=zero,
        tokens=tokens,
        mtp_tokens=0 if batch.further is None else batch.further.tokens,
        counts_LE=torch.zeros(sparse, experts, dtype=torch.long, device=loss_N.device),
        rows_LE=torch.zeros(sparse, experts, dtype=torch.long, device=loss_N.device),
        entropy_L=torch.zeros(sparse, device=loss_N.device),
    )
