"""When to stop rather than go on learning from something broken, with the batch kept for inspection."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from grainline.documents import GrainlineError
from grainline.documents.recipe import Guard as GuardRecipe

if TYPE_CHECKING:
    from torch import Tensor

WINDOW = 64
"""Losses that the running median is taken over."""


class TrainingDiverged(GrainlineError):
    """The loss is no number any more, or far above where it was."""


@dataclass(frozen=True)
class Trouble:
    """What is wrong with a step, in words."""

    what: str
    median_loss: float | None


class Guard:
    """Watches the loss of each step. Its memory is plain numbers, so that a resumed run judges alike."""

    def __init__(self, recipe: GuardRecipe, losses: Sequence[float] = (), spiking: int = 0) -> None:
        self.recipe = recipe
        self.losses: deque[float] = deque(losses, maxlen=WINDOW)
        self.spiking = spiking

    def check(self, loss: float, grad_norm: float, routers: Mapping[str, float] | None = None) -> Trouble | None:
        """Call with every step, before its update. NaN and infinity stop at once, a spike after some steps on end.

        routers: each one's entropy, in the model's order; no number where its logits, or what it was given, are none.
        """
        usual = median(self.losses) if self.losses else None
        for name, entropy in (routers or {}).items():
            if not math.isfinite(entropy):
                return Trouble(f"the logits of the router of {name} are no numbers (and the loss is {loss:.4g})", usual)
        for name, value in (("loss", loss), ("gradient norm", grad_norm)):
            if not math.isfinite(value):
                return Trouble(f"the {name} is {value}", usual)
        if usual is not None and loss > self.recipe.spike_factor * usual:
            self.spiking += 1
            if self.spiking >= self.recipe.spike_patience:
                return Trouble(
                    f"the loss {loss:.4g} has been more than {self.recipe.spike_factor:g} times its running median "
                    f"{usual:.4g} for {self.spiking} steps",
                    usual,
                )
            return None  # a spike doesn't move the median it is measured by
        self.spiking = 0
        self.losses.append(loss)
        return None

    def memory(self) -> dict[str, Any]:
        """For the checkpoint's state; the constructor takes it back."""
        return {"losses": list(self.losses), "spiking": self.spiking}


def keep_batch(folder: Path, rank: int, step: int, ids_BS1: Tensor, facts: dict[str, Any]) -> Path:
    """Save a rank's share of the batch (safetensors) and the facts (JSON); returns the batch's path."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:08}-rank-{rank}.safetensors"
    save_file({"ids_BS1": ids_BS1.cpu().contiguous()}, path)
    path.with_suffix(".json").write_text(json.dumps({"step": step, **facts}, indent=1) + "\n", encoding="utf-8")
    return path
