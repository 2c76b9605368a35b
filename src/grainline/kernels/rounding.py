"""Counts per expert rounded to whole tiles (SonicMoE, arXiv 2512.14080, section 5): on the host, and on the device.

Ties go down, and so does what would be more than there are tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from grainline.documents import GrainlineError
from grainline.documents.moe import Rounding


def on_host(counts_E: Tensor, mass_TE: Tensor, tile: int, rounding: Rounding, draw_E: Tensor | None = None) -> Tensor:
    """See `kernels.round_counts`; one expert after another, so a device is waited for."""
    tokens, counts = len(mass_TE), counts_E.tolist()
    downs = [count // tile * tile for count in counts]
    ups = [down if down == count else down + tile for count, down in zip(counts, downs, strict=True)]
    goes_up = ROUNDINGS[rounding](counts, downs, tile, mass_TE, draw_E)
    found = [up if is_up and up <= tokens else down for up, down, is_up in zip(ups, downs, goes_up, strict=True)]
    return torch.tensor(found, dtype=torch.int64, device=counts_E.device)


# As torch.compiler.disable does, whose import alone takes a second.
on_host._torchdynamo_disable = True  # type: ignore[attr-defined]


def on_device(counts_E: Tensor, mass_TE: Tensor, tile: int, rounding: Rounding, draw_E: Tensor | None = None) -> Tensor:
    """See `kernels.round_counts`; all experts at once, but for "balanced", which goes from one to the next."""
    if rounding == "balanced":
        return on_host(counts_E, mass_TE, tile, rounding)
    tokens, counts_E = len(mass_TE), counts_E.to(torch.int64)
    down_E = counts_E // tile * tile
    rest_E = counts_E - down_E
    if rounding == "nearest":
        is_up_E = 2 * rest_E > tile
    elif rounding == "stochastic":
        is_up_E = _drawn(draw_E).to(counts_E.device).double() * tile < rest_E
    elif rounding == "score":
        up_to_TE = torch.nn.functional.pad(mass_TE.nan_to_num().cumsum(0, dtype=torch.float64), (0, 0, 1, 0))
        places_3E = torch.stack((counts_E, down_E, down_E + tile)).clamp_max(tokens)
        here_E, below_E, above_E = up_to_TE.gather(0, places_3E)
        is_up_E = above_E - here_E < here_E - below_E
    else:
        is_up_E = torch.full_like(down_E, rounding == "up", dtype=torch.bool)
    return down_E + tile * (is_up_E & (rest_E > 0) & (down_E + tile <= tokens))


def _drawn(draw_E: Tensor | None) -> Tensor:
    if draw_E is None:
        raise GrainlineError("round_counts: rounding 'stochastic' needs draw_E, a uniform number for each expert.")
    return draw_E


Choice = Callable[[list[int], list[int], int, Tensor, Tensor | None], list[bool]]


def _nearest(counts: list[int], downs: list[int], tile: int, mass_TE: Tensor, draw_E: Tensor | None) -> list[bool]:
    return [2 * (count - down) > tile for count, down in zip(counts, downs, strict=True)]  # half a tile goes down


def _stochastic(counts: list[int], downs: list[int], tile: int, mass_TE: Tensor, draw_E: Tensor | None) -> list[bool]:
    draws = _drawn(draw_E).tolist()
    return [draw * tile < count - down for draw, count, down in zip(draws, counts, downs, strict=True)]


def _score(counts: list[int], downs: list[int], tile: int, mass_TE: Tensor, draw_E: Tensor | None) -> list[bool]:
    """Up where that adds less score than going down would drop."""
    up_to_TE = mass_TE.nan_to_num().cumsum(0, dtype=torch.float64)
    up_to_TE = torch.cat((torch.zeros_like(up_to_TE[:1]), up_to_TE))  # of the first 0 … T candidates
    place_3E = torch.tensor([counts, downs, [down + tile for down in downs]], device=mass_TE.device)
    here, below, above = up_to_TE.gather(0, place_3E.clamp_max(len(mass_TE))).tolist()
    return [a - h < h - b for h, b, a in zip(here, below, above, strict=True)]


def _balanced(counts: list[int], downs: list[int], tile: int, mass_TE: Tensor, draw_E: Tensor | None) -> list[bool]:
    """Each expert makes up for what those before it added or dropped: the total stays within half a tile."""
    carried, found = 0, []
    for count, down in zip(counts, downs, strict=True):
        rest = down - count
        is_up = rest < 0 and down + tile <= len(mass_TE) and abs(rest + tile + carried) < abs(rest + carried)
        carried += rest + tile * is_up
        found.append(is_up)
    return found


ROUNDINGS: dict[Rounding, Choice] = {
    "nearest": _nearest,
    "stochastic": _stochastic,
    "score": _score,
    "balanced": _balanced,
    "up": lambda counts, *_: [True] * len(counts),
    "down": lambda counts, *_: [False] * len(counts),
}
"""Rounding → whether each expert's count, given what is below it, goes up. Ties go down."""
