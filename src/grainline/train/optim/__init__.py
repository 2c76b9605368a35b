"""Optimisers: Muon for stacks of matrices, AdamW for the rest."""

from typing import TYPE_CHECKING

from grainline._lazy import lazy_exports

if TYPE_CHECKING:
    from grainline.train.optim.groups import Groups, sort_parameters
    from grainline.train.optim.muon import Muon
    from grainline.train.optim.newton_schulz import orthogonalize
    from grainline.train.optim.optimizer import Optimizer

__all__ = ["Groups", "Muon", "Optimizer", "orthogonalize", "sort_parameters"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Groups": "groups",
        "Muon": "muon",
        "Optimizer": "optimizer",
        "orthogonalize": "newton_schulz",
        "sort_parameters": "groups",
    },
)
