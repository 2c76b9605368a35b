"""Hecto (arXiv 2506.22919): a gate that sends ordered evidence to a GRU and static evidence to an FFN.

The paper's tables could not be read, so what is held here is its idea, on a task whose answer is known. Texts are
embedded at random and without attention; the pooled view is their mean plus a tag that says the type. Half of them are
*static*: which of two markers is more frequent. Half are *ordered*: which marker comes first, with the same tokens
under both labels, so that on the pooled view no expert can be better than a coin there: 75 % of the whole.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from grainline.documents.classification import ExpertKind, Head
from grainline.exhibits.figure import MARKERS, colour, drawing, svg
from grainline.exhibits.find import Measure
from grainline.exhibits.frame import Claim, Measurement, Scale
from grainline.exhibits.harness import alternate, estimate

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from grainline.models.heads.encoders import Classifier

SEEDS = (0, 1, 2, 3, 4)
TAGS, MARKERS_AT, VOCABULARY, LENGTH, WIDTH = (0, 1), (2, 3), 24, 24, 48
PROJ, HIDDEN, BATCH, RATE = 32, 32, 64, 0.003
BATCHES, SWEPT = (16, 64, 256), 0.125  # on an eighth of the texts: on all of them each batch answers every text
PAIRS: dict[str, tuple[ExpertKind, ...]] = {
    "FFN + FFN": ("ffn", "ffn"),
    "GRU + GRU": ("gru", "gru"),
    "Hecto": ("ffn", "gru"),
}

LIMIT = Claim(
    name="hecto.pooled-limit",
    text="Ours, exactly: two experts on the pooled view can't be better than a coin on ordered texts.",
    quantity="accuracy of FFN + FFN on an even mix of static and ordered texts it hasn't seen",
    expected=0.75,
    margin=0.03,  # four standard errors of 2,000 coins on half of 4,000 texts, and a little
    better="lower",
    baseline="the Bayes limit",
    seeds=SEEDS,
    how="real",
)
ACCURACY = Claim(
    name="hecto.accuracy",
    text="Unlike experts match homogeneous ones (abstract): one GRU behind a gate answers what two GRUs do.",
    quantity="accuracy of Hecto on the mix, less that of GRU + GRU",
    expected=0.0,
    margin=0.03,
    better="higher",
    baseline="the same head with two GRUs",
    seeds=SEEDS,
    how="real",
)
GATE = Claim(
    name="hecto.gate",
    text="The gate specialises by the kind of reasoning (abstract, figure 1): here, by the type of the text.",
    quantity="mutual information between chosen expert and type of text, in nats; ln 2 = 0.693 at most",
    expected=0.6,
    margin=0.2,
    better="higher",
    baseline="0 for a gate that doesn't look at the type",
    seeds=SEEDS,
    how="real",
)
SWEEP = Claim(
    name="hecto.batch",
    text=(
        "Hecto gains at larger batches (abstract), as the mean probability that the gate is spread by is known better: "
        "to 12.5 points with 16 texts, to 3.1 with 256."
    ),
    quantity="accuracy of Hecto with batches of 256, less that with batches of 16, after equally many texts",
    expected=0.0,
    margin=0.02,
    better="higher",
    baseline="batches of 16; the rate goes as the square root of the batch",
    seeds=SEEDS,
    how="real",
)
COST = Claim(
    name="hecto.cost",
    text=(
        "Ours: a layer's time is q · GRU + (1 − q) · FFN, q the share that the GRU answers: at the card's q = 0.80 a "
        "fifth less than GRUs alone."
    ),
    quantity="seconds of a layer of the published sizes on 256 texts of 64 tokens, q = 0.5, / what the model foresees",
    expected=1.0,
    margin=0.15,
    better="lower",
    baseline="both experts, timed alone in the same turns",
    seeds=(0,),
    how="real",
)


@dataclass(frozen=True)
class Texts:
    """Token ids [N, S], labels and types [N]: 0 static, 1 ordered."""

    ids_NS: Tensor
    label_N: Tensor
    kind_N: Tensor


def texts(count: int, generator: torch.Generator) -> Texts:
    """A tag, and fillers among which stand markers: one three times and the other once, or each once."""
    import torch

    kind_N, label_N = (torch.randint(0, 2, (count,), generator=generator) for _ in range(2))
    ids_NS = torch.randint(4, VOCABULARY, (count, LENGTH), generator=generator)
    places_NS = torch.rand(count, LENGTH - 1, generator=generator).argsort(-1) + 1
    for row, (kind, label) in enumerate(zip(kind_N.tolist(), label_N.tolist(), strict=True)):
        ids_NS[row, 0] = TAGS[kind]
        one, other = MARKERS_AT[label], MARKERS_AT[1 - label]
        if kind:
            first, second = sorted(places_NS[row, :2].tolist())
            ids_NS[row, first], ids_NS[row, second] = one, other
        else:
            ids_NS[row, places_NS[row, :3]], ids_NS[row, places_NS[row, 3]] = one, other
    return Texts(ids_NS, label_N, kind_N)


@dataclass(frozen=True)
class Found:
    """Of a classifier, on texts it hasn't seen."""

    accuracy: float
    by_kind: tuple[float, float]  # static, ordered
    usage: tuple[float, float]  # share of static and of ordered texts that the last expert answers
    information: float  # nats


