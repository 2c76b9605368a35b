"""What a step of pipelined training would take on a cluster: simulated from published or measured rates, never run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from grainline.documents import Cluster, GrainlineError, ModelConfig, Plan, Recipe, read_tables
from grainline.documents.plan import Pipeline
from grainline.hardware.topology import topology
from grainline.plan.pipeline import MICROBATCHES_PER_RANK, Resolved, pipeline_plan
from grainline.plan.seats import computing
from grainline.schedule import ScheduleError, TaskGraph, Timeline, lower, perturb
from grainline.schedule import simulate as play
from grainline.train.documents import read_plan, read_recipe

LONGEST = 4096  # tokens of a sequence, where a model comes without a recipe and could take more


@dataclass(frozen=True)
class SimulatedStep:
    """A step: what was decided, and how it went."""

    resolved: Resolved
    timeline: Timeline

    @property
    def name(self) -> str:
        """The schedule's."""
        return self.resolved.pipeline.schedule

    @property
    def seconds(self) -> float:
        """From the first forward to the end of the optimiser's step."""
        return self.timeline.makespan + self.resolved.update_seconds

    @property
    def tokens_per_second(self) -> float:
        """Of all replicas."""
        return self.resolved.tokens / self.seconds

    @property
    def peak_bytes(self) -> tuple[float, ...]:
        """Of each rank's own memory."""
        return tuple(series.peak_bytes for series in self.timeline.memory[: len(self.resolved.seats)])

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        found = self.resolved
        ranks = [
            {
                "device": seat.device.type.name,
                "node": seat.device.node,
                "cells": [cell.name for stage in found.bare.stages_of(rank) for cell in found.stages[stage]],
                "busy_seconds": float(busy),
                "peak_bytes": peak,
                "capacity_bytes": found.capacity_bytes.get(rank),
                "speed": seat.speed.origin,
            }
            for rank, (seat, busy, peak) in enumerate(
                zip(found.seats, self.timeline.busy_seconds(), self.peak_bytes, strict=True)
            )
        ]
        return {
            "schedule": self.name,
            "pipeline": found.pipeline.model_dump(mode="json", exclude_none=True),
            "seconds": self.seconds,
            "update_seconds": found.update_seconds,
            "tokens_per_second": self.tokens_per_second,
            "bubble_fraction": self.timeline.bubble_fraction,
            "bubble_overhead": self.timeline.bubble_overhead,
            "microbatch_sequences": found.batch.sequences,
            "compute": found.batch.compute,
            "replicas": found.replicas,
            "ranks": ranks,
            "link_bytes": {name: moved for name, moved in self.timeline.link_bytes.items() if moved},
        }


def simulate(
    recipe: Recipe | ModelConfig | str | Path,
    cluster: Cluster | str | Path | None = None,
    *,
    plan: Plan | str | Path | None = None,
    schedule: str | None = None,
    ranks: int | None = None,
    microbatches: int | None = None,
    cut: Literal["auto", "equal"] | Sequence[int] | None = None,
    recompute: Literal["never", "always", "except_last"] | None = None,
    overrides: Iterable[str] = (),
    jitter: float = 0.0,
    seed: int = 0,
    slow: Mapping[int, float] | None = None,
) -> Timeline:
    """The timeline of one step of `recipe` in a pipeline on `cluster`: `.makespan`, `.bubble_fraction`, `.memory` …

    recipe: a recipe, or a model (a config, its folder or hub id), which is then given sequences of at most 4,096
    tokens. cluster: a document, its path, or shorthand as in "4xA100-80 + 4xA10G@25GbE"; default: this machine. What is
    given besides overrides the plan's [pipeline]; ranks default to the cluster's devices. `slow` maps ranks to how many
    times as long they take; `jitter` is the deviation of everybody's noise.

    Raises GrainlineError for what can't be: more ranks than layers or devices, an unknown schedule, memory that is
    short, and so on.
    """
    tables = pipeline_tables(schedule=schedule, ranks=ranks, microbatches=microbatches, cut=cut, recompute=recompute)
    found = simulated_step(read_plan(plan), tables, recipe, read_cluster(cluster), overrides)
    return found.timeline if not (jitter or slow) else disturbed(found, jitter, seed, slow or {}).timeline


def pipeline_tables(
    *,
    schedule: str | None = None,
    ranks: int | None = None,
    chunks: int | None = None,
    microbatches: int | None = None,
    cut: str | Sequence[int] | None = None,
    recompute: str | None = None,
    vocabulary: str | None = None,
    offload: bool | None = None,
) -> dict[str, Any]:
    """The keys of a plan's [pipeline] that were said."""
    said = {
        "schedule": schedule,
        "ranks": ranks,
        "chunks": chunks,
        "microbatches": microbatches,
        "cut": cut if cut is None or isinstance(cut, str) else list(cut),
        "recompute": recompute,
        "vocabulary": vocabulary,
        "offload": offload,
    }
    return {key: value for key, value in said.items() if value is not None}


