"""What a training step asks of a GPU, counted without one.

    python -m benchmarks.device --optimizers adam --shards 1     a row for each model: two minutes
    python -m benchmarks.device --only gpt,resnet --waits        and where the host waits
    python -m benchmarks.device                                  all models, optimizers and shards: ten minutes

Steps run on a device that computes shapes only (`tests/device/pretend.py`): no number here was measured. A row is a
training step of one rank, from the third on:

    launches    kernels
    waits       times that the host waits for the device
    copies      between host and device, for which it does not wait
    peak GiB    most memory that tensors take at a time: weights, gradients, optimizer, activations, the data set
    device ms   of each operation its bytes at --bandwidth or its arithmetic at --peak, whichever takes longer, added
                up: a bound that real kernels do not reach
    host ms     launches at --launch microseconds each, most of which a captured graph saves

Without capture a step takes at least the larger of the two times. With more than one logical shard a noise scale is
kept.
"""

import argparse
import time

import torch

from tests.device.pretend import Device, pretend
from tests.device.workloads import Workload, adam, lamb, sgd, trainer_of

MODELS = {
    "mlp": Workload("mlp:512,512", (784,), batch=128),
    "lenet5": Workload("lenet5", (1, 28, 28), batch=128),
    "resnet": Workload("resnet:20", (3, 32, 32), batch=128),
    "lstm": Workload("lstm:128,1", (64,), classes=96, batch=64),
    "gpt": Workload("transformer:768,12,12", (1024,), classes=50304, batch=8, dtype="bfloat16"),
}
SIZED = {"gpt": "GPT-124M, bfloat16, 8 x 1024 tokens"}  # others by model and batch; its head is not tied: 163 million
OPTIMIZERS = {"sgd": sgd, "adam": adam, "lamb": lamb}
WARM, COUNTED = 2, 2  # steps: the first may wait, and make what later ones use
PEAK_TFLOPS = {"float32": 60.0, "bfloat16": 790.0}  # of an H200: CUDA cores, and tensor cores as products reach them
BANDWIDTH_TB_S = 4.3
LAUNCH_US = 5.0  # of the host, for a kernel that Python starts


def count(workload, memory=1 << 50):
    """The `Device` after the counted steps of a workload."""
    with pretend(values=False, memory=memory) as device:
        torch.utils.deterministic.fill_uninitialized_memory = False
        trainer = trainer_of(workload, "cuda:0", steps=WARM + COUNTED + 1, samples=2 * workload.batch)
        trainer._end_before = lambda step: None  # every number is 1 there, and so says that a step is not finite
        for _ in range(WARM):
            [*trainer._take_step()]
        device.reset()
        for _ in range(COUNTED):
            [*trainer._take_step()]
    return device


def device_ms(device: Device, peak_tflops, bandwidth_tb_s):
    """Milliseconds a step: of each operation the longer of its arithmetic and its memory traffic."""
    return sum(
        max(device.moved[name] / (1e9 * bandwidth_tb_s), device.flops[name] / (1e9 * peak_tflops))
        for name in device.launches
    ) / COUNTED  # fmt: skip


def among(known):
    """A type of argparse: names of these, separated by commas."""

    def names(text):
        found = text.split(",")
        if unknown := [name for name in found if name not in known]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(known)}")
        return found

    return names


def counts(text):
    """A type of argparse: whole numbers above 0, separated by commas."""
    found = text.split(",")
    if not all(word.isdecimal() and int(word) for word in found):
        raise argparse.ArgumentTypeError(f"{text!r} are not whole numbers above 0, separated by commas")
    return [int(word) for word in found]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=among(MODELS), default=[*MODELS], metavar="MODEL,...", help=", ".join(MODELS))
    parser.add_argument(
        "--optimizers", type=among(OPTIMIZERS), default=[*OPTIMIZERS], metavar="NAME,...", help=", ".join(OPTIMIZERS)
    )
    parser.add_argument("--shards", type=counts, default=[1, 4], metavar="V,...", help="logical shards [1,4]")
    parser.add_argument("--waits", action="store_true", help="also print the lines at which the host waits")
    parser.add_argument("--kernels", action="store_true", help="also print the kernels that move most bytes")
    parser.add_argument(
        "--peak", type=float, metavar="TFLOPS",
        help="10^12 operations a second [H200: 60 in float32, 790 in bfloat16]",
    )  # fmt: skip
    parser.add_argument(
        "--bandwidth", type=float, default=BANDWIDTH_TB_S, metavar="TB/S", help="of the device's memory [4.3, H200]"
    )
    parser.add_argument(
        "--launch", type=float, default=LAUNCH_US, metavar="US", help="microseconds of the host for a launch [5]"
    )
    asked = parser.parse_args()
    print(f"{'model':38} {'optimizer':9} {'shards':>6} {'launches':>8} {'waits':>6} {'copies':>6} {'peak GiB':>8} "
          f"{'device ms':>9} {'host ms':>8}")  # fmt: skip
    for name in asked.only:
        for optimizer in asked.optimizers:
            for shards in asked.shards:
                began = time.perf_counter()
                workload = MODELS[name]._replace(optimizer=OPTIMIZERS[optimizer], shards=shards)
                device = count(workload)
                launches = sum(device.launches.values()) / COUNTED
                waits, copies = (sum(c.values()) / COUNTED for c in (device.waits, device.copies))
                peak = asked.peak or PEAK_TFLOPS[workload.dtype]
                title = SIZED.get(name, f"{workload.model}, batch {workload.batch}")
                print(
                    f"{title:38} {optimizer:9} {shards:6} {launches:8.0f} {waits:6.1f} {copies:6.1f} "
                    f"{device.peak_bytes / 2**30:8.3f} {device_ms(device, peak, asked.bandwidth):9.3f} "
                    f"{launches * asked.launch / 1e3:8.3f}    ({time.perf_counter() - began:.1f} s)", flush=True,
                )  # fmt: skip
                for (what, where), number in device.waits.most_common() if asked.waits else ():
                    print(f"    waits {number / COUNTED:6.1f} times for {what}: {where}")
                for kernel, moved in device.moved.most_common(12) if asked.kernels else ():
                    print(
                        f"    {kernel:44} {device.launches[kernel] / COUNTED:6.0f} launches "
                        f"{moved / COUNTED / 2**30:8.3f} GiB {device.flops[kernel] / COUNTED / 1e12:8.3f} TFLOP"
                    )


if __name__ == "__main__":
    main()
