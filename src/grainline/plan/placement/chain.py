"""MoETuner's second program (arXiv 2502.06643, section 5.2): clusters to ranks, for the least tail between layers.

Its cost is a chain: of the permutation of one layer and that of the next alone. So dynamic programming over
permutations is exact, (G!)² of them a layer. That every rank holds equally many experts over the whole model ties
layers together, and is had by a multiplier for each rank's slots and then by repair. The linearised program is kept as
an oracle for G ≤ 4; beyond 6 ranks swaps are tried instead.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.optimize import linear_sum_assignment

from grainline.documents import GrainlineError
from grainline.plan.placement.placement import Ints
from grainline.plan.placement.statistics import Floats, Statistics
from grainline.plan.program import Infeasible, Program

UNEQUAL = "no exchange was found that gives ranks equally many experts"
MOST_BY_DP, MOST_BY_PROGRAM = 6, 4  # ranks
ROUNDS = 40  # of the multipliers
SPREAD = 1e-3
"""How much the mean over pairs counts beside the slowest, in searching alone: it tells equal tails apart."""


@dataclass(frozen=True)
class Chain:
    """flow_LCC: steps between clusters of one layer and the next; banks: of each layer; size_BC: experts of clusters.

    A decision is order_BG: the cluster on each rank.
    """

    flow_LCC: Floats
    banks: tuple[int, ...]
    size_BC: Ints
    bytes_per_second_GG: Floats

    @classmethod
    def of(cls, statistics: Statistics, cluster_BE: Ints, bytes_per_second_GG: Floats) -> Chain:
        """Of clusters of these statistics. Rates in proportion do."""
        count = len(bytes_per_second_GG)
        one_hot = np.eye(count)[cluster_BE]  # [B, E, C]
        flows = [
            one_hot[statistics.banks[layer]].T @ flow_EE @ one_hot[statistics.banks[layer + 1]]
            for layer, flow_EE in enumerate(statistics.flow_LEE)
        ]
        found = np.array(flows).reshape(-1, count, count)
        return cls(found, statistics.banks, one_hot.sum(1).astype(np.intp), bytes_per_second_GG)

    @property
    def ranks(self) -> int:
        """G."""
        return self.size_BC.shape[1]

    def tail(self, order_BG: Ints) -> float:
        """Σ over layers of the slowest pair's time."""
        return float(sum(self.pairs(layer, order_BG).max() for layer in range(len(self.flow_LCC))))

    def pairs(self, layer: int, order_BG: Ints) -> Floats:
        """[G, G]: time of each pair from this layer to the next."""
        here, there = order_BG[self.banks[layer]], order_BG[self.banks[layer + 1]]
        return self.flow_LCC[layer][np.ix_(here, there)] / self.bytes_per_second_GG

    def slots(self, order_BG: Ints) -> Ints:
        """[G]: experts that each rank holds."""
        return np.take_along_axis(self.size_BC, order_BG, 1).sum(0)

    def off_balance(self, order_BG: Ints) -> float:
        """Slots beyond or below an equal share, over the ranks; less than 1 each is as equal as whole numbers are."""
        share = self.size_BC.sum() / self.ranks
        allowed = 0.0 if share == int(share) else 1 - 1e-9
        return float(np.maximum(np.abs(self.slots(order_BG) - share) - allowed, 0).sum())

    @cached_property
    def touching(self) -> tuple[tuple[int, ...], ...]:
        """Of each bank, the layers whose step to the next one depends on it."""
        steps = range(len(self.flow_LCC))
        return tuple(
            tuple(layer for layer in steps if bank in (self.banks[layer], self.banks[layer + 1]))
            for bank in range(len(self.size_BC))
        )


def placed(chain: Chain, solver: str, seconds: float, gap: float) -> tuple[Ints, str]:
    """order_BG, and how it was found."""
    many = chain.ranks > MOST_BY_DP
    if solver == "auto":
        solver = "local" if many else "dp"
    if solver == "dp":
        if many:
            raise GrainlineError(
                f"{chain.ranks} ranks have too many permutations: chain 'dp' is for {MOST_BY_DP} or fewer."
            )
        if list(chain.banks) != sorted(chain.banks):
            raise GrainlineError("layers that share experts must be neighbours for chain 'dp': take 'local'.")
        return by_permutations(chain)
    if solver == "milp":
        return by_program(chain, seconds, gap)
    order_BG = by_swaps(chain)
    return order_BG, "by swaps" if chain.off_balance(order_BG) == 0 else f"by swaps; {UNEQUAL}"


