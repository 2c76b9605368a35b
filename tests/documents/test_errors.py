"""Every mistake in a document is told with its file, its key as one would write it, and what would be right."""

from typing import Any

import pytest

from grainline.documents import Cluster, Document, DocumentError, ModelConfig, Plan, Recipe
from grainline.documents.errors import nearest

RECIPE: dict[str, Any] = {
    "model": {"depth": 4},
    "training": {"steps": 10, "batch_tokens": 1024},
    "learning_rate": {"peak": 1e-3},
}
MODEL: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "layers": 4,
    "ffn_hidden": 128,
    "attention": {"heads": 4, "head_dim": 16},
}
MOE = {"experts": 8, "top_k": 2, "expert_hidden": 32}
CLUSTER: dict[str, Any] = {
    "device_types": [{"name": "A100", "kind": "gpu"}],
    "nodes": [{"name": "n0", "devices": {"A100": 4}}],
}
BASES: dict[type[Document], dict[str, Any]] = {Recipe: RECIPE, ModelConfig: MODEL, Cluster: CLUSTER, Plan: {}}

MISTAKES: list[tuple[type[Document], dict[str, Any], str]] = [
    (Recipe, {"optimizer": {"wieght_decay": 0}}, "optimizer.wieght_decay: unknown key. Did you mean 'weight_decay'?"),
    (Recipe, {"peak": 1e-3}, "peak: unknown key. It belongs to [learning_rate]."),
    (Recipe, {"training": {"steps": 10}}, "training.batch_tokens: is required."),
    (Recipe, {"seed": "4"}, "seed: must be a whole number, not '4'."),
    (Recipe, {"seed": True}, "seed: must be a whole number, not true."),
    (Recipe, {"seed": 1.5}, "seed: must be a whole number, not 1.5."),
    (Recipe, {"name": 3}, "name: must be text, not 3."),
    (Recipe, {"data": {"text": "book.txt"}}, "data.text: must be a list, not 'book.txt'."),
    (Recipe, {"data": {"document_attention": 1}}, "data.document_attention: must be true or false, not 1."),
    (Recipe, {"loss": 3}, "loss: must be a table, not 3."),
    (Recipe, {"optimizer": {"betas": [0.9, "x"]}}, "optimizer.betas[1]: must be a number, not 'x'."),
    (Recipe, {"optimizer": {"betas": [0.9, 1.5]}}, "optimizer.betas[1]: must be less than 1, not 1.5."),
    (Recipe, {"optimizer": {"betas": [-1, 0.95]}}, "optimizer.betas[0]: must be greater than or equal to 0, not -1."),
    (Recipe, {"optimizer": {"kind": "sgd"}}, "optimizer.kind: must be 'muon' or 'adamw', not 'sgd'."),
    (Recipe, {"learning_rate": {"peak": float("inf")}}, "learning_rate.peak: must be a finite number, not inf."),
    (Recipe, {"learning_rate": {"peak": 0}}, "learning_rate.peak: must be greater than 0, not 0."),
    (
        Recipe,
        {"model": {"depth": 4, "pretrained": "x"}},
        "model: set exactly one of depth, config, config_file, pretrained; found ['depth', 'pretrained'].",
    ),
    (
        Recipe,
        {"training": {"steps": 10, "batch_tokens": 100}},
        "training.batch_tokens 100 must be a multiple of data.sequence_length 256.",
    ),
    (
        Recipe,
        {"learning_rate": {"peak": 1, "warmup_steps": 10}},
        "learning_rate.warmup_steps 10 must be fewer than training.steps 10.",
    ),
    (
        Recipe,
        {"model": {"config": MODEL | {"moe": MOE | {"top_k": 9}}}},
        "model.config.moe: top_k 9 is more than the 8 experts.",
    ),
    (
        ModelConfig,
        {"attention": {"heads": 4, "head_dim": 16, "kv_heads": 3}},
        "attention: heads 4 must be a multiple of kv_heads 3.",
    ),
    (ModelConfig, {"attention": {"heads": 4, "head_dim": 15}}, "must be an even number"),
    (ModelConfig, {"attention": {"kind": "mla", "heads": 4, "head_dim": 16}}, "kv_rank, rope_dim, value_dim"),
    (
        ModelConfig,
        {"attention": {"heads": 4, "head_dim": 16, "rope": {"scaling": "yarn"}}},
        "attention.rope: original_positions is required when scaling is 'yarn'.",
    ),
    (ModelConfig, {"moe": MOE | {"dense_layers": [4]}}, "moe: dense_layers [4] must lie between 0 and 3."),
    (ModelConfig, {"moe": MOE | {"groups": 3}}, "moe: experts 8 must be a multiple of groups 3."),
    (
        ModelConfig,
        {"moe": MOE | {"bias_balanced": True, "router": "expert-choice"}},
        "moe: router 'expert-choice' doesn't go with bias_balanced: its experts are evenly loaded by construction.",
    ),
    (ModelConfig, {"eos_token_id": "x"}, "eos_token_id: must be a whole number or must be a list, not 'x'."),
    (Plan, {"layout": {"data_paralel": 2}}, "layout.data_paralel: unknown key. Did you mean 'data_parallel'?"),
    (
        Plan,
        {"optimizer": {}},
        "optimizer: unknown key. Known here: execution, layout, made_for, pipeline, placement, schema_version.",
    ),
    (
        Cluster,
        {"nodes": [{"name": "n0", "devices": {"A100": 4}}, {"nme": "n1", "name": "n1", "devices": {"A100": 1}}]},
        "nodes[1].nme: unknown key. Did you mean 'name'?",
    ),
    (
        Cluster,
        {"device_types": [{"name": "A100", "kind": "gpu", "flops_per_second": {"bfloat16": -1}}]},
        "device_types[0].flops_per_second.bfloat16: must be greater than 0, not -1.",
    ),
    (
        Cluster,
        {"device_types": [{"name": "A100", "kind": "gpu", "memory": [{"name": "HBM", "capacity_bytes": "80GB"}]}]},
        "device_types[0].memory[0].capacity_bytes: must be a whole number, not '80GB'.",
    ),
    (Cluster, {"nodes": []}, "nodes: must hold at least 1, not 0."),
    (Cluster, {"nodes": [{"name": "n0", "devices": {"H100": 4}}]}, "no device type is named 'H100'"),
    (
        Cluster,
        {"nodes": [{"name": "n0", "devices": {"A100": 4}}] * 2},
        "nodes: the name 'n0' is given to 2 of them",
    ),
    (
        Cluster,
        {"links": [{"between": ["n0", "n9"], "latency_seconds": 1e-6, "bytes_per_second": 1e9}]},
        "no node is named 'n9'",
    ),
]


