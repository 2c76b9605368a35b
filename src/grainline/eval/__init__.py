"""How good a model is: bits per byte of any text, and likelihood tasks, on a model in memory or behind an endpoint."""

from typing import TYPE_CHECKING

from grainline._lazy import lazy_exports

if TYPE_CHECKING:
    from grainline.eval.bits_per_byte import score_documents
    from grainline.eval.endpoint import EndpointScorer
    from grainline.eval.likelihood import Likelihood, Query, Scorer
    from grainline.eval.model_scorer import ModelScorer
    from grainline.eval.scores import PartScore, Scores

__all__ = [
    "EndpointScorer",
    "Likelihood",
    "ModelScorer",
    "PartScore",
    "Query",
    "Scorer",
    "Scores",
    "score_documents",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "EndpointScorer": "endpoint",
        "Likelihood": "likelihood",
        "ModelScorer": "model_scorer",
        "PartScore": "scores",
        "Query": "likelihood",
        "Scorer": "likelihood",
        "Scores": "scores",
        "score_documents": "bits_per_byte",
    },
)
