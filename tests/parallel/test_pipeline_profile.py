"""Profiles name every cell and kind, and costs of stages are the sums of their cells on their rank."""

from __future__ import annotations

import pytest
import torch

from grainline.documents.recipe import Loss
from grainline.models.cells import Batch, cell_names
from grainline.models.dial import config_for_depth
from grainline.parallel.pipeline.profile import costs_of, profile_cells
from grainline.schedule import Kind

KINDS = {Kind.F, Kind.B, Kind.I, Kind.W, Kind.R}


def test_every_cell_is_timed_in_every_kind():
    config = config_for_depth(2, 64, 32)
    ids_BS1 = torch.randint(64, (2, 9), generator=torch.Generator().manual_seed(0))
    found = profile_cells(config, Batch.of(config, ids_BS1), Loss(), dtype=torch.float32, rounds=1)
    assert list(found) == list(cell_names(config))
    for seconds in found.values():
        assert set(seconds) == KINDS
        assert all(s >= 0 for s in seconds.values())
    assert all(found[cell][Kind.F] > 0 for cell in found)


def test_a_stage_costs_what_its_cells_do_on_its_rank():
    fast = {"a": dict.fromkeys(KINDS, 1.0), "b": dict.fromkeys(KINDS, 2.0)}
    slow = {"a": dict.fromkeys(KINDS, 10.0), "b": dict.fromkeys(KINDS, 20.0)}
    costs = costs_of([fast, slow], [("a",), ("a", "b"), ()], output_bytes=8.0)
    assert costs.stage(1, 0).seconds[Kind.F] == pytest.approx(3.0)
    assert costs.stage(1, 1).seconds[Kind.W] == pytest.approx(30.0)
    assert costs.stage(2, 1).seconds[Kind.B] == 0.0
    assert costs.stage(0, 0).output_bytes == 8.0
