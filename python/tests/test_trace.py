"""Spans of handlers join the trace of their caller, by the real SDK of OpenTelemetry."""

from __future__ import annotations

import time
from typing import Any, Callable

import pytest

from conftest import WORKERS
from ostler_worker.testing import Worker

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
FIELDS = {"traceparent": f"00-{TRACE}-{CALLER}-01"}


@pytest.fixture
def worker(start: Callable[..., Worker]) -> Worker:
    pytest.importorskip("opentelemetry.sdk")
    return start(str(WORKERS / "traced.py"), functions={"where": lambda: "here"})


def spans_of(worker: Worker, name: str) -> dict[str, dict[str, Any]]:
    """All finished spans, once the one of this name is among them: a handler's span ends after its answer was sent."""
    until = time.monotonic() + 30
    while True:
        spans = {span["name"]: span for span in worker.call("spans")}
        if name in spans:
            return spans
        assert time.monotonic() < until, spans


@pytest.mark.parametrize("method", ["sync", "later"])
def test_a_handlers_span_is_below_its_caller(worker: Worker, method: str) -> None:
    assert worker.start(method, fields=FIELDS).result() == "answer"
    spans = spans_of(worker, method)
    assert (spans[method]["trace"], spans[method]["parent"]) == (TRACE, CALLER)
    assert (spans["inner"]["trace"], spans["inner"]["parent"]) == (TRACE, spans[method]["id"])


@pytest.mark.parametrize("method", ["items", "items_later"])
def test_a_streams_span_is_below_its_caller(worker: Worker, method: str) -> None:
    assert list(worker.start(method, fields=FIELDS).items()) == [1]
    span = spans_of(worker, method)[method]
    assert (span["trace"], span["parent"]) == (TRACE, CALLER)


def test_an_exception_is_the_spans_error(worker: Worker) -> None:
    with pytest.raises(Exception, match="no"):
        worker.start("fails", fields=FIELDS).result()
    assert spans_of(worker, "fails")["fails"]["error"]


def test_a_call_of_the_host_is_below_its_handler(worker: Worker) -> None:
    assert worker.start("asks", fields=FIELDS).result() == "here"
    (call,) = worker.calls
    version, trace, parent, _ = call["traceparent"].split("-")
    assert (version, trace, parent) == ("00", TRACE, spans_of(worker, "asks")["asks"]["id"])


def test_a_call_without_a_trace_begins_one(worker: Worker) -> None:
    assert worker.call("sync") == "answer"
    span = spans_of(worker, "sync")["sync"]
    assert span["parent"] is None and span["trace"] != TRACE
