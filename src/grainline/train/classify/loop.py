"""The steps of a classifier's run, what is saved between them, and where they go on."""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor

from grainline.documents import GrainlineError
from grainline.documents.classification import ClassificationRecipe
from grainline.models.heads.encoders import Classifier
from grainline.parallel import Ranks
from grainline.train.checkpoint import CheckpointWriter, load, newest
from grainline.train.classify.step import StepSums, gradients
from grainline.train.classify.tokens import Tokens, order_of
from grainline.train.files import RunFolder
from grainline.train.learning_rate import factor
from grainline.train.metrics import MetricsLog
from grainline.train.optim import Optimizer
from grainline.train.progress import Reporter
from grainline.train.signals import StopRequest, TrainingInterrupted
from grainline.train.state import all_tensors


@dataclass
class Loop:
    """The steps of a run, from its newest checkpoint to its last."""

    recipe: ClassificationRecipe
    files: RunFolder
    ranks: Ranks
    report: Reporter
    classifier: Classifier
    train: Tokens
    steps: int
    seconds: float = 0.0

    def run(self, stack: ExitStack) -> None:
        """Raises TrainingInterrupted after a signal, GrainlineError where the loss is no number."""
        recipe, files, ranks = self.recipe, self.files, self.ranks
        learning = [(n, p) for n, p in self.classifier.named_parameters() if p.requires_grad]
        optimizer = Optimizer(learning, recipe.optimizer)
        tensors = all_tensors(self.classifier, optimizer)
        step = self._resume(optimizer, tensors)
        writer = CheckpointWriter()
        stack.callback(writer.close)
        metrics = MetricsLog(files.metrics, step) if ranks.is_first else None
        if metrics is not None:
            stack.callback(metrics.close)
        stop = stack.enter_context(StopRequest(announce=ranks.is_first))
        begun, first, before = time.perf_counter(), step, self.seconds
        while step < self.steps:
            step += 1
            sums = self._gradients(step)
            norm = float(torch.nn.utils.clip_grad_norm_([p for _, p in learning], recipe.optimizer.clip_norm))
            if not (math.isfinite(sums.loss) and math.isfinite(norm)):
                raise GrainlineError(
                    f"Stopped at step {step}: the loss is {sums.loss} and the gradient's norm {norm}. Start anew "
                    "(--no-resume) with a lower learning_rate.peak."
                )
            rate = recipe.learning_rate.peak * factor(recipe.learning_rate, step, self.steps)
            optimizer.step(rate)
            optimizer.zero_grad()
            self.seconds = before + time.perf_counter() - begun
            line = {"step": step, **vars(sums), "lr": rate, "grad_norm": norm, "seconds": self.seconds}
            self.report.step(line, (self.steps - step) * (self.seconds - before) / (step - first))
            if metrics is not None:
                metrics.write(line)
            stops = float(ranks.sum_(torch.tensor([float(stop.wanted)]))) > 0
            if stops or step % recipe.checkpoint.every == 0 or step == self.steps:
                writer.save(files.checkpoints, step, tensors, {"step": step, "seconds": self.seconds})
            if stops and step < self.steps:
                writer.wait()
                self.report.say(f"Saved at step {step} of {self.steps}. The same command goes on from there.")
                raise TrainingInterrupted
        writer.wait()

    def _resume(self, optimizer: Optimizer, tensors: dict[str, Tensor]) -> int:
        """The step of the newest checkpoint, read into classifier and optimiser."""
        folder = self.files.checkpoints
        if self.ranks.is_first:
            folder.clear_partial()
        checkpoint = self.ranks.on_first(lambda: newest(folder, self.report.say))
        if checkpoint is None:
            return 0
        state = load(checkpoint, tensors)
        optimizer.resume_at(state["step"])
        self.seconds = state["seconds"]
        self.report.say(f"Going on from step {state['step']} of {self.steps}.")
        return int(state["step"])

    def _gradients(self, step: int) -> StepSums:
        size = self.recipe.training.batch
        epoch, place = divmod(step - 1, len(self.train.ids) // size)
        rows = order_of(len(self.train.ids), self.recipe.seed, epoch)[place * size : (place + 1) * size]
        share = self.ranks.share(size)
        mine = self.train.batch(rows[share.start : share.stop])
        regression = self.recipe.task == "regression"
        return gradients(self.classifier, self.recipe.head, mine, size, self.ranks, regression)
