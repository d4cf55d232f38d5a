"""What the tests share: where the workers are, how to start one, and proof that none is left."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any, Callable, Iterator, Optional

import pytest

from ostler_worker.testing import Worker

WORKERS = Path(__file__).parent / "workers"
EVERYTHING = str(WORKERS / "everything.py")


def until(what: Callable[[], Any], timeout: float = 20.0) -> Any:
    """The first true value of `what`; fails after `timeout` seconds."""
    end = time.monotonic() + timeout
    while True:
        value = what()
        if value:
            return value
        assert time.monotonic() < end, "it did not come to be in time"
        time.sleep(0.005)


def first_in_path(folder: Path) -> dict[str, str]:
    """The environment of a worker that finds modules in this folder before all others."""
    return {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


class Supervisor:
    """The receiving end of sd_notify."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.path = path
        self.lines: list[str] = []
        self.seen: list[str] = []
        """Every line so far."""

    def wait_for(self, start: str, timeout: float = 20.0) -> str:
        """The next line that starts so."""
        end = time.monotonic() + timeout
        while True:
            while self.lines:
                line = self.lines.pop(0)
                if line.startswith(start):
                    return line
            self.socket.settimeout(max(0.01, end - time.monotonic()))
            received = self.socket.recv(65536).decode().split("\n")
            self.lines += received
            self.seen += received

    def silent(self, start: str, seconds: float) -> bool:
        """Whether no line starts so for this long."""
        self.lines.clear()
        try:
            self.wait_for(start, seconds)
        except OSError:
            return True
        return False

    def env(self, **more: str) -> dict[str, str]:
        return {"NOTIFY_SOCKET": str(self.path), **more}


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    supervisor = Supervisor(tmp_path / "notify")
    yield supervisor
    supervisor.socket.close()


@pytest.fixture
def start() -> Iterator[Callable[..., Worker]]:
    """Starts workers, and ends those that a test has left."""
    workers: list[Worker] = []

    def start(command: Any = EVERYTHING, **options: Any) -> Worker:
        workers.append(Worker(command, **options))
        return workers[-1]

    yield start
    for worker in workers:
        worker.process.kill()
        worker.wait()


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    """One worker for all tests of a file that leave it as it was."""
    with Worker(EVERYTHING, functions={"lookup": _lookup}) as worker:
        yield worker


def _lookup(key: str) -> str:
    if key == "missing":
        raise KeyError(key)
    return f"value of {key}"


@pytest.fixture(autouse=True, scope="session")
def nothing_left() -> Iterator[None]:
    """No process that a test started is left at the end."""
    yield
    until(lambda: not _children(), 10.0)


def _children() -> list[str]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[1] == str(os.getpid()) and fields[0] != "Z":
            found.append(stat.parent.name)
    return found


def process_state(pid: int) -> Optional[str]:
    """The letter of a process's state; None where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return None


def sleeps_in_libc(pid: int) -> bool:
    """Whether the main thread of this process is in `sleep(3)`."""
    waits_in = Path(f"/proc/{pid}/wchan").read_text()
    return "hrtimer" in waits_in or "nanosleep" in waits_in
