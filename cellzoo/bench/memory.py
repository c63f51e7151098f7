"""The peak memory of a call: the largest number of bytes in tensors at one time."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


def peak_bytes(call: Callable[[], object], device: torch.device) -> int:
    """Return the largest number of bytes that `call` holds at one time, beyond earlier memory.

    The number covers the allocations of torch's allocator, including temporaries within
    operators; on CUDA it is torch.cuda.max_memory_allocated. It does not cover the buffers of
    libraries (oneDNN's scratch memory, MKL's packed matrices, the stack of a compiled kernel), nor
    the allocator's rounding and caching. Freeing earlier memory does not lower the number.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with _quiet(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        call()
    results: Any = profiled.profiler
    return _peak(_allocations(results.kineto_results.experimental_event_tree()))


def _allocations(tree: Iterable[Any]) -> list[tuple[int, int, int]]:
    """Return (time, address, bytes), negative bytes for a release, in order of time."""
    allocations, events = [], list(tree)
    while events:
        event = events.pop()
        events.extend(event.children)
        if event.tag.name == "Allocation":
            fields = event.extra_fields
            allocations.append((event.start_time_ns, fields.ptr, fields.alloc_size))
    return sorted(allocations, key=lambda allocation: allocation[0])


def _peak(allocations: Iterable[tuple[int, int, int]]) -> int:
    """Return the largest number of live bytes."""
    live: dict[int, int] = {}
    current = peak = 0
    for _, pointer, size in allocations:
        if size > 0:
            live[pointer] = size
            current += size
            peak = max(peak, current)
        else:
            current -= live.pop(pointer, 0)  # 0: the memory is older than the call
    return peak


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence stderr: the profiler writes a line to it at start and stop, from C++."""
    stderr = os.dup(2)
    with open(os.devnull, "wb") as null:
        os.dup2(null.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
