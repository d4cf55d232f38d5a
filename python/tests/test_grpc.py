"""The gRPC transport, with real grpcio on both sides and generated code."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from conftest import WORKERS, Supervisor, first_in_path, until

grpc = pytest.importorskip("grpc")
pytest.importorskip("grpc_tools.protoc")

from ostler_worker import _values  # noqa: E402
from over_grpc import GrpcWorker, frames, generate  # noqa: E402


@pytest.fixture(scope="session")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the code generated from test.proto."""
    return generate(tmp_path_factory.mktemp("generated"))


class Server(GrpcWorker):
    """A worker with a generated servicer, sync or async."""

    def __init__(self, generated: Path, kind: str, socket: Path, supervisor: Supervisor, **env: str) -> None:
        super().__init__(WORKERS / "maths.py", generated, kind, socket=socket, supervisor=supervisor, **env)
        import test_pb2_grpc

        self.maths = test_pb2_grpc.MathsStub(self.channel)

    def health(self, service: str = "") -> bytes:
        name = service.encode()
        message = b"" if not name else b"\x0a" + bytes([len(name)]) + name
        answer: bytes = self.channel.unary_unary("/grpc.health.v1.Health/Check")(message, timeout=10)
        return answer


@pytest.fixture(scope="module", params=["sync", "async"])
def server(request: Any, generated: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    supervisor = Supervisor(folder / "notify")
    server = Server(generated, request.param, folder / "socket", supervisor, OSTLER_CONCURRENCY="2")
    yield server
    server.end()
    supervisor.socket.close()


@pytest.fixture
def start_server(generated: Path, tmp_path: Path, supervisor: Supervisor) -> Iterator[Callable[..., Server]]:
    """Starts servers, and ends those that a test has left."""
    servers: list[Server] = []

    def start(kind: str, **env: str) -> Server:
        servers.append(Server(generated, kind, tmp_path / "socket", supervisor, **env))
        return servers[-1]

    yield start
    for server in servers:
        server.end()


def number(value: int) -> Any:
    import test_pb2

    return test_pb2.Number(value=value)


def numbers(*values: int) -> Iterator[Any]:
    return iter([number(value) for value in values])


def test_all_four_kinds_of_a_generated_servicer(server: Server) -> None:
    maths = server.maths
    assert maths.Double(number(4), timeout=10).value == 8
    assert [each.value for each in maths.Count(number(3), timeout=10)] == [0, 1, 2]
    assert maths.Sum(numbers(1, 2, 3), timeout=10).value == 6
    assert [each.value for each in maths.Running(numbers(1, 2, 3), timeout=10)] == [1, 3, 6]


def test_a_servicers_exception_is_a_status_with_its_traceback(server: Server) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        server.maths.Double(number(-1), timeout=10)
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert raised.value.details() == "ValueError: no negatives"
    trailing = dict(raised.value.trailing_metadata())
    error = _values.decode(trailing["ostler-error-bin"])
    assert error["type"] == "ValueError" and "maths.py" in error["traceback"]


def test_a_servicer_that_leaves_does_not_end_the_worker(server: Server) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        server.maths.Double(number(-2), timeout=10)
    assert (raised.value.code(), raised.value.details()[:11]) == (grpc.StatusCode.UNKNOWN, "SystemExit:")
    assert server.maths.Double(number(1), timeout=10).value == 2


def test_a_servicers_own_status_goes_through(server: Server) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        server.maths.Double(number(-3), timeout=10)
    assert (raised.value.code(), raised.value.details()) == (grpc.StatusCode.ALREADY_EXISTS, "its own status")


def test_a_stream_that_fails_in_the_middle(server: Server) -> None:
    answers = server.maths.Count(number(4), timeout=10)
    got = []
    with pytest.raises(grpc.RpcError) as raised:
        for each in answers:
            got.append(each.value)
    # The status overtakes what grpcio's client has received and not yet handed out.
    assert got == [0, 1, 2][: len(got)] and raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def test_health(server: Server) -> None:
    for service in ("", "ostler.test.Maths", "ostler.worker.v1.Worker"):
        assert server.health(service) == b"\x08\x01"
    with pytest.raises(grpc.RpcError) as raised:
        server.health("unknown")
    assert raised.value.code() == grpc.StatusCode.NOT_FOUND


def test_plain_methods_by_the_generic_service(server: Server) -> None:
    hello = server.unary("Hello", {"type": "hello", "protocol": 1, "functions": ["lookup"], "features": ["shm"]})
    assert hello["methods"]["add"] == {"input": "unary", "output": "unary"}
    for method in ("add", "add_later"):
        assert server.unary("Call", {"type": "request", "method": method, "args": [1, 2]})["ok"] == 3
    error = server.unary("Call", {"type": "request", "method": "add", "args": [1, "a"]})["error"]
    assert (error["code"], error["type"]) == ("exception", "TypeError")
    error = server.unary("Call", {"type": "request", "method": "none"})["error"]
    assert (error["code"], error["executed"]) == ("method_not_found", False)
    assert server.unary("Ping", {"type": "ping"})["state"] == "serving"
    assert server.unary("Call", {"type": "request", "method": "start_method"})["ok"] == "spawn"


def test_what_is_no_message_is_an_invalid_argument(server: Server) -> None:
    for message in (b"\xc1", b"\x90"):
        with pytest.raises(grpc.RpcError) as raised:
            server.channel.unary_unary("/ostler.worker.v1.Worker/Call")(message, timeout=10)
        assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_a_plain_stream_with_credit(server: Server) -> None:
    def credit(frame: dict[str, Any]) -> list[Any]:
        return [{"type": "credit", "n": 1}] if frame["type"] == "item" else []

    got = frames(server, {"type": "request", "method": "count", "args": [40]}, answer=credit)
    assert [frame["value"] for frame in got[:-1]] == list(range(40)) and got[-1]["type"] == "end"


def test_a_handler_calls_the_host_in_a_stream(server: Server) -> None:
    server.unary("Hello", {"type": "hello", "protocol": 1, "functions": ["lookup"]})

    def answer(frame: dict[str, Any]) -> list[Any]:
        return [{"type": "return", "id": frame["id"], "ok": "value of " + frame["args"][0]}] if frame["type"] == "call" else []

    got = frames(server, {"type": "request", "method": "look_up", "args": ["k"]}, answer=answer)
    assert got[-1]["ok"] == "value of k"


def test_a_large_result_in_shared_memory_is_released(server: Server) -> None:
    server.unary("Hello", {"type": "hello", "protocol": 1, "features": ["shm"]})

    def release(frame: dict[str, Any]) -> list[Any]:
        assert isinstance(frame["ok"], memoryview), "mapped, and not in the message"
        return [{"type": "release"}, None]

    got = frames(server, {"type": "request", "method": "big", "args": [2]}, answer=release)
    assert len(got[-1]["ok"]) == 2 << 20
    until(lambda: server.unary("Ping", {"type": "ping"})["lent"] == 0)
    inline = server.unary("Call", {"type": "request", "method": "big", "args": [2]})
    assert isinstance(inline["ok"], bytes), "a unary call has no room for a release"


def test_a_unary_call_that_lends_is_released_by_its_reset(server: Server) -> None:
    server.unary("Hello", {"type": "hello", "protocol": 1, "features": ["shm"]})
    call = server.channel.unary_stream("/ostler.worker.v1.Worker/Call")
    small = [_values.decode(message) for message in call(_values.encode({"type": "request", "method": "add", "args": [1, 2], "lend": True}), timeout=20)]
    assert [frame["ok"] for frame in small] == [3], "ended by its status"
    lending = call(_values.encode({"type": "request", "method": "big", "args": [2], "lend": True}), timeout=20)
    frame = _values.decode(next(lending))
    assert isinstance(frame["ok"], memoryview) and len(frame["ok"]) == 2 << 20
    assert server.unary("Ping", {"type": "ping"})["lent"] == 1, "kept until the caller lets go"
    lending.cancel()
    until(lambda: server.unary("Ping", {"type": "ping"})["lent"] == 0)


def test_a_forked_copy_never_answers(server: Server) -> None:
    for _ in range(5):
        assert server.unary("Call", {"type": "request", "method": "fork"})["ok"] == "the child ended with 70"
    assert server.maths.Double(number(1), timeout=10).value == 2


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_term_drains(start_server: Callable[..., Server], supervisor: Supervisor, kind: str) -> None:
    server = start_server(kind, OSTLER_GRACE_MS="6000")
    running = server.maths.Double.future(number(-4), timeout=20)
    until(lambda: server.unary("Ping", {"type": "ping"})["in_flight"] == 1)
    watch = server.channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=20)
    assert next(watch) == b"\x08\x01"
    server.process.terminate()
    supervisor.wait_for("STOPPING=1")
    assert next(watch) == b"\x08\x02"
    assert running.result().value == -8
    assert server.process.wait(20) == 0
    assert "Traceback" not in server.end()


