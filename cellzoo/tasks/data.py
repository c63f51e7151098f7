"""Data files: in a folder of the user's, else in a cache, else downloaded and checked."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pooch
from platformdirs import user_cache_path


class DataError(OSError):
    """A data file that is missing, unreadable or not the one expected; says what to put where."""


@dataclass(frozen=True)
class DataFile:
    """A file that a task reads: where it lies below a data folder, and where it comes from."""

    name: str
    folder: str
    url: str
    sha256: str

    def find(self, root: str | None) -> Path:
        """The file's path, after its checksum was found right.

        Looked for in `root`, else in CELLZOO_DATA: as `<root>/<folder>/<name>` or
        `<root>/<name>`. Where neither is given, in the user's cache, into which it is downloaded.

        Raises:
            DataError: it is not there, not readable, not the expected file, or not to be had.
        """
        root = root or os.environ.get("CELLZOO_DATA")
        if root is None:
            return self._download()
        candidates = [Path(root) / self.folder / self.name, Path(root) / self.name]
        for path in candidates:
            if path.exists():
                return self._checked(path)
        raise DataError(f"no {self.name} in {root}: put it at {candidates[0]}; it is {self.url}")

    def _download(self) -> Path:
        folder = user_cache_path("cellzoo") / self.folder
        try:
            # Checked by sha256, and moved into place when whole.
            path = pooch.retrieve(
                self.url, f"sha256:{self.sha256}", self.name, folder, progressbar=True
            )
        except (OSError, ValueError) as error:
            # The libraries below tell a lost connection in many lines; a wrong checksum in one.
            reason = type(error).__name__ if isinstance(error, OSError) else str(error)
            raise DataError(
                f"could not download {self.url} ({reason}): put that file at "
                f"{folder / self.name}, or at <folder>/{self.folder}/{self.name} and say "
                f"data.root=<folder> (or CELLZOO_DATA=<folder>)"
            ) from error
        return Path(path)

    def _checked(self, path: Path) -> Path:
        try:
            found = pooch.file_hash(str(path), alg="sha256")
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
        if found != self.sha256:
            raise DataError(
                f"{path} is not the expected file (sha256 {found[:12]}…, not "
                f"{self.sha256[:12]}…): get it from {self.url}"
            )
        return path
