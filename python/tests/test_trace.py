"""Spans of handlers join the trace of their caller, by the real SDK of OpenTelemetry."""

from __future__ import annotations

import contextlib
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterator, Optional

import pytest

from conftest import WORKERS, Supervisor, until
from ostler_worker.testing import Worker, WorkerError

if TYPE_CHECKING:
    from over_grpc import GrpcWorker

CALLER = "b7ad6b7169203331"
TRACED = WORKERS / "traced.py"


class OverStdio:
    """A worker's caller, with a span."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def result(self, method: str, **fields: str) -> Any:
        return self._worker.start(method, fields=fields).result()

    def items(self, method: str, **fields: str) -> list[Any]:
        return list(self._worker.start(method, fields=fields).items())

    def asks(self, **fields: str) -> dict[str, Any]:
        """The frame by which the handler `asks` calls the host."""
        assert self.result("asks", **fields) == "here"
        return self._worker.calls[-1]


class OverGrpc:
    """The same over gRPC: a plain method is the RPC `Call`, and one that streams or calls the host is `Stream`."""

    def __init__(self, worker: GrpcWorker, by_metadata: bool) -> None:
        self._worker = worker
        self._by_metadata = by_metadata

    def result(self, method: str, **fields: str) -> Any:
        from over_grpc import result_of

        frame, options = self._request(method, fields)
        return result_of(self._worker.unary("Call", frame, **options))

    def items(self, method: str, **fields: str) -> list[Any]:
        *items, end = self._frames(method, fields)
        assert end["type"] == "end"
        return [item["value"] for item in items]

    def asks(self, **fields: str) -> dict[str, Any]:
        self._worker.unary("Hello", {"type": "hello", "protocol": 1, "functions": ["where"]})

        def answer(frame: dict[str, Any]) -> list[Any]:
            return [{"type": "return", "id": frame["id"], "ok": "here"}] if frame["type"] == "call" else []

        call, response = self._frames("asks", fields, answer)
        assert response["ok"] == "here"
        return call

    def _frames(self, method: str, fields: dict[str, str], answer: Any = None) -> list[dict[str, Any]]:
        from over_grpc import frames

        frame, options = self._request(method, fields)
        return frames(self._worker, frame, answer=answer, **options)

    def _request(self, method: str, fields: dict[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
        frame = {"type": "request", "method": method}
        return (frame, {"metadata": tuple(fields.items())}) if self._by_metadata else ({**frame, **fields}, {})


@pytest.fixture(scope="module", params=["stdio", "grpc", "grpc, by its metadata"])
def caller(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The caller of a worker that all tests share: each looks at a trace of its own."""
    pytest.importorskip("opentelemetry.sdk")
    if request.param == "stdio":
        with Worker(str(TRACED), functions={"where": lambda: "here"}) as worker:
            yield OverStdio(worker)
    else:
        with serving_grpc(tmp_path_factory.mktemp("traced")) as server:
            yield OverGrpc(server, by_metadata=request.param != "grpc")


@contextlib.contextmanager
def serving_grpc(folder: Path, *arguments: object) -> Iterator[GrpcWorker]:
    """A worker that serves gRPC, and ends with the block."""
    pytest.importorskip("grpc")
    from over_grpc import GrpcWorker

    supervisor = Supervisor(folder / "notify")
    worker = GrpcWorker(TRACED, *arguments, socket=folder / "socket", supervisor=supervisor)
    try:
        yield worker
    finally:
        worker.end()
        supervisor.socket.close()


@pytest.fixture
def trace() -> str:
    return uuid.uuid4().hex


def below(trace: str, span: str = CALLER) -> dict[str, str]:
    """What the caller sends of its span."""
    return {"traceparent": f"00-{trace}-{span}-01"}


def spans_of(caller: Any, name: str, trace: Optional[str]) -> dict[str, dict[str, Any]]:
    """The finished spans of a trace, or of those without a caller, once the one of this name is among them: a handler's span ends
    after its answer was sent."""
    end = time.monotonic() + 30
    while True:
        spans = [span for span in caller.result("spans") if span["trace"] == trace or (trace is None and span["parent"] is None)]
        named = {span["name"]: span for span in spans}
        if name in named:
            return named
        assert time.monotonic() < end, spans


@pytest.mark.parametrize("method", ["sync", "later"])
def test_a_handlers_span_is_below_its_caller(caller: Any, trace: str, method: str) -> None:
    assert caller.result(method, **below(trace)) == "answer"
    spans = spans_of(caller, method, trace)
    assert (spans[method]["trace"], spans[method]["parent"]) == (trace, CALLER)
    assert (spans["inner"]["trace"], spans["inner"]["parent"]) == (trace, spans[method]["id"])


@pytest.mark.parametrize("method", ["items", "items_later"])
def test_a_streams_span_is_below_its_caller(caller: Any, trace: str, method: str) -> None:
    assert caller.items(method, **below(trace)) == [1]
    span = spans_of(caller, method, trace)[method]
    assert (span["trace"], span["parent"]) == (trace, CALLER)


def test_an_exception_is_the_spans_error(caller: Any, trace: str) -> None:
    with pytest.raises(WorkerError, match="no"):
        caller.result("fails", **below(trace))
    assert spans_of(caller, "fails", trace)["fails"]["error"]


def test_a_call_of_the_host_is_below_its_handler(caller: Any, trace: str) -> None:
    version, of, parent, _ = caller.asks(**below(trace))["traceparent"].split("-")
    assert (version, of, parent) == ("00", trace, spans_of(caller, "asks", trace)["asks"]["id"])


def test_a_call_without_a_trace_begins_one(caller: Any) -> None:
    assert caller.result("sync") == "answer"
    assert spans_of(caller, "sync", None)["sync"]["parent"] is None


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_the_spans_of_a_generated_servicer_are_below_their_callers(tmp_path: Path, trace: str, kind: str) -> None:
    pytest.importorskip("opentelemetry.sdk")
    pytest.importorskip("grpc")
    from over_grpc import generate

    with serving_grpc(tmp_path, generate(tmp_path), kind) as worker:
        import test_pb2
        import test_pb2_grpc

        maths = test_pb2_grpc.MathsStub(worker.channel)
        parents = {name: f"{index:016x}" for index, name in enumerate(("Double", "Count", "Sum", "Running"), 1)}

        def options(name: str) -> dict[str, Any]:
            return {"timeout": 20, "metadata": tuple(below(trace, parents[name]).items())}

        five = test_pb2.Number(value=5)
        assert maths.Double(five, **options("Double")).value == 10
        assert [each.value for each in maths.Count(five, **options("Count"))] == [5]
        assert maths.Sum(iter([five, five]), **options("Sum")).value == 10
        assert [each.value for each in maths.Running(iter([five, five]), **options("Running"))] == [5, 5]
        until(lambda: len(worker.call("spans")) == 8)
        spans = worker.call("spans")
    assert {span["trace"] for span in spans} == {trace}
    of_handlers = {span["name"].rpartition("/")[2]: span for span in spans if span["name"] != "inner"}
    assert {name: span["parent"] for name, span in of_handlers.items()} == parents
    inner = sorted(span["parent"] for span in spans if span["name"] == "inner")
    assert inner == sorted(span["id"] for span in of_handlers.values())
