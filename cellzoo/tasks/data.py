"""Data files: found in the user's folder or in a cache, or downloaded, and always checked."""

import os
from dataclasses import dataclass
from pathlib import Path

import pooch
from platformdirs import user_cache_path


class DataError(OSError):
    """A data file that is missing, unreadable or not the expected one; see the message."""


@dataclass(frozen=True)
class DataFile:
    """A data file of a task.

    Attributes:
        name: The file's name.
        folder: The file's folder below a data folder.
        url: The address to download the file from.
        sha256: The checksum of the contents.
    """

    name: str
    folder: str
    url: str
    sha256: str

    def find(self, root: str | None) -> Path:
        """Return the file's path, after its checksum was verified.

        Args:
            root: A data folder; None: the environment variable CELLZOO_DATA. The file is searched
                as `<root>/<folder>/<name>` and `<root>/<name>`. Without any data folder the file
                is downloaded into the user's cache.

        Raises:
            DataError: The file is missing, unreadable or not the expected one, or the download
                failed.
        """
        root = root or os.environ.get("CELLZOO_DATA")
        if root is None:
            return self._download()
        candidates = [Path(root) / self.folder / self.name, Path(root) / self.name]
        for path in candidates:
            if path.exists():
                return self._checked(path)
        raise DataError(
            f"no {self.name} in {root}: put it at {candidates[0]} (download it from {self.url})"
        )

    def _download(self) -> Path:
        """Return the path of the cached file, which is downloaded first if need be."""
        folder = user_cache_path("cellzoo") / self.folder
        try:
            # pooch verifies the sha256, and moves the file into place when it is complete.
            path = pooch.retrieve(
                self.url, f"sha256:{self.sha256}", self.name, folder, progressbar=True
            )
        except (OSError, ValueError) as error:
            # The libraries report a lost connection in many lines, a wrong checksum in one.
            reason = type(error).__name__ if isinstance(error, OSError) else str(error)
            raise DataError(
                f"could not download {self.url} ({reason}): put that file at "
                f"{folder / self.name}, or at <folder>/{self.folder}/{self.name} and set "
                f"data.root=<folder> (or CELLZOO_DATA=<folder>)"
            ) from error
        return Path(path)

    def _checked(self, path: Path) -> Path:
        """Return a path after its checksum was verified."""
        try:
            sha256 = pooch.file_hash(str(path), alg="sha256")
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
        if sha256 != self.sha256:
            raise DataError(
                f"{path} is not the expected file (sha256 {sha256[:12]}…, not "
                f"{self.sha256[:12]}…): get it from {self.url}"
            )
        return path
