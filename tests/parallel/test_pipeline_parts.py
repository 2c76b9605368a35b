"""The parts of the pipeline runtime by themselves: what crosses, what is kept, what is noted, what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
import torch
from torch import Tensor

from grainline.documents import Attention, GrainlineError, ModelConfig, Plan, Recipe
from grainline.hardware.shorthand import cluster_of
from grainline.parallel.pipeline.boundary import boundaries, check_cells, check_paths
from grainline.parallel.pipeline.failure import Watch
from grainline.parallel.pipeline.mail import Mail
from grainline.parallel.pipeline.offload import KeptTensors
from grainline.parallel.pipeline.record import Span, timeline
from grainline.parallel.pipeline.reduce import Grid, holders_by_module, module_of, stages_by_module
from grainline.parallel.pipeline.resolve import resolve
from grainline.parallel.pipeline.stage import RandomState
from grainline.parallel.pipeline.transport import Message, Pending, messages_of
from grainline.plan.pipeline import pipeline_plan
from grainline.schedule import Action, Hop, Kind, Schedule, add_messages, gpipe
from grainline.schedule.table import make_schedule

CONFIG = ModelConfig(
    vocab_size=10,
    hidden_size=8,
    layers=2,
    ffn_hidden=8,
    mtp_depth=1,
    tie_embeddings=True,
    attention=Attention(heads=2, head_dim=4),
)
CELLS = ("embedding", "block.0", "block.1", "mtp", "mtp_head", "head")
ONE_EACH = tuple((cell,) for cell in CELLS)


def _along(*stages: int) -> Schedule:
    """One micro-batch that visits these stages, all on one rank."""
    path = tuple(Hop(stage, 0) for stage in stages)
    return Schedule("test", (path,), ((),))


def test_what_crosses_follows_from_the_cells() -> None:
    path = tuple(Hop(stage, stage) for stage in range(6))
    hidden, both = ("hidden_BSD",), ("hidden_BSD", "further_bSD")
    assert boundaries(path, ONE_EACH) == ((), hidden, hidden, hidden, both, hidden, ())
    assert boundaries(path[1:3], ONE_EACH, hidden) == (hidden, hidden, hidden)


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ((CELLS[:3], CELLS[4:]), "mtp_head where mtp should be"),
        ((CELLS[:5],), "5 of 6 cells"),
        ((CELLS, ("head",)), "7 of 6 cells"),
    ],
)
def test_stages_that_are_not_the_model(stages: tuple[tuple[str, ...], ...], said: str) -> None:
    check_cells(CONFIG, (CELLS[:2], (), CELLS[2:]))
    with pytest.raises(GrainlineError, match=said):
        check_cells(CONFIG, stages)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ((0, 1, 2, 4, 5), "must pass embedding, mtp, mtp_head, head"),
        ((0, 1, 2, 3, 5, 4), "must pass embedding, mtp, mtp_head, head"),
        ((1, 0, 2, 3, 4, 5), "blocks before the embedding"),
        ((0, 1, 3, 4, 2, 5), "after the last norm"),
        ((0, 1, 3, 4, 5), r"No micro-batch visits stage 2 \(block.1\)"),
    ],
)
def test_paths_that_compute_no_loss(path: tuple[int, ...], said: str) -> None:
    check_paths(_along(0, 2, 1, 3, 4, 5), ONE_EACH)
    with pytest.raises(GrainlineError, match=said):
        check_paths(_along(*path), ONE_EACH)


def test_modules_are_summed_by_all_that_hold_them() -> None:
    schedule = make_schedule("1f1b", 3, 3)
    stages = (CELLS[:2], CELLS[2:4], CELLS[4:])
    by_module = stages_by_module(CONFIG, stages)
    assert by_module["embedding"] == {0, 1, 2}  # the first, MTP's, and both heads', which are tied to it
    assert by_module["norm"] == {1}
    holders = holders_by_module(schedule, by_module)
    assert (holders["embedding"], holders["blocks.1"]) == ((0, 1, 2), (1,))
    assert (module_of("blocks.1.ffn.w2_DF"), module_of("mtp.norm.weight")) == ("blocks.1", "mtp")
    assert [Grid(2, 3).world_rank(rank, replica) for rank in range(2) for replica in range(3)] == list(range(6))
    assert [Grid(2, 3).place(world) for world in (0, 2, 3)] == [(0, 0), (0, 2), (1, 0)]


def test_saved_tensors_can_be_moved_but_parameters_stay() -> None:
    weight = torch.nn.Parameter(torch.randn(4, 4))
    x = torch.randn(3, 4, requires_grad=True)
    kept = KeptTensors([weight])
    with kept.keeping():
        out = (x @ weight.t()).sin().square().sum()
    assert kept.tensors
    assert all(t.data_ptr() != weight.data_ptr() for t in kept.tensors)
    kept.put_away(None)
    kept._slots = [t.clone() for t in kept._slots]  # as if they had been away
    kept.fetch(None, torch.device("cpu"))
    kept.wait()
    out.backward()
    expected = x.detach().requires_grad_()
    (expected @ weight.detach().t()).sin().square().sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, expected.grad)


def test_a_forward_that_is_run_again_draws_the_same_numbers() -> None:
    state = RandomState.now(torch.device("cpu"))
    first = torch.rand(3)
    with state.again(torch.device("cpu")):
        assert torch.equal(torch.rand(3), first)
    assert not torch.equal(torch.rand(3), first)


class _Line(Pending):
    """A transport that counts what is waited for."""

    def __init__(self) -> None:
        self.waited: list[Message] = []

    def send(self, message: Message, tensors: Sequence[Tensor]) -> list[Pending]:
        return [_One(self, message)]

    def receive(self, message: Message, into: Sequence[Tensor]) -> list[Pending]:
        return [_One(self, message)]

    def wait(self, timeout: timedelta) -> object: ...


class _One(Pending):
    def __init__(self, line: _Line, message: Message) -> None:
        self.line, self.message = line, message

    def wait(self, timeout: timedelta) -> object:
        self.line.waited.append(self.message)
        return None


def test_sent_tensors_are_let_go_when_the_receiver_must_have_used_them() -> None:
    """Of 1F1B on two ranks the first one's forwards are known to be used when their gradients come back."""
    schedule = add_messages(make_schedule("1f1b", 2, 4))
    line = _Line()
    mail = Mail(schedule, 0, line, Watch(0, None, 1.0), 1.0)
    most = 0
    for action in schedule.actions[0]:
        if action.kind is Kind.SEND_F:
            mail.send(action, [torch.zeros(1)])
        if action.kind is Kind.RECV_B:
            mail.take(mail.receive(action, [torch.zeros(1)]), Action(Kind.B, 0, action.microbatch))
        most = max(most, sum(map(len, mail._sending.values())))
    assert most == 1
    mail.finish()
    assert sorted(m.microbatch for m in line.waited if m.forward) == [0, 1, 2, 3]


