"""Experts without rows: how long, which share of a layer, and what is said of them."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grainline.documents import Attention, ModelConfig, Moe
from grainline.models.moe.idle import PATIENCE, IdleExperts

EVERY = torch.ones(2, 4, dtype=torch.bool)


def config(**moe: object) -> ModelConfig:
    return ModelConfig(
        vocab_size=32,
        hidden_size=16,
        layers=2,
        ffn_hidden=24,
        attention=Attention(heads=2, head_dim=8),
        moe=Moe.model_validate({"experts": 4, "top_k": 1, "expert_hidden": 6, "router": "softmax-topk", **moe}),
    )


def after(idle: IdleExperts, steps: int, rows: list[list[int]], could_LE: torch.Tensor = EVERY) -> IdleExperts:
    for _ in range(steps):
        idle.count(torch.tensor(rows), could_LE)
    return idle


@given(st.lists(st.lists(st.sampled_from([(0, True), (3, True), (0, False)]), min_size=4, max_size=4), max_size=9))
@settings(deadline=None)
def test_steps_without_rows_are_those_since_the_last(history: list[list[tuple[int, bool]]]) -> None:
    idle = IdleExperts(config())
    for step in history:
        rows, could = [[r for r, _ in step]] * 2, [[c for _, c in step]] * 2
        idle.count(torch.tensor(rows), torch.tensor(could))
    for e in range(4):
        since = 0
        for rows_of_e, could_be in (step[e] for step in history):
            since = 0 if rows_of_e else since + could_be
        assert idle.steps_LE[:, e].tolist() == [since] * 2


def test_idle_experts_are_told_of_once_with_layer_and_what_helps() -> None:
    idle = after(IdleExperts(config()), PATIENCE - 1, [[5, 0, 5, 0], [1, 1, 1, 1]])
    names = ["layer 0", "the MTP layer"]
    assert idle.share_L == [0.0, 0.0]
    assert idle.remark(names) is None
    after(idle, 1, [[5, 0, 5, 0], [1, 1, 1, 1]])
    assert idle.share_L == [0.5, 0.0]
    said = idle.remark(names)
    assert said == (
        f"No rows for {PATIENCE} steps, so these experts learn nothing: layer 0: 1, 3. "
        "moe.bias_balanced or a loss.balance_loss brings them back."
    )
    after(idle, 60, [[5, 0, 5, 0], [1, 1, 1, 0]])
    after(idle, 40, [[5, 0, 5, 0], [1, 1, 1, 0]])
    assert "the MTP layer: 3." in (idle.remark(names) or "")
    after(idle, 3 * PATIENCE, [[5, 0, 5, 0], [1, 1, 1, 0]])
    assert idle.remark(names) is None
    assert idle.share_L == [0.5, 0.25]


def test_a_run_that_goes_on_counts_on_and_doesnt_repeat_itself() -> None:
    rows = [[5, 0, 5, 5], [1, 1, 1, 0]]
    idle = after(IdleExperts(config()), PATIENCE, rows)
    again = IdleExperts(config(), idle.steps_LE.tolist())
    assert again.share_L == idle.share_L == [0.25, 0.25]
    after(again, 2 * PATIENCE, rows)
    assert again.remark(["layer 0", "layer 1"]) is None


def test_costless_experts_never_count_and_a_bank_counts_once() -> None:
    costless = after(IdleExperts(config(zero=1, copy_experts=1)), PATIENCE, [[1, 1, 1, 1, 0, 0]] * 2)
    assert costless.share_L == [0.0, 0.0]
    could_LE = torch.ones(2, 8, dtype=torch.bool)
    bank = after(IdleExperts(config(reuse=2)), PATIENCE, [[1, 0, 0, 0, 0, 0, 0, 1], [0, 0, 1, 1, 1, 1, 1, 0]], could_LE)
    assert bank.share_L == [1 / 8, 1 / 8]
    said = bank.remark(["layer 0", "layer 1"]) or ""
    assert "layer 0: 1 (and the layers that share its experts)" in said


def test_what_was_rounded_away_is_laid_to_the_tiles_and_much_is_cut_short() -> None:
    wide = config(router="token-rounding", experts=40, tile=4)
    idle = after(IdleExperts(wide), PATIENCE, [[0] * 40] * 2, torch.ones(2, 40, dtype=torch.bool))
    said = idle.remark(["layer 0", "layer 1"]) or ""
    assert "layer 1: 0, 1, 2, 3, 4, 5, 6, 7 and 32 more. A smaller moe.tile" in said
