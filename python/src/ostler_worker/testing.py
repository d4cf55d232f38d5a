"""Start a stdio worker and call it, in tests and at the command line: the host's side of the protocol, in Python.

    with Worker("worker.py") as worker:
        assert worker.call("add", 1, 2) == 3
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any, Callable, Iterable, Iterator, Mapping, Optional, Sequence, Union

from . import _frames, _shared
from ._channel import Channel, Ended


class WorkerError(Exception):
    """A request ended in an error; the fields are those of the protocol's error map."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(f"{error.get('type')}: {error.get('message')}")
        self.error = dict(error)
        self.code = str(error.get("code"))
        self.type = str(error.get("type"))
        self.message = str(error.get("message"))
        self.traceback = str(error.get("traceback", ""))
        self.bases: list[str] = list(error.get("bases", []))
        self.executed = bool(error.get("executed", True))


class WorkerGone(Exception):
    """The worker ended before it answered; `status` is its exit status (negative: a signal), `stderr` its last output."""

    def __init__(self, status: Optional[int], stderr: str) -> None:
        super().__init__(f"the worker ended with {status}; its stderr:\n{stderr[-4000:]}")
        self.status = status
        self.stderr = stderr


class Pending:
    """A request in flight: its items, and its outcome."""

    def __init__(self, worker: Worker, id: int) -> None:
        self._worker = worker
        self.id = id
        self._frames: Channel[dict[str, Any]] = Channel()
        self.credit: Channel[None] = Channel()

    def result(self, timeout: float = 30.0) -> Any:
        """The answer. Raises `WorkerError`, `WorkerGone`, or `TimeoutError`."""
        frame = self._frames.get(time.monotonic() + timeout)
        if "error" in frame:
            raise WorkerError(frame["error"])
        return frame.get("ok")

    def items(self, timeout: float = 30.0) -> Iterator[Any]:
        """The items of a stream, to its end."""
        while True:
            frame = self._frames.get(time.monotonic() + timeout)
            kind = frame["type"]
            if kind == "item":
                yield frame["value"]
                self._worker.send({"type": "credit", "id": self.id, "n": 1})
            elif kind == "end":
                return
            elif "error" in frame:
                raise WorkerError(frame["error"])
            else:
                raise AssertionError(f"a stream ends in `end`, and not in {frame}")

    def cancel(self, reason: str = "cancelled") -> None:
        self._worker.send({"type": "cancel", "id": self.id, "reason": reason})

    def send_items(self, items: Iterable[Any], end: bool = True) -> None:
        """Sends the caller's stream, as the worker gives credit."""
        for item in items:
            self.credit.get(time.monotonic() + 30.0)
            self._worker.send({"type": "item", "id": self.id, "value": item})
        if end:
            self._worker.send({"type": "end", "id": self.id})


