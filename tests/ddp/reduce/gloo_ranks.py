"""Ranks that talk through Gloo, started by a test itself: processes that are forked from one that has torch already."""

import multiprocessing
import traceback

PATIENCE = 60.0  # seconds until ranks that have said nothing are ended


def run(ranks, f, path):
    """[f(rank) of every rank], each in a process of its own with a torch.distributed of all of them; f can be pickled.

    path  of a file that is not there yet
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch.distributed", "allgrad.ddp.comm.torch_distributed", __name__])
    queue = context.Queue()
    processes = [context.Process(target=_rank, args=(rank, ranks, f, str(path), queue)) for rank in range(ranks)]
    for process in processes:
        process.start()
    try:
        found = dict(queue.get(timeout=PATIENCE) for _ in processes)
        for process in processes:
            process.join(PATIENCE)
    finally:
        for process in processes:
            process.kill()
            process.join()
    errors = [result for result in found.values() if isinstance(result, str)]
    assert not errors, errors[0]
    return [found[rank] for rank in range(ranks)]


def _rank(rank, ranks, f, path, queue):
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    try:
        dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=ranks)
        queue.put((rank, f(rank)))
        dist.barrier()
    except Exception:
        queue.put((rank, traceback.format_exc()))
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
