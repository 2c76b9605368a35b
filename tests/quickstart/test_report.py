"""report.html: its figures are the files', it fetches nothing, and nobody's text can break out of it."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from rich.console import Console

from grainline.documents import GrainlineError
from grainline.quickstart.plot import DARK, LIGHT, stylesheet
from grainline.quickstart.report import render, summary

from .reading import Element, parse, table_rows
from .run_folder import BUILTIN, make, write

HOSTILE = (
    "<script>alert(1)</script></pre></style>\"'><img src=x onerror=alert(2)>{{ 7*7 }}\x00\x1b[31m\ud800\u202e&amp;"
)
SHOWN = "<script>alert(1)</script></pre></style>\"'><img src=x onerror=alert(2)>{{ 7*7 }}␀␛[31m\ufffd\u202e&amp;"


def page(folder: Path) -> Element:
    return parse(render(folder).read_text(encoding="utf-8"))


def by_id(tree: Element, name: str) -> Element:
    return next(e for e in tree.all() if e.attributes.get("id") == name)


def svgs(folder: Path) -> list[str]:
    return re.findall(r"<svg class=.*?</svg>(?=</div>|<figcaption| |\n)", render(folder).read_text(encoding="utf-8"))


def test_the_table_is_the_evaluation_and_bolds_the_best_of_each_row(tmp_path: Path) -> None:
    folder = make(tmp_path)
    evaluation = json.loads((folder / "evaluation.json").read_text())
    rows = table_rows(by_id(page(folder), "bits-per-byte"))
    models = ["sparse", "dense", "n-gram", "xz"]
    assert rows[0] == ["part", "bytes", *(evaluation["labels"][m] for m in models)]
    assert len(rows) == 1 + len(BUILTIN) + 1
    for row, part in zip(rows[1:], [*BUILTIN, "total"], strict=True):
        values = [evaluation["bits_per_byte"][m][part] for m in models]
        expected = [f"{v:.3f}" + ("*" if v == min(values) else "") for v in values]
        size = sum(evaluation["bytes"].values()) if part == "total" else evaluation["bytes"][part]
        assert row[1:] == [f"{size:,}", *expected]


def test_routers_are_told_beside_their_loads(tmp_path: Path) -> None:
    tree = page(make(tmp_path, sparse_layers=4, experts=32, steps=100))
    rows = table_rows(by_id(tree, "routers"))
    assert rows[0] == ["router", "busiest expert", "undecided"]
    assert [row[0] for row in rows[1:]] == ["layer 2 of 4", "layer 3 of 4", "layer 4 of 4", "MTP layer"]
    for _, busiest, undecided in rows[1:]:
        assert 1 < float(busiest.removesuffix(" × even")) < 32
        assert 0 < float(undecided.removesuffix(" %")) < 100
    assert "The balance loss, before its coefficient, is\n1.0" in by_id(tree, "about-routers").text


def test_headline_figures_are_the_totals(tmp_path: Path) -> None:
    folder = make(tmp_path)
    totals = {m: v["total"] for m, v in json.loads((folder / "evaluation.json").read_text())["bits_per_byte"].items()}
    tree = page(folder)
    assert [e.text for e in tree.all("div", "number")] == [f"{v:.3f}" for v in totals.values()]
    assert len(tree.all("div", "best")) == 1
    heading = tree.all("h1")[0].text
    for model in ("dense", "n-gram", "xz"):
        share = (1 - totals["sparse"] / totals[model]) * 100
        assert f"{share:.1f}\u00a0%" in heading if share < 9.95 else f"{share:.0f}\u00a0%" in heading


def test_sizes_time_machine_and_text_are_the_files(tmp_path: Path) -> None:
    folder = make(tmp_path)
    facts = json.loads((folder / "quickstart.json").read_text())
    tree = page(folder)
    tables = [table_rows(table) for table in tree.all("table")]
    sizes = next(t for t in tables if t[0] == ["", "sparse model", "dense model"])
    assert sizes[1] == ["all parameters", *(f"{facts['models'][m]['total']:,}" for m in ("sparse", "dense"))]
    assert sizes[2] == ["used for one token", *(f"{facts['models'][m]['active']:,}" for m in ("sparse", "dense"))]
    corpus = next(t for t in tables if t[0] == ["part", "to learn from", "held out"])
    first = {r["split"]: r for r in facts["corpus"] if r["part"] == "en"}
    assert corpus[1][0] == "English"
    assert corpus[1][1].startswith(f"{first['train']['documents']:,} documents, {first['train']['bytes'] / 1e6:.2f} MB")
    assert corpus[1][2].startswith(f"{first['valid']['documents']:,} documents, ")
    text = tree.text
    assert facts["machine"]["cpu"] in text
    assert "0.13 TFLOP/s in float32 and 0.91 TFLOP/s in bfloat16" in text
    assert "somebody" not in text  # a path says more about its owner than about the machine
    for stage in facts["timings"]:
        assert stage["stage"] in text


def test_recipe_and_config_are_verbatim(tmp_path: Path) -> None:
    folder = make(tmp_path)
    shown = [e.text for e in page(folder).all("pre")]
    assert (folder / "recipe.toml").read_text() in shown
    assert (folder / "model" / "config.json").read_text() in shown


def test_the_command_makes_it_again(tmp_path: Path) -> None:
    folder = make(tmp_path / "notes", text=("my letters/*.txt", "notes.md"), licences=None)
    facts = json.loads((folder / "quickstart.json").read_text())
    facts["options"] |= {"minutes": 2.5, "depth": None, "seed": 123_456_789}
    write(folder / "quickstart.json", facts)
    start = "grainline quickstart --minutes 2.5 --seed 123456789 --text 'my letters/*.txt' notes.md --out"
    commands = "\n".join(e.text for e in page(folder).all("pre", "wrap"))
    assert start in commands
    assert f"grainline serve {folder}/model" in commands
    assert "--text" not in "\n".join(e.text for e in page(make(tmp_path / "builtin")).all("pre", "wrap"))


def test_nobodys_text_can_break_out(tmp_path: Path) -> None:
    folder = make(
        tmp_path,
        parts=(HOSTILE, "b|b"),
        text=(HOSTILE,),
        samples=((HOSTILE, HOSTILE, HOSTILE),),
        licences=f"# {HOSTILE}\n\n| a | b |\n|---|---|\n| {HOSTILE} | [x](javascript:alert(3)) |\n\n- `{HOSTILE}`\n",
    )
    facts = json.loads((folder / "quickstart.json").read_text())
    facts["machine"]["cpu"] = facts["machine"]["system"] = facts["torch"] = HOSTILE
    facts["timings"] = [{"stage": HOSTILE, "seconds": 1.0}]
    write(folder / "quickstart.json", facts)
    evaluation = json.loads((folder / "evaluation.json").read_text())
    evaluation["labels"] = dict.fromkeys(evaluation["labels"], HOSTILE)
    write(folder / "evaluation.json", evaluation)
    (folder / "recipe.toml").write_text("# </pre><script>alert(4)</script>", encoding="utf-8")
    (folder / "model" / "config.json").write_text('"</pre><script>alert(5)</script>"', encoding="utf-8")
    tree = page(folder)
    assert not tree.all("script")
    assert not tree.all("img")
    assert not tree.all("a")
    assert not [key for e in tree.all() for key in e.attributes if key.startswith("on")]
    assert [e.text for e in tree.all("p", "words")] == [SHOWN + SHOWN]
    assert table_rows(by_id(tree, "bits-per-byte"))[1][0] == SHOWN


def test_samples_show_prompt_and_direction(tmp_path: Path) -> None:
    words = page(make(tmp_path)).all("p", "words")
    assert [e.attributes["dir"] for e in words] == ["auto"] * 4
    assert words[1].all("mark")[0].text == "در این فصل"
    assert words[1].text == "در این فصل به نصب و پیکربندی سیستم می‌پردازیم و سپس"
    assert "code" in words[3].attributes["class"].split()


def test_the_page_fetches_nothing(tmp_path: Path) -> None:
    tree = page(make(tmp_path))
    for element in tree.all():
        assert element.tag not in {"script", "iframe", "object", "embed", "base"}
        for key, value in element.attributes.items():
            if key in {"src", "href", "xlink:href", "srcset", "data", "action", "poster"}:
                assert value.startswith("data:")
    css = "".join(e.text for e in tree.all("style"))
    assert "url(" not in css
    assert "@import" not in css
    policy = next(e for e in tree.all("meta") if e.attributes.get("http-equiv") == "Content-Security-Policy")
    assert policy.attributes["content"].startswith("default-src 'none'")


def test_light_and_dark_colour_every_mark(tmp_path: Path) -> None:
    tree = page(make(tmp_path))
    css = tree.all("style")[0].text
    light, dark = css.split("@media screen and (prefers-color-scheme: dark)", 1)
    assert stylesheet(LIGHT) in light
    assert stylesheet(DARK) in dark
    drawn = {name for svg in tree.all("svg") for e in svg.all() for name in e.attributes.get("class", "").split()}
    assert {"s0", "s1", "s2", "s3", "h0", "h7", "h14"} <= drawn
    for name in drawn:
        assert re.search(rf"\.{name}\b", stylesheet(DARK)), f"class {name} has no rule"
    for theme in (LIGHT, DARK):
        for colour in (*theme.series, theme.ink, theme.muted):
            assert contrast(colour, theme.paper) >= 4.5


def contrast(one: str, other: str) -> float:
    """WCAG 2's ratio of luminances; 4.5 is wanted for text."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_figures_are_well_formed_and_named(tmp_path: Path) -> None:
    found = svgs(make(tmp_path))
    assert len(found) >= 2 * 3 + 4 + 1 + 3  # curves, dots, time (two widths), four layers, their legend, three courses
    for svg in found:
        root = ET.fromstring(svg)
        assert root.get("aria-label") or root.get("aria-hidden")
        assert "nan" not in svg.lower().replace("nano", "")


