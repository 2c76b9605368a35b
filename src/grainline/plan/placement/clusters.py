"""MoETuner's first program (arXiv 2502.06643, section 5.1): the experts of a layer in G clusters of equal load.

As printed it lacks the constraint that every expert is in exactly one cluster; here it has it.
"""

from __future__ import annotations

import time

import numpy as np

from grainline.documents import GrainlineError
from grainline.plan import program
from grainline.plan.placement.placement import Ints, Options
from grainline.plan.placement.statistics import Floats, Statistics


def clustered(statistics: Statistics, count: int, options: Options) -> tuple[Ints, float]:
    """The cluster of each expert, [banks, E], and the largest gap: of a layer's load, how much better it might be."""
    ends, banks = time.monotonic() + options.seconds, len(statistics.members)
    rows, worst = [], 0.0
    for bank, layers in enumerate(statistics.members):
        share = max(0.2, (ends - time.monotonic()) / (banks - bank))
        row, gap = of_bank(statistics.load_LE[list(layers)], count, options, share)
        rows.append(row)
        worst = max(worst, gap)
    return np.array(rows), worst


def of_bank(load_LE: Floats, count: int, options: Options, seconds: float) -> tuple[Ints, float]:
    """Of the layers that share a bank. A first guess stands where it is known to be good enough, or time runs out."""
    equal = options.sizes == "equal"
    mean_L = load_LE.sum(1) / count
    whole = float(mean_L.sum()) * count or 1.0
    guess = improved(load_LE, guessed(load_LE, count, equal), count, not equal)
    value = off_balance(load_LE, guess, count, options)
    # No load is below its mean, and no deviation below 0.
    bound = float(mean_L.sum()) if options.balance == "max" else 0.0
    if value - bound <= options.gap * whole:
        return guess, (value - bound) / whole
    p = program.Program()
    x = np.array(p.binary("x", load_LE.shape[1] * count)).reshape(-1, count)
    for expert, columns in enumerate(x.tolist()):
        p.equal(dict.fromkeys(columns, 1.0), 1.0)
        for later in columns[expert + 1 :]:  # clusters are alike: numbered as their first experts come
            p.fix(later, 0.0)
    for cluster in range(count):
        held = dict.fromkeys(x[:, cluster].tolist(), 1.0)
        if equal:
            p.equal(held, len(x) / count)
        else:
            p.at_least(held, 1.0)
    scale = 1.0 / whole
    for layer, load_E in enumerate(load_LE):
        mean = float(mean_L[layer])
        (most,) = p.continuous("most", low=mean * scale) if options.balance == "max" else (-1,)
        if options.balance == "max":
            p.minimise({most: 1.0})
        for cluster in range(count):
            load = dict(zip(x[:, cluster].tolist(), (load_E * scale).tolist(), strict=True))
            if options.balance == "max":
                p.at_least({most: 1.0} | {column: -value for column, value in load.items()}, 0.0)
            else:
                (off,) = p.continuous("off")
                p.minimise({off: 1.0})
                p.at_least({off: 1.0} | {column: -value for column, value in load.items()}, -mean * scale)
                p.at_least({off: 1.0} | load, mean * scale)
    if options.balance == "mean":
        (one,) = p.continuous("one", low=1.0, high=1.0)  # so that the gap is of the whole load, not of nearly nothing
        p.minimise({one: 1.0})
    try:
        answer = p.solve(seconds=seconds, gap=options.gap)
    except program.Infeasible:
        raise
    except GrainlineError:  # none in time
        return guess, (value - bound) / whole
    found = answer.values[x].argmax(1)
    bound = max(bound, (answer.bound - (1.0 if options.balance == "mean" else 0.0)) * whole)
    best = min((found, guess), key=lambda each: off_balance(load_LE, each, count, options))
    return best, max(0.0, off_balance(load_LE, best, count, options) - bound) / whole


def off_balance(load_LE: Floats, cluster_E: Ints, count: int, options: Options) -> float:
    """What is minimised: Σ over layers of Σ |load − mean| over clusters, or of the greatest load."""
    load_LC = np.stack([np.bincount(cluster_E, weights=load_E, minlength=count) for load_E in load_LE])
    if options.balance == "max":
        return float(load_LC.max(1).sum())
    return float(np.abs(load_LC - load_LC.mean(1, keepdims=True)).sum())


def guessed(load_LE: Floats, count: int, equal: bool) -> Ints:
    """The heaviest expert first, to the cluster with least; none stays empty."""
    experts = load_LE.shape[1]
    cluster_E, done_LC, held_C = np.zeros(experts, dtype=np.intp), np.zeros((len(load_LE), count)), np.zeros(count)
    for place, expert in enumerate(np.argsort(-load_LE.max(0), kind="stable")):
        full_C = held_C >= experts / count if equal else np.zeros(count, dtype=bool)
        if experts - place <= (held_C == 0).sum():  # those left are just enough for the empty ones
            full_C = full_C | (held_C > 0)
        after_C = (done_LC + load_LE[:, [expert]]).max(0) + 1e-9 * held_C
        cluster = int(np.where(full_C, np.inf, after_C).argmin())
        cluster_E[expert] = cluster
        done_LC[:, cluster] += load_LE[:, expert]
        held_C[cluster] += 1
    return cluster_E


def improved(load_LE: Floats, cluster_E: Ints, count: int, sizes_are_free: bool) -> Ints:
    """The best swap of two experts, or move where sizes are free, again and again while squares of loads get less."""
    cluster_E, experts = cluster_E.copy(), np.arange(len(cluster_E))
    while True:
        one_hot_EC = np.eye(count)[cluster_E]
        load_LC, held_C = load_LE @ one_hot_EC, one_hot_EC.sum(0)
        mine_LE = load_LC[:, cluster_E]
        difference_LEE = load_LE[:, None, :] - load_LE[:, :, None]  # what a's cluster gains if a and b are swapped
        swap_EE = (difference_LEE * (difference_LEE + mine_LE[:, :, None] - mine_LE[:, None, :])).sum(0)
        swap_EE[cluster_E[:, None] == cluster_E] = 0.0
        a, b = np.unravel_index(swap_EE.argmin(), swap_EE.shape)
        gain, move = swap_EE[a, b], None
        if sizes_are_free:
            move_EC = (load_LE[:, :, None] * (load_LE[:, :, None] + load_LC[:, None, :] - mine_LE[:, :, None])).sum(0)
            move_EC[experts, cluster_E] = 0.0
            move_EC[held_C[cluster_E] == 1] = 0.0
            expert, cluster = np.unravel_index(move_EC.argmin(), move_EC.shape)
            if move_EC[expert, cluster] < gain:
                gain, move = move_EC[expert, cluster], (expert, cluster)
        if gain > -1e-12 * max(1.0, float((load_LC**2).sum())):
            return cluster_E
        if move is None:
            cluster_E[[a, b]] = cluster_E[[b, a]]
        else:
            cluster_E[move[0]] = move[1]