class Worker:
    """A stdio worker, started from a Python file or a command.

    `functions` are what handlers can call by `ctx.host`; `env` is added to the environment; `shm_min` is the size in bytes
    from which on results come in shared memory, None for never.
    """

    def __init__(
        self,
        command: Union[str, Sequence[str]],
        *,
        functions: Optional[Mapping[str, Callable[..., Any]]] = None,
        env: Optional[Mapping[str, str]] = None,
        python: str = sys.executable,
        framing: str = "packet",
        shm_min: Optional[int] = _shared.DEFAULT_MIN,
        window: int = 16,
        start_timeout: float = 30.0,
    ) -> None:
        self.functions = dict(functions or {})
        self.calls: list[dict[str, Any]] = []
        """The frames of the handlers' calls of these functions, in their order."""
        self._ids = itertools.count(1)
        self._lock = threading.Lock()
        self._pending: dict[int, Pending] = {}
        self._pongs: Channel[dict[str, Any]] = Channel()
        self._hello: Channel[dict[str, Any]] = Channel()
        self._stderr: list[str] = []
        self._window = window
        self._segments = _shared.Segments()
        self._shm = shm_min
        words = [python, "-u", command] if isinstance(command, str) else list(command)
        environment = {**os.environ, "OSTLER_TRANSPORT": "stdio", "OSTLER_FRAMING": framing, **(env or {})}
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, bufsize=0
        )
        assert self.process.stdin and self.process.stdout and self.process.stderr
        self._reader = _frames.Reader(self.process.stdout.fileno(), framing)
        self._writer = _frames.Writer(self.process.stdin.fileno(), framing)
        self._threads = [
            threading.Thread(target=self._read, daemon=True),
            threading.Thread(target=self._read_stderr, daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        try:
            self.send(
                {
                    "type": "hello",
                    "protocol": 1,
                    "host": "ostler_worker.testing",
                    "features": [] if shm_min is None else ["shm"],
                    "functions": sorted(self.functions),
                    "shm_min": shm_min or 0,
                    "window": window,
                }
            )
        except _frames.PipeBroken:
            # It ended at once; the reader knows more of that.
            pass
        try:
            self.hello = self._hello.get(time.monotonic() + start_timeout)
        except BaseException:
            self.close()
            raise

    # Calls -----------------------------------------------------------------------------------------------------------

    def call(self, method: str, /, *args: Any, timeout: float = 30.0, **kwargs: Any) -> Any:
        """Calls a method and waits for its answer. Raises `WorkerError` or `WorkerGone`."""
        return self.start(method, *args, **kwargs).result(timeout)

    def stream(self, method: str, /, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """Calls a streaming method: its items."""
        return self.start(method, *args, **kwargs).items()

    def start(self, method: str, /, *args: Any, fields: Optional[Mapping[str, Any]] = None, **kwargs: Any) -> Pending:
        """Sends a request; `fields` are further fields of its frame, such as `deadline_ms`."""
        pending = Pending(self, next(self._ids))
        pending.credit.put(*[None] * self._window)
        with self._lock:
            self._pending[pending.id] = pending
        frame = {"type": "request", "id": pending.id, "method": method, "args": list(args), "kwargs": kwargs}
        try:
            self.send({**frame, **(fields or {})}, owner=pending.id)
        except _frames.PipeBroken:
            pass
        return pending

    def ping(self, stats: bool = False, timeout: float = 10.0) -> dict[str, Any]:
        """The worker's state and figures."""
        self.send({"type": "ping", "id": 0, "stats": stats})
        return self._pongs.get(time.monotonic() + timeout)

    def send(self, frame: Mapping[str, Any], owner: Any = None) -> None:
        """Sends a frame as it is."""
        if self._shm is not None:
            self._writer.shm_min = self._shm
        lend = None if self._shm is None or owner is None else (lambda view: self._segments.create(owner, view))
        self._writer.write(self._writer.encode(dict(frame), lend))

    # Ends ------------------------------------------------------------------------------------------------------------

    @property
    def stderr(self) -> str:
        """What has been read of the worker's stderr so far. It comes over a pipe of its own: what a handler writes may
        come after its answer."""
        return "".join(self._stderr)

    def terminate(self) -> None:
        """Asks it to drain."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self, timeout: float = 30.0) -> int:
        """Waits for its end; its exit status."""
        status = self.process.wait(timeout)
        for thread in self._threads:
            # A grandchild may keep the pipes.
            thread.join(2.0)
        if not any(thread.is_alive() for thread in self._threads):
            for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
                assert pipe is not None
                pipe.close()
        return status

    def close(self, timeout: float = 10.0) -> int:
        """Ends it: by the end of its stdin, and by KILL after `timeout`."""
        assert self.process.stdin
        try:
            self.process.stdin.close()
        except OSError:
            pass
        try:
            return self.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.wait()
        finally:
            for owner in list(self._pending):
                self._segments.release(owner)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Reading ---------------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        problem = ""
        try:
            while True:
                frame = self._reader.read()
                if frame is None:
                    break
                self._take(frame)
        except (OSError, ValueError, _frames.ProtocolError) as error:
            problem = f"\n[{error}]"
        try:
            self.process.wait(5.0)
        except subprocess.TimeoutExpired:
            problem += "\n[it still runs]"
        self._threads[1].join(1.0)
        gone = WorkerGone(self.process.returncode, self.stderr + problem)
        with self._lock:
            pending = list(self._pending.values())
        channels: list[Channel[Any]] = [self._hello, self._pongs]
        for each in pending:
            channels += [each._frames, each.credit]
        for channel in channels:
            channel.close(gone)

    def _take(self, frame: dict[str, Any]) -> None:
        kind = frame.get("type")
        id = frame.get("id")
        findings = frame.pop(_frames.FINDINGS, None)
        if findings is not None and findings.segments:
            # What is mapped stays mapped.
            self.send({"type": "release", "id": id, "inos": findings.segments})
        if findings is not None and findings.broken:
            frame["error"] = {"code": "lost", "type": "SegmentLost", "message": str(findings.broken[0].error)}
        if kind == "hello":
            self._hello.put(frame)
        elif kind == "pong":
            self._pongs.put(frame)
        elif kind == "call":
            self.calls.append(frame)
            threading.Thread(target=self._answer, args=(frame,), daemon=True).start()
        elif id in self._pending:
            pending = self._pending[id]
            if kind == "credit":
                pending.credit.put(*[None] * frame["n"])
                return
            pending._frames.put(frame)
            if kind != "item":
                self._segments.release(id)
                pending._frames.close(Ended())

    def _answer(self, call: dict[str, Any]) -> None:
        frame: dict[str, Any] = {"type": "return", "id": call["id"]}
        try:
            frame["ok"] = self.functions[call["function"]](*call["args"], **call["kwargs"])
        except Exception as error:
            frame["error"] = {"code": "exception", "type": type(error).__name__, "message": str(error)}
        try:
            self.send(frame)
        except (_frames.PipeBroken, _frames.PipeClosed):
            pass

    def _read_stderr(self) -> None:
        assert self.process.stderr
        while True:
            try:
                data = os.read(self.process.stderr.fileno(), 65536)
            except (OSError, ValueError):
                return
            if not data:
                return
            self._stderr.append(data.decode("utf-8", "replace"))
