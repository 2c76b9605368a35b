"""Hugging Face folders in and out: each family's config.json, tensor names, weights. Torch only in `huggingface`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from grainline.documents import DocumentError, GrainlineError, ModelConfig, nearest
from grainline.models.formats.families import deepseek_v3, grainline, ling2, llama, mixtral, qwen3, qwen3_moe, zaya
from grainline.models.formats.layout import TensorMap, tensor_map
from grainline.models.formats.rope import canonical_rope

# config.json's model_type → the family that reads it.
FAMILIES: Mapping[str, ModuleType] = {
    "bailing_moe_v2": ling2,
    "bailing_moe": ling2,  # what Ling 2.0's published configs say; `architectures` tells it from Ling 1
    "qwen3_moe": qwen3_moe,
    "mixtral": mixtral,
    "deepseek_v3": deepseek_v3,
    "llama": llama,
    "qwen3": qwen3,
    "zaya": zaya,
    "grainline": grainline,  # what none of the others can say
}

log = logging.getLogger(__name__)


def config_from_hf(tables: Mapping[str, Any], where: str | Path = "config.json") -> ModelConfig:
    """ModelConfig of the tables of a config.json.

    Keys that a family's own code doesn't read are dropped. DocumentError names the key and value of anything that it
    does read and that is not computed here, and an unknown `model_type` with those that are known.
    """
    model_type = tables.get("model_type")
    if model_type is None:
        raise DocumentError([f"model_type: is required. Known: {', '.join(FAMILIES)}."], where)
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise DocumentError([f"model_type: '{model_type}' is not known. Known: {', '.join(FAMILIES)}."], where)
    config: ModelConfig = FAMILIES[model_type].config_from_hf(tables, where)
    return config


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """The tables of config.json for a ModelConfig.

    Reads its own result back: GrainlineError names every field that the family's config.json can't say. `storable`
    gives a config that can be.
    """
    tables: dict[str, Any] = _family(config).config_to_hf(config)
    said, read = _flat(canonical(config)), _flat(canonical(config_from_hf(tables)))
    lost = [f"{key}: family '{config.family}' can't say {said[key]!r}." for key in said if said[key] != read.get(key)]
    if lost:
        raise GrainlineError("\n".join(["This model can't be saved in its family's layout:", *lost]))
    return tables


def storable(config: ModelConfig) -> ModelConfig:
    """The same model in a family that can say it: its own, or else grainline's, with a line in the log."""
    try:
        config_to_hf(config)
    except GrainlineError as error:
        why = " ".join(str(error).splitlines()[1:]) or str(error)
        log.warning("%s So it is saved in grainline's own layout, which other engines don't read.", why)
        return config.model_copy(update={"family": grainline.FAMILY})
    return config


def tensors(config: ModelConfig) -> TensorMap:
    """Every tensor of a model of this config, with the names and shapes that its family's folder has."""
    if config.family == grainline.FAMILY:
        return grainline.tensors(config)
    return tensor_map(config, _family(config).NAMES)


def layer_prefix(config: ModelConfig, layer: int) -> str:
    """What the folder's names of a layer's tensors begin with."""
    prefix: str = _family(config).NAMES.layer.format(i=layer)
    return prefix


def has_mtp(config: ModelConfig) -> bool:
    """Whether the family has a layer of multi-token prediction, whose tensors say if there is one."""
    return config.family != grainline.FAMILY and bool(_family(config).NAMES.mtp_norm)


def canonical(config: ModelConfig) -> ModelConfig:
    """The same model with defaults filled in, so that two configs that compute alike are equal."""
    attention, moe = config.attention, config.moe
    kv_heads = None if attention.kind == "mla" else attention.key_value_heads
    attention = attention.model_copy(
        update={"kv_heads": kv_heads, "rope": canonical_rope(attention.rope), "key_temperature": 0.0}  # only a start
    )
    update: dict[str, Any] = {"attention": attention}
    if moe is not None:
        shared = (moe.shared_hidden or moe.expert_hidden) if moe.shared_experts else None
        update["moe"] = moe.model_copy(
            update={"shared_hidden": shared, "dense_layers": tuple(sorted(moe.dense_layers))}
        )
        if not moe.dense_layers:
            update["ffn_hidden"] = moe.expert_hidden  # nothing has it
    return config.model_copy(update=update)


def _family(config: ModelConfig) -> ModuleType:
    by_name = {module.FAMILY: module for module in FAMILIES.values()}
    if config.family not in by_name:
        raise GrainlineError(f"family: '{config.family}' has no folder layout.{nearest(config.family, by_name)}")
    return by_name[config.family]


def _flat(config: ModelConfig) -> dict[str, Any]:
    flat: dict[str, Any] = {}

    def walk(tables: Mapping[str, Any], prefix: str) -> None:
        for key, value in tables.items():
            if isinstance(value, Mapping):
                walk(value, f"{prefix}{key}.")
            else:
                flat[prefix + key] = value

    walk(config.model_dump(), "")
    return flat