def test_it_goes_without_what_may_be_missing(tmp_path: Path) -> None:
    folder = make(
        tmp_path,
        parts=("notes",),
        text=("notes.md",),
        models=("sparse",),
        loads=False,
        steps=1,
        samples=(),
        licences=None,
    )
    (folder / "model" / "config.json").unlink()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line["imbalance"] = line["validation_bits_per_byte"] = line["grad_norm"] = None
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    facts = json.loads((folder / "quickstart.json").read_text())
    facts |= {"budget": {}, "timings": [], "machine": {}, "options": {}, "corpus": []}
    write(folder / "quickstart.json", facts)
    tree = page(folder)
    assert "logged no expert loads" in tree.text
    assert "No samples were drawn" in tree.text
    rows = table_rows(by_id(tree, "bits-per-byte"))
    assert len(rows) == 2  # one part is its own total
    assert rows[1][0] == "notes"
    assert "dense model" not in tree.text


def test_loss_that_is_not_a_number_is_left_out(tmp_path: Path) -> None:
    folder = make(tmp_path)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    broken = {"step": 401, "tokens": 401 * 4096, "bits_per_byte": float("nan"), "lr": 0.1, "imbalance": None}
    (folder / "metrics.jsonl").write_text("\n".join([*lines, json.dumps(broken)]) + "\n")
    page(folder)
    assert all("nan" not in svg for svg in svgs(folder))


