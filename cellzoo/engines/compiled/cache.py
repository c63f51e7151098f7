"""The cache of compiled programs: plain shared libraries in a folder of the user's own.

A program is `<key>.json`, which names its library by the library's own hash, so that a torn file
or two processes that write at once are seen. `<identity>.link` holds the key that a cell's steps
led to before, so that a later process need not trace them.
"""

from __future__ import annotations

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
    """The folder: loading a library runs code, so nobody else may write there.

    Raises:
        CompileError: it belongs to another user, or others may write to it.
    """
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    found = Path(base) / "cellzoo" / "compiled"
    try:
        found.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise CompileError(f"no folder for compiled cells: {error}") from None
    status = found.stat()
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise CompileError(f"{found} must be yours alone to write: chmod 700 it, or remove it")
    return found


def key(*parts: str) -> str:
    """A hash of what a program depends on: these parts, torch, Python and the CPU."""
    machine = [
        torch.__version__,
        platform.python_implementation() + platform.python_version(),
        platform.system() + platform.machine(),
        torch.backends.cpu.get_cpu_capability(),
    ]
    return hashlib.sha256("\0".join([*parts, *machine]).encode()).hexdigest()[:32]


def find(key: str) -> tuple[Path, dict[str, Any]] | None:
    """A program's library and what was noted about it; None where it is not there whole."""
    try:
        noted = json.loads((folder() / f"{key}.json").read_text())
        library = folder() / f"{noted['library']}.so"
        whole = hashlib.sha256(library.read_bytes()).hexdigest() == noted["library"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (library, noted) if whole else None


def store(key: str, library: Path, noted: dict[str, Any]) -> None:
    """Keep a program: its library first, then the note that names it."""
    content = library.read_bytes()
    name = hashlib.sha256(content).hexdigest()
    write_whole(folder() / f"{name}.so", lambda target: target.write_bytes(content))
    text = json.dumps({**noted, "library": name})
    write_whole(folder() / f"{key}.json", lambda target: target.write_text(text))


def linked(identity: str) -> str | None:
    """The key that these steps led to before."""
    try:
        return (folder() / f"{identity}.link").read_text()
    except OSError:
        return None


def link(identity: str, key: str) -> None:
    """Remember the key of these steps."""
    write_whole(folder() / f"{identity}.link", lambda target: target.write_text(key))
