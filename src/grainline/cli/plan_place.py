"""`grainline plan place`: which rank is to hold which expert, decided from a routing trace."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from grainline.documents import GrainlineError

if TYPE_CHECKING:
    from grainline._report import Report, Table
    from grainline.documents.routing_trace import RoutingTrace
    from grainline.plan.placement import Judged, Placement

WORDS = {
    "contiguous": "in their order",
    "load": "equal load",
    "affinity": "affinity (ExFlow)",
    "moetuner": "load, then tail (MoETuner)",
}


def run(
    trace: Path,
    /,
    *,
    cluster: str | None = None,
    ranks: int | None = None,
    held_out: Path | None = None,
    method: Literal["auto", "contiguous", "load", "affinity", "moetuner"] = "auto",
    runtime: Literal["dispatch", "coherent"] = "dispatch",
    affinity: Literal["sweep", "ilp", "bipartition"] = "sweep",
    no_stages: bool = False,
    sizes: Literal["free", "equal"] = "free",
    balance: Literal["mean", "max"] = "mean",
    chain: Literal["auto", "dp", "milp", "local"] = "auto",
    replicas: int = 0,
    gap: float = 0.005,
    budget: float = 60.0,
    seed: int = 0,
    batch_tokens: int = 8192,
    dtype: str = "bfloat16",
    save_plan: Path | None = None,
    html: Path | None = None,
    json: bool = False,
) -> int:
    """Place experts on ranks by a routing trace: equal load, few and short messages between layers, or both.

    All methods are judged on tokens that they weren't decided by: every other sequence of the trace, or --held-out.
    Record a trace with grainline plan trace. What the columns mean is in docs/placement.md.

      grainline plan place trace.npz --cluster "2x(4xA100-80)@HDR" --html placement.html
      grainline plan place trace.npz --cluster 8xH100 --method moetuner --save-plan plan.toml

    Args:
        trace: a routing trace (.npz)
        cluster: a .toml or .json file, or shorthand such as 8xH100; default: this machine
        ranks: expert-parallel ranks, the first so many devices; default: all of the cluster's
        held_out: another trace of the same model to judge by, rather than half of the one
        method: what is chosen; auto: what takes the least time
        runtime: whose messages count for auto: to experts and back (dispatch), or on from expert to expert (coherent)
        affinity: its solver: sweeps, an integer program with a proof, or the same by halves
        no_stages: affinity: rank by rank at once, rather than nodes first
        sizes: moetuner: whether ranks may hold unlike numbers of a layer's experts
        balance: moetuner: deviation from the mean load, or the greatest load
        chain: moetuner: how clusters get their ranks; auto: exactly up to 6 ranks
        replicas: load: slots of each rank and layer beyond its share, for copies of hot experts
        gap: how far from the best possible integer programs may stop
        budget: seconds for the integer programs of a method
        seed: of affinity's starts
        batch_tokens: of a step, on all ranks together: what seconds are told for
        dtype: that experts compute in and tokens travel in
        save_plan: write a plan with the chosen placement (.toml or .json)
        html: write the report with its figures as one page
        json: print everything as one JSON object
    """
    from grainline.cli.tell import tell
    from grainline.documents import Plan
    from grainline.documents.expert_placement import ExpertPlacement
    from grainline.documents.routing_trace import RoutingTrace
    from grainline.plan.placement import PLACEMENTS, Options, Problem, Statistics, judge, ranks_of
    from grainline.train.simulate import read_cluster

    for option, value in (("--budget", budget), ("--batch-tokens", batch_tokens)):
        if not value > 0:
            raise GrainlineError(f"{option} {value}: must be positive.")
    if not 0 <= gap < 1:
        raise GrainlineError(f"--gap {gap}: must lie between 0 and 1, as in 0.01.")
    if replicas < 0:
        raise GrainlineError(f"--replicas {replicas}: must not be negative.")
    recorded = RoutingTrace.load(trace)
    if held_out is None:
        decide, test = recorded.halves()
    else:
        decide, test = recorded, RoutingTrace.load(held_out)
        recorded.require_same_model(test, str(held_out))
    statistics, where = Statistics.of(decide), ranks_of(read_cluster(cluster), ranks, dtype)
    options = Options(
        seed=seed,
        seconds=budget,
        gap=gap,
        affinity=affinity,
        staged=not no_stages,
        sizes=sizes,
        balance=balance,
        chain=chain,
        replicas=replicas,
    )
    problem = Problem(statistics, where, options)
    placements: dict[str, Placement] = {}
    left_out: dict[str, str] = {}
    for name, place in PLACEMENTS.items():
        if method not in ("auto", name, "contiguous") and name != "contiguous":
            continue
        try:
            placements[name] = place(problem)
        except GrainlineError as error:
            if method == name:
                raise
            left_out[name] = str(error)
    judged = {name: judge(each, test, where, dtype, batch_tokens) for name, each in placements.items()}
    chosen = min(judged, key=lambda name: _seconds(judged[name], runtime)) if method == "auto" else method
    if save_plan is not None:
        holders = placements[chosen].holders
        layers = {layer: holders[bank] for layer, bank in zip(recorded.layers, recorded.banks, strict=True)}
        Plan(placement=ExpertPlacement.of(where.count, layers, recorded.router)).save(save_plan)
        print(f"The plan is in {save_plan}.", file=sys.stderr)
    remarks = _remarks(statistics, test, left_out, where.count)
    data = {
        "chosen": chosen,
        "ranks": where.count,
        "tokens": {"decided by": decide.tokens, "judged by": test.tokens},
        "methods": {
            name: {**judged[name].as_dict(), "note": each.note, "gap": each.gap, "holders": each.holders}
            for name, each in placements.items()
        },
        "left_out": left_out,
        "remarks": remarks,
    }
    report = _report(recorded, decide, test, placements, judged, chosen, runtime, remarks, figures=html is not None)
    tell(report, data, json=json, html=html)
    return 0


def _seconds(judged: Judged, runtime: str) -> float:
    return judged.expert_seconds + (judged.coherent_seconds if runtime == "coherent" else judged.dispatch_seconds)


def _remarks(statistics: object, test: RoutingTrace, left_out: Mapping[str, str], ranks: int) -> list[str]:
    from grainline.plan.placement import Statistics
    from grainline.plan.placement.statistics import FEW_TOKENS

    assert isinstance(statistics, Statistics)
    said = [f"{WORDS[name]} is left out: {why}" for name, why in left_out.items()]
    if statistics.thin:
        wanted = FEW_TOKENS * statistics.experts
        said.append(
            f"The trace is thin: {statistics.tokens:,} tokens decide, fewer than {FEW_TOKENS} per expert. Record more "
            f"(grainline plan trace --tokens {max(2 * wanted, 5000)})."
        )
    if statistics.unseen:
        said.append(f"{statistics.unseen} experts were chosen by no token, and are placed by count alone.")
    if ranks == 1:
        said.append("With one rank there is nothing to decide.")
    return said


def _report(
    recorded: RoutingTrace,
    decide: RoutingTrace,
    test: RoutingTrace,
    placements: Mapping[str, Placement],
    judged: Mapping[str, Judged],
    chosen: str,
    runtime: str,
    remarks: list[str],
    *,
    figures: bool,
) -> Report:
    from grainline._report import Report, Section

    best, base = judged[chosen], judged["contiguous"]
    change = _seconds(best, runtime) / max(_seconds(base, runtime), 1e-30) - 1
    lead = (
        f"Chosen: {WORDS[chosen]}. Experts and messages of a step take {_seconds(best, runtime) * 1e3:.3g} ms, "
        f"{change:+.1%} against experts in their order; the fullest rank has {best.load:.2f} times the mean load, "
        f"before {base.load:.2f}."
    )
    context = (
        f"{len(recorded.layers)} layers of {recorded.experts} experts on {placements[chosen].ranks} ranks. Decided by "
        f"{decide.tokens:,} tokens, judged by {test.tokens:,} others. Seconds are of a step of {best.batch_tokens:,} "
        "tokens, forward, by roofline and by the cluster's links; bytes are counted, a token's on average."
    )
    notes = [f"{WORDS[name]}: {each.note}." for name, each in placements.items() if each.note]
    kept = f"Coherent execution also gathers {best.context_bytes:,.0f} bytes of keys and values per new token."
    sections = [Section("Methods", (context, *remarks), _table(judged, chosen)), Section("Notes", (*notes, kept))]
    if figures:
        from grainline.cli.placement_figures import draw_loads, draw_steps

        sections.append(Section("Load of ranks, by layer", svg=draw_loads(placements, test, chosen)))
        sections.append(Section("Steps from rank to rank", svg=draw_steps(placements, test, chosen)))
    return Report("Expert placement", lead, tuple(sections))


def _table(judged: Mapping[str, Judged], chosen: str) -> Table:
    from grainline._report import Table

    columns = (
        "method",
        "load max / mean",
        "steps on rank",
        "in node",
        "between nodes",
        "tail ms",
        "dispatch kB",
        "coherent kB",
        "dispatch ms",
        "coherent ms",
        "experts ms",
        "most experts",
    )
    rows = tuple(
        (
            WORDS[name],
            f"{each.load:.2f}",
            f"{each.same_rank:.0%}",
            f"{each.same_node:.0%}",
            f"{each.other_node:.0%}",
            f"{each.pair_tail_seconds * 1e3:.3g}",
            f"{each.dispatch_bytes / 1e3:.3g}",
            f"{each.coherent_bytes / 1e3:.3g}",
            f"{each.dispatch_seconds * 1e3:.3g}",
            f"{each.coherent_seconds * 1e3:.3g}",
            f"{each.expert_seconds * 1e3:.3g}",
            f"{max(each.slots)}",
        )
        for name, each in judged.items()
    )
    return Table(columns, rows, strong=list(judged).index(chosen))
