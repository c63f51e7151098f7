"""A cell's step traced by itself, for engines that run it over time in a way of their own."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import count
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from cellzoo.engines.compiled.lengths import Lengths
from cellzoo.engines.compiled.programs import Programs
from cellzoo.engines.compiled.steps import Steps, Tensors, grouped
from cellzoo.engines.errors import CompileError, EngineError, in_one_line

# One step: what is carried on, this step's inputs and what all steps share, to the new carried
# tensors and the step's outputs.
Step = Callable[[list[Tensor], list[Tensor], list[Tensor]], tuple[list[Tensor], list[Tensor]]]
# What does the same as `loop`, with its arguments.
Driver = Callable[..., tuple[list[Tensor], list[Tensor]]]


def loop(
    step: Step, carry: Tensors, inputs: Tensors, shared: Tensors, backwards: bool = False
) -> tuple[list[Tensor], list[Tensor]]:
    """Run a step over time in Python.

    Args:
        step: see Step; it closes over no tensor.
        carry: what is carried from step to step.
        inputs: (T, …) each.
        shared: what every step reads.
        backwards: whether the last step comes first.

    Returns:
        What is carried in the end, and the outputs of all steps in time's order, (T, …) each.
    """
    now, found = list(carry), []
    each = list(zip(*(tensor.unbind(0) for tensor in inputs), strict=True))
    for values in reversed(each) if backwards else each:
        now, outputs = step(now, list(values), list(shared))
        found.append(outputs)
    if backwards:
        found.reverse()
    return now, [torch.stack(parts) for parts in zip(*found, strict=True)]


class Call(NamedTuple):
    """A call of `loop`, and of which step it is.

    Attributes:
        steps: the cell's.
        name: "forward" or "backward".
        step, carry, inputs, shared: `loop`'s arguments.
    """

    steps: Steps
    name: str
    step: Step
    carry: Tensors
    inputs: Tensors
    shared: Tensors

    @property
    def batched(self) -> list[bool]:
        """Which of the carried tensors are (B, …): the states, and what `spread` says of sums."""
        return ([True] * self.steps.states + self.steps.spread)[: len(self.carry)]


class Traced(NamedTuple):
    """One step as a graph of operations on tensors.

    Attributes:
        graph: from what is carried, this step's inputs and what all steps share to what is
            carried on and the step's outputs, all of them flat.
        sizes: the numbers of the three.
        batch: the batch size that it was traced with, which is no other extent.
        backwards: whether the last step comes first.
    """

    graph: torch.fx.GraphModule
    sizes: tuple[int, int, int]
    batch: int
    backwards: bool


def trace_step(
    call: Call,
    decompositions: Mapping[Any, Any] | None = None,
    tracing_mode: Literal["real", "symbolic"] = "real",
) -> Traced:
    """The step of a call; extents that are equal when traced are taken for one and the same."""
    from torch.fx.experimental.proxy_tensor import make_fx  # heavy, and seldom needed

    sizes = len(call.carry), len(call.inputs), len(call.shared)
    flat = [*call.carry, *(tensor[0] for tensor in call.inputs), *call.shared]
    taken = {extent for tensor in flat for extent in tensor.shape}
    batch = next(n for n in count(5) if n not in taken)
    batched = [*call.batched, *[True] * sizes[1], *[False] * sizes[2]]
    example = [
        tensor.new_zeros(batch, *tensor.shape[1:]) if each else torch.zeros_like(tensor)
        for tensor, each in zip(flat, batched, strict=True)
    ]

    def step(*tensors: Tensor) -> list[Tensor]:
        new, outputs = call.step(*grouped(tensors, *sizes))
        return [*new, *outputs]

    # Some derivatives write in place. First as it is: what has a vjp of its own knows no other way.
    pure = torch.func.functionalize(make_fx(step, tracing_mode=tracing_mode)(*example))
    graph = make_fx(pure, dict(decompositions or {}), tracing_mode=tracing_mode)(*example)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return Traced(graph, sizes, batch, call.name == "backward")


class OverTime(Programs):
    """A cell's forward and backward, each run over time by what a subclass makes of its step.

    Args:
        steps: the functions.
    """

    COMPLETE = False
    PACKED = False

    def __init__(self, steps: Steps) -> None:
        super().__init__(steps)
        self._drivers: dict[Any, Driver] = {}

    def make(self, call: Call) -> Driver:
        """What runs the step of calls like this one."""
        raise NotImplementedError

    def begin(self, groups: Sequence[Tensors]) -> None:
        """What runs a step is made when it first runs."""

    def _projected(self, sequences: Tensors, projection: Tensors, biases: Tensors) -> list[Tensor]:
        return [functional.linear(*sequences, *projection)] if projection else [*sequences]

    def _forward(
        self,
        lengths: Lengths,
        projected: Tensors,
        initial: Tensors,
        weights: Tensors,
        biases: Tensors,
        extras: Tensors,
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """`Steps.forward` over time."""
        steps, sizes = self.steps, (len(weights), len(biases), len(extras))

        def step(states: Any, now: Any, shared: Any) -> Any:
            weights, biases, extras = grouped(shared, *sizes)
            products = [
                steps.product(names, steps.operand(names, states), weight)
                for names, weight in zip(steps.early, weights, strict=False)
                if names in steps.whole
            ]
            if steps.summed and products:
                products = [steps._sum(now, products[0], biases)]
            read = [now[place] for place in steps.within]
            new, output, early = steps.forward_step(read, states, products, weights, biases, extras)
            return new, [*states, output, *early]

        shared = [*weights, *biases, *extras]
        final, found = self._over_time("forward", step, lengths, initial, projected, shared)
        before, (output,), early = grouped(found, steps.states, 1, len(steps.early))
        states = [torch.cat(parts) for parts in zip(before, final, strict=True)]
        return output, states, early

    def _backward(
        self,
        lengths: Lengths,
        projected: Tensors,
        before: Tensors,
        early: Tensors,
        of_output: Tensor,
        of_final: Tensors,
        weights: Tensors,
        biases: Tensors,
        extras: Tensors,
    ) -> list[list[Tensor]]:
        """`Steps.backward` over time."""
        steps, sizes = self.steps, (len(weights), len(biases), len(extras))
        inputs = len(projected), steps.states, len(steps.early), 1

        def step(carry: Any, now: Any, shared: Any) -> Any:
            weights, biases, extras = grouped(shared, *sizes)
            of_states, sums = grouped(carry, steps.states, len(extras))
            given, old, products, (of_this,) = grouped(now, *inputs)
            of_states, sums, *of_each = steps.backward_step(
                given, old, products, of_this, of_states, sums, weights, biases, extras
            )
            of_states = steps.through_whole(of_each[1], weights, of_states)
            return [*of_states, *sums], [tensor for group in of_each for tensor in group]

        sums = [
            e.new_zeros(len(of_final[0]), *e.shape) if s else torch.zeros_like(e)
            for e, s in steps._each(extras)
        ]
        carry, found = self._over_time(
            "backward", step, lengths, [*of_final, *sums],
            [*projected, *before, *early, of_output], [*weights, *biases, *extras],
        )  # fmt: skip
        of_initial, sums = grouped(carry, steps.states, len(extras))
        totals = [total.sum(0) if s else total for total, s in steps._each(sums)]
        late = len(steps.late)
        return [
            of_initial, totals, *grouped(found, len(projected), len(steps.early) + late, late)
        ]  # fmt: skip

    def _over_time(
        self,
        name: str,
        step: Step,
        lengths: Lengths,
        carry: Tensors,
        inputs: Tensors,
        shared: Tensors,
    ) -> tuple[list[Tensor], list[Tensor]]:
        inputs = [tensor.unflatten(0, (lengths.steps, lengths.batch)) for tensor in inputs]
        key = name, *(tensor.shape[-1:] for tensor in (*carry, *inputs, *shared))
        with torch.autocast(carry[0].device.type, enabled=False):  # the steps cast what is cast
            if key not in self._drivers:
                try:
                    call = Call(self.steps, name, step, carry, inputs, shared)
                    self._drivers[key] = self.make(call)
                except EngineError:
                    raise
                except Exception as error:
                    raise CompileError(in_one_line(error)) from error
            driver = self._drivers[key]
            new, found = driver(step, carry, inputs, shared, name == "backward")
        return new, [tensor.flatten(0, 1) for tensor in found]


@cache
def has_triton() -> bool:
    """Whether Triton is installed; torch's builds for CUDA bring it."""
    return importlib.util.find_spec("triton") is not None
