"""`grainline exhibit` from name to kept result and gallery, with exhibits that take no time."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import fields, replace
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest

from grainline import exhibits
from grainline.cli import main
from grainline.documents import DocumentError
from grainline.exhibits import keep
from grainline.exhibits.figure import drawing, svg
from grainline.exhibits.find import find
from grainline.exhibits.frame import Claim, Measurement, NotRun, Result, Scale

GOOD = Claim(
    name="toy.good",
    text="A halves B <always>.",
    quantity="A / B",
    expected=0.5,
    margin=0.1,
    better="lower",
    baseline="B at its best",
    seeds=(0, 1),
    how="real",
)
SHORT, BROKEN, ABSENT = (replace(GOOD, name=name) for name in ("toy.short", "broken", "absent"))


def good(scale: Scale) -> Measurement:
    scale.tell("half way")
    with drawing() as (figure, (axes,)):
        axes.plot(range(scale.pick(full=10, quick=2)))
        picture = svg(figure, GOOD.name, "a line")
    return Measurement(0.5, (0.49, 0.52), picture, {"seeds": list(scale.seeds)})


def broken(scale: Scale) -> Measurement:
    raise RuntimeError("the wheel came off")


def absent(scale: Scale) -> Measurement:
    raise NotRun("needs a GPU")


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tables = {
        "toy": {GOOD: good, SHORT: lambda scale: Measurement(0.9, (0.8, 1.0))},
        "broken": {BROKEN: broken},
        "absent": {ABSENT: absent},
    }
    for name, table in tables.items():
        module = ModuleType(name)
        module.MEASURES = table  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, f"grainline.exhibits.{name}", module)
    monkeypatch.setattr(exhibits.find, "EXHIBITS", {name: name for name in tables})
    monkeypatch.chdir(tmp_path)


Capture = pytest.CaptureFixture[str]


def test_json_is_a_list_of_results(capsys: Capture) -> None:
    assert main(["exhibit", "toy", "--json"]) == 0
    out, err = capsys.readouterr()
    rows = json.loads(out)
    assert [set(row) for row in rows] == [{field.name for field in fields(Result)}] * 2
    assert [(row["name"], row["verdict"]) for row in rows] == [("toy.good", "holds"), ("toy.short", "short")]
    assert rows[0]["figure"].startswith("<svg")
    assert "toy.good: half way" in err


def test_claims_of_one_command_share_a_folder_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    folders: list[Path] = []

    def working(scale: Scale) -> Measurement:
        assert scale.folder.is_dir()
        folders.append(scale.folder)
        return Measurement(0.5, (0.5, 0.5))

    monkeypatch.setattr(sys.modules["grainline.exhibits.toy"], "MEASURES", {GOOD: working, SHORT: working})
    assert main(["exhibit", "toy"]) == 0
    assert folders[0] == folders[1]
    assert not folders[0].exists()


def test_a_failing_exhibit_stops_no_other_and_shows_in_the_exit_code(capsys: Capture) -> None:
    assert main(["exhibit", "broken", "absent", "toy.good"]) == 1
    out = capsys.readouterr().out
    assert "the wheel came off" in out
    assert "needs a GPU" in out
    assert out.index("not-run") < out.index("holds")
    assert main(["exhibit", "absent"]) == 0  # lacking something is not a failure


def test_quick_decides_nothing(capsys: Capture) -> None:
    assert main(["exhibit", "toy.good", "--quick", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["verdict"], row["quick"], row["seeds"]) == ("inconclusive", True, [0])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["toy.goof"], "Did you mean 'toy.good'?"),
        (["brokn"], "Did you mean 'broken'?"),
        ([], "name an exhibit, or say --all"),
        (["toy", "--all"], "not both"),
        (["toy", "--quick", "--save", "kept"], "full runs only"),
        (["broken", "--save", __file__], "no folder can be made there"),
        (["broken", "--gallery", str(Path(__file__).parent)], "is a folder; name the page to write"),
    ],
)
def test_mistakes_are_answered(arguments: list[str], said: str, capsys: Capture) -> None:
    assert main(["exhibit", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_names_mean_exhibits_or_single_claims() -> None:
    assert list(find(["toy"])) == [GOOD, SHORT]
    assert list(find(["absent", "toy.short", "toy"])) == [ABSENT, SHORT, GOOD]
    assert list(find([])) == [GOOD, SHORT, BROKEN, ABSENT]


def test_the_list_says_what_there_is(capsys: Capture) -> None:
    assert main(["exhibit", "--list"]) == 0
    assert "toy.short" in capsys.readouterr().out
    assert main(["exhibit", "--list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0] == {"name": "toy.good", "claim": "A halves B <always>."}


def test_full_results_are_kept_with_commit_and_machine(capsys: Capture) -> None:
    assert main(["exhibit", "--all", "--save", "kept"]) == 1
    assert sorted(path.name for path in Path("kept").iterdir()) == ["toy.good.json", "toy.good.svg", "toy.short.json"]
    table = json.loads(Path("kept/toy.good.json").read_text())
    assert set(table) > {field.name for field in fields(Result)}
    assert re.fullmatch(r"[0-9a-f]{40}(\+changes)?|version .*", table["commit"])
    assert table["machine"]["cpu"]
    assert table["figure"] == "toy.good.svg"
    assert table["details"] == {"seeds": [0, 1]}
    found = keep.kept(Path("kept"))
    assert found["toy.good"].result.figure == Path("kept/toy.good.svg").read_text().strip()
    assert found["toy.good"].result.error_bar == (0.49, 0.52)


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"name": "x"}')
    with pytest.raises(DocumentError, match=r"x\.json: isn't a kept exhibit result"):
        keep.kept(tmp_path)


class Page(HTMLParser):
    """What a browser would fetch, and which elements are left open."""

    def __init__(self) -> None:
        super().__init__()
        self.outside: list[str] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.outside += [
            v or "" for k, v in attrs if k in ("src", "href", "xlink:href") and not (v or "").startswith("#")
        ]
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def gallery(capsys: Capture, *arguments: str) -> tuple[str, str]:
    assert main(["exhibit", *arguments, "--gallery", "g.html"]) == 0
    capsys.readouterr()
    page = Page()
    html = Path("g.html").read_text(encoding="utf-8")
    page.feed(html)
    assert not page.outside
    assert not page.open
    return html, " ".join(page.text.split())


def test_the_gallery_shows_kept_results_and_what_is_missing(capsys: Capture) -> None:
    assert main(["exhibit", "toy.good", "--save", str(keep.FOLDER)]) == 0
    html, text = gallery(capsys)
    assert html.count("<svg") == 1
    assert "A halves B <always>." in text
    assert "1 holds, 3 not-run." in text
    assert "0.5 (0.49 to 0.52)" in text
    assert "commit" in text
    assert text.count("not measured yet") == 3


def test_the_gallery_prefers_a_kept_full_result_to_a_quick_one(capsys: Capture) -> None:
    _, text = gallery(capsys, "toy", "--quick")
    assert "2 inconclusive, 2 not-run." in text
    assert "in a quick run" in text
    assert main(["exhibit", "toy.good", "--save", str(keep.FOLDER)]) == 0
    _, text = gallery(capsys, "toy", "--quick")
    assert "1 holds, 1 inconclusive, 2 not-run." in text


def test_progress_goes_by_line_and_ctrl_c_keeps_what_is_done(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def interrupted(scale: Scale) -> Measurement:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["grainline.exhibits.toy"], "MEASURES", {GOOD: good, SHORT: interrupted})
    assert main(["exhibit", "toy", "--save", "kept"]) == 130
    assert Path("kept/toy.good.json").exists()
