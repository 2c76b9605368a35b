"""How minutes become a model, steps and rates."""

import pytest

from grainline.cli import main
from grainline.documents import GrainlineError, Recipe
from grainline.models.count import flops_per_token
from grainline.models.dial import config_for_depth, dense_twin
from grainline.plan.scaling_laws import batch_tokens, learning_rate
from grainline.quickstart.budget import Speed, depth_for, plan_budget, recipe_for
from grainline.quickstart.options import Options

CONFIG = config_for_depth(4, 4096, 256)


def speed(seconds):
    return Speed(sparse=seconds, dense=seconds / 2, batch_tokens=4096, compute="float32")


def test_depth_grows_slowly_with_time():
    assert [depth_for(m) for m in (1, 5, 60, 24 * 60)] == [2, 3, 5, 8]


@pytest.mark.parametrize("seconds", [60, 300, 3600])
@pytest.mark.parametrize("step", [0.05, 0.5, 2.0])
def test_a_budget_fits_the_time_and_follows_the_laws(seconds, step):
    budget = plan_budget(CONFIG, 4, speed(step), seconds)
    spent = budget.steps * (budget.seconds_per_step + budget.dense_seconds_per_step)
    assert budget.steps == 20 or spent <= seconds
    assert budget.steps == 20 or spent > 0.6 * seconds - 10
    flops = budget.tokens * flops_per_token(CONFIG, 256, mtp=0.25)
    assert budget.batch_tokens % budget.sequence_length == 0
    if budget.steps > 40:
        assert budget.batch_tokens == pytest.approx(batch_tokens(flops), rel=0.15)
        assert budget.learning_rate == pytest.approx(0.4 * learning_rate(flops), rel=0.05)


def test_more_time_means_more_steps_and_tokens():
    budgets = [plan_budget(CONFIG, 4, speed(0.4), 60.0 * m) for m in (1, 5, 30)]
    assert [b.tokens for b in budgets] == sorted({b.tokens for b in budgets})
    assert [b.batch_tokens for b in budgets] == sorted(b.batch_tokens for b in budgets)


def test_recipes_of_both_models_differ_in_the_model_alone():
    budget = plan_budget(CONFIG, 4, speed(0.4), 300)
    a, b = (recipe_for(budget, c, ("builtin",), "tok", 1000, 0).tables() for c in (CONFIG, dense_twin(CONFIG)))
    assert a["model"] != b["model"]
    assert {k: v for k, v in a.items() if k not in ("model", "name")} == {
        k: v for k, v in b.items() if k not in ("model", "name")
    }
    assert Recipe.parse(a).model.config == CONFIG


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"minutes": 0.01}, "between 0.1 and 100,000"),
        ({"minutes": float("inf")}, "--minutes inf"),
        ({"minutes": float("nan")}, "--minutes nan"),
        ({"seed": -1}, "--seed -1"),
        ({"depth": 0}, "between 1 and 64"),
        ({"text": ()}, "at least one file"),
    ],
)
def test_dials_out_of_range_are_refused(options, message):
    with pytest.raises(GrainlineError, match=message):
        Options(**options)


@pytest.mark.parametrize("minutes", ["0.5", "inf", "nan", "1e300"])
def test_the_command_line_takes_a_minute_at_least_and_no_endless_time(minutes, capsys):
    assert main(["quickstart", "--minutes", minutes]) == 2
    assert "must be a number between 1 and 100,000" in capsys.readouterr().err