@pytest.mark.parametrize(("document", "changes", "words"), MISTAKES, ids=[words[:40] for *_, words in MISTAKES])
def test_a_mistake_is_told_by_file_and_key(document: type[Document], changes: dict[str, Any], words: str) -> None:
    document.parse(BASES[document])  # without the change, it holds
    with pytest.raises(DocumentError) as caught:
        document.parse(BASES[document] | changes, where="mine.toml")
    assert len(caught.value.problems) == 1, caught.value.problems
    assert str(caught.value).startswith("mine.toml: ")
    assert words in str(caught.value)


def test_every_mistake_is_told_at_once() -> None:
    with pytest.raises(DocumentError) as caught:
        Recipe.parse(
            {"model": {"dept": 4}, "training": {"steps": -1, "batch_tokens": "x"}, "lerning_rate": {}}, where="r.toml"
        )
    told = str(caught.value).splitlines()
    assert all(line.startswith("r.toml: ") for line in told)
    assert [line.split(": ")[1] for line in told] == [
        "model.dept",
        "training.steps",
        "training.batch_tokens",
        "learning_rate",
        "lerning_rate",
    ]


def test_a_file_of_another_kind_is_told_the_known_keys_once() -> None:
    with pytest.raises(DocumentError) as caught:
        Plan.parse({"xxxx": 1, "yyyy": 2, "layuot": {}})
    assert [problem.split(": ", 1)[1] for problem in caught.value.problems] == [
        "unknown key. Known here: execution, layout, made_for, pipeline, placement, schema_version.",
        "unknown key.",
        "unknown key. Did you mean 'layout'?",
    ]


def test_whole_numbers_may_be_written_with_an_exponent() -> None:
    recipe = Recipe.parse(RECIPE | {"training": {"steps": 1e4, "batch_tokens": 1024}})
    assert recipe.training.steps == 10_000
    assert isinstance(recipe.training.steps, int)
    assert isinstance(Recipe.parse(RECIPE | {"learning_rate": {"peak": 1}}).learning_rate.peak, float)


def test_documents_cannot_be_changed_in_place() -> None:
    recipe = Recipe.parse(RECIPE)
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 3  # type: ignore[misc]


def test_keys_of_recipe_and_plan_are_disjoint() -> None:
    assert set(Recipe.model_fields) & set(Plan.model_fields) == {"schema_version"}


def test_nearest_names_one_or_lists_all() -> None:
    assert nearest("weigth", ["weight", "bias"]) == " Did you mean 'weight'?"
    assert nearest("zzz", ["weight", "bias"]) == " Known here: bias, weight."
    assert nearest("zzz", []) == ""
