"""Progress without a terminal, and seconds in words."""

import pytest

from grainline import _progress
from grainline._progress import counted, duration


def test_counted_work_tells_plain_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_progress, "PLAIN_SECONDS", 0.0)
    with counted("scoring", 3) as more:
        more(2)
        more(1)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["scoring: 2 of 3", "scoring: 3 of 3"]


def test_it_tells_every_few_seconds_and_not_at_all_when_quiet(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with counted("scoring", 3) as more:
        more(1)
    monkeypatch.setattr(_progress, "PLAIN_SECONDS", 0.0)
    with counted("scoring", 3, quiet=True) as more:
        more(1)
    assert capsys.readouterr().err == ""


def test_seconds_in_words() -> None:
    assert [duration(v) for v in (-1, 0.42, 3, 38, 59.6, 292, 3725, 3900)] == [
        "0 s",
        "0.4 s",
        "3 s",
        "38 s",
        "1 min 00 s",
        "4 min 52 s",
        "1 h 02 min",
        "1 h 05 min",
    ]
