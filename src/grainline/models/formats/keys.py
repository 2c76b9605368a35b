"""Reading config.json by key, so that every refusal names the file, the key and the value."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from grainline.documents import DocumentError

# What other models of these shapes may switch on and nothing here computes. Off (null, false, 0, empty) is fine.
_NEVER_COMPUTED = {
    "quantization_config": "quantised weights can't be read; take the bf16 weights of this model, or dequantise them",
    "compression_config": "compressed weights can't be read; take the bf16 weights of this model",
    "mlp_bias": "feed-forward layers have no biases here",
    "use_mrope": "multimodal RoPE is not computed",
    "attn_logit_softcapping": "attention logits are not capped",
    "final_logit_softcapping": "logits are not capped",
    "logit_scale": "logits are not scaled",
    "clip_qkv": "q, k and v are not clipped",
    "attention_sinks": "attention sinks are not computed",
    "attention_sink": "attention sinks are not computed",
    "alibi": "positions are rotary only",
    "parallel_attn": "attention and feed-forward follow each other",
    "norm_head": "the output head is not normalised",
    "add_cross_attention": "only decoders are computed",
    "is_encoder_decoder": "only decoders are computed",
    "per_layer_config": "layers differ only in being dense or sparse",
}


class Keys:
    """The tables of one config.json. `where` names the file in errors."""

    def __init__(self, tables: Mapping[str, Any], where: str | Path = "config.json") -> None:
        self.tables = tables
        self.where = where
        for key, why in _NEVER_COMPUTED.items():
            if tables.get(key):
                self.refuse(key, why)

    def refuse(self, key: str, why: str) -> NoReturn:
        """Raise DocumentError for a value that can't be computed."""
        raise DocumentError([f"{key}: {self.tables.get(key)!r} is not supported: {why}."], self.where)

    def get(self, key: str, default: Any = None) -> Any:
        """The value, or `default` where the key is missing or null."""
        value = self.tables.get(key)
        return default if value is None else value

    def integer(self, key: str, default: int | None = None) -> int:
        """A whole number; required where there is no default."""
        value = self._required(key, default)
        if not isinstance(value, int) or isinstance(value, bool):
            raise DocumentError([f"{key}: must be a whole number, not {value!r}."], self.where)
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A number; required where there is no default."""
        value = self._required(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise DocumentError([f"{key}: must be a number, not {value!r}."], self.where)
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise DocumentError([f"{key}: must be true or false, not {value!r}."], self.where)
        return value

    def list(self, key: str) -> list[Any]:
        """A list; empty where the key is missing or null."""
        value = self.get(key, [])
        if not isinstance(value, list):
            raise DocumentError([f"{key}: must be a list, not {value!r}."], self.where)
        return value

    def table(self, key: str) -> Mapping[str, Any]:
        """A table of keys; empty where the key is missing or null."""
        value = self.get(key, {})
        if not isinstance(value, Mapping):
            raise DocumentError([f"{key}: must be a table of keys, not {value!r}."], self.where)
        return value

    def must_be(self, key: str, wanted: Any, why: str) -> None:
        """Refuse any value of `key` but `wanted` (or none)."""
        if self.get(key, wanted) != wanted:
            self.refuse(key, why)

    def _required(self, key: str, default: Any) -> Any:
        value = self.get(key, default)
        if value is None:
            raise DocumentError([f"{key}: is required."], self.where)
        return value
