"""Evaluation: the exact mean over all samples, the same bits on any number of ranks."""

import pytest

from allgrad import nn
from allgrad.autograd.random import generator
from allgrad.ddp import evaluate


@pytest.mark.parametrize("samples", [82, 3, 1])
def test_a_metric_is_the_exact_mean_on_any_number_of_ranks(samples, simulate):
    x = generator("metric").standard_normal((samples, 4))
    model = nn.Linear(4, 3)

    def metrics(x):
        assert not model.training
        return {"first": x[:, 0], "positive": x[:, 1] > 0.0}

    results = set()
    for ranks in (1, 2, 3, 5):
        for means in simulate(ranks, lambda comm: evaluate(model, (x,), metrics, comm, 5, batch=20)):
            results.add(tuple(means.items()))
    ((_, first), (_, positive)), *more = results
    assert not more and model.training
    assert abs(first - x[:, 0].mean()) < 1e-15 and positive == (x[:, 1] > 0.0).mean()


def test_what_follows_from_several_means_is_reported_in_their_place(simulate):
    x = generator("metric").standard_normal((7, 4))

    class Spread:
        def __call__(self, x):
            return {"mean": x[:, 0], "square": x[:, 0] ** 2}

        def finish(self, means):
            return {"variance": means["square"] - means["mean"] ** 2}

    for ranks in (1, 3):
        for found in simulate(ranks, lambda comm: evaluate(nn.Linear(4, 3), (x,), Spread(), comm, 3)):
            assert found == {"variance": pytest.approx(x[:, 0].var(), rel=1e-12)}
