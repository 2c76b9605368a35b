"""Models by folder or hub id."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from grainline.documents import GrainlineError, nearest
from grainline.hardware import choose_device
from grainline.models.build import build
from grainline.models.formats.huggingface import DTYPES, load_model
from grainline.models.locate import load_config, locate
from grainline.models.model import Model

if TYPE_CHECKING:
    from grainline.data.tokenizer import Tokenizer

log = logging.getLogger(__name__)

__all__ = ["build", "load", "load_config", "locate"]


def load(
    path_or_hub_id: str | Path, *, dtype: torch.dtype | str | None = None, device: str | torch.device | None = None
) -> tuple[Model, Tokenizer]:
    """A model and its tokenizer, from a Hugging Face folder, a training run's folder, or a hub id.

    dtype: of the weights, such as "float32" or torch.bfloat16; None keeps each as stored. device: such as "cuda:1";
    "auto" takes a GPU if there is one, None the CPU. Raises GrainlineError for a folder that is incomplete, damaged, or
    of a model that isn't computed here, and for a device by a name that nothing here has.
    """
    from grainline.data.tokenizer import Tokenizer

    if not isinstance(device, torch.device):
        device = choose_device(device or "cpu")
    folder = locate(path_or_hub_id)
    chosen = _dtype(dtype)
    tokenizer = Tokenizer.load(folder)
    model = load_model(folder, chosen, device)
    if tokenizer.vocab_size > model.config.vocab_size:  # some folders add a pad token that the model never learned
        text = "%s: the tokenizer has %d tokens, the model only %d; the others can't be used."
        log.warning(text, folder, tokenizer.vocab_size, model.config.vocab_size)
    return model, tokenizer


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    if not isinstance(dtype, str):
        return dtype
    names = {str(known).removeprefix("torch."): known for known in DTYPES.values()}
    if dtype not in names:
        raise GrainlineError(f"dtype: '{dtype}' is not known.{nearest(dtype, names)}")
    return names[dtype]
