"""The gRPC transport: the server, the plain methods as a generic service, and the health service."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any, AsyncIterator, Callable, Optional

import grpc
import grpc.aio

from . import _frames, _process, _values
from ._channel import Channel
from ._engine import Engine, Request
from ._errors import Cancelled
from ._servicers import Guarded
from ._stdio import PROTOCOL, meet, take_part

SERVICE = "ostler.worker.v1.Worker"
HEALTH = "grpc.health.v1.Health"
Register = Callable[[Any, Any], None]


class GrpcServer:
    """The server of one worker, on the engine's loop."""

    def __init__(self, engine: Engine, servicers: list[tuple[Register, Any]], hello: Callable[[], dict[str, Any]]) -> None:
        self.engine = engine
        self._servicers = servicers
        self._hello = hello
        self._health = Health()
        self._server: Any = None

    def start(self, address: str) -> int:
        """Listens on `address`; the port. Ends the worker where it cannot listen."""
        loop = self.engine.start_loop()
        return asyncio.run_coroutine_threadsafe(self._start(address), loop).result()

    async def _start(self, address: str) -> int:
        unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0)]
        self._server = grpc.aio.server(interceptors=[Guarded(self.engine, (SERVICE, HEALTH))], options=unlimited)
        names = [SERVICE, HEALTH]
        for register, servicer in self._servicers:
            register(servicer, _Recording(self._server, names))
        self._server.add_generic_rpc_handlers((Plain(self.engine, self._hello).handlers(), self._health.handlers()))
        self._health.names = {"", *names}
        try:
            port: int = self._server.add_insecure_port(address)
        except RuntimeError as error:
            # At once: some versions of grpcio abort while a server that could not listen is torn down.
            _process.leave(_process.EX_CONFIG, f"cannot listen on {address}: {error}")
        await self._server.start()
        return port

    def stop_accepting(self, grace: float) -> None:
        """Says NOT_SERVING, refuses new calls, and lets those in flight finish; returns at once."""
        assert self.engine.loop is not None

        async def stop() -> None:
            await self._health.stop()
            await self._server.stop(grace)

        asyncio.run_coroutine_threadsafe(stop(), self.engine.loop)

    def finish(self, timeout: float) -> None:
        """Waits until every answer is out."""
        assert self.engine.loop is not None
        waiting = asyncio.run_coroutine_threadsafe(self._server.wait_for_termination(), self.engine.loop)
        with contextlib.suppress(Exception):
            waiting.result(timeout)


class _Recording:
    """The server as a generated `add_…_to_server` sees it; it notes the services' names for health."""

    def __init__(self, server: Any, names: list[str]) -> None:
        self._server = server
        self._names = names

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        self._names.extend(h.service_name() for h in handlers if hasattr(h, "service_name"))
        self._server.add_generic_rpc_handlers(handlers)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)


class _Sink:
    """The frames of one RPC, on their way to its handler on the loop."""

    def __init__(self, engine: Engine, lends: bool) -> None:
        self.engine = engine
        self.lends = lends
        self.over = False
        self.frames: Channel[tuple[bytes, bool]] = Channel()

    def encode(self, frame: dict[str, Any], owner: Any) -> bytes:
        peer = self.engine.peer
        lend = (lambda view: self.engine.segments.create(owner, view)) if self.lends and peer.shm else None
        body = _values.encode_frame(frame, lend, peer.shm_min)
        longest = peer.max_frame or _frames.MAX_FRAME
        if len(body) > longest:
            self.engine.segments.release(owner)
            raise _frames.FrameTooLong(f"{len(body)} bytes, where the receiver accepts {longest}")
        if self.over:
            # `end` may have run before these segments were there.
            self.engine.segments.release(owner)
        return body

    def write(self, body: bytes, final: bool) -> None:
        self.frames.put((body, final))

    def end(self, owner: Any) -> None:
        """The RPC is over, its handler may not be: nothing is lent from now on."""
        self.over = True
        self.engine.segments.release(owner)


