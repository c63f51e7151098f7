"""The peak memory of a call: the bytes of tensors that it holds at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


def peak_bytes(call: Callable[[], object], device: torch.device) -> int:
    """The most bytes that `call` holds at once, above what was held before it.

    What torch's allocator gives out is seen, temporaries within operators too; on CUDA that is
    torch.cuda.max_memory_allocated. Not seen are a library's own buffers (oneDNN's scratch that it
    takes from the system, MKL's packed matrices, a compiled kernel's stack) and what the
    allocator rounds up to or keeps. What `call` frees of earlier memory counts for nothing.
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
    """When, where and how many bytes (negative: freed), in order of time."""
    found, left = [], list(tree)
    while left:
        event = left.pop()
        left.extend(event.children)
        if event.tag.name == "Allocation":
            fields = event.extra_fields
            found.append((event.start_time_ns, fields.ptr, fields.alloc_size))
    return sorted(found, key=lambda each: each[0])


def _peak(allocations: Iterable[tuple[int, int, int]]) -> int:
    live: dict[int, int] = {}
    now = peak = 0
    for _, pointer, size in allocations:
        if size > 0:
            live[pointer] = size
            now += size
            peak = max(peak, now)
        else:
            now -= live.pop(pointer, 0)  # 0: it is older than the call
    return peak


@contextmanager
def _quiet() -> Iterator[None]:
    """The profiler writes a line on stderr for its start and its stop, past Python."""
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