def by_permutations(chain: Chain) -> tuple[Ints, str]:
    """Dynamic programming; with multipliers and repair where sizes differ."""
    every = np.array(list(itertools.permutations(range(chain.ranks))))  # [P, G]: cluster on each rank
    cost = [_between(chain, layer, every) for layer in range(len(chain.flow_LCC))]
    size_BPG = chain.size_BC[:, every]
    best, value = every[_path(chain, cost, np.zeros((len(chain.size_BC), len(every))))], 0.0
    value = chain.tail(best)
    if chain.off_balance(best) == 0:
        return best, "the least tail, by dynamic programming"
    # No answer with equal slots is below what the multipliers allow (weak duality).
    price_G, share, bound = np.zeros(chain.ranks), chain.size_BC.sum() / chain.ranks, value
    found, step = [best], value / max(1.0, float(np.abs(chain.slots(best) - share).sum()))
    for round_ in range(ROUNDS):
        over_G = chain.slots(found[-1]) - share
        price_G = price_G + step / (1 + round_) * over_G
        paid_BP = size_BPG @ price_G
        order_BG = every[_path(chain, cost, paid_BP)]
        least = chain.tail(order_BG) + float(price_G @ (chain.slots(order_BG) - share))
        bound = max(bound, least - (0.0 if share == int(share) else float(np.abs(price_G).sum())))
        found.append(order_BG)
    repaired = [polish(chain, repair(chain, each)) for each in {each.tobytes(): each for each in found}.values()]
    best = min(repaired, key=lambda each: (chain.off_balance(each), chain.tail(each)))
    if chain.off_balance(best) > 0:
        return best, UNEQUAL
    value = chain.tail(best)
    return best, f"within {(value - bound) / max(value, 1e-12):.1%} of the least tail with equal slots"


def _between(chain: Chain, layer: int, every: Ints) -> Floats:
    """[P, P]: the slowest pair for every two permutations."""
    found = np.zeros((len(every), len(every)))
    for a in range(chain.ranks):
        for b in range(chain.ranks):
            if a != b:
                pair_CC = chain.flow_LCC[layer] / chain.bytes_per_second_GG[a, b]
                np.maximum(found, pair_CC[every[:, a][:, None], every[:, b]], out=found)
    return found


def _path(chain: Chain, cost: list[Floats], paid_BP: Floats) -> Ints:
    """The cheapest permutation of each bank."""
    banks = len(chain.size_BC)
    so_far, last = paid_BP[0].copy(), []
    for bank in range(banks):
        if bank:
            (step,) = (layer for layer in chain.touching[bank] if chain.banks[layer] == bank - 1)
            through = so_far[:, None] + cost[step]
            last.append(through.argmin(0))
            so_far = through.min(0) + paid_BP[bank]
        for layer in chain.touching[bank]:  # steps among layers of one bank
            if chain.banks[layer] == chain.banks[layer + 1] == bank:
                so_far = so_far + np.diag(cost[layer])
    path = [int(so_far.argmin())]
    for back in reversed(last):
        path.append(int(back[path[-1]]))
    return np.array(path[::-1])


def by_program(chain: Chain, seconds: float, gap: float) -> tuple[Ints, str]:
    """The linearised program, G⁴ products a layer. Raises GrainlineError beyond 4 ranks, or where no answer has equal
    slots.
    """
    ranks, banks = chain.ranks, len(chain.size_BC)
    if ranks > MOST_BY_PROGRAM:
        raise GrainlineError(f"chain 'milp' is for {MOST_BY_PROGRAM} ranks or fewer, not {ranks}.")
    p = Program()
    y = np.array(p.binary("y", banks * ranks * ranks)).reshape(banks, ranks, ranks)  # bank, cluster, rank
    for bank in range(banks):
        for i in range(ranks):
            p.equal(dict.fromkeys(y[bank, i].tolist(), 1.0), 1.0)
            p.equal(dict.fromkeys(y[bank, :, i].tolist(), 1.0), 1.0)
    share = chain.size_BC.sum() / ranks
    for rank in range(ranks):
        held = {int(y[b, c, rank]): float(chain.size_BC[b, c]) for b in range(banks) for c in range(ranks)}
        p.at_least(held, float(np.floor(share)))
        p.at_most(held, float(np.ceil(share)))
    for layer, flow_CC in enumerate(chain.flow_LCC):
        here, there = y[chain.banks[layer]], y[chain.banks[layer + 1]]
        (tail,) = p.continuous("tail")
        p.minimise({tail: 1.0})
        for a, b in itertools.permutations(range(ranks), 2):
            pair: dict[int, float] = {tail: 1.0}
            for c, d in itertools.product(range(ranks), repeat=2):
                seconds_of = float(flow_CC[c, d] / chain.bytes_per_second_GG[a, b])
                first, second = int(here[c, a]), int(there[d, b])
                if first == second or (c == d and chain.banks[layer] == chain.banks[layer + 1]) or not seconds_of:
                    continue
                (both,) = p.continuous("both", high=1.0)
                p.at_least({both: 1.0, first: -1.0, second: -1.0}, -1.0)
                pair[both] = -seconds_of
            p.at_least(pair, 0.0)
    try:
        answer = p.solve(seconds=seconds, gap=gap)
    except Infeasible:
        raise GrainlineError(
            "no order of these clusters gives every rank as many experts: take sizes 'equal'."
        ) from None
    return answer.values[y].argmax(1), f"integer program, within {max(0.0, answer.gap):.1%}"


