"""Interleaved 1F1B: several stages per rank, so that a micro-batch goes round the ranks more than once."""

from __future__ import annotations

from grainline.schedule.actions import Action, Kind
from grainline.schedule.members.one_f_one_b import alternate
from grainline.schedule.members.placement import looped
from grainline.schedule.schedule import Schedule, straight_paths


def interleaved_1f1b(ranks: int, microbatches: int, chunks: int = 2) -> Schedule:
    """Bare compute of interleaved 1F1B (arXiv 2104.04473, section 2.2.2): stage c·P + r is chunk c of rank r.

    Micro-batches go in groups of P through a chunk before the next chunk's turn; backwards mirror that. The bubble is
    (P − 1)/(M·v) of the ideal time; rank 0 holds 2(P − 1) + (v − 1)·P + 1 chunks' worth. One chunk is plain 1F1B.
    Raises ValueError if M is no multiple of P (of any use only with several chunks).
    """
    if chunks > 1 and microbatches % ranks:
        raise ValueError(f"{microbatches} micro-batches can't be interleaved over {ranks} ranks: not a multiple")
    return interleaving("interleaved", ranks, microbatches, chunks, ahead=2 if chunks > 1 else 1)


def interleaving(name: str, ranks: int, microbatches: int, chunks: int, ahead: int) -> Schedule:
    """1F1B's order over chunks; `ahead` is what a rank has more of in its warm-up than the rank after it."""
    total = microbatches * chunks
    group = ranks if chunks > 1 else max(1, microbatches)
    actions = []
    for rank in range(ranks):
        warm_up = min(total, ahead * (ranks - 1 - rank) + (chunks - 1) * ranks)
        forwards, backwards = [], []
        for step in range(total):
            chunk = step // group % chunks
            microbatch = step // (group * chunks) * group + step % group
            forwards.append(Action(Kind.F, chunk * ranks + rank, microbatch))
            backwards.append(Action(Kind.B, (chunks - 1 - chunk) * ranks + rank, microbatch))
        actions.append(alternate(forwards, backwards, warm_up))
    return Schedule(name, straight_paths(looped(ranks, chunks), microbatches), tuple(actions))