def learn(
    scale: Scale, kinds: Sequence[ExpertKind], seed: int, batch_texts: int = BATCH, share: float = 1.0, **head: Any
) -> Found:
    """Train a head on random embeddings and look at what it does: on this share of the texts, whatever the batch."""
    import torch

    from grainline.documents.recipe import LearningRate, Optimizer
    from grainline.models.heads.encoders import Classifier, EmbeddingEncoder
    from grainline.models.heads.mixture import HectoHead
    from grainline.parallel import Ranks
    from grainline.train.classify.evaluate import mutual_information
    from grainline.train.classify.step import gradients
    from grainline.train.learning_rate import factor
    from grainline.train.optim import Optimizer as Stepper

    generator, config = (
        torch.Generator().manual_seed(seed),
        Head(experts=tuple(kinds), proj=PROJ, hidden=HIDDEN, **head),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = Classifier(EmbeddingEncoder(VOCABULARY, WIDTH, seed), HectoHead(config, WIDTH, 2))
    stepper = Stepper(classifier.named_parameters(), Optimizer(kind="adamw", betas=(0.9, 0.999), weight_decay=0.0))
    steps = max(6, round(share * scale.pick(full=1500, quick=10) * BATCH / batch_texts))
    peak = RATE * (batch_texts / BATCH) ** 0.5
    course = LearningRate(peak=peak, schedule="cosine", warmup_steps=5)
    length_B = torch.full((batch_texts,), LENGTH)
    for step in range(1, steps + 1):
        batch, ranks = texts(batch_texts, generator), Ranks(torch.device("cpu"))
        gradients(classifier, config, (batch.ids_NS, length_B, batch.label_N), batch_texts, ranks, False)
        torch.nn.utils.clip_grad_norm_(classifier.parameters(), 1.0)
        stepper.step(peak * factor(course, step, steps))
        stepper.zero_grad()
    seen = texts(scale.pick(full=4000, quick=200), generator)
    right_N, expert_N = judged(classifier, seen)
    table = torch.stack([torch.bincount(expert_N[seen.kind_N == kind], minlength=len(kinds)) for kind in (0, 1)])
    last = (expert_N == len(kinds) - 1).double()
    return Found(
        accuracy=float(right_N.mean()),
        by_kind=(float(right_N[seen.kind_N == 0].mean()), float(right_N[seen.kind_N == 1].mean())),
        usage=(float(last[seen.kind_N == 0].mean()), float(last[seen.kind_N == 1].mean())),
        information=mutual_information(table),
    )


def judged(classifier: Classifier, seen: Texts) -> tuple[Tensor, Tensor]:
    """Whether each text is answered rightly, and by whom."""
    import torch

    with torch.no_grad():
        answer = classifier.eval()(seen.ids_NS, torch.full((len(seen.ids_NS),), LENGTH))
    return (answer.out_BC.argmax(-1) == seen.label_N).double(), answer.expert_B


def learned(scale: Scale) -> dict[str, list[Found]]:
    """All pairs over the seeds, told as they come; once for the claims of a command."""
    kept, found = scale.folder / "hecto.json", dict[str, list[Found]]()
    if kept.is_file():
        return {name: [Found(**each) for each in of] for name, of in json.loads(kept.read_text()).items()}
    for name, kinds in PAIRS.items():
        found[name] = [learn(scale, kinds, seed) for seed in scale.seeds]
        middle = statistics.fmean(each.accuracy for each in found[name])
        scale.tell(f"{name}: accuracy {middle:.3f} over {len(scale.seeds)} seeds")
    kept.write_text(json.dumps(_details(found)))
    return found


def _picture(claim: Claim, found: dict[str, list[Found]]) -> str:
    with drawing(height=2.8) as (figure, (axes,)):
        for i, of in enumerate(found.values()):
            for j, kind in enumerate(("static", "ordered")):
                values = [each.by_kind[j] for each in of]
                places = [i + 0.16 * (2 * j - 1)] * len(of)
                axes.plot(
                    places, values, color=colour(j), marker=MARKERS[j], ls="", ms=4, label=kind if i == 0 else None
                )
        axes.axhline(0.5, lw=0.8, ls=":", color=colour(2))
        axes.set_xticks(range(len(found)), list(found))
        axes.set(ylabel="accuracy", title="Unseen texts by type; each seed")
        axes.legend()
        return svg(figure, claim.name, f"Accuracy by type of text. {claim.quantity}.")


def _details(found: dict[str, list[Found]]) -> dict[str, Any]:
    return {name: [vars(each) for each in of] for name, of in found.items()}


def measure_limit(scale: Scale) -> Measurement:
    """FFN + FFN beside the others."""
    found = learned(scale)
    held = estimate([each.accuracy for each in found["FFN + FFN"]])
    return Measurement(held.value, held.error_bar, _picture(LIMIT, found), _details(found))


def measure_accuracy(scale: Scale) -> Measurement:
    """Hecto less GRU + GRU, seed by seed."""
    found = learned(scale)
    pairs = zip(found["Hecto"], found["GRU + GRU"], strict=True)
    held = estimate([one.accuracy - other.accuracy for one, other in pairs])
    return Measurement(held.value, held.error_bar, _picture(ACCURACY, found), _details(found))


ABLATIONS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "no regularisers": {"entropy": 0.0, "diversity": 0.0},
    "τ 0.5": {"temperature": 0.5},
    "τ 5": {"temperature": 5.0},
    "scaled gradient": {"gradient": "scaled"},
}


