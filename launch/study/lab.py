"""Where runs are done: in worker processes of this machine, or on the ranks of a launch, and kept in a ledger."""

import multiprocessing
import queue
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from allgrad import ddp
from allgrad.ddp import process
from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.study import ledger, together
from allgrad.launch.study.workers import RankGroup, WorkerProcess, gather_ranks, run_here, serve_as_rank

T = TypeVar("T")
R = TypeVar("R")


class Closed(Exception):
    """The laboratory has closed while somebody waited for a run."""


class Lab:
    """Runs configurations side by side, and keeps every row in OUT/runs.jsonl.

    out            directory; what it holds of the same configurations is not run again
    jobs           worker processes, one BLAS thread each: as many as there are cores if None; with 1, runs are done in
                   this process. Of no effect under a launcher, whose ranks do the runs
    ranks_per_run  ranks that share one run, under a launcher
    retry          which of the rows found are run again: those of status "error", or "all"
    progress       None, or what is told of the runs: expect(count), started(config), finished(row); and of
                   experiments, if it has the words: under_way(name, cells), plan(cells of each), say(text), see
                   `Progress`

    Under mpirun, torchrun or srun rank 0 leads and the others run. They do not return from this constructor: they end
    with the program when the laboratory closes.

    asked, known, done   how many different runs were asked for, were found in the ledger, and were done here
    """

    def __init__(
        self, out, jobs: int | None = None, ranks_per_run=1, retry="error", progress: Any = None,
    ):  # fmt: skip
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            raise ConfigurationError(
                "a worker process has imported a script that makes a Lab: put its calls under "
                "if __name__ == '__main__':"
            )
        if ranks_per_run < 1 or (jobs is not None and jobs < 1):
            raise ConfigurationError(f"--jobs and --ranks-per-run are at least 1, got {jobs} and {ranks_per_run}")
        if retry not in ("error", "all"):
            raise ConfigurationError(f"--retry {retry} is not error or all")
        self.comm = ddp.init()
        if self.comm.size > 1 and self.comm.rank > 0:
            serve_as_rank(self.comm, ranks_per_run)
        self.jobs = jobs or len(process.cores()) if self.comm.size == 1 else 0
        self.retry, self.progress = retry, progress
        self.asked = self.known = self.done = 0
        self.out = Path(out)
        self._closed = False
        self._lock = threading.Lock()
        self._one_at_a_time = threading.Lock()  # of the runs in this process
        self._tasks: dict[str, _Task] = {}
        self._queue: queue.SimpleQueue = queue.SimpleQueue()  # of lists of tasks
        self._busy = 0  # workers
        self._workers: list = []
        self._resting: Any = RankGroup([])  # too few for a group
        self.ledger = ledger.Ledger(out)
        self._found_before = {*self.ledger.rows}
        if self.comm.size > 1:
            self._workers, self._resting = gather_ranks(self.comm, ranks_per_run)
            self._start()
        elif ranks_per_run > 1:
            raise ConfigurationError(f"--ranks-per-run {ranks_per_run} needs ranks: start with mpirun or torchrun")

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def run(self, configs: Sequence[dict], experiment="") -> list[dict]:
        """The rows of these configurations, in this order; those that the ledger does not know are run."""
        with self._lock:
            self.ledger.refresh()
            known = {*self._tasks}
            tasks = [self._ask(config, experiment) for config in configs]
            if self.jobs != 1:
                for group in self._groups([t for t in tasks if t.row is None and t.name not in known]):
                    self._queue.put(group)
        if self.jobs == 1:
            for group in self._groups(tasks):
                with self._one_at_a_time:
                    if group := [task for task in group if task.row is None]:
                        self._refuse_if_closed()
                        self._begin(group)
                        run_here(
                            [task.config for task in group], ddp.Communicator(),
                            lambda k, row, group=group: self._finish(group[k], row),
                        )  # fmt: skip
        return [task.wait() for task in tasks]

    def map(self, function: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """[function(item) for item in items], side by side; each of them may call `run`."""
        items = list(items)
        results: list = [None] * len(items)
        finished: queue.SimpleQueue = queue.SimpleQueue()

        def call(k):
            try:
                results[k] = function(items[k])
                finished.put(None)
            except BaseException as error:
                finished.put(error)

        for k in range(len(items)):
            threading.Thread(target=call, args=(k,), daemon=True).start()
        for _ in items:
            if error := finished.get():
                raise error
        return results

    def say(self, text: str):
        """Let the progress say what is done that is no run, if it can."""
        if hasattr(self.progress, "say"):
            self._tell("say", text)

    def on_all_ranks(self, function: Callable[[ddp.Communicator], R]) -> R:
        """function(comm) on all ranks of this launch at once, while none does a run; returns rank 0's value.

        The function goes to the other ranks by pickle.
        """
        for group in (*self._workers, self._resting) if self.comm.size > 1 else ():
            for connection in group.connections:
                connection.send(function)
        return function(self.comm)

    def close(self):
        """End the workers. What was being run is lost, and nothing else."""
        with self._lock:
            self._closed = True
            tasks = list(self._tasks.values())
        for task in tasks:
            task.ready.set()
        for worker in (*self._workers, self._resting):
            worker.end()
        self.ledger.close()

    # --- tasks ---------------------------------------------------------------------------------------------------

    def _ask(self, config, experiment):
        self._refuse_if_closed()
        name = ledger.run_id(config)
        if name in self._tasks:
            return self._tasks[name]
        task = self._tasks[name] = _Task(self, name, config, experiment)
        self.asked += 1
        self._tell("expect", 1)
        row = self.ledger.rows.get(name)
        if row is not None and not (name in self._found_before and (self.retry == "all" or row["status"] == "error")):
            self.known += 1
            task.row = row
            task.ready.set()
            self._tell("finished", row)
        elif self.jobs > 1 and not self._workers:
            self._workers = [WorkerProcess() for _ in range(self.jobs)]
            self._start()
        return task

    def _groups(self, tasks):
        """Different tasks in lists, each for one worker: those that are trained together, in parts for all who idle."""
        alike = defaultdict(list)
        for task in dict.fromkeys(tasks):
            alike[together.likeness(task.config) or task.name].append(task)
        idle = max(len(self._workers) - self._busy - self._queue.qsize(), 1)
        return [group[i::idle] for group in alike.values() for i in range(min(idle, len(group)))]

    def _begin(self, group):
        for task in group:
            self._tell("started", task.config)

    def _start(self):
        for worker in self._workers:
            threading.Thread(target=self._work, args=(worker,), daemon=True).start()

    def _work(self, worker):
        """Give groups of tasks to a worker, one after another."""
        while not self._closed:
            group = self._queue.get()
            with self._lock:
                self._busy += 1
            self._begin(group)
            ended = None
            try:
                for k, row in worker.do([task.config for task in group]):
                    try:
                        self._finish(group[k], row)
                    except BaseException as error:
                        ended = group[k].fail(error)
            except BaseException as error:
                for task in group:
                    if not task.ready.is_set():
                        ended = task.fail(error)
            with self._lock:
                self._busy -= 1
            if ended is not None and not isinstance(ended, ConfigurationError):
                return

    def _finish(self, task, found):
        head = {"schema": task.config["schema"], "run_id": task.name, "study": self.out.name, "exp": task.experiment}
        trace = found.pop("trace", None)
        if trace is not None:
            self.ledger.save_trace(task.name, trace)
        place = {"world_size": self.comm.size, "backend": self.comm.backend}
        row = {**head, "config": task.config, **found, **place, **ledger.software()}
        with self._lock:
            self._refuse_if_closed()
            self.ledger.append(row)
            self.done += 1
        task.row = row
        task.ready.set()
        self._tell("finished", row)

    def _tell(self, what, value):
        if self.progress is not None:
            getattr(self.progress, what)(value)

    def _refuse_if_closed(self):
        if self._closed:
            raise Closed


class _Task:
    """A run that was asked for, and its row when it is done."""

    def __init__(self, lab, name, config, experiment):
        self.lab, self.name, self.config, self.experiment = lab, name, config, experiment
        self.ready = threading.Event()
        self.row: dict | None = None
        self.error: BaseException | None = None

    def fail(self, error):
        """Let those who wait have this error, which is returned."""
        self.error = Closed() if self.lab._closed else error
        self.ready.set()
        return error

    def wait(self) -> dict:
        self.ready.wait()
        if self.error is not None:
            raise self.error
        if self.row is None:
            raise Closed
        return self.row
