"""Messages counted token by token on a trace: what a placement makes a dispatcher send from rank to rank.

Two ways to run experts. *dispatch*: from the rank where a token's sequence lives to its experts' ranks and back, in
each layer. *coherent* (ExFlow, section IV-A): the token goes on from where its first expert was, and what its other
experts made is sent there; nothing comes back, and keys and values of new tokens go to all ranks instead.
A token is sent once to a rank, however many of its experts are there. Sequences live on ranks in turn.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from grainline.documents.routing_trace import NONE, RoutingTrace
from grainline.plan.placement.placement import Ints, Placement
from grainline.plan.placement.ranks import ExpertRanks, Floats


@dataclass(frozen=True)
class Traffic:
    """Vectors per token, [L, G, G] from rank to rank (on the diagonal what stays), and rows of experts, [L, G].

    coherent_LGG: step l brings tokens to layer l's experts, the first one from their homes. merged_LGG: what other
    experts made, to the first one's rank; nothing where tokens have one expert.
    """

    dispatch_LGG: Floats
    coherent_LGG: Floats
    merged_LGG: Floats
    rows_LG: Floats
    coherent_rows_LG: Floats


def counted(trace: RoutingTrace, placement: Placement, ranks: ExpertRanks) -> Traffic:
    """Of every token of the trace. Of an expert's copies the nearest one serves; of equals, tokens take turns."""
    layers, count = len(trace.layers), ranks.count
    home_T = np.unique(trace.sequence_T, return_inverse=True)[1] % count
    dispatch, coherent, merged = (np.zeros((layers, count, count)) for _ in range(3))
    rows, coherent_rows = np.zeros((layers, count)), np.zeros((layers, count))
    now_T = home_T.copy()
    for layer in range(layers):
        table_ER = _table(placement, trace.banks[layer])
        expert_TK = trace.expert_TLK[:, layer]
        from_home_TK = serving(expert_TK, table_ER, home_T, ranks)
        _count(dispatch[layer], home_T, from_home_TK)
        rows[layer] = np.bincount(from_home_TK[from_home_TK != NONE], minlength=count)
        on_TK = serving(expert_TK, table_ER, now_T, ranks)
        _count(coherent[layer], now_T, on_TK)
        coherent_rows[layer] = np.bincount(on_TK[on_TK != NONE], minlength=count)
        next_T = np.where(on_TK[:, 0] == NONE, now_T, on_TK[:, 0])
        _count(merged[layer], next_T, on_TK, back=True)
        now_T = next_T
    total = trace.tokens
    return Traffic(dispatch / total, coherent / total, merged / total, rows / total, coherent_rows / total)


def _table(placement: Placement, bank: int) -> Ints:
    """[E, R]: the ranks of each expert, the first one again where others have more."""
    row = placement.holders[bank]
    widest = max(map(len, row))
    return np.array([[*ranks, *[ranks[0]] * (widest - len(ranks))] for ranks in row], dtype=np.intp)


def serving(expert_TK: NDArray[np.int32], table_ER: Ints, at_T: Ints, ranks: ExpertRanks) -> Ints:
    """[T, K]: the rank whose copy serves each choice of tokens that are at these ranks; NONE for no choice."""
    candidates_TKR = table_ER[np.maximum(expert_TK, 0)]
    chosen_TK = candidates_TKR[..., 0]
    if table_ER.shape[1] > 1:
        apart_TKR = ranks.apart_GG[at_T[:, None, None], candidates_TKR]
        copies = table_ER.shape[1]
        turn_TR = (np.arange(copies) + np.arange(len(at_T))[:, None]) % copies
        best_TK = (apart_TKR.astype(np.intp) * copies + turn_TR[:, None]).argmin(-1)
        chosen_TK = np.take_along_axis(candidates_TKR, best_TK[..., None], -1)[..., 0]
    return np.where(expert_TK == NONE, NONE, chosen_TK)


def _count(sent_GG: Floats, at_T: Ints, to_TK: Ints, back: bool = False) -> None:
    """Add one for each different rank that a token goes to, or with `back` comes from."""
    for k in range(to_TK.shape[1]):
        new_T = to_TK[:, k] != NONE
        for before in range(k):
            new_T &= to_TK[:, k] != to_TK[:, before]
        pair = (to_TK[new_T, k], at_T[new_T]) if back else (at_T[new_T], to_TK[new_T, k])
        np.add.at(sent_GG, pair, 1.0)