def measure_gate(scale: Scale) -> Measurement:
    """What the gate looks at, and under which settings it still does; a gate with less than 0.1 nats has collapsed."""
    found = {name: [learn(scale, PAIRS["Hecto"], s, **keys) for s in scale.seeds] for name, keys in ABLATIONS.items()}
    held = estimate([each.information for each in found["as it is"]])
    with drawing(height=2.8) as (figure, (axes,)):
        for i, of in enumerate(found.values()):
            axes.plot([i] * len(of), [e.information for e in of], color=colour(0), marker=MARKERS[0], ls="", ms=4)
        axes.set_xticks(range(len(found)), list(found))
        axes.set(ylabel="nats", title="Mutual information of expert and type; each seed")
        picture = svg(figure, GATE.name, f"What the gate knows of the type. {GATE.quantity}.")
    collapsed = {name: sum(each.information < 0.1 for each in of) for name, of in found.items()}
    return Measurement(held.value, held.error_bar, picture, {"runs": _details(found), "collapsed": collapsed})


def measure_sweep(scale: Scale) -> Measurement:
    """Hecto at three batches; what the gate knows, and how often it collapsed, is kept beside the accuracy."""
    found = {
        f"batch {size}": [learn(scale, PAIRS["Hecto"], seed, size, SWEPT) for seed in scale.seeds] for size in BATCHES
    }
    for name, of in found.items():
        accuracy, nats = (
            statistics.fmean(values) for values in zip(*((e.accuracy, e.information) for e in of), strict=True)
        )
        scale.tell(f"{name}: accuracy {accuracy:.3f}, {nats:.2f} nats, over {len(of)} seeds")
    few, many = found[f"batch {BATCHES[0]}"], found[f"batch {BATCHES[-1]}"]
    held = estimate([one.accuracy - other.accuracy for one, other in zip(many, few, strict=True)])
    with drawing(height=2.8) as (figure, (axes,)):
        for i, of in enumerate(found.values()):
            for j, values in enumerate(([e.accuracy for e in of], [e.information for e in of])):
                label = ("accuracy", "nats of expert and type")[j] if i == 0 else None
                places = [i + 0.16 * (2 * j - 1)] * len(of)
                axes.plot(places, values, color=colour(j), marker=MARKERS[j], ls="", ms=4, label=label)
        axes.set_xticks(range(len(found)), list(found))
        axes.set(title="Hecto after equally many texts; each seed")
        axes.legend()
        picture = svg(figure, SWEEP.name, f"Hecto by batch size. {SWEEP.quantity}.")
    collapsed = {name: sum(each.information < 0.1 for each in of) for name, of in found.items()}
    return Measurement(held.value, held.error_bar, picture, {"runs": _details(found), "collapsed": collapsed})


