"""Learning: the loop, optimisers, checkpoints, and what a run will take before it starts.

`grainline.train` is this room and, as `grainline.train(recipe, …)`, the function that is the library's front door.
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from grainline._lazy import lazy_exports

if TYPE_CHECKING:
    from grainline.train.forecast import DryRun, dry_run
    from grainline.train.guard import TrainingDiverged
    from grainline.train.metrics import read_metrics
    from grainline.train.result import TrainResult
    from grainline.train.run import train
    from grainline.train.signals import TrainingInterrupted

__all__ = ["DryRun", "TrainResult", "TrainingDiverged", "TrainingInterrupted", "dry_run", "read_metrics", "train"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "DryRun": "forecast",
        "TrainResult": "result",
        "TrainingDiverged": "guard",
        "TrainingInterrupted": "signals",
        "dry_run": "forecast",
        "read_metrics": "metrics",
        "train": "run",
    },
)


class _Room(ModuleType):
    """Python binds an imported submodule to its package, over any lazy name; so the submodule answers calls itself."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        from grainline.train.run import train

        return train(*args, **options)


sys.modules[__name__].__class__ = _Room
