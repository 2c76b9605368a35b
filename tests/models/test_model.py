"""The whole model: counts against counting, cache against none, masks against brute force, losses against a loop."""

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from grainline import kernels
from grainline.documents import Attention, GrainlineError, ModelConfig, Moe, Rope
from grainline.documents.recipe import Loss
from grainline.models.build import build
from grainline.models.count import attention_flops_per_token, flops_per_token, parameters
from grainline.models.dial import config_for_depth, dense_twin
from grainline.models.generate import Sampling, generate, probabilities
from grainline.models.loss import loss_sums

LING = config_for_depth(3, vocab_size=300, max_positions=64)
MLA = ModelConfig(
    vocab_size=50,
    hidden_size=24,
    layers=2,
    ffn_hidden=32,
    max_positions=64,
    attention=Attention(kind="mla", heads=3, head_dim=8, q_rank=12, kv_rank=10, rope_dim=4, value_dim=6, bias=True),
    moe=Moe(experts=4, top_k=2, expert_hidden=8, shared_experts=1, dense_layers=(0,)),
)
WINDOW = ModelConfig(
    vocab_size=50,
    hidden_size=16,
    layers=2,
    ffn_hidden=32,
    max_positions=64,
    tie_embeddings=True,
    attention=Attention(heads=4, kv_heads=2, head_dim=4, window=5, bias=True, output_bias=True),
)
CONFIGS = {"ling": LING, "mla": MLA, "window": WINDOW, "dense": dense_twin(LING)}


@pytest.fixture(params=CONFIGS)
def config(request):
    return CONFIGS[request.param]


def published(layers, dense, size, heads, kv_heads, ffn, expert):
    return ModelConfig(
        vocab_size=157184,
        hidden_size=size,
        layers=layers,
        ffn_hidden=ffn,
        attention=Attention(heads=heads, kv_heads=kv_heads, head_dim=128, qk_norm=True),
        moe=Moe(experts=256, top_k=8, expert_hidden=expert, shared_experts=1, dense_layers=tuple(range(dense))),
    )


@pytest.mark.parametrize(
    ("sizes", "total", "active"),
    [
        ((20, 1, 2048, 16, 4, 5120, 512), 16.26, 1.43),
        ((32, 1, 4096, 32, 4, 9216, 1024), 102.9, 6.15),
        ((80, 4, 8192, 64, 8, 18432, 2048), 999.7, 51.05),
    ],
)
def test_parameter_counts_equal_the_ling_report(sizes, total, active):
    counts = parameters(published(*sizes))
    assert f"{counts.total / 1e9:.4g}" == f"{total:.4g}"
    assert round(counts.active / 1e9, 2) == active


def test_parameter_counts_equal_counting(config):
    counts = parameters(config)
    assert counts.total + counts.mtp == sum(p.numel() for p in build(config).parameters())


def test_flops_equal_counting(config):
    length, batch = 16, 2
    model, ids = build(config), torch.randint(0, config.vocab_size, (batch, length))
    visible = kernels.use({"expert_mixture": "sonic"})  # torch doesn't see into compiled kernels
    with visible, FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(ids)
    # The counter takes attention as a full square; the closed form takes the causal half that has to be done.
    unwindowed = config.model_copy(update={"attention": config.attention.model_copy(update={"window": None})})
    half = attention_flops_per_token(config, (length + 1) / 2)
    full = attention_flops_per_token(unwindowed, length)
    claimed = flops_per_token(config, length, backward=False, mtp=0) + config.layers * (full - half)
    assert counter.get_total_flops() == pytest.approx(claimed * batch * length, rel=1e-9)


def test_decoding_with_a_cache_equals_one_pass(config):
    model, ids = build(config, seed=1).eval(), torch.randint(0, config.vocab_size, (2, 40))
    with torch.inference_mode():
        whole, state = model(ids), model.new_state()
        pieces = [model(ids[:, a:b], state) for a, b in ((0, 17), (17, 18), (18, 29), (29, 40))]
        torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=1e-4, atol=1e-5)
        state.truncate(18)
        torch.testing.assert_close(model(ids[:, 18:], state), whole[:, 18:], rtol=1e-4, atol=1e-5)


