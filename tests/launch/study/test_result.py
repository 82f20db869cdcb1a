"""Claims and verdicts, and tables as CSV."""

import math

import numpy as np
import pytest

from allgrad.launch.study.intervals import Estimate, mean, share
from allgrad.launch.study.result import FAIL, INCONCLUSIVE, NONE, PASS, Claim, Result, Table, judge, seeds_needed


def claim(*estimates, least=-math.inf, most=math.inf, **more):
    return Claim("it is so", "Somebody 2020, section 1", "as they say", estimates, least, most, **more)


def about(value, error=0.01, n=5):
    return Estimate(value, error, n - 1.0, n=n)


@pytest.mark.parametrize(
    "estimates, least, most, word",
    [([about(1.5)], 1.2, math.inf, PASS), ([about(1.0)], 1.2, math.inf, FAIL),
     ([about(1.2)], 1.2, math.inf, INCONCLUSIVE),
     ([about(1.0), about(1.01)], 0.9, 1.1, PASS), ([about(1.0), about(1.3)], 0.9, 1.1, FAIL),
     ([about(1.0), about(1.1)], 0.9, 1.1, INCONCLUSIVE), ([about(1.0, n=2)], 0.5, 2.0, NONE),
     ([mean([1.0, math.inf, 1.0])], 0.5, 2.0, NONE), ([], 0.5, 2.0, NONE)],
)  # fmt: skip
def test_verdicts(estimates, least, most, word):
    assert judge([claim(*estimates, least=least, most=most)])[0].word == word


def test_a_claim_at_its_bound_is_decided_in_one_of_twenty_cases():
    rng = np.random.default_rng(0)
    draw = lambda: claim(mean(np.exp(0.2 * rng.standard_normal(5))), most=1.0)
    decided = sum(judge([draw()])[0].word != INCONCLUSIVE for _ in range(2000))
    assert 68 <= decided <= 133  # binomial, 0.05 of 2,000, in all but 0.2 % of cases


def test_of_claims_at_their_bounds_any_is_decided_in_at_most_one_of_twenty_experiments():
    rng = np.random.default_rng(1)
    draw = lambda: claim(*(mean(np.exp(0.2 * rng.standard_normal(5))) for _ in range(3)), most=1.0)
    wrong = sum(any(v.word == FAIL for v in judge([draw() for _ in range(6)])) for _ in range(500))
    assert wrong <= 41  # binomial, 0.05 of 500, in all but 0.2 % of cases; without corrections about 40 %


def test_a_difference_of_5_percent_is_not_equal_with_few_seeds():
    rng = np.random.default_rng(2)
    for n in (3, 5, 20):
        draw = lambda n=n: mean(1.05 * np.exp(0.05 * rng.standard_normal(n)))
        equal = sum(judge([claim(draw(), least=1 / 1.05, most=1.05)])[0].word == PASS for _ in range(500))
        assert equal <= 24  # binomial, 0.025 of 500


def test_what_has_no_verdict_says_why():
    said = [judge([claim(e, most=2.0)])[0].why for e in (about(1.0, n=2), mean([1.0, math.inf, 1.0]))]
    assert said == ["2 seeds, and a verdict needs 3", "1 of 3 seeds failed, and the others decide nothing"]
    assert judge([claim(about(1.0), most=2.0, why="the machine was disturbed")])[0].why == "the machine was disturbed"


def test_seeds_that_would_decide():
    near = claim(Estimate(1.1, 0.05, 4.0, n=5), least=1.0)
    assert (
        5 < seeds_needed(near) < 30 and f"about {seeds_needed(near)} would decide it in 80 % of" in judge([near])[0].why
    )
    at_bound = claim(Estimate(1.0001, 0.05, 4.0, n=5), least=1.0)
    assert seeds_needed(at_bound) is None and "the number lies at the bound" in judge([at_bound])[0].why
    assert 5 < seeds_needed(claim(share(5, 5), least=0.5)) < 20
    assert seeds_needed(claim(Estimate(1.0, 0.0, 4.0, n=5), least=1.0)) is None
    nowhere = claim(Estimate(math.nan, 0.05, 4.0, n=5), least=1.0)
    assert seeds_needed(nowhere) is None


@pytest.mark.parametrize("truth, least, most", [(1.06, 1.0, math.inf), (1.0, 0.93, 1.07), (1.02, 0.9, 1.07),
                                                (1.13, 0.93, 1.07), (0.95, 1.0, math.inf)])  # fmt: skip
def test_so_many_seeds_decide_in_four_of_five_studies(truth, least, most):
    rng, scatter, n = np.random.default_rng(3), 0.08, 5
    needed = seeds_needed(claim(Estimate(truth, scatter / math.sqrt(n), n - 1.0, n=n), least=least, most=most))
    right = PASS if least < truth < most else FAIL
    draw = lambda: claim(mean(truth * np.exp(scatter * rng.standard_normal(needed))), least=least, most=most)
    decided = sum(judge([draw()])[0].word == right for _ in range(500))
    assert 373 <= decided <= 435  # binomial, 0.8 of 500, with 3 standard errors, and what whole seeds add


def test_a_claim_that_would_be_decided_alone_may_not_be_among_others():
    e = Estimate(1.0, 0.1, 4.0, n=5)
    alone = claim(e, least=e.low * 0.999)
    assert judge([alone])[0].word == PASS
    among = judge([alone] * 8)
    assert {v.word for v in among} == {INCONCLUSIVE} and among[0].why == "decided by itself, but not as one of 8 claims"


def test_csv():
    rows = [{"name": "a", "x": 0.1 + 0.2, "n": np.int64(3)}, {"name": "b, c", "x": math.nan, "n": None}]
    assert Table("t", ["name", "x", "n"], rows).csv() == 'name,x,n\na,0.30000000000000004,3\n"b, c",,\n'


def test_files_are_named_after_the_experiment(tmp_path):
    first, second, summary = (Table(name, ["x"], [{"x": 1}]) for name in ("cells", "fit", "choices"))
    Result("steps", "?", "!", tables=[first, second], summary=summary).save_tables(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["steps.csv", "steps_choices.csv", "steps_fit.csv"]
