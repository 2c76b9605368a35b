"""The page on schedules: its table and picture come from the code, and its examples run."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

from grainline.schedule import SCHEDULES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "schedules.md").read_text()


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("schedules_hook", ROOT / "scripts" / "schedules.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_table_and_picture_are_computed(hook: ModuleType) -> None:
    made = hook.on_page_markdown(PAGE)
    assert "<!--" not in made
    rows = {
        name: next(line for line in made.splitlines() if line.startswith(f"| `{name}` |")).split(" | ")
        for name in SCHEDULES
    }
    assert rows["gpipe"][1:5] == ["1", "21.9%", "32", "14"]
    assert rows["1f1b"][1:5] == ["1", "21.9%", "8", "14"]
    assert rows["interleaved"][1:5] == ["2", "10.9%", "11.5", "30"]
    assert rows["zb-v"][3:5] == ["8", "28"]  # the V's turn is within a rank
    svg = made[made.index("<svg") : made.index("</svg>") + 6]
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert "<div" in made[: made.index("<svg")]  # outside of a block Markdown would cut it in pieces
    assert "\n\n" not in svg


def test_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL):
        exec(code, names)
    assert (tmp_path / "zb-v.svg").exists()
    assert "% of the ranks' time is idle" in capsys.readouterr().out


def test_every_schedule_is_on_the_page() -> None:
    advised = PAGE[PAGE.index("## Which to take") :]
    assert [name for name in SCHEDULES if f"`{name}`" not in advised] == []
