"""Where stages live: the rank of each stage, for the ways in which schedules lay them out."""

from __future__ import annotations


def looped(ranks: int, chunks: int = 1) -> tuple[int, ...]:
    """Stage c·P + r on rank r: with more than one chunk per rank, the pipeline goes round (arXiv 2104.04473, 2.2)."""
    return tuple(range(ranks)) * chunks


def v_shape(ranks: int) -> tuple[int, ...]:
    """Stages r and 2P − 1 − r on rank r: the first and the last stage are neighbours (arXiv 2401.10241, section 6)."""
    return (*range(ranks), *reversed(range(ranks)))
