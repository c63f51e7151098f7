"""The cache of compiled programs: shared libraries in a folder that only the user may write.

A program is `<key>.json`, which names its library by the library's own hash. The hash reveals a
torn file, and a race of two writers. `<identity>.link` holds the key of a cell's steps, so that a
later process need not trace them.
"""

import hashlib
import json
import os
import platform
import stat
from pathlib import Path
from typing import Any

import torch

from cellzoo.engines.errors import CompileError
from cellzoo.system.files import write_whole


def folder() -> Path:
    """Return the folder, made if necessary.

    Loading a library runs its code, so nobody else may write there.

    Raises:
        CompileError: the folder belongs to another user, or others may write to it.
    """
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(base) / "cellzoo" / "compiled"
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise CompileError(f"no folder for compiled cells: {error}") from None
    status = path.stat()
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise CompileError(f"{path} must be yours alone to write: chmod 700 it, or remove it")
    return path


def key(*parts: str) -> str:
    """Return a hash of these parts, torch, Python and the CPU, which a program depends on."""
    machine = [
        torch.__version__,
        platform.python_implementation() + platform.python_version(),
        platform.system() + platform.machine(),
        torch.backends.cpu.get_cpu_capability(),
    ]
    return hashlib.sha256("\0".join([*parts, *machine]).encode()).hexdigest()[:32]


def find(key: str) -> tuple[Path, dict[str, Any]] | None:
    """Return a program's library and its notes; None if it is missing or damaged."""
    try:
        noted = json.loads((folder() / f"{key}.json").read_text())
        library = folder() / f"{noted['library']}.so"
        whole = hashlib.sha256(library.read_bytes()).hexdigest() == noted["library"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (library, noted) if whole else None


def store(key: str, library: Path, noted: dict[str, Any]) -> None:
    """Store a program: its library first, then the note that names it."""
    content = library.read_bytes()
    name = hashlib.sha256(content).hexdigest()
    write_whole(folder() / f"{name}.so", lambda target: target.write_bytes(content))
    text = json.dumps({**noted, "library": name})
    write_whole(folder() / f"{key}.json", lambda target: target.write_text(text))


def linked(identity: str) -> str | None:
    """Return the key of these steps; None if they were never compiled."""
    try:
        return (folder() / f"{identity}.link").read_text()
    except OSError:
        return None


def link(identity: str, key: str) -> None:
    """Store the key of these steps."""
    write_whole(folder() / f"{identity}.link", lambda target: target.write_text(key))
