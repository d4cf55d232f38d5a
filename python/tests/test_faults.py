"""What a handler can do to its worker: each ends in its own named outcome."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Callable

import pytest

from conftest import EVERYTHING, Supervisor, process_state, sleeps_in_libc, until
from ostler_worker.testing import Worker, WorkerError, WorkerGone


def test_print_and_children_go_to_stderr(worker: Worker) -> None:
    assert worker.call("say", "a line") == "a line"
    until(lambda: all(text in worker.stderr for text in ("a line", "written to 1", "from native code", "from a child")))
    assert "printed while importing" in worker.stderr


def test_input_finds_no_frames(worker: Worker) -> None:
    with pytest.raises(WorkerError) as raised:
        worker.call("ask")
    assert raised.value.type == "EOFError"


@pytest.mark.parametrize("method", ["leave", "leave_later"])
@pytest.mark.parametrize(
    "how, code, type", [("sys.exit", "exit", "SystemExit"), ("SystemExit", "exit", "SystemExit"), ("KeyboardInterrupt", "interrupt", "KeyboardInterrupt")]
)
def test_leaving_is_an_error_response(worker: Worker, method: str, how: str, code: str, type: str) -> None:
    with pytest.raises(WorkerError) as raised:
        worker.call(method, how)
    assert (raised.value.code, raised.value.type, raised.value.executed) == (code, type, True)
    assert worker.call("add", 1, 2) == 3, "the worker goes on serving"


def test_a_task_that_leaves_does_not_end_the_loop(worker: Worker) -> None:
    assert worker.call("leave_a_task") == "still here"
    assert worker.call("add_later", 1, 2) == 3
    until(lambda: "a task raised SystemExit" in worker.stderr)


def test_os_exit_is_the_workers_end(start: Callable[..., Worker]) -> None:
    with pytest.raises(WorkerGone) as raised:
        start().call("leave", "os._exit")
    assert raised.value.status == 5


def test_a_closed_stdout_costs_nothing(start: Callable[..., Worker]) -> None:
    worker = start()
    assert worker.call("close", "1") == "1"
    assert worker.call("close", "sys.stdout") == "sys.stdout"
    assert worker.call("add", 1, 2) == 3
    assert worker.call("write_to", [1]) is None
    until(lambda: "written to 1\n" in worker.stderr)


def test_a_closed_stderr_costs_nothing(start: Callable[..., Worker]) -> None:
    worker = start()
    assert worker.call("close", "sys.stderr") == "sys.stderr"
    worker.send({"type": "novelty"})
    assert worker.call("add", 1, 2) == 3


def test_a_handler_that_closes_every_descriptor(start: Callable[..., Worker]) -> None:
    with pytest.raises(WorkerGone) as raised:
        start().call("close", "all")
    assert raised.value.status == 74
    assert "was closed by the worker's own code" in raised.value.stderr


def test_a_closed_descriptor_of_the_host_is_not_the_hosts_end(start: Callable[..., Worker]) -> None:
    worker = start()
    assert worker.call("close", "pidfd") == "pidfd"
    # It is seen when the thread that has it wakes up.
    worker.terminate()
    assert worker.wait() == 74
    until(lambda: "was closed by the worker's own code" in worker.stderr)


def test_a_forked_child_that_ends_itself(start: Callable[..., Worker]) -> None:
    worker = start()
    assert worker.call("fork", returns=False) == "the child ended with 0"
    assert worker.call("children") == [1, 2]
    assert worker.call("add", 1, 2) == 3


def test_a_forked_child_that_comes_back_never_answers(start: Callable[..., Worker]) -> None:
    worker = start()
    assert worker.call("fork", returns=True) == "the child ended with 70"
    assert worker.call("add", 1, 2) == 3
    until(lambda: "a forked copy of the worker came back from the handler 'fork'" in worker.stderr)


def test_a_hang_in_native_code_is_seen_by_the_heartbeat(start: Callable[..., Worker], supervisor: Supervisor) -> None:
    worker = start(env=supervisor.env(WATCHDOG_USEC="400000"))
    supervisor.wait_for("WATCHDOG=1")
    for method in ("hang_in_native_code", "hang_with_the_lock", "block_the_loop"):
        worker.start(method, 2)
        until(lambda: supervisor.silent("WATCHDOG=1", 0.4))
        supervisor.wait_for("WATCHDOG=1")


def test_a_handler_that_shows_progress_is_no_hang(start: Callable[..., Worker], supervisor: Supervisor) -> None:
    worker = start(env=supervisor.env(WATCHDOG_USEC="400000"))
    pending = worker.start("work", 1.5)
    for _ in range(8):
        supervisor.wait_for("WATCHDOG=1", 0.6)
    assert pending.result() == "worked"


HOST = """
import os, subprocess, sys, threading, time
if sys.argv[3] != "one thread":
    # The kernel's own signal is for workers of a host of one thread.
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
worker = subprocess.Popen([sys.executable, sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
frame = sys.argv[2].encode()
worker.stdin.write(frame + b"\\n")
while b'"pong"' not in worker.stdout.readline():
    pass
if sys.argv[3] == "leak":
    # Another process has our ends of the pipes: the worker sees no end of file.
    subprocess.Popen(["sleep", "60"], close_fds=False, pass_fds=(worker.stdin.fileno(), worker.stdout.fileno()))
print(worker.pid, flush=True)
time.sleep(60)
"""


def orphan(method: str, arguments: str, leak: str) -> int:
    """Starts a worker that is busy below a host, kills the host, and returns the worker's pid."""
    frame = '{"type":"request","id":1,"method":"%s","args":%s}\n{"type":"ping","id":2}' % (method, arguments)
    env = {**os.environ, "OSTLER_TRANSPORT": "stdio", "OSTLER_FRAMING": "json", "OSTLER_GRACE_MS": "60000"}
    host = subprocess.Popen(
        [sys.executable, "-c", HOST, EVERYTHING, frame, leak], env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert host.stdout
    pid = int(host.stdout.readline())
    host.kill()
    host.wait()
    host.stdout.close()
    return pid


@pytest.mark.parametrize("leak", ["no", "leak"])
@pytest.mark.parametrize("method, arguments", [("deadlock_in_native_code", "[]"), ("work", "[600]"), ("work_later", "[600]")])
def test_a_worker_ends_with_its_host(method: str, arguments: str, leak: str) -> None:
    pid = orphan(method, arguments, leak)
    until(lambda: process_state(pid) in (None, "Z"), 5.0)
    kill_leaked_sleepers()


def test_a_worker_ends_when_no_answer_is_read_any_more() -> None:
    env = {**os.environ, "OSTLER_TRANSPORT": "stdio", "OSTLER_FRAMING": "json", "OSTLER_GRACE_MS": "60000"}
    worker = subprocess.Popen(
        [sys.executable, EVERYTHING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, bufsize=0
    )
    assert worker.stdin and worker.stdout and worker.stderr
    try:
        worker.stdin.write(b'{"type":"request","id":1,"method":"deadlock_in_native_code","args":[]}\n')
        while b"deadlock begins" not in worker.stderr.readline():
            pass
        worker.stdout.close()
        assert worker.wait(20) == 0
        assert b"its end of stdout is closed" in worker.stderr.read()
    finally:
        worker.kill()
        worker.wait()
        worker.stdin.close()
        worker.stderr.close()


def kill_leaked_sleepers() -> None:
    for stat in Path("/proc").glob("[0-9]*"):
        try:
            command, environment = (stat / "cmdline").read_bytes(), (stat / "environ").read_bytes()
        except OSError:
            continue
        if command == b"sleep\x0060\x00" and b"OSTLER_GRACE_MS=60000" in environment:
            os.kill(int(stat.name), signal.SIGKILL)


def test_native_code_that_holds_the_lock_does_not_outlive_a_host_of_one_thread() -> None:
    env = {**os.environ, "OSTLER_TRANSPORT": "stdio", "OSTLER_FRAMING": "json"}
    host = subprocess.Popen(
        [sys.executable, "-c", HOST, EVERYTHING, '{"type":"ping","id":2}', "one thread"], env=env, stdout=subprocess.PIPE
    )
    assert host.stdout
    pid = int(host.stdout.readline())
    with open(f"/proc/{host.pid}/fd/{_pipe_of(host.pid, pid)}", "wb", buffering=0) as stdin:
        stdin.write(b'{"type":"request","id":1,"method":"hang_with_the_lock","body":600}\n')
        until(lambda: sleeps_in_libc(pid))
    host.kill()
    host.wait()
    host.stdout.close()
    until(lambda: process_state(pid) in (None, "Z"), 5.0)


def _pipe_of(host: int, worker: int) -> str:
    """The host's descriptor for the worker's stdin: the worker has it as one of its private ones."""
    ours = {os.readlink(f"/proc/{worker}/fd/{fd}") for fd in os.listdir(f"/proc/{worker}/fd") if int(fd) >= 100}
    return next(fd for fd in os.listdir(f"/proc/{host}/fd") if int(fd) > 2 and os.readlink(f"/proc/{host}/fd/{fd}") in ours)


def test_shared_memory_of_a_killed_worker_is_freed(start: Callable[..., Worker]) -> None:
    worker = start()
    data = b"x" * (4 << 20)
    pending = worker.start("hold", data)
    until(lambda: "memfd:ostler" in Path(f"/proc/{worker.process.pid}/maps").read_text())
    worker.process.kill()
    with pytest.raises(WorkerGone):
        pending.result()
    worker.close()
    ours = [os.readlink(link) for link in map(str, Path("/proc/self/fd").iterdir()) if os.path.islink(link)]
    assert not any("memfd:ostler" in name for name in ours), "the sender let go of it"
    assert "memfd:ostler" not in Path("/proc/self/maps").read_text()


def test_shared_memory_whose_sender_is_gone_fails_the_request(worker: Worker) -> None:
    from ostler_worker import _shared, _values

    segments = _shared.Segments()
    reference = segments.create("request", memoryview(b"x" * 100))
    assert reference is not None
    segments.release("request")
    lost = _values._ext(_values.EXT_SHARED, _values._pack(reference.to_map(), lambda value: value))
    with pytest.raises(WorkerError) as raised:
        worker.start("echo", lost).result()
    assert (raised.value.code, raised.value.executed) == ("invalid_arguments", False)
    assert "is gone" in raised.value.message


def test_a_half_frame_and_what_is_no_frame_end_the_worker(start: Callable[..., Worker]) -> None:
    cases: list[tuple[bytes, str]] = [
        (b"\x00\x00\x00\x10half", "the input ended within a frame"),
        (b"GET / HTTP/1.1\r\n", "a frame of 1195725856 bytes"),
        (b"\x00\x00\x00\x01\xc1", "not MessagePack"),
        (b"\x00\x00\x00\x01\x90", "a frame is a map, and this one is a list"),
        (b"\x00\x00\x00\x00", "a frame of 0 bytes"),
        (b"\x00\x00\x00\x01\x80", "a frame has no type"),
    ]
    for data, message in cases:
        worker = start()
        assert worker.process.stdin
        worker.process.stdin.write(data)
        worker.process.stdin.close()
        assert worker.wait() == 76
        until(lambda: message in worker.stderr)


def test_unknown_frames_and_fields_are_ignored(worker: Worker) -> None:
    worker.send({"type": "novelty", "id": 1, "a": 2})
    worker.send({"type": "cancel", "id": 999_999})
    assert worker.start("add", 1, 2, fields={"novelty": {"a": 1}}).result() == 3
    until(lambda: "the unknown type 'novelty'" in worker.stderr)


def test_a_protocol_that_is_too_new_is_refused(start: Callable[..., Worker]) -> None:
    worker = start()
    worker.send({"type": "hello", "protocol": 2, "host": "ostler 9"})
    assert worker.wait() == 78
    refusal = "ostler 9 speaks version 2 of the worker protocol, this worker 1: upgrade ostler-worker"
    until(lambda: refusal in worker.stderr)


START = "from ostler_worker import serve\nserve.method(abs)\n"


@pytest.mark.parametrize(
    "source, status, message",
    [
        ("import no_such_module", 1, "ModuleNotFoundError: No module named 'no_such_module'"),
        (START + "serve.run(load=lambda: exit(0))", 1, "load called sys.exit(0)"),
        (START + "serve.run(load=lambda: 1 / 0)", 1, "ZeroDivisionError"),
        ("from ostler_worker import serve\nserve.run()", 78, "there is nothing to serve"),
        (START + "serve.grpc(print, None)\nserve.run()", 78, "needs the transport grpc"),
        (START + "import os; os.environ['OSTLER_CONCURRENCY'] = 'x'\nserve.run()", 78, "OSTLER_CONCURRENCY is 'x'"),
        (START + "serve.method(abs)", 1, "there are two methods named 'abs'"),
    ],
)
def test_a_worker_that_cannot_start(tmp_path: Path, source: str, status: int, message: str) -> None:
    (tmp_path / "worker.py").write_text(source)
    with pytest.raises(WorkerGone) as raised:
        Worker(str(tmp_path / "worker.py"))
    assert raised.value.status == status
    assert message in raised.value.stderr


def test_a_terminal_is_no_host() -> None:
    master, slave = os.openpty()
    done = subprocess.run([sys.executable, EVERYTHING], stdin=slave, capture_output=True, text=True, timeout=30)
    os.close(master)
    os.close(slave)
    assert done.returncode == 78 and "python -m ostler_worker call" in done.stderr


NUMERIC = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "RAYON_NUM_THREADS",
)
TOKENIZERS = "TOKENIZERS_PARALLELISM"


@pytest.fixture
def no_threads_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*NUMERIC, TOKENIZERS, "OSTLER_THREADS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_threads_set")
def test_numeric_libraries_have_one_thread(start: Callable[..., Worker]) -> None:
    def threads(**env: str) -> dict[str, str]:
        environment = start(env=env).call("environment")
        return {name: value for name, value in environment.items() if name.endswith("_THREADS") or name == TOKENIZERS}

    one = {**dict.fromkeys(NUMERIC, "1"), TOKENIZERS: "false"}
    assert threads() == one
    for chosen in (dict.fromkeys(NUMERIC[::2], "3"), dict.fromkeys(NUMERIC[1::2], "3")):
        assert threads(**chosen) == {**one, **chosen}, "what is set stays"
    two = {**dict.fromkeys(NUMERIC, "2"), TOKENIZERS: "true"}
    assert threads(OSTLER_THREADS="2") == {**two, "OSTLER_THREADS": "2"}
    assert threads(OSTLER_THREADS="all") == {"OSTLER_THREADS": "all"}


WITH_NUMPY = """
import os
numbers = numpy.ones((600, 600))
numbers @ numbers
print(len(os.listdir("/proc/self/task")))
"""


def threads_with_numpy(imports: str, **env: str) -> "tuple[int, str]":
    """The threads of a process that has multiplied matrices, and its stderr."""
    words = [sys.executable, "-c", imports + WITH_NUMPY]
    done = subprocess.run(words, env={**os.environ, **env}, capture_output=True, text=True, timeout=60, check=True)
    # Where the host has announced no transport, stdout is what it was.
    return int(done.stdout), done.stderr


@pytest.mark.usefixtures("no_threads_set")
def test_numpy_has_one_thread() -> None:
    pytest.importorskip("numpy")
    first, late = "import ostler_worker, numpy", "import numpy, ostler_worker"
    assert threads_with_numpy(first) == (1, "")
    assert threads_with_numpy(first, OSTLER_THREADS="all")[0] > 1 or len(os.sched_getaffinity(0)) == 1
    warning = "numpy was imported before ostler_worker and may start a thread per core: import ostler_worker first"
    assert warning in threads_with_numpy(late)[1]
    assert threads_with_numpy(late, OMP_NUM_THREADS="1") == (1, "")
    assert threads_with_numpy(late, OSTLER_THREADS="all")[1] == ""


def test_children_do_not_inherit_what_is_for_the_worker(start: Callable[..., Worker], supervisor: Supervisor) -> None:
    environment = start(env=supervisor.env(WATCHDOG_USEC="60000000")).call("environment")
    assert not any(name in environment for name in ("OSTLER_TRANSPORT", "NOTIFY_SOCKET", "WATCHDOG_USEC"))


def test_grpcio_leaves_forks_alone_whenever_it_is_imported(start: Callable[..., Worker]) -> None:
    assert start().call("environment")["GRPC_ENABLE_FORK_SUPPORT"] == "0"
    assert start(env={"GRPC_ENABLE_FORK_SUPPORT": "1"}).call("environment")["GRPC_ENABLE_FORK_SUPPORT"] == "1"


def test_a_worker_takes_the_core_of_its_number(start: Callable[..., Worker]) -> None:
    cores = sorted(os.sched_getaffinity(0))
    for number in (0, 1, len(cores)):
        worker = start(env={"OSTLER_CORE": str(number)})
        assert os.sched_getaffinity(worker.process.pid) == {cores[number % len(cores)]}
    with pytest.raises(WorkerGone) as raised:
        start(env={"OSTLER_CORE": "x"})
    assert raised.value.status == 78 and "OSTLER_CORE is 'x'" in raised.value.stderr