@pytest.mark.parametrize("name", ["quickstart.json", "evaluation.json", "samples.json", "recipe.toml", "metrics.jsonl"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    folder = make(tmp_path)
    (folder / name).unlink()
    with pytest.raises(GrainlineError, match=re.escape(str(folder / name))):
        render(folder)
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("quickstart.json", "{", "not well-formed JSON"),
        ("quickstart.json", "{}", "'grainline' is missing"),
        ("quickstart.json", "[1]", "wrong type"),
        (
            "evaluation.json",
            '{"parts": ["en"], "bytes": {"en": 1}, "bits_per_byte": {"sparse": {}}}',
            "'en' is missing",
        ),
        ("samples.json", '[{"prompt": "a"}]', "'text' is missing"),
        ("samples.json", "[7]", "wrong type"),
        ("metrics.jsonl", "", "no metrics"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, name: str, content: str, says: str) -> None:
    folder = make(tmp_path)
    (folder / name).write_text(content)
    with pytest.raises(GrainlineError, match=re.escape(name)) as error:
        render(folder)
    assert says in str(error.value)


def test_a_large_model_keeps_the_page_small(tmp_path: Path) -> None:
    path = render(make(tmp_path, sparse_layers=12, experts=128, steps=200))
    assert path.stat().st_size < 2_000_000


def test_summary_prints_the_same_table(tmp_path: Path) -> None:
    folder = make(tmp_path)
    evaluation = json.loads((folder / "evaluation.json").read_text())
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(summary(folder))
    rows = [line.split() for line in console.export_text().splitlines()]
    for part in ("en", "total"):
        values = [f"{evaluation['bits_per_byte'][m][part]:.3f}" for m in ("sparse", "dense", "n-gram", "xz")]
        assert values == next(row for row in rows if row and row[0] == part)[2:]


def test_summary_shows_markup_as_text(tmp_path: Path) -> None:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(summary(make(tmp_path, parts=("[red]x[/red]", "b\x1b[2J"), text=("t",))))
    printed = console.export_text()
    assert "[red]x[/red]" in printed
    assert "\x1b[2J" not in printed