def test_a_grace_too_short_for_grpc_names_what_it_cut_off(start_server: Callable[..., Server]) -> None:
    server = start_server("sync", OSTLER_GRACE_MS="200")
    running = server.maths.Double.future(number(-4), timeout=20)
    until(lambda: server.unary("Ping", {"type": "ping"})["in_flight"] == 1)
    server.process.terminate()
    assert isinstance(running.exception(), grpc.RpcError)
    assert server.process.wait(20) == 0
    stderr = server.end()
    assert "1 requests outlast the grace of 0.2 s" in stderr and "in Double" in stderr


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_servicer_sees_that_its_caller_has_left(start_server: Callable[..., Server], kind: str) -> None:
    server = start_server(kind)
    running = server.maths.Double.future(number(-6), timeout=60)
    server.wait_for("remaining True")
    running.cancel()
    server.wait_for("saw CancelledError")
    endless = server.maths.Count(number(-1), timeout=60)
    assert next(endless).value == 1
    server.lines.clear()
    endless.cancel()
    server.wait_for("saw ")
    assert server.maths.Double(number(1), timeout=10).value == 2
    assert "Traceback" not in server.end()


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_servicer_sees_its_deadline(start_server: Callable[..., Server], kind: str) -> None:
    server = start_server(kind)
    with pytest.raises(grpc.RpcError) as raised:
        server.maths.Double(number(-6), timeout=0.3)
    assert raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    server.wait_for("saw ")
    until(lambda: server.unary("Ping", {"type": "ping"})["in_flight"] == 0)
    assert server.maths.Double(number(1), timeout=10).value == 2


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_stream_that_its_caller_cuts_off_has_not_ended(start_server: Callable[..., Server], kind: str) -> None:
    server = start_server(kind)
    more = threading.Event()

    def items() -> Iterator[Any]:
        yield number(7)
        more.wait(30)

    running = server.maths.Sum.future(items(), timeout=60)
    server.wait_for("Sum has read 7")
    running.cancel()
    server.wait_for("saw CancelledError")
    more.set()
    assert "Sum has read all" not in server.end()


