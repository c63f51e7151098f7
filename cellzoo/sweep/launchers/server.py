"""The job server: a process that has everything imported, and forks a job in milliseconds.

`Server`, in the sweep's process, starts it. The two exchange lines of JSON over a socket:

    to the server    {"environment": {…}}, once, before any job
                     {"start": 3, "order": "…", "log": "…", "environment": {…}}
                     {"signal": 9, "to": 3}
    from the server  {"ready": "fork", "reason": ""}
                     {"ended": 3, "code": 0}

Every job is a process, and a process group, of its own. The jobs end with the server, and the
server ends with the sweep, however the sweep ends.

The `forkserver` context of multiprocessing starts and ends a job no faster (medians 0.26 s and
0.24 s, both with exit hooks). A program has one such forkserver, which keeps the environment of its
first use, thread counts included; and its jobs hold its pipe open, so they outlive a killed sweep.
"""

import atexit
import contextlib
import ctypes
import faulthandler
import gc
import importlib
import importlib.util
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from cellzoo.names.plugins import VARIABLE
from cellzoo.sweep.launchers.process import command_line

PR_SET_PDEATHSIG = 1
LIBRARIES = ("torch", "lightning.pytorch", "wandb", "cellzoo.sweep.launchers.job")


class ServerError(RuntimeError):
    """The server did not start, or has ended."""


