"""A cell's step traced by itself, for engines with their own loop over time."""

import importlib.util
from collections.abc import Callable, Mapping
from functools import cache
from itertools import count
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from cellzoo.engines.compiled.groups import Gradients, Parameters, Result, Saved, Tensors, grouped
from cellzoo.engines.compiled.lengths import Lengths
from cellzoo.engines.compiled.programs import Programs
from cellzoo.engines.compiled.steps import Steps
from cellzoo.engines.errors import CompileError, EngineError, in_one_line

# One step: from the carried tensors, the inputs of the step and the shared tensors to the new
# carried tensors and the outputs of the step.
StepFn = Callable[[list[Tensor], list[Tensor], list[Tensor]], tuple[list[Tensor], list[Tensor]]]
# Computes the same as `loop`, from the same arguments.
Driver = Callable[..., tuple[list[Tensor], list[Tensor]]]


def loop(
    step: StepFn, carry: Tensors, inputs: Tensors, shared: Tensors, backwards: bool = False
) -> tuple[list[Tensor], list[Tensor]]:
    """Run a step over time in Python.

    Args:
        step: see StepFn; it must not close over a tensor.
        carry: the tensors that are carried from step to step.
        inputs: (T, …) each.
        shared: the tensors that every step reads.
        backwards: whether the last step comes first.

    Returns:
        The carried tensors after the last step, and the outputs of all steps in time order,
        (T, …) each.
    """
    now, results = list(carry), []
    rows = list(zip(*(tensor.unbind(0) for tensor in inputs), strict=True))
    for values in reversed(rows) if backwards else rows:
        now, outputs = step(now, list(values), list(shared))
        results.append(outputs)
    if backwards:
        results.reverse()
    return now, [torch.stack(parts) for parts in zip(*results, strict=True)]


class Call(NamedTuple):
    """A call of `loop`.

    Attributes:
        steps: the steps of the cell.
        name: "forward" or "backward".
        step, carry, inputs, shared: the arguments of `loop`.
    """

    steps: Steps
    name: str
    step: StepFn
    carry: Tensors
    inputs: Tensors
    shared: Tensors

    @property
    def batched(self) -> list[bool]:
        """Return whether each carried tensor has a batch: states, and the sums of `spread`."""
        return ([True] * self.steps.states + self.steps.spread)[: len(self.carry)]


