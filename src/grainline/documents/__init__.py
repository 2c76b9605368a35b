"""The words of grainline: four documents, their reading, writing and errors. No torch here."""

from grainline.documents.base import Document, Part, make_folder, override, read_tables, write_atomically
from grainline.documents.cluster import Cluster
from grainline.documents.errors import AlreadyTold, DocumentError, GrainlineError, nearest
from grainline.documents.model_config import Attention, ModelConfig, Rope
from grainline.documents.moe import Moe
from grainline.documents.plan import Plan
from grainline.documents.recipe import Recipe

__all__ = [
    "AlreadyTold",
    "Attention",
    "Cluster",
    "Document",
    "DocumentError",
    "GrainlineError",
    "ModelConfig",
    "Moe",
    "Part",
    "Plan",
    "Recipe",
    "Rope",
    "make_folder",
    "nearest",
    "override",
    "read_tables",
    "write_atomically",
]
