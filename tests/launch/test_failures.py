"""What goes wrong is said once, in one sentence, and ends every rank; what was written before is still there."""

import itertools
import json
import os
import struct

import pytest

DIGITS = "train --data digits --model mlp:16 --steps 20"

OTHER_NET = "from allgrad import nn\nNet = lambda inputs, outputs: nn.Linear(inputs, outputs, bias=False)\n"

FAULTY_NET = """
import os, sys, threading, time
from allgrad import ddp
from allgrad import nn

class Net(nn.Module):
    def __init__(self, inputs, outputs):
        self.fc, self.calls = nn.Linear(inputs, outputs), 0

    def __call__(self, x):
        self.calls += self.training
        if self.calls == 5 and ddp.init().rank == 1:
            {fault}
        return self.fc(x)
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory, start):
    """The files of a run of ten steps, with the model net.py:Net, which has a bias."""
    directory = tmp_path_factory.mktemp("made")
    (directory / "net.py").write_text(OTHER_NET.replace(", bias=False", ""))
    assert start("train --data digits --model net.py:Net --shards 2 --steps 10 --out out", directory).status == 0
    return {path.relative_to(directory): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def write(directory, files):
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def contents(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


TORN_IDX = {
    f"mnist/{name}": struct.pack(f">HBB{len(sizes)}I", 0, 8, len(sizes), *sizes) + bytes(10)
    for name, sizes in [
        ("train-images-idx3-ubyte", (2, 4, 4)),
        ("train-labels-idx1-ubyte", (10,)),
        ("t10k-images-idx3-ubyte", (2, 4, 4)),
        ("t10k-labels-idx1-ubyte", (10,)),
    ]
}

# what was asked for, the files beside it, and what the sentence says
REFUSED = {
    "unknown data": ("train --data imagenet", {}, ["'imagenet'", "expected one of digits, mnist"]),
    "unknown model": (
        "train --model densenet",
        {},
        ["'densenet'", "mlp:H1,H2,...[:ACTIVATION], softmax", "or PATH.py:CLASS"],
    ),
    "model for other data": ("train --model lstm", {}, ["lstm needs text", "text:PATH", "digits has images"]),
    "bytes for a text": ("train --data text:t --model lstm", {"t": b"\xff"}, ["t is not text in UTF-8", "0xff"]),
    "nothing to start from": ("train --init-from none", {}, ["--init-from none", "no such directory"]),
    "nothing to freeze": ("train --freeze 9.*", {}, ["--freeze '9.*' matches no parameter", "0.weight"]),
    "unknown flag": ("train --learning-rate 1", {}, ["unrecognized arguments: --learning-rate 1", "--help"]),
    "batch below shards": (f"{DIGITS} --shards 8 --global-batch 7", {}, ["7", "8 logical shards", "--global-batch 8"]),
    "ranks above shards": (f"{DIGITS} --shards 1", {}, ["2 ranks cannot share 1 logical shard:", "--shards 2"]),
    "NCCL without GPUs": (
        f"{DIGITS} --backend nccl",
        {},
        ["--backend nccl is for GPUs", "--arrays torch --device cuda"],
    ),
    "negative rate": (f"{DIGITS} --lr -0.1", {}, ["--lr is at least 0.0, got -0.1"]),
    "NaN as a label": ("train --data t.csv", {"t.csv": "a,label\n1,0\n2,nan\n"}, ["t.csv", "line 3", "label", "nan"]),
    "torn IDX file": ("train --data mnist --data-dir .", TORN_IDX, ["train-images-idx3-ubyte", "10 bytes", "32"]),
    "one directory for all": (
        f"{DIGITS} --backend solo",
        {},
        ["Open MPI has started 2 processes", "--out out", "leave out --backend solo"],
    ),
    "nothing to go on with": ("train --resume --out none", {}, ["--resume", "no run", "--out none"]),
}

REFUSED_OVER_A_RUN = {
    "directory in use": (f"{DIGITS} --out out", {}, ["--out out exists", "--resume"]),
    "contradiction": ("train --resume --out out --lr 0.5", {}, ["--lr 0.5 contradicts", "trained with 0.1"]),
    "other shards": ("train --resume --out out --shards 4", {}, ["--shards 4 contradicts", "trained with 2"]),
    "another model": ("train --resume --out out", {"net.py": OTHER_NET}, ["--model net.py:Net has changed", "--out"]),
}


def refused(done, texts, status=2):
    (sentence,) = done.told()
    assert done.status == status and not [text for text in texts if text not in sentence], sentence
    assert "launch/" not in done.err, "a traceback"
    return True


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_name_the_thing_and_leave_no_trace(case, start, tmp_path):
    words, files, texts = REFUSED[case]
    write(tmp_path, files)
    before = contents(tmp_path)
    arguments = words if "--out" in words else f"{words} --out out"
    assert refused(start(arguments, tmp_path, 2), texts)
    assert contents(tmp_path) == before and not (tmp_path / "out").exists()


@pytest.mark.parametrize("case", REFUSED_OVER_A_RUN)
def test_refusals_leave_the_run_that_is_there_as_it_is(case, made, start, tmp_path):
    words, files, texts = REFUSED_OVER_A_RUN[case]
    write(tmp_path, made | files)
    before = contents(tmp_path)
    assert refused(start(words, tmp_path, 2), texts)
    assert contents(tmp_path) == before


def test_two_launchers_at_once_are_refused(start, tmp_path):
    done = start(f"{DIGITS} --out out", tmp_path, 2, RANK="0", WORLD_SIZE="2")
    assert refused(done, ["two launchers at once", "torchrun: rank 0 of 2", "Open MPI: rank 0 of 2", "--backend"])
    named = start(f"{DIGITS} --out out --backend mpi", tmp_path, 2, RANK="0", WORLD_SIZE="2")
    assert named.status == 0 and "on 2 ranks (mpirun, mpi)" in named.out


def test_torchrun_refuses_in_the_same_words(start, tmp_path):
    done = start(f"{DIGITS} --shards 1 --out out", tmp_path, 2, "torchrun")
    assert refused(done, ["2 ranks cannot share 1 logical shard:"], status=1)  # torchrun's own, whatever ranks return


def test_diverging_training_says_when_and_keeps_what_was_written(start, tmp_path):
    done = start(f"{DIGITS} --lr 1e30 --log-every 1 --checkpoint-every 1 --out out", tmp_path, 2)
    assert refused(done, ["at step 1", "learning rate 1e+30", "lower --lr"], status=1)
    (line,) = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["step"] == 1 and not (tmp_path / "out" / "summary.json").exists()
    assert start("train --resume --steps 1 --out out --backend solo", tmp_path).status == 0


# --- a fault of one rank -----------------------------------------------------------------------------------------

FAULTS = {
    "exception": ("raise OSError('the file is gone')", "failed: OSError: the file is gone"),
    "thread": ("threading.Thread(target=lambda: {}['x']).start(); time.sleep(60)", "failed: KeyError: 'x'"),
    "exit": ("sys.exit(3)", "failed: SystemExit: 3"),
}
LAUNCHERS = "mpirun", "torchrun"
ALL = bool(os.environ.get("ALLGRAD_ALL_FAULTS"))  # every fault, under both launchers, on 2 and 3 ranks


def matrix(cases, everywhere):
    """(case, launcher, ranks): all under mpirun on 2 ranks, a few under torchrun too; or all of them everywhere."""
    if ALL:
        return [*itertools.product(cases, LAUNCHERS, (2, 3))]
    return [*((case, "mpirun", 2) for case in cases), *((case, "torchrun", 2) for case in everywhere)]


@pytest.mark.parametrize("fault, launcher, ranks", matrix(FAULTS, ["exception"]))
def test_a_fault_of_one_rank_ends_all_and_is_told_once(fault, launcher, ranks, start, tmp_path):
    code, cause = FAULTS[fault]
    (tmp_path / "net.py").write_text(FAULTY_NET.format(fault=code))
    done = start("train --model net.py:Net --steps 20 --checkpoint-every 3 --out out", tmp_path, ranks, launcher)
    assert done.told("rank ") == [f"1 of {ranks} {cause}"]
    assert done.status == 1 and done.told() == []
    assert done.out.startswith("digits: 1,437 samples")
    again = start("train --resume --out out --steps 4 --backend solo", tmp_path)
    assert again.status == 0 and "steps 3 to 4" in again.out


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_stall_tells_where_each_rank_is(launcher, start, tmp_path):
    """Rank 1 sleeps inside the model; rank 0 waits for its gradients, and rank 2 too."""
    code = FAULTY_NET.format(fault="time.sleep(600)")
    (tmp_path / "net.py").write_text(code)
    line = 1 + code.splitlines().index(" " * 12 + "time.sleep(600)")
    done = start("train --model net.py:Net --steps 20 --timeout 4 --out out", tmp_path, 3, launcher)
    (told,) = done.told("rank ")
    assert done.status == 1 and done.told() == [] and told.startswith("0 of 3 failed: no progress for ")
    ranks = done.told("  rank ")[:3]
    for rank in (0, 2):
        assert ranks[rank].startswith(f"{rank} at step 4 waits in a sum of float32 (") and "train.py:" in ranks[rank]
        assert "for rank 1, since" in ranks[rank]
    assert ranks[1] == f"1 at step 4 is not in a collective, but at net.py:{line} in __call__"


HOOKED_NET = """
import time
from allgrad import ddp
from allgrad import nn

