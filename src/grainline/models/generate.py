"""Token by token from a model: sampling as the OpenAI API defines it, on one sequence with a KV cache."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from grainline.documents import GrainlineError
from grainline.models.model import Model, State


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn. Temperature 0 takes the likeliest; penalties and biases act before temperature."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)

    @property
    def is_greedy(self) -> bool:
        """Temperatures that leave nothing to chance; divided by still smaller ones, logits would overflow."""
        return self.temperature < 1e-4


@dataclass(frozen=True)
class GeneratedToken:
    """One token, its log-probability under the model itself (before temperature and cuts), and the likeliest others."""

    id: int
    logprob: float
    top_logprobs: tuple[tuple[int, float], ...] = ()


def adjust(logits_V: Tensor, prompt: Sequence[int], generated: Sequence[int], sampling: Sampling) -> Tensor:
    """Logits after penalties and biases. Presence and frequency look at the generated tokens, repetition at all."""
    logits_V = logits_V.clone()
    if sampling.repetition_penalty != 1.0:
        seen = torch.tensor(sorted({*prompt, *generated}), device=logits_V.device)
        held = logits_V[seen]
        logits_V[seen] = torch.where(held > 0, held / sampling.repetition_penalty, held * sampling.repetition_penalty)
    if generated and (sampling.presence_penalty or sampling.frequency_penalty):
        count_V = torch.bincount(torch.tensor(generated, device=logits_V.device), minlength=logits_V.shape[0])
        logits_V -= sampling.frequency_penalty * count_V + sampling.presence_penalty * (count_V > 0)
    for token, bias in sampling.logit_bias.items():
        logits_V[token] += bias
    return logits_V


def probabilities(logits_V: Tensor, sampling: Sampling) -> Tensor:
    """What is drawn from, [V]: temperature, then top-k, top-p (nucleus) and min-p cuts, renormalised."""
    if sampling.is_greedy:
        return torch.zeros_like(logits_V).scatter_(0, logits_V.argmax().unsqueeze(0), 1.0)
    prob_V = (logits_V / sampling.temperature).softmax(-1)
    ordered_V, index_V = prob_V.sort(descending=True, stable=True)
    keep_V = torch.ones_like(ordered_V, dtype=torch.bool)
    if sampling.top_k:
        keep_V[sampling.top_k :] = False
    if sampling.top_p < 1.0:  # the smallest set that reaches top_p: a token stays while those before it don't
        keep_V &= ordered_V.cumsum(0) - ordered_V < sampling.top_p
    keep_V &= ordered_V >= sampling.min_p * ordered_V[0]
    keep_V[0] = True
    ordered_V = ordered_V * keep_V
    return torch.zeros_like(prob_V).scatter_(0, index_V, ordered_V / ordered_V.sum())


def generate(
    model: Model,
    prompt: Sequence[int],
    *,
    max_new_tokens: int,
    sampling: Sampling = Sampling(),
    stop_ids: Sequence[int] = (),
    generator: torch.Generator | None = None,
    top_logprobs: int = 0,
    state: State | None = None,
) -> Iterator[GeneratedToken]:
    """Yield tokens after `prompt` (ids, at least one), the stop token included, until it, `max_new_tokens` or the
    context's end. The same generator seed gives the same tokens.

    state: from `model.new_state()`, if the caller wants it afterwards; it must be empty.

    Raises GrainlineError if the prompt is empty, has ids outside the vocabulary, or doesn't fit the context, and where
    the model's scores are no numbers.
    """
    limit = model.config.max_positions
    if not prompt:
        raise GrainlineError("the prompt is empty; give at least one token (such as the bos token).")
    if len(prompt) >= limit:
        raise GrainlineError(
            f"the prompt has {len(prompt)} tokens; this model's context holds {limit}, and at least one must be "
            "left to generate. Shorten the prompt."
        )
    if not all(0 <= i < model.config.vocab_size for i in prompt):
        raise GrainlineError(f"the prompt has token ids outside 0 … {model.config.vocab_size - 1}.")
    if generator is None:
        generator = torch.Generator(device=model.device)
        generator.seed()
    state = model.new_state() if state is None else state
    generated: list[int] = []
    fed: Sequence[int] = prompt
    for _ in range(min(max_new_tokens, limit - len(prompt))):
        with torch.inference_mode():  # entered per token: a generator must not leave it open in its caller
            hidden_1SD = model.trunk(torch.tensor([list(fed)], device=model.device), state).hidden_BSD
            logits_V = model.logits(hidden_1SD[0, -1]).float()
            logprob_V = logits_V.log_softmax(-1)
            if bool(logprob_V.sum().isnan()):
                raise GrainlineError(
                    f"the model's scores after {len(prompt) + len(generated)} tokens are no numbers: weights of it are "
                    "none, or its dtype is too narrow for them. Try float32, or another checkpoint."
                )
            prob_V = probabilities(adjust(logits_V, prompt, generated, sampling), sampling)
            if sampling.is_greedy:
                token = int(prob_V.argmax())
            else:
                token = int(torch.multinomial(prob_V, 1, generator=generator))
            best = logprob_V.topk(top_logprobs) if top_logprobs else None
        others = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True)) if best else ()
        generated.append(token)
        yield GeneratedToken(token, float(logprob_V[token]), others)
        if token in stop_ids:
            return
        fed = [token]
