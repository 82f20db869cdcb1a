"""How long a training step takes on a GPU, against torch, and whether it does what was predicted without one.

    python -m benchmarks.gpu --predict            on any machine: count what each step asks of a GPU, and write it down
    python -m benchmarks.gpu                      on a GPU: measure, beside what was predicted
    python -m benchmarks.gpu --only GPT --seconds 20 --out DIR

Each competitor runs in a process of its own, with a limit of time, and its row is printed when it ends. Both sides
compute float32 products in IEEE arithmetic, or both in TensorFloat-32; GPT-124M is in bfloat16 with parameters in
float32. A row has milliseconds a step (the median of seven turns, with the smallest and the largest), how many times
as long as the faster of ours, captured or not, in the same arithmetic, the peak of the device's memory, and for
GPT-124M tokens a second and the share of the tensor cores' peak, 6 N + 12 L T d operations a token (Chowdhery et al.
2022, "PaLM", appendix B).

Above a workload's rows is what gpu_predicted.json, which --predict writes, has of our steps without capture: kernels
launched, waits of the host, a bound on the device's time in IEEE arithmetic on an H200 (see `benchmarks.device`), and
the peak of the memory of tensors.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.peers import PEERS
from benchmarks.workloads import ON_GPU

PREDICTED = Path(__file__).with_name("gpu_predicted.json")
COMPETITORS = [
    ("allgrad-torch", "cuda"), ("allgrad-torch", "cuda capture"), ("torch", "cuda fused"),
    ("torch-compile", "cuda fused"), ("torch-compile", "cuda fused graphs"),
    ("allgrad-torch", "cuda tf32"), ("allgrad-torch", "cuda tf32 capture"), ("torch", "cuda tf32 fused"),
]  # fmt: skip
TURNS, AGREE, TOLERANCE = 7, 10, {"float32": 1e-3, "bfloat16": 2e-2}
PEAK_TFLOPS = 990.0  # dense bfloat16 of an H100 or H200, as the vendor has it


def predictions():
    """{label: what a step asks of a device}, counted on one that has no values."""
    import importlib

    from benchmarks.device import BANDWIDTH_TB_S, COUNTED, PEAK_TFLOPS, WARM, device_ms
    from tests.device.pretend import pretend

    found = {}
    make = importlib.import_module("benchmarks.peers.allgrad").make
    for workload in ON_GPU:
        with pretend(values=False) as device:
            prepare, step = make(workload, {"torch", "cuda"})
            batches = [prepare(x, y) for x, y in workload.data(1)]
            for i in range(WARM + COUNTED):
                if i == WARM:
                    device.reset()
                step(batches[0])
        found[workload.label] = {
            "launches": sum(device.launches.values()) / COUNTED, "waits": sum(device.waits.values()) / COUNTED,
            "peak_bytes": device.peak_bytes,
            "device_ms": device_ms(device, PEAK_TFLOPS[workload.dtype], BANDWIDTH_TB_S),
        }  # fmt: skip
        print(workload.label, json.dumps(found[workload.label]), flush=True)
    return found


def measure(label, name, setting, seconds):
    """What one competitor does with a workload: {"ms": of each turn, "losses", "peak_bytes", "machine"}."""
    import importlib

    import torch

    (workload,) = [w for w in ON_GPU if w.label == label]
    settings = {*name.split("-")[1:], *setting.split()}
    prepare, step = importlib.import_module(f"benchmarks.peers.{PEERS[name].module}").make(workload, settings)
    batches = [prepare(x, y) for x, y in workload.data(AGREE)]
    found = [step(batch) for batch in batches]
    losses = [float(one.read().loss if hasattr(one, "read") else one) for one in found]
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    for batch in batches:
        step(batch)
    torch.cuda.synchronize()
    steps = max(3, round(seconds / TURNS / ((time.perf_counter() - began) / AGREE)))
    turns = []
    for _ in range(TURNS):
        began = time.perf_counter()
        for i in range(steps):
            step(batches[i % AGREE])
        torch.cuda.synchronize()
        turns.append(1e3 * (time.perf_counter() - began) / steps)
    machine = f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}"
    return {"ms": turns, "losses": losses, "peak_bytes": torch.cuda.max_memory_allocated(), "machine": machine}


def asked_of(workload, name, setting, seconds, limit):
    """`measure` in a process of its own; a dict with "error" if that fails."""
    words = [sys.executable, "-m", "benchmarks.gpu", "--measure", workload.label, name, setting]
    try:
        done = subprocess.run(
            [*words, "--seconds", str(seconds)], capture_output=True, text=True, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired:
        return {"error": f"took longer than {limit} s"}
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["ended without a word"])[-1][:200]}
    return json.loads(done.stdout.splitlines()[-1])


def foretold(workload, one):
    """The row of what was predicted of a workload."""
    told = f"{one['launches']:.0f} launches, {one['waits']:.0f} waits"
    least, peak = one["device_ms"], one["peak_bytes"] / 2**30
    return f"| {workload.label} | predicted of allgrad | at least {least:.3f} | | {peak:.3f} | {told} |"


def compare(workload, seconds, limit):
    """Rows of the table, for each competitor, printed as they come."""
    ours: dict = {}
    for name, setting in COMPETITORS:
        if workload.dtype != "float32" and "tf32" in setting:
            continue
        found = asked_of(workload, name, setting, seconds, limit)
        shown = f"{name} ({setting.removeprefix('cuda').strip() or 'eager'})"
        if "error" in found:
            yield f"| {workload.label} | {shown} | left out: {found['error']} | | | |", found
            continue
        median, kind = statistics.median(found["ms"]), "tf32" in setting
        if name.startswith("allgrad"):
            ours[kind] = min(median, ours.get(kind, median))
        first = ours.setdefault("losses", found["losses"])
        differs = max(abs(a - b) / abs(b) for a, b in zip(found["losses"], first))
        ratio = f"{median / ours[kind]:.2f}" if kind in ours else ""
        peak, speed = f"{found['peak_bytes'] / 2**30:.3f}", ""
        if workload.text:
            t = workload.network
            rate = workload.batch * t.context / (median / 1e3)
            weights = sum(w.size for w in workload.weights().values())
            flops = 6 * weights + 12 * t.layers * t.context * t.width
            speed = f"{rate:,.0f} tokens/s, {100 * rate * flops / (1e12 * PEAK_TFLOPS):.1f} %"
        if not differs <= TOLERANCE[workload.dtype]:
            speed += f" other losses: they differ by {differs:.1e}"
        times = f"{median:.3f} [{min(found['ms']):.3f}, {max(found['ms']):.3f}]"
        yield f"| {workload.label} | {shown} | {times} | {ratio} | {peak} | {speed} |", found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--predict", action="store_true", help="count on a device without values, and write that down")
    parser.add_argument("--only", default="", metavar="TEXT", help="only workloads whose label contains this text")
    parser.add_argument("--seconds", type=float, default=2.0, help="of measuring each competitor [2]")
    parser.add_argument("--limit", type=float, default=90.0, help="seconds until a competitor is given up [90]")
    parser.add_argument("--out", type=Path, metavar="DIR", help="also write gpu.md and gpu.json there")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    chosen = [workload for workload in ON_GPU if asked.only in workload.label]
    if not chosen:
        parser.error(f"no workload's label contains {asked.only!r}: they are {'; '.join(w.label for w in ON_GPU)}")
    if asked.predict:
        if asked.only:
            parser.error("--predict is for all workloads: leave out --only")
        PREDICTED.write_text(json.dumps(predictions(), indent=1) + "\n", encoding="utf-8")
        return
    import torch

    if not torch.cuda.is_available():
        parser.error("torch finds no GPU here: only --predict works without one")
    if asked.measure:
        print(json.dumps(measure(*asked.measure, asked.seconds)))
        return
    predicted = json.loads(PREDICTED.read_text(encoding="utf-8"))
    machine = f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}"
    head = "| workload | competitor | ms a step | times ours | peak GiB | |\n|---|---|--:|--:|--:|---|"
    lines, rows = [machine, "", head], []
    print("\n".join(lines), flush=True)
    for workload in chosen:
        lines.append(foretold(workload, predicted[workload.label]))
        print(lines[-1], flush=True)
        for line, found in compare(workload, asked.seconds, asked.limit):
            print(line, flush=True)
            lines.append(line)
            rows.append({"line": line, **found})
            if asked.out:
                asked.out.mkdir(parents=True, exist_ok=True)
                (asked.out / "gpu.md").write_text("\n".join([*lines, ""]), encoding="utf-8")
                (asked.out / "gpu.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