class Net(nn.Module):
    def __init__(self, inputs, outputs):
        self.first, self.second, self.calls = nn.Linear(inputs, 9), nn.Linear(9, outputs), 0
        self.first.bias.register_hook(self.hook)

    def __call__(self, x):
        self.calls += self.training
        return self.second(self.first(x))

    def hook(self, leaf):
        if self.calls == 5 and ddp.init().rank == 1:
            {fault}
"""


@pytest.mark.parametrize("overlap, launcher", [("bucket", "mpirun"), ("thread", "mpirun"), ("thread", "torchrun")])
def test_a_fault_while_gradients_are_on_their_way_ends_all_and_is_told_once(overlap, launcher, start, tmp_path):
    (tmp_path / "net.py").write_text(HOOKED_NET.format(fault="raise OSError('the file is gone')"))
    done = start(f"train --model net.py:Net --steps 20 --overlap {overlap} --bucket-size 1", tmp_path, 2, launcher)
    assert done.told("rank ") == ["1 of 2 failed: OSError: the file is gone"]
    assert done.status == 1 and done.told() == []


def test_a_stall_while_gradients_are_on_their_way_tells_where_each_rank_is(start, tmp_path):
    (tmp_path / "net.py").write_text(HOOKED_NET.format(fault="time.sleep(600)"))
    flags = "--overlap thread --bucket-size 1 --timeout 4"
    done = start(f"train --model net.py:Net --steps 20 {flags}", tmp_path, 2)
    (told,) = done.told("rank ")
    first, second = done.told("  rank ")
    assert done.status == 1 and told.startswith("0 of 2 failed: no progress for ")
    assert first.startswith("0 at step 4 waits in all_reduce of float32 (") and "for rank 1, since" in first
    assert second.startswith("1 at step 4 is not in a collective, but at net.py:") and second.endswith(" in hook")


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_gpu_without_memory_for_a_shard_ends_all_and_accuses_nobody(launcher, start, tmp_path):
    fault = (
        "import torch; raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total "
    )
    fault += "capacity of 79.10 GiB')"
    (tmp_path / "net.py").write_text(FAULTY_NET.format(fault=fault))
    done = start("train --model net.py:Net --steps 20 --shards 2 --timeout 30", tmp_path, 2, launcher)
    (told,) = done.told()
    assert done.status == 1 and not done.told("rank ") and "Traceback" not in done.err.partition(told)[0]
    assert told == (
        "out of memory on rank 1 at step 4, in shard 1 with 32 samples: 2 GiB more could not be had of the 79.1 GiB of "
        "its GPU: start anew with more --shards, or with --dtype bfloat16"
    )


SCRIPT = """
import os, sys, threading, time
import numpy as np
from allgrad import ddp

