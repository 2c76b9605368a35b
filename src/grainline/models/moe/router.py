"""Top-k routers: sigmoid or softmax scores, selection within groups and with a balancing bias where the config says so.

The general case is DeepSeek-V3's and Ling 2.0's (arXiv 2510.22115, section 2.2); Qwen3-MoE and Mixtral are plain cases.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from grainline.documents import ModelConfig
from grainline.models.moe.seams import AT_REST, Moment, Routed, RouterReport, Routing


class TopKRouter(nn.Module):
    """Scores every expert for every token in float32 and keeps the best K."""

    bias_E: Tensor | None

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        moe = config.moe
        assert moe is not None
        self.moe, self.layer = moe, layer
        self.weight_ED = nn.Parameter(torch.empty(moe.choices, config.hidden_size))
        # A buffer, not a parameter: no gradient, no decay; `balance.step_bias` moves it.
        self.register_buffer("bias_E", torch.zeros(moe.choices, dtype=torch.float32) if moe.bias_balanced else None)

    def forward(
        self, x_TD: Tensor, sequences: int, report: bool, carry_TC: Tensor | None = None, moment: Moment = AT_REST
    ) -> Routed:
        """See `seams.Router`."""
        moe, tokens = self.moe, x_TD.shape[0]
        logits_TE = nn.functional.linear(x_TD.float(), self.weight_ED.float())
        score_TE = logits_TE.sigmoid() if moe.router == "sigmoid-topk" else logits_TE.softmax(-1)
        expert_TK = self.select(score_TE.detach())
        score_TK = score_TE.gather(1, expert_TK)
        if moe.normalize:
            score_TK = score_TK / (score_TK.sum(-1, keepdim=True) + 1e-20)
        score_TK = score_TK * moe.scale
        expert_N = expert_TK.flatten()
        counts_E = torch.bincount(expert_N, minlength=moe.choices)
        unit_N = torch.arange(tokens, device=x_TD.device).repeat_interleave(moe.top_k)
        routing = Routing(unit_N, expert_N, score_TK.flatten(), counts_E)
        if not report:
            return Routed(routing, carry_TC)
        z, balance = logits_TE.logsumexp(-1).square().sum(), sequence_balance(score_TE, expert_TK, sequences)
        return Routed(routing, carry_TC, RouterReport(z, balance, counts_E, entropy(score_TE)))

    def select(self, score_TE: Tensor) -> Tensor:
        """Ids of the chosen experts, [T, K]: by score plus bias, within the best groups."""
        moe = self.moe
        choice_TE = score_TE if self.bias_E is None else score_TE + self.bias_E
        if moe.groups > 1:
            choice_TGe = choice_TE.unflatten(1, (moe.groups, -1))
            group_TG = choice_TGe.topk(2, dim=-1).values.sum(-1)
            closed_TG = torch.ones_like(group_TG, dtype=torch.bool)
            closed_TG.scatter_(1, group_TG.topk(moe.top_groups, dim=-1, sorted=False).indices, False)
            choice_TE = choice_TGe.masked_fill(closed_TG.unsqueeze(-1), -torch.inf).flatten(1)
        return choice_TE.topk(moe.top_k, dim=-1, sorted=False).indices


def entropy(score_TE: Tensor) -> Tensor:
    """Σ over tokens of the entropy of its scores, made to sum to 1, in nats: 0 where decided, T·ln E where even."""
    with torch.no_grad():
        share_TE = score_TE / score_TE.sum(-1, keepdim=True)
        return torch.special.entr(share_TE).sum()


def sequence_balance(score_TE: Tensor, expert_TK: Tensor, sequences: int) -> Tensor:
    """Σ over sequences of S·E·Σₑ fₑ·Pₑ: load share times mean score share, within one sequence (1 when even), times its
    tokens (DeepSeek-V3, arXiv 2412.19437, equations 17–20). Per sequence, so the sum doesn't depend on the layout.
    """
    experts, top_k = score_TE.shape[1], expert_TK.shape[1]
    share_BSE = (score_TE / score_TE.sum(-1, keepdim=True)).unflatten(0, (sequences, -1))
    length = share_BSE.shape[1]
    chosen_TE = torch.zeros_like(score_TE).scatter_(1, expert_TK, 1.0)
    load_BE = chosen_TE.unflatten(0, (sequences, -1)).mean(1) * (experts / top_k)
    return (load_BE * share_BSE.mean(1)).sum() * length
