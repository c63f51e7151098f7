"""The source of a Triton kernel that runs a traced step over time.

A program of the kernel owns a block of the batch. It loads the carried tensors and the matrices
once, before its loop over time.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.fx import Node

from cellzoo.engines.compiled.cuda.traced import Traced
from cellzoo.engines.persistent.operations import (
    DTYPES,
    HELPERS,
    Matrix,
    Operations,
    UnsupportedError,
    Value,
    is_read,
)


class Source(NamedTuple):
    """A kernel.

    Attributes:
        text: the text of its module.
        name: the name of its function.
        starts, inputs, shared: the numbers of the carried tensors, of the inputs and of the
            shared tensors that are its arguments, in this order. The next arguments are the
            tensors for the final carried tensors and for the outputs of all steps, then T and B.
        totals: the numbers of the carried tensors that each program sums for its own block.
        outputs: the width and dtype of each output.
    """

    text: str
    name: str
    starts: list[int]
    inputs: list[int]
    shared: list[int]
    totals: list[int]
    outputs: list[tuple[int, torch.dtype]]


class Writer(Operations):
    """The writer of the kernel of a traced step.

    Args:
        traced: the step.
        hidden: H.
        title: the name of the function.
        names: the names of the carried tensors, the inputs and the shared tensors.
    """

    def __init__(self, traced: Traced, hidden: int, title: str, names: Sequence[str]) -> None:
        super().__init__(traced, hidden)
        self.title = title
        self.names = names

    def source(self) -> Source:
        """Write the kernel.

        Raises:
            UnsupportedError: a kernel does not support the step.
        """
        graph = self.traced.graph.graph
        carried, inputs, shared = self._placeholders(graph.find_nodes(op="placeholder"))
        for node in graph.nodes:
            if node.op not in ("placeholder", "output"):
                self._values[node] = self._operation(node)
        (output,) = graph.find_nodes(op="output")
        new, outputs = output.args[0][: len(carried)], output.args[0][len(carried) :]
        totals = [n for n, node in enumerate(carried) if not self._is_batched(node)]
        for n in totals:
            self._check_total(carried[n], new[n])
        stores = [f"{self._fresh(f'out{n}')}_ptr" for n in range(len(outputs))]
        for node, pointer in zip(outputs, stores, strict=True):
            self._store(pointer, "at", node, self._values[node])
        self._carry_on(carried, new)
        ends = [self._store_end(node, n in totals) for n, node in enumerate(carried)]
        starts = [n for n in range(len(carried)) if n not in totals]
        read = [n for n, node in enumerate(inputs) if is_read(node)]
        held = [n for n, node in enumerate(shared) if is_read(node)]
        arguments = [
            *(f"{self._given[carried[n]]}_ptr" for n in starts),
            *(f"{self._given[inputs[n]]}_ptr" for n in read),
            *(f"{self._given[shared[n]]}_ptr" for n in held),
            *(pointer for pointer, _ in ends),
            *stores,
        ]
        text = self._text(arguments, [line for _, lines in ends for line in lines])
        kinds = [(self._shape(node)[-1], node.meta["val"].dtype) for node in outputs]
        return Source(text, self.title, starts, read, held, totals, kinds)

    # -- the frame ---------------------------------------------------------------------------

    def _text(self, arguments: Sequence[str], after: Sequence[str]) -> str:
        """Return the text of the module; `after` are the lines after the loop."""
        used = "\n".join(self.body)
        helpers = [code for name, code in HELPERS.items() if f" {name}(" in used]
        t = "T - 1 - step" if self.traced.backwards else "step"
        lines = [
            '@triton.jit(do_not_specialize=["T", "B"])',
            f"def {self.title}(",
            *(f"    {argument}," for argument in arguments),
            "    T,",
            "    B,",
            "    BLOCK: tl.constexpr,",
            "    PRECISION: tl.constexpr,",
            "):",
            "    program = tl.program_id(0)",
            "    rows = (program * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)[:, None]",
            f"    columns = tl.arange(0, {self.padded})[None, :]",
            f"    inner = tl.arange(0, {self.padded})[:, None]",
            "    row = rows < B",
            f"    unit = columns < {self.hidden}",
            f"    square = (inner < {self.hidden}) & unit",
            *(f"    {line}" for line in self.before),
            "    for step in range(T):",
            f"        t = {t}",
            "        at = t * B + rows",
            *(f"        {line}" for line in self.body),
            *(f"    {line}" for line in after),
            "",
        ]
        head = "import triton\nimport triton.language as tl\n"
        return "\n\n".join([head, *helpers, "\n".join(lines)])

    def _placeholders(self, nodes: Sequence[Node]) -> list[list[Node]]:
        """Name and load the tensors that the step reads; return them by group."""
        self._given = {
            node: self._fresh(name) for node, name in zip(nodes, self.names, strict=True)
        }
        carries, inputs, _ = self.traced.sizes
        for n, node in enumerate(nodes):
            name, shape = self._given[node], self._shape(node)
            if n >= carries + inputs and len(shape) == 2:
                if shape[0] % self.hidden or shape[1] % self.hidden:
                    raise self._odd(node)
                self._values[node] = Matrix(name, shape[1])
                continue
            value = self._values[node] = self._named(node, name)
            if n < carries and not value.batched:
                kind = DTYPES[node.meta["val"].dtype]
                extent = 1 if value.single else self.padded
                self.before += [f"{tile} = tl.zeros((1, {extent}), {kind})" for tile in value.tiles]
            elif n < carries:
                self.before += self._loads(value, f"{name}_ptr", "rows", shape)
            elif is_read(node) and n < carries + inputs:
                self.body += self._loads(value, f"{name}_ptr", "at", shape)
            elif is_read(node):
                self.before += self._loads(value, f"{name}_ptr", "", shape)
        return [
            list(nodes[:carries]),
            list(nodes[carries : carries + inputs]),
            list(nodes[carries + inputs :]),
        ]

    def _named(self, node: Node, name: str) -> Value:
        """Return a value in variables of its own."""
        number, single = self._extent(node)
        return Value(self._tiles(name, number), self._is_batched(node), single)

    def _loads(self, value: Value, pointer: str, place: str, shape: Sequence[int]) -> list[str]:
        """Return the lines that load a value; arguments as for `_places`."""
        return [
            f"{tile} = tl.load({where}, mask={mask}, other=0.0)"
            for tile, (where, mask) in zip(
                value.tiles, self._places(value, pointer, place, shape), strict=True
            )
        ]

    def _places(
        self, value: Value, pointer: str, place: str, shape: Sequence[int]
    ) -> list[tuple[str, str]]:
        """Return the address and mask of each tile; `place` is the row, "" if there is only one."""
        width = shape[-1] if shape else 1
        start = pointer if not place else f"{pointer} + {place} * {width}"
        places = []
        for k in range(len(value.tiles)):
            across = "tl.zeros((1, 1), tl.int32)" if value.single else "columns"
            offset = f" + {k * self.hidden}" if k else ""
            masks = [*(["row"] if place in ("at", "rows") else []),
                     *([] if value.single else ["unit"])]  # fmt: skip
            places.append((f"{start}{offset} + {across}", " & ".join(masks) or "True"))
        return places

    def _store(self, pointer: str, place: str, node: Node, value: Value) -> None:
        """Write a step's output."""
        number, single = self._extent(node)
        wide = Value(value.tiles * (number if len(value.tiles) == 1 else 1), True, single)
        for tile, (where, mask) in zip(
            wide.tiles, self._places(wide, pointer, place, self._shape(node)), strict=True
        ):
            self.body.append(f"tl.store({where}, {tile}, mask={mask})")

    def _carry_on(self, carried: Sequence[Node], new: Sequence[Node]) -> None:
        """Assign the carried tensors for the next step."""
        held = {tile for node in carried for tile in self._values[node].tiles}
        last = []
        for node, after in zip(carried, new, strict=True):
            old, value = self._values[node], self._values[after]
            for tile, result in zip(old.tiles, self._whole(value, node).tiles, strict=True):
                if result == tile:
                    continue
                if result in held:  # two states that change places
                    kept = self._fresh(f"new_{tile}")
                    self.body.append(f"{kept} = {result}")
                    result = kept
                last.append(f"{tile} = {result}")
        self.body += last

    def _store_end(self, node: Node, total: bool) -> tuple[str, list[str]]:
        """Return the argument for the final carried tensor, and the lines that fill it."""
        pointer, value = f"{self._fresh(f'{self._given[node]}_end')}_ptr", self._values[node]
        places = self._places(value, pointer, "program" if total else "rows", self._shape(node))
        return pointer, [
            f"tl.store({where}, {tile}, mask={mask})"
            for tile, (where, mask) in zip(value.tiles, places, strict=True)
        ]

    def _check_total(self, node: Node, new: Node) -> None:
        """Check that a carried tensor without a batch is a sum: each program has a part of it."""
        adds = new.target is torch.ops.aten.add.Tensor and node in new.args and len(node.users) == 1
        if not (adds and not new.kwargs) and new is not node:
            raise UnsupportedError(
                f"{self._given[node]} has no batch and is not summed step by step"
            )
