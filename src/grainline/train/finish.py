"""The end of a run: its checkpoints become models, and the final one is scored."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from grainline.models.count import parameters
from grainline.models.model import Model
from grainline.train.card import model_card
from grainline.train.files import RunFolder
from grainline.train.result import TrainResult
from grainline.train.setup import Setup
from grainline.train.state import TrainingState
from grainline.train.validate import Validation, bits_per_byte, validate
from grainline.train.weights import merged_weights, model_of, weights_of

if TYPE_CHECKING:
    from grainline.data.tokenizer import Tokenizer


def finish(setup: Setup, state: TrainingState, files: RunFolder, tokenizer: Tokenizer) -> TrainResult:
    """Write the run's models from its checkpoints and return the figures. For the first rank alone."""
    assert state.validation_loss is not None
    assert state.best is not None
    recipe, steps = setup.recipe, setup.recipe.training.steps
    last = Validation(state.validation_loss, bits_per_byte(state.validation_loss, setup.validation))

    def write(folder: Path, weights: Iterable[tuple[str, Tensor]], step: int, found: Validation | None) -> Validation:
        model = model_of(setup.model.config, weights)
        found = found or _score(setup, model)
        model.save(folder, tokenizer, model_card(recipe, model.config, step, found))
        return found

    weights = weights_of(files.checkpoints.at(steps))
    last_model = best_model = None
    if recipe.learning_rate.schedule == "wsm":
        last_model = files.last_model
        write(last_model, weights, steps, last)
        final = write(files.model, merged_weights(recipe, files.window), steps, None)
    else:
        final = write(files.model, weights, steps, last)
    if state.best.step != steps and state.best.step in files.best.steps():
        best_model = files.best_model
        found = Validation(state.best.loss, bits_per_byte(state.best.loss, setup.validation))
        write(best_model, weights_of(files.best.at(state.best.step)), state.best.step, found)
    count = parameters(setup.model.config)
    result = TrainResult(
        out=files.out,
        model=files.model,
        last_model=last_model,
        best_model=best_model,
        steps=steps,
        tokens=state.tokens,
        seconds=state.seconds,
        loss=state.loss,
        validation_loss=final.loss,
        validation_bits_per_byte=final.bits_per_byte,
        last_validation_loss=last.loss,
        best_step=state.best.step,
        best_validation_loss=state.best.loss,
        parameters=count.total + count.mtp,
        active_parameters=count.active,
    )
    result.save(files.result)
    return result


def _score(setup: Setup, model: Model) -> Validation:
    """Validation of weights that aren't the live model's, on this rank alone."""
    model.to(setup.ranks.device)
    model.compute_dtype = setup.model.compute_dtype
    alone = setup.alone_with(model)
    return validate(alone, setup.validation, setup.recipe.validation.max_sequences, alone.ranks)
