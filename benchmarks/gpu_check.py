"""Whether everything is right on a real GPU: what the pretended one stands for, and what it cannot show.

    make gpu                       all stages, each a process of its own with a limit of time; ten minutes at most
    python -m benchmarks.gpu_check --only ranks --out DIR

    versions    the machine, the driver, the libraries
    operators   every operator's table and torch's own samples, in strict mode, against the processor
    waits       whole models: steps in which torch's sync debug mode finds no wait, losses as on the processor
    graphs      whole models as CUDA graphs: the bits of steps that are not captured
    training    `allgrad train --device cuda`, resumed, diverged, out of memory
    ranks       1, 2 and 3 ranks on one GPU over Gloo: one SHA-256
    nccl        2 and 3 ranks on one GPU over NCCL, which takes them for hosts of their own: the same SHA-256
    capture     `allgrad train --capture on` and off: one SHA-256

NCCL does not take several ranks on one GPU. With NCCL_HOSTID each rank looks like a host with a GPU of its own, and
they talk by sockets; where NCCL refuses that too, the stage says so.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

VERSIONS = (
    "import torch; print(torch.cuda.get_device_name(), torch.__version__, torch.version.cuda, "
    "torch.backends.cudnn.version(), torch.cuda.nccl.version())"
)
TRAIN = "train --data digits --model mlp:64 --arrays torch --device cuda:0 --shards 6 --steps 40 --momentum 0.9"
ON_ONE_GPU = {
    "NCCL_NET": "Socket", "NCCL_SOCKET_IFNAME": "lo", "NCCL_IB_DISABLE": "1", "NCCL_MNNVL_ENABLE": "0",
    "NCCL_MAX_NCHANNELS": "1", "NCCL_MULTI_RANK_GPU_ENABLE": "1",
}  # fmt: skip
RANK_ON_ONE_GPU = (  # of torchrun: a host of its own for NCCL
    "import os, runpy, sys; os.environ['NCCL_HOSTID'] = 'rank' + os.environ['RANK']; sys.argv[0] = 'allgrad'; "
    "runpy.run_module('allgrad', run_name='__main__')"
)


def pytest(*words):
    return [sys.executable, "-m", "pytest", "-q", "-x", *words]


def torchrun(ranks, *words):
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", *words]


def trained(words, limit, **variables):
    """The SHA-256 of the weights that a training ends with, or what it said instead."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        done = started([*words, "--out", str(out)], limit, **variables)
        if done[0] == 0 and (out / "summary.json").exists():
            return json.loads((out / "summary.json").read_text())["weights_sha256"]
        return f"status {done[0]}: {done[1][-300:]}"


def started(words, limit, **variables):
    """(status, output) of a process; status 124 if it took longer than its limit in seconds."""
    try:
        done = subprocess.run(
            words, env={**os.environ, **variables}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=limit, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        return 124, f"took longer than {limit} s: {(error.stdout or b'')[-300:]!r}"
    return done.returncode, done.stdout


def versions(limit):
    status, text = started([sys.executable, "-c", VERSIONS], limit)
    return status == 0, text.strip().splitlines()[-1]


def tests(*files, workers=6):
    def run(limit):
        status, text = started([*pytest(*(f"tests/device/{name}.py" for name in files)), "-n", str(workers)], limit)
        return status == 0, text.strip().splitlines()[-1] if status in (0, 124) else text[-1500:]

    return run


def ranks(limit):
    found = {n: trained([*torchrun(n, "-m", "allgrad"), *TRAIN.split(), "--backend", "gloo"], limit) for n in (1, 2, 3)}
    return len({*found.values()}) == 1 and all(re.fullmatch("[0-9a-f]{64}", v) for v in found.values()), str(found)


def nccl(limit):
    start = lambda n: [*torchrun(n, "--no-python", sys.executable, "-c", RANK_ON_ONE_GPU), *TRAIN.split()]
    found = {n: trained([*start(n), "--backend", "nccl"], limit, **ON_ONE_GPU) for n in (1, 2, 3)}
    return len({*found.values()}) == 1 and all(re.fullmatch("[0-9a-f]{64}", v) for v in found.values()), str(found)


def capture(limit):
    alone = [sys.executable, "-m", "allgrad", *TRAIN.split()]
    found = {how: trained([*alone, "--capture", how], limit) for how in ("off", "on")}
    return len({*found.values()}) == 1 and re.fullmatch("[0-9a-f]{64}", found["on"]) is not None, str(found)


STAGES = {  # name: (seconds that it may take, what it does)
    "versions": (30, versions),
    "operators": (120, tests("test_operators")),
    "waits": (120, tests("test_waits")),
    "graphs": (120, tests("test_graphs")),
    "training": (150, tests("test_training")),
    "ranks": (60, ranks),
    "nccl": (60, nccl),
    "capture": (60, capture),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(STAGES), metavar="STAGE,...", help="some of these stages")
    parser.add_argument("--out", type=Path, metavar="DIR", help="also write gpu_check.json there")
    asked = parser.parse_args()
    chosen = asked.only.split(",")
    if unknown := [name for name in chosen if name not in STAGES]:
        parser.error(f"--only {unknown[0]} is not one of {', '.join(STAGES)}")
    import torch

    if not torch.cuda.is_available():
        parser.error("torch finds no GPU here: `pytest tests/device` checks what can be checked without one")
    results = {}
    for name in chosen:
        limit, stage = STAGES[name]
        began = time.perf_counter()
        passed, told = stage(limit)
        results[name] = {"passed": bool(passed), "seconds": round(time.perf_counter() - began, 1), "told": told}
        print(f"{'pass' if passed else 'FAIL'} {name:10} {results[name]['seconds']:6.1f} s  {told}", flush=True)
        if asked.out:
            asked.out.mkdir(parents=True, exist_ok=True)
            (asked.out / "gpu_check.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    sys.exit(not all(result["passed"] for result in results.values()))


if __name__ == "__main__":
    main()
