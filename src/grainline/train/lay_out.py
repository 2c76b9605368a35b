"""A plan's [pipeline] with nothing left open, cut and scheduled for the devices that the run's ranks have."""

from __future__ import annotations

from dataclasses import replace

from grainline.documents import Cluster, ModelConfig, Plan, Recipe
from grainline.hardware import Machine
from grainline.parallel import Ranks
from grainline.plan.pipeline import Resolved, pipeline_plan

UNMEASURED = {"float32": 1e12, "bfloat16": 1e12}
"""FLOP/s where none were measured: among ranks that are alike only the cells' shares of the work matter."""


def lay_out(plan: Plan, config: ModelConfig, recipe: Recipe, machine: Machine, ranks: Ranks) -> Resolved:
    """`plan.layout.data_parallel` and the dtype of `recipe` are decided; all nodes are taken to be like `machine`.

    Raises GrainlineError for what can't be, see `plan.pipeline_plan`.
    """
    return pipeline_plan(plan, config, recipe, _cluster(machine, ranks))


def _cluster(machine: Machine, ranks: Ranks) -> Cluster:
    """The devices that ranks compute on, and no others."""
    if ranks.device.type == "cpu":
        machine = replace(machine, accelerators=(), flops_per_second=machine.flops_per_second or UNMEASURED)
    else:
        gpus = tuple(replace(a, flops_per_second=a.flops_per_second or UNMEASURED) for a in machine.accelerators)
        machine = replace(machine, accelerators=gpus)
    cluster = machine.to_cluster()
    nodes = ranks.world // ranks.local_world
    if nodes == 1:
        return cluster
    (node,) = cluster.nodes
    # What joins them has no part in the cut.
    between = {"between": [node.name, node.name], "latency_seconds": 0.0, "bytes_per_second": 1e9, "source": "assumed"}
    tables = cluster.tables()
    tables |= {"nodes": [tables["nodes"][0] | {"count": nodes}], "links": [*tables.get("links", ()), between]}
    return Cluster.parse(tables, where="the machines of this run")
