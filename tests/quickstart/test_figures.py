"""Figures: what is drawn stands for what was measured."""

from __future__ import annotations

import itertools
import json
import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from grainline._figure import Scale
from grainline._words import count, power, printable, size
from grainline.models.formats import config_to_hf, storable
from grainline.quickstart.facts import Evaluation, read_facts
from grainline.quickstart.figures import loss_curves, overview_svg, part_dots, smooth, total_bars
from grainline.quickstart.loads import balance_loss, colour, endings, layer_loads, layer_names, load_panels
from grainline.quickstart.plot import BINS, fit, spread
from grainline.quickstart.settings import sparse_config
from grainline.quickstart.verdict import verdict

from .run_folder import make


def evaluation_of(**totals: float) -> Evaluation:
    table = {name.replace("_", "-"): {"en": value, "total": value} for name, value in totals.items()}
    return Evaluation(("en",), {"en": 1000}, table, {})


def test_verdict_says_who_wins_and_by_how_much() -> None:
    assert verdict(evaluation_of(sparse=1.8, dense=2.0, n_gram=2.4, xz=3.6)) == (
        "The sparse model wins: it needs 1.800 bits per byte of text it never saw, "
        "10\u00a0% fewer than the dense model, 25\u00a0% fewer than the n-gram model and 50\u00a0% fewer than xz."
    )


def test_verdict_says_so_when_the_sparse_model_loses() -> None:
    assert verdict(evaluation_of(sparse=2.1, dense=2.0, xz=2.8)) == (
        "The dense model wins with 2.000 bits per byte of text it never saw; the sparse model needs 2.100, "
        "5.0\u00a0% more than the dense model and 25\u00a0% fewer than xz."
    )


def test_verdict_leaves_a_programs_name_as_it_is() -> None:
    assert verdict(evaluation_of(sparse=4.0, xz=2.0)).startswith("xz wins with 2.000 bits per byte")


def test_verdict_calls_what_looks_equal_a_tie() -> None:
    told = verdict(evaluation_of(sparse=2.0001, dense=2.0004))
    assert told == (
        "The sparse model ties with the dense model: it needs 2.000 bits per byte of text it never saw, "
        "as many as the dense model."
    )
    assert verdict(evaluation_of(sparse=2.0)) == "The sparse model needs 2.000 bits per byte of text it never saw."


def test_smoothing_keeps_level_and_last_place() -> None:
    assert all(y == pytest.approx(3.0) for _, y in smooth([(i, 3.0) for i in range(1000)]))
    curve = smooth([(i, i) for i in range(1000)])
    assert len(curve) <= 240
    assert curve[-1][0] == 999
    assert curve[100][1] == pytest.approx(curve[100][0])  # a slope isn't moved sideways
    assert smooth([(1, 2.0)]) == [(1, 2.0)]
    assert smooth([]) == []


def test_held_out_marks_lie_where_the_metrics_say(tmp_path: Path) -> None:
    folder = make(tmp_path)
    facts = read_facts(folder)
    root = ET.fromstring(loss_curves(facts).svg())
    titles = [(p.get("d"), t.text) for p in root.iter("path") for t in p.iter("title")]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    measured = [line for line in lines if line.get("validation_bits_per_byte")]
    sparse = [(d, t) for d, t in titles if t.startswith("sparse")]
    assert [float(t.split(": ")[1].split()[0]) for _, t in sparse] == [
        pytest.approx(line["validation_bits_per_byte"], abs=5e-4) for line in measured
    ]
    across = [float(re.match(r"M([\d.]+)", d)[1]) for d, _ in sparse]
    steps = [line["step"] for line in measured]
    for i in range(1, len(steps) - 1):  # places grow as tokens do
        share = (steps[i] - steps[0]) / (steps[-1] - steps[0])
        assert across[i] - across[0] == pytest.approx(share * (across[-1] - across[0]), abs=0.2)


def test_dots_and_bars_stand_in_proportion(tmp_path: Path) -> None:
    facts = read_facts(make(tmp_path))
    root = ET.fromstring(total_bars(facts).svg())
    widths = [float(rect.get("width")) for rect in root.iter("rect")]
    totals = list(facts.evaluation.totals().values())
    assert [w / widths[0] for w in widths] == [pytest.approx(v / totals[0], rel=2e-3) for v in totals]
    dots = ET.fromstring(part_dots(facts).svg())
    assert len(list(dots.iter("title"))) == 4 * (len(facts.evaluation.parts) + 1)


