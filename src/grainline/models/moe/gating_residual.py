"""The pathway-aware router of MoE++ (arXiv 2410.07348, section 3.2): a layer's logits know those of the layer before.

G_j = W_j·x_j + U_j·G_{j−1}. What is carried are these logits, earlier residuals within them, so that a token's pathway
adds up over the depth. It is carried in float32 at least, and gets a gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from grainline.documents import ModelConfig
from grainline.models.moe.router import TopKRouter


class GatingResidualRouter(TopKRouter):
    """Softmax top-k over all choices. The first sparse layer has no U, and MTP's, which starts anew, has none either.

    U starts at zero (`models.build`): the paper doesn't say, and so a model begins as one without it.
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__(config, layer)
        square = (self.moe.choices, self.moe.choices)
        self.residual_EE = nn.Parameter(torch.empty(square)) if config.takes_carry(layer) else None

    def logits(self, x_TD: Tensor, carry_TC: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """[T, E], which is also what the next sparse layer's router is given."""
        logits_TE, _ = super().logits(x_TD, None)
        if self.residual_EE is not None and carry_TC is not None:
            logits_TE = logits_TE + linear(carry_TC.to(logits_TE.dtype), self.residual_EE.to(logits_TE.dtype))
        return logits_TE, logits_TE