def simulated_step(
    plan: Plan,
    pipeline: Mapping[str, Any],
    recipe: Recipe | ModelConfig | str | Path,
    cluster: Cluster,
    overrides: Iterable[str] = (),
) -> SimulatedStep:
    """A step of the plan with the keys of `pipeline` put over its own."""
    before = {} if plan.pipeline is None else plan.pipeline.model_dump(mode="json", exclude_none=True)
    tables = before | dict(pipeline)
    replicas = plan.layout.data_parallel
    if "ranks" not in tables:
        tables["ranks"] = _usual_ranks(cluster, replicas)
    asked = Plan.parse({"pipeline": tables}, where="pipeline").pipeline
    assert asked is not None
    known, config = _read(recipe, asked, replicas, overrides)
    if "ranks" not in before | dict(pipeline):
        asked = asked.model_copy(update={"ranks": min(asked.ranks, config.layers)})
    found = pipeline_plan(plan.model_copy(update={"pipeline": asked}), config, known, cluster)
    return SimulatedStep(found, _played(found))


def disturbed(step: SimulatedStep, jitter: float, seed: int, slow: Mapping[int, float]) -> SimulatedStep:
    """The same step with noise and slow ranks; the plan doesn't know of them."""
    found = step.resolved
    try:
        graph = perturb(_graph(found), seed=seed, jitter=jitter, slow=slow)
    except ScheduleError as error:
        raise GrainlineError(f"{error}.") from None
    return SimulatedStep(found, play(graph, found.pipeline.schedule))


def read_cluster(cluster: Cluster | str | Path | None) -> Cluster:
    """A document, a file's, what shorthand means, or this machine, measured."""
    if isinstance(cluster, Cluster):
        return cluster
    if cluster is None:
        from grainline.hardware import look

        return look().to_cluster()
    if Path(cluster).suffix in (".toml", ".json") or isinstance(cluster, Path):
        return Cluster.load(cluster)
    from grainline.hardware.shorthand import cluster_of

    return cluster_of(cluster)


def _played(found: Resolved) -> Timeline:
    try:
        return play(_graph(found), found.pipeline.schedule)
    except ScheduleError as error:
        raise GrainlineError(f"The schedule can't be carried out: {error}.") from None


def _graph(found: Resolved) -> TaskGraph:
    return lower(found.schedule, found.costs, found.network, capacity_bytes=found.capacity_bytes)


def _usual_ranks(cluster: Cluster, replicas: int) -> int:
    """A rank on each accelerator, or on each core where there are none."""
    devices = computing(topology(cluster))
    if any(device.type.kind != "cpu" for device in devices):
        return max(1, len(devices) // replicas)
    cores = [node.cores or 1 for _, node in cluster.every_node()]
    return max(1, sum(cores) // replicas)


def _read(
    recipe: Recipe | ModelConfig | str | Path, pipeline: Pipeline, replicas: int, overrides: Iterable[str]
) -> tuple[Recipe, ModelConfig]:
    """The recipe and its model, or a model with a recipe of a sequence for each micro-batch."""
    from grainline.train.foresee import foreseen_model

    config = _model(recipe)
    if config is None:
        assert not isinstance(recipe, ModelConfig)
        known = read_recipe(recipe, overrides)
        return known, foreseen_model(known)
    length = min(LONGEST, config.max_positions)
    count = pipeline.microbatches or MICROBATCHES_PER_RANK * pipeline.ranks
    tables = {
        "name": "a step",
        "model": {"config": config.tables()},
        "data": {"sequence_length": length},
        "training": {"steps": 1, "batch_tokens": length * count * replicas},
        "optimizer": {"kind": "adamw"},
        "learning_rate": {"peak": 1e-3},
    }
    return read_recipe(Recipe.parse(tables), overrides), config


def _model(recipe: Recipe | ModelConfig | str | Path) -> ModelConfig | None:
    """The config that a path, folder or hub id means; None where it is a recipe."""
    if isinstance(recipe, ModelConfig):
        return recipe
    if isinstance(recipe, Recipe):
        return None
    path = Path(recipe)
    if path.suffix not in (".toml", ".json"):
        from grainline.models.locate import load_config

        return load_config(recipe)
    if path.suffix == ".json" and path.is_file() and "model_type" in (tables := read_tables(path)):
        from grainline.models.formats import config_from_hf

        return config_from_hf(tables, path)
    if path.is_file() and "hidden_size" in read_tables(path):
        return ModelConfig.load(path)
    return None
