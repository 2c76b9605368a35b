"""Expert layers: the `Router`, `ExpertGroup` and `Dispatcher` seams and their members."""

from grainline.models.moe.balance import costless_share, imbalance, step_bias
from grainline.models.moe.layer import MoeLayer, build_experts
from grainline.models.moe.seams import (
    AT_REST,
    Dispatcher,
    ExpertGroup,
    Moment,
    Routed,
    Router,
    RouterReport,
    Routing,
)

__all__ = [
    "AT_REST",
    "Dispatcher",
    "ExpertGroup",
    "MoeLayer",
    "Moment",
    "Routed",
    "Router",
    "RouterReport",
    "Routing",
    "build_experts",
    "costless_share",
    "imbalance",
    "step_bias",
]
