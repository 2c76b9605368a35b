"""Timeline: figures, and a file that gives back what was saved."""

import json
from pathlib import Path

import numpy as np
import pytest

from grainline.documents import GrainlineError
from grainline.schedule import Network, Timeline, add_messages, equal_costs, gpipe, lower, simulate


def example() -> Timeline:
    costs = equal_costs(1 / 3, 0.7, output_bytes=5.0, kept_bytes=7.0)
    graph = lower(add_messages(gpipe(3, 4)), costs, Network.uniform(3, 0.1, 50.0), capacity_bytes={1: 1e3})
    return simulate(graph, "example")


def test_a_saved_timeline_comes_back_as_it_was(tmp_path: Path) -> None:
    path, saved = tmp_path / "folder" / "timeline.json", example()
    saved.save(path)
    found = Timeline.load(path)
    for key in ("name", "how", "ranks", "streams", "actions", "link_bytes"):
        assert getattr(found, key) == getattr(saved, key)
    for key in ("rank", "stream", "start", "end"):
        assert getattr(found, key).dtype == getattr(saved, key).dtype
        np.testing.assert_array_equal(getattr(found, key), getattr(saved, key))
    for one, other in zip(found.memory, saved.memory, strict=True):
        assert (one.tier, one.capacity_bytes) == (other.tier, other.capacity_bytes)
        np.testing.assert_array_equal(one.seconds, other.seconds)
        np.testing.assert_array_equal(one.bytes, other.bytes)
    assert [p.name for p in path.parent.iterdir()] == ["timeline.json"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema_version": 1}', "\xff"])
def test_what_is_no_timeline_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(GrainlineError, match=r"x\.json: no timeline .* Name a file that a timeline was saved to"):
        Timeline.load(path)


def test_other_versions_and_missing_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    example().save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 2}))
    with pytest.raises(GrainlineError, match="a timeline of version 2, not 1"):
        Timeline.load(path)
    with pytest.raises(GrainlineError, match=r"y\.json: No such file"):
        Timeline.load(tmp_path / "y.json")