def test_loads_are_ratios_to_even_sorted_by_the_last(tmp_path: Path) -> None:
    folder = make(tmp_path, sparse_layers=1, experts=4, steps=4)
    loads = [[[10, 30, 20, 20]], [[0, 40, 20, 20]], [[10, 20, 40, 10]], [[5, 20, 50, 5]]]
    lines = [{"step": i + 1, "tokens": 10 * (i + 1), "bits_per_byte": 1.0, "loads": loads[i]} for i in range(4)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (found,) = layer_loads(read_facts(folder))
    assert found.edges == (0.0, 10.0, 20.0, 30.0, 40.0)
    assert found.ratios_CE[-1] == (2.5, 1.0, 0.25, 0.25)
    assert found.ratios_CE[0] == (1.0, 1.5, 0.5, 1.0)


def test_experts_without_cost_stand_last_and_are_no_part_of_even(tmp_path: Path) -> None:
    folder = make(tmp_path, sparse_layers=1, experts=4, steps=2)
    config = sparse_config(1, 4096, 256, ("moe.experts=4", "moe.top_k=2", "moe.zero=1", "moe.copy_experts=1"))
    (folder / "model" / "config.json").write_text(json.dumps(config_to_hf(storable(config))))
    line: dict[str, Any] = {"bits_per_byte": 1.0, "imbalance": [2.0], "entropy": [math.log(6) / 2], "costless": [0.25]}
    rows = [[10, 40, 20, 10, 90, 30], [10, 20, 40, 10, 40, 30]]
    line["balance_loss"] = 1.25
    lines = [line | {"step": i, "tokens": 10 * i, "loads": [row]} for i, row in enumerate(rows, 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    facts = read_facts(folder)
    (found,) = layer_loads(facts)
    assert found.ratios_CE == ((1.0, 2.0, 0.5, 0.5, 4.5, 1.5), (2.0, 1.0, 0.5, 0.5, 2.0, 1.5))
    (ending,) = endings(facts)
    assert (ending.layer, ending.imbalance, ending.costless) == ("MTP layer", 2.0, 0.25)
    assert ending.entropy == pytest.approx(0.5)
    assert balance_loss(facts) == 1.25


def test_columns_add_up_rows_that_do_not_fit(tmp_path: Path) -> None:
    facts = read_facts(make(tmp_path, sparse_layers=2, experts=8, steps=199))
    for layer, found in enumerate(layer_loads(facts)):
        assert len(found.ratios_CE) <= 64
        assert len(found.edges) == len(found.ratios_CE) + 1
        assert all(sum(column) == pytest.approx(8) for column in found.ratios_CE)
        first = [line["loads"][layer] for line in facts.metrics["sparse"] if line["tokens"] <= found.edges[1]]
        total = [sum(row[e] for row in first) for e in range(8)]
        assert sorted(found.ratios_CE[0]) == pytest.approx(sorted(8 * c / sum(total) for c in total))


def test_colours_diverge_around_even_load() -> None:
    assert colour(1.0, 2) == BINS // 2
    assert colour(4.0, 2) == colour(100.0, 2) == BINS - 1
    assert colour(0.25, 2) == colour(0.0, 2) == 0
    assert BINS // 2 < colour(1.6, 2) < BINS - 1


def test_every_sparse_layer_has_a_panel_named_as_the_config_counts(tmp_path: Path) -> None:
    facts = read_facts(make(tmp_path, sparse_layers=4))
    assert len(load_panels(facts)) == 4
    assert layer_names(facts, 4) == ["layer 2 of 4", "layer 3 of 4", "layer 4 of 4", "MTP layer"]
    assert layer_names(facts, 7)[0] == "sparse layer 1"


def test_overview_is_one_svg_file_with_its_own_background(tmp_path: Path) -> None:
    root = ET.fromstring(overview_svg(make(tmp_path)))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    background = root.find("{http://www.w3.org/2000/svg}rect")
    assert background.get("width") == root.get("width")
    assert "prefers-color-scheme" not in "".join(root.itertext())
    for element in root.iter():
        assert not any(key.endswith("href") for key in element.attrib)
    drawn = {name for e in root.iter() for name in (e.get("class") or "").split()}
    assert {"s0", "s1", "s2", "s3", "h0", "big"} <= drawn
    lean = overview_svg(make(tmp_path / "lean", parts=("a",), models=("sparse",), loads=False, steps=3))
    assert "h14" not in {e.get("class") for e in ET.fromstring(lean).iter()}


def test_ticks_are_round_and_inside() -> None:
    assert Scale(0, 1.64e6, 0, 1).ticks(6) == [0, 5e5, 1e6, 1.5e6]
    assert Scale(1.71, 2.04, 0, 1).ticks(4) == pytest.approx([1.8, 1.9, 2.0])
    assert Scale(3, 3, 0, 1).ticks(4) == [3]


def test_labels_keep_their_distance() -> None:
    placed = spread([10, 11, 50, 52], 15, 0, 60)
    ordered = sorted(placed)
    assert all(b - a >= 15 for a, b in itertools.pairwise(ordered))
    assert max(placed) <= 60
    assert fit("a" * 50, 68).endswith("…")
    assert len(fit("語" * 50, 68)) < len(fit("a" * 50, 68))


def test_numbers_read_as_people_write_them() -> None:
    assert [count(v) for v in (0, 950, 12_345, 999_960, 1_234_567, 4.5e9)] == [
        "0",
        "950",
        "12.3k",
        "1M",
        "1.23M",
        "4.5B",
    ]
    assert [size(v) for v in (12, 5_200, 5_215_010)] == ["12 bytes", "5.2 kB", "5.22 MB"]
    assert power(1.03e13) == "1.0 × 10¹³"
    assert printable("a\r\n\tb\x00\x7f\x85\ud800\uffff") == "a\n\tb␀␡\ufffd\ufffd\ufffd"
