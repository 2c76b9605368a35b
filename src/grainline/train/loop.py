"""The steps of a run: forward and backward over micro-batches, one update, and what is saved and said between."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from grainline.models.moe import Moment, costless_share, imbalance
from grainline.models.moe.idle import IdleExperts
from grainline.models.moe.progressive import balanced_loads
from grainline.train.batches import sequences_of
from grainline.train.checkpoint import CheckpointWriter
from grainline.train.files import RunFolder
from grainline.train.guard import Guard, TrainingDiverged, Trouble, keep_batch
from grainline.train.learning_rate import factor, merge_steps
from grainline.train.memory import peak_memory_bytes
from grainline.train.metrics import MetricsLog, TensorBoard, to_tensorboard
from grainline.train.progress import Reporter
from grainline.train.setup import Setup
from grainline.train.signals import StopRequest, TrainingInterrupted
from grainline.train.state import Best, TrainingState
from grainline.train.timelines import keep
from grainline.train.validate import bits_per_byte, validate

SEEDS_APART = 1_000_003
"""Between the draws of two runs: more than the steps of one."""

LOADS_KEPT = 100
"""Steps, about, whose expert loads go into metrics.jsonl: enough rows for a heat map."""


@dataclass(frozen=True)
class Totals:
    """A step's sums over all ranks and micro-batches; losses per token of the batch, counts per expert."""

    loss: float
    mtp_loss: float | None
    z_loss: float
    balance_loss: float
    tokens: int
    entropy_L: Tensor  # of the routers, per token; 0 where MTP saw none
    counts_LE: Tensor
    rows_LE: Tensor
    someone_stops: bool


