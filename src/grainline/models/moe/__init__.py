"""Expert layers: the `Router`, `ExpertGroup` and `Dispatcher` seams and their members."""

from grainline.models.moe.balance import imbalance, step_bias
from grainline.models.moe.layer import MoeLayer
from grainline.models.moe.seams import Dispatched, Dispatcher, ExpertGroup, Router, RouterReport, Routing

__all__ = [
    "Dispatched",
    "Dispatcher",
    "ExpertGroup",
    "MoeLayer",
    "Router",
    "RouterReport",
    "Routing",
    "imbalance",
    "step_bias",
]
