"""What a handler can do to a worker that serves gRPC: the outcomes are those of test_faults.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from conftest import EVERYTHING, Supervisor, process_state, sleeps_in_libc, until

grpc = pytest.importorskip("grpc")

from over_grpc import GrpcWorker, connect, start  # noqa: E402

# With the `worker` of this file, they are the same tests over gRPC.
from test_faults import (  # noqa: E402, F401
    test_a_task_that_leaves_does_not_end_the_loop,
    test_input_finds_no_frames,
    test_leaving_is_an_error_response,
)

GRPC = {"OSTLER_TRANSPORT": "grpc"}
"""As the preset says it; without it, the SDK finds the transport by the socket."""


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GrpcWorker]:
    """One worker for all tests that leave it as it was."""
    folder = tmp_path_factory.mktemp("worker")
    supervisor = Supervisor(folder / "notify")
    worker = GrpcWorker("-u", EVERYTHING, socket=folder / "socket", supervisor=supervisor, **GRPC)
    yield worker
    worker.end()
    supervisor.socket.close()


@pytest.fixture
def start_worker(tmp_path: Path, supervisor: Supervisor) -> Iterator[Callable[..., GrpcWorker]]:
    """Starts a worker, and ends it with the test."""
    workers: list[GrpcWorker] = []

    def start_worker(*options: str, file: object = EVERYTHING, **env: str) -> GrpcWorker:
        workers.append(GrpcWorker(*options, file, socket=tmp_path / "socket", supervisor=supervisor, **env))
        return workers[-1]

    yield start_worker
    for worker in workers:
        worker.end()


SAID = ("a line", "written to 1", "from native code", "from a child")


def test_print_children_and_native_code_go_to_stderr(worker: GrpcWorker) -> None:
    assert worker.call("say", "a line") == "a line"
    until(lambda: all(text in worker.stderr for text in (*SAID, "printed while importing")))
    assert worker.stdout == ""


def test_print_goes_to_stderr_line_by_line_where_only_the_socket_says_grpc(start_worker: Callable[..., GrpcWorker]) -> None:
    worker = start_worker(PYTHONUNBUFFERED="")
    assert worker.stdout == "printed while importing\n", "before the transport was known"
    assert worker.call("say", "a line") == "a line"
    until(lambda: all(text in worker.stderr for text in SAID))
    assert worker.stdout == "printed while importing\n"


def test_what_its_own_code_makes_of_descriptor_1_stays(start_worker: Callable[..., GrpcWorker], tmp_path: Path) -> None:
    source = (
        "from ostler_worker import serve\nimport os\n"
        f"os.dup2(os.open({str(tmp_path / 'log')!r}, os.O_CREAT | os.O_WRONLY), 1)\n"
        "serve.method(print)\nserve.run()\n"
    )
    (tmp_path / "worker.py").write_text(source)
    worker = start_worker(file=tmp_path / "worker.py", **GRPC)
    assert worker.call("print", "to a log") is None
    until(lambda: (tmp_path / "log").read_text() == "to a log\n")


@pytest.mark.parametrize("closed", ["1>&-", "2>&-", "1>&- 2>&-"])
def test_it_serves_without_stdout_or_stderr(tmp_path: Path, supervisor: Supervisor, closed: str) -> None:
    env = {**os.environ, **supervisor.env(**GRPC), "OSTLER_SOCKET": str(tmp_path / "socket")}
    worker = subprocess.Popen(["sh", "-c", f'exec "$0" "$1" {closed}', sys.executable, EVERYTHING], env=env)
    try:
        supervisor.wait_for("READY=1")
        channel = connect(f"unix:{tmp_path / 'socket'}")
        assert b"\x05" in start(channel, "add", 2, 3).result(20)
        channel.close()
    finally:
        worker.kill()
        worker.wait()


def test_os_exit_is_the_workers_end(start_worker: Callable[..., GrpcWorker]) -> None:
    worker = start_worker(**GRPC)
    with pytest.raises(grpc.RpcError) as raised:
        worker.call("leave", "os._exit")
    assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
    assert worker.process.wait(20) == 5


@pytest.mark.parametrize("what", ["1", "sys.stdout", "sys.stderr"])
def test_a_closed_stdout_or_stderr_costs_nothing(start_worker: Callable[..., GrpcWorker], what: str) -> None:
    worker = start_worker(**GRPC)
    assert worker.call("close", what) == what
    assert worker.call("add", 1, 2) == 3
    # Where the number were free, the next connection would get it, and what is printed.
    other = connect(worker.address)
    assert b"\x05" in start(other, "add", 2, 3).result(20)
    assert worker.call("write_to", [1, 2]) is None
    assert b"\x05" in start(other, "add", 2, 3).result(20)
    until(lambda: "written to 1\n" in worker.stderr and "written to 2\n" in worker.stderr)
    worker.process.terminate()
    assert worker.process.wait(20) == 0
    other.close()


def test_a_handler_that_closes_every_descriptor(start_worker: Callable[..., GrpcWorker]) -> None:
    worker = start_worker(**GRPC)
    with pytest.raises(grpc.RpcError) as raised:
        worker.call("close", "all")
    assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
    assert worker.process.wait(20) == 74
    assert "was closed by the worker's own code" in worker.end()


HOST = """
import subprocess, sys, threading, time
if sys.argv[2] != "one thread":
    # The kernel's own signal is for workers of a host of one thread.
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
print(subprocess.Popen([sys.executable, sys.argv[1]], stdin=subprocess.DEVNULL).pid, flush=True)
time.sleep(60)
"""


class Hosted:
    """A worker below a host, another process than this one, with a grace of a minute."""

    def __init__(self, folder: Path, supervisor: Supervisor, threads: str) -> None:
        env = {**os.environ, **supervisor.env(**GRPC), "OSTLER_SOCKET": str(folder / "socket"), "OSTLER_GRACE_MS": "60000"}
        with (folder / "stderr").open("wb") as stderr:
            self.host = subprocess.Popen([sys.executable, "-c", HOST, EVERYTHING, threads], env=env, stdout=subprocess.PIPE, stderr=stderr)
        assert self.host.stdout
        self.pid = int(self.host.stdout.readline())
        supervisor.wait_for("READY=1")
        self.channel = connect(f"unix:{folder / 'socket'}")
        self._stderr = folder / "stderr"

    @property
    def stderr(self) -> str:
        return self._stderr.read_text()

    def end(self) -> None:
        """Kills the host."""
        self.host.kill()
        self.host.wait()
        assert self.host.stdout
        self.host.stdout.close()

    def is_gone(self) -> bool:
        return process_state(self.pid) in (None, "Z")


@pytest.fixture
def hosted(tmp_path: Path, supervisor: Supervisor) -> Iterator[Callable[[str], Hosted]]:
    """Starts a worker below a host, and ends both with the test."""
    started: list[Hosted] = []

    def start_hosted(threads: str) -> Hosted:
        started.append(Hosted(tmp_path, supervisor, threads))
        return started[-1]

    yield start_hosted
    for each in started:
        each.channel.close()
        each.end()
        if not each.is_gone():
            os.kill(each.pid, signal.SIGKILL)


@pytest.mark.parametrize("threads", ["one thread", "two threads"])
@pytest.mark.parametrize(
    "method, arguments, begun",
    [("deadlock_in_native_code", [], "deadlock begins"), ("work", [600], "work begins"), ("work_later", [600], "work begins")],
)
def test_a_worker_ends_with_its_host(
    hosted: Callable[[str], Hosted], method: str, arguments: list[Any], begun: str, threads: str
) -> None:
    worker = hosted(threads)
    running = start(worker.channel, method, *arguments)
    until(lambda: begun in worker.stderr)
    worker.end()
    until(worker.is_gone, 5.0)
    assert isinstance(running.exception(20), grpc.RpcError)
    # The kernel kills it without a word, but its own thread may be faster.
    assert "the host is gone" in worker.stderr or threads == "one thread"


def test_native_code_that_holds_the_lock_does_not_outlive_a_host_of_one_thread(hosted: Callable[[str], Hosted]) -> None:
    worker = hosted("one thread")
    running = start(worker.channel, "hang_with_the_lock", 600)
    until(lambda: sleeps_in_libc(worker.pid))
    worker.end()
    until(worker.is_gone, 5.0)
    assert isinstance(running.exception(20), grpc.RpcError)