def measure_cost(scale: Scale) -> Measurement:
    """A layer whose gate is made to send a share q to the GRU, against its two experts alone."""
    import torch

    from grainline.models.heads.mixture import HectoHead
    from grainline.models.heads.views import Views

    count, length = scale.pick(full=(256, 64), quick=(32, 16))
    head = HectoHead(Head(), 768, 4).eval()
    generator = torch.Generator().manual_seed(0)
    sequence_BSD = torch.randn(count, length, 768, generator=generator)
    views = Views(torch.randn(count, 768, generator=generator), sequence_BSD, torch.full((count,), length))

    def gated(share: float) -> None:
        """The gate's bias is set so that this share of the texts goes to the GRU."""
        with torch.no_grad():
            head.gate.bias.zero_()
            logit_BE = head.gate(head.pooled_proj(views.pooled_BD))
            margin_B = (logit_BE[:, 0] - logit_BE[:, 1]).sort().values
            edge = {0.0: -1e9, 1.0: 1e9}.get(share)
            head.gate.bias[1] = float(margin_B[int(share * (count - 1))]) if edge is None else edge
            head(views)

    seconds = alternate(
        {f"{share}": lambda share=share: gated(share) for share in (0.0, 0.2, 0.5, 0.8, 1.0)},  # type: ignore[misc]
        rounds=scale.pick(full=20, quick=2),
    )
    held = {}
    for share in (0.2, 0.5, 0.8):
        foreseen = [share * g + (1 - share) * f for g, f in zip(seconds["1.0"], seconds["0.0"], strict=True)]
        held[share] = estimate([a / b for a, b in zip(seconds[f"{share}"], foreseen, strict=True)])
    with drawing(height=2.8) as (figure, (axes,)):
        medians = {float(share): statistics.median(of) * 1e3 for share, of in seconds.items()}
        axes.plot([0, 1], [medians[0.0], medians[1.0]], color=colour(1), lw=1, label="q · GRU + (1 − q) · FFN")
        axes.plot(list(medians), list(medians.values()), color=colour(0), marker="o", ls="", label="measured")
        axes.set(xlabel="share of texts that the GRU answers", ylabel="ms", title="A layer, both projections included")
        axes.legend()
        picture = svg(figure, COST.name, f"Time of a layer by share. {COST.quantity}.")
    ratios = {f"{share}": one.value for share, one in held.items()}
    return Measurement(held[0.5].value, held[0.5].error_bar, picture, {"seconds": seconds, "over_foreseen": ratios})


MEASURES: dict[Claim, Measure] = {
    LIMIT: measure_limit,
    ACCURACY: measure_accuracy,
    GATE: measure_gate,
    SWEEP: measure_sweep,
    COST: measure_cost,
}