def test_attention_is_causal_and_respects_window_and_documents():
    model = build(WINDOW, seed=2)
    ids = torch.randint(0, 50, (1, 30))
    changed = ids.clone()
    changed[0, 10] = (changed[0, 10] + 1) % 50
    moved = (model(ids) - model(changed)).abs().amax(-1)[0]
    assert (moved[:10] == 0).all()
    assert (moved[10:19] > 0).all()
    assert (moved[19:] < 1e-6).all()  # two layers of a window of 5 reach 8 positions on

    dense = build(dense_twin(LING), seed=2)
    document = torch.tensor([[0] * 12 + [1] * 18])
    both = dense(ids, document_BS=document)
    torch.testing.assert_close(both[:, :12], dense(ids[:, :12]), rtol=1e-4, atol=1e-5)
    apart = dense(torch.cat((torch.randint(0, 50, (1, 12)), ids[:, 12:]), 1), document_BS=document)
    torch.testing.assert_close(apart[:, 12:], both[:, 12:], rtol=1e-4, atol=1e-5)


def test_losses_equal_a_loop_and_mtp_stops_at_documents():
    model, bos = build(LING, seed=3), 0
    ids = torch.randint(1, 300, (2, 21))
    ids[0, 9] = bos
    sums = loss_sums(model, ids, bos_token_id=bos)
    logits = model(ids[:, :-1])
    truth = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")
    torch.testing.assert_close(sums.cross_entropy, truth, rtol=1e-4, atol=1e-3)
    trunk = model.trunk(ids[:, :-1])
    further = model.logits(model.predict_further(trunk, ids[:, 1:]).hidden_BSD).log_softmax(-1)
    expected, count = 0.0, 0
    for b in range(2):
        for t in range(19):
            if ids[b, t + 1] != bos:
                expected -= float(further[b, t, ids[b, t + 2]])
                count += 1
    assert sums.mtp_tokens == count == 37
    assert float(sums.mtp) == pytest.approx(expected, rel=1e-4)
    assert sums.counts_LE.shape == (3, 32)
    assert (sums.counts_LE.sum(1) == 2 * 20 * 4).all()


