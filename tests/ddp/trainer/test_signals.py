"""A signal ends training with a checkpoint, and what goes on from it is the undisturbed run."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from allgrad import ddp
from allgrad.ddp.trainer import Interrupted, checkpoint, interrupting, signals
from tests.ddp.conftest import simulate
from tests.ddp.trainer.test_trainer import lines_of, trainer_of


class SignalAt(ddp.Callback):
    """Sends a signal to this process at a moment of the run."""

    def __init__(self, moment, number):
        self.moment, self.number = moment, number

    def send(self, moment, trainer):
        if self.moment == moment and trainer.step in (0, 5):
            self.moment = None
            os.kill(os.getpid(), self.number)

    def on_start(self, trainer):
        self.send("start", trainer)

    def on_gradient(self, trainer, batch):
        if trainer.step == 5:
            self.send("gradient", trainer)

    def on_evaluation(self, trainer, values):
        self.send("evaluation", trainer)

    def on_checkpoint(self, trainer, path):
        self.send("checkpoint", trainer)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    summary = trainer_of(out=out, eval_every=5).fit()
    return summary["weights_sha256"], [{**line, "samples_per_second": 0} for line in lines_of(out)]


@pytest.mark.parametrize(
    "moment, number, last",
    [("start", signal.SIGTERM, 1), ("gradient", signal.SIGTERM, 6), ("gradient", signal.SIGUSR1, 6),
     ("gradient", signal.SIGINT, 6), ("evaluation", signal.SIGTERM, 6), ("checkpoint", signal.SIGTERM, 6)],
)  # fmt: skip
def test_the_step_in_progress_is_kept_and_the_run_goes_on_as_if_nothing_had_been(
    moment, number, last, undisturbed, tmp_path, capsys
):
    before = [signal.getsignal(known) for known in signals.SIGNALS]
    trainer = trainer_of(
        out=tmp_path, eval_every=5, checkpoint_every=5, callbacks=[SignalAt(moment, number)],
        signals=ddp.StopOnSignal("more of it"),
    )  # fmt: skip
    with pytest.raises(ddp.Stopped) as stopped:
        trainer.fit()
    path = tmp_path / "checkpoints" / f"step-{last:08d}"
    assert (stopped.value.code, trainer.step) == (128 + number, last)
    assert capsys.readouterr().err == (
        f"allgrad: {number.name}: training has ended after step {last} of 18; its checkpoint is {path}; more of it\n"
    )
    assert [signal.getsignal(known) for known in signals.SIGNALS] == before
    assert not (tmp_path / "summary.json").exists() and len(lines_of(tmp_path)) == last
    again = trainer_of(out=tmp_path, eval_every=5, resumes=True)
    again.restore(checkpoint.load(path))
    found = again.fit()["weights_sha256"], [{**line, "samples_per_second": 0} for line in lines_of(tmp_path)]
    assert found == undisturbed


def test_a_run_that_is_stopped_after_its_last_step_needs_its_summary_only(undisturbed, tmp_path):
    class Last(ddp.Callback):
        def on_gradient(self, trainer, batch):
            if trainer.step == 17:
                os.kill(os.getpid(), signal.SIGTERM)

    trainer = trainer_of(out=tmp_path, eval_every=5, callbacks=[Last()], signals=ddp.StopOnSignal())
    with pytest.raises(ddp.Stopped):
        trainer.fit()
    again = trainer_of(out=tmp_path, eval_every=5, resumes=True)
    again.restore(checkpoint.load_latest(tmp_path / "checkpoints"))
    assert again.fit()["weights_sha256"] == undisturbed[0]
    assert [{**line, "samples_per_second": 0} for line in lines_of(tmp_path)] == undisturbed[1]


@pytest.mark.parametrize("shards", [3, 5])
@pytest.mark.parametrize("who", [0, 2])
def test_all_ranks_end_after_the_same_step_without_a_message_more(shards, who):
    def run(comm, stops):
        trainer = trainer_of(comm, shards=shards, signals=ddp.StopOnSignal(), validation=None, check_every=0)
        asked, sent = [], []

        class Ask(ddp.Callback):
            def on_gradient(self, trainer, batch):
                sent.append(comm.count)
                if stops and trainer.step == 4 and comm.rank == who:  # its gradients of this step are sent already
                    trainer.signals.heard, trainer.parallel.stop_asked = signal.SIGTERM, True
                    asked.append(True)

        trainer.callbacks.append(Ask())
        try:
            trainer.fit()
        except ddp.Stopped as stopped:
            return trainer.step, stopped.code, sent
        return trainer.step, None, sent

    steps, codes, sent = zip(*simulate(3, lambda comm: run(comm, True)))
    assert steps == (6, 6, 6) and codes == (143, 143, 143)
    _, _, undisturbed = zip(*simulate(3, lambda comm: run(comm, False)))
    assert [counts[:6] for counts in undisturbed] == list(sent)


def test_local_steps_end_with_an_average():
    def run(comm):
        trainer = trainer_of(comm, signals=ddp.StopOnSignal(), validation=None, noise=False)
        trainer.parallel = ddp.DistributedDataParallel(trainer.model, comm, 3, sync_every=4, sync_after=1)

        class Ask(ddp.Callback):
            def on_gradient(self, trainer, batch):
                if trainer.step == 5 and comm.rank == 1:
                    trainer.signals.heard = signal.SIGUSR1

        trainer.callbacks.append(Ask())
        with pytest.raises(ddp.Stopped) as stopped:
            trainer.fit()
        return trainer.step, stopped.value.code

    assert simulate(3, run) == [(9, 138)] * 3


def test_a_run_that_did_not_ask_hears_nothing(tmp_path):
    handlers = []

    class Look(ddp.Callback):
        def on_step(self, trainer, step):
            handlers.append(signal.getsignal(signal.SIGTERM))

    trainer_of(callbacks=[Look()], steps=2).fit()
    assert handlers == [signal.getsignal(signal.SIGTERM)] * 2


def test_without_a_directory_nothing_is_said_to_be_kept(capsys):
    with pytest.raises(ddp.Stopped):
        trainer_of(callbacks=[SignalAt("start", signal.SIGTERM)], signals=ddp.StopOnSignal("more")).fit()
    assert "after step 1 of 18, and nothing is kept: give it a directory" in capsys.readouterr().err


def test_a_checkpoint_that_cannot_be_written_is_not_said_to_be_there(tmp_path, capsys, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no space")

    monkeypatch.setattr(checkpoint, "save", refuse)
    asked = {"callbacks": [SignalAt("start", signal.SIGTERM)], "signals": ddp.StopOnSignal("more")}
    with pytest.raises(ddp.Stopped):
        trainer_of(out=tmp_path, **asked).fit()
    _, last = capsys.readouterr().err.splitlines()
    assert last.endswith("after step 1 of 18, whose checkpoint could not be written (no space)")


def test_a_rank_that_waits_for_a_dead_one_obeys_at_once(monkeypatch):
    ended = []
    monkeypatch.setattr(signals.os, "kill", lambda process, number: ended.append((process, number)))
    trainer = trainer_of()
    with pytest.raises(ddp.PeerLost), ddp.StopOnSignal().listening(trainer.parallel):
        signal.raise_signal(signal.SIGTERM)
        raise ddp.PeerLost("rank 1")
    assert ended == [(os.getpid(), signal.SIGTERM)]


def test_a_thread_other_than_the_main_one_trains_and_hears_nothing():
    found = []
    thread = threading.Thread(target=lambda: found.append(trainer_of(signals=ddp.StopOnSignal(), steps=2).fit()))
    thread.start()
    thread.join()
    assert found[0]["steps"] == 2


SLEEPER = """
import signal, sys, time
from allgrad import ddp
from allgrad.ddp.trainer import signals

class Parallel:
    comm, local = ddp.Communicator(), None

with ddp.StopOnSignal().listening(Parallel):
    print("ready", flush=True)
    sys.stdin.readline()  # ends with the process
"""


@pytest.fixture
def sleeper():
    """Another process, which listens to signals."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", SLEEPER], **pipes) as process:
        assert process.stdout.readline() == b"ready\n"
        yield process
        process.kill()


def test_a_second_signal_ends_the_process_at_once(sleeper):
    sleeper.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        sleeper.wait(2 * signals.AGAIN_S)
    sleeper.send_signal(signal.SIGUSR1)
    assert sleeper.wait(60) == 138
    assert sleeper.stderr.read() == b"allgrad: SIGUSR1 again: ended at once, without a checkpoint of this step\n"


def test_the_first_signal_that_is_handed_on_again_is_no_second_one(sleeper):
    for _ in range(3):
        sleeper.send_signal(signal.SIGINT)
    sleeper.stdin.close()
    assert sleeper.wait(60) == 0


@pytest.mark.parametrize("number", signals.SIGNALS)
def test_outside_of_training_a_signal_interrupts(number):
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as interrupted, interrupting():
        signal.raise_signal(number)
    assert interrupted.value.number == number and signal.getsignal(number) == before
