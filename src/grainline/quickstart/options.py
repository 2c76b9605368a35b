"""What a person may choose, and where everything of one quickstart lies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grainline.documents import GrainlineError
from grainline.train.corpus import PACKED

LEAST_MINUTES, MOST_MINUTES = 0.1, 100_000.0
"""The least is less than the command line takes: an exhibit's quick run is a whole quickstart in half a minute."""


@dataclass(frozen=True)
class Options:
    """The quickstart's few dials."""

    minutes: float = 5.0
    depth: int | None = None  # default: by the time there is
    text: tuple[str, ...] = ("builtin",)
    seed: int = 0
    set: tuple[str, ...] = ()  # keys of the sparse model's config, as in "moe.router=expert-choice"

    def __post_init__(self) -> None:
        if not LEAST_MINUTES <= self.minutes <= MOST_MINUTES:  # nan is neither
            bounds = f"{LEAST_MINUTES:g} and {MOST_MINUTES:,.0f}"
            raise GrainlineError(f"--minutes {self.minutes:g}: must be a number of minutes between {bounds}.")
        if self.depth is not None and not 1 <= self.depth <= 64:
            raise GrainlineError(f"--depth {self.depth}: must be between 1 and 64 layers.")
        if self.seed < 0:
            raise GrainlineError(f"--seed {self.seed}: must be 0 or more.")
        if not self.text:
            raise GrainlineError("--text: name at least one file, folder or glob, or leave it out.")

    def tables(self) -> dict[str, Any]:
        """Plain values, as kept in quickstart.json."""
        said = {"minutes": self.minutes, "depth": self.depth, "text": list(self.text), "seed": self.seed}
        return said | ({"set": list(self.set)} if self.set else {})


@dataclass(frozen=True)
class QuickstartFolder:
    """Every path of a quickstart has its name here; the sparse model's run is the folder itself."""

    out: Path

    @property
    def facts(self) -> Path:
        """What was chosen, looked at and decided; grows stage by stage."""
        return self.out / "quickstart.json"

    @property
    def data(self) -> Path:
        """What both training runs read."""
        return self.out / "data"

    @property
    def packed(self) -> Path:
        """Where in `data` the training runs look for the packed text."""
        return self.data / PACKED

    @property
    def tokenizer(self) -> Path:
        """The tokenizer that was trained."""
        return self.out / "tokenizer"

    @property
    def model(self) -> Path:
        """The trained sparse model, a Hugging Face folder."""
        return self.out / "model"

    @property
    def dense(self) -> Path:
        """The run of the dense baseline."""
        return self.out / "baselines" / "dense"

    @property
    def evaluation(self) -> Path:
        """Bits per byte of the models and baselines by part."""
        return self.out / "evaluation.json"

    @property
    def samples(self) -> Path:
        """What the model wrote."""
        return self.out / "samples.json"

    @property
    def report(self) -> Path:
        """The page that shows all of it."""
        return self.out / "report.html"
