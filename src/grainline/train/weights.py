"""Weights from checkpoints, streamed: the last, the best, or the merge of a window; and a model of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from grainline.documents import ModelConfig, Recipe
from grainline.models.model import Model
from grainline.train.checkpoint import CheckpointFolder, CheckpointSource, verify
from grainline.train.learning_rate import merge_steps
from grainline.train.merge import decay_merge_weights, merge
from grainline.train.state import MODEL


def weights_of(checkpoint: Path) -> Iterator[tuple[str, Tensor]]:
    """The model's tensors in a checkpoint, checked first."""
    verify(checkpoint)
    source = CheckpointSource(checkpoint, MODEL)
    for name in source.names():
        yield name, source.read(name)


def merged_weights(recipe: Recipe, window: CheckpointFolder) -> Iterator[tuple[str, Tensor]]:
    """wsm: the weights that stand for the recipe's decay, merged from the window's checkpoints."""
    steps = merge_steps(recipe.learning_rate, recipe.training.steps)
    for step in steps:
        verify(window.at(step))
    sources = [CheckpointSource(window.at(step), MODEL) for step in steps]
    return merge(sources, decay_merge_weights(recipe.learning_rate, len(steps)))


def model_of(config: ModelConfig, weights: Iterable[tuple[str, Tensor]]) -> Model:
    """A model on the CPU with these weights."""
    with torch.device("meta"):
        model = Model(config)
    model.load_state_dict(dict(weights), assign=True)
    return model
