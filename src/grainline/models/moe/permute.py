"""The same model with its experts in another order: router rows, weights, biases and carries together.

An engine that gives each rank a run of experts then has them as a placement wants, without knowing of it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from grainline.documents import GrainlineError, ModelConfig

EXPERTS = ("ffn.experts.w13_E2FD", "ffn.experts.w2_EDF")
BANK = ("w13_E2FD", "w2_EDF")
ROUTER = ("ffn.router.weight_ED", "ffn.router.bias_E", "ffn.router.residual_EE")


def permuted(config: ModelConfig, state: Mapping[str, Tensor], order: Mapping[int, Tensor]) -> dict[str, Tensor]:
    """A state dict of `Model`, its experts in a new order; the others' tensors are the same ones.

    order: int64 [E] by number of a sparse layer: which expert of today comes to each place. Layers that are left out
    stay as they are; those that share their experts have one order. Costless experts keep their places behind.
    Logits stay what they are. Raises GrainlineError for an order that isn't one, or that takes experts out of the
    groups which a router chooses among.
    """
    moe = config.moe
    if moe is None:
        raise GrainlineError("the model has no experts to bring into another order.")
    for layer, order_E in order.items():
        _check(config, layer, order_E, order)
    out = dict(state)
    before: Tensor | None = None  # order of what the layer before carries on
    for layer in config.sparse_layers:
        prefix = f"blocks.{layer}." if layer < config.layers else "mtp.block."
        whole_E = _with_costless(config, order.get(layer))
        for name in (prefix + part for part in ROUTER):
            if name in state and whole_E is not None:
                out[name] = out[name][whole_E.to(out[name].device)]
        residual = prefix + ROUTER[2]
        if residual in state and before is not None:  # its columns are logits of the layer before
            out[residual] = out[residual][:, before.to(out[residual].device)]
        if moe.router == "gating-residual":
            before = whole_E
        shares = moe.reuse > 1
        names = [f"banks.{layer}.{part}" for part in BANK] if shares else [prefix + part for part in EXPERTS]
        for name in names:
            if name in state and layer in order:  # a bank is named by its first layer
                out[name] = out[name][order[layer].to(out[name].device)]
    return out


def _with_costless(config: ModelConfig, order_E: Tensor | None) -> Tensor | None:
    assert config.moe is not None
    if order_E is None:
        return None
    return torch.cat((order_E, torch.arange(config.moe.pool, config.moe.choices)))


def _check(config: ModelConfig, layer: int, order_E: Tensor, order: Mapping[int, Tensor]) -> None:
    moe = config.moe
    assert moe is not None
    if not config.is_sparse(layer) or layer not in config.sparse_layers:
        raise GrainlineError(f"layer {layer} has no experts to bring into another order.")
    if order_E.shape != (moe.pool,) or not torch.equal(order_E.sort().values, torch.arange(moe.pool)):
        raise GrainlineError(f"the order of layer {layer}'s experts must name each of 0 to {moe.pool - 1} once.")
    for mate in config.expert_layers(layer):
        if mate not in order or not torch.equal(order[mate], order_E):
            raise GrainlineError(f"layers {layer} and {mate} share their experts, and must have them in one order.")
    if moe.groups > 1:
        group_Ge = (order_E // (moe.pool // moe.groups)).view(moe.groups, -1)
        if not torch.equal(group_Ge.amin(1), group_Ge.amax(1)):
            raise GrainlineError(
                f"the router of layer {layer} chooses among {moe.groups} groups of neighbouring experts, and this "
                "order takes experts out of theirs."
            )
