"""RoPE in config.json: `rope_theta` + `rope_scaling` (transformers 4) or `rope_parameters` (transformers 5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grainline.documents import DocumentError, Rope
from grainline.models.formats.keys import Keys

# Hugging Face's key → ours, per kind of stretching. A key outside its kind's list would change what is computed.
_STRETCH_KEYS: Mapping[str, Mapping[str, str]] = {
    "none": {},
    "linear": {"factor": "factor"},
    "llama3": {
        "factor": "factor",
        "original_max_position_embeddings": "original_positions",
        "low_freq_factor": "low_freq_factor",
        "high_freq_factor": "high_freq_factor",
    },
    "yarn": {
        "factor": "factor",
        "original_max_position_embeddings": "original_positions",
        "beta_fast": "beta_fast",
        "beta_slow": "beta_slow",
        "mscale": "mscale",
        "mscale_all_dim": "mscale_all_dim",
        "attention_factor": "attention_factor",
    },
}
_NOT_STRETCHING = {"type", "rope_type", "rope_theta", "partial_rotary_factor"}


def rope_from_hf(
    keys: Keys, *, theta: float, interleaved: bool = False, fraction: float | None = None
) -> dict[str, Any]:
    """The tables of the Rope that config.json describes.

    `theta` is the family's own default. `fraction` is what the family reads elsewhere; None means that the family
    has no partial rotation, so any factor but 1 is refused.
    """
    new, old = keys.table("rope_parameters"), keys.table("rope_scaling")
    where = "rope_parameters" if new else "rope_scaling"
    stretch = new or old
    if new and old and new != old:
        keys.refuse("rope_scaling", "rope_parameters says something else; remove one of them")
    if any(isinstance(value, Mapping) for value in stretch.values()):
        keys.refuse(where, "every layer has the same RoPE here")
    partial = stretch.get("partial_rotary_factor", keys.get("partial_rotary_factor"))
    if fraction is None and partial not in (None, 1, 1.0):
        raise DocumentError([f"partial_rotary_factor: {partial!r} is not supported in this model type."], keys.where)
    return {
        "theta": stretch.get("rope_theta") or keys.number("rope_theta", theta),
        "fraction": 1.0 if fraction is None else fraction,
        "interleaved": interleaved,
        **_stretch(keys, where, stretch),
    }


def _stretch(keys: Keys, where: str, stretch: Mapping[str, Any]) -> dict[str, Any]:
    said = stretch.get("rope_type") or stretch.get("type") or "default"
    kind = "none" if said == "default" else said
    if not isinstance(kind, str) or kind not in _STRETCH_KEYS:
        known = ", ".join(f"'{k}'" for k in ("default", *list(_STRETCH_KEYS)[1:]))
        raise DocumentError([f"{where}.rope_type: {said!r} is not supported; known are {known}."], keys.where)
    ours = _STRETCH_KEYS[kind]
    for key, value in stretch.items():
        harmless = value is None or key in _NOT_STRETCHING or (key == "truncate" and value is True)
        if key not in ours and not harmless:
            raise DocumentError([f"{where}.{key}: {value!r} is not supported with rope_type '{said}'."], keys.where)
    read: dict[str, Any] = {name: stretch[key] for key, name in ours.items() if stretch.get(key) is not None}
    if "original_positions" in ours.values():
        # The pretraining length where it isn't said is the model's own, as in transformers.
        read.setdefault("original_positions", keys.integer("max_position_embeddings"))
    if kind == "yarn" and "factor" not in read:
        original = Keys(stretch, f"{keys.where}: {where}").number(
            "original_max_position_embeddings", read["original_positions"]
        )
        read["factor"] = keys.integer("max_position_embeddings") / max(original, 1)
    if kind != "none" and "factor" not in read:
        raise DocumentError([f"{where}.factor: is required with rope_type '{said}'."], keys.where)
    return {"scaling": kind, **read}


def rope_to_hf(rope: Rope) -> dict[str, Any]:
    """`rope_theta` and `rope_scaling`: the older form, which every version of transformers, vLLM and SGLang reads."""
    if rope.scaling == "none":
        return {"rope_theta": rope.theta, "rope_scaling": None}
    values = {key: getattr(rope, name) for key, name in _STRETCH_KEYS[rope.scaling].items()}
    said = {key: value for key, value in values.items() if value is not None}
    return {"rope_theta": rope.theta, "rope_scaling": {"rope_type": rope.scaling, **said}}


def canonical_rope(rope: Rope) -> Rope:
    """The same rotation with every field that its kind of stretching doesn't read at its default."""
    used = {"theta", "fraction", "interleaved", "scaling", *_STRETCH_KEYS[rope.scaling].values()}
    return Rope.model_validate({name: value for name, value in rope.model_dump().items() if name in used})
