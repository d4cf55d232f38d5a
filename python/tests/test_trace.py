"""Spans of handlers join the trace of their caller, by the real SDK of OpenTelemetry."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Iterator

import pytest

from conftest import WORKERS, Supervisor
from ostler_worker.testing import Worker, WorkerError

if TYPE_CHECKING:
    from over_grpc import GrpcWorker

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
TRACED = WORKERS / "traced.py"


class OverStdio:
    """A worker's caller, with a span."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def result(self, method: str, **fields: str) -> Any:
        return self._worker.start(method, fields=fields).result()

    def items(self, method: str, **fields: str) -> list[Any]:
        return list(self._worker.start(method, fields=fields).items())

    def asks(self) -> dict[str, Any]:
        """The frame by which the handler `asks` calls the host."""
        assert self.result("asks", **PARENT) == "here"
        (call,) = self._worker.calls
        return call


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

    def asks(self) -> dict[str, Any]:
        self._worker.unary("Hello", {"type": "hello", "protocol": 1, "functions": ["where"]})

        def answer(frame: dict[str, Any]) -> list[Any]:
            return [{"type": "return", "id": frame["id"], "ok": "here"}] if frame["type"] == "call" else []

        call, response = self._frames("asks", PARENT, answer)
        assert response["ok"] == "here"
        return call

    def _frames(self, method: str, fields: dict[str, str], answer: Any = None) -> list[dict[str, Any]]:
        from over_grpc import frames

        frame, options = self._request(method, fields)
        return frames(self._worker, frame, answer=answer, **options)

    def _request(self, method: str, fields: dict[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
        frame = {"type": "request", "method": method}
        return (frame, {"metadata": tuple(fields.items())}) if self._by_metadata else ({**frame, **fields}, {})


@pytest.fixture(params=["stdio", "grpc", "grpc, by its metadata"])
def caller(request: Any, start: Callable[..., Worker], start_grpc: Callable[..., GrpcWorker]) -> Any:
    pytest.importorskip("opentelemetry.sdk")
    if request.param == "stdio":
        return OverStdio(start(str(TRACED), functions={"where": lambda: "here"}))
    return OverGrpc(start_grpc(), by_metadata=request.param != "grpc")


@pytest.fixture
def start_grpc(tmp_path: Path, supervisor: Supervisor) -> Iterator[Callable[..., GrpcWorker]]:
    """Starts a worker over gRPC, and ends it with the test."""
    workers: list[GrpcWorker] = []

    def start_grpc(*arguments: object) -> GrpcWorker:
        pytest.importorskip("grpc")
        from over_grpc import GrpcWorker

        workers.append(GrpcWorker(TRACED, *arguments, socket=tmp_path / "socket", supervisor=supervisor))
        return workers[-1]

    yield start_grpc
    for worker in workers:
        worker.end()


def spans_of(caller: Any, name: str) -> dict[str, dict[str, Any]]:
    """All finished spans, once the one of this name is among them: a handler's span ends after its answer was sent."""
    until = time.monotonic() + 30
    while True:
        spans = {span["name"]: span for span in caller.result("spans")}
        if name in spans:
            return spans
        assert time.monotonic() < until, spans


@pytest.mark.parametrize("method", ["sync", "later"])
def test_a_handlers_span_is_below_its_caller(caller: Any, method: str) -> None:
    assert caller.result(method, **PARENT) == "answer"
    spans = spans_of(caller, method)
    assert (spans[method]["trace"], spans[method]["parent"]) == (TRACE, CALLER)
    assert (spans["inner"]["trace"], spans["inner"]["parent"]) == (TRACE, spans[method]["id"])


@pytest.mark.parametrize("method", ["items", "items_later"])
def test_a_streams_span_is_below_its_caller(caller: Any, method: str) -> None:
    assert caller.items(method, **PARENT) == [1]
    span = spans_of(caller, method)[method]
    assert (span["trace"], span["parent"]) == (TRACE, CALLER)


def test_an_exception_is_the_spans_error(caller: Any) -> None:
    with pytest.raises(WorkerError, match="no"):
        caller.result("fails", **PARENT)
    assert spans_of(caller, "fails")["fails"]["error"]


def test_a_call_of_the_host_is_below_its_handler(caller: Any) -> None:
    version, trace, parent, _ = caller.asks()["traceparent"].split("-")
    assert (version, trace, parent) == ("00", TRACE, spans_of(caller, "asks")["asks"]["id"])


def test_a_call_without_a_trace_begins_one(caller: Any) -> None:
    assert caller.result("sync") == "answer"
    span = spans_of(caller, "sync")["sync"]
    assert span["parent"] is None and span["trace"] != TRACE


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_the_spans_of_a_generated_servicer_are_below_their_callers(
    start_grpc: Callable[..., GrpcWorker], tmp_path: Path, kind: str
) -> None:
    pytest.importorskip("opentelemetry.sdk")
    pytest.importorskip("grpc")
    from over_grpc import generate

    worker = start_grpc(generate(tmp_path), kind)
    import test_pb2
    import test_pb2_grpc

    maths = test_pb2_grpc.MathsStub(worker.channel)
    parents = {name: f"{index:016x}" for index, name in enumerate(("Double", "Count", "Sum", "Running"), 1)}

    def options(name: str) -> dict[str, Any]:
        return {"timeout": 20, "metadata": (("traceparent", f"00-{TRACE}-{parents[name]}-01"),)}

    five = test_pb2.Number(value=5)
    assert maths.Double(five, **options("Double")).value == 10
    assert [each.value for each in maths.Count(five, **options("Count"))] == [5]
    assert maths.Sum(iter([five, five]), **options("Sum")).value == 10
    assert [each.value for each in maths.Running(iter([five, five]), **options("Running"))] == [5, 5]
    until_all = time.monotonic() + 20
    while len(spans := worker.call("spans")) < 8:
        assert time.monotonic() < until_all, spans
    assert {span["trace"] for span in spans} == {TRACE}
    of_handlers = {span["name"].rpartition("/")[2]: span for span in spans if span["name"] != "inner"}
    assert {name: span["parent"] for name, span in of_handlers.items()} == parents
    inner = sorted(span["parent"] for span in spans if span["name"] == "inner")
    assert inner == sorted(span["id"] for span in of_handlers.values())
