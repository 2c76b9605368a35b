"""Vocabulary parallelism (arXiv 2411.05288): the published 8-GPU tables simulated, and a race of real processes.

The simulation knows sizes and published rates alone (`vocabulary_rows`). It leaves out that an output layer reaches
less of the peak than blocks (the authors' profile has 143 TFLOP/s for the last stage's forward, 195 for the others'):
redistribution, which at the largest vocabulary goes at the pace of the output layer alone, does worse on real GPUs. And
it lets collectives run beside compute for nothing: within one node of fast links lock-step, which has none beside
compute, is 2 to 4 % ahead of Vocab-2 in the published tables, and 1 % behind it here.
"""

from __future__ import annotations

from grainline.exhibits.figure import MARKERS, MUTED, colour, drawing, svg
from grainline.exhibits.find import Measure
from grainline.exhibits.frame import Claim, Measurement, Scale
from grainline.exhibits.harness import estimate, ratio
from grainline.exhibits.vocabulary_race import METHODS as RACING
from grainline.exhibits.vocabulary_race import Finish, Race, run
from grainline.exhibits.vocabulary_rows import GIB, METHODS, PUBLISHED, VOCABULARIES, Row, of, rows

NEAR = 0.1  # relative
SEEDS = (0, 1, 2)
NAMES = dict(zip(METHODS, ("equal cut", "redistribution", "Vocab-1", "Vocab-2", "lock-step"), strict=True))

FASTER = Claim(
    name="vocabulary-parallelism.faster",
    text="At 128k entries, 2k tokens and 8 GPUs, Vocab-2 is 1.54 times as fast as an equal cut (MFU 52.0 and 33.7 %).",
    quantity="simulated throughput of Vocab-2 / that of the equal cut",
    expected=51.95 / 33.70,
    margin=NEAR * 51.95 / 33.70,
    better="higher",
    baseline="1F1B with as many blocks on each rank, embedding on the first, head on the last",
    seeds=(0,),
    how="simulated",
    quick_decides=True,
)
LARGEST = Claim(
    name="vocabulary-parallelism.largest",
    text=(
        "At 256k entries and 2k tokens, 2.96 times (51.2 and 17.3 %); at 4k tokens, where no allocator is short of "
        "memory, 2.05 times (56.6 and 27.6 %), which is what its last stage takes longer."
    ),
    quantity="simulated throughput of Vocab-2 / that of the equal cut, at 2k tokens",
    expected=51.20 / 17.29,
    margin=NEAR * 51.20 / 17.29,
    better="higher",
    baseline="1F1B with as many blocks on each rank, embedding on the first, head on the last",
    seeds=(0,),
    how="simulated",
    quick_decides=True,
)
FLAT = Claim(
    name="vocabulary-parallelism.flat",
    text="Eight times the vocabulary costs Vocab-2 next to nothing: MFU 52.6 % at 32k, 51.2 % at 256k (2k tokens).",
    quantity="simulated MFU of Vocab-2 at 256k / at 32k",
    expected=51.20 / 52.56,
    margin=0.02,
    better="higher",
    baseline="itself at 32k; the equal cut falls to a third",
    seeds=(0,),
    how="simulated",
    quick_decides=True,
)
TABLE = Claim(
    name="vocabulary-parallelism.table",
    text="MFU of five methods at four vocabularies and two lengths, each as a ratio to Vocab-2's (8-GPU tables).",
    quantity="of the 31 ratios that sizes can explain, the share within 10 % of the published one",
    expected=1.0,
    margin=0.0,
    better="higher",
    baseline="Vocab-2 in the same setting",
    seeds=(0,),
    how="simulated",
    quick_decides=True,
)
MEMORY = Claim(
    name="vocabulary-parallelism.memory",
    text="Peak memory of the fullest rank, e.g. equal cut 33.9 GB, Vocab-2 26.3 at 4k tokens and 256k (8-GPU tables).",
    quantity="of the 39 peaks that sizes can explain, the largest relative deviation from the published one",
    expected=0.0,
    margin=NEAR,
    better="lower",
    baseline="the published peaks",
    seeds=(0,),
    how="simulated",
    quick_decides=True,
)
RACE = Claim(
    name="vocabulary-parallelism.race",
    text="With a vocabulary that outweighs the blocks, spreading it over the ranks makes real steps faster.",
    quantity="seconds of a step, equal cut / Vocab-2: 2 processes on a core each, h 256, 8 blocks, 32,768 entries",
    expected=1.2,
    margin=0.0,
    better="higher",
    baseline="the equal cut, its steps in turn with the others' in the same processes",
    seeds=SEEDS,
    how="real",
)
RESIDENT = Claim(
    name="vocabulary-parallelism.resident",
    text="The rank that had the head needs less memory once every rank has a share of both tables.",
    quantity="growth of the last of 4 processes' resident memory over a step, Vocab-2 / equal cut; 32,768 entries",
    expected=0.8,
    margin=0.1,
    better="lower",
    baseline="the equal cut in processes of its own",
    seeds=(0,),
    how="real",
    quick_decides=True,
)


