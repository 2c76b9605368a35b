"""Recording which experts tokens choose: hooks on the routers of a model, for as long as wanted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from grainline.documents import GrainlineError
from grainline.documents.routing_trace import NONE, RoutingTrace
from grainline.models.model import Model
from grainline.models.moe import MoeLayer, Routed, Routing

if TYPE_CHECKING:
    from grainline.data.tokenizer import Tokenizer

WINDOW = 256
"""Tokens of a traced sequence: several hundred sequences tell more of a text than a few long ones."""


@dataclass
class Recorder:
    """What the routers of `model` chose since it was made, by layer: [T, K] of each forward pass, and its sequences."""

    model: Model
    chosen: dict[int, list[NDArray[np.int32]]]
    lengths: list[int] = field(default_factory=list)  # tokens of each sequence that went through

    def trace(self) -> RoutingTrace:
        """All of it. Raises GrainlineError where nothing went through."""
        if not self.lengths:
            raise GrainlineError("nothing was routed, so that there is no routing to record.")
        widest = max(table.shape[1] for tables in self.chosen.values() for table in tables)
        layers = [np.concatenate([_widened(table, widest) for table in tables]) for tables in self.chosen.values()]
        sequence_T = np.repeat(np.arange(len(self.lengths), dtype=np.int32), self.lengths)
        return RoutingTrace(
            np.stack(layers, 1), sequence_T, tuple(self.chosen), self.model.config, router_fingerprint(self.model)
        )


@contextmanager
def recording(model: Model) -> Iterator[Recorder]:
    """Within, every forward pass of the trunk is recorded; its rows are taken for whole sequences.

    Raises GrainlineError for a model without experts. MTP's router isn't recorded: it has no part in answering.
    """
    layers = {i: block.ffn for i, block in enumerate(model.blocks) if isinstance(block.ffn, MoeLayer)}
    if not layers:
        raise GrainlineError("the model has no experts, so that there is no routing to record.")
    recorder, first = Recorder(model, {layer: [] for layer in layers}), min(layers)
    with ExitStack() as stack:
        for layer, ffn in layers.items():
            assert isinstance(ffn.router, torch.nn.Module)
            handle = ffn.router.register_forward_hook(_hook(recorder, layer, layer == first))
            stack.callback(handle.remove)
        yield recorder


def _hook(recorder: Recorder, layer: int, is_first: bool) -> Callable[[Any, tuple[Any, ...], Routed], None]:
    def keep(router: Any, args: tuple[Any, ...], routed: Routed) -> None:
        x_TD, sequences = args[:2]
        recorder.chosen[layer].append(choices(routed.routing, len(x_TD), router.moe.pool))
        if is_first:
            recorder.lengths += [len(x_TD) // sequences] * sequences

    return keep


def choices(routing: Routing, tokens: int, pool: int) -> NDArray[np.int32]:
    """Flat lists → [T, K]: a token's experts with weights, from the left; K is the most that a token has."""
    unit_N, expert_N = (part.detach().cpu().numpy() for part in (routing.unit_N, routing.expert_N))
    with_weights_N = expert_N < pool
    unit_N, expert_N = unit_N[with_weights_N], expert_N[with_weights_N]
    order_N = np.argsort(unit_N, kind="stable")
    unit_N, expert_N = unit_N[order_N], expert_N[order_N]
    counts_T = np.bincount(unit_N, minlength=tokens)
    place_N = np.arange(len(unit_N)) - (counts_T.cumsum() - counts_T)[unit_N]
    table_TK = np.full((tokens, max(1, int(counts_T.max(initial=0)))), NONE, np.int32)
    table_TK[unit_N, place_N] = expert_N
    return table_TK


def _widened(table_TK: NDArray[np.int32], width: int) -> NDArray[np.int32]:
    return np.pad(table_TK, ((0, 0), (0, width - table_TK.shape[1])), constant_values=NONE)


def router_fingerprint(model: Model) -> str:
    """Of the weights and biases of all routers of the trunk, as float32: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for i, block in enumerate(model.blocks):
        if isinstance(block.ffn, MoeLayer):
            assert isinstance(block.ffn.router, torch.nn.Module)
            for name, tensor in sorted(block.ffn.router.state_dict().items()):
                digest.update(f"{i} {name} {tuple(tensor.shape)}".encode())
                digest.update(tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


@torch.inference_mode()
def trace_of(
    model: Model, sequences: Iterable[Sequence[int]], tokens: int, progress: Callable[[int], None] | None = None
) -> RoutingTrace:
    """The routing of the first `tokens` tokens of sequences of ids, each from its start and by itself."""
    was_training = model.training
    left = tokens
    try:
        with recording(model.eval()) as recorder:
            for ids in sequences:
                part = ids[: min(left, model.config.max_positions)]
                if not len(part):
                    continue
                model.trunk(torch.tensor([list(part)], dtype=torch.long, device=model.device))
                left -= len(part)
                if progress is not None:
                    progress(len(part))
                if left <= 0:
                    break
            return recorder.trace()
    finally:
        model.train(was_training)


def trace_of_texts(
    model: Model,
    tokenizer: Tokenizer,
    texts: Iterable[str],
    tokens: int,
    window: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> RoutingTrace:
    """The routing of `tokens` tokens: one window of each text, then the next of each, until there are enough.

    window: tokens of a sequence, its separator included; default: WINDOW, or the model's positions if fewer.
    Raises GrainlineError where the texts have less than a tenth of the tokens, or for a window that can't be.
    """
    longest = model.config.max_positions
    window = min(WINDOW, longest) if window is None else window
    if not 2 <= window <= longest:
        raise GrainlineError(f"a window of {window} tokens: must lie between 2 and the model's {longest}.")
    if tokens < 1:
        raise GrainlineError(f"{tokens} tokens: a routing trace has at least one.")
    trace = trace_of(model, _windows(tokenizer, texts, tokens, window), tokens, progress)
    if trace.tokens < tokens / 10:
        raise GrainlineError(f"the text has {trace.tokens} tokens, too few for the {tokens} wanted: name more text.")
    return trace


def _windows(tokenizer: Tokenizer, texts: Iterable[str], tokens: int, window: int) -> Iterator[list[int]]:
    rows: list[list[int]] = []
    kept = 0
    for text in texts:  # no more than is needed: later windows of the first texts do as well
        rows.append(tokenizer.encode(text))
        kept += min(len(rows[-1]), window - 1)
        if kept >= tokens:
            break
    for start in range(0, max(map(len, rows), default=0), window - 1):
        for row in rows:
            if row[start : start + window - 1]:
                yield [tokenizer.separator_id, *row[start : start + window - 1]]
