"""Public architectures by name, so that one can plan for a model without having it. The data is in catalogue.toml."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from grainline.documents import Document, GrainlineError, ModelConfig, Part, nearest
from grainline.documents.cluster import Positive
from grainline.hardware.catalogue import plain


class ListedModel(Part):
    """An architecture, and what its authors say of its size."""

    name: str
    aliases: tuple[str, ...] = Field((), description="hub ids and other names")
    reference: str
    total: Positive = Field(description="published parameters")
    active: Positive = Field(description="published parameters that a token uses")
    note: str = Field("", description="what the config can't say of it")
    config: ModelConfig


class Models(Document):
    """All that are listed. Names are met whatever their case, spaces, dashes and dots."""

    kind: ClassVar[str] = "model catalogue"

    models: tuple[ListedModel, ...]

    def find(self, name: str) -> ListedModel | None:
        """The model of that name or alias, if there is one."""
        return self._named.get(plain(name))

    def get(self, name: str) -> ListedModel:
        """The same; raises GrainlineError with the nearest where there is none."""
        found = self.find(name)
        if found is None:
            raise GrainlineError(
                f"{name}: not a file, a folder, a hub id of the form ORG/NAME, or a listed model."
                f"{nearest(name, [model.name for model in self.models])} grainline plan models lists them."
            )
        return found

    @functools.cached_property
    def _named(self) -> dict[str, ListedModel]:
        return {plain(name): model for model in self.models for name in (model.name, *model.aliases)}


@functools.cache
def models() -> Models:
    """The catalogue, read once."""
    return Models.load(Path(__file__).with_name("catalogue.toml"))


def config_of(model: str) -> ModelConfig:
    """A model's sizes: of a config file (.toml, .json), a listed name, a folder, or a hub id, looked for in this order.

    Nothing is downloaded for a listed model. Raises GrainlineError where nothing is found.
    """
    if Path(model).suffix in (".toml", ".json") and Path(model).name != "config.json":
        return ModelConfig.load(model)
    if Path(model).name == "config.json" and Path(model).is_file():
        model = str(Path(model).parent)
    if Path(model).expanduser().exists():
        from grainline.models.locate import load_config

        return load_config(model)
    listed = models().find(model)
    if listed is not None:
        return listed.config
    if "/" not in model:
        return models().get(model).config
    from grainline.models.locate import load_config

    return load_config(model)
