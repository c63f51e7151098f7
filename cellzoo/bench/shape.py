"""The sizes of one measurement."""

from __future__ import annotations

from typing import NamedTuple

from cellzoo.bench.errors import BenchError


class Shape(NamedTuple):
    """T time steps, B sequences, input size I and hidden size H."""

    steps: int
    batch: int
    input_size: int
    hidden_size: int

    @classmethod
    def parse(cls, text: str) -> Shape:
        """Parse T,B,I,H from the command line.

        Raises:
            BenchError: The text is not four positive whole numbers.

        Examples:
            >>> Shape.parse("100,32,64,128")
            Shape(steps=100, batch=32, input_size=64, hidden_size=128)
            >>> str(Shape.parse("100,32,64,128"))
            'T 100 · B 32 · I 64 · H 128'
        """
        try:
            sizes = [int(part) for part in text.split(",")]
        except ValueError:
            sizes = []
        if len(sizes) != 4 or min(sizes) < 1:
            raise BenchError(
                f"--shape takes T,B,I,H, four positive numbers such as 100,32,64,64, not {text!r}"
            )
        return cls(*sizes)

    def __str__(self) -> str:
        return f"T {self.steps} · B {self.batch} · I {self.input_size} · H {self.hidden_size}"


#: JSB Chorales, a common batch at three hidden sizes, a language model, an image by pixels.
SHAPES = (
    Shape(60, 8, 88, 36),
    Shape(100, 32, 64, 64),
    Shape(100, 32, 128, 128),
    Shape(100, 32, 256, 256),
    Shape(35, 20, 200, 200),
    Shape(784, 64, 1, 128),
)
