"""What summary.json says of a run: its weights, its losses, where and how it was trained."""

import os
import platform

import numpy as np

from allgrad.ddp import process


def summary_of(trainer, wall_seconds: float) -> dict:
    """The summary of a trainer that is done, in JSON values. Collective."""
    sampler, comm, parallel, place = trainer.loader.sampler, trainer.comm, trainer.parallel, trainer.loader.place
    seen, steps = sampler.samples_seen(trainer.step), trainer.step - trainer.first_step
    now = seen - sampler.samples_seen(trainer.first_step)
    train = trainer.evaluate(trainer.loader.dataset)
    val = trainer.evaluate(trainer.validation) if trainer.validation is not None else {}
    return {
        "weights_sha256": parallel.arena.sha256(),
        "world_size": comm.size,
        "launcher": comm.launcher,
        "backend": comm.backend,
        "arrays": place.arrays,
        "device": place.device,
        "dtype": place.dtype,
        "logical_shards": parallel.shards,
        "overlap": parallel.overlap.policy or "auto",
        "overlap_why": parallel.overlap.why,
        "exchange": parallel.overlap.current().way() if comm.size > 1 else None,
        "capture": parallel.shard_gradients.capture,
        "capture_why": parallel.shard_gradients.capture_why,
        "global_batch": sampler.global_batch,
        "steps": trainer.step,
        "epochs": seen / sampler.samples,
        "samples_seen": seen,
        "skipped_steps": trainer.skips.count,
        **{f"train_{name}": value for name, value in train.items()},
        "val_loss": None,
        "val_accuracy": None,
        **{f"val_{name}": value for name, value in val.items()},
        **({"scale_invariant_steps": trainer.adascale.tau} if trainer.adascale is not None else {}),
        **({"batches": [list(piece) for piece in sampler.pieces]} if len(sampler.pieces) > 1 else {}),
        **noise_of(parallel),
        "samples_per_second": now / trainer.seconds if trainer.seconds else None,
        "bytes_per_step": trainer.bytes_sent / steps if steps else None,
        "wall_seconds": wall_seconds,
        "seed": trainer.loader.seed,
        "stopped_early": trainer.should_stop,
        "best": trainer.best.state_dict(),
        "resumed_at": trainer.first_step or None,
        "malloc": process.malloc(),
        "oversubscribed": comm.local_size > (os.cpu_count() or 1),
        "config": trainer.config,
        "fingerprint": trainer.fingerprint,
    }


def noise_of(parallel) -> dict:
    """What is known of the noise scale, in JSON values."""
    if parallel.noise is not None:
        return parallel.noise.report()
    return dict.fromkeys(("noise_scale", "noise_scale_ci", "noise_scale_drift", "noise_scale_remark"))


def fingerprint_of(place) -> dict:
    """What equal bits are claimed within: processor, libraries, BLAS and its threads."""
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.machine(),
        "blas": process.blas(),
        **place.fingerprint(),
    }