@dataclass
class Loop:
    """One run, from its current state to its last step."""

    setup: Setup
    state: TrainingState
    guard: Guard
    files: RunFolder
    writer: CheckpointWriter
    report: Reporter
    metrics: MetricsLog | None  # the first rank's
    board: TensorBoard | None
    stop: StopRequest
    timeline_step: int | None = None  # whose measured timeline is kept
    idle: IdleExperts | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.setup.sparse_layers:
            self.idle = IdleExperts(self.setup.model.config, self.state.idle_steps)

    def run(self) -> None:
        """Raises TrainingInterrupted after a signal, TrainingDiverged from the guard; both leave a resumable run."""
        recipe, state, steps = self.setup.recipe, self.state, self.setup.recipe.training.steps
        merged = merge_steps(recipe.learning_rate, steps)
        started, first, stall = time.perf_counter(), state.step, 0.0
        before = state.seconds
        while state.step < steps:
            line, stops = self._step()
            if state.step == self.timeline_step:
                self._keep_timeline(state.step)
            if state.step % recipe.validation.every == 0 or state.step == steps:
                line |= self._validate()
            line["checkpoint_seconds"], stall = stall, 0.0
            state.seconds = before + time.perf_counter() - started
            line["seconds"] = state.seconds
            self._tell(line, (steps - state.step) * (state.seconds - before) / (state.step - first))
            if state.step in merged:
                stall += self.writer.save(self.files.window, state.step, self.setup.model_tensors(), {})
            if stops or state.step % recipe.checkpoint.every == 0 or state.step == steps:
                stall += self._save()
            if stops and state.step < steps:
                self.writer.wait()
                raise TrainingInterrupted
        self.writer.wait()

    def close(self) -> None:
        """Close what is written to."""
        for file in (self.metrics, self.board):
            if file is not None:
                file.close()

    def _step(self) -> tuple[dict[str, Any], bool]:
        """One optimiser step; returns its metrics, and whether any rank wants to stop."""
        setup, recipe = self.setup, self.setup.recipe
        start, step = time.perf_counter(), self.state.step + 1
        totals = self._gradients(step)
        grad_norm = setup.work.clip(recipe.optimizer.clip_norm)
        routers = dict(zip(setup.router_names, totals.entropy_L.tolist(), strict=True))
        trouble = self.guard.check(totals.loss, grad_norm, routers)
        if trouble:
            self._give_up(step, trouble, totals.loss, grad_norm)
        rate = recipe.learning_rate.peak * factor(recipe.learning_rate, step, recipe.training.steps)
        setup.optimizer.step(rate)
        setup.optimizer.zero_grad()
        if totals.counts_LE.numel():
            loads_LE = balanced_loads(setup.model.config, totals.counts_LE, self._moment(step))
            setup.work.balance(loads_LE, recipe.loss.bias_rate)
            self._look_for_idle(totals, ~loads_LE.isnan())
        self.state.step, self.state.loss = step, totals.loss
        self.state.tokens += totals.tokens
        seconds = time.perf_counter() - start
        return self._line(totals, rate, grad_norm, seconds), totals.someone_stops

    def _gradients(self, step: int) -> Totals:
        """Forward and backward over the step; the batch's gradients stay in the parameters."""
        setup, layers = self.setup, self.setup.sparse_layers
        with setup.model.at(self._moment(step)):
            local = setup.work.gradients(step)
        flag = torch.tensor([self.stop.wanted or self.writer.has_failed], dtype=torch.float64)
        of_experts = torch.stack((local.counts_LE, local.rows_LE)).double().flatten()
        counted = (local.losses, flag, local.entropy_L, of_experts)
        everything = setup.ranks.sum_(torch.cat(counted))
        cross_entropy, mtp, z, balance, tokens, mtp_tokens, stops = everything[:7].tolist()
        counts_LE, rows_LE = everything[7 + layers :].view(2, layers, setup.experts)
        return Totals(
            loss=cross_entropy / tokens,
            mtp_loss=mtp / mtp_tokens if mtp_tokens else None,
            z_loss=z / tokens / max(1, layers),
            balance_loss=balance / tokens / max(1, layers),
            tokens=round(tokens),
            entropy_L=everything[7 : 7 + layers] / (tokens * seen(counts_LE)).clamp_min(1),
            counts_LE=counts_LE,
            rows_LE=rows_LE,
            someone_stops=stops > 0,
        )

    def _moment(self, step: int) -> Moment:
        """When step number `step`, from 1, is taken."""
        recipe = self.setup.recipe
        return Moment(
            True, (step - 1) / recipe.training.steps, recipe.seed * SEEDS_APART + step, opening=recipe.routing
        )

    def _line(self, totals: Totals, rate: float, grad_norm: float, seconds: float) -> dict[str, Any]:
        setup, step = self.setup, self.state.step
        speed = totals.tokens / seconds
        line: dict[str, Any] = {
            "step": step,
            "tokens": self.state.tokens,
            "loss": totals.loss,
            "bits_per_byte": bits_per_byte(totals.loss, setup.train),
            "mtp_loss": totals.mtp_loss,
            "z_loss": totals.z_loss,
            "balance_loss": totals.balance_loss,
            "lr": rate,
            "grad_norm": grad_norm,
            "tokens_per_second": speed,
            "mfu": speed * setup.flops_per_token / setup.peak_flops if setup.peak_flops else None,
            "step_seconds": seconds,
            "memory_bytes": peak_memory_bytes(setup.ranks.device),
        }
        moe = setup.model.config.moe
        if moe is not None and totals.counts_LE.numel():
            line["imbalance"] = imbalance(totals.counts_LE[:, : moe.pool]).tolist()
            line["entropy"] = totals.entropy_L.tolist()
            line["idle"] = [] if self.idle is None else self.idle.share_L
            if moe.costless:
                line["costless"] = costless_share(totals.counts_LE, moe.pool).tolist()
            if keeps_loads(step, setup.recipe.training.steps, setup.recipe.logging.every):
                line["loads"] = totals.counts_LE.long().tolist()
        return line

    def _look_for_idle(self, totals: Totals, open_LE: Tensor) -> None:
        assert self.idle is not None
        self.idle.count(totals.rows_LE, open_LE & (totals.counts_LE.sum(-1, keepdim=True) > 0))
        remark = self.idle.remark(self.setup.router_names)
        if remark is not None:
            self.report.say(f"Step {self.state.step + 1}: {remark}")

    def _keep_timeline(self, step: int) -> None:
        timeline = self.setup.work.timeline()
        if timeline is not None and self.setup.ranks.is_first:
            self.report.say(keep(timeline, step, self.files.timeline))

    def _validate(self) -> dict[str, float]:
        """Score held-out text; where it is the best so far, save the weights."""
        setup, state = self.setup, self.state
        start = time.perf_counter()
        found = validate(setup.work, setup.validation, setup.recipe.validation.max_sequences, setup.ranks)
        state.validation_loss = found.loss
        if math.isfinite(found.loss) and (state.best is None or found.loss < state.best.loss):
            state.best = Best(state.step, found.loss)
            self.writer.save(self.files.best, state.step, setup.model_tensors(), {"validation_loss": found.loss})
        return {
            "validation_loss": found.loss,
            "validation_bits_per_byte": found.bits_per_byte,
            "validation_seconds": time.perf_counter() - start,
        }

    def _save(self) -> float:
        self.state.idle_steps = None if self.idle is None else self.idle.steps_LE.tolist()
        state = {"training": self.state.as_json(), "guard": self.guard.memory()}
        return self.writer.save(self.files.checkpoints, self.state.step, self.setup.all_tensors(), state)

    def _tell(self, line: dict[str, Any], seconds_left: float) -> None:
        self.report.step(line, seconds_left)
        last = self.state.step == self.setup.recipe.training.steps
        worth = last or "validation_loss" in line or self.state.step % self.setup.recipe.logging.every == 0
        if self.metrics is not None and worth:
            self.metrics.write(line)
        if self.board is not None and worth:
            to_tensorboard(self.board, line)

    def _give_up(self, step: int, trouble: Trouble, loss: float, grad_norm: float) -> None:
        mine = self.setup.work.share(step)
        ids_BS1 = sequences_of(self.setup.train, mine, self.setup.ranks.device)
        facts = {
            "why": trouble.what,
            "loss": loss,
            "grad_norm": grad_norm,
            "median_loss": trouble.median_loss,
            "first_sequence": mine.start,
        }
        path = keep_batch(self.files.guard, self.setup.ranks.rank, step, ids_BS1, facts)
        self.writer.wait()
        saved = self.files.checkpoints.steps()
        raise TrainingDiverged(
            f"Stopped at step {step}: {trouble.what}. The batch is in {path}. "
            f"{f'The last checkpoint is of step {saved[-1]}. ' if saved else ''}"
            "Start anew (another --out) with a lower learning_rate.peak, more learning_rate.warmup_steps, or "
            "precision.compute = 'float32'."
        )


def seen(counts_LE: Tensor) -> Tensor:
    """Share of the batch's tokens that each router saw, [L]: as they make equally many choices, that of the choices.

    MTP's sees some of the sequences, the others all.
    """
    choices_L = counts_LE.sum(-1)
    return choices_L / choices_L.max().clamp_min(1) if len(choices_L) else choices_L


def keeps_loads(step: int, steps: int, every: int) -> bool:
    """Whether this step's line, of those that are written `every` so many steps, has the experts' loads in it."""
    return step % (every * max(1, steps // (every * LOADS_KEPT))) == 0
