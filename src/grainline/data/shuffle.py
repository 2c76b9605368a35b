"""A permutation of 0 … n−1 that is computed where it's needed instead of stored: a keyed Feistel network.

Four rounds of a good round function make a pseudo-random permutation (Luby and Rackoff 1988); numbers beyond n are
encrypted again until they fall inside (Black and Rogaway 2002, "cycle walking"), on average less than four times.
"""

from __future__ import annotations

import numpy as np

ROUNDS = 6  # small domains need more than Luby and Rackoff's four


def permuted(indices: np.ndarray, size: int, key: int) -> np.ndarray:
    """int64 [N]: where a permutation of `size` numbers, chosen by the 64-bit `key`, takes each index."""
    half = np.uint64(max(1, (max(size - 1, 1).bit_length() + 1) // 2))
    mask = np.uint64((1 << int(half)) - 1)
    keys = _mixed(np.uint64(key) + np.arange(1, ROUNDS + 1, dtype=np.uint64) * GOLDEN)
    values = _encrypted(indices.astype(np.uint64), half, mask, keys)
    while (outside := values >= size).any():
        values[outside] = _encrypted(values[outside], half, mask, keys)
    return values.astype(np.int64)


def draw(size: int, key: int) -> int:
    """A number in 0 … size−1, chosen by the key."""
    return int(_mixed(np.array([key], np.uint64))[0]) % size


def key_of(*numbers: int) -> int:
    """64 bits that depend on every number and on their order."""
    key = np.zeros(1, np.uint64)
    for number in numbers:
        key = _mixed(key + GOLDEN + np.uint64(number % 2**64))
    return int(key[0])


GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _encrypted(values: np.ndarray, half: np.uint64, mask: np.uint64, keys: np.ndarray) -> np.ndarray:
    left, right = values >> half, values & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right + key) & mask)
    return (left << half) | right


def _mixed(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014): every bit of the result depends on every bit of x."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))
