"""The sizes of one measurement."""

from __future__ import annotations

from typing import NamedTuple

from cellzoo.bench.errors import BenchError


class Shape(NamedTuple):
    """T steps, B sequences, I wide, H units."""

    steps: int
    batch: int
    input_size: int
    hidden_size: int

    @classmethod
    def parse(cls, text: str) -> Shape:
        """A shape as it is typed, `100,32,64,64`.

        Raises:
            BenchError: it is not four whole numbers above zero.
        """
        try:
            sizes = [int(part) for part in text.split(",")]
        except ValueError:
            sizes = []
        if len(sizes) != 4 or min(sizes) < 1:
            raise BenchError(
                f"--shape is T,B,I,H, four whole numbers above zero as 100,32,64,64, not {text!r}"
            )
        return cls(*sizes)

    def __str__(self) -> str:
        return f"T {self.steps} · B {self.batch} · I {self.input_size} · H {self.hidden_size}"


#: JSB Chorales; three widths of a usual batch; a language model's; an image by pixels.
SHAPES = (
    Shape(60, 8, 88, 36),
    Shape(100, 32, 64, 64),
    Shape(100, 32, 128, 128),
    Shape(100, 32, 256, 256),
    Shape(35, 20, 200, 200),
    Shape(784, 64, 1, 128),
)
