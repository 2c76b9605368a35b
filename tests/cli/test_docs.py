"""The documentation says what is so: every file it names exists, and its tables come from the code."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from grainline.cli import VERBS
from grainline.documents import Cluster, Document, ModelConfig, Plan, Recipe

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md"))]


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    """The script that mkdocs calls."""
    spec = importlib.util.spec_from_file_location("reference", ROOT / "scripts" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    rooms = "|".join(path.name for path in (ROOT / "src" / "grainline").iterdir() if path.is_dir())
    named = re.findall(rf"`((?:(?:{rooms}|src|tests|benchmarks|scripts)/)[\w./]*(?:\.py|/))`", page.read_text())
    missing = [name for name in named if not ((ROOT / name).exists() or (ROOT / "src" / "grainline" / name).exists())]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_page_that_a_page_links_to_exists(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("document", [Recipe, Plan, ModelConfig, Cluster])
def test_the_tables_of_a_document_name_every_key(reference: ModuleType, document: type[Document]) -> None:
    page = reference.on_page_markdown((ROOT / "docs" / "documents.md").read_text())
    table = reference.fields(document)
    assert table in page
    for key, field in document.model_fields.items():
        assert f"| `{key}` |" in table
        required = next(line for line in table.splitlines() if line.startswith(f"| `{key}` |"))
        assert ("**required**" in required) == field.is_required()


def test_bounds_are_told(reference: ModuleType) -> None:
    table = reference.fields(Recipe)
    assert "| `sequence_length` | whole number ≥ 8 | `256` |" in table
    assert "| `decay_fraction` | number > 0, ≤ 1 | `0.3` |" in table
    assert "| `bytes_per_second` | number > 0 |" in reference.fields(Cluster)


def test_the_verbs_of_the_command_line(reference: ModuleType) -> None:
    page = reference.verbs()
    for group in VERBS.values():
        for name in group:
            assert f"### grainline {name}\n" in page
    assert "| `--folder FOLDER` | `.` |" in page


def test_the_site_builds_and_fetches_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for page in tmp_path.rglob("*.html"):
        fetched = re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=[\"']?(https?://[^\"' >]+)", page.read_text())
        assert fetched == [], page.name
