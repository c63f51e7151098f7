"""The precision of products, under autocast or not."""

import torch
from torch import Tensor

from cellzoo.cells.protocol import Cell


def autocast_to(device: torch.device) -> torch.dtype | None:
    """Return the dtype in which autocast makes products on a device; None if autocast is off."""
    enabled = torch.is_autocast_enabled(device.type)
    return torch.get_autocast_dtype(device.type) if enabled else None


def in_half_precision(cell: Cell) -> bool:
    """Return whether products are made in less than the precision of float32."""
    like = cell._like
    return like.dtype == torch.bfloat16 or autocast_to(like.device) is not None


def as_autocast(weight: Tensor) -> Tensor:
    """Return a weight as autocast casts it for a product; unchanged if autocast is off."""
    dtype = autocast_to(weight.device)
    return weight.to(dtype) if dtype and weight.dtype == torch.float32 else weight
