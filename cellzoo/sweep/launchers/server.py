"""A process that starts jobs: with everything imported it forks, which takes milliseconds.

The sweep starts it (`Server`) and speaks to it by a socket, in lines of JSON:

    to it    {"environment": {…}}, once, before any job
             {"start": 3, "order": "…", "log": "…", "environment": {…}}, {"signal": 9, "to": 3}
    from it  {"ready": "fork", "why": ""}, {"ended": 3, "code": 0}

Every job is a process, and a process group, of its own. The jobs end with the server, and the
server ends with the sweep, however that ends.
"""

from __future__ import annotations

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

PR_SET_PDEATHSIG = 1
LIBRARIES = ("torch", "lightning.pytorch", "wandb", "cellzoo.sweep.launchers.job")


class ServerError(RuntimeError):
    """The server cannot be started, or is gone."""


class Server:
    """The sweep's end: starts the server and speaks to it.

    Args:
        start: "fork", "spawn", or "auto" (fork where that is safe).
        threads: the environment that its libraries read when they are imported, from now on.
    """

    def __init__(self, start: str, threads: Mapping[str, str]) -> None:
        mine, its = socket.socketpair()
        environment = {key: value for key, value in os.environ.items() if key != VARIABLE}
        command = [sys.executable, "-m", "cellzoo.sweep.launchers.server", str(its.fileno()), start]
        self.process = subprocess.Popen(
            command,
            env={**environment, **threads, "PYTORCH_NVML_BASED_CUDA_CHECK": "1"},
            pass_fds=[its.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is the sweep's to handle
        )
        its.close()
        self._lines = _Lines(mine)

    def prepare(self, environment: Mapping[str, str]) -> None:
        """Have it load the plugins that this environment names, and be ready."""
        self._lines.send(environment=dict(environment))

    def start(self, number: int, order: Path, log: Path, environment: Mapping[str, str]) -> None:
        """Have a job started."""
        self._lines.send(
            start=number, order=str(order), log=str(log), environment=dict(environment)
        )

    def signal(self, number: int, which: int) -> None:
        """Send a signal to a job's process group."""
        self._lines.send(signal=which, to=number)

    def messages(self, seconds: float | None) -> Iterator[dict[str, Any]]:
        """What the server says within so many seconds (None: until it says something).

        Raises:
            ServerError: it is gone.
        """
        for message in self._lines.receive(seconds):
            if message is None:
                raise ServerError(f"the job server ended (status {self.process.wait()})")
            yield message

    def close(self) -> None:
        """End the server, and with it all jobs."""
        self._lines.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(30)
        self.process.kill()
        self.process.wait()


class _Lines:
    """Messages over a socket."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._rest = b""

    def send(self, **message: Any) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # receive will say so
            self.connection.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, seconds: float | None) -> Iterator[dict[str, Any] | None]:
        """The messages that have come; None for the end of the connection."""
        self.connection.settimeout(seconds)
        try:
            data = self.connection.recv(1 << 16)
        except (TimeoutError, BlockingIOError):
            return
        except ConnectionResetError:
            data = b""
        finally:
            self.connection.settimeout(None)
        *lines, self._rest = (self._rest + data).split(b"\n")
        yield from map(json.loads, lines)
        if not data:
            yield None

    def close(self) -> None:
        self.connection.close()


def serve(connection: socket.socket, start: str) -> Path | None:
    """The server. Returns in a forked job alone, with its order; else exits with the sweep."""
    wake, waker = os.pipe()
    for end in (wake, waker):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    lines = _Lines(connection)
    start, why = _prepare(start, lines)
    signal.set_wakeup_fd(waker)
    lines.send(ready=start, why=why)
    gc.collect()
    gc.freeze()  # the children share these pages as long as nobody writes to them

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
                    for process in [each for each, its in jobs.items() if its == number]:
                        _signal_group(process, message["signal"])
        for process, code in _ended():
            if process in jobs:
                _signal_group(process, signal.SIGKILL)  # what it left running
                lines.send(ended=jobs.pop(process), code=code)


def _prepare(start: str, lines: _Lines) -> tuple[str, str]:
    """Import what jobs need, once; fork only where that leaves nothing that a child would lack."""
    why = ""
    if start == "auto" and sys.platform != "linux":
        start, why = "spawn", f"fork is not safe on {sys.platform}"
    if start != "spawn":
        for library in LIBRARIES:
            importlib.import_module(library)
    for message in lines.receive(None):
        if message is None:
            sys.exit()
        os.environ.update(message["environment"])
    if start == "spawn":
        return start, why
    import torch

    import cellzoo

    cellzoo.list_cells()  # imports the plugins
    threads = len(os.listdir("/proc/self/task")) if sys.platform == "linux" else 1
    if threads > 1:
        return "spawn", f"importing left {threads} threads, which a fork would lose"
    if torch.cuda.is_initialized():
        return "spawn", "importing initialised CUDA, which a fork cannot use"
    return "fork", ""


def _become_job(message: Mapping[str, Any], start: str) -> Path:
    """In a child: leave the server behind."""
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
        from_scratch = [sys.executable, "-m", "cellzoo.sweep.launchers.job", str(order)]
        os.execv(sys.executable, from_scratch)
    # Lightning starts other ranks by this process's command line.
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


def _signal_group(process: int, which: int) -> None:
    try:
        os.killpg(process, which)
    except ProcessLookupError:  # all gone, or a child that has no group yet
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, which)


def main() -> int:
    """Serve; in a job, run it."""
    connection = socket.socket(fileno=int(sys.argv[1]))
    connection.set_inheritable(False)
    order = serve(connection, sys.argv[2])
    assert order is not None
    from cellzoo.sweep.launchers.job import run_order

    try:
        code = run_order(order)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    # The slot is free a third of a second earlier than by taking all that was imported down.
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
