"""The decoder: ids → embedding → blocks → norm → head, with a KV cache for generation and MTP for training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from grainline.documents import ModelConfig
from grainline.kernels import WeightQueue
from grainline.models.attention import Cache, Mask, RopeTable
from grainline.models.attention.mask import causal_mask
from grainline.models.attention.rope import rope_table
from grainline.models.blocks import Around, Block, BlockOutput
from grainline.models.layers import Linear, RMSNorm, SwigluFfn
from grainline.models.moe import AT_REST, Moment, RouterReport, build_experts
from grainline.models.moe.experts import SwigluExperts
from grainline.models.mtp import MultiTokenPrediction
from grainline.models.residual import EmbeddingScaling, wide

if TYPE_CHECKING:
    from grainline.data.tokenizer import Tokenizer
    from grainline.models.generate import GeneratedToken, Sampling


@dataclass
class State:
    """What the model remembers while generating: one cache per layer, and how many positions they hold."""

    caches: list[Cache]
    length: int = 0

    def truncate(self, length: int) -> None:
        """Forget all positions from `length` on."""
        self.length = min(self.length, length)
        for cache in self.caches:
            cache.truncate(length)


@dataclass(frozen=True)
class Trunk:
    """The trunk's output after its final norm, or MTP's, and what the router of MTP reported."""

    hidden_BSD: Tensor
    reports: list[RouterReport] = field(default_factory=list)


class Model(nn.Module):
    """A decoder-only language model made from a ModelConfig. `grainline.load` and `models.build` make one.

    A part of a model (`models.part`) lacks the modules of the cells that it doesn't hold; they are None.

    Activations are computed in `compute_dtype` (default: the parameters' own), whatever the parameters are kept in.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype: torch.dtype | None = None
        self.recompute = False  # keep block inputs only, and run blocks again in the backward pass
        self.queue: WeightQueue | None = None  # where gradients of weights may be deferred to
        self.moment = AT_REST  # what routers know of training; see `at`
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embedding_scaling = EmbeddingScaling(config.hidden_size) if config.residual_scaling else None
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        if config.banks:  # experts that several layers share
            self.banks = nn.ModuleDict({str(first): build_experts(config) for first in config.banks})
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.head = None if config.tie_embeddings else Linear(config.hidden_size, config.vocab_size, bias=False)
        self.mtp = MultiTokenPrediction(config) if config.mtp_depth else None

    def forward(self, ids_BS: Tensor, state: State | None = None, document_BS: Tensor | None = None) -> Tensor:
        """Token ids [B, S] → logits [B, S, V].

        state: from `new_state`; the positions follow those it holds, and it grows in place. document_BS: numbers of the
        documents that positions belong to; tokens then see only their own (not together with a state).
        """
        return self.logits(self.trunk(ids_BS, state, document_BS).hidden_BSD)

    def trunk(self, ids_BS: Tensor, state: State | None = None, document_BS: Tensor | None = None) -> Trunk:
        """Token ids [B, S] → hidden states after the final norm [B, S, D]."""
        past = 0 if state is None else state.length
        rope, mask = self.positions(ids_BS.shape[1], past, document_BS)
        x_BSD, carry_TC = self.embed(ids_BS), None
        for i in range(len(self.blocks)):
            cache = None if state is None else state.caches[i]
            x_BSD, carry_TC, _ = self.run_block(i, x_BSD, Around(rope, mask, cache), carry_TC)
        if state is not None:
            state.length += ids_BS.shape[1]
        return Trunk(self.normalise(x_BSD))

    def run_block(self, layer: int, x_BSD: Tensor, around: Around, carry_TC: Tensor | None) -> BlockOutput:
        """Block number `layer`, with the experts that it shares with others and the moment it is run at."""
        around = replace(around, moment=self.moment, bank=self.bank(layer))
        return self.run(self.blocks[layer], x_BSD, around, carry_TC)

    def bank(self, layer: int) -> SwigluExperts | None:
        """The experts that this layer shares with others, if it does."""
        if not self.config.banks or not self.config.is_sparse(layer):
            return None
        bank = self.banks[str(self.config.expert_layers(layer)[0])]
        assert isinstance(bank, SwigluExperts)
        return bank

    def predict_further(
        self,
        trunk: Trunk,
        ids_BS: Tensor,
        document_BS: Tensor | None = None,
        report: bool = False,
        next_BSD: Tensor | None = None,
    ) -> Trunk:
        """MTP: hidden states that predict one token further, given each position's next token `ids_BS` [B, S].

        next_BSD: the embeddings of these tokens, where they were looked up elsewhere.
        """
        assert self.mtp is not None
        rope, mask = self.positions(ids_BS.shape[1], 0, document_BS)
        next_BSD = self.embed(ids_BS) if next_BSD is None else next_BSD
        bank = self.bank(self.config.layers)
        around = Around(rope, mask, report=report, moment=self.moment, bank=bank)
        out = self.run(self.mtp, trunk.hidden_BSD, next_BSD, around)  # its router starts anew: it has its own rows
        return Trunk(out.x_BSD, [out.report] if out.report is not None else [])

    def run(self, module: nn.Module, *args: object) -> BlockOutput:
        """One block, kept or to be computed again."""
        if self.recompute and torch.is_grad_enabled():
            again: BlockOutput = checkpoint(module, *args, use_reentrant=False)
            return again
        out: BlockOutput = module(*args)
        return out

    @contextmanager
    def at(self, moment: Moment) -> Iterator[None]:
        """Within, routers are asked at this moment of training."""
        before, self.moment = self.moment, moment
        try:
            yield
        finally:
            self.moment = before

    def embed(self, ids_BS: Tensor) -> Tensor:
        """[B, S] → the stream [B, S, D]."""
        x_BSD = self.embedding(ids_BS).to(self.dtype)
        return x_BSD if self.embedding_scaling is None else self.embedding_scaling(x_BSD)

    def normalise(self, x_BSD: Tensor) -> Tensor:
        """The stream after the blocks, normalised, in the compute dtype."""
        out_BSD: Tensor = self.norm(x_BSD.to(self.dtype))
        return out_BSD

    def positions(self, new: int, past: int, document_BS: Tensor | None) -> tuple[RopeTable, Mask]:
        """Rotations and mask of `new` positions after `past`."""
        a, device = self.config.attention, self.device
        position_S = torch.arange(past, past + new, device=device)
        rope = rope_table(a.rope, a.rotating_dims, position_S, self.dtype)
        return rope, causal_mask(new, past, window=a.window, document_BS=document_BS, device=device)

    def logits(self, hidden_BSD: Tensor) -> Tensor:
        """[…, D] → [… , V]."""
        return F.linear(hidden_BSD, self.head_VD.to(hidden_BSD.dtype))

    @property
    def head_VD(self) -> Tensor:
        """Weights of the output layer."""
        if self.config.tie_embeddings:
            return self.embedding.weight
        assert self.head is not None
        return self.head.weight

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What activations are computed in."""
        return self.compute_dtype or next(self.parameters()).dtype

    @property
    def stream_dtype(self) -> torch.dtype:
        """What goes from block to block: the compute dtype, or float32 where the residual is scaled (ZAYA1)."""
        return wide(self.dtype) if self.config.residual_scaling else self.dtype

    def defer_weights(self, queue: WeightQueue) -> None:
        """Let backwards within `queue.collecting()` leave the products that make weights' gradients for later."""
        for module in self.modules():
            if isinstance(module, Model | Linear | SwigluFfn | SwigluExperts):
                module.queue = queue

    def new_state(self) -> State:
        """An empty state for generation."""
        return State([Cache() for _ in self.blocks])

    def generate(
        self,
        prompt: Sequence[int],
        *,
        max_new_tokens: int,
        sampling: Sampling | None = None,
        stop_ids: Sequence[int] = (),
        generator: torch.Generator | None = None,
        top_logprobs: int = 0,
        state: State | None = None,
    ) -> Iterator[GeneratedToken]:
        """Yield tokens after `prompt` (ids, at least one), drawn as `sampling` says; see `models.generate.generate`."""
        from grainline.models.generate import Sampling, generate

        return generate(
            self,
            prompt,
            max_new_tokens=max_new_tokens,
            sampling=sampling or Sampling(),
            stop_ids=stop_ids,
            generator=generator,
            top_logprobs=top_logprobs,
            state=state,
        )

    def save(self, folder: str | Path, tokenizer: Tokenizer | None = None, card: str | None = None) -> None:
        """Write a Hugging Face folder, with tokenizer and model card if given; whole or not at all."""
        from grainline.models.formats.huggingface import save_folder

        save_folder(self, Path(folder), tokenizer=tokenizer, card=card)