def measure_faster(scale: Scale) -> Measurement:
    """Throughput over vocabularies, with the published figures beside it."""
    value = against_vocab2("2k", "128k", "plain") ** -1
    return Measurement(value, (value, value), _throughput_figure(), _details())


def measure_largest(scale: Scale) -> Measurement:
    """The row that compute alone doesn't explain, and the one beside it that it does."""
    value = against_vocab2("2k", "256k", "plain") ** -1
    at_4k = against_vocab2("4k", "256k", "plain") ** -1
    scale.tell(
        f"at 4k tokens {at_4k:.2f}, published {56.61 / 27.63:.2f}; at 2k {value:.2f}, published {51.20 / 17.29:.2f}"
    )
    return Measurement(value, (value, value), None, {"at 2k": value, "at 4k": at_4k})


def measure_flat(scale: Scale) -> Measurement:
    """The largest vocabulary over the smallest."""
    mfu = {v: of("2k", v, "vocab2").mfu for v in VOCABULARIES}
    value = mfu["256k"] / mfu["32k"]
    return Measurement(value, (value, value), None, {"mfu": mfu})


def measure_table(scale: Scale) -> Measurement:
    """All ratios, each told with its deviation."""
    deviations = {}
    for r in rows():
        if r.method != "vocab2":
            simulated = against_vocab2(r.length, r.vocabulary, r.method)
            published = r.published_mfu / of(r.length, r.vocabulary, "vocab2").published_mfu
            deviations[r] = simulated / published - 1
            scale.tell(f"{_name(r)}: {simulated:.3f}, published {published:.3f}: {deviations[r]:+.1%}")
    explained = [abs(d) <= NEAR for r, d in deviations.items() if r.is_explained]
    value = sum(explained) / len(explained)
    return Measurement(value, (value, value), _throughput_figure(), {_name(r): d for r, d in deviations.items()})


def measure_memory(scale: Scale) -> Measurement:
    """All peaks, and each rank's in one setting."""
    deviations = {r: r.peak_bytes / r.published_bytes - 1 for r in rows()}
    for r, deviation in deviations.items():
        scale.tell(
            f"{_name(r)}: {r.peak_bytes / GIB:.1f} GB, published {r.published_bytes / GIB:.1f}: {deviation:+.1%}; "
            f"{r.in_flight} micro-batches in flight"
        )
    value = max(abs(d) for r, d in deviations.items() if r.is_explained)
    return Measurement(value, (value, value), _memory_figure(), {_name(r): d for r, d in deviations.items()})


def measure_race(scale: Scale) -> Measurement:
    """Small and large vocabulary, in turns; each seed starts the processes anew."""
    plain, spread, details = [], [], {}
    for vocabulary in scale.pick(full=(2048, 32_768), quick=(32_768,)):
        for seed in scale.seeds:
            race = Race(
                ranks=2,
                vocabulary=vocabulary,
                methods=RACING,
                microbatches=scale.pick(full=8, quick=4),
                sequences=1,
                length=scale.pick(full=256, quick=128),
                rounds=scale.pick(full=6, quick=1),
                seed=seed,
            )
            ends = run(race, scale.folder)
            check_losses(ends)
            seconds = {m: [max(of) for of in zip(*(e.seconds[m] for e in ends), strict=True)] for m in race.methods}
            details[f"{vocabulary} entries, seed {seed}"] = seconds
            for method in RACING[1:]:
                found = ratio(seconds["plain"], seconds[method])
                scale.tell(f"{vocabulary:,} entries, seed {seed}: equal cut / {NAMES[method]} {found}")
            if vocabulary == 32_768:
                plain += seconds["plain"]
                spread += seconds["vocab2"]
    found = ratio(plain, spread)
    return Measurement(found.value, found.error_bar, None, {"seconds": details})


