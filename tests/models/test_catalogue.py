"""Listed architectures: their configs count what their authors say."""

from __future__ import annotations

from pathlib import Path

import pytest

from grainline.documents import GrainlineError
from grainline.models.catalogue import ListedModel, config_of, models
from grainline.models.count import parameters

LISTED = models().models


@pytest.mark.parametrize("listed", LISTED, ids=lambda listed: listed.name)
def test_counts_are_the_published_ones(listed: ListedModel) -> None:
    """Reports round to two or three digits; some leave embeddings out of the active ones."""
    count = parameters(listed.config)
    table = count.embedding + count.head
    assert count.total == pytest.approx(listed.total, rel=0.02)
    assert count.active - table <= listed.active * 1.03
    assert listed.active <= count.active * 1.03


def test_names_are_distinct_and_forgiving() -> None:
    """Case and dashes don't matter; a hub id that is listed is not fetched."""
    names = [name for listed in LISTED for name in (listed.name, *listed.aliases)]
    assert len({name.lower() for name in names}) == len(names)
    assert config_of("ling 1t") == config_of("inclusionAI/Ling-1T") == models().get("Ling-1T").config


def test_unknown_names_are_told_the_nearest(tmp_path: Path) -> None:
    """Also where somebody has a file of that name in mind."""
    with pytest.raises(GrainlineError, match="Did you mean 'Kimi-K2'"):
        config_of("Kimi-K3")
    with pytest.raises(GrainlineError, match=r"no such file"):
        config_of(str(tmp_path / "none.toml"))
