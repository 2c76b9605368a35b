"""The texts of the Hecto exhibit are what they claim to be, and its code runs."""

from __future__ import annotations

from pathlib import Path

import torch

from grainline.exhibits import hecto
from grainline.exhibits.frame import Scale


def test_the_label_is_in_counts_or_in_order_alone() -> None:
    made = hecto.texts(600, torch.Generator().manual_seed(0))
    for ids_S, label, kind in zip(made.ids_NS, made.label_N.tolist(), made.kind_N.tolist(), strict=True):
        places = [(ids_S == marker).nonzero().flatten().tolist() for marker in hecto.MARKERS_AT]
        assert ids_S[0] == hecto.TAGS[kind]
        if kind:
            assert [len(p) for p in places] == [1, 1]
            assert (places[0] < places[1]) == (label == 0)
        else:
            assert len(places[label]) == 3
            assert len(places[1 - label]) == 1
    assert 0.4 < made.kind_N.double().mean() < 0.6
    assert 0.4 < made.label_N.double().mean() < 0.6


def test_every_claim_runs_in_short(tmp_path: Path) -> None:
    for claim, measure in hecto.MEASURES.items():
        found = measure(Scale.of(claim, True, tmp_path))
        assert found.figure is not None
        assert "<svg" in found.figure