def check_losses(ends: list[Finish]) -> None:
    """Whether all methods came to the same loss; what they cost would mean nothing otherwise."""
    losses = {method: sum(end.loss[method] for end in ends) for method in ends[0].loss}
    if max(losses.values()) - min(losses.values()) > 1e-5 * max(losses.values()):
        raise RuntimeError(f"methods disagree on the loss: {losses}")


def measure_resident(scale: Scale) -> Measurement:
    """One step of each method, in fresh processes."""
    grown = {}
    for method in ("plain", "vocab2"):
        race = Race(ranks=4, vocabulary=32_768, methods=(method,), microbatches=8, sequences=1, length=128, rounds=0)
        grown[method] = [end.grown_bytes for end in run(race, scale.folder)]
        scale.tell(f"{NAMES[method]}: {', '.join(f'{g / 1e6:.0f}' for g in grown[method])} MB, by rank")
    found = estimate([grown["vocab2"][-1] / grown["plain"][-1]])
    return Measurement(found.value, found.error_bar, None, {"bytes": grown})


def against_vocab2(length: str, vocabulary: str, method: str) -> float:
    """Simulated MFU over Vocab-2's in the same setting."""
    return of(length, vocabulary, method).mfu / of(length, vocabulary, "vocab2").mfu


def _name(row: Row) -> str:
    return f"{row.length} tokens, {row.vocabulary} entries, {NAMES[row.method]}"


def _details() -> dict[str, object]:
    return {_name(r): {"mfu": r.mfu, "peak_bytes": r.peak_bytes, "rank_bytes": r.rank_bytes} for r in rows()}


def _throughput_figure() -> str:
    with drawing(2, width=8.4) as (figure, panels):
        for axes, length in zip(panels, dict.fromkeys(s for s, _ in PUBLISHED), strict=True):
            at = range(len(VOCABULARIES))
            for i, method in enumerate(m for m in METHODS if m != "vocab2"):
                ours = [against_vocab2(length, v, method) for v in VOCABULARIES]
                theirs = [
                    of(length, v, method).published_mfu / of(length, v, "vocab2").published_mfu for v in VOCABULARIES
                ]
                axes.plot(at, ours, color=colour(i), marker=MARKERS[i], label=NAMES[method])
                axes.plot(at, theirs, color=colour(i), marker=MARKERS[i], mfc="none", ls=":")
            axes.axhline(1, color=MUTED[0], lw=0.8)
            axes.set_xticks(list(at), list(VOCABULARIES))
            axes.set_ylim(0, 1.2)
            axes.set(xlabel="vocabulary", ylabel="MFU / Vocab-2's", title=f"{length} tokens; dotted: published")
        panels[0].legend()
        return svg(figure, TABLE.name, f"Throughput relative to Vocab-2, simulated and published. {TABLE.text}")


def _memory_figure() -> str:
    with drawing(2, width=8.4) as (figure, (left, right)):
        for i, method in enumerate(m for m in METHODS if m != "redistribution"):
            at = range(len(VOCABULARIES))
            ours = [of("4k", v, method).peak_bytes / GIB for v in VOCABULARIES]
            theirs = [of("4k", v, method).published_bytes / GIB for v in VOCABULARIES]
            left.plot(at, ours, color=colour(i), marker=MARKERS[i], label=NAMES[method])
            left.plot(at, theirs, color=colour(i), marker=MARKERS[i], mfc="none", ls=":")
            by_rank = [peak / GIB for peak in of("4k", "256k", method).rank_bytes]
            right.plot(range(len(by_rank)), by_rank, color=colour(i), marker=MARKERS[i])
        left.set_xticks(list(at), list(VOCABULARIES))
        left.set(xlabel="vocabulary", ylabel="GB of the fullest rank", title="4k tokens; dotted: published")
        left.legend()
        right.set(xlabel="rank", ylabel="GB", title="4k tokens, 256k entries: each rank, simulated")
        right.set_ylim(bottom=0)
        return svg(figure, MEMORY.name, f"Peak memory, simulated and published. {MEMORY.text}")


MEASURES: dict[Claim, Measure] = {
    FASTER: measure_faster,
    LARGEST: measure_largest,
    FLAT: measure_flat,
    TABLE: measure_table,
    MEMORY: measure_memory,
    RACE: measure_race,
    RESIDENT: measure_resident,
}
