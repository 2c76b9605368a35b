"""What must come before what within a rank's list: the rules that `validate` holds schedules to."""

from __future__ import annotations

from grainline.schedule.actions import COPIES, RECEIVES, SENDS, Kind

Places = dict[tuple[int, Kind, int, int], int]
"""Rank, kind, stage, micro-batch (−1 where they mean nothing) → index in the rank's list."""

HOP_KINDS = frozenset({Kind.F, Kind.B, Kind.I, Kind.W, Kind.R}) | COPIES | SENDS | RECEIVES
"""Actions for one micro-batch at one stage."""

ORDER: tuple[tuple[Kind, Kind], ...] = (
    (Kind.RECV_F, Kind.F),
    (Kind.F, Kind.SEND_F),
    (Kind.F, Kind.OFFLOAD),
    (Kind.OFFLOAD, Kind.FETCH),
    (Kind.F, Kind.R),
    (Kind.FETCH, Kind.R),
    *((before, backward) for before in (Kind.F, Kind.R, Kind.FETCH, Kind.RECV_B) for backward in (Kind.B, Kind.I)),
    *((backward, Kind.SEND_B) for backward in (Kind.B, Kind.I)),
    (Kind.I, Kind.W),
)
"""For the same micro-batch at the same stage."""

PASS_ORDER: tuple[tuple[Kind, Kind], ...] = (
    (Kind.C0, Kind.S),
    (Kind.S, Kind.C1),
    (Kind.C1, Kind.T),
    (Kind.T, Kind.C2),
    (Kind.EMBED, Kind.C_EMBED),
    (Kind.C_EMBED_GRAD, Kind.EMBED_GRAD),
)
"""For the same micro-batch on the same rank (arXiv 2411.05288, section 4)."""

AT_ENDS: tuple[tuple[Kind, Kind, int], ...] = (
    (Kind.C_EMBED, Kind.F, 0),
    *((backward, Kind.C_EMBED_GRAD, 0) for backward in (Kind.B, Kind.I)),
    (Kind.F, Kind.C0, -1),
    *((collective, backward, -1) for collective in (Kind.C1, Kind.C2) for backward in (Kind.B, Kind.I)),
)
"""For the same micro-batch where its path begins (0) or ends (−1)."""

TRAINING = frozenset({Kind.B, Kind.I, Kind.W, Kind.R, Kind.SEND_B, Kind.RECV_B, Kind.T, Kind.C2, Kind.UPDATE}) | COPIES
TRAINING |= {Kind.EMBED_GRAD, Kind.C_EMBED_GRAD, Kind.REDUCE}
"""What evaluation doesn't do."""

PASSES: tuple[frozenset[Kind], ...] = (
    frozenset({Kind.C0, Kind.S, Kind.C1, Kind.T}),
    frozenset({Kind.C2}),
    frozenset({Kind.EMBED, Kind.C_EMBED, Kind.C_EMBED_GRAD, Kind.EMBED_GRAD}),
)
"""Families of which a step has all, on every rank and for every micro-batch, or none."""
