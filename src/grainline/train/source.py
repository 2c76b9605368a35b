"""What is trained: the config that a recipe asks for, or the pretrained model it names, made to fit the tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from grainline.documents import ModelConfig, Recipe
from grainline.models.dial import config_for_depth
from grainline.models.model import Model
from grainline.models.upcycle import shared_experts
from grainline.train.foresee import check_sizes

if TYPE_CHECKING:
    from grainline.data.tokenizer import Tokenizer

Source = Model | ModelConfig | int
"""A model with weights, the config of one that is still to be drawn, or the dial's depth."""


def source_of(recipe: Recipe) -> tuple[Source, Tokenizer | None]:
    """What the recipe names, and the tokenizer that comes with it."""
    choice = recipe.model
    if choice.pretrained is not None:
        from grainline.models.loading import load

        model, tokenizer = load(choice.pretrained, dtype=torch.float32)
        return model if choice.reuse is None else shared_experts(model, choice.reuse, seed=recipe.seed), tokenizer
    if choice.depth is not None:
        return choice.depth, None
    if choice.config_file is not None:
        return ModelConfig.load(choice.config_file), None
    assert choice.config is not None
    return choice.config, None


def fit(source: Source, recipe: Recipe, tokenizer: Tokenizer) -> Model | ModelConfig:
    """The model or config for this tokenizer and sequence length; raises GrainlineError where they can't go together.

    A config from the dial gets the tokenizer's vocabulary and the recipe's context; one that was given keeps its own
    sizes, and takes from the tokenizer the special ids that it leaves open.
    """
    length = recipe.data.sequence_length
    if isinstance(source, int):
        source = config_for_depth(source, tokenizer.vocab_size, length)
    check_sizes(source.config if isinstance(source, Model) else source, length, tokenizer.vocab_size)
    if isinstance(source, Model):
        return source
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    open_ids = {name: id for name, id in ids.items() if id is not None and getattr(source, name) is None}
    return source.model_copy(update=open_ids)
