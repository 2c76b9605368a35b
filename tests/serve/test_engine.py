"""The engine that decodes one sequence at a time, on a tiny model."""

import asyncio

import pytest
import torch

from grainline.documents import Attention, ModelConfig, Moe
from grainline.models.build import build
from grainline.models.generate import Sampling, generate
from grainline.serve.engine import EngineClosed, GenerationRequest
from grainline.serve.sequential import SCORE_CHUNK_TOKENS, SequentialEngine, score

V = 97


@pytest.fixture(scope="module")
def model():
    config = ModelConfig(
        vocab_size=V,
        hidden_size=32,
        layers=2,
        ffn_hidden=64,
        max_positions=320,
        init_std=0.3,
        attention=Attention(heads=2, kv_heads=1, head_dim=16, qk_norm=True),
        moe=Moe(experts=4, top_k=2, expert_hidden=32, shared_experts=1, dense_layers=(0,)),
    )
    return build(config, seed=3).eval()


@pytest.fixture
def engine(model):
    engine = SequentialEngine(model)
    yield engine
    engine.close("the test is over")
    assert engine.join(10)


async def collect(engine, request):
    generation = engine.submit(request)
    return [token async for token in generation], generation


def requests(count: int) -> list[GenerationRequest]:
    kinds = [Sampling(temperature=0), Sampling(), Sampling(temperature=0.7, top_p=0.9), Sampling(top_k=5)]
    return [
        GenerationRequest((1, 2 + i, 5), max_new_tokens=12 + i, sampling=kinds[i % 4], seed=i, top_logprobs=i % 3)
        for i in range(count)
    ]


def test_eight_at_once_get_what_they_get_alone(engine, model):
    async def at_once():
        return await asyncio.gather(*(collect(engine, request) for request in requests(8)))

    async def alone():
        return [await collect(engine, request) for request in requests(8)]

    together, apart = asyncio.run(at_once()), asyncio.run(alone())
    assert [tokens for tokens, _ in together] == [tokens for tokens, _ in apart]
    for (tokens, _), request in zip(together, requests(8), strict=True):
        generator = torch.Generator().manual_seed(request.seed)
        direct = generate(
            model,
            request.prompt_ids,
            max_new_tokens=request.max_new_tokens,
            sampling=request.sampling,
            generator=generator,
            top_logprobs=request.top_logprobs,
        )
        assert tokens == list(direct)
    assert len({tuple(token.id for token in tokens) for tokens, _ in together}) == 8


def test_another_seed_gives_another_text(engine):
    async def run():
        return [await collect(engine, GenerationRequest((1,), 20, Sampling(), seed=seed)) for seed in (1, 2)]

    (one, _), (two, _) = asyncio.run(run())
    assert [token.id for token in one] != [token.id for token in two]


def test_temperature_zero_is_argmax(engine, model):
    tokens, _ = asyncio.run(collect(engine, GenerationRequest((7, 8), 10, Sampling(temperature=0), seed=5)))
    ids = [7, 8]
    with torch.inference_mode():
        for token in tokens:
            assert token.id == int(model(torch.tensor([ids]))[0, -1].argmax())
            ids.append(token.id)


def test_generation_ends_with_its_stop_token(engine):
    request = GenerationRequest((1, 2), 30, Sampling(temperature=0))
    ids = [token.id for token in asyncio.run(collect(engine, request))[0]]
    stop = ids[4]
    stopped = GenerationRequest((1, 2), 30, Sampling(temperature=0), stop_ids=frozenset({stop, 10_000}))
    told = [token.id for token in asyncio.run(collect(engine, stopped))[0]]
    assert told == ids[: ids.index(stop) + 1]


def test_log_probabilities_sum_to_the_teacher_forced(engine, model):
    prompt = tuple(
        int(i) for i in torch.randint(0, V, (SCORE_CHUNK_TOKENS + 9,), generator=torch.Generator().manual_seed(0))
    )
    request = GenerationRequest(prompt, 20, Sampling(temperature=1.3), seed=4, score_prompt=True, top_logprobs=3)
    tokens, generation = asyncio.run(collect(engine, request))
    ids = torch.tensor([*prompt, *(token.id for token in tokens)])
    with torch.inference_mode():
        logprob_SV = model(ids[None])[0, :-1].log_softmax(-1)
    forced = logprob_SV.gather(1, ids[1:, None]).squeeze(1)
    told = [*generation.prompt_scores, *tokens]
    assert [token.id for token in told] == ids[1:].tolist()
    assert sum(token.logprob for token in told) == pytest.approx(float(forced.sum()), abs=1e-3)
    assert torch.tensor([token.logprob for token in told]).sub(forced).abs().max() < 1e-4
    for token, row in zip(told, logprob_SV, strict=True):
        best = row.topk(3)
        assert [id for id, _ in token.top_logprobs] == best.indices.tolist()
        assert [p for _, p in token.top_logprobs] == pytest.approx(best.values.tolist(), abs=1e-4)


@pytest.mark.parametrize("length", [1, 2, SCORE_CHUNK_TOKENS, SCORE_CHUNK_TOKENS + 1])
def test_a_score_for_each_token_but_the_first(model, length):
    assert len(score(model, (5,) * length)) == length - 1


def test_nothing_generated_where_only_scores_are_asked_for(engine):
    tokens, generation = asyncio.run(collect(engine, GenerationRequest((1, 2, 3), 0, score_prompt=True)))
    assert tokens == []
    assert len(generation.prompt_scores) == 2


def test_a_cancelled_generation_makes_room(engine):
    async def run():
        long = engine.submit(GenerationRequest((1,), 300))
        waiting = engine.submit(GenerationRequest((2,), 300))
        await anext(long)
        assert (engine.running, engine.waiting) == (1, 1)
        waiting.cancel()
        assert engine.waiting == 0
        assert [token async for token in waiting] == []
        long.cancel()
        made = sum([1 async for _ in long])  # those made before, then the end
        tokens, _ = await collect(engine, GenerationRequest((3,), 5))
        return made, tokens

    made, tokens = asyncio.run(run())
    assert made < 250
    assert len(tokens) == 5


def test_the_event_loop_stays_free(engine):
    async def run():
        generation = asyncio.create_task(collect(engine, GenerationRequest((1,), 150)))
        ticks = 0
        while not generation.done():
            await asyncio.sleep(0.001)
            ticks += 1
        return ticks

    assert asyncio.run(run()) > 10


def test_a_failing_request_fails_alone(engine, caplog):
    async def run():
        with pytest.raises(IndexError):
            await collect(engine, GenerationRequest((1,), 5, Sampling(logit_bias={10_000: 1.0})))
        return (await collect(engine, GenerationRequest((1,), 5)))[0]

    assert len(asyncio.run(run())) == 5
    assert "generation failed" in caplog.text


def test_a_closed_engine_fails_all_and_takes_no_more(model):
    async def run():
        engine = SequentialEngine(model)
        running, waiting = (engine.submit(GenerationRequest((i,), 300)) for i in (1, 2))
        await anext(running)
        engine.close("enough")
        for generation in (running, waiting):
            with pytest.raises(EngineClosed, match="enough"):
                [token async for token in generation]
        with pytest.raises(EngineClosed):
            engine.submit(GenerationRequest((1,), 5))
        assert engine.failure == "enough"
        assert engine.join(10)

    asyncio.run(run())