def test_the_dial_has_a_model_at_every_depth() -> None:
    for depth in range(1, 129):
        config = config_for_depth(depth, vocab_size=300, max_positions=64)
        heads, kv_heads = config.attention.heads, config.attention.kv_heads
        assert 0 <= config.hidden_size - heads * config.attention.head_dim < config.attention.head_dim
        assert kv_heads <= max(1, heads // 4)
        assert not any(heads % n == 0 for n in range(kv_heads + 1, heads // 4 + 1))


def test_mtp_is_counted_where_it_alone_has_experts():
    config = config_for_depth(1, vocab_size=300, max_positions=64)
    sums = loss_sums(build(config, seed=3), torch.randint(1, 300, (2, 21)))
    assert sums.counts_LE.shape == (len(config.sparse_layers), 32) == (1, 32)
    assert int(sums.counts_LE.sum()) == 2 * 20 * 4


def test_micro_batches_add_up_to_the_batch():
    model, ids, loss = build(LING, seed=4), torch.randint(0, 300, (4, 17)), Loss(z_loss=1e-3, balance_loss=1e-2)
    loss_sums(model, ids, bos_token_id=0).objective(loss, 64).backward()
    whole = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    for part in ids.split(1):
        loss_sums(model, part, bos_token_id=0).objective(loss, 64).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, whole[name], rtol=1e-3, atol=1e-6, msg=name)


def test_mtp_learns_from_chosen_sequences_however_they_are_batched():
    model, ids, loss = build(LING, seed=8), torch.randint(1, 300, (12, 17)), Loss(mtp_every=3)
    chosen = ids[ids.sum(1) % 3 == 0]
    assert 0 < len(chosen) < 12
    some = loss_sums(model, ids, mtp_every=3)
    alone = loss_sums(model, chosen)
    assert some.mtp_tokens == alone.mtp_tokens == len(chosen) * 15
    torch.testing.assert_close(some.mtp, alone.mtp, rtol=1e-5, atol=1e-4)
    apart = [loss_sums(model, row, mtp_every=3) for row in ids.split(1)]
    for name in ("mtp", "z", "balance"):
        torch.testing.assert_close(sum(getattr(s, name) for s in apart), getattr(some, name), rtol=1e-5, atol=1e-3)
    assert torch.equal(sum(s.counts_LE for s in apart), some.counts_LE)
    assert int(some.counts_LE[-1].sum()) == len(chosen) * 16 * 4
    expected = (some.cross_entropy + 0.1 * 3 * some.mtp) / 192
    torch.testing.assert_close(some.objective(loss, 192), expected)


def test_recomputation_changes_nothing():
    ids = torch.randint(0, 300, (2, 17))
    grads = []
    for recompute in (False, True):
        model = build(LING, seed=5)
        model.recompute = recompute
        loss_sums(model, ids, bos_token_id=0).objective(Loss(), 32).backward()
        grads.append({n: p.grad for n, p in model.named_parameters()})
    for name in grads[0]:
        torch.testing.assert_close(grads[0][name], grads[1][name], rtol=0, atol=0)


def test_initialisation_depends_on_seed_and_name_only():
    one, same, other = build(LING, seed=1), build(LING, seed=1), build(LING, seed=2)
    deeper = build(config_for_depth(3, 300, 64).model_copy(update={"layers": 4}), seed=1)
    assert torch.equal(one.embedding.weight, same.embedding.weight)
    assert not torch.equal(one.embedding.weight, other.embedding.weight)
    assert torch.equal(one.blocks[1].attention.q.weight, deeper.blocks[1].attention.q.weight)


def test_dial_and_twin_have_equal_active_parameters():
    for depth in (2, 4, 8, 16):
        sparse = config_for_depth(depth, 4096, 256)
        a, b = parameters(sparse).active, parameters(dense_twin(sparse)).active
        assert abs(a - b) / a < 0.01
        assert parameters(sparse).total > (1.2 if depth > 2 else 1.1) * a


def test_generation_stops_and_repeats_itself_with_a_seed():
    model = build(LING, seed=6).eval()

    def run(seed, **options):
        generator = torch.Generator().manual_seed(seed)
        return [t.id for t in generate(model, [0, 5, 7], max_new_tokens=20, generator=generator, **options)]

    assert run(1) == run(1) != run(2)
    greedy = run(1, sampling=Sampling(temperature=0))
    ids = [0, 5, 7]
    for token in greedy:
        assert token == int(model(torch.tensor([ids]))[0, -1].argmax())
        ids.append(token)
    stopped = run(1, stop_ids=[run(1)[3]])
    assert stopped == run(1)[: run(1).index(run(1)[3]) + 1]
    assert len([*generate(model, [1] * 60, max_new_tokens=50)]) == 4
    with pytest.raises(GrainlineError, match="64 tokens; this model's context holds 64"):
        next(generate(model, [1] * 64, max_new_tokens=1))
    with pytest.raises(GrainlineError, match="empty"):
        next(generate(model, [], max_new_tokens=1))


def test_logprobs_are_the_models_own():
    model = build(LING, seed=7).eval()
    options = {"max_new_tokens": 5, "sampling": Sampling(temperature=3.0), "top_logprobs": 2}
    tokens = list(generate(model, [0, 1], generator=torch.Generator().manual_seed(3), **options))
    assert list(model.generate([0, 1], generator=torch.Generator().manual_seed(3), **options)) == tokens
    ids = [0, 1] + [t.id for t in tokens]
    logprob = model(torch.tensor([ids]))[0].log_softmax(-1)
    for i, token in enumerate(tokens):
        assert token.logprob == pytest.approx(float(logprob[1 + i, token.id]), abs=1e-4)
        assert token.top_logprobs[0][1] == pytest.approx(float(logprob[1 + i].max()), abs=1e-4)


def test_cuts_keep_what_they_should():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    assert probabilities(logits, Sampling(top_p=0.8)).nonzero().flatten().tolist() == [0, 1]
    assert probabilities(logits, Sampling(top_p=0.81)).nonzero().flatten().tolist() == [0, 1, 2]
    assert probabilities(logits, Sampling(top_k=1)).tolist() == [1, 0, 0, 0]
    assert probabilities(logits, Sampling(min_p=0.2)).nonzero().flatten().tolist() == [0, 1, 2]
    assert probabilities(logits, Sampling(temperature=0)).tolist() == [1, 0, 0, 0]
    assert probabilities(logits, Sampling(temperature=1e-40)).tolist() == [1, 0, 0, 0]
    assert float(probabilities(logits, Sampling(temperature=2, top_p=0.9)).sum()) == pytest.approx(1)


def test_partial_rope_leaves_the_rest_of_a_head_alone():
    from grainline.models.attention.rope import apply_rope, rope_table

    table = rope_table(Rope(fraction=0.5), 8, torch.arange(6), torch.float32)
    x = torch.randn(1, 6, 2, 16)
    out = apply_rope(x, table, interleaved=False)
    assert torch.equal(out[..., 8:], x[..., 8:])
    for position in range(6):
        for i in range(4):
            angle = torch.tensor(position * 10_000.0 ** (-2 * i / 8))
            a, b = x[0, position, 0, i], x[0, position, 0, i + 4]
            assert out[0, position, 0, i] == pytest.approx(float(a * angle.cos() - b * angle.sin()), abs=1e-5)
            assert out[0, position, 0, i + 4] == pytest.approx(float(b * angle.cos() + a * angle.sin()), abs=1e-5)
