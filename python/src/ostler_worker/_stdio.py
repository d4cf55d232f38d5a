"""The stdio transport: frames from stdin, frames to stdout."""

from __future__ import annotations

import errno
import os
import sys
import threading
from typing import Any, Callable, Optional

from . import _process
from ._channel import Ended
from ._engine import Engine, Request, typed
from ._frames import MAX_FRAME, FrameTooLong, PipeBroken, PipeClosed, ProtocolError, Reader, Writer

PROTOCOL = 1


class Stdio:
    """One connection: the host's end of the pipes. It is every request's sink."""

    def __init__(self, engine: Engine, stdin: int, stdout: int, framing: str) -> None:
        self._engine = engine
        self._reader = Reader(stdin, framing)
        self._writer = Writer(stdout, framing)
        self._framing = framing
        self.on_end: Callable[[str], None] = lambda reason: None
        """Called when stdin has ended."""
        self._unknown: set[str] = set()

    def start(self, hello: dict[str, Any]) -> None:
        """Says hello and reads requests from now on."""
        self.write(self.encode(hello, None), final=False)
        threading.Thread(target=self._read, name="ostler-stdin", daemon=True).start()

    # Sink ------------------------------------------------------------------------------------------------------------

    def encode(self, frame: dict[str, Any], owner: Any) -> bytes:
        peer = self._engine.peer
        self._writer.max_frame = peer.max_frame or MAX_FRAME
        self._writer.shm_min = peer.shm_min
        lend = (lambda view: self._engine.segments.create(owner, view)) if peer.shm and owner is not None else None
        try:
            return self._writer.encode(frame, lend)
        except FrameTooLong:
            self._engine.segments.release(owner)
            raise

    def write(self, body: bytes, final: bool) -> None:
        try:
            self._writer.write(body)
        except PipeBroken:
            _process.leave(0, "the host is gone: its end of stdout is closed")
        except PipeClosed as error:
            _process.leave(_process.EX_IOERR, f"no answer can be sent: {error}")

    # Reading ---------------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        try:
            while True:
                frame = self._reader.read()
                if frame is None:
                    break
                self._take(frame)
        except ProtocolError as error:
            _process.leave(_process.EX_PROTOCOL, f"protocol error on stdin: {error}")
        except OSError as error:
            closed = "was closed by the worker's own code" if error.errno == errno.EBADF else "cannot be read"
            _process.leave(_process.EX_IOERR, f"the protocol's stdin {closed}: {error}")
        except BaseException as error:
            sys.excepthook(type(error), error, error.__traceback__)
            _process.leave(_process.EX_SOFTWARE, "a fault in ostler_worker itself ended this worker")
        self.on_end("end of stdin")

    def _take(self, frame: dict[str, Any]) -> None:
        kind = frame.get("type")
        if kind is None and self._framing == "json" and ("method" in frame or "body" in frame):
            kind = "request"
        id = frame.get("id")
        if kind == "request":
            if not isinstance(id, int) or isinstance(id, bool) or id < 0:
                raise ProtocolError(f"a request's id is a whole number, and not {id!r}")
            self._engine.begin(id, Request.parse(frame), self)
        elif kind in ("item", "end", "credit", "cancel", "return", "release"):
            self._take_for(kind, id, frame)
        elif kind == "ping":
            self.write(self.encode(self._engine.pong(frame), None), final=False)
        elif kind == "hello":
            meet(self._engine, frame)
        elif not isinstance(kind, str):
            raise ProtocolError(f"a frame has no type: {sorted(map(str, frame))}")
        elif kind not in self._unknown:
            self._unknown.add(kind)
            _process.say(f"frames of the unknown type {kind!r} are ignored")

    def _take_for(self, kind: str, id: Any, frame: dict[str, Any]) -> None:
        engine = self._engine
        if kind == "return":
            engine.returned(frame)
        elif kind == "release":
            engine.segments.release(id, frame.get("inos"))
        else:
            take_part(engine, kind, engine.find(id), frame)


def meet(engine: Engine, hello: dict[str, Any]) -> None:
    """Takes the host's hello, or ends the worker where they have no protocol in common."""
    spoken = typed(hello, "protocol", int, PROTOCOL)
    if spoken != PROTOCOL:
        host = hello.get("host", "the host")
        older = "the host" if spoken < PROTOCOL else "ostler-worker"
        _process.leave(
            _process.EX_CONFIG, f"{host} speaks version {spoken} of the worker protocol, this worker {PROTOCOL}: upgrade {older}"
        )
    engine.meet(hello)


def take_part(engine: Engine, kind: str, call: Optional[Any], frame: dict[str, Any]) -> None:
    """A frame of a request in flight; of one that has ended, nothing is left to do."""
    if call is None:
        return
    if kind == "item":
        call.input.put(frame.get("value"))
    elif kind == "end":
        call.input.close(Ended())
    elif kind == "credit":
        call.window.put(*[None] * min(typed(frame, "n", int, 1), 1 << 16))
    elif kind == "cancel":
        call.cancel(str(frame.get("reason") or "cancelled by the caller"))


def is_pipe_like(fd: int) -> bool:
    """Whether frames can come from there: no terminal."""
    return not os.isatty(fd)