def main(array):
    comm = ddp.init(timeout=3.0)
    for step in range(3):
        comm.all_reduce(array)
        comm.broadcast(array)
        comm.broadcast(array)
    if comm.rank == 1:
        {fault}
    comm.all_reduce(array)
    comm.barrier()

main(np.ones(1000, "f4"))
"""

ENDED = "failed: rank 1 has ended ({}) while rank 0 waits for it"
SCRIPTS = {
    "returns": ("return", 0, ENDED.format("its program is over")),
    "exits": ("sys.exit(3)", 0, ENDED.format("sys.exit(3)")),
    "raises": ("{}['x']", 1, "failed: KeyError: 'x'"),
    "raises in a thread": (
        "threading.Thread(target=lambda: {}['x']).start(); time.sleep(600)",
        1,
        "failed: KeyError: 'x'",
    ),
    "has no memory left": (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)); np.ones(1 << 30)",
        1,
        "Unable to allocate 8.00 GiB",
    ),
    "spins": ("while True: pass", 0, "failed: no progress for "),
    "sleeps": ("time.sleep(600)", 0, "failed: no progress for "),
    "is stopped": ("os.kill(os.getpid(), 19)", 0, "failed: no progress for "),
    "another shape": (
        "array = np.ones(7, 'f4')",
        0,
        "rank 1 calls all_reduce of float32 (7,) where rank 0 calls all_reduce of float32 (1000,)",
    ),
    "another type": (
        "array = np.ones(1000)",
        0,
        "rank 1 calls all_reduce of float64 (1000,) where rank 0 calls all_reduce of float32 (1000,)",
    ),
    "another call": ("comm.barrier()", 0, "rank 1 calls barrier where rank 0 calls all_reduce of float32 (1000,)"),
    "another root": (
        "comm.broadcast(array); comm.all_reduce(array)",
        0,
        "rank 1 calls broadcast of float32 (1000,) from",
    ),
}
EVERYWHERE = "exits", "sleeps"


@pytest.mark.parametrize("case, launcher, ranks", matrix(SCRIPTS, EVERYWHERE))
def test_what_one_rank_of_a_script_does_ends_all_and_is_told_once(case, launcher, ranks, start, tmp_path):
    fault, speaker, cause = SCRIPTS[case]
    (tmp_path / "script.py").write_text(SCRIPT.format(fault=fault))
    done = start("", tmp_path, ranks, launcher, script="script.py")
    told = done.told("rank ")
    assert done.status != 0 and len(told) == 1, done.err
    assert told[0].startswith(f"{speaker} of {ranks} ") and cause in told[0], told
    if case in ("sleeps", "spins"):
        assert f"  rank 1 is not in a collective, but at {tmp_path}/script.py:13 in main" in done.err
    if case == "is stopped":
        assert "  rank 1 on host " in done.err and "does not answer" in done.err


ONE_IS_SLOW = """
import time
import numpy as np
from allgrad import ddp

