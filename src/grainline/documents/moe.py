"""[moe]: the expert layer of a ModelConfig. Which experts there are, and how a router chooses among them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from grainline.documents.base import Part

RouterKind = Literal[
    "sigmoid-topk", "softmax-topk", "expert-choice", "token-rounding", "gating-residual", "depth-averaged"
]
ExpertKind = Literal["swiglu", "bottleneck"]
Rounding = Literal["nearest", "stochastic", "score", "balanced", "up", "down"]

NOT_CAUSAL: frozenset[RouterKind] = frozenset({"expert-choice", "token-rounding"})
"""Routers that look at later tokens: only in training; validation and generation take plain top-k."""

Feature = Literal["bottleneck", "costless", "reuse", "groups", "bias_balanced", "capacity"]

REFUSED: dict[tuple[RouterKind, Feature], str] = {
    ("expert-choice", "costless"): "an expert that chooses tokens would skip a fixed share of them, easy or not",
    ("expert-choice", "groups"): "the groups limit what a token chooses, and here experts do",
    ("expert-choice", "bias_balanced"): "its experts are evenly loaded by construction",
    ("expert-choice", "capacity"): "its experts take equally many tokens by construction",
    ("token-rounding", "costless"): "costless experts have no tiles to fill",
    ("token-rounding", "groups"): "rounding up would send tokens to groups that are closed to them",
    ("token-rounding", "capacity"): "rounded counts are a limit already",
    ("gating-residual", "groups"): "logits of the layer before are added to all experts, open or not",
    ("gating-residual", "reuse"): "logits of the layer before may belong to other experts than this layer's pool",
    ("depth-averaged", "groups"): "the published router has none",
    ("depth-averaged", "reuse"): "the published router chooses among its own layer's experts",
}
"""Router and feature that don't go together, and why; everything else does, and has a test."""