def by_swaps(chain: Chain) -> Ints:
    """From two starts: swaps of two ranks' clusters in one bank, swept there and back while any helps; then repair."""
    same = np.tile(np.arange(chain.ranks), (len(chain.size_BC), 1))
    found = [repair(chain, _swept(chain, start)) for start in (same, _following(chain))]
    return min(found, key=lambda each: (chain.off_balance(each), chain.tail(each)))


def _following(chain: Chain) -> Ints:
    """Each bank's clusters where most of what comes to them already is."""
    order = [np.arange(chain.ranks)]
    for bank in range(1, len(chain.size_BC)):
        gain_GC = np.zeros((chain.ranks, chain.ranks))
        for layer in chain.touching[bank]:
            if chain.banks[layer] < bank == chain.banks[layer + 1]:
                gain_GC += chain.flow_LCC[layer][order[chain.banks[layer]]]
        order.append(linear_sum_assignment(gain_GC, maximize=True)[1])
    return np.array(order)


def _local(chain: Chain, order_BG: Ints, bank: int) -> float:
    """What depends on one bank, with a little for all pairs."""
    parts = (chain.pairs(layer, order_BG) for layer in chain.touching[bank])
    return float(sum(pair_GG.max() + SPREAD * pair_GG.mean() for pair_GG in parts))


def _swept(chain: Chain, order_BG: Ints) -> Ints:
    order_BG, banks = order_BG.copy(), len(chain.size_BC)
    better = True
    while better:
        better = False
        for bank in [*range(banks), *reversed(range(banks))]:
            value = _local(chain, order_BG, bank)
            for a, b in itertools.combinations(range(chain.ranks), 2):
                order_BG[bank, [a, b]] = order_BG[bank, [b, a]]
                tried = _local(chain, order_BG, bank)
                if tried < value * (1 - 1e-9):
                    value, better = tried, True
                else:
                    order_BG[bank, [a, b]] = order_BG[bank, [b, a]]
    return order_BG


def repair(chain: Chain, order_BG: Ints) -> Ints:
    """Swaps that bring slots nearer to equal, each the one that costs the tail least for what it mends."""
    order_BG = order_BG.copy()
    while (off := chain.off_balance(order_BG)) > 0:
        best: tuple[float, int, int, int] | None = None
        slots_G = chain.slots(order_BG)
        fullest, emptiest = int(slots_G.argmax()), int(slots_G.argmin())
        for bank in range(len(chain.size_BC)):
            value = _local(chain, order_BG, bank)
            for a, b in itertools.combinations(range(chain.ranks), 2):
                if not {a, b} & {fullest, emptiest}:
                    continue
                order_BG[bank, [a, b]] = order_BG[bank, [b, a]]
                mended = off - chain.off_balance(order_BG)
                if mended > 1e-9:
                    rate = (_local(chain, order_BG, bank) - value) / mended
                    best = min(best or (rate, bank, a, b), (rate, bank, a, b))
                order_BG[bank, [a, b]] = order_BG[bank, [b, a]]
        if best is None:
            return order_BG
        _, bank, a, b = best
        order_BG[bank, [a, b]] = order_BG[bank, [b, a]]
    return order_BG


def polish(chain: Chain, order_BG: Ints) -> Ints:
    """Swaps that leave every rank's slots as they are: of clusters of one size, or two that make up for one another."""
    order_BG, value, better = order_BG.copy(), chain.tail(order_BG), True
    while better:
        better = False
        for a, b in itertools.combinations(range(chain.ranks), 2):
            moves = [_swap(chain, order_BG, bank, a, b) for bank in range(len(chain.size_BC))]
            cheapest: dict[int, tuple[float, int]] = {}  # by slots that a gains
            for bank, (gained, cost) in enumerate(moves):
                cheapest[gained] = min(cheapest.get(gained, (np.inf, 0)), (cost, bank))
            tries: list[tuple[float, tuple[int, ...]]] = [
                (cost, (bank,)) for gained, (cost, bank) in cheapest.items() if gained == 0
            ]
            tries += [
                (cost + cheapest[-gained][0], (bank, cheapest[-gained][1]))
                for gained, (cost, bank) in cheapest.items()
                if gained > 0 and -gained in cheapest
            ]
            for cost, banks in sorted(tries):
                if cost >= 0:
                    break
                tried = order_BG.copy()
                for bank in banks:
                    tried[bank, [a, b]] = tried[bank, [b, a]]
                now = chain.tail(tried)  # two banks that are neighbours don't add up as `cost` has them
                if now < value * (1 - 1e-9):
                    order_BG, value, better = tried, now, True
                    break
    return order_BG


def _swap(chain: Chain, order_BG: Ints, bank: int, a: int, b: int) -> tuple[int, float]:
    """Slots that rank a gains if it and b swap their clusters of a bank, and what it costs."""
    gained = int(chain.size_BC[bank, order_BG[bank, b]] - chain.size_BC[bank, order_BG[bank, a]])
    before = _local(chain, order_BG, bank)
    order_BG[bank, [a, b]] = order_BG[bank, [b, a]]
    after = _local(chain, order_BG, bank)
    order_BG[bank, [a, b]] = order_BG[bank, [b, a]]
    return gained, after - before
