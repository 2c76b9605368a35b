"""Messages of tensor parallelism: what a half of a block gathers and scatters, forward and backward."""

from __future__ import annotations

from grainline.plan.layouts.work import Message, Op, Setting


def forward(s: Setting, size: float) -> tuple[Message, ...]:
    """An all-gather of the input and a reduce-scatter of the output, or one all-reduce where sequences aren't split."""
    if s.strategy.tensor == 1:
        return ()
    count = s.width * s.tokens * size
    if s.strategy.sequence_parallel:
        return (Message("tensor", "gather", count),) * 2
    return (Message("tensor", "reduce", count),)


def backward(s: Setting, size: float, entering: Op, weights: Op) -> tuple[Message, ...]:
    """The output's gradient gathered; the input gathered once more, beside the gradient that enters the layer before;
    and that one scattered, beside the weights' (arXiv 2205.05198, section 4.2.2). Or one all-reduce beside the latter.
    """
    if s.strategy.tensor == 1:
        return ()
    count, hides = s.width * s.tokens * size, s.engine.overlaps_tensor
    last = weights if hides else None
    if not s.strategy.sequence_parallel:
        return (Message("tensor", "reduce", count, last),)
    again = Message("tensor", "gather", count, entering if hides else None)
    return Message("tensor", "gather", count), again, Message("tensor", "gather", count, last)
