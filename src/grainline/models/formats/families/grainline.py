"""grainline's own layout, for what no published family can say: our config's tables in config.json, our tensors' names.

A folder like any other, with the same tokenizer, shards and checks; only grainline computes what is in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grainline.documents import DocumentError, ModelConfig
from grainline.models.formats.keys import Keys
from grainline.models.formats.layout import Entry, Piece, TensorMap

FAMILY = "grainline"
MODEL_TYPE = "grainline"
ARCHITECTURE = "GrainlineForCausalLM"
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
"""Beside the tables, where everybody looks for them."""


def config_from_hf(tables: Mapping[str, Any], where: str | Path = "config.json") -> ModelConfig:
    """ModelConfig of a config.json; DocumentError as for any model config."""
    keys = Keys(tables, where)
    model = keys.table("model")
    if not model:
        raise DocumentError(["model: is required: the tables of a model config."], where)
    ids = {key: keys.get(key) for key in TOKEN_IDS if keys.get(key) is not None}
    return ModelConfig.parse({**model, **ids, "family": FAMILY}, where)


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """config.json of any ModelConfig."""
    said = config.model_copy(update={"family": FAMILY}).tables()
    ids = {key: said.pop(key, None) for key in TOKEN_IDS}
    return {"architectures": [ARCHITECTURE], "model_type": MODEL_TYPE, **ids, "model": said}


def tensors(config: ModelConfig) -> TensorMap:
    """The model's own state dict. Torch is imported here, not for reading a config."""
    import torch

    from grainline.models.model import Model

    with torch.device("meta"):
        model = Model(config)
    buffers = {name for name, _ in model.named_buffers()}  # router biases: in float32 always
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    return TensorMap(
        tuple(Entry(name, shape, (Piece(name, shape),), name in buffers) for name, shape in shapes.items())
    )
