"""The optimiser of a whole model: Muon for its matrices, AdamW for the rest, one rate, one set of named tensors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from grainline.documents.recipe import Optimizer as OptimizerRecipe
from grainline.train.optim.groups import sort_parameters
from grainline.train.optim.muon import Muon

FUSED_ON = ("cpu", "cuda")


class Optimizer:
    """Steps every parameter of a model; its state is tensors by name, so that a checkpoint needs nothing else."""

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        recipe: OptimizerRecipe,
        *,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """`dtype` is that of Muon's matrix products; parameters and state are float32.

        State is allocated here, not at the first step, so that a checkpoint can be read into it.
        """
        self.parameters = dict(named_parameters)
        groups = sort_parameters(((n, tuple(p.shape)) for n, p in self.parameters.items()), recipe.kind)
        self._parts: list[torch.optim.Optimizer] = []
        if groups.matrices:
            self._parts.append(
                Muon(
                    [self.parameters[n] for n in groups.matrices],
                    lr=0.0,
                    weight_decay=recipe.weight_decay,
                    momentum=recipe.momentum,
                    steps=recipe.newton_schulz_steps,
                    dtype=dtype,
                )
            )
        adam_groups = [
            {"params": [self.parameters[n] for n in names], "weight_decay": decay, "factor": factor}
            for names, decay, factor in (
                (groups.tables, recipe.weight_decay, recipe.table_rate if recipe.kind == "muon" else 1.0),
                (groups.vectors, 0.0, 1.0),
            )
            if names
        ]
        if adam_groups:
            self._parts.append(_adamw(adam_groups, recipe))

    def step(self, lr: float) -> None:
        """One update at rate `lr`; a group's own `factor` multiplies it."""
        for part in self._parts:
            for group in part.param_groups:
                group["lr"] = lr * group.get("factor", 1.0)
            part.step()

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for part in self._parts:
            part.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        """The live state by ``slot.parameter_name``: momentum, exp_avg, exp_avg_sq; reading into these restores it."""
        names = {id(p): n for n, p in self.parameters.items()}
        return {
            f"{slot}.{names[id(parameter)]}": tensor
            for part in self._parts
            for parameter, state in part.state.items()
            for slot, tensor in state.items()
            if slot != "step"
        }

    def resume_at(self, steps_done: int) -> None:
        """Say how many steps the restored state has seen (AdamW's bias correction needs it)."""
        for part in self._parts:
            for state in part.state.values():
                if "step" in state:
                    state["step"].fill_(float(steps_done))


def _adamw(groups: list[dict[str, Any]], recipe: OptimizerRecipe) -> torch.optim.AdamW:
    parameters: list[Tensor] = [p for g in groups for p in g["params"]]
    fused = all(p.device.type in FUSED_ON for p in parameters)
    adamw = torch.optim.AdamW(groups, lr=0.0, betas=recipe.betas, eps=recipe.eps, fused=fused)
    for p in parameters:
        adamw.state[p] = {
            "step": torch.zeros((), dtype=torch.float32, device=p.device if fused else "cpu"),
            "exp_avg": torch.zeros_like(p, memory_format=torch.preserve_format),
            "exp_avg_sq": torch.zeros_like(p, memory_format=torch.preserve_format),
        }
    return adamw