def test_the_context_of_a_sync_servicer_is_that_of_grpc(start_server: Callable[..., Server]) -> None:
    server = start_server("sync")
    running = server.maths.Double.future(number(-5), timeout=60)
    server.wait_for("it is active")
    running.cancel()
    server.wait_for("it is inactive")
    server.wait_for("its callback ran")
    with pytest.raises(grpc.RpcError) as raised:
        server.maths.Double(number(-7), timeout=10)
    assert raised.value.code() == grpc.StatusCode.UNKNOWN and "StopIteration" in raised.value.details()
    assert server.maths.Double(number(-8), timeout=10).value == 70, "the forked copy does not answer"


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_servicers_are_cancelled_before_the_grace_is_over(start_server: Callable[..., Server], kind: str) -> None:
    server = start_server(kind, OSTLER_GRACE_MS="800")
    running = server.maths.Double.future(number(-6), timeout=60)
    server.wait_for("remaining True")
    server.process.terminate()
    error = running.exception()
    assert isinstance(error, grpc.RpcError) and error.code() == grpc.StatusCode.CANCELLED
    assert "grace is over" in error.details()
    assert server.process.wait(20) == 0
    assert "outlast" not in server.end()


def test_queued_rpcs_are_answered_in_the_drain(start_server: Callable[..., Server], supervisor: Supervisor) -> None:
    server = start_server("sync", OSTLER_GRACE_MS="20000")
    calls = [server.maths.Double.future(number(-4), timeout=60) for _ in range(3)]
    until(lambda: server.unary("Ping", {"type": "ping"})["in_flight"] == 3)
    server.process.terminate()
    assert [call.result().value for call in calls] == [-8, -8, -8]
    assert server.process.wait(20) == 0


def test_port_0_is_reported(start_server: Callable[..., Server]) -> None:
    server = start_server("sync", PORT="0")
    assert server.maths.Double(number(2), timeout=10).value == 4


def test_a_hung_servicer_sends_no_heartbeat(start_server: Callable[..., Server], supervisor: Supervisor) -> None:
    server = start_server("sync", WATCHDOG_USEC="200000")
    supervisor.wait_for("WATCHDOG=1")
    running = server.maths.Double.future(number(-4), timeout=20)
    until(lambda: supervisor.silent("WATCHDOG=1", 0.2))
    supervisor.wait_for("WATCHDOG=1")
    assert running.result().value == -8


def start_alone(env: dict[str, str], tmp_path: Path) -> "subprocess.CompletedProcess[str]":
    (tmp_path / "worker.py").write_text("from ostler_worker import serve\nserve.method(abs)\nserve.run()\n")
    return subprocess.run(
        [sys.executable, str(tmp_path / "worker.py")], env={**os.environ, **env}, capture_output=True, text=True, timeout=30
    )


@pytest.mark.parametrize(
    "env, message",
    [
        ({"LISTEN_FDS": "1"}, 'set port = "unix" or "any"'),
        ({"OSTLER_SOCKET": "/nowhere/at/all/socket"}, "cannot listen on unix:/nowhere/at/all/socket"),
        ({"PORT": "http"}, "PORT is 'http'"),
    ],
)
def test_where_it_cannot_listen(tmp_path: Path, env: dict[str, str], message: str) -> None:
    done = start_alone(env, tmp_path)
    assert done.returncode == 78 and message in done.stderr


def test_without_grpcio_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "grpc.py").write_text("raise ImportError('No module named grpc')")
    done = start_alone({"OSTLER_TRANSPORT": "grpc", **first_in_path(tmp_path)}, tmp_path)
    assert done.returncode == 78 and "pip install 'ostler-worker[grpc]'" in done.stderr


