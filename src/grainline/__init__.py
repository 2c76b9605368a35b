"""grainline plans, trains, measures and serves sparse language models on the hardware you actually have."""

from typing import TYPE_CHECKING

from grainline._lazy import lazy_exports

if TYPE_CHECKING:
    from grainline.documents import ModelConfig, Plan, Recipe
    from grainline.hardware.cluster import Cluster
    from grainline.models.accelerate import accelerate
    from grainline.models.loading import load
    from grainline.train.run import train
    from grainline.train.simulate import simulate

__version__ = "0.1.0"
__all__ = ["Cluster", "ModelConfig", "Plan", "Recipe", "accelerate", "load", "simulate", "train"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Cluster": "hardware.cluster",
        "ModelConfig": "documents",
        "Plan": "documents",
        "Recipe": "documents",
        "accelerate": "models.accelerate",
        "load": "models.loading",
        "simulate": "train.simulate",
        "train": "train.run",
    },
)
