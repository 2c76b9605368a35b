"""The fast expert layer in a model of transformers: in place, with the model's own parameters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grainline import kernels
from grainline.documents import GrainlineError

NAME = "grainline"
"""Of these experts among transformers' implementations; `config._experts_implementation` says it while they are in."""

SUPPORTED = (
    "Supported are models of transformers 5 whose experts are stacked (gate_up_proj [E, 2F, D], down_proj [E, D, F]), "
    "gated by SiLU, without biases, and whole on this device: Qwen2-, Qwen3-MoE and their kin, Mixtral, OLMoE, "
    "DeepSeek-V3, GLM-4-MoE, Ling (bailing_hybrid) and others."
)


@dataclass(frozen=True)
class Accelerated:
    """What `accelerate` replaced."""

    replaced: dict[str, str]
    """Experts by name: the class whose forward isn't used meanwhile."""
    _before: list[tuple[Any, str | None]] = field(repr=False)  # configs and the implementation that each named

    def undo(self) -> None:
        """Compute as before, with whatever the parameters are by now."""
        for config, implementation in self._before:
            config._experts_implementation = implementation


def accelerate(model: nn.Module) -> Accelerated:
    """Let a model of transformers compute its experts by op `expert_mixture`: same outputs and gradients, sooner.

    Parameters stay as they are, so training, saving and loading go on as before. Returns what was replaced, which can
    `undo` it. Raises GrainlineError, and changes nothing, where an expert layer is of a kind that isn't supported.
    """
    experts = _experts(model)
    for name, module in experts.items():
        if reason := _why_not(module):
            kind = type(module).__name__
            raise GrainlineError(f"accelerate: {type(model).__name__}: '{name}' ({kind}) {reason}. {SUPPORTED}")
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    ALL_EXPERTS_FUNCTIONS.register(NAME, experts_forward)
    configs = {id(module.config): module.config for module in experts.values()}.values()
    before = [(config, config._experts_implementation) for config in configs]
    for config in configs:
        config._experts_implementation = NAME
    return Accelerated({name: type(module).__name__ for name, module in experts.items()}, before)


def experts_forward(self: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """What transformers calls with experts as `self`: [T, D], experts' ids and their weights [T, K] → [T, D]."""
    experts, top_k = self.gate_up_proj.shape[0], top_k_index.shape[-1]
    device, dtype = hidden_states.device.type, hidden_states.dtype
    x_TD = hidden_states.flatten(0, -2)
    if torch.is_autocast_enabled(device):
        x_TD = x_TD.to(torch.get_autocast_dtype(device))
    expert_N = top_k_index.flatten()
    order_N = kernels.sort_by_expert(expert_N, experts)
    counts_E = expert_N.new_zeros(experts).scatter_add_(0, expert_N, torch.ones_like(expert_N))
    score_N, unit_N = top_k_weights.flatten()[order_N], order_N // top_k
    w13_E2FD = self.gate_up_proj.unflatten(1, (2, -1))
    out_TD = kernels.expert_mixture(x_TD, w13_E2FD, self.down_proj, score_N, unit_N, counts_E)
    return out_TD.to(dtype).view(hidden_states.shape)


def _experts(model: nn.Module) -> dict[str, Any]:
    """Modules whose forward transformers' table of implementations decides. Raises GrainlineError if there are none."""
    try:
        from transformers import PreTrainedModel
        from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS  # noqa: F401
    except ImportError as error:
        raise GrainlineError("accelerate needs transformers 5: pip install 'grainline[hf]'.") from error
    if not isinstance(model, PreTrainedModel):
        raise GrainlineError(
            f"accelerate: {type(model).__name__} is not a model of transformers. Models of grainline.load are computed "
            "this way already; of a wrapped model, give the model inside."
        )
    stacked = {name: module for name, module in model.named_modules() if _is_stacked(module)}
    found = {name: module for name, module in stacked.items() if hasattr(module, "has_gate")}
    if len(found) < len(stacked) or not found:
        name = next(
            (f"'{name}' ({type(module).__name__})" for name, module in stacked.items() if name not in found), ""
        )
        what = f"{name} computes its experts in a way of its own" if name else "it has no stacked experts"
        raise GrainlineError(f"accelerate: {type(model).__name__}: {what}. {SUPPORTED}")
    return found


def _is_stacked(module: nn.Module) -> bool:
    return any(name.endswith("_proj") and p.dim() == 3 for name, p in module.named_parameters(recurse=False))


def _why_not(module: Any) -> str | None:
    """What keeps experts from being computed by our op, or None."""
    if not module.has_gate:
        return "has no gate"
    if module.has_bias:
        return "has biases"
    if module.is_transposed or not getattr(module, "is_concatenated", True):
        return "stores its weights in another order"
    if getattr(module, "has_post_expert_norm", False):
        return "has a norm after each expert"
    gate_up, down = module.gate_up_proj, module.down_proj
    if getattr(module, "_is_expert_parallel", False) or any(hasattr(w, "device_mesh") for w in (gate_up, down)):
        return "is split over several ranks"
    if not all(w.dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16) for w in (gate_up, down)):
        return f"has weights in {str(gate_up.dtype).removeprefix('torch.')}"
    # Asked rather than read: names of activations are many, and some gates clamp.
    probe_NG = torch.linspace(-40, 40, 4 * 64, device=gate_up.device, dtype=torch.float32).view(4, 64).roll(7, 1)
    gate_NF, up_NF = probe_NG.chunk(2, dim=-1)
    with torch.no_grad():
        if not torch.allclose(module._apply_gate(probe_NG), F.silu(gate_NF) * up_NF, rtol=1e-4, atol=1e-4):
            return "has another gate than silu(gate) · up"
    return None
