"""The runtime of a pipeline: each rank carries out its list of a schedule, the very list that the simulator judges."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from grainline.documents.recipe import Loss
from grainline.kernels import WeightQueue
from grainline.models.cells import Batch, Carry
from grainline.models.loss import LossSums
from grainline.models.model import Model
from grainline.parallel.pipeline.boundary import ROUTER, Cells, Key, Names, carrying, places, shape_of
from grainline.parallel.pipeline.collectives import CollectiveStream
from grainline.parallel.pipeline.failure import PipelineError, Watch
from grainline.parallel.pipeline.mail import Arrival, Mail
from grainline.parallel.pipeline.offload import KeptTensors
from grainline.parallel.pipeline.order import ORDERS, Do
from grainline.parallel.pipeline.record import Span
from grainline.parallel.pipeline.reduce import SharedGradients
from grainline.parallel.pipeline.stage import Kept, RandomState, Stage
from grainline.parallel.pipeline.transport import Transport
from grainline.schedule import Action, Kind, Schedule
from grainline.schedule.actions import COLLECTIVES, RECEIVES, SENDS

TIMEOUT_SECONDS = 60.0


class Passes(Protocol):
    """Further kinds of action, such as those of vocabulary parallelism, that work on a runtime's tensors."""

    @property
    def own_modules(self) -> tuple[str, ...]:
        """Of which every rank has a part of its own."""

    def table(self, runtime: PipelineRuntime) -> Mapping[Kind, Do]:
        """What carries out each kind. It may use `runtime`'s `inputs`, `outputs` and `gradients`, run collectives with
        `beside`, and put what must be done before an action of the list into `before`.
        """
        ...


@dataclass(frozen=True)
class StepResult:
    """What a rank's stages came to in a step: sums of the loss by micro-batch, and when what was done."""

    sums: tuple[tuple[int, LossSums], ...]
    spans: tuple[Span, ...]
    seconds: float


