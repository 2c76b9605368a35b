"""Sums of gradients after the passes: who holds what, against the modules that a runtime sums, and a ring's time."""

import pytest
import torch

from grainline.models.dial import config_for_depth
from grainline.models.model import Model
from grainline.parallel.pipeline.connect import cells_by_stage
from grainline.parallel.pipeline.reduce import holders_by_module, stages_by_module
from grainline.plan.sums import ring_seconds, shared_gradients
from grainline.schedule import make_schedule
from grainline.schedule.cells import cells_of, stages_of


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("mtp", [0, 1])
@pytest.mark.parametrize(("name", "sizes"), [("1f1b", 2), ("zb-v", 4)])
def test_what_is_summed_is_what_the_runtime_sums(tied: bool, mtp: int, name: str, sizes: int) -> None:
    config = config_for_depth(4, 512, 64).model_copy(update={"tie_embeddings": tied, "mtp_depth": mtp})
    cells = cells_of(config)
    cut = tuple(len(cells) * (i + 1) // sizes - len(cells) * i // sizes for i in range(sizes))
    schedule = make_schedule(name, 2, 4)
    with torch.device("meta"):
        model = Model(config)
    truth: dict[tuple[int, ...], int] = {}
    by_module = stages_by_module(config, cells_by_stage([cell.name for cell in cells], cut))
    for module, ranks in holders_by_module(schedule, by_module).items():
        if len(ranks) > 1:
            count = sum(4 * p.numel() for p in model.get_submodule(module).parameters())
            truth[ranks] = truth.get(ranks, 0) + count
    found: dict[tuple[int, ...], float] = {}
    for ranks, count in shared_gradients(config, schedule, stages_of(cells, cut)):
        found[ranks] = found.get(ranks, 0) + count
    assert found == truth
    assert bool(found) == (bool(mtp) or (tied and name == "1f1b"))  # zb-v has first and last stage on one rank


def test_a_ring_sends_twice_all_but_a_share() -> None:
    assert ring_seconds(4, 1e9, 0.0, 1e9) == pytest.approx(1.5)
    assert ring_seconds(2, 0.0, 1e-3, 1e9) == pytest.approx(2e-3)
