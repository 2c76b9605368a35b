"""From a recipe to a classifier: its tokenizer, its encoder and its head."""

from __future__ import annotations

from collections.abc import Callable

import torch

from grainline.data.tokenizer import Tokenizer
from grainline.documents import GrainlineError, ModelConfig
from grainline.documents.classification import ClassificationRecipe
from grainline.models.build import build
from grainline.models.dial import config_for_depth, dense_twin
from grainline.models.heads.encoders import Classifier, DecoderEncoder
from grainline.models.heads.mixture import HectoHead
from grainline.models.loading import load
from grainline.models.model import Model
from grainline.train.classify.examples import Examples


def build_classifier(
    recipe: ClassificationRecipe, tokenizer: Tokenizer, model: Model | None, outputs: int
) -> Classifier:
    """A new head on the encoder; random weights depend on the seed alone. `model`: the pretrained one, if there is."""
    choice = recipe.encoder
    if model is None:
        assert choice.depth is not None
        model = build(encoder_config(choice.depth, tokenizer.vocab_size, recipe.data.max_tokens), seed=recipe.seed)
    if recipe.data.max_tokens > model.config.max_positions:
        raise GrainlineError(
            f"data.max_tokens is {recipe.data.max_tokens}, and the encoder has {model.config.max_positions} positions."
        )
    if tokenizer.vocab_size > model.config.vocab_size:
        raise GrainlineError(
            f"The tokenizer has {tokenizer.vocab_size} tokens, the encoder {model.config.vocab_size}: leave "
            "data.tokenizer out, so that the encoder's own is taken."
        )
    encoder = DecoderEncoder(model, choice.pooled, frozen=choice.frozen)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        head = HectoHead(recipe.head, encoder.width, outputs)
    return Classifier(encoder, head)


def encoder_config(depth: int, vocab_size: int, positions: int) -> ModelConfig:
    """The dense twin of the dial's model, without its MTP layer: as many active parameters."""
    return dense_twin(config_for_depth(depth, vocab_size, max(positions, 8))).model_copy(update={"mtp_depth": 0})


def pretrained(recipe: ClassificationRecipe) -> tuple[Model | None, Tokenizer | None]:
    """The encoder's model and tokenizer, where it has been trained before."""
    if recipe.encoder.pretrained is None:
        return None, None
    return load(recipe.encoder.pretrained, dtype="float32")


def tokenizer_of(
    recipe: ClassificationRecipe, own: Tokenizer | None, examples: Examples, say: Callable[[str], None]
) -> Tokenizer:
    """The recipe's, or the encoder's, or one trained on the texts that aren't held out."""
    if recipe.data.tokenizer is not None:
        return Tokenizer.load(recipe.data.tokenizer)
    if own is not None:
        return own
    say(f"Training a tokenizer of {recipe.data.vocab_size:,} tokens.")
    return Tokenizer.train((e.text for e in examples.train), recipe.data.vocab_size)
