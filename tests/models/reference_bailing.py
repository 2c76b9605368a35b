"""BailingMoeV2 (Ling 2.0) written a second time, slowly and plainly, as the oracle for grainline's own blocks.

From the report (arXiv 2510.22115, section 2) and the published checkpoints' names and keys. It takes the tensors of a
folder as they are, in float64, works head by head and token by token, and shares no code with the library.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class ReferenceBailing:
    """`weights`: name → tensor, as in the folder. `config`: its config.json."""

    def __init__(self, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
        self.weights, self.config = weights, config

    def weight(self, name: str) -> Tensor:
        return self.weights[name].double()

    def logits(self, ids: list[int]) -> Tensor:
        """[S, V] for one sequence."""
        return torch.stack([self.head(h) for h in self.trunk(ids)])

    def mtp_logits(self, ids: list[int], next_ids: list[int]) -> Tensor:
        """[S, V]: what the extra layer predicts, given the token that follows each position."""
        layer = f"model.layers.{self.config['num_hidden_layers']}."
        joined = []
        for h, next_id in zip(self.trunk(ids), next_ids, strict=True):
            embedding = self.norm(self.weight("model.word_embeddings.weight")[next_id], layer + "enorm.weight")
            hidden = self.norm(h, layer + "hnorm.weight")
            joined.append(self.weight(layer + "eh_proj.weight") @ torch.cat([embedding, hidden]))
        out = self.layer(joined, layer, sparse=True)
        return torch.stack([self.head(self.norm(h, layer + "final_layernorm.weight")) for h in out])

    def trunk(self, ids: list[int]) -> list[Tensor]:
        stream = [self.weight("model.word_embeddings.weight")[i] for i in ids]
        for i in range(self.config["num_hidden_layers"]):
            sparse = bool(self.config["num_experts"]) and i >= self.config["first_k_dense_replace"]
            stream = self.layer(stream, f"model.layers.{i}.", sparse)
        return [self.norm(h, "model.norm.weight") for h in stream]

    def head(self, h: Tensor) -> Tensor:
        tied = self.config["tie_word_embeddings"]
        return self.weight("model.word_embeddings.weight" if tied else "lm_head.weight") @ h

    def norm(self, x: Tensor, name: str) -> Tensor:
        mean_square = sum(float(v) ** 2 for v in x) / len(x)
        return x / math.sqrt(mean_square + self.config["rms_norm_eps"]) * self.weight(name)

    def layer(self, stream: list[Tensor], name: str, sparse: bool) -> list[Tensor]:
        normed = [self.norm(h, name + "input_layernorm.weight") for h in stream]
        stream = [h + a for h, a in zip(stream, self.attention(normed, name + "attention."), strict=True)]
        out = []
        for h in stream:
            x = self.norm(h, name + "post_attention_layernorm.weight")
            out.append(h + (self.moe(x, name + "mlp.") if sparse else self.mlp(x, name + "mlp.")))
        return out

    def attention(self, xs: list[Tensor], name: str) -> list[Tensor]:
        c = self.config
        heads, kv_heads, dim = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        queries, keys, values = [], [], []
        for position, x in enumerate(xs):
            fused = self.weight(name + "query_key_value.weight") @ x
            if c["use_qkv_bias"]:
                fused = fused + self.weight(name + "query_key_value.bias")
            parts = [fused[n * dim : (n + 1) * dim] for n in range(heads + 2 * kv_heads)]
            q, k, v = parts[:heads], parts[heads : heads + kv_heads], parts[heads + kv_heads :]
            if c["use_qk_norm"]:
                q = [self.norm(part, name + "query_layernorm.weight") for part in q]
                k = [self.norm(part, name + "key_layernorm.weight") for part in k]
            queries.append([self.rotate(part, position) for part in q])
            keys.append([self.rotate(part, position) for part in k])
            values.append(v)
        out = []
        for i in range(len(xs)):
            mixed = []
            for n in range(heads):
                m = n * kv_heads // heads  # neighbouring query heads share a head of keys and values
                score = torch.stack([queries[i][n] @ keys[j][m] for j in range(i + 1)]) / math.sqrt(dim)
                share = score.softmax(0)
                mixed.append(sum((share[j] * values[j][m] for j in range(i + 1)), torch.zeros(dim).double()))
            y = self.weight(name + "dense.weight") @ torch.cat(mixed)
            out.append(y + self.weight(name + "dense.bias") if c["use_bias"] else y)
        return out

    def rotate(self, x: Tensor, position: int) -> Tensor:
        """Turn the first `partial_rotary_factor` of a head: dim i with dim i + half."""
        turning = int(len(x) * self.config["partial_rotary_factor"])
        half = turning // 2
        y = x.clone()
        for i in range(half):
            frequency, sharpen = self.frequency(i, turning)
            cos, sin = math.cos(position * frequency) * sharpen, math.sin(position * frequency) * sharpen
            y[i] = x[i] * cos - x[i + half] * sin
            y[i + half] = x[i + half] * cos + x[i] * sin
        return y

    def frequency(self, i: int, turning: int) -> tuple[float, float]:
        """Angle per position of pair i, and what cos and sin are multiplied by: plain, or YaRN (Peng et al. 2023)."""
        base, stretch = self.config["rope_theta"], self.config["rope_scaling"]
        plain = base ** (-2 * i / turning)
        if stretch is None:
            return plain, 1.0
        assert stretch["rope_type"] == "yarn"
        factor, original = stretch["factor"], stretch["original_max_position_embeddings"]

        def pair_with(turns: float) -> float:
            """The pair that makes so many turns over the original context."""
            return turning * math.log(original / (2 * math.pi * turns)) / (2 * math.log(base))

        first = max(math.floor(pair_with(stretch["beta_fast"])), 0)
        last = min(math.ceil(pair_with(stretch["beta_slow"])), turning - 1)
        slow = min(max((i - first) / (last - first), 0.0), 1.0)
        return plain / factor * slow + plain * (1 - slow), 0.1 * math.log(factor) + 1

    def moe(self, x: Tensor, name: str) -> Tensor:
        y = torch.zeros_like(x)
        for expert, weight in self.route(x, name + "gate."):
            y = y + weight * self.mlp(x, f"{name}experts.{expert}.")
        return y + self.mlp(x, name + "shared_experts.") if self.config["num_shared_experts"] else y

    def route(self, x: Tensor, name: str) -> list[tuple[int, float]]:
        """The chosen experts and their weights for one token."""
        c = self.config
        experts, groups, top_k = c["num_experts"], c["n_group"], c["num_experts_per_tok"]
        score = [1 / (1 + math.exp(-float(row @ x))) for row in self.weight(name + "weight")]
        choice = [s + float(b) for s, b in zip(score, self.weight(name + "expert_bias"), strict=True)]
        size = experts // groups
        members = [range(g * size, (g + 1) * size) for g in range(groups)]
        worth = [sum(sorted((choice[e] for e in group), reverse=True)[:2]) for group in members]
        best = sorted(range(groups), key=lambda g: -worth[g])[: c["topk_group"]]
        allowed = [e for g in best for e in members[g]]
        chosen = sorted(allowed, key=lambda e: -choice[e])[:top_k]
        total = sum(score[e] for e in chosen) + 1e-20 if top_k > 1 else 1.0
        return [(e, score[e] / total * c["routed_scaling_factor"]) for e in chosen]

    def mlp(self, x: Tensor, name: str) -> Tensor:
        gate, up = self.weight(name + "gate_proj.weight") @ x, self.weight(name + "up_proj.weight") @ x
        return self.weight(name + "down_proj.weight") @ (gate / (1 + torch.exp(-gate)) * up)
