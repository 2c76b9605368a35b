"""The sparse model that is trained: the dial's, changed by what a person sets, and by what that needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from grainline.documents import ModelConfig, override
from grainline.documents.moe import REFUSED
from grainline.models.dial import config_for_depth

TILE = 16
"""Rows, for token rounding: minutes buy batches of a thousand tokens, which are no more than 128 for an expert."""


def sparse_config(depth: int, vocab_size: int, max_positions: int, settings: Sequence[str] = ()) -> ModelConfig:
    """The dial's model with ``moe.router=expert-choice`` and the like, keys of a model config.

    One key is enough for each kind of router, expert and attention: what it needs beside it, or what of the dial's it
    doesn't go with, is set along with it, unless a person did. Raises GrainlineError for what can't be.
    """
    config = config_for_depth(depth, vocab_size, max_positions)
    if not settings:
        return config
    tables = override(config.tables(), settings)
    given = {assignment.partition("=")[0].strip() for assignment in settings}
    for key, value in _needs(tables).items():
        if key not in given:
            table, _, name = key.rpartition(".")
            holder = tables[table] if table else tables
            if value is None:
                holder.pop(name, None)
            else:
                holder[name] = value
    return ModelConfig.parse(tables, where="--set")


def _needs(tables: dict[str, Any]) -> dict[str, Any]:
    """What the choices of a config need, by key; None is to leave the key out."""
    moe, attention, size = tables.get("moe"), tables.get("attention"), tables.get("hidden_size")
    if not isinstance(moe, dict) or not isinstance(attention, dict) or not isinstance(size, int):
        return {}  # reading them says what is wrong
    needs: dict[str, Any] = {}
    if (moe.get("router"), "bias_balanced") in REFUSED:
        needs["moe.bias_balanced"] = False
    if moe.get("router") == "token-rounding":
        needs["moe.tile"] = TILE
    if moe.get("router") == "depth-averaged":
        needs["moe.router_hidden"] = max(16, size // 8)  # ZAYA1: 256 of 2,048
    if moe.get("expert") == "bottleneck":
        latent, hidden = max(1, size // 4), moe.get("expert_hidden")  # BigMac: r = 0.25, and F/r
        needs["moe.latent"] = latent
        if isinstance(hidden, int):
            needs["moe.expert_hidden"] = hidden * size // latent
            needs["moe.shared_hidden"] = moe.get("shared_hidden", hidden)
    if isinstance(moe.get("groups"), int) and moe["groups"] > 1:
        needs["moe.top_groups"] = max(1, moe["groups"] // 2)
    if isinstance(moe.get("reuse"), int) and moe["reuse"] > 1:
        needs |= _shared_evenly(tables, moe["reuse"])
    if tables.get("residual_scaling"):
        needs["mtp_depth"] = 0
    if attention.get("kind") == "cca":
        needs["attention.qk_norm"] = False  # it has a norm of its own
    if attention.get("kind") == "mla":
        head = attention.get("head_dim", 1)
        needs |= {
            "attention.kv_rank": 2 * head,
            "attention.rope_dim": max(2, head // 4 * 2),
            "attention.kv_heads": None,
        }
        needs |= {"attention.value_dim": head, "attention.qk_norm": False, "attention.rope": {"theta": 10_000.0}}
    return needs


def _shared_evenly(tables: dict[str, Any], reuse: int) -> dict[str, Any]:
    """Sparse layers that so many can share: the first one sparse too, or no MTP, or both."""
    layers, mtp, dense = tables.get("layers"), tables.get("mtp_depth"), tables["moe"].get("dense_layers", ())
    if not isinstance(layers, int) or not isinstance(mtp, int):
        return {}
    ways: tuple[tuple[int, list[int]], ...] = ((mtp, list(dense)), (mtp, []), (0, list(dense)), (0, []))
    for depth, still_dense in ways:
        if (layers - len(still_dense) + depth) % reuse == 0:
            return {"mtp_depth": depth, "moe.dense_layers": still_dense}
    return {}
