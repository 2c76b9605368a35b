"""Top-k routers: sigmoid or softmax scores, selection within groups and with a balancing bias where the config says so.

The general case is DeepSeek-V3's and Ling 2.0's (arXiv 2510.22115, section 2.2); Qwen3-MoE and Mixtral are plain cases.
Other routers override one step of it: how logits come about, which choices are open, or who chooses.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from grainline import kernels
from grainline.documents import ModelConfig
from grainline.models.moe.capacity import within_capacity
from grainline.models.moe.progressive import closed_experts
from grainline.models.moe.report import router_report
from grainline.models.moe.seams import AT_REST, Moment, Routed, Routing


class TopKRouter(nn.Module):
    """Scores every expert for every token in float32 at least, and keeps the best K."""

    bias_E: Tensor | None

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        moe = config.moe
        assert moe is not None
        self.moe, self.layer, self.config = moe, layer, config
        self.weight_ED = nn.Parameter(torch.empty(moe.choices, config.hidden_size))
        # A buffer, not a parameter: no gradient, no decay; `balance.step_bias` moves it.
        self.register_buffer("bias_E", torch.zeros(moe.choices, dtype=torch.float32) if moe.bias_balanced else None)

    def forward(
        self, x_TD: Tensor, sequences: int, report: bool, carry_TC: Tensor | None = None, moment: Moment = AT_REST
    ) -> Routed:
        """See `seams.Router`."""
        logits_TE, carry_TC = self.logits(x_TD.to(torch.promote_types(x_TD.dtype, torch.float32)), carry_TC)
        closed = closed_experts(self.config, self.layer, moment, len(x_TD), sequences, x_TD.device)
        open_TE = logits_TE if closed is None else closed.hide(logits_TE)
        scored_TE = open_TE if moment.opening.closed == "logit" else logits_TE
        score_TE = scored_TE.sigmoid() if self.moe.router == "sigmoid-topk" else scored_TE.softmax(-1)
        score_TE = score_TE if closed is None else score_TE.masked_fill(closed.mask, 0.0)
        routing, chosen = self.choose(score_TE, sequences, moment, None if closed is None else closed.mask)
        if not report:
            return Routed(routing, carry_TC)
        who = chosen.unit_N, chosen.expert_N
        told = router_report(self.moe, open_TE, score_TE, *who, sequences, routing.counts_E)
        return Routed(routing, carry_TC, told if closed is None else closed.as_if_whole(told))

    def logits(self, x_TD: Tensor, carry_TC: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """[T, E], and what is carried to the next sparse layer's router."""
        return nn.functional.linear(x_TD, self.weight_ED.to(x_TD.dtype)), carry_TC

    def choose(
        self, score_TE: Tensor, sequences: int, moment: Moment, closed: Tensor | None = None
    ) -> tuple[Routing, Routing]:
        """Who goes where, and whom tokens had chosen before any were dropped or added.

        closed: bools, [E] or [T, E]: experts that nobody, or not this token, may go to now.
        """
        chosen = self.top_k(score_TE, self.open_choices(score_TE.detach(), closed))
        limited = self.moe.capacity is not None and moment.training
        return within_capacity(self.moe, chosen) if limited else chosen, chosen

    def open_choices(self, score_TE: Tensor, closed: Tensor | None = None) -> Tensor:
        """What experts are chosen by, [T, E]: score plus bias; −∞ where an expert is closed to a token."""
        moe = self.moe
        choice_TE = score_TE if self.bias_E is None else score_TE + self.bias_E
        choice_TE = choice_TE if closed is None else choice_TE.masked_fill(closed, -torch.inf)
        if moe.groups == 1:
            return choice_TE
        choice_TGe = choice_TE[:, : moe.pool].unflatten(1, (moe.groups, moe.pool // moe.groups))
        group_TG = choice_TGe.topk(2, dim=-1).values.sum(-1)
        closed_TG = torch.ones_like(group_TG, dtype=torch.bool)
        closed_TG.scatter_(1, group_TG.topk(moe.top_groups, dim=-1, sorted=False).indices, False)
        open_TE = choice_TGe.masked_fill(closed_TG.unsqueeze(-1), -torch.inf).flatten(1)
        return torch.cat((open_TE, choice_TE[:, moe.pool :]), dim=1)  # costless experts are in no group

    def top_k(self, score_TE: Tensor, choice_TE: Tensor) -> Routing:
        """Every token's best K by `choice_TE`, with their share of the scores."""
        moe = self.moe
        expert_TK, _ = kernels.route_topk(choice_TE.detach(), moe.top_k)
        weight_TK = self.final(score_TE.gather(1, expert_TK), expert_TK)
        expert_N = expert_TK.flatten()
        counts_E = torch.bincount(expert_N, minlength=moe.choices)
        unit_N = torch.arange(len(score_TE), device=score_TE.device).repeat_interleave(moe.top_k)
        return Routing(unit_N, expert_N, weight_TK.flatten(), counts_E)

    def final(self, score_TK: Tensor, expert_TK: Tensor) -> Tensor:
        """Scores of a token's experts as they weigh the outputs.

        A zero expert leaves its share to the others that the token chose, as MoE++'s published code has it; where a
        token chose nothing else, all are 0.
        """
        moe = self.moe
        if moe.zero:
            zero_TK = (expert_TK >= moe.pool) & (expert_TK < moe.pool + moe.zero)
            score_TK = score_TK.masked_fill(zero_TK, 0.0)
        if moe.normalize:
            score_TK = score_TK / (score_TK.sum(-1, keepdim=True) + 1e-20)
        return score_TK * moe.scale