@dataclass
class PipelineRuntime:
    """One rank of a pipeline. All ranks make one of the same schedule and stages, and call `step` together.

    `model` has at least this rank's cells, `batch_tokens` counts the whole step's. Compute runs in the caller's thread;
    messages go on beside it, and collectives in a thread of their own. After `timeout_seconds` without an expected
    message a rank gives up with a PipelineError. A schedule without backwards evaluates: no graph is kept.
    """

    schedule: Schedule
    rank: int
    stages: Sequence[Cells]
    model: Model
    transport: Transport
    watch: Watch
    loss: Loss
    batch_tokens: int
    device: torch.device
    dtype: torch.dtype  # of what crosses between stages
    shared: SharedGradients | None = None
    passes: Passes | None = None
    timeout_seconds: float = TIMEOUT_SECONDS
    backwards: Literal["planned", "arrival"] = "planned"  # see `order`; on all ranks alike
    queue: WeightQueue = field(default_factory=WeightQueue)

    def __post_init__(self) -> None:
        own = self.schedule.actions[self.rank]
        self._stages = {
            stage: Stage(tuple(self.stages[stage]), self.model, self.loss, self.batch_tokens)
            for stage in self.schedule.stages_of(self.rank)
        }
        first: Names = () if self.passes is None else ("hidden_BSD",)
        self._hops = places(self.schedule, self.rank, self.stages, first, carrying(self.model.config))
        by_kind: dict[Kind, set[Key]] = {}
        for a in own:
            by_kind.setdefault(a.kind, set()).add((a.stage, a.microbatch))
        self._recomputed, self._offloaded = by_kind.get(Kind.R, set()), by_kind.get(Kind.OFFLOAD, set())
        self._differentiated = by_kind.get(Kind.B, set()) | by_kind.get(Kind.I, set())
        if by_kind.get(Kind.I):
            self.model.defer_weights(self.queue)
        self._copies = torch.cuda.Stream(self.device) if self._offloaded and self.device.type == "cuda" else None
        planned = self.backwards == "planned"
        self._mail = Mail(self.schedule, self.rank, self.transport, self.watch, self.timeout_seconds, planned)
        self._collectives = CollectiveStream(self.watch, self.timeout_seconds)
        table: dict[Kind, Do] = {
            Kind.F: self._forward,
            Kind.R: self._recompute,
            Kind.B: self._backward,
            Kind.I: self._input_gradient,
            Kind.W: self._weight_gradient,
            Kind.SEND_F: self._send,
            Kind.SEND_B: self._send,
            Kind.RECV_F: self._receive_forward,
            Kind.RECV_B: self._receive_backward,
            Kind.OFFLOAD: self._offload,
            Kind.FETCH: self._fetch,
            Kind.REDUCE: self._reduce,
            Kind.UPDATE: self._update,
        }
        table.update(self.passes.table(self) if self.passes is not None else {})
        self._program = [(table[action.kind], action) for action in own]
        self._reset()

    def _reset(self) -> None:
        self.batches: Sequence[Batch] = ()
        self.inputs: dict[Key, Arrival] = {}  # what enters a stage
        self.outputs: dict[Key, tuple[Tensor, ...]] = {}  # what left the last stage of a path, where passes use it
        self.gradients: dict[Key, Arrival] = {}  # of what left a stage
        self.input_gradients: dict[Key, tuple[Tensor, ...]] = {}  # of what entered the first stage of a path
        self.before: dict[Action, Callable[[], None]] = {}
        self._kept: dict[Key, Kept] = {}
        self._random: dict[Key, RandomState] = {}
        self._saved: dict[Key, KeptTensors] = {}
        self._work: dict[Key, list[Callable[[], None]]] = {}
        self._leaving: dict[tuple[bool, Key], tuple[Tensor, ...]] = {}
        self._sums: list[tuple[int, LossSums]] = []
        self._mail.clear()
        self._collectives.clear()

    def step(self, batches: Sequence[Batch]) -> StepResult:
        """Carry out the list once: gradients are added to the parameters' and summed over all that hold them.

        `batches` are the micro-batches, the same on all ranks of the pipeline. Raises PipelineError where another rank
        is gone, hangs or failed, naming rank and action.
        """
        self._reset()
        self.batches = batches
        if self.shared is not None:
            self.shared.done.clear()
        begin = time.perf_counter()
        spans: list[Span] = []
        for do, action in ORDERS[self.backwards](self._program, self._can_go_back):
            self._action, self._began = action, time.perf_counter()
            try:
                if (first := self.before.pop(action, None)) is not None:
                    first()
                do(action)
            except PipelineError:
                raise
            except Exception as error:
                if isinstance(error, RuntimeError) and action.kind in SENDS | RECEIVES:  # the connection is broken
                    raise self.watch.waited(str(action), action.peer, error) from error
                self.watch.failed(str(action), error)
                raise
            if action.kind not in COLLECTIVES:  # these are noted when they end
                spans.append(Span(action, self._began, time.perf_counter()))
        self._finish()
        notes = (*spans, *self._mail.taken, *self._collectives.taken)
        result = StepResult(tuple(self._sums), notes, time.perf_counter() - begin)
        self._reset()
        return result

    def close(self) -> None:
        """End the threads."""
        self._collectives.close()

    def arrived(self, arrival: Arrival) -> tuple[Tensor, ...]:
        """Wait for tensors. The action under way counts as begun when they are here."""
        tensors = self._mail.take(arrival, self._action)
        self.begin()
        return tensors

    def begin(self) -> None:
        """The action under way has what it waited for."""
        self._began = time.perf_counter()

    # Compute

    def _forward(self, action: Action) -> None:
        key = action.stage, action.microbatch
        entered = self._enter(key)
        keeps = key in self._differentiated and key not in self._recomputed
        saving: AbstractContextManager[Any] = nullcontext()
        if key in self._recomputed:
            self._random[key] = RandomState.now(self.device)
        if key in self._offloaded and keeps:
            self._saved[key] = KeptTensors(self.model.parameters())
            saving = self._saved[key].keeping()
        with torch.set_grad_enabled(keeps), saving:
            left, objective, sums = self._stages[action.stage].forward(self.batches[action.microbatch], entered)
        if sums is not None:
            self._sums.append((action.microbatch, sums.detached()))
        if keeps:
            self._kept[key] = Kept(entered, left, objective)
        elif key in self._offloaded:
            self._saved[key] = KeptTensors(())
            self._saved[key].keep(entered.tensors)
        elif key in self._recomputed:
            self._kept[key] = Kept(entered, Carry(), None)
        self._pass_on(key, tuple(t.detach() for t in left.tensors))

    def _recompute(self, action: Action) -> None:
        key = action.stage, action.microbatch
        if key in self._saved:
            saved = self._saved.pop(key)
            saved.wait()
            entered = self._leaves(key, saved.tensors)
        else:
            entered = self._kept[key].entered
        with torch.enable_grad(), self._random.pop(key).again(self.device):
            left, objective, _ = self._stages[action.stage].forward(self.batches[action.microbatch], entered)
        self._kept[key] = Kept(entered, left, objective)

    def _backward(self, action: Action) -> None:
        key = action.stage, action.microbatch
        gradients = self._gradients_of(key)
        kept = self._kept.pop(key)
        if key in self._saved:
            self._saved[key].wait()
        self._pass_back(key, kept.backward(gradients) if self.stages[action.stage] else gradients)
        self._saved.pop(key, None)

    def _can_go_back(self, action: Action) -> bool:
        """Whether a backward could start at once: all is here, computed (again) and in this device's memory."""
        key = _key(action)
        if key not in self._kept or key in self._random or key in self._offloaded:
            return False
        return not self._hops[key].leaves or (key in self.gradients and self.gradients[key].is_here)

    def _input_gradient(self, action: Action) -> None:
        with self.queue.collecting() as work:
            self._backward(action)
        self._work[action.stage, action.microbatch] = work

    def _weight_gradient(self, action: Action) -> None:
        for work in self._work.pop((action.stage, action.microbatch)):
            work()

    def _update(self, action: Action) -> None:
        """The optimiser's step is the caller's: it needs the norm of all gradients, once every rank has its own."""

    # What enters and leaves a stage

    def _enter(self, key: Key) -> Carry:
        if not self._hops[key].enters:
            return Carry()
        return self._leaves(key, self.arrived(self.inputs.pop(key)))

    def _leaves(self, key: Key, tensors: Sequence[Tensor]) -> Carry:
        """What enters a stage, as leaves of its graph if there will be one."""
        for tensor in tensors:
            tensor.requires_grad_(key in self._differentiated)
        return Carry(**dict(zip(self._hops[key].enters, tensors, strict=True)))

    def _pass_on(self, key: Key, tensors: tuple[Tensor, ...]) -> None:
        after = self._hops[key].after
        if after is None:
            self.outputs[key] = tensors
        elif after.rank == self.rank:
            self.inputs[after.stage, key[1]] = Arrival(tensors)
        else:
            self._leaving[True, key] = tensors

    def _gradients_of(self, key: Key) -> tuple[Tensor, ...]:
        if not self._hops[key].leaves:
            return ()
        return self.arrived(self.gradients.pop(key))

    def _pass_back(self, key: Key, tensors: tuple[Tensor, ...]) -> None:
        before = self._hops[key].before
        if before is None:
            self.input_gradients[key] = tensors
        elif before.rank == self.rank:
            self.gradients[before.stage, key[1]] = Arrival(tensors)
        else:
            self._leaving[False, key] = tensors

    # Messages

    def _send(self, action: Action) -> None:
        self._mail.send(action, self._leaving.pop((action.kind is Kind.SEND_F, _key(action))))

    def _receive_forward(self, action: Action) -> None:
        self.inputs[_key(action)] = self._receive(action, self._hops[_key(action)].enters)

    def _receive_backward(self, action: Action) -> None:
        self.gradients[_key(action)] = self._receive(action, self._hops[_key(action)].leaves)

    def _receive(self, action: Action, names: Names) -> Arrival:
        into = [self._empty(name, self.batches[action.microbatch]) for name in names]
        return self._mail.receive(action, into)

    def _empty(self, name: str, batch: Batch) -> Tensor:
        dtype = torch.promote_types(self.dtype, torch.float32) if name == ROUTER else self.dtype
        return torch.empty(shape_of(name, self.model.config, batch), dtype=dtype, device=self.device)

    # Copies and collectives

    def _offload(self, action: Action) -> None:
        if _key(action) in self._saved:
            self._saved[_key(action)].put_away(self._copies)

    def _fetch(self, action: Action) -> None:
        if _key(action) in self._saved:
            self._saved[_key(action)].fetch(self._copies, self.device)

    def _reduce(self, action: Action) -> None:
        if self.shared is not None:
            stages = frozenset({action.stage, action.peer_stage} - {-1})
            self.collective(action, self.shared.modules(stages))

    def collective(self, action: Action, modules: Sequence[str]) -> None:
        """Sum these modules' gradients beside compute; `step` waits for that at its end."""
        if self.shared is None or not modules:
            return
        shared = self.shared
        shared.done.update(modules)
        self.beside(action, lambda: shared.sum_(modules))

    def beside(self, action: Action, run: Callable[[], None]) -> Future[None]:
        """Run a collective beside compute, after those before it, and note its time; `step` ends after it has."""
        return self._collectives.run(action, run)

    def ended(self, action: Action, running: Future[None]) -> None:
        """Wait for a collective. The action under way counts as begun when it has ended."""
        self._collectives.ended(action, running, str(self._action))
        self.begin()

    def add_sums(self, microbatch: int, sums: LossSums) -> None:
        """Terms of the loss that passes made, not a stage."""
        self._sums.append((microbatch, sums.detached()))

    def _finish(self) -> None:
        """Sum what no REDUCE has summed, and wait for all that goes on."""
        if self.shared is not None and self._differentiated:
            self.collective(Action(Kind.REDUCE), self.shared.modules())
        self._mail.finish()
        self._collectives.finish()


def _key(action: Action) -> Key:
    return action.stage, action.microbatch
