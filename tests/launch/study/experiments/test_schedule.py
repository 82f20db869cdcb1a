"""`allgrad study schedule`."""

import pytest

from allgrad.ddp import ConfigurationError
from allgrad.launch.study import Lab, Workload, configuration
from allgrad.launch.study.experiments import schedule


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch, Lab(tmp_path_factory.mktemp("schedule"), jobs=1) as lab:
        patch.setitem(schedule.GRIDS, "quick", {**schedule.GRIDS["quick"], "epochs": 1})
        yield schedule.run(lab, Workload(), optimizers=("adam",), lr=0.005, report_seeds=(100,))


def test_what_the_arms_do(small):
    rows = {(r["arm"], r["phase"]): r for r in small.tables[0].rows}
    assert [rows["grow", phase]["B"] for phase in (1, 2, 3)] == [8, 32, 128]
    assert [rows["seesaw", phase]["updates"] for phase in (1, 2, 3)] == [180, 225, 237]
    assert [rows["decay", phase]["updates"] for phase in (1, 2, 3)] == [180, 360, 539]
    assert len({rows[arm, 1]["train_loss"] for arm in schedule.ARMS}) == 1, "the first phase is the same for all"
    assert len({rows[arm, 3]["train_loss"] for arm in schedule.ARMS}) == 5
    assert "44 % of the updates" in small.headline and "Seesaw" in small.headline and "20%" in small.methods


@pytest.mark.parametrize("arm, rates", [("decay", (0.4, 0.1)), ("seesaw", (0.4, 0.2)), ("grow", (0.4, 0.4))])
def test_rates_of_the_phases(arm, rates):
    fall, rise = schedule.ARMS[arm]
    run = schedule.Phases(
        configuration(Workload(), lr=0.4, batch=8, steps="2ep", phases=2, factor=4.0, fall=fall, rise=rise)
    )
    rate = run.optimizer.lr
    assert [rate(step) if callable(rate) else rate for step in (179, 180)] == pytest.approx(rates)
    assert run.loader.batch(180).size == (8 if arm == "decay" else 32)


def test_its_figure_is_drawn_and_foreign_options_are_refused(small, tmp_path):
    pytest.importorskip("matplotlib")
    assert len(small.figures[0].draw().axes[0].lines) >= 5
    with Lab(tmp_path, jobs=1) as lab, pytest.raises(ConfigurationError, match="its arms set both"):
        schedule.run(lab, Workload(), schedule="cosine")


@pytest.mark.parametrize("val, said", [(0.3, False), (0.5, True)])
def test_the_validation_loss_is_said_where_it_disagrees(val, said):
    def arm(name, train, val, updates):
        row = {"status": "ok", "final_train_loss": train, "final_val_loss": val, "steps": updates}
        return schedule.Arm("adam", name, None, [row])

    of = {"decay": arm("decay", 0.3, 0.4, 100), "grow": arm("grow", 0.2, val, 50)}
    of |= {name: arm(name, 0.5, 0.5, 100) for name in ("const", "both")}
    headline = schedule._headline("adam", of)
    assert "growing B is better than LR decay (train loss 0.2 vs 0.3" in headline and "with 50 % of" in headline
    assert ("by validation loss it is worse, 0.5 vs 0.4)" in headline) == said
