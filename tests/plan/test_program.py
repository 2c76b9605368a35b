"""Small programs against enumeration."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grainline.plan.program import Infeasible, Program

WHOLE = st.integers(-5, 5)


@settings(deadline=None)
@given(
    costs=st.lists(WHOLE, min_size=4, max_size=4),
    rows=st.lists(st.tuples(st.lists(WHOLE, min_size=4, max_size=4), st.integers(-4, 8)), max_size=3),
)
def test_binary_programs_equal_enumeration(costs: list[int], rows: list[tuple[list[int], int]]) -> None:
    """Every choice of four bits, checked by hand."""
    program = Program()
    x = program.binary("x", 4)
    program.minimise(dict(zip(x, costs, strict=True)))
    for weights, limit in rows:
        program.at_most(dict(zip(x, weights, strict=True)), limit)
    fits = [bits for bits in product((0, 1), repeat=4) if all(np.dot(w, bits) <= limit for w, limit in rows)]
    if not fits:
        with pytest.raises(Infeasible):
            program.solve()
        return
    answer = program.solve()
    assert answer.objective == pytest.approx(min(np.dot(costs, bits) for bits in fits), abs=1e-6)
    assert answer.proven
    assert answer.gap <= 1e-6
    assert tuple(answer.values.astype(int)) in fits


def test_whole_real_and_fixed_variables() -> None:
    """min t with t ≥ |3n − 7|: n = 2 leaves 1; n fixed to 3 leaves 2."""

    def written() -> tuple[Program, int]:
        program = Program()
        (n,), (t,) = program.integer("n", high=9), program.continuous("t")
        program.at_least({t: 1, n: -3}, -7)
        program.at_least({t: 1, n: 3}, 7)
        program.minimise({t: 1})
        return program, n

    program, n = written()
    answer = program.solve()
    assert (answer.objective, answer.values[n]) == (pytest.approx(1), 2)
    program, n = written()
    program.fix(n, 3)
    assert program.solve().objective == pytest.approx(2)


def test_nothing_to_decide() -> None:
    """An empty program has an empty answer."""
    assert Program().solve().objective == 0.0
