"""What is computed: blocks, expert layers, generation, and the formats that models come and go in.

The names import torch on first use; `count` and `dial` never do. `build` and `generate` are in modules of their names.
"""

from typing import TYPE_CHECKING

from grainline._lazy import lazy_exports

if TYPE_CHECKING:
    from grainline.models.generate import GeneratedToken, Sampling
    from grainline.models.loading import load
    from grainline.models.loss import LossSums, loss_sums
    from grainline.models.model import Model

__all__ = ["GeneratedToken", "LossSums", "Model", "Sampling", "load", "loss_sums"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "GeneratedToken": "generate",
        "LossSums": "loss",
        "Model": "model",
        "Sampling": "generate",
        "load": "loading",
        "loss_sums": "loss",
    },
)
