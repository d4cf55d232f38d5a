"""Takes requests from a transport, runs their handlers, and hands the frames of their outcomes back."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Callable, Optional, Protocol

from . import _memory, _process
from ._call import Call
from ._channel import Channel
from ._errors import HostError, Refused, describe
from ._frames import FINDINGS, ProtocolError
from ._lanes import Lanes
from ._methods import Methods
from ._shared import DEFAULT_MIN, Segments

QUEUE = 1024
"""Requests that may wait here beside those that run. A host that keeps to the worker's concurrency never fills it."""


class Cancellable(Protocol):
    """An RPC of a generated servicer."""

    def cancel(self, reason: str) -> None:
        """Ends it early; from any thread."""


class Sink(Protocol):
    """Where the frames of one request go. Called from any thread."""

    def encode(self, frame: dict[str, Any], owner: Any) -> bytes:
        """Raises whatever cannot be encoded. Large bytes are lent out under `owner`."""

    def write(self, body: bytes, final: bool) -> None:
        """Sends an encoded frame; `final` is the request's last."""


@dataclass
class Peer:
    """What the host has said of itself in its `hello`; this is what holds without one."""

    functions: frozenset[str] = frozenset()
    shm: bool = False
    shm_min: int = DEFAULT_MIN
    max_frame: Optional[int] = None
    window: int = 16


@dataclass
class Request:
    """A request frame, checked."""

    id: int
    method: Optional[str]
    args: list[Any]
    kwargs: dict[str, Any]
    stream: bool = False
    deadline: Optional[float] = None
    traceparent: Optional[str] = None
    tracestate: Optional[str] = None
    session: Optional[str] = None
    lend: bool = False
    metadata: dict[str, str] = field(default_factory=dict)
    broken: Optional[Exception] = None

    @classmethod
    def parse(cls, frame: dict[str, Any]) -> Request:
        """Raises `ProtocolError` where a field has the wrong type."""
        if "body" in frame:
            args, kwargs = [frame["body"]], {}
        else:
            args, kwargs = list(typed(frame, "args", list, [])), typed(frame, "kwargs", dict, {})
        left = typed(frame, "deadline_ms", int, None)
        findings = frame.get(FINDINGS)
        return cls(
            id=typed(frame, "id", int, 0),
            method=typed(frame, "method", str, None),
            args=args,
            kwargs=kwargs,
            stream=typed(frame, "stream", bool, False),
            deadline=None if left is None else time.monotonic() + left / 1000,
            traceparent=typed(frame, "traceparent", str, None),
            tracestate=typed(frame, "tracestate", str, None),
            session=typed(frame, "session", str, None),
            lend=typed(frame, "lend", bool, False),
            metadata=typed(frame, "metadata", dict, {}),
            broken=findings.broken[0].error if findings and findings.broken else None,
        )


def typed(frame: dict[str, Any], name: str, kind: type, default: Any) -> Any:
    """A field of a frame; its default where it is absent or nil."""
    value = frame.get(name)
    if value is None:
        return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ProtocolError(f"{name} of a frame is a {type(value).__name__}, and not {kind.__name__}: {value!r:.80}")
    return value


