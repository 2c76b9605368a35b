"""The exhibit of Ling 2.0's pipeline: its cells and cuts, against what the brief's own check found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from grainline.exhibits import ling2_pipeline as exhibit
from grainline.exhibits.frame import NotRun, Scale
from grainline.exhibits.ling2_local import SLOW, Trial, run
from grainline.exhibits.ling2_pipeline import ALL, NEITHER, RANKS, STOCK, fine, imbalance, makespan, pieces, stock
from grainline.hardware.unequal import NotAllowed


def test_cells_and_cuts_add_up() -> None:
    assert sum(piece.forward for piece in pieces(NEITHER)) == pytest.approx(4 * 0.5 + 76 + 1 + 0.7 + 0.7)
    assert sum(piece.seconds for piece in pieces(STOCK)) - sum(p.seconds for p in pieces(NEITHER)) == pytest.approx(0.7)
    for sizes in (stock(42), stock(84), fine(2), fine(4)):
        assert sum(sizes) == len(pieces(NEITHER)) == 84
    assert set(stock(42)[1:-1]) == {1, 2}
    assert stock(42)[-1] == 1 + 3  # a block, MTP's two cells, the head


def test_loads_and_gains_are_those_of_a_check_in_one_unit() -> None:
    """All passes in proportion: 1.41 → 1.045; 1.28, 1.31, 1.33 by micro-batches, with another cut that is as even."""
    assert imbalance(stock(2 * RANKS), ALL) == pytest.approx(1.41, abs=0.005)
    assert imbalance(fine(2, ALL), ALL) == pytest.approx(1.045, abs=0.001)
    for microbatches, gain in ((42, 1.28), (84, 1.31), (168, 1.33)):
        before, after = makespan(stock(42), microbatches, ALL), makespan(fine(2, ALL), microbatches, ALL)
        assert before / after == pytest.approx(gain, abs=0.025)


@pytest.mark.multiprocess
def test_two_local_ranks_are_profiled_cut_predicted_and_run(tmp_path: Path) -> None:
    trial = Trial(length=8, rounds=1, microbatches=2, sequences=1, hidden=64, layers=2)
    try:
        found = run(trial, tmp_path)
    except NotAllowed as error:
        pytest.skip(str(error))
    assert found.cells["equal"] == [2, 4]  # embedding and a block; a block, MTP in two, head
    assert sum(found.cells["balanced"]) == 6
    assert found.loss["equal"] == pytest.approx(found.loss["balanced"], rel=1e-6)
    assert all(found.predicted[which] > 0 and len(found.seconds[which]) == 1 for which in ("equal", "balanced"))
    assert found.slowed["share"] == 0.6
    cells = {name: sum(kinds[k] for k in "FB") for name, kinds in found.profiles[SLOW].items()}
    assert list(cells) == ["embedding", "block.0", "block.1", "mtp", "mtp_head", "head"]
    assert all(seconds > 0 for seconds in cells.values())


def test_a_machine_that_slows_no_process_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(trial: Trial, folder: Path) -> None:
        raise NotAllowed("no pidfds here")

    monkeypatch.setattr(exhibit, "run", refuse)
    monkeypatch.setattr(exhibit, "need_cores", lambda count: None)
    with pytest.raises(NotRun, match="no pidfds here"):
        exhibit.measure_local(Scale.of(exhibit.LOCAL, True, tmp_path))


@pytest.mark.slow
def test_every_claim_is_measured(tmp_path: Path) -> None:
    scale = Scale.of(exhibit.CUT, True, tmp_path)
    simulated = {claim: measure for claim, measure in exhibit.MEASURES.items() if claim.how == "simulated"}
    found = {claim: measure(scale) for claim, measure in simulated.items()}
    for measurement in found.values():
        json.dumps(measurement.details)
        assert measurement.figure is None or measurement.figure.startswith("<svg")
    assert 1.2 < found[exhibit.CUT].measured < 1.4
    assert 1.0 < found[exhibit.STAGES].measured < 1.1


def test_the_mixed_cluster_gives_its_fast_devices_more(tmp_path: Path) -> None:
    found = exhibit.measure_mixed(Scale.of(exhibit.MIXED, True, tmp_path))
    steps = found.details["steps"]
    assert all("auto, " + order in steps for order in exhibit.ORDERS)
    equal = [step["seconds"] for name, step in steps.items() if name.startswith("equal")]
    cut = [step["seconds"] for name, step in steps.items() if name.startswith("auto")]
    assert found.measured == min(equal) / min(cut) > 1.8
    for step in steps.values():
        assert all(rank["peak_bytes"] <= rank["capacity_bytes"] for rank in step["ranks"])
