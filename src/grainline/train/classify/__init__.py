"""Classifiers: an encoder and a head that learn a label, or a number, for each text; they stop and resume any time."""

from typing import TYPE_CHECKING

from grainline._lazy import lazy_exports

if TYPE_CHECKING:
    from grainline.train.classify.evaluate import Scores
    from grainline.train.classify.predict import Trained
    from grainline.train.classify.run import classify

__all__ = ["Scores", "Trained", "classify"]

__getattr__, __dir__ = lazy_exports(__name__, {"Scores": "evaluate", "Trained": "predict", "classify": "run"})