class Engine:
    """The calls of one worker process."""

    def __init__(self, methods: Methods, lanes: Lanes) -> None:
        self.methods = methods
        self.lanes = lanes
        self.peer = Peer()
        self.segments = Segments()
        self.state: Any = None
        self.served = 0
        self.draining = False
        self.on_idle: Callable[[], None] = lambda: None
        """Called when, in the drain, the last call has ended."""
        self.loop: Optional[asyncio.AbstractEventLoop] = None
        self._lock = threading.Lock()
        self._calls: dict[Any, Call] = {}
        self._others: set[Cancellable] = set()
        self._host_ids = itertools.count(1)
        self._returns: dict[int, Channel[Any]] = {}

    # Loop ------------------------------------------------------------------------------------------------------------

    def start_loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of async handlers, on a thread of its own."""
        if self.loop is None:
            self.loop = asyncio.new_event_loop()
            threading.Thread(target=self._run_loop, name="ostler-loop", daemon=True).start()
        return self.loop

    def _run_loop(self) -> None:
        assert self.loop is not None
        asyncio.set_event_loop(self.loop)
        while True:
            try:
                self.loop.run_forever()
                return
            except (SystemExit, KeyboardInterrupt) as error:
                # asyncio lets these two out of a task that a handler started; the other requests know nothing of it.
                _process.say(f"a task raised {type(error).__name__}; serving goes on")

    # Requests --------------------------------------------------------------------------------------------------------

    def begin(self, key: Any, request: Request, sink: Sink) -> Call:
        """Runs a request; its outcome goes to `sink`, also where it is refused. Returns at once."""
        call = Call(self, key, request, sink)
        try:
            with self._lock:
                if key in self._calls:
                    raise ProtocolError(f"request {key} is already in flight")
                if self.draining:
                    raise Refused("draining", "this worker is about to end and takes nothing new")
                if len(self._calls) >= len(self.lanes.lanes) + QUEUE:
                    raise Refused("busy", f"{len(self._calls)} requests are in flight here already")
                call.prepare()
                self._calls[key] = call
        except Refused as error:
            call.refuse(describe(error))
            return call
        if call.method.is_async:
            loop = self.start_loop()
            loop.call_soon_threadsafe(call.spawn)
        else:
            self.lanes.post(call.run)
        return call

    def find(self, key: Any) -> Optional[Call]:
        return self._calls.get(key)

    def ended(self, call: Call) -> None:
        """A call has written its last frame."""
        with self._lock:
            self._calls.pop(call.key, None)
            self.served += 1
            idle = self.draining and not self._calls and not self._others
        if idle:
            self.on_idle()

    def enter(self, rpc: Cancellable) -> bool:
        """Counts an RPC of a generated servicer; False in the drain."""
        with self._lock:
            if self.draining:
                return False
            self._others.add(rpc)
            return True

    def leave(self, rpc: Cancellable) -> None:
        """Its handler is over."""
        with self._lock:
            self._others.discard(rpc)
            self.served += 1
            idle = self.draining and not self._calls and not self._others
        if idle:
            self.on_idle()

    def in_flight(self) -> int:
        return len(self._calls) + len(self._others)

    def drain(self) -> bool:
        """Refuses what comes from now on; whether nothing is in flight already."""
        with self._lock:
            self.draining = True
            return not self._calls and not self._others

    def cancel_all(self, reason: str) -> None:
        with self._lock:
            everything: list[Cancellable] = [*self._calls.values(), *self._others]
        for each in everything:
            each.cancel(reason)

    # Host ------------------------------------------------------------------------------------------------------------

    def meet(self, hello: dict[str, Any]) -> None:
        """Takes the host's `hello`. Raises `ProtocolError`."""
        features = typed(hello, "features", list, [])
        self.peer = Peer(
            functions=frozenset(str(name) for name in typed(hello, "functions", list, [])),
            shm="shm" in features,
            shm_min=max(1, typed(hello, "shm_min", int, DEFAULT_MIN)),
            max_frame=typed(hello, "max_frame", int, None),
            window=max(1, typed(hello, "window", int, 16)),
        )

    def expect_return(self) -> tuple[int, Channel[Any]]:
        """An id for a call to the host, and the channel that its answer arrives in."""
        channel: Channel[Any] = Channel()
        id = next(self._host_ids)
        self._returns[id] = channel
        return id, channel

    def forget_return(self, id: int) -> None:
        self._returns.pop(id, None)

    def returned(self, frame: dict[str, Any]) -> None:
        """Takes the host's answer to a call; drops it if its caller has stopped waiting."""
        channel = self._returns.pop(typed(frame, "id", int, 0), None)
        if channel is None:
            return
        error = frame.get("error")
        if isinstance(error, dict):
            channel.close(
                HostError(
                    str(error.get("message", "")),
                    code=str(error.get("code", "exception")),
                    type=str(error.get("type", "")),
                    traceback=str(error.get("traceback", "")),
                )
            )
        else:
            channel.put(frame.get("ok"))

    # Figures ---------------------------------------------------------------------------------------------------------

    def pong(self, ping: dict[str, Any]) -> dict[str, Any]:
        frame = {
            "type": "pong",
            "id": ping.get("id"),
            "state": "draining" if self.draining else "serving",
            "in_flight": self.in_flight(),
            "served": self.served,
            "lent": self.segments.count(),
            "rss": _memory.rss(),
        }
        if ping.get("stats"):
            frame["gpu"] = _memory.gpu()
        return frame