def test_notes_of_ranks_become_one_timeline() -> None:
    schedule = add_messages(gpipe(2, 1))
    f0, f1, b0, b1 = (Action(kind, stage, 0) for kind in (Kind.F, Kind.B) for stage in (0, 1))
    ends = {a.kind: a for actions in schedule.actions for a in actions if a.peer >= 0}
    assert messages_of(schedule.actions) == [Message(True, 0, 0, 1, 1, 0), Message(False, 1, 1, 0, 0, 0)]
    first = [
        Span(f0, 10.0, 11.0),
        Span(ends[Kind.SEND_F], 11.0, 11.0),
        Span(ends[Kind.RECV_B], 11.1, 11.1),
        Span(ends[Kind.RECV_B], 11.1, 15.2),
        Span(b0, 15.2, 16.0),
    ]
    ahead = 100.0  # seconds that the second rank's clock is
    second = [
        Span(a, start + ahead, end + ahead)
        for a, start, end in [
            (ends[Kind.RECV_F], 10.5, 10.5),
            (ends[Kind.RECV_F], 10.5, 11.5),
            (f1, 11.5, 13.0),
            (b1, 13.0, 15.0),
            (ends[Kind.SEND_B], 15.0, 15.0),
        ]
    ]
    found = timeline(schedule, [first, second], [0.0, ahead])
    rows = {
        str(action): (found.streams[stream], round(start, 6), round(end, 6))
        for action, stream, start, end in zip(found.actions, found.stream, found.start, found.end, strict=True)
    }
    assert rows == {
        "F0.0": ("compute 0", 0.0, 1.0),
        "SEND_F0.0→1": ("forward 0→1", 1.0, 1.5),
        "F1.0": ("compute 1", 1.5, 3.0),
        "B1.0": ("compute 1", 3.0, 5.0),
        "SEND_B1.0→0": ("backward 1→0", 5.0, 5.2),
        "B0.0": ("compute 0", 5.2, 6.0),
    }
    assert found.how == "measured"
    assert found.makespan == pytest.approx(6.0)


def test_lists_that_would_wait_for_ever_are_refused_before_they_run(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = cluster_of("2xA100-80")
    recipe = Recipe.parse(
        {
            "model": {"config": CONFIG.tables()},
            "data": {"sequence_length": 8},
            "training": {"steps": 1, "batch_tokens": 64},
            "learning_rate": {"peak": 1e-3},
        }
    )
    plan = Plan.parse({"pipeline": {"ranks": 2, "schedule": "eager-1f1b", "microbatches": 4}})
    found = pipeline_plan(plan, CONFIG, recipe, cluster)
    assert resolve(found, CONFIG).training == found.schedule == add_messages(found.bare, 4)
    first, second = found.schedule.actions
    late = found.schedule.with_actions([first, tuple(a for a in second if a.kind is not Kind.RECV_F)])
    with pytest.raises(
        GrainlineError, match=r"The schedule 'eager-1f1b' can't be carried out: .*rank \d.*Choose another"
    ):
        resolve(replace(found, schedule=late), CONFIG)
    monkeypatch.setattr("grainline.parallel.pipeline.resolve.MOST_CHECKED", 3)
    assert resolve(replace(found, schedule=late), CONFIG).training == late


def test_a_scaled_stream_and_a_split_vocabulary_are_refused_together() -> None:
    scaled = CONFIG.model_copy(update={"mtp_depth": 0, "residual_scaling": True})
    recipe = Recipe.parse(
        {
            "model": {"config": scaled.tables()},
            "data": {"sequence_length": 8},
            "training": {"steps": 1, "batch_tokens": 64},
            "learning_rate": {"peak": 1e-3},
        }
    )
    plan = Plan.parse({"pipeline": {"ranks": 2, "schedule": "1f1b", "microbatches": 4, "vocabulary": "vocab2"}})
    found = pipeline_plan(plan, scaled, recipe, cluster_of("2xA100-80"))
    with pytest.raises(GrainlineError, match=r"residual_scaling scales embeddings .* pipeline.vocabulary = 'plain'"):
        resolve(found, scaled)
