"""One dial, `depth`, sets every size of a Ling-2.0-style model. No torch here."""

from __future__ import annotations

from grainline.documents import Attention, GrainlineError, ModelConfig, Moe, Rope
from grainline.models.count import ffn_parameters


def config_for_depth(depth: int, vocab_size: int, max_positions: int) -> ModelConfig:
    """The model of `depth` layers. The rules, with Ling 2.0's reasons (arXiv 2510.22115, section 2):

    - width D = 32 · depth, at least 64; heads of 32 dims (128 from D = 2,048), a quarter as many for keys and values,
      or the next fewer that share them evenly;
    - experts of F = D/4, granularity 2D/F = 8, the lower end of the laws' optimum of 8–12;
    - 32 experts, 4 of them and a shared one per token: 1 in 6.6 is active (more and sparser from depth 12);
    - the first layer is dense and as wide as the experts a token uses; QK-norm, half of the head dims rotate, MTP.
    """
    size = max(64, 32 * depth)
    head_dim = 128 if size >= 2048 else 32
    heads = size // head_dim
    expert_hidden = size // 4
    experts, top_k = (32, 4) if depth < 12 else (128, 8)
    return ModelConfig(
        family="ling2",
        vocab_size=vocab_size,
        hidden_size=size,
        layers=depth,
        ffn_hidden=expert_hidden * (top_k + 1),
        max_positions=max_positions,
        init_std=0.27 * size**-0.5,  # the report's 0.006 at D = 2,048
        mtp_depth=1,
        attention=Attention(
            heads=heads,
            kv_heads=next(n for n in range(max(1, heads // 4), 0, -1) if heads % n == 0),
            head_dim=head_dim,
            qk_norm=True,
            rope=Rope(theta=10_000.0, fraction=0.5),
        ),
        moe=Moe(
            experts=experts,
            top_k=top_k,
            expert_hidden=expert_hidden,
            shared_experts=1,
            router="sigmoid-topk",
            bias_balanced=True,
            groups=1,
            scale=2.5,
            dense_layers=(0,),
        ),
    )


def dense_twin(config: ModelConfig) -> ModelConfig:
    """The dense model with the same active parameters: every FFN as wide as the experts that one token uses."""
    if config.moe is None:
        return config
    active = ffn_parameters(config, config.sparse_layers[0])[1]  # the router's weights are spent on width too
    width = active // (3 * config.hidden_size)
    return config.model_copy(update={"moe": None, "ffn_hidden": width})


def bottleneck_twin(config: ModelConfig, latent: int) -> ModelConfig:
    """The same model with its experts behind a bottleneck of `latent` dims, and as many parameters in each of them.

    BigMac (arXiv 2502.16927, section 3.2): R → F' → R with F' = F·D/R instead of D → F → D. Raises GrainlineError where
    F' is no whole number, or the bottleneck wouldn't be one.
    """
    moe, size = config.moe, config.hidden_size
    if moe is None or moe.expert != "swiglu":
        raise GrainlineError("Only a model with plain experts has a twin whose experts stand behind a bottleneck.")
    if not 0 < latent < size:
        raise GrainlineError(f"A bottleneck of {latent} dims saves nothing: name fewer than hidden_size {size}.")
    weights = moe.expert_hidden * size
    if weights % latent:
        fit = min((n for n in range(1, size) if weights % n == 0), key=lambda n: abs(n - latent))
        raise GrainlineError(
            f"Experts of F {moe.expert_hidden} at D {size} have no equals of {latent} dims, which don't divide F·D. "
            f"The nearest that fits is {fit}."
        )
    behind = {"expert": "bottleneck", "latent": latent, "expert_hidden": weights // latent}
    shared = {"shared_hidden": moe.shared_hidden or moe.expert_hidden} if moe.shared_experts else {}
    return config.model_copy(update={"moe": moe.model_copy(update=behind | shared)})
