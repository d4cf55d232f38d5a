"""A worker that serves gRPC, and the host's side of it, for tests."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Iterator, Optional

import pytest

from conftest import Supervisor, until
from ostler_worker import _values
from ostler_worker.testing import WorkerError

SERVICE = "/ostler.worker.v1.Worker/"


def generate(folder: Path) -> Path:
    """Puts the code that is generated from test.proto into this folder."""
    protoc = pytest.importorskip("grpc_tools.protoc")
    here = Path(__file__).parent
    assert protoc.main(["", f"-I{here}", f"--python_out={folder}", f"--grpc_python_out={folder}", str(here / "test.proto")]) == 0
    sys.path.insert(0, str(folder))
    return folder


class GrpcWorker:
    """A worker that serves gRPC: on a Unix socket, or on the port in `env`."""

    def __init__(self, *command: object, socket: Path, supervisor: Supervisor, **env: str) -> None:
        environment = {**os.environ, **supervisor.env(**env)}
        if "PORT" not in env:
            environment["OSTLER_SOCKET"] = str(socket)
        self._stdout = socket.with_suffix(".stdout")
        with self._stdout.open("wb") as stdout:
            self.process = subprocess.Popen(
                [sys.executable, *map(str, command)],
                env=environment, stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE, text=True,
            )
        self.lines: list[str] = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        self.port = supervisor.wait_for("PORT=")[5:] if "PORT" in env else None
        supervisor.wait_for("READY=1")
        self.address = f"127.0.0.1:{self.port}" if self.port else f"unix:{socket}"
        self.channel = connect(self.address)
        self._ended = False

    def unary(self, method: str, frame: dict[str, Any], timeout: float = 20, **options: Any) -> Any:
        return _values.decode(self.channel.unary_unary(SERVICE + method)(_values.encode(frame), timeout=timeout, **options))

    def call(self, method: str, *args: Any, **options: Any) -> Any:
        """The answer of a method. Raises `WorkerError`, or grpcio's `RpcError`."""
        return result_of(self.unary("Call", {"type": "request", "method": method, "args": list(args)}, **options))

    def start(self, method: str, *args: Any) -> "Future[bytes]":
        """Calls a method whose answer is not of interest."""
        return start(self.channel, method, *args)

    @property
    def stdout(self) -> str:
        """What it has written to the stdout that it was started with."""
        return self._stdout.read_text()

    @property
    def stderr(self) -> str:
        return "".join(self.lines)

    def wait_for(self, text: str) -> None:
        """Waits until it has written this to stderr."""
        until(lambda: text in self.stderr)

    def end(self) -> str:
        """Kills it, if it still runs; its stderr."""
        if not self._ended:
            self._ended = True
            self.channel.close()
            self.process.kill()
            self.process.wait()
            self.reader.join(10)
        return self.stderr

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self.lines.append(line)
        self.process.stderr.close()


def connect(address: str) -> Any:
    """A connection that no other channel of this process shares."""
    import grpc

    return grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])


def start(channel: Any, method: str, *args: Any) -> "Future[bytes]":
    call = channel.unary_unary(SERVICE + "Call")
    future: "Future[bytes]" = call.future(_values.encode({"type": "request", "method": method, "args": list(args)}), timeout=600)
    return future


def frames(worker: GrpcWorker, *sent: dict[str, Any], answer: Any = None, **options: Any) -> list[dict[str, Any]]:
    """The frames of a Stream call; `answer` makes the next frame to send of one that arrived."""
    lock, queue, got = threading.Condition(), list(sent), []

    def out() -> Iterator[bytes]:
        while True:
            with lock:
                lock.wait_for(lambda: bool(queue), 20)
                frame = queue.pop(0)
            if frame is None:
                return
            yield _values.encode(frame)

    for message in worker.channel.stream_stream(SERVICE + "Stream")(out(), timeout=20, **options):
        got.append(_values.decode(message))
        with lock:
            queue.extend(answer(got[-1]) if answer else [])
            lock.notify()
    with lock:
        queue.append(None)  # type: ignore[arg-type]
        lock.notify()
    return got


def result_of(frame: dict[str, Any]) -> Any:
    error: Optional[dict[str, Any]] = frame.get("error")
    if error is not None:
        raise WorkerError(error)
    return frame.get("ok")
