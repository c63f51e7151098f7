"""C++ by torch's inductor. Everything that is private to inductor lies in this file."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from torch import Tensor

from cellzoo.engines.errors import CompileError

if TYPE_CHECKING:
    from torch._inductor.cpp_builder import CppBuilder

#: The versions of torch for which this file was verified, as their prefixes.
VERIFIED = ("2.13.",)
SETTINGS = {
    "cpp_wrapper": True,
    "cpp.threads": 1,  # the loop over time has the threads, each with a part of the batch
    "size_asserts": False,
    "realize_opcount_threshold": 8,  # keep an expensive value instead of computing it again
    "cpp.enable_floating_point_contract_flag": "fast",  # a · b + c rounds once
    "force_disable_caches": True,  # `cache` replaces them
}


def declines() -> str | None:
    """Return the reason why inductor cannot be used in this version of torch; None if it can."""
    if torch.__version__.startswith(VERIFIED):
        return None
    versions = ", ".join(f"{version}*" for version in VERIFIED)
    return f"its use of inductor is verified for torch {versions}, not {torch.__version__}"


def source_of(graph: torch.fx.GraphModule, example: list[Tensor]) -> str:
    """Return the C++ source of a graph with symbolic sizes.

    Args:
        graph: the traced graph, which writes its results in place.
        example: the tensors that it was traced with.

    Raises:
        CompileError: inductor makes more than one program of it.
    """
    import torch._inductor as inductor  # slow to import, like all of its modules
    from torch._inductor import config
    from torch._inductor.codecache import CppWrapperCodeCache
    from torch._inductor.loop_body import LoopBody

    sources: list[str] = []

    def record(*arguments: Any, main_code: str, **keywords: Any) -> Any:
        sources.append(main_code)
        return lambda *handles: ()

    read_of = LoopBody.get_read_expr

    def read(body: LoopBody, name: str) -> Any:
        """Return where a loop reads a buffer; None if it only follows the loops that do."""
        try:
            return read_of(body, name)
        except KeyError:  # inductor's own check misses such loops, which write in place
            return None

    log = logging.getLogger("torch._inductor.standalone_compile")
    with ExitStack() as patches:
        for patch in (
            config.patch(SETTINGS),
            _known_instructions(),
            mock.patch.object(LoopBody, "get_read_expr", read),
            mock.patch.object(CppWrapperCodeCache, "load_pybinding", record),
            mock.patch.object(log, "disabled", True),  # it warns that inductor's cache is disabled
        ):
            patches.enter_context(patch)
        inductor.standalone_compile(graph, [*example], dynamic_shapes="from_graph")
    if len(sources) != 1:
        raise CompileError(f"the compiler made {len(sources)} programs instead of one")
    return sources[0]


def builder_of(source: str, folder: Path) -> CppBuilder:
    """Return the builder of a shared library from C++ source, which it writes to a folder."""
    from torch._inductor import config
    from torch._inductor.cpp_builder import CppBuilder, CppTorchOptions
    from torch._inductor.cpu_vec_isa import pick_vec_isa

    path = folder / "step.cpp"
    path.write_text(source)
    with config.patch(SETTINGS), _known_instructions():
        options = CppTorchOptions(vec_isa=pick_vec_isa(), include_pytorch=True)
        return CppBuilder("step", [str(path)], options, output_dir=str(folder))


def build(builder: CppBuilder) -> Path:
    """Run the C++ compiler and return the library."""
    builder.build()
    return Path(builder.get_target_file_path())


def _known_instructions() -> Any:
    """Patch the check of the CPU's instructions, which would compile six programs."""
    from torch._inductor.cpu_vec_isa import VecISA

    return mock.patch.object(VecISA, "check_build", return_value=True)
