"""A tiny run that every test can afford: two layers, sequences of 32, text packed once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from grainline.documents import Plan, Recipe

TINY = {
    "name": "tiny",
    "model": {"depth": 2},
    "data": {"text": ["builtin"], "vocab_size": 300, "sequence_length": 32, "max_bytes": 60_000},
    "training": {"steps": 12, "batch_tokens": 128},
    "learning_rate": {"peak": 0.01, "warmup_steps": 2},
    "precision": {"compute": "float32"},
    "validation": {"every": 4, "max_sequences": 8},
    "checkpoint": {"every": 5},
}

MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def tiny() -> MakeRecipe:
    """`tiny(optimizer={…})`: the tiny recipe with keys of some tables changed."""

    def make(**tables: object) -> Recipe:
        merged = {**TINY}
        for key, value in tables.items():
            before = merged.get(key)
            merged[key] = before | value if isinstance(before, dict) and isinstance(value, dict) else value  # type: ignore[assignment]
        return Recipe.parse(merged)

    return make


@pytest.fixture
def one_thread() -> Plan:
    """Threads that wait for each other are slow on a busy machine."""
    return Plan.parse({"execution": {"threads": 1}})


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that keeps tokenizer and packed text from one test to the next."""
    return tmp_path_factory.mktemp("data")