class Moe(Part):
    """The expert layer: routed experts, what stands beside them, and the router between them."""

    experts: PositiveInt
    top_k: PositiveInt
    expert_hidden: PositiveInt = Field(description="F of one routed expert")
    shared_experts: int = Field(0, ge=0)
    shared_hidden: PositiveInt | None = Field(None, description="F of one shared expert; default: expert_hidden")
    expert: ExpertKind = Field(
        "swiglu", description="bottleneck: tokens go to experts and come back in `latent` dims (BigMac, 2502.16927)"
    )
    latent: PositiveInt | None = Field(None, description="bottleneck: dims of a token on its way")
    zero: int = Field(0, ge=0, description="experts that give 0: a token that chooses one skips (MoE++, 2410.07348)")
    copy_experts: int = Field(0, ge=0, description="experts that give their input back (MoE++)")
    constant: int = Field(
        0,
        ge=0,
        description="experts that mix their input with a vector of their own (MoE++); "
        "auto: costless ones become a quarter of the others, with at least one constant",
    )
    tau: float = Field(0.75, gt=0, description="MoE++: weight of the costless experts in the balance loss")
    capacity: float | None = Field(
        None,
        gt=0,
        description="training: at most so many times its even share of choices per expert; default: no limit",
    )
    reuse: PositiveInt = Field(1, description="so many adjacent sparse layers share their experts (ReXMoE, 2510.17483)")
    router: RouterKind = Field(
        "sigmoid-topk", description="how scores are made and units choose; see the table in models/moe/routers.py"
    )
    router_hidden: PositiveInt | None = Field(None, description="depth-averaged: width of the router's own stream")
    bias_balanced: bool = Field(False, description="a selection bias per expert, stepped towards even load")
    groups: PositiveInt = Field(1, description="experts are split into so many contiguous groups …")
    top_groups: PositiveInt = Field(1, description="… of which only the best so many are open to a token")
    normalize: bool = Field(True, description="scores of the chosen experts sum to 1 before scaling")
    scale: float = Field(1.0, gt=0, description="routed_scaling_factor")
    tile: PositiveInt = Field(128, description="token-rounding: counts per expert become multiples of it (SonicMoE)")
    rounding: Rounding = Field("nearest", description="token-rounding: which multiple")
    dense_layers: tuple[int, ...] = Field((), description="layers (from 0) that have a dense FFN instead")

    @model_validator(mode="before")
    @classmethod
    def _count_constants(cls, tables: Any) -> Any:
        """The paper's rule (MoE++, section 3.1): max(N/4 − zero − copies, 1)."""
        if not isinstance(tables, Mapping) or tables.get("constant") != "auto":
            return tables
        experts, reuse = tables.get("experts"), tables.get("reuse", 1)
        zero, copies = tables.get("zero", 0), tables.get("copy_experts", 0)
        if not all(isinstance(count, int) for count in (experts, reuse, zero, copies)):
            return tables  # their own errors are told
        return {**tables, "constant": max(experts * reuse // 4 - zero - copies, 1)}

    @model_validator(mode="after")
    def _choice_is_possible(self) -> Self:
        if self.top_k > self.pool:
            raise ValueError(f"top_k {self.top_k} is more than the {self.pool} experts")
        if self.tau != type(self).model_fields["tau"].default and not self.costless:
            raise ValueError("tau weighs zero, copy_experts and constant experts, and there are none")
        if self.experts % self.groups:
            raise ValueError(f"experts {self.experts} must be a multiple of groups {self.groups}")
        per_group = self.experts // self.groups
        if self.top_groups > self.groups:
            raise ValueError(f"top_groups {self.top_groups} is more than the {self.groups} groups")
        if self.groups > 1 and per_group < 2:
            raise ValueError("a group's score is the sum of its two best experts, so it needs at least two")
        if self.top_groups * per_group < self.top_k and self.groups > 1:
            raise ValueError(f"{self.top_groups} groups of {per_group} experts can't give top_k {self.top_k}")
        for feature in self.features:
            reason = REFUSED.get((self.router, feature))
            if reason:
                raise ValueError(f"router '{self.router}' doesn't go with {feature}: {reason}")
        if (self.router == "depth-averaged") != (self.router_hidden is not None):
            raise ValueError("router 'depth-averaged' and router_hidden, the width of its stream, go together")
        if self.expert == "bottleneck" and self.latent is None:
            raise ValueError("expert 'bottleneck' also needs latent, the dims of a token on its way")
        if self.expert != "bottleneck" and self.latent is not None:
            raise ValueError(f"latent goes with expert 'bottleneck', not '{self.expert}'")
        return self

    @property
    def features(self) -> tuple[Feature, ...]:
        """What this layer has beyond the plain one."""
        has: dict[Feature, bool] = {
            "bottleneck": self.expert == "bottleneck",
            "costless": self.costless > 0,
            "reuse": self.reuse > 1,
            "groups": self.groups > 1,
            "bias_balanced": self.bias_balanced,
            "capacity": self.capacity is not None,
        }
        return tuple(feature for feature, there in has.items() if there)

    @property
    def costless(self) -> int:
        """Experts without a product: zero, copy and constant ones, whose ids follow those of the others."""
        return self.zero + self.copy_experts + self.constant

    @property
    def pool(self) -> int:
        """Experts with weights that a router chooses among: its own layer's, and those of layers it shares with."""
        return self.experts * self.reuse

    @property
    def choices(self) -> int:
        """All that a router chooses among."""
        return self.pool + self.costless

    @property
    def ffn_share(self) -> float:
        """s, the share of choices that fall on experts with weights once loads are as `tau` has them.

        The balance loss Σ η·f·P is least where loads go as 1/η, η = 1 for experts with weights and τ for costless ones
        (MoE++, section 3.3): s = τ·N / (τ·N + costless). FFNs of a token are top_k · s.
        """
        if self.router == "depth-averaged":
            return 1.0  # its bias makes skipping the exception, and published counts have one expert for each token
        return self.tau * self.pool / (self.tau * self.pool + self.costless)

    @property
    def carry_width(self) -> int:
        """Values of a token that a router leaves to the next layer's, in float32."""
        return {"gating-residual": self.choices, "depth-averaged": self.router_hidden or 0}.get(self.router, 0)

    @property
    def shared_width(self) -> int:
        """F of all shared experts together: they are computed as one FFN."""
        return self.shared_experts * (self.shared_hidden or self.expert_hidden)
