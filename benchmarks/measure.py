"""Time and memory of calls on a GPU; without one everything runs on the CPU, to test the files."""

import time

import torch

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"


def sync():
    if CUDA:
        torch.cuda.synchronize()


def memory(reset=False):
    """GB at the peak since the last reset: of tensors, with what the allocator holds.

    And what is used on the whole card now.
    """
    if not CUDA:
        return dict(allocated=0.0, reserved=0.0, used=0.0)
    if reset:
        torch.cuda.reset_peak_memory_stats()
    free, all = torch.cuda.mem_get_info()
    return {
        k: round(v / 1e9, 2)
        for k, v in dict(
            allocated=torch.cuda.max_memory_allocated(),
            reserved=torch.cuda.max_memory_reserved(),
            used=all - free,
        ).items()
    }


def timed(f, n):
    """Seconds of each of n calls."""

    def once():
        sync()
        start = time.perf_counter()
        f()
        sync()
        return time.perf_counter() - start

    return [once() for _ in range(n)]
