"""Readiness, the drain, and what ends it."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import Callable

import pytest

from conftest import EVERYTHING, Supervisor, until
from ostler_worker.testing import Worker, WorkerError, WorkerGone


def test_ready_comes_after_load_and_hello(
    start: Callable[..., Worker], supervisor: Supervisor, tmp_path: Path
) -> None:
    # What `load` sends is between the two messages of the SDK.
    source = (
        "import os\nfrom ostler_worker import serve, _notify\n"
        "@serve.method\ndef state(ctx): return ctx.state\n"
        "def load():\n    _notify.notifier.send('STATUS=in load')\n    return 'loaded'\n"
        "serve.run(load=load)\n"
    )
    (tmp_path / "worker.py").write_text(source)
    worker = start(str(tmp_path / "worker.py"), env=supervisor.env())
    supervisor.wait_for("STATUS=serving")
    assert supervisor.seen[:4] == ["STATUS=loading", "STATUS=in load", "READY=1", "STATUS=serving 1 methods on stdio"]
    assert worker.call("state") == "loaded"


def test_term_finishes_what_runs_and_refuses_what_comes(
    start: Callable[..., Worker], supervisor: Supervisor, tmp_path: Path
) -> None:
    worker = start(env=supervisor.env(OSTLER_GRACE_MS="60000"))
    gate = tmp_path / "gate"
    running, queued = worker.start("gate", str(gate)), worker.start("add", 1, 2)
    until(lambda: worker.ping()["in_flight"] == 2)
    worker.terminate()
    supervisor.wait_for("STOPPING=1")
    assert worker.ping()["state"] == "draining"
    with pytest.raises(WorkerError) as raised:
        worker.call("add", 1, 2)
    assert (raised.value.code, raised.value.executed) == ("draining", False)
    gate.touch()
    assert running.result() == "passed"
    assert queued.result() == 3
    assert worker.wait() == 0


def test_the_end_of_stdin_is_a_drain_as_well(
    start: Callable[..., Worker], supervisor: Supervisor, tmp_path: Path
) -> None:
    worker = start(env=supervisor.env(OSTLER_GRACE_MS="60000"))
    gate = tmp_path / "gate"
    running = worker.start("gate", str(gate))
    assert worker.process.stdin
    worker.process.stdin.close()
    supervisor.wait_for("STOPPING=1")
    gate.touch()
    assert running.result() == "passed"
    assert worker.wait() == 0


def test_an_idle_worker_ends_at_once(start: Callable[..., Worker]) -> None:
    worker = start()
    began = time.monotonic()
    worker.terminate()
    assert worker.wait() == 0
    assert time.monotonic() - began < 3, "and not at the end of its grace of 5 s"


def test_term_reaches_a_worker_in_native_code(start: Callable[..., Worker]) -> None:
    worker = start(env={"OSTLER_GRACE_MS": "600"})
    pending = worker.start("deadlock_in_native_code")
    until(lambda: worker.ping()["in_flight"] == 1)
    began = time.monotonic()
    worker.terminate()
    with pytest.raises(WorkerGone) as raised:
        pending.result()
    assert raised.value.status == 0
    assert time.monotonic() - began >= 0.4
    assert "1 requests outlast the grace of 0.6 s" in raised.value.stderr
    assert "in deadlock_in_native_code" in raised.value.stderr, "the stack says where it hangs"


def test_term_is_heard_after_a_handler_has_listened_for_signals(start: Callable[..., Worker]) -> None:
    worker = start()
    assert worker.call("listen_for_signals") == "listened"
    worker.terminate()
    assert worker.wait() == 0


def test_a_grace_ends_in_time_without_stderr(start: Callable[..., Worker]) -> None:
    worker = start(["sh", "-c", f"exec {sys.executable} -u {EVERYTHING} 2>&-"], env={"OSTLER_GRACE_MS": "600"})
    pending = worker.start("hold", None)
    until(lambda: worker.ping()["in_flight"] == 1)
    worker.terminate()
    with pytest.raises(WorkerGone) as raised:
        pending.result()
    assert raised.value.status == 0


def test_handlers_are_cancelled_before_the_grace_is_over(start: Callable[..., Worker]) -> None:
    worker = start(env={"OSTLER_GRACE_MS": "600", "OSTLER_CONCURRENCY": "2"})
    pending = [worker.start("work", 600), worker.start("work_later", 600)]
    until(lambda: worker.stderr.count("work begins") == 2)
    worker.terminate()
    for each in pending:
        with pytest.raises(WorkerError) as raised:
            each.result()
        assert raised.value.code == "cancelled"
    assert worker.wait() == 0


def test_the_second_interrupt_ends_at_once(start: Callable[..., Worker], supervisor: Supervisor) -> None:
    worker = start(env=supervisor.env(OSTLER_GRACE_MS="60000"))
    worker.start("work", 600)
    until(lambda: worker.ping()["in_flight"] == 1)
    worker.process.send_signal(signal.SIGINT)
    supervisor.wait_for("STOPPING=1")
    worker.process.send_signal(signal.SIGINT)
    assert worker.wait() == 130
