"""The layers of other packages; a package is imported only when it is measured.

torch.nn's three layers always take part. A layer of another package takes part if the cell of the
same name is measured.
"""

import importlib.util
import os
from collections.abc import Callable, Collection, Iterator
from functools import partial
from importlib import metadata

from torch import Tensor, nn

from cellzoo.bench.contenders import Absent, Candidate, Layer
from cellzoo.cells.registry import cells

TORCH_NN = "torch.nn"
BASELINE = "torch.nn.LSTM"


def torch_nn() -> list[Candidate]:
    """Return the three recurrent layers of torch.nn."""
    return [
        _candidate(TORCH_NN, name, cell, partial(_like_torch, getattr(nn, name)))
        for name, cell in (("LSTM", "lstm"), ("GRU", "gru"), ("RNN", "elman"))
    ]


def others(cells: Collection[str]) -> tuple[list[Candidate], list[Absent]]:
    """Return the layers of other packages for these cells, and the packages without a layer."""
    candidates: list[Candidate] = []
    absent: list[Absent] = []
    for package, layers in PACKAGES.items():
        if not _installed(package):
            absent.append(Absent(package, "", package, "not installed", f"no module {package!r}"))
            continue
        try:
            matching = [layer for layer in layers() if layer.cell in cells]
        except Exception as error:  # installed, but not for this machine
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            absent.append(Absent(package, "", package, "failed", reason))
            continue
        candidates += matching
        if not matching:
            absent.append(Absent(package, "", package, "declined", "has none of these cells"))
    return candidates, absent


def version(package: str) -> str | None:
    """Return the installed version of another package; None for engines and torch.nn."""
    return metadata.version(package) if package in PACKAGES and _installed(package) else None


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _candidate(
    package: str, name: str, cell: str, build: Callable[[Tensor, int], Layer]
) -> Candidate:
    return Candidate(f"{package}.{name}", cell, package, build)


def _torchrecurrent() -> Iterator[Candidate]:
    """Yield torchrecurrent's layers by cell: PeepholeLSTM is the cell peephole_lstm."""
    import torchrecurrent

    layers = {name.lower(): name for name in torchrecurrent.__all__ if not name.endswith("Cell")}
    for cell in cells.names():
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


#: The functions that yield a package's layers, by the name of the module.
PACKAGES: dict[str, Callable[[], Iterator[Candidate]]] = {
    "torchrecurrent": _torchrecurrent,
    "keras": _keras,
}


def _like_torch(kind: Callable[..., nn.Module], x: Tensor, hidden_size: int) -> Layer:
    layer = kind(x.shape[-1], hidden_size, device=x.device, dtype=x.dtype)
    return layer, lambda: layer(x)[0]


def _like_keras(name: str, x: Tensor, hidden_size: int) -> Layer:
    """Build a Keras layer with a batch-first input, to avoid the time of a transpose."""
    import keras

    device = "gpu:0" if x.device.type == "cuda" else "cpu"
    batch_first = x.transpose(0, 1).contiguous()
    dtype = str(x.dtype).removeprefix("torch.")
    with keras.device(device):
        layer = getattr(keras.layers, name)(hidden_size, return_sequences=True, dtype=dtype)
        layer.build(batch_first.shape)

    def run() -> Tensor:
        with keras.device(device):
            return layer(batch_first)

    return layer, run