class Plain:
    """The `@serve.method` functions as the service `ostler.worker.v1.Worker`; messages are MessagePack maps."""

    def __init__(self, engine: Engine, hello: Callable[[], dict[str, Any]]) -> None:
        self._engine = engine
        self._hello_frame = hello

    def handlers(self) -> Any:
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Hello": grpc.unary_unary_rpc_method_handler(self._hello),
                "Ping": grpc.unary_unary_rpc_method_handler(self._ping),
                "Call": grpc.unary_unary_rpc_method_handler(self._call),
                "Stream": grpc.stream_stream_rpc_method_handler(self._stream),
            },
        )

    async def _hello(self, message: bytes, context: Any) -> bytes:
        frame = await _map(message, context)
        if frame.get("protocol", PROTOCOL) != PROTOCOL:
            await context.abort(
                grpc.StatusCode.FAILED_PRECONDITION, f"this worker speaks version {PROTOCOL} of the worker protocol"
            )
        meet(self._engine, frame)
        return _values.encode(self._hello_frame())

    async def _ping(self, message: bytes, context: Any) -> bytes:
        return _values.encode(self._engine.pong(await _map(message, context)))

    async def _call(self, message: bytes, context: Any) -> bytes:
        request = await _request(message, context)
        sink = _Sink(self._engine, lends=request.lend)
        key = object()
        call = self._engine.begin(key, request, sink)
        try:
            while True:
                body, final = await sink.frames.aget()
                if final and self._engine.segments.holds(key):
                    # The caller has no message left to release them by: it resets the RPC, which cancels this.
                    await context.write(body)
                    await asyncio.get_running_loop().create_future()
                elif final:
                    return body
                # An item, or a call to the host: there is no room for it in a unary RPC.
                call.cancel("this method streams or calls the host: use Stream")
        finally:
            call.cancel("cancelled by the caller")
            sink.end(key)

    async def _stream(self, messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        first = await messages.__anext__()
        sink = _Sink(self._engine, lends=True)
        key = object()
        call = self._engine.begin(key, await _request(first, context), sink)
        released = asyncio.Event()

        async def read() -> None:
            try:
                async for message in messages:
                    frame = _frames.unpack(message)
                    kind = str(frame.get("type"))
                    if kind == "return":
                        self._engine.returned(frame)
                    elif kind == "release":
                        self._engine.segments.release(key, frame.get("inos"))
                    else:
                        take_part(self._engine, kind, call, frame)
            except _frames.ProtocolError as error:
                call.cancel(f"protocol error: {error}")
            finally:
                # After the host's `end` this changes nothing. Without one its stream was cut off, which is no end.
                call.input.close(Cancelled("the stream of the caller was cut off"))
                released.set()

        reading = asyncio.ensure_future(read())
        try:
            final = False
            while not final:
                body, final = await sink.frames.aget()
                yield body
            if self._engine.segments.holds(key):
                await released.wait()
        finally:
            call.cancel("cancelled by the caller")
            reading.cancel()
            sink.end(key)


async def _map(message: bytes, context: Any) -> dict[str, Any]:
    try:
        frame = _frames.unpack(message)
        if isinstance(frame, dict):
            return frame
        problem = "the message is not a map"
    except _frames.ProtocolError as error:
        problem = str(error)
    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, problem)
    raise AssertionError("abort raises")


async def _request(message: bytes, context: Any) -> Request:
    frame = await _map(message, context)
    try:
        request = Request.parse(frame)
    except _frames.ProtocolError as error:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
    left = context.time_remaining()
    if left is not None and request.deadline is None:
        request.deadline = time.monotonic() + left
    sent = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
    request.traceparent = request.traceparent or sent.get("traceparent")
    request.tracestate = request.tracestate or sent.get("tracestate")
    request.metadata = {**sent, **request.metadata}
    return request


class Health:
    """grpc.health.v1, by hand: its two messages have one field each, and the package that has them pins protobuf's version."""

    _SERVING, _NOT_SERVING, _UNKNOWN = b"\x08\x01", b"\x08\x02", b"\x08\x03"

    def __init__(self) -> None:
        self.names: set[str] = {""}
        self._stopping: Optional[asyncio.Event] = None
        self._stopped = False

    def handlers(self) -> Any:
        return grpc.method_handlers_generic_handler(
            HEALTH,
            {
                "Check": grpc.unary_unary_rpc_method_handler(self._check),
                "Watch": grpc.unary_stream_rpc_method_handler(self._watch),
            },
        )

    async def stop(self) -> None:
        self._stopped = True
        self._event().set()

    def _event(self) -> asyncio.Event:
        if self._stopping is None:
            self._stopping = asyncio.Event()
        return self._stopping

    async def _check(self, message: bytes, context: Any) -> bytes:
        name = _service_of(message)
        if name not in self.names:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no service {name!r}")
        return self._NOT_SERVING if self._stopped else self._SERVING

    async def _watch(self, message: bytes, context: Any) -> AsyncIterator[bytes]:
        known = _service_of(message) in self.names
        if not self._stopped:
            yield self._SERVING if known else self._UNKNOWN
            await self._event().wait()
        if known:
            yield self._NOT_SERVING


def _service_of(message: bytes) -> str:
    """`HealthCheckRequest.service`: field 1, a string; a length above 127 takes more bytes."""
    if not message or message[0] != 0x0A:
        return ""
    size, shift, at = 0, 0, 1
    while at < len(message):
        size |= (message[at] & 0x7F) << shift
        shift += 7
        at += 1
        if not message[at - 1] & 0x80:
            break
    return message[at : at + size].decode("utf-8", "replace")
