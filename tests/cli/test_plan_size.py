"""`grainline plan size`: what is printed, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from grainline.cli import main

ZAYA1 = str(Path(__file__).parents[2] / "examples/models/zaya1.toml")
CLUSTER = ("--cluster", "2x(8xMI300X)@NDR")


def test_rules_with_their_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "size", ZAYA1, *CLUSTER, "--decode-ms", "0.5"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "the smallest message that reaches 90% of B" in said
    assert "waves of 304 (MI300X)" in said
    assert "above the 247 of MI300X's knee" in said
    assert "keeps the weights of a decoded token within 0.5 ms" in said


def test_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "size", ZAYA1, *CLUSTER, "--json", "--tokens", "8192"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["units"] == 304
    assert {each["way"] for each in found["buckets"]} == {"a-0 – a-0", "a-0 – a-1"}
    up = next(each for each in found["products"] if each["name"] == "expert up")
    assert up["wave_efficiency"] == pytest.approx(512 / 608)
    assert up["columns_for_nothing"] == 4864
    assert found["experts"]["intensity"] > found["experts"]["knee"]
    assert all(each["advice"] is None for each in found["dimensions"])


def test_a_line_is_fitted_to_measured_messages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    times = tmp_path / "times.txt"
    sizes = [2**k for k in range(10, 28, 3)]
    times.write_text("# bytes, seconds\n" + "".join(f"{m}, {30e-6 + m / 50e9}\n" for m in sizes))
    assert main(["plan", "size", ZAYA1, *CLUSTER, "--times", str(times), "--json"]) == 0
    (bucket,) = json.loads(capsys.readouterr().out)["buckets"]
    assert bucket["bucket_bytes"] == pytest.approx(13.5e6)


def test_this_machine_has_nobody_to_send_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "size", ZAYA1, "--cluster", "1xA10G", "--tokens", "512", "--units", "80"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "one device: nothing is sent" in said
    assert "below the" in said
    assert "64 would do" in said


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--device", "H100"), "--device H100: the cluster's are MI300X."),
        (("--tokens", "0"), "a micro-batch has at least one"),
        (("--efficiency", "1.5"), "must lie between 0 and 1"),
        (("--dtype", "int4"), "flops_per_second.int4 isn't told"),
        (("--times", "nowhere.txt"), "nowhere.txt: can't be read"),
    ],
)
def test_what_is_refused(more: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "size", ZAYA1, *CLUSTER, *more]) == 2
    assert words in capsys.readouterr().err


def test_a_line_that_is_no_pair_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    times = tmp_path / "times.txt"
    times.write_text("1024 1e-5\n2048 fast\n")
    assert main(["plan", "size", ZAYA1, *CLUSTER, "--times", str(times)]) == 2
    assert "line 2: '2048 fast' isn't two numbers" in capsys.readouterr().err
