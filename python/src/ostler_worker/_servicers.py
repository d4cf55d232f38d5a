"""Generated servicers: counted for the drain, in the caller's trace, their exceptions as statuses.

Sync servicers run here, on the lanes, and not by grpcio's aio server: the context that they would get from it has neither
`is_active` nor `cancel`, never calls its callbacks, and lets a cancelled handler go on for nothing.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import inspect
import time
from typing import Any, AsyncIterator, Awaitable, Callable, Iterator, Optional

import grpc
import grpc.aio

from . import _context, _lanes, _process, _trace, _values
from ._context import Context
from ._engine import Engine
from ._errors import Cancelled, describe

_STATUS = (
    (NotImplementedError, grpc.StatusCode.UNIMPLEMENTED),
    (TimeoutError, grpc.StatusCode.DEADLINE_EXCEEDED),
    (MemoryError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    ((ValueError, TypeError), grpc.StatusCode.INVALID_ARGUMENT),
)
_END = object()
_SETTLED = 0.01
"""Seconds that grpcio is given from the end of a stream to the cancellation of its RPC; it needs microseconds on an idle machine."""


class Guarded(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Around each method of every service but `own`."""

    def __init__(self, engine: Engine, own: tuple[str, ...]) -> None:
        self._engine = engine
        self._own = own

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        handler = await continuation(details)
        if handler is None or details.method.split("/")[1] in self._own:
            return handler
        sent = {key: value for key, value in details.invocation_metadata or () if isinstance(value, str)}
        for kind in ("unary_unary", "unary_stream", "stream_unary", "stream_stream"):
            behaviour = getattr(handler, kind)
            if behaviour is not None:
                wrap = getattr(grpc, f"{kind}_rpc_method_handler")

                def begin(context: Any) -> Any:
                    return _rpc(self._engine, context, details.method, sent)

                return wrap(_guard(behaviour, kind, begin), handler.request_deserializer, handler.response_serializer)
        return handler


def _guard(behaviour: Any, kind: str, begin: Callable[[Any], Any]) -> Any:
    takes_stream = kind.startswith("stream_")
    if inspect.isasyncgenfunction(behaviour):

        async def async_items(request: Any, context: Any) -> Any:
            async with begin(context) as rpc:
                async for item in behaviour(_whole(request, rpc) if takes_stream else request, context):
                    yield item

        return async_items
    if inspect.iscoroutinefunction(behaviour):

        async def async_answer(request: Any, context: Any) -> Any:
            async with begin(context) as rpc:
                return await behaviour(_whole(request, rpc) if takes_stream else request, context)

        return async_answer
    if kind.endswith("_stream"):

        async def items(request: Any, context: Any) -> Any:
            async with begin(context) as rpc:
                async for item in rpc.items(behaviour, rpc.requests(request) if takes_stream else request):
                    yield item

        return items

    async def answer(request: Any, context: Any) -> Any:
        async with begin(context) as rpc:
            return await rpc.run(behaviour, rpc.requests(request) if takes_stream else request, rpc)

    return answer


async def _whole(messages: AsyncIterator[Any], rpc: Rpc) -> AsyncIterator[Any]:
    """The caller's stream. grpcio ends one that was cut off like one that has ended, and cancels its RPC a moment later; then this
    raises `Cancelled`."""
    async for message in messages:
        yield message
    if not rpc.ctx.cancelled:
        await asyncio.sleep(_SETTLED)
    if rpc.ctx.cancelled:
        raise Cancelled("cancelled by the caller")


@contextlib.asynccontextmanager
async def _rpc(engine: Engine, context: Any, method: str, sent: dict[str, str]) -> AsyncIterator[Rpc]:
    """An RPC from its arrival to its status."""
    rpc = Rpc(engine, context, method, sent)
    if not engine.enter(rpc):
        await context.abort(grpc.StatusCode.UNAVAILABLE, "this worker is about to end and takes nothing new")
    try:
        token = _context._current.set(rpc.ctx)
        try:
            with _trace.span(rpc.ctx):
                rpc.variables = contextvars.copy_context()
                yield rpc
        finally:
            _process.end_forked_copy(method)
            _process.adopted.restore()
            with contextlib.suppress(ValueError):
                # The generator of a stream that was cut off is closed by the garbage collector, in another context.
                _context._current.reset(token)
    except (grpc.aio.BaseError, GeneratorExit):
        raise
    except asyncio.CancelledError:
        reason = rpc.cancelled_by_us
        rpc.give_up()
        if reason is None:
            raise
        await context.abort(grpc.StatusCode.CANCELLED, reason)
    except BaseException as error:
        await context.abort(*_status(error, method))
    finally:
        rpc.end()


def _status(error: BaseException, method: str) -> tuple[Any, str, Any]:
    """Code, details and trailing metadata."""
    described = describe(error)
    described["traceback"] = described["traceback"][-2048:]
    described["message"] = described["message"][:1024]
    code = next((code for kind, code in _STATUS if isinstance(error, kind)), grpc.StatusCode.UNKNOWN)
    _process.say(f"{method} raised:\n{described['traceback'].rstrip()}")
    details = f"{described['type']}: {described['message']}"
    return code, details, (("ostler-error-bin", _values.encode(described)),)


