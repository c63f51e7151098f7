"""torch's private functions that engines call, apart from inductor's (compiled/cpu/inductor.py)."""

import torch


def is_transformed() -> bool:
    """Return whether one of torch.func's transforms is running."""
    return torch._C._functorch.maybe_current_level() is not None


def is_dispatched() -> bool:
    """Return whether a mode sees every operation: fake tensors, tracing, counting operations."""
    return torch._C._len_torch_dispatch_stack() > 0


def keeps_graph() -> bool:
    """Return whether the running backward pass keeps its graph for another one."""
    return torch._C._autograd._get_current_graph_task_keep_graph()
