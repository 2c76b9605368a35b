"""The Ling scaling laws as a calculator: compute → learning rate, batch, leverage of sparsity.

Coefficients: *Towards Greater Leverage*, arXiv 2507.17702, and the Ling 2.0 report, arXiv 2510.22115, section 2. They
were fitted between 3e17 and 3e20 FLOPs; outside, results are extrapolated (`is_fitted`).
"""

from __future__ import annotations

import math

from grainline.documents import GrainlineError

FITTED_FLOPS = (3e17, 3e20)


def is_fitted(flops: float) -> bool:
    """Whether a budget lies where the laws were fitted."""
    return FITTED_FLOPS[0] <= flops <= FITTED_FLOPS[1]


def learning_rate(flops: float) -> float:
    """Best peak rate of AdamW for a sparse model trained with so many FLOPs in all."""
    return 1.1576 * _positive(flops) ** -0.1529


def batch_tokens(flops: float) -> float:
    """Best tokens per step of a sparse model trained with so many FLOPs in all."""
    return 0.0694 * _positive(flops) ** 0.3644


def efficiency_leverage(activation: float, granularity: float, flops: float) -> float:
    """Compute of a dense model over that of a sparse one of equal loss.

    activation: (top_k + shared) / (experts + shared), in (0, 1]; granularity: 2D / F of an expert. At activation 1 the
    fitted curve gives 0.99; it is held at 1. The bases of the logarithms (10 for compute, 2 for granularity) aren't
    printed: they are those that give the published results.
    """
    if not 0 < activation <= 1:
        raise GrainlineError(f"activation {activation} must lie in (0, 1]: (top_k + shared) / (experts + shared).")
    if granularity <= 0:
        raise GrainlineError(f"granularity {granularity} must be positive: 2·D / F of one expert.")
    start, most = 1.63e-2, 5.28e16
    saturated = 1 / (1 / (activation + 1 / (1 / start - 1 / most)) + 1 / most)
    log_g = math.log2(granularity)
    exponent = 1.23 - 7.61e-2 * math.log10(_positive(flops)) + 1.67e-2 * log_g**2 - 0.117 * log_g
    return max(1.0, saturated**exponent)


def _positive(flops: float) -> float:
    if not (flops > 0 and math.isfinite(flops)):
        raise GrainlineError(f"a compute budget must be a positive number of FLOPs, not {flops}.")
    return flops