class Rpc:
    """One RPC, and the context of a sync servicer: `grpc.ServicerContext`. What is not here is the aio context's own."""

    def __init__(self, engine: Engine, context: Any, method: str, sent: dict[str, str]) -> None:
        left = context.time_remaining()
        self.ctx = Context(
            method=method.lstrip("/"),
            deadline=None if left is None else time.monotonic() + left,
            traceparent=sent.get("traceparent"),
            tracestate=sent.get("tracestate"),
            metadata=sent,
            state=engine.state,
        )
        self.variables = contextvars.copy_context()
        """The context variables of its handler, whichever lane runs it."""
        self.cancelled_by_us: Optional[str] = None
        self._engine = engine
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._work: Optional["concurrent.futures.Future[Any]"] = None
        self._reading: Optional["concurrent.futures.Future[Any]"] = None
        self._callbacks: list[Callable[[], None]] = []
        self._ended = False

    # Work on the lanes -----------------------------------------------------------------------------------------------

    async def run(self, fn: Callable[..., Any], *args: Any) -> Any:
        """The result of a call on a lane."""
        self._work = self._engine.lanes.submit(self.variables.run, self._outcome, fn, args)
        result, error = await asyncio.wrap_future(self._work)
        if error is not None:
            raise error
        return result

    def _outcome(self, fn: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Any, Optional[BaseException]]:
        """As a value: asyncio's futures take no StopIteration."""
        try:
            return fn(*args), None
        except BaseException as error:
            return None, error
        finally:
            _process.end_forked_copy(self.ctx.method)
            _process.adopted.restore()

    async def items(self, behaviour: Callable[[Any, Any], Any], request: Any) -> AsyncIterator[Any]:
        """The items of a sync servicer's stream. Between them, its lane is free."""
        source = await self.run(lambda: iter(behaviour(request, self)))
        try:
            while True:
                item = await self.run(next, source, _END)
                if item is _END:
                    return
                yield item
        except (asyncio.CancelledError, GeneratorExit):
            self._throw_into(source)
            raise

    def _throw_into(self, source: Any) -> None:
        """Cancels a generator at its `yield`."""
        throw = getattr(source, "throw", None)
        before = self._work
        if throw is None or before is None:
            return
        closed: "concurrent.futures.Future[None]" = concurrent.futures.Future()
        self._work = closed

        def close() -> None:
            self.variables.run(self._outcome, throw, (Cancelled("cancelled by the caller"),))
            closed.set_result(None)

        before.add_done_callback(lambda _: self._engine.lanes.post(close))

    def requests(self, messages: AsyncIterator[Any]) -> Iterator[Any]:
        """The caller's stream, for a sync servicer."""

        whole = _whole(messages, self)

        async def read() -> Any:
            try:
                return await whole.__anext__()
            except StopAsyncIteration:
                return _END

        while True:
            self._reading = asyncio.run_coroutine_threadsafe(read(), self._loop)
            try:
                with _lanes.waiting():
                    item = self._reading.result()
            except concurrent.futures.CancelledError:
                raise Cancelled("cancelled by the caller") from None
            if item is _END:
                return
            yield item

    # Ends ------------------------------------------------------------------------------------------------------------

    def give_up(self) -> None:
        """The result is of no use any more: a sync handler learns it from its context."""
        if self.ctx.remaining() != 0.0:
            self.ctx._cancelled = self.ctx._cancelled or "cancelled by the caller"
        if self._reading is not None:
            self._reading.cancel()

    def end(self) -> None:
        """The RPC is over; its handler may still be at work on a lane."""
        self._ended = True
        for callback in self._callbacks:
            try:
                callback()
            except Exception as error:
                _process.say(f"a callback of {self.ctx.method} raised {error!r}")
        if self._work is None:
            self._engine.leave(self)
        else:
            self._work.add_done_callback(lambda _: self._engine.leave(self))

    def cancel(self, reason: str = "cancelled by the handler") -> None:
        """Ends the RPC with the status CANCELLED; from any thread."""
        self.cancelled_by_us = self.ctx._cancelled = reason
        if self._task is not None:
            self._loop.call_soon_threadsafe(self._task.cancel)

    # grpc.ServicerContext --------------------------------------------------------------------------------------------

    def is_active(self) -> bool:
        return not (self._ended or self.ctx.cancelled)

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Called at the RPC's end, on the event loop's thread; False: it is over already."""
        if self._ended:
            return False
        self._callbacks.append(callback)
        return True

    def abort(self, code: Any, details: str = "", trailing_metadata: Any = ()) -> None:
        self._wait(self._context.abort(code, details, trailing_metadata))

    def abort_with_status(self, status: Any) -> None:
        self.abort(status.code, status.details, status.trailing_metadata or ())

    def send_initial_metadata(self, initial_metadata: Any) -> None:
        self._wait(self._context.send_initial_metadata(initial_metadata))

    def _wait(self, coroutine: Any) -> Any:
        with _lanes.waiting():
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)
