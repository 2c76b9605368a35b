"""The model card of a trained model: what it is, what it learned from, how well, and the recipe that makes it again."""

from __future__ import annotations

import tomli_w

from grainline import __version__
from grainline.documents import ModelConfig, Recipe
from grainline.models.count import parameters
from grainline.train.validate import Validation


def model_card(recipe: Recipe, config: ModelConfig, step: int, validation: Validation) -> str:
    """Markdown, with the front matter that the Hugging Face hub reads."""
    count = parameters(config)
    moe = config.moe
    experts = f", {moe.experts} experts of which {moe.top_k} (+{moe.shared_experts} shared) per token" if moe else ""
    merged = ""
    if recipe.learning_rate.schedule == "wsm" and step == recipe.training.steps:
        merged = " Its weights are the last checkpoints, merged in place of a learning-rate decay."
    return f"""---
library_name: grainline
pipeline_tag: text-generation
---
# {recipe.name}

A base language model (it continues text; it was not taught to converse), trained with grainline {__version__}.{merged}

- {count.total / 1e6:,.1f} million parameters, {count.active / 1e6:,.1f} million active per token
- {config.layers} layers of width {config.hidden_size}{experts}
- learned from {", ".join(recipe.data.text)}: {step:,} steps of {recipe.training.batch_tokens:,} tokens, sequences of \
{recipe.data.sequence_length}
- held-out text: {validation.loss:.4f} nats per token, {validation.bits_per_byte:.4f} bits per byte

## Recipe

```toml
{tomli_w.dumps(recipe.tables()).strip()}
```
"""