comm, array = ddp.init(timeout=60.0), np.ones(1000, "f4")
comm.barrier()
if comm.rank == 2:
    time.sleep(4.0)
if comm.rank:
    comm.exchange([(array, 0)], [])
else:
    comm.exchange([], [(array, 1), (array.copy(), 2)])
"""


@pytest.mark.parametrize("launcher", ["mpirun", "torchrun"])
def test_a_rank_that_ended_after_its_part_is_not_missed(launcher, start, tmp_path):
    """Rank 0 waits for rank 2 long after it has what rank 1 sent before it ended."""
    (tmp_path / "script.py").write_text(ONE_IS_SLOW)
    done = start("", tmp_path, 3, launcher, script="script.py")
    assert done.status == 0 and not done.told("rank "), done.err


def test_calls_that_were_compared_before_are_waited_for_and_told(start, tmp_path):
    """Each rank goes on with a call that it has made before after the same one."""
    (tmp_path / "script.py").write_text(SCRIPT.format(fault="comm.broadcast(array)"))
    done = start("", tmp_path, 2, script="script.py")
    (told,) = done.told("rank ")
    assert done.status != 0 and told.startswith("0 of 2 failed: the ranks do not make the same calls: rank 1 calls b")
    first, second = done.told("  rank ")
    assert first.startswith("0 waits in all_reduce of float32 (1000,) for rank 1, since ")
    assert second.startswith("1 waits in broadcast of float32 (1000,) from rank 0 for rank 0, since ")
    assert first.endswith("script.py:14 in main") and second.endswith("script.py:13 in main")


def test_a_refusal_of_one_rank_alone_ends_all(start, tmp_path):
    (tmp_path / "net.py").write_text(FAULTY_NET.format(fault="raise ddp.ConfigurationError('this rank is tired')"))
    assert refused(start("train --model net.py:Net --steps 20", tmp_path, 2), ["this rank is tired"])


def test_options_that_differ_between_ranks_are_refused(start, tmp_path):
    code = "import sys; from allgrad.ddp.comm import detect; from allgrad.launch.__main__ import main\n"
    code += f"sys.exit(main([*{DIGITS.split()}, '--out', 'out', *['--seed', '1'][: 2 * detect().rank]]))\n"
    (tmp_path / "script.py").write_text(code)
    done = start("", tmp_path, 2, script="script.py")
    assert refused(done, ["rank 1 was given --seed 1, and rank 0 no --seed: start all ranks with the same options"])
    assert not (tmp_path / "out").exists()


def test_a_rank_that_is_interrupted_alone_says_so(start, tmp_path):
    (tmp_path / "net.py").write_text(FAULTY_NET.format(fault="raise KeyboardInterrupt"))
    done = start("train --model net.py:Net --steps 20", tmp_path, 3)
    (told,) = done.told()
    assert done.status == 130 and told == "interrupted by SIGINT on rank 1"


@pytest.mark.parametrize("ranks", [0, 2])
def test_an_output_that_nobody_reads_is_told_in_one_sentence(ranks, start, tmp_path):
    fault = "a, b = os.pipe(); os.close(a); os.dup2(b, 1); print('x', flush=True)"
    code = FAULTY_NET.format(fault=fault).replace("rank == 1", "rank == 0")
    (tmp_path / "net.py").write_text(code)
    done = start("train --model net.py:Net --steps 20", tmp_path, ranks)
    (told,) = done.told()
    assert done.status == 1 and told.startswith("standard output was closed" + " on rank 0" * (ranks > 0))
    assert "Traceback" not in done.err and "Exception ignored" not in done.err


def test_a_rank_that_goes_without_a_word_is_named_by_one_of_the_others(start, tmp_path):
    """Status 0, which torchrun takes for success."""
    (tmp_path / "script.py").write_text(SCRIPT.format(fault="os._exit(0)"))
    done = start("", tmp_path, 3, "torchrun", script="script.py")
    (told,) = done.told("rank ")
    assert done.status != 0 and told.startswith("0 of 3 failed: rank 1 is gone without a word while rank 0 waits at ")
    assert "script.py:14 in main" in told


STRAY = """
from allgrad import ddp
from allgrad import nn, optim

