"""Which tensors are in local memory while operators run in a known order: the rule that planning and running share.

Operators are taken in their order. What one needs and isn't there is fetched; for room, what is used furthest in the
future goes first (Belady 1966), because layers come round again and recency is the wrong rule. Of these only
what has no use within the look-ahead that is still to come: a fetch for operator i may then start as soon as operator
i − w − 1 has ended. Where that isn't enough, what was used longest ago goes, and the fetch waits for its user to end.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from grainline.documents import GrainlineError

NextUse = Callable[[str, int], float]
"""(tensor, operator) → the first operator from that one on which uses it; infinite where none does."""


@dataclass(frozen=True)
class Admission:
    """What becomes of memory for one operator: tensors that come, and those that must go first."""

    fetched: tuple[str, ...]
    dropped: tuple[str, ...]
    after: int  # the last operator whose end the fetches wait for; −1: none


@dataclass
class Residents:
    """The tensors in local memory, as far as they are planned. Pinned ones never go."""

    budget_bytes: float
    sizes: Mapping[str, float]
    lookahead: int
    pinned: frozenset[str] = frozenset()
    volatile: frozenset[str] = frozenset()  # whose content is another each time: they go after their use
    last_use: dict[str, int] = field(default_factory=dict)  # of those that are there
    held_bytes: float = 0.0

    def __post_init__(self) -> None:
        pinned = sum(self.sizes[name] for name in self.pinned)
        if pinned > self.budget_bytes:
            raise GrainlineError(
                f"{pinned:,.0f} bytes are pinned, more than the budget of {self.budget_bytes:,.0f}. Pin less."
            )
        self.held_bytes = pinned
        self.last_use = dict.fromkeys(self.pinned, -1)

    def admit(self, i: int, wanted: Collection[str], next_use: NextUse, operator: str = "") -> Admission:
        """Make room for operator number `i`, which uses the tensors `wanted`.

        Raises GrainlineError where they and what is pinned never fit, with the operator and its bytes.
        """
        missing = tuple(name for name in wanted if name not in self.last_use)
        need = sum(self.sizes[name] for name in missing)
        own = sum(self.sizes[name] for name in wanted if name not in self.pinned)
        pinned = sum(self.sizes[name] for name in self.pinned)
        if own + pinned > self.budget_bytes * (1 + 1e-12):
            beside = f" beside {pinned:,.0f} that are pinned" if pinned else ""
            raise GrainlineError(
                f"operator {operator or i} needs {own:,.0f} bytes at once{beside}, and the local budget is "
                f"{self.budget_bytes:,.0f}. Give it at least {own + pinned:,.0f}."
            )
        dropped: list[str] = []
        for name in [
            n for n in sorted(self.volatile & self.last_use.keys()) if n not in wanted and self.last_use[n] < i
        ]:
            if self.last_use[name] < i - self.lookahead:
                dropped.append(self._drop(name))
        after = i - self.lookahead - 1
        while self.held_bytes + need > self.budget_bytes * (1 + 1e-12):
            name = self._victim(i, wanted, next_use)
            after = max(after, self.last_use[name])
            dropped.append(self._drop(name))
        for name in wanted:
            self.last_use[name] = i
        self.held_bytes += need
        return Admission(missing, tuple(dropped), max(after, -1) if missing else -1)

    def _victim(self, i: int, wanted: Collection[str], next_use: NextUse) -> str:
        others = [name for name in self.last_use if name not in wanted and name not in self.pinned]
        free = [name for name in others if self.last_use[name] <= i - self.lookahead - 1]
        if free:
            return max(free, key=lambda name: (_again(name, self.volatile, next_use, i), name))
        return min(others, key=lambda name: (self.last_use[name], name))

    def _drop(self, name: str) -> str:
        del self.last_use[name]
        self.held_bytes -= self.sizes[name]
        return name


def _again(name: str, volatile: frozenset[str], next_use: NextUse, i: int) -> float:
    return float("inf") if name in volatile else next_use(name, i)
