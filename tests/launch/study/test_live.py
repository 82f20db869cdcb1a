"""What is seen of a study while it runs, from rows that are written here."""

import json

import pytest

from allgrad.ddp import ConfigurationError
from allgrad.launch.study.live import Live, of_runs, word_of


def row(n, batch=4, lr=0.1, steps=100.0, status="ok", exp="steps", **config):
    given = {"kind": "steps_to_target", "data": "digits", "model": "mlp:8", "metric": "train_loss", "target": 0.3,
             "sampler": "epoch", "steps": None, "optimizer": "sgd", "momentum": 0.0, "nesterov": False, "batch": batch,
             "lr": lr, **config}  # fmt: skip
    met = steps if status == "ok" else None
    return {"run_id": str(n), "exp": exp, "status": status, "steps_to_target": met, "config": given,
            "final_train_loss": 0.2, "final_val_loss": steps}  # fmt: skip


def test_the_best_rate_is_that_of_most_seeds_without_a_failure():
    rows = [row(n, lr=lr, steps=steps, status=status) for n, (lr, steps, status) in enumerate([
        (0.1, 100.0, "ok"), (0.1, 121.0, "ok"), (0.2, 50.0, "ok"), (0.2, 60.0, "diverged"), (0.4, 10.0, "ok"),
        (0.05, 200.0, "ok"), (0.05, 210.0, "ok"),
    ])]  # fmt: skip
    (table,) = of_runs(rows)["tables"]
    assert table["setting"] == "steps: digits, mlp:8: steps to train_loss 0.3" and table["runs"] == 7
    assert table["cells"] == [{"optimizer": "sgd", "batch": 4, "lr": 0.1, "value": pytest.approx(110.0), "least": 100.0,
                               "most": 121.0, "seeds": 2, "rates": 4, "runs": 7}]  # fmt: skip


def test_settings_that_differ_are_not_compared_and_the_largest_is_drawn():
    rows = [row(0, 4), row(1, 8), row(2, 16), row(3, sampler="once"), row(4, 8, target=None, steps=0.7, exp="budgets")]
    rows[4]["config"] |= {"metric": "val_loss", "steps": "2ep"}
    found = of_runs(rows)
    assert [table["setting"] for table in found["tables"]] == [
        "steps: digits, mlp:8: steps to train_loss 0.3", "steps: digits, mlp:8: steps to train_loss 0.3, sampler once",
        "budgets: digits, mlp:8: val_loss after 2ep",
    ]  # fmt: skip
    assert found["tables"][2]["cells"][0]["value"] == 0.7
    assert found["figure_of"] == found["tables"][0]["setting"] and found["figure"].count('class="mark') == 3 + 1


def test_outcomes_are_counted_and_errors_told():
    rows = [row(0), row(1, status="diverged"), row(2, status="error", exp="noise"), row(3, status="pruned")]
    rows[2] |= {"error": "OSError: gone"}
    found = of_runs(rows)
    assert found["outcomes"] == [
        {"experiment": "steps", "ok": 1, "diverged": 1, "capped": 0, "pruned": 1, "error": 0, "runs": 3},
        {"experiment": "noise", "ok": 0, "diverged": 0, "capped": 0, "pruned": 0, "error": 1, "runs": 1},
    ]
    assert found["errors"] == [["OSError: gone", 1]]


@pytest.mark.parametrize(
    "config, word",
    [({"optimizer": "sgd", "momentum": 0.0}, "sgd"), ({"optimizer": "sgd", "momentum": 0.9}, "momentum"),
     ({"optimizer": "sgd", "momentum": 0.9, "nesterov": True}, "nesterov"), ({"optimizer": "adam"}, "adam"),
     ({"optimizer": "sgd", "momentum": 0.5}, "sgd (momentum 0.5)"), ({"optimizer": "lars", "momentum": 0.9}, "lars")],
)  # fmt: skip
def test_optimizers_have_the_word_of_the_study(config, word):
    assert word_of(config) == word


def test_a_study_is_seen_from_before_its_first_run(tmp_path):
    live = Live(tmp_path)
    assert live.status()["runs"] == 0 and live.status()["tables"] == []
    (tmp_path / "runs.jsonl").write_text(json.dumps(row(0)) + "\n")
    assert live.status()["runs"] == 1
    with (tmp_path / "runs.jsonl").open("a") as file:
        file.write(json.dumps(row(1, 8)) + "\n" + '{"half of a li')
    (tmp_path / "progress.json").write_text('{"line": "steps: 2 of 3"}')  # of an older version
    found = live.status()
    assert found["runs"] == 2 and len(found["tables"][0]["cells"]) == 2
    assert found["progress"] == {"line": "steps: 2 of 3"} and found["silent_s"] >= 0.0
    with (tmp_path / "runs.jsonl").open("a") as file:
        file.write("\n" + json.dumps(row(1, 8, status="diverged")) + "\n")  # done again
    assert live.status()["runs"] == 2 and live.status()["outcomes"][0]["diverged"] == 1
    with pytest.raises(ConfigurationError, match="is no directory"):
        Live(tmp_path / "nowhere")


def test_the_runs_shown_are_those_that_the_progress_has_counted(tmp_path):
    lines = [json.dumps(row(n)) + "\n" for n in range(3)]
    (tmp_path / "runs.jsonl").write_text("".join(lines))

    def told(bytes, ended=False):
        (tmp_path / "progress.json").write_text(json.dumps({"ledger_bytes": bytes, "ended": ended}))

    told(len(lines[0]))
    live = Live(tmp_path)
    assert live.status()["runs"] == 1
    told(len("".join(lines[:2])))
    assert live.status()["runs"] == 2 == live.status()["outcomes"][0]["runs"]
    told(len("".join(lines[:2])), ended=True)
    assert live.status()["runs"] == 3
