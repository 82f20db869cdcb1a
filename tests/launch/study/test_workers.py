"""Worker processes: what a kill costs."""

import os
import signal
import threading

from allgrad.launch.study import Workload, configuration
from allgrad.launch.study.workers import WorkerProcess

# --- the laboratory --------------------------------------------------------------------------------------------------


def configs(seeds, **given):
    return [configuration(Workload(), "sgd", **{"target": 0.5, "lr": 0.5, "seed": seed, **given}) for seed in seeds]


def test_a_worker_that_is_killed_costs_one_row():
    worker = WorkerProcess()
    do = lambda *configs: [row for _, row in sorted(worker.do(configs), key=lambda ended: ended[0])]
    short, long = configs((1,))[0], configs((2,), target=None, steps=10**7)[0]
    assert do(short)[0]["status"] == "ok"
    threading.Timer(0.2, os.kill, (worker.process.pid, signal.SIGKILL)).start()
    (lost,) = do(long)
    assert (
        lost["status"] == "error" and lost["error"] == "the worker was killed by SIGKILL (is there too little memory?)"
    )
    assert do(short)[0]["status"] == "ok"
    worker.end()
