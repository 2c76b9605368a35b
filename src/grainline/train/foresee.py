"""The model that a recipe will train, known before any text or weights are read, and refused if it can't work."""

from __future__ import annotations

from pathlib import Path

from grainline.documents import GrainlineError, ModelConfig, Plan, Recipe
from grainline.hardware import look
from grainline.models.dial import config_for_depth
from grainline.models.locate import load_config, locate
from grainline.models.moe.progressive import check_opening
from grainline.models.upcycle import shared_config
from grainline.parallel import Ranks
from grainline.parallel.pipeline.resolve import resolve
from grainline.train.lay_out import lay_out


def foreseen_model(recipe: Recipe) -> ModelConfig:
    """Its config, with the vocabulary that was asked for.

    Raises GrainlineError if tokenizer or sequences don't fit it.
    """
    choice, length, tokens = recipe.model, recipe.data.sequence_length, _foreseen_tokens(recipe)
    if choice.depth is not None:
        config: ModelConfig | None = config_for_depth(choice.depth, tokens or recipe.data.vocab_size, length)
    elif choice.pretrained is not None:
        config = load_config(choice.pretrained)
        config = config if choice.reuse is None else shared_config(config, choice.reuse)
    else:
        config = ModelConfig.load(choice.config_file) if choice.config_file is not None else choice.config
    assert config is not None
    check_opening(recipe, config)
    check_sizes(config, length, tokens)
    return config


def check_pipeline(recipe: Recipe, plan: Plan, config: ModelConfig, ranks: Ranks) -> None:
    """Raise GrainlineError if this model can't be cut, or these micro-batches scheduled, as the plan says."""
    assert plan.pipeline is not None
    layout = plan.layout.model_copy(update={"data_parallel": ranks.world // plan.pipeline.ranks})
    found = lay_out(plan.model_copy(update={"layout": layout}), config, recipe, look(measure=False), ranks)
    resolve(found, config)


def check_sizes(config: ModelConfig, sequence_length: int, tokens: int | None) -> None:
    """Raise GrainlineError if a tokenizer of so many tokens (None: not known) or the sequences don't fit the model."""
    if tokens is not None and config.vocab_size < tokens:
        raise GrainlineError(
            f"The tokenizer has {tokens} tokens, the model's vocab_size is {config.vocab_size}. "
            "Raise the model's, or name a smaller tokenizer (data.tokenizer, data.vocab_size)."
        )
    if config.max_positions < sequence_length:
        raise GrainlineError(
            f"data.sequence_length is {sequence_length}, but the model's max_positions is {config.max_positions}. "
            "Shorten the sequences, or stretch the model's context first."
        )


def _foreseen_tokens(recipe: Recipe) -> int | None:
    """Of the tokenizer there is, or of the one that will be trained; None for a hub model's, which isn't fetched."""
    from grainline.data.tokenizer import Tokenizer

    path = recipe.data.tokenizer
    if path is None and recipe.model.pretrained is not None:
        folder = locate(recipe.model.pretrained, weights=False)
        if not (folder / "tokenizer.json").is_file() and not Path(recipe.model.pretrained).expanduser().is_dir():
            return None
        path = str(folder)
    return recipe.data.vocab_size if path is None else Tokenizer.load(path).vocab_size
