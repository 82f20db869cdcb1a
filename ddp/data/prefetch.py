"""The next batch, made and sent to the device while the present one is computed on."""

from concurrent.futures import ThreadPoolExecutor


class CopyStream:
    """A CUDA stream for copies to a device, beside the one that computes.

    Copies are from pinned memory, which torch hands out again only when all copies from it are over: what is under way
    is not overwritten.
    """

    def __init__(self, device):
        import torch

        self.cuda, self.device, self.stream = torch.cuda, device, torch.cuda.Stream(device)

    def send(self, make):
        """(what `make()` returns, an event that is over when the copies that it began are); in any thread."""
        self.cuda.set_device(self.device)  # of this thread, or leaving the context would make it the first one
        with self.cuda.stream(self.stream):
            return make(), self.stream.record_event()

    def receive(self, tensors, event):
        """Let the current stream, and not the host, wait for the event before it uses these tensors."""
        stream = self.cuda.current_stream(self.device)
        stream.wait_event(event)
        for tensor in tensors:
            tensor.record_stream(stream)  # or the copy stream would have their memory back while this one reads it


class Prefetcher:
    """Makes one thing at a time in a thread, before it is asked for."""

    def __init__(self, copies: CopyStream):
        self.copies, self.thread = copies, ThreadPoolExecutor(1, "batches")  # which ends with this object
        self.begun: tuple = None, None  # (key, its Future)

    def begin(self, key, make):
        """Begin to make what `take(key)` returns. What was begun before is dropped."""
        self.begun = key, self.thread.submit(self.copies.send, make)

    def has(self, key):
        """Whether this is what was begun."""
        return self.begun[0] == key

    def take(self):
        """(what was begun, the event of its copies), as soon as it is made; raises what making it has raised."""
        (_, future), self.begun = self.begun, (None, None)
        return future.result()
