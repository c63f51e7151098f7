"""Other packages' layers, to be measured beside ours; each is imported only where it is used.

torch.nn's three always take part; a layer of another package where the cell that it is called
after is among those measured. haste and flashrnn need a GPU and their own compilation: they are
written by their documented interfaces and were not run.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Collection, Iterator
from functools import partial
from importlib import metadata
from typing import Any

import torch
from torch import Tensor, nn

from cellzoo.bench.contenders import Absent, Candidate, Layer

TORCH_NN = "torch.nn"
BASELINE = "torch.nn.LSTM"


def torch_nn() -> list[Candidate]:
    """torch.nn's own three layers."""
    return [
        _candidate(TORCH_NN, name, cell, partial(_like_torch, getattr(nn, name)))
        for name, cell in (("LSTM", "lstm"), ("GRU", "gru"), ("RNN", "elman"))
    ]


def others(cells: Collection[str], device: torch.device) -> tuple[list[Candidate], list[Absent]]:
    """The layers that correspond to these cells, and the packages that take no part."""
    found: list[Candidate] = []
    absent: list[Absent] = []
    for package, (layers, runs_on) in PACKAGES.items():
        if device.type not in runs_on:
            absent.append(Absent(package, "", package, "declined", "runs on CUDA only"))
        elif not _installed(package):
            absent.append(Absent(package, "", package, "not installed", f"no module {package!r}"))
        else:
            try:
                fitting = [peer for peer in layers() if peer.cell in cells]
            except Exception as error:  # installed, but not for this machine
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                absent.append(Absent(package, "", package, "failed", reason))
                continue
            found += fitting
            if not fitting:
                absent.append(Absent(package, "", package, "declined", "has none of these cells"))
    return found, absent


def version(package: str) -> str | None:
    """The installed version of another package than torch; None for our engines."""
    return metadata.version(package) if package in PACKAGES and _installed(package) else None


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _candidate(
    package: str, name: str, cell: str, build: Callable[[Tensor, int], Layer]
) -> Candidate:
    return Candidate(f"{package}.{name}", cell, package, build)


def _torchrecurrent() -> Iterator[Candidate]:
    """torchrecurrent's layers by our names: its PeepholeLSTM is our peephole_lstm."""
    import torchrecurrent

    from cellzoo import list_cells

    layers = {name.lower(): name for name in torchrecurrent.__all__ if not name.endswith("Cell")}
    for cell in list_cells():
        if name := layers.get(cell.replace("_", "")):
            build = partial(_like_torch, getattr(torchrecurrent, name))
            yield _candidate("torchrecurrent", name, cell, build)


def _keras() -> Iterator[Candidate]:
    os.environ["KERAS_BACKEND"] = "torch"
    import keras

    if keras.backend.backend() != "torch":
        raise RuntimeError(f"keras was imported with its {keras.backend.backend()} backend")
    for name, cell in (("LSTM", "lstm"), ("GRU", "gru"), ("SimpleRNN", "elman")):
        yield _candidate("keras", name, cell, partial(_like_keras, name))


def _haste() -> Iterator[Candidate]:
    import haste_pytorch

    for name, cell in (("LSTM", "lstm"), ("GRU", "gru")):
        yield _candidate(
            "haste_pytorch", name, cell, partial(_like_haste, getattr(haste_pytorch, name))
        )


def _flashrnn() -> Iterator[Candidate]:
    import flashrnn  # noqa: F401

    for name in ("lstm", "gru"):
        yield _candidate("flashrnn", name, name, partial(_like_flashrnn, name))


#: By the name to import: what gives the layers, and the devices that they run on.
PACKAGES: dict[str, tuple[Callable[[], Iterator[Candidate]], tuple[str, ...]]] = {
    "torchrecurrent": (_torchrecurrent, ("cpu", "cuda")),
    "keras": (_keras, ("cpu", "cuda")),
    "haste_pytorch": (_haste, ("cuda",)),
    "flashrnn": (_flashrnn, ("cuda",)),
}


def _like_torch(kind: Callable[..., nn.Module], x: Tensor, hidden_size: int) -> Layer:
    layer = kind(x.shape[-1], hidden_size, device=x.device, dtype=x.dtype)
    return layer, lambda: layer(x)[0]


def _like_keras(name: str, x: Tensor, hidden_size: int) -> Layer:
    """A Keras layer: it is batch first, and so is its input, with no transpose to be paid for."""
    import keras

    where = "gpu:0" if x.device.type == "cuda" else "cpu"
    own = x.transpose(0, 1).contiguous()
    dtype = str(x.dtype).removeprefix("torch.")
    with keras.device(where):
        layer = getattr(keras.layers, name)(hidden_size, return_sequences=True, dtype=dtype)
        layer.build(own.shape)

    def run() -> Tensor:
        with keras.device(where):
            return layer(own)

    return layer, run


def _like_haste(kind: Callable[..., nn.Module], x: Tensor, hidden_size: int) -> Layer:
    """A haste layer, time first. Not run."""
    layer = kind(x.shape[-1], hidden_size).to(x.device, x.dtype)
    return layer, lambda: layer(x)[0]


def _like_flashrnn(function: str, x: Tensor, hidden_size: int) -> Layer:
    """flashrnn with one head and the input product that it leaves to the caller. Not run."""
    layer = _FlashRNN(function, x.shape[-1], hidden_size).to(x.device, x.dtype)
    own = x.transpose(0, 1).contiguous()
    return layer, lambda: layer(own)


class _FlashRNN(nn.Module):
    """Parameters around flashrnn's function; x and the outputs are batch first."""

    # Pre-activations from x, from the state, and with a bias: the GRU keeps its n in two parts.
    gates = {"lstm": (4, 4, 4), "gru": (3, 3, 4)}

    def __init__(self, function: str, input_size: int, hidden_size: int) -> None:
        super().__init__()
        from_x, from_h, biased = self.gates[function]
        self.function, self.hidden_size = function, hidden_size
        self.weight_ih = nn.Parameter(torch.empty(from_x * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(from_h * hidden_size, hidden_size))
        self.bias = nn.Parameter(torch.empty(biased * hidden_size))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(hidden_size**-0.5), hidden_size**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        from flashrnn import flashrnn

        size, one = self.hidden_size, 1  # one head
        projected = nn.functional.linear(x, self.weight_ih).unflatten(-1, (-1, one, size))
        options: dict[str, Any] = {
            "function": self.function,
            "backend": "cuda_fused",
            "dtype": str(x.dtype).removeprefix("torch."),
        }
        states, _ = flashrnn(
            projected,
            self.weight_hh.view(-1, one, size, size),
            self.bias.view(-1, one, size),
            **options,
        )
        return states[0].flatten(-2)