class Server:
    """The job server, seen from the sweep's process.

    Args:
        start: "fork", "spawn", or "auto" (fork where that is safe).
        threads: variables that the libraries read when the server imports them.
    """

    def __init__(self, start: str, threads: Mapping[str, str]) -> None:
        connection, remote = socket.socketpair()
        environment = {key: value for key, value in os.environ.items() if key != VARIABLE}
        command = [
            sys.executable,
            "-m",
            "cellzoo.sweep.launchers.server",
            str(remote.fileno()),
            start,
        ]
        self.process = subprocess.Popen(
            command,
            env={**environment, **threads, "PYTORCH_NVML_BASED_CUDA_CHECK": "1"},
            pass_fds=[remote.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # the sweep's process handles Ctrl-C
        )
        remote.close()
        self._lines = _Lines(connection)

    def prepare(self, environment: Mapping[str, str]) -> None:
        """Have the server load the plugins that an environment names, and send `ready`."""
        self._lines.send(environment=dict(environment))

    def start(self, number: int, order: Path, log: Path, environment: Mapping[str, str]) -> None:
        """Have the server start a job."""
        self._lines.send(
            start=number, order=str(order), log=str(log), environment=dict(environment)
        )

    def signal(self, number: int, signal_number: int) -> None:
        """Send a signal to a job's process group."""
        self._lines.send(signal=signal_number, to=number)

    def messages(self, seconds: float | None) -> Iterator[dict[str, Any]]:
        """Yield the messages that arrive within `seconds` (None: wait for at least one).

        Raises:
            ServerError: the server has ended.
        """
        for message in self._lines.receive(seconds):
            if message is None:
                raise ServerError(f"the job server ended (status {self.process.wait()})")
            yield message

    def close(self) -> None:
        """End the server and all jobs."""
        self._lines.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(30)
        self.process.kill()
        self.process.wait()


class _Lines:
    """Lines of JSON over a socket."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._partial = b""

    def send(self, **message: Any) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # `receive` reports it
            self.connection.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, seconds: float | None) -> Iterator[dict[str, Any] | None]:
        """Yield the messages that arrived; None at the end of the connection."""
        self.connection.settimeout(seconds)
        try:
            data = self.connection.recv(1 << 16)
        except (TimeoutError, BlockingIOError):
            return
        except ConnectionResetError:
            data = b""
        finally:
            self.connection.settimeout(None)
        *lines, self._partial = (self._partial + data).split(b"\n")
        yield from map(json.loads, lines)
        if not data:
            yield None

    def close(self) -> None:
        self.connection.close()


def serve(connection: socket.socket, start: str) -> Path | None:
    """Serve until the sweep ends. Return only in a forked job, with its order."""
    wake, waker = os.pipe()
    for end in (wake, waker):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    lines = _Lines(connection)
    start, reason = _prepare(start, lines)
    signal.set_wakeup_fd(waker)
    lines.send(ready=start, reason=reason)
    gc.collect()
    gc.freeze()  # children share pages until one writes to them

    selector = selectors.DefaultSelector()
    selector.register(connection, selectors.EVENT_READ)
    selector.register(wake, selectors.EVENT_READ)
    jobs: dict[int, int] = {}  # numbers by process
    while True:
        for key, _ in selector.select():
            if key.fileobj == wake:
                with contextlib.suppress(BlockingIOError):
                    os.read(wake, 4096)
                continue
            for message in lines.receive(0):
                if message is None:
                    _end_all(jobs)
                if "start" in message:
                    process = os.fork()
                    if process == 0:
                        signal.set_wakeup_fd(-1)
                        selector.close()
                        for end in (wake, waker):
                            os.close(end)
                        connection.close()
                        return _become_job(message, start)
                    jobs[process] = message["start"]
                else:
                    number = message["to"]
                    for process in [p for p, started in jobs.items() if started == number]:
                        _signal_group(process, message["signal"])
        for process, code in _ended():
            if process in jobs:
                _signal_group(process, signal.SIGKILL)  # processes that the job left running
                lines.send(ended=jobs.pop(process), code=code)


def _prepare(start: str, lines: _Lines) -> tuple[str, str]:
    """Import the libraries and plugins, and return "fork" or "spawn" with the reason.

    A fork is safe if the imports leave neither a thread nor a CUDA context.
    """
    reason = ""
    if start == "auto" and sys.platform != "linux":
        start, reason = "spawn", f"fork is not safe on {sys.platform}"
    if start != "spawn":
        for library in LIBRARIES:
            importlib.import_module(library)
    for message in lines.receive(None):
        if message is None:
            sys.exit()
        os.environ.update(message["environment"])
    if start == "spawn":
        return start, reason
    import torch

    from cellzoo.cells.registry import list_cells

    list_cells()  # imports the plugins
    threads = len(os.listdir("/proc/self/task")) if sys.platform == "linux" else 1
    if threads > 1:
        return "spawn", f"importing left {threads} threads, which a fork would lose"
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return "spawn", "importing initialised CUDA, which a fork cannot use"
    return "fork", ""


def _become_job(message: Mapping[str, Any], start: str) -> Path:
    """Turn a child of the server into a job, and return the job's order."""
    os.setsid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.update(message["environment"])
    log = os.open(message["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    order = Path(message["order"])
    if start == "spawn":
        os.execv(sys.executable, command_line(order))
    # Lightning starts the other ranks by this process's command line.
    sys.argv = ["cellzoo.sweep.launchers.job", str(order)]
    sys.modules["__main__"].__spec__ = importlib.util.find_spec("cellzoo.sweep.launchers.job")
    faulthandler.enable()
    return order


def _ended() -> Iterator[tuple[int, int]]:
    with contextlib.suppress(ChildProcessError):
        while True:
            process, status = os.waitpid(-1, os.WNOHANG)
            if process == 0:
                return
            yield process, os.waitstatus_to_exitcode(status)


def _end_all(jobs: Mapping[int, int]) -> NoReturn:
    for process in jobs:
        _signal_group(process, signal.SIGKILL)
    sys.exit()


def _signal_group(process: int, number: int) -> None:
    try:
        os.killpg(process, number)
    except ProcessLookupError:  # all have ended, or the child has no group yet
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)


def main() -> int:
    """Serve; in a forked job, run its order."""
    connection = socket.socket(fileno=int(sys.argv[1]))
    connection.set_inheritable(False)
    order = serve(connection, sys.argv[2])
    assert order is not None
    from cellzoo.sweep.launchers.job import run_order

    try:
        code = run_order(order)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    # Skipping the interpreter's teardown frees the slot a third of a second earlier.
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