plain = optim.SGD.step

def step(self):
    plain(self)
    if ddp.init().rank == 1 and self.steps == 5:
        self.arena.parameters["1.bias"].data[...] += 0.001

optim.SGD.step = step
Net = lambda i, o: nn.Sequential(nn.Linear(i, 8), nn.Linear(8, o))
"""


def test_ranks_that_part_are_told_and_end(start, tmp_path):
    (tmp_path / "net.py").write_text(STRAY)
    done = start("train --model net.py:Net --steps 20 --check-every 2 --out out", tmp_path, 2)
    assert refused(done, ["the parameters of rank 1 differ from those of rank 0, first in '1.bias', after step 5"], 1)


def test_shards_too_small_for_batch_norm_are_refused_once(start, tmp_path):
    """Ranks 1 and 2 find it, in shards of one sample; rank 0 has two and waits for them."""
    code = "from allgrad import nn\ndef net(i, o): return nn.Sequential(nn.Linear(i, o), nn.BatchNorm1d(o))\n"
    (tmp_path / "net.py").write_text(code)
    done = start("train --model net.py:net --global-batch 5 --shards 4 --steps 20 --out out", tmp_path, 3)
    assert refused(done, ["(1, 10) has 1 value a channel", "a shard with 1 of a batch of 5", "give fewer shards"])


KILLED = {
    "killed": ("os.kill(os.getpid(), 9)", "signal 9", "exitcode: -9) local_rank: 1", ""),
    "a segmentation fault": (
        "import ctypes; ctypes.string_at(0)",
        "signal 11",
        "exitcode: -11) local_rank: 1",
        "Fatal Python error: Segmentation fault",
    ),
}


@pytest.mark.parametrize("case, launcher, ranks", matrix(KILLED, ["killed"]))
def test_a_rank_that_is_killed_ends_all_and_the_launcher_names_it(case, launcher, ranks, start, tmp_path):
    fault, mpirun, torchrun, first = KILLED[case]
    (tmp_path / "script.py").write_text(SCRIPT.format(fault=fault))
    done = start("", tmp_path, ranks, launcher, script="script.py")
    assert done.status not in (0, 2) and done.err.lstrip().startswith(first)
    if launcher == "torchrun":
        assert torchrun in done.err
    else:
        assert "process rank 1 with PID" in done.err and mpirun in " ".join(done.err.split())


FULL_DISK = """
import resource, threading
from allgrad import ddp
from allgrad import nn

class Net(nn.Module):
    def __init__(self, inputs, outputs):
        self.fc, self.calls = nn.Linear(inputs, outputs), 0

    def __call__(self, x):
        self.calls += self.training
        if ddp.init().rank == 0 and self.calls in (4, 11):
            for thread in threading.enumerate():  # the one that writes a checkpoint, if any
                thread.daemon or thread is threading.main_thread() or thread.join()
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 if self.calls == 4 else -1, -1))
        return self.fc(x)
"""


def test_training_goes_on_where_the_disk_is_full_for_a_while(start, tmp_path):
    (tmp_path / "net.py").write_text(FULL_DISK)
    done = start("train --model net.py:Net --steps 12 --checkpoint-every 6 --log-every 3 --out out", tmp_path, 2)
    assert done.status == 0 and done.told("rank ") == []
    (told,) = done.told("checkpoint of step ")
    assert told.startswith("6 not written: [Errno 27] File too large")
    assert len(done.told("metrics not written: ")) == 2
    steps = [json.loads(line)["step"] for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [3, 6, 9, 12]  # the lines that waited were written later
