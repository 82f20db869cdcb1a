"""The ledger of a study: writers at once, torn lines, and the names of runs."""

import os
import subprocess
import sys
from pathlib import Path

from allgrad.launch.study import Workload, configuration
from allgrad.launch.study.ledger import Ledger, run_id

ROOT = Path(__file__).parents[3]


# --- the ledger ------------------------------------------------------------------------------------------------------

APPEND = """
import sys
from allgrad.launch.study.ledger import Ledger
ledger = Ledger(sys.argv[1])
for k in range(200):
    ledger.append({"run_id": f"{sys.argv[2]}-{k}", "exp": "", "config": {}, "status": "x" * 500})
"""


def test_writers_at_once_lose_no_line(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    writers = [subprocess.Popen([sys.executable, "-c", APPEND, str(tmp_path), name], env=environment) for name in "abc"]
    assert [w.wait() for w in writers] == [0, 0, 0]
    assert {*Ledger(tmp_path).rows} == {f"{name}-{k}" for name in "abc" for k in range(200)}


def test_a_torn_line_is_passed_over_and_the_next_one_is_not_torn(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.append({"run_id": "a", "exp": "", "config": {}, "status": "ok"})
    with open(ledger.path, "a") as file:
        file.write('null\n{"run_id": "half of a row"}\n{"run_id": "b", "sta')
    again = Ledger(tmp_path)
    assert [*again.rows] == ["a"]
    again.append({"run_id": "c", "exp": "", "config": {}, "status": "ok"})
    ledger.refresh()
    assert [*ledger.rows] == [*Ledger(tmp_path).rows] == ["a", "c"]
    again.append({"run_id": "a", "exp": "", "config": {}, "status": "error"})
    assert Ledger(tmp_path).rows["a"]["status"] == "error"  # the latest counts


DIGITS = Workload()


def test_the_name_of_a_run_depends_on_every_number_and_on_no_order():
    config = configuration(DIGITS, "sgd", target=0.3)
    assert run_id(config) == run_id(dict(reversed(config.items())))
    assert len({run_id(configuration(DIGITS, "sgd", target=0.3, seed=seed)) for seed in range(9)}) == 9
    assert run_id(configuration(DIGITS, "momentum", target=0.3)) == run_id(
        configuration(DIGITS, "sgd", target=0.3, momentum=0.9)
    )
