"""Requests, streams, errors, cancellation, deadlines and calls to the host, over real pipes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from conftest import first_in_path, until
from ostler_worker.testing import Worker, WorkerError


def error_of(pending: Any) -> WorkerError:
    with pytest.raises(WorkerError) as raised:
        pending.result()
    return raised.value


def test_sync_and_async_functions_answer(worker: Worker) -> None:
    assert worker.call("add", 1, 2) == 3
    assert worker.call("add", a=1) == 2
    assert worker.call("add_later", 1, b=2) == 3


def test_hello_lists_methods_and_their_kinds(worker: Worker) -> None:
    methods = worker.hello["methods"]
    assert methods["add"] == {"input": "unary", "output": "unary"}
    assert methods["double"] == {"input": "stream", "output": "stream"}
    assert worker.hello["protocol"] == 1


@pytest.mark.parametrize("method", ["count", "count_later"])
def test_generators_are_streams_longer_than_the_window(worker: Worker, method: str) -> None:
    assert list(worker.stream(method, 100)) == list(range(100))
    assert list(worker.stream(method, 0)) == []


def test_the_callers_stream_is_an_iterator(worker: Worker) -> None:
    pending = worker.start("total", 5, fields={"stream": True})
    pending.send_items(range(100))
    assert pending.result() == sum(range(100)) + 5


def test_streams_in_both_directions(worker: Worker) -> None:
    pending = worker.start("double", fields={"stream": True})
    items = pending.items()
    for number in range(50):
        pending.send_items([number], end=False)
        assert next(items) == 2 * number
    pending.send_items([])
    assert list(items) == []


def test_a_stream_waits_for_credit(worker: Worker) -> None:
    pending = worker.start("tick")
    until(lambda: len(pending._frames._items) == 16)
    worker.ping()
    assert len(pending._frames._items) == 16, "not one item more than the window"
    pending.cancel("enough")
    assert list(until_cancelled(pending)) == list(range(16))
    until(lambda: "the stream was cancelled" in worker.stderr)


def until_cancelled(pending: Any) -> Iterator[Any]:
    while True:
        frame = pending._frames.get(time.monotonic() + 20)
        if "error" in frame:
            assert frame["error"]["code"] == "cancelled"
            return
        yield frame["value"]


@pytest.mark.parametrize("kind", ["ValueError", "TimeoutError", "MemoryError"])
def test_an_exception_crosses_with_type_message_and_traceback(worker: Worker, kind: str) -> None:
    error = error_of(worker.start("fail", kind, "no good"))
    assert (error.code, error.type, error.message, error.executed) == ("exception", kind, "no good", True)
    assert error.traceback.startswith("Traceback") and error.traceback.endswith(f"{kind}: no good\n")
    assert "everything.py" in error.traceback and "_call.py" not in error.traceback, "our own frames are left out"
    assert worker.call("add", 1, 1) == 2


def test_a_derived_exception_names_its_bases(worker: Worker) -> None:
    error = error_of(worker.start("fail", "Own", "x"))
    assert error.error["bases"][:2] == ["OwnError", "ValueError"]
    assert error.error["module"] == "__main__"


def test_what_no_handler_has_seen_says_so(worker: Worker) -> None:
    missing = error_of(worker.start("nothing"))
    assert (missing.code, missing.executed) == ("method_not_found", False)
    assert "add" in missing.message
    arguments = error_of(worker.start("add"))
    assert (arguments.code, arguments.executed) == ("invalid_arguments", False)
    assert "add(a: 'int', b: 'int' = 1)" in arguments.message
    stream = error_of(worker.start("add", fields={"stream": True}))
    assert stream.code == "invalid_arguments"


def test_a_result_that_cannot_be_sent_is_an_error(worker: Worker) -> None:
    error = error_of(worker.start("unsendable"))
    assert (error.code, error.executed) == ("invalid_result", True)
    assert "builtins.object cannot be sent" in error.message


def test_a_result_longer_than_the_host_accepts_is_an_error(start: Callable[..., Worker]) -> None:
    worker = start()
    worker.send({"type": "hello", "protocol": 1, "max_frame": 1000})
    assert error_of(worker.start("echo", "x" * 2000)).code == "invalid_result"
    assert worker.call("echo", "x" * 500) == "x" * 500


def test_cancel_is_an_exception_in_the_handler(worker: Worker) -> None:
    for method, seen in (("work", "saw no more of it"), ("work_later", "saw it, too")):
        begun = worker.stderr.count("work begins")
        pending = worker.start(method, 60)
        until(lambda: worker.stderr.count("work begins") > begun)
        pending.cancel("no more of it")
        assert error_of(pending).code == "cancelled"
        until(lambda: seen in worker.stderr)


def test_a_request_cancelled_in_the_queue_never_runs(worker: Worker) -> None:
    running, queued = worker.start("work", 60), worker.start("fail", "ValueError", "it ran")
    queued.cancel()
    running.cancel()
    error_of(running)
    error = error_of(queued)
    assert (error.code, error.executed) == ("cancelled", False)


@pytest.mark.parametrize("method", ["work", "work_later"])
def test_a_deadline_reaches_the_handler(worker: Worker, method: str) -> None:
    error = error_of(worker.start(method, 60, fields={"deadline_ms": 60}))
    assert (error.code, error.type, error.executed) == ("deadline_exceeded", "DeadlineExceeded", True)
    assert "TimeoutError" in error.error["bases"]


def test_a_deadline_that_passed_in_the_queue_is_never_executed(worker: Worker, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    running, queued = worker.start("gate", str(gate)), worker.start("echo", 1, fields={"deadline_ms": 1})
    until(lambda: worker.ping()["in_flight"] == 2)
    time.sleep(0.01)  # the deadline itself, not a wait for another process
    gate.touch()
    assert running.result() == "passed"
    error = error_of(queued)
    assert (error.code, error.executed) == ("deadline_exceeded", False)


def test_the_context_knows_its_request(worker: Worker) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    fields = {"deadline_ms": 5000, "traceparent": trace, "session": "user-42", "metadata": {"a": "b"}}
    about = worker.start("about", fields=fields).result()
    assert 0 < about["remaining"] <= 5
    assert (about["traceparent"], about["session"], about["metadata"]) == (trace, "user-42", {"a": "b"})
    assert about["state"] == {"loaded": True}, "what load returned"
    assert about["thread"], "with a concurrency of 1, sync handlers run on the main thread"


@pytest.mark.parametrize("method", ["look_up", "look_up_later"])
def test_handlers_call_functions_of_the_host(worker: Worker, method: str) -> None:
    assert worker.call(method, "k") == "value of k"
    error = error_of(worker.start(method, "missing"))
    assert (error.code, error.type) == ("exception", "HostError")
    assert "missing" in error.message


def test_a_function_that_the_host_does_not_offer(start: Callable[..., Worker]) -> None:
    error = error_of(start(functions={"other": print}).start("look_up", "k"))
    assert error.type == "HostError" and "no function 'lookup'; it offers: other" in error.message


@pytest.mark.parametrize("method", ["look_up", "look_up_later"])
def test_the_deadline_applies_to_calls_of_the_host(start: Callable[..., Worker], method: str) -> None:
    worker = start(functions={"lookup": lambda key: time.sleep(60)})
    assert error_of(worker.start(method, "k", fields={"deadline_ms": 100})).code == "deadline_exceeded"
    assert 0 <= worker.calls[0]["deadline_ms"] <= 100, "the host learns it, too"
    assert worker.call("add", 1, 1) == 2


def test_many_requests_are_in_flight_by_id(start: Callable[..., Worker]) -> None:
    worker = start(env={"OSTLER_CONCURRENCY": "4"})
    assert worker.hello["concurrency"] == 4
    slow = [worker.start("work", 60) for _ in range(3)]
    assert worker.call("add", 1, 2) == 3, "the fourth lane is free"
    for pending in slow:
        pending.cancel()
        assert error_of(pending).code == "cancelled"


def test_figures_are_reported_beside_a_running_handler(worker: Worker) -> None:
    pending = worker.start("work", 60)
    pong = until(lambda: (pong := worker.ping(stats=True)) and pong["in_flight"] == 1 and pong)
    assert pong["state"] == "serving" and pong["gpu"] == []
    with open(f"/proc/{worker.process.pid}/status") as status:
        resident = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
    assert abs(pong["rss"] - resident * 1024) < 8 << 20
    pending.cancel()
    error_of(pending)


def test_json_lines(start: Callable[..., Worker]) -> None:
    worker = start(framing="json", shm_min=None)
    assert worker.call("add", 1, 2) == 3
    assert worker.call("echo", {"a": [1.5, None, "ü"]}) == {"a": [1.5, None, "ü"]}
    assert error_of(worker.start("fail", "ValueError", "no")).type == "ValueError"
    assert list(worker.stream("count", 40)) == list(range(40))


def test_without_msgpack_the_same(start: Callable[..., Worker], tmp_path: Any) -> None:
    (tmp_path / "msgpack.py").write_text("raise ImportError('not here')")
    worker = start(env=first_in_path(tmp_path))
    value = {"a": [1, -5, 1.5, True, None, b"bytes", "ü" * 300], "b": {"c": 1 << 40}}
    assert worker.call("echo", value) == value


def test_a_worker_of_five_lines() -> None:
    page = (Path(__file__).parents[2] / "docs" / "worker-protocol.md").read_text()
    source = page.split("```python\n")[1].split("```")[0]
    frames = '{"type":"hello","protocol":1}\n{"type":"request","id":1,"body":[1,2]}\n{"id":2,"body":"x"}\n'
    done = subprocess.run([sys.executable, "-c", source], input=frames, capture_output=True, text=True, timeout=30)
    assert [json.loads(line) for line in done.stdout.splitlines()] == [{"id": 1, "ok": [1, 2]}, {"id": 2, "ok": "x"}]


def test_nil_calls_a_function_without_parameters(worker: Worker) -> None:
    assert worker.start("ticks_yielded", None).result() >= 0
    with pytest.raises(WorkerError) as raised:
        worker.start("add", None).result()
    assert raised.value.code == "exception", "a parameter gets it"
    with pytest.raises(WorkerError) as raised:
        worker.start("ticks_yielded", 1).result()
    assert raised.value.code == "invalid_arguments"
