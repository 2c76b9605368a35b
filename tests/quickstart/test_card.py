"""The model card: front matter that the hub reads, figures that are the files', text that stays text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from grainline.documents import GrainlineError
from grainline.quickstart.card import model_card

from .run_folder import BUILTIN, make, write


def front_matter(card: str) -> dict:
    start, matter, _ = card.split("---\n", 2)
    assert start == ""
    return yaml.safe_load(matter)


def rows_of(card: str, heading: str) -> list[list[str]]:
    """Cells of the first table below a heading."""
    lines = card[card.index(heading) :].splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("|"))
    table = []
    for line in lines[first:]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split("|")])
    return [table[0], *table[2:]]


def test_front_matter_names_languages_licence_and_library(tmp_path: Path) -> None:
    matter = front_matter(model_card(make(tmp_path)))
    assert matter["language"] == [part for part in BUILTIN if part != "code"]
    assert matter["license"] == "other"
    assert matter["license_name"]
    assert matter["library_name"] == "grainline"
    assert "mixture-of-experts" in matter["tags"]


def test_the_hubs_own_reader_takes_it(tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    card = hub.ModelCard(model_card(make(tmp_path)))
    assert card.data.library_name == "grainline"
    assert card.data.pipeline_tag == "text-generation"


def test_of_somebodys_own_text_neither_language_nor_licence_is_claimed(tmp_path: Path) -> None:
    card = model_card(make(tmp_path, parts=("en", "notes"), text=("mail/",), licences=None))
    matter = front_matter(card)
    assert "language" not in matter
    assert matter["license"] == "unknown"
    assert "can't know the licence" in card
    assert "Provenance" not in card


def test_figures_are_the_files(tmp_path: Path) -> None:
    folder = make(tmp_path / "pebble")
    card = model_card(folder)
    evaluation = json.loads((folder / "evaluation.json").read_text())
    facts = json.loads((folder / "quickstart.json").read_text())
    rows = rows_of(card, "## How good it is")
    assert rows[0][1:] == list(evaluation["labels"].values())
    for row, part in zip(rows[1:], [*BUILTIN, "total"], strict=True):
        values = [evaluation["bits_per_byte"][model][part] for model in evaluation["labels"]]
        assert row[1:] == [f"**{v:.3f}**" if v == min(values) else f"{v:.3f}" for v in values]
    assert rows_of(card, "## What it is")[1] == ["all parameters", f"{facts['models']['sparse']['total']:,}"]
    assert card.count("\n# ") == 1
    assert "\n# pebble\n" in card
    assert facts["licences"].split("\n")[-1] in card


def test_a_name_can_be_given(tmp_path: Path) -> None:
    assert "\n# my model\n" in model_card(make(tmp_path), "my model")


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    part = "a|b\n# c<script>\x1b`**"
    folder = make(tmp_path, parts=(part, "d"), text=("<b>x</b>",), licences=None)
    evaluation = json.loads((folder / "evaluation.json").read_text())
    evaluation["labels"]["xz"] = "[x](y)"
    write(folder / "evaluation.json", evaluation)
    card = model_card(folder)
    assert "<script>" not in card.replace("\\<script\\>", "")
    assert "\\<b\\>x\\</b\\>" in card
    assert "\\[x\\](y)" in card
    assert "a\\|b \\# c\\<script\\>␛\\`\\*\\*" in card
    assert card.count("\n# ") == 1


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    folder = make(tmp_path)
    (folder / "evaluation.json").unlink()
    with pytest.raises(GrainlineError, match=r"evaluation\.json"):
        model_card(folder)


def test_settings_and_the_layout_they_lead_to_are_told(tmp_path: Path) -> None:
    folder = make(tmp_path)
    facts = json.loads((folder / "quickstart.json").read_text())
    facts["options"]["set"] = ["moe.router=expert-choice"]
    (folder / "quickstart.json").write_text(json.dumps(facts))
    (folder / "model" / "config.json").write_text(json.dumps({"model_type": "grainline"}))
    card = model_card(folder)
    assert "Changed by `moe.router=expert-choice`. The weights are in Hugging Face layout (`grainline`)." in card
    assert "\n- grainline\n" in card
    assert "Changed by" not in model_card(make(tmp_path / "plain"))
