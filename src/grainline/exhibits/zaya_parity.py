"""ZAYA1's blocks held against transformers' own, and what a layer of attention keeps while generating."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from grainline.documents import Attention, ModelConfig
from grainline.exhibits.frame import NotRun

LENGTH, VOCABULARY = 96, 211


def errors(seed: int, folder: Path) -> dict[str, float]:
    """Largest errors of logits and of gradients, each against its largest value, on random weights of a small model.

    Raises NotRun without transformers, or with one that has no ZAYA1.
    """
    try:
        from transformers import ZayaConfig, ZayaForCausalLM
    except ImportError:
        raise NotRun("transformers 5 isn't installed (pip install grainline[hf]), or has no ZAYA1") from None
    import torch

    from grainline.models import formats
    from grainline.models.formats.huggingface import load_model, theirs

    generator = torch.Generator().manual_seed(seed)
    config = ZayaConfig(
        vocab_size=VOCABULARY,
        hidden_size=96,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=16,
        moe_intermediate_size=64,
        num_experts=8,
        router_hidden_size=32,
        max_position_embeddings=256,
        eos_token_id=6,
    )
    model = ZayaForCausalLM(config).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            noise = torch.randn(tensor.shape, generator=generator)
            gain = name.endswith(("norm.weight", "scale", "temp"))
            scale = tensor.shape[-1] ** -0.5 if tensor.ndim > 1 else 0.2
            tensor.copy_(1 + 0.3 * noise if gain else scale * noise)
        model.model.embed_tokens.weight.mul_(config.hidden_size**0.5)
    model.save_pretrained(folder / f"zaya-{seed}")
    ours = load_model(folder / f"zaya-{seed}")
    # The padding token (0) is left out: transformers' look-up has no gradient of its row.
    ids_BS = torch.randint(1, VOCABULARY, (2, LENGTH), generator=generator)
    weight_BSV = torch.randn(2, LENGTH, VOCABULARY, generator=generator)
    found, wanted = ours(ids_BS), model(ids_BS).logits
    for logits in (found, wanted):
        (logits * weight_BSV).sum().backward()
    gradients = {name: p.grad for name, p in ours.named_parameters() if p.grad is not None}
    named = theirs(formats.tensors(ours.config), gradients)
    worst = max(_error(named[name], p.grad) for name, p in model.named_parameters() if p.grad is not None)
    return {"logits": _error(found, wanted), "gradients": worst}


def _error(found: object, wanted: object) -> float:
    import torch

    assert isinstance(found, torch.Tensor)
    assert isinstance(wanted, torch.Tensor)
    return float((found - wanted).detach().abs().max() / wanted.detach().abs().max())


@dataclass(frozen=True)
class State:
    """Bytes that one layer keeps: what grows with every token, and what doesn't."""

    cache: int
    tail: int


def kept(attention: Attention, size: int, tokens: int) -> State:
    """By a layer of this attention in float32, after so many tokens of one sequence."""
    import torch

    from grainline.models.build import build

    config = ModelConfig(
        vocab_size=VOCABULARY, hidden_size=size, layers=1, ffn_hidden=size, max_positions=tokens, attention=attention
    )
    model = build(config)
    state = model.new_state()
    with torch.no_grad():
        model(torch.zeros(1, tokens, dtype=torch.long), state)
    (cache,) = state.caches
    return State(sum(part.nbytes for part in cache.held), sum(part.nbytes for part in cache.tail))
