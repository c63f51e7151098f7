"""Files that are written completely or not at all."""

import os
from collections.abc import Callable
from pathlib import Path


def write_whole(path: Path, write: Callable[[Path], object]) -> Path:
    """Write a file completely or not at all.

    Args:
        path: The file. Missing folders are created.
        write: A function that writes the contents to the path that it gets: a temporary file
            beside `path`, which is then flushed to disk and moved to `path` in one step.

    Returns:
        `path`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = write_whole(Path(folder) / "a.txt", lambda file: file.write_text("whole"))
        ...     path.read_text()
        'whole'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last: writers of images read the format from it.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())  # a name that outlives a crash must not outlive its contents
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
