"""What a run leaves in its folder, and where."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grainline import __version__
from grainline.documents import GrainlineError, ModelConfig, Recipe, make_folder, write_atomically
from grainline.hardware import Machine
from grainline.train.checkpoint.folder import CheckpointFolder
from grainline.train.decide import Decision

FREE_TABLES = ("schema_version", "name", "validation", "checkpoint", "guard", "logging")
"""Tables of a recipe that may change when a run is resumed: they don't alter what is learned."""

OTHERWISE = "name another folder (--out), or start anew (--no-resume; a quickstart: --fresh)."


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run; every path in it has its name here."""

    out: Path
    keep: int

    @property
    def checkpoints(self) -> CheckpointFolder:
        """To go on from: weights and optimiser state."""
        return CheckpointFolder(self.out / "checkpoints", self.keep)

    @property
    def best(self) -> CheckpointFolder:
        """The weights with the lowest validation loss."""
        return CheckpointFolder(self.out / "best", 1)

    @property
    def window(self) -> CheckpointFolder:
        """wsm: the weights that are merged."""
        return CheckpointFolder(self.out / "window")

    @property
    def recipe(self) -> Path:
        """The recipe, overrides included."""
        return self.out / "recipe.toml"

    @property
    def plan(self) -> Path:
        """The plan, what was left open filled in."""
        return self.out / "plan.toml"

    @property
    def run(self) -> Path:
        """What the recipe came to: model config, compute dtype, machine, versions."""
        return self.out / "run.json"

    @property
    def result(self) -> Path:
        """The figures of a run that came to its end."""
        return self.out / "result.json"

    @property
    def metrics(self) -> Path:
        """A JSON line every `logging.every` steps, and wherever held-out text was scored."""
        return self.out / "metrics.jsonl"

    @property
    def timeline(self) -> Path:
        """What the ranks of a pipeline did and when in one step, if asked for; a picture and a trace are beside it."""
        return self.out / "timeline.json"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's event files, if asked for."""
        return self.out / "tensorboard"

    @property
    def log(self) -> Path:
        """What was said."""
        return self.out / "log.txt"

    @property
    def data(self) -> Path:
        """Tokenizer and packed sequences, unless another folder was named."""
        return self.out / "data"

    @property
    def guard(self) -> Path:
        """The batches that the guard stopped at."""
        return self.out / "guard"

    @property
    def model(self) -> Path:
        """The trained model as a Hugging Face folder (wsm: the merged one)."""
        return self.out / "model"

    @property
    def last_model(self) -> Path:
        """wsm: the model of the last step, not merged."""
        return self.out / "model-last"

    @property
    def best_model(self) -> Path:
        """The model with the lowest validation loss, where that isn't the last step's."""
        return self.out / "model-best"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this run; raises GrainlineError if another process does, or there can be none."""
        make_folder(self.out)
        with (self.out / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise GrainlineError(
                    f"{self.out}: another run is at work in this folder. Name another (--out)."
                ) from None
            yield

    def clear(self) -> None:
        """Delete what an earlier run left here, except its data and log."""
        for folder in (self.checkpoints.path, self.best.path, self.window.path, self.guard):
            shutil.rmtree(folder, ignore_errors=True)
        for folder in (self.model, self.last_model, self.best_model, self.tensorboard):
            shutil.rmtree(folder, ignore_errors=True)
        for file in (self.metrics, self.run, self.recipe, self.plan, self.result, *self.out.glob("timeline*.*")):
            file.unlink(missing_ok=True)

    def check_recipe(self, recipe: Recipe) -> None:
        """Raise GrainlineError if what is here comes from a recipe that would have learned something else."""
        if not self.recipe.is_file() or not (self.checkpoints.steps() or self.result.is_file()):
            return
        keys = differing_keys(_binding(Recipe.load(self.recipe)), _binding(recipe))
        if keys:
            raise GrainlineError(
                f"{self.out} holds a run of another recipe. What differs: {'; '.join(keys)}. "
                f"Resume with the recipe it was started with, {OTHERWISE}"
            )

    def check_inputs(self, config: ModelConfig, text: str) -> None:
        """Raise GrainlineError if checkpoints here are of another model, or text (its fingerprint), than now.

        The recipe names files, and what is in them may have changed.
        """
        before = self.read_run()
        if not self.checkpoints.steps() or not before:
            return
        keys = differing_keys(before["model"], config.tables())
        if keys:
            raise GrainlineError(
                f"{self.out} holds a run of another model. What differs: {'; '.join(keys)}. Put it back, {OTHERWISE}"
            )
        if before["text"] != text:
            raise GrainlineError(
                f"{self.out} holds a run on other text: a file of data.text or the tokenizer has changed since it was "
                f"started. Put it back, {OTHERWISE}"
            )

    def read_run(self) -> dict[str, Any]:
        """What an earlier start decided; empty if there was none."""
        try:
            values: dict[str, Any] = json.loads(self.run.read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return {}
        return values


def write_down(
    files: RunFolder, recipe: Recipe, decision: Decision, config: ModelConfig, text: str, machine: Machine
) -> None:
    """Keep with the run what it was made of: recipe, plan, model, machine and versions."""
    recipe.save(files.recipe)
    decision.plan.save(files.plan)
    execution = decision.plan.execution
    run = {
        "grainline": __version__,
        "torch": machine.torch,
        "compute": decision.compute,
        "device": execution.device,
        "threads": execution.threads,
        "micro_batch_sequences": execution.micro_batch_sequences,
        "ranks": decision.plan.layout.data_parallel * (decision.plan.pipeline.ranks if decision.plan.pipeline else 1),
        "model": config.tables(),
        "text": text,
        "machine": machine.as_dict(),
    }
    write_atomically(files.run, json.dumps(run, indent=1, ensure_ascii=False) + "\n")


def differing_keys(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Every key at which two tables differ, as ``a.b: old -> new``."""
    found = []
    for key in sorted({*before, *after}):
        old, new = before.get(key), after.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differing_keys(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key}: {_shown(old)} -> {_shown(new)}")
    return found


def _shown(value: Any) -> str:
    return "(unset)" if value is None else json.dumps(value, ensure_ascii=False)


def _binding(recipe: Recipe) -> dict[str, Any]:
    return {key: value for key, value in recipe.tables().items() if key not in FREE_TABLES}