class Traced(NamedTuple):
    """One step as a graph of operations on tensors.

    Attributes:
        graph: a `StepFn` with flat arguments and results.
        sizes: the numbers of carried tensors, of inputs and of shared tensors.
        batch: the batch size of the trace, which equals no other extent.
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
    """Trace the step of a call. Tracing takes equal extents for one and the same.

    Args:
        call: the call.
        decompositions: of torch's operations.
        tracing_mode: "symbolic" for symbolic sizes.
    """
    from torch.fx.experimental.proxy_tensor import make_fx  # slow to import

    sizes = len(call.carry), len(call.inputs), len(call.shared)
    flat = [*call.carry, *(tensor[0] for tensor in call.inputs), *call.shared]
    taken = {extent for tensor in flat for extent in tensor.shape}
    batch = next(n for n in count(5) if n not in taken)
    batched = [*call.batched, *[True] * sizes[1], *[False] * sizes[2]]
    example = [
        tensor.new_zeros(batch, *tensor.shape[1:]) if has_batch else torch.zeros_like(tensor)
        for tensor, has_batch in zip(flat, batched, strict=True)
    ]

    def step(*tensors: Tensor) -> list[Tensor]:
        new, outputs = call.step(*grouped(tensors, *sizes))
        return [*new, *outputs]

    # Some derivatives write in place. Functions with a vjp of their own must be traced once before
    # they can be functionalised.
    pure = torch.func.functionalize(make_fx(step, tracing_mode=tracing_mode)(*example))
    graph = make_fx(pure, dict(decompositions or {}), tracing_mode=tracing_mode)(*example)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return Traced(graph, sizes, batch, call.name == "backward")


class OverTime(Programs):
    """The forward and backward pass of a cell, each by a subclass's driver of its step.

    Args:
        steps: the steps of the cell.
    """

    def __init__(self, steps: Steps) -> None:
        super().__init__(steps)
        self._drivers: dict[Any, Driver] = {}

    def make(self, call: Call) -> Driver:
        """Return the driver for calls like this one."""
        raise NotImplementedError

    def _forward(
        self, lengths: Lengths, projected: Tensors, initial: Tensors, parameters: Parameters
    ) -> Result:
        """Run `Steps.forward` by a driver."""
        steps, sizes = self.steps, [len(group) for group in parameters]

        def step(states: Any, now: Any, shared: Any) -> Any:
            parameters = Parameters(*grouped(shared, *sizes))
            products = steps.whole_products(now, states, parameters)
            read = [now[place] for place in steps.within]
            new, output, early = steps.forward_step(read, states, products, parameters)
            return new, [*states, output, *early]

        shared = [tensor for group in parameters for tensor in group]
        final, outputs = self._over_time("forward", step, lengths, initial, projected, shared)
        before, (output,), early = grouped(outputs, steps.states, 1, len(steps.early))
        states = [torch.cat(parts) for parts in zip(before, final, strict=True)]
        return Result([lengths.final(s) for s in states], output, Saved([], states, early))

    def _backward(
        self,
        lengths: Lengths,
        saved: Saved,
        of_output: Tensor,
        of_final: Tensors,
        parameters: Parameters,
    ) -> Gradients:
        """Run `Steps.backward` by a driver."""
        steps, extras = self.steps, parameters.extras
        sizes, numbers = [len(group) for group in parameters], [*map(len, saved), 1]

        def step(carry: Any, now: Any, shared: Any) -> Any:
            parameters = Parameters(*grouped(shared, *sizes))
            of_states, sums = grouped(carry, steps.states, len(extras))
            *saved, (of_this,) = grouped(now, *numbers)
            of = steps.backward_step(Saved(*saved), of_this, of_states, sums, parameters)
            of_states = steps.through_whole(of.products, parameters, of.states)
            return [*of_states, *of.extras], [tensor for group in of[2:] for tensor in group]

        sums = [
            extra.new_zeros(len(of_final[0]), *extra.shape) if spread else torch.zeros_like(extra)
            for extra, spread in steps.with_spread(extras)
        ]
        inputs = [tensor for group in (*saved, [of_output]) for tensor in group]
        shared = [tensor for group in parameters for tensor in group]
        carry, outputs = self._over_time(
            "backward", step, lengths, [*of_final, *sums], inputs, shared
        )
        of_initial, sums = grouped(carry, steps.states, len(extras))
        totals = [total.sum(0) if spread else total for total, spread in steps.with_spread(sums)]
        late = len(steps.late)
        by_group = grouped(outputs, len(saved.projected), len(steps.early) + late, late)
        return Gradients(of_initial, totals, *by_group)

    def _over_time(
        self,
        name: str,
        step: StepFn,
        lengths: Lengths,
        carry: Tensors,
        inputs: Tensors,
        shared: Tensors,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Run a step over time, on inputs and outputs (rows, …)."""
        inputs = [tensor.unflatten(0, (lengths.steps, lengths.batch)) for tensor in inputs]
        key = name, *(tensor.shape[-1:] for tensor in (*carry, *inputs, *shared))
        with torch.autocast(carry[0].device.type, enabled=False):  # the steps cast their operands
            if key not in self._drivers:
                try:
                    call = Call(self.steps, name, step, carry, inputs, shared)
                    self._drivers[key] = self.make(call)
                except EngineError:
                    raise
                except Exception as error:
                    raise CompileError(in_one_line(error)) from error
            driver = self._drivers[key]
            new, outputs = driver(step, carry, inputs, shared, name == "backward")
        return new, [tensor.flatten(0, 1) for tensor in outputs]


@cache
def has_triton() -> bool:
    """Return whether Triton is installed; torch's builds for CUDA include it."""
    return importlib.util.find_spec("triton") is not None
