"""`grainline plan fleet`: what is printed, written and refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from grainline.cli import main
from grainline.plan.fleet.choose import FleetPlan

EXAMPLES = Path(__file__).parents[2] / "examples" / "traffic"
CHAT = ["plan", "fleet", "Llama-2-7B", "--traffic", str(EXAMPLES / "chat.toml")]
TYPES = ["--types", "A10G", "A100-80", "2xA10G"]
TOY = """
model = "toy"
tpot_seconds = 0.12
input_edges = [250, 1000]
output_edges = [100, 500]
types = [
  { name = "A10G", price_per_hour = 1.01, requests_per_second = [[5, 1], [10, 5]] },
  { name = "A100", price_per_hour = 3.67, requests_per_second = [[20, 2], [50, 20]] },
]
"""


def test_table_json_page_and_file_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, plan = tmp_path / "fleet.html", tmp_path / "fleet.toml"
    arguments = [*CHAT, *TYPES, "--tpot", "120", "--ttft", "3000", "--rate", "3", "--requests", "300"]
    assert main([*arguments, "--html", str(page), "--save", str(plan)]) == 0
    said = capsys.readouterr().out
    assert "for 3 requests a second" in said
    assert "requests kept all objectives" in said
    assert "that lengths are log-normal is assumed" in said
    text = page.read_text()
    assert text.count("<svg") == 3
    assert "At another rate" in text
    assert "At another price of" in text
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    saved = FleetPlan.load(plan)
    assert found["cost"] == pytest.approx(saved.cost)
    assert found["bound"] <= found["cost"] * (1 + 1e-6)
    assert found["simulated"]["within"] >= 0.99
    assert set(found["alone"]) == {"A10G", "A100-80", "2xA10G"}


def test_the_toy_from_a_measured_profile(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p.toml").write_text(TOY)
    arguments = ["plan", "fleet", "toy", "--traffic", str(EXAMPLES / "buckets.toml"), "--tpot", "120"]
    assert main([*arguments, "--profile", str(tmp_path / "p.toml"), "--ceiling", "1"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("5 A10G for 16 requests a second: 5.05 $/h.")
    assert "7.34 $/h" in said
    dear = ["--profile", str(tmp_path / "p.toml"), "--ceiling", "1", "--price", "A10G=2", "--json"]
    assert main([*arguments, *dear]) == 0
    assert json.loads(capsys.readouterr().out)["cost"] == pytest.approx(7.34)


def test_traffic_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "fleet", "Llama-2-7B", "--types", "A10G", "--tpot", "120"]) == 2
    assert "give --traffic" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "give --types"),
        (["--types", "A10G"], "give an objective"),
        (["--types", "A10G", "--tpot", "0"], "it must be positive"),
        (["--types", "A10G", "A10G", "--tpot", "120"], "named twice"),
        (["--types", "A11G", "--tpot", "120"], "Did you mean 'A10G'"),
        (["--types", "A10G", "--tpot", "120", "--price", "A10G=-1"], "can't be negative"),
        (["--types", "A10G", "--tpot", "120", "--price", "free"], "--price free: write TYPE=NUMBER"),
        (["--types", "A10G", "--tpot", "120", "--stock", "A10G=1"], "more would. Raise stock"),
        (["--types", "A10G", "--tpot", "5"], "Possible with --tpot"),
        (["--types", "A10G", "--tpot", "120", "--rate", "0"], "traffic without requests"),
        (["--types", "MI300X", "--tpot", "120"], "no price is published"),
        (["--types", "V100", "--tpot", "120", "--quantile", "1"], "must lie between 0 and 1"),
    ],
)
def test_what_is_refused(more: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*CHAT, *more, "--requests", "0"]) == 2
    assert message in capsys.readouterr().err
