"""One request, from its arrival to its last frame."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
import types
from typing import TYPE_CHECKING, Any, AsyncIterator, Iterator, Optional

from . import _context, _lanes, _process, _trace
from ._channel import Channel, Ended
from ._context import Context
from ._errors import Cancelled, DeadlineExceeded, HostError, Refused, describe

if TYPE_CHECKING:
    from ._engine import Engine, Request, Sink
    from ._methods import Method

_OURS = os.path.dirname(os.path.abspath(__file__))


class Call:
    """A request at work. Its handler runs on a lane, or on the event loop."""

    method: Method

    def __init__(self, engine: Engine, key: Any, request: Request, sink: Sink) -> None:
        self.engine = engine
        self.key = key
        self.request = request
        self.sink = sink
        self.input: Channel[Any] = Channel()
        self.window: Channel[None] = Channel()
        self.ctx = Context(
            id=request.id,
            method=request.method or "",
            deadline=request.deadline,
            traceparent=request.traceparent,
            tracestate=request.tracestate,
            session=request.session,
            metadata=request.metadata,
            state=engine.state,
            caller=self,
        )
        self._lock = threading.Lock()
        self._cancelled: Optional[str] = None
        self._calls_out: dict[int, Channel[Any]] = {}
        self._task: Optional["asyncio.Task[None]"] = None
        self._done = False

    # Before the handler ----------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Finds the method. Raises `Refused`."""
        request = self.request
        self.method = self.engine.methods.find(request.method)
        self.ctx.method = self.method.name
        if request.broken is not None:
            raise Refused("invalid_arguments", f"an argument cannot be decoded: {request.broken}")
        if request.stream != (self.method.input == "stream"):
            has = "a stream" if request.stream else "no stream"
            raise Refused("invalid_arguments", f"{self.method.name} takes {self.method.input} input, and the request has {has}")
        self.window.put(*[None] * self.engine.peer.window)

    def _arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Raises `Refused` where the handler must not run any more, or cannot be called with this."""
        if self._cancelled is not None:
            raise Refused("cancelled", f"cancelled before it began: {self._cancelled}")
        if self.ctx.deadline is not None and time.monotonic() >= self.ctx.deadline:
            raise Refused("deadline_exceeded", "the deadline passed before it began")
        args = self.request.args
        if self.request.stream:
            stream: Any = _AsyncInput(self) if self.method.is_async else _SyncInput(self)
            args = [stream, *args]
        return self.method.bind(args, self.request.kwargs, self.ctx)

    # The handler -----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Runs a sync handler, on a lane."""
        try:
            args, kwargs = self._arguments()
            with self._entered():
                result = self.method.fn(*args, **kwargs)
                if isinstance(result, types.GeneratorType):
                    self._drain_generator(result)
                    return
            self._finish({"type": "response", "ok": result})
        except BaseException as error:
            # Whatever a handler raises is its request's outcome, and no end of the worker: also SystemExit.
            self._fail(error)

    def _drain_generator(self, items: Any) -> None:
        try:
            for item in items:
                try:
                    with _lanes.waiting():
                        self.window.get(self.ctx.deadline)
                    self.ctx.check()
                except TimeoutError as error:
                    items.throw(error if isinstance(error, DeadlineExceeded) else DeadlineExceeded(str(error)))
                except Cancelled as error:
                    items.throw(error)
                self._item(item)
        finally:
            items.close()
        self._finish({"type": "end"})

    def spawn(self) -> None:
        """Starts an async handler; on the loop's thread."""
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._run_async())
        if self.ctx.deadline is not None:
            timer = loop.call_later(max(0.0, self.ctx.deadline - time.monotonic()), self.cancel, "deadline")
            self._task.add_done_callback(lambda _: timer.cancel())

    async def _run_async(self) -> None:
        try:
            args, kwargs = self._arguments()
            with self._entered():
                result = self.method.fn(*args, **kwargs)
                if hasattr(result, "__aiter__"):
                    await self._drain_async_generator(result)
                    return
                result = await result
            self._finish({"type": "response", "ok": result})
        except BaseException as error:
            self._fail(error)

    async def _drain_async_generator(self, items: Any) -> None:
        try:
            async for item in items:
                try:
                    await self.window.aget()
                except Cancelled as error:
                    await items.athrow(error)
                self._item(item)
        finally:
            close = getattr(items, "aclose", None)
            if close is not None:
                await close()
        self._finish({"type": "end"})

    @contextlib.contextmanager
    def _entered(self) -> Iterator[None]:
        token = _context._current.set(self.ctx)
        try:
            with _trace.span(self.ctx):
                yield
        finally:
            _context._current.reset(token)
            _process.adopted.restore()

    # From outside ----------------------------------------------------------------------------------------------------

    def cancel(self, reason: str) -> None:
        """Tells the handler that its result is of no use; from any thread, any number of times."""
        with self._lock:
            if self._done or self._cancelled is not None:
                return
            self._cancelled = reason
            channels = [self.input, self.window, *self._calls_out.values()]
        self.ctx._cancelled = reason
        for channel in channels:
            channel.close(Cancelled(reason), discard=True)
        task, loop = self._task, self.engine.loop
        if task is not None and loop is not None:
            loop.call_soon_threadsafe(task.cancel)

    # Calls to the host -----------------------------------------------------------------------------------------------

    def call_host(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The answer of a function of the host; in an async handler, an awaitable of it."""
        functions = self.engine.peer.functions
        if name not in functions:
            offers = ", ".join(sorted(functions)) or "none"
            raise HostError(f"the host offers no function {name!r}; it offers: {offers}", code="method_not_found")
        id, channel = self.engine.expect_return()
        with self._lock:
            if self._cancelled is not None:
                raise Cancelled(self._cancelled)
            self._calls_out[id] = channel
        frame = {"type": "call", "id": id, "request": self.request.id, "function": name, "args": list(args), "kwargs": kwargs}
        left = self.ctx.remaining()
        if left is not None:
            frame["deadline_ms"] = int(left * 1000)
        traceparent = _trace.current_traceparent() or self.ctx.traceparent
        if traceparent:
            frame["traceparent"] = traceparent
        self.sink.write(self.sink.encode(frame, self.key), final=False)
        return self._await_return(id, channel) if self.method.is_async else self._wait_return(id, channel)

    def _wait_return(self, id: int, channel: Channel[Any]) -> Any:
        try:
            with _lanes.waiting():
                return channel.get(self.ctx.deadline)
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed while the host worked") from None
        finally:
            self._forget_return(id)

    async def _await_return(self, id: int, channel: Channel[Any]) -> Any:
        try:
            return await channel.aget()
        finally:
            self._forget_return(id)

    def _forget_return(self, id: int) -> None:
        self.engine.forget_return(id)
        with self._lock:
            self._calls_out.pop(id, None)

    # Outcomes --------------------------------------------------------------------------------------------------------

    def _item(self, value: Any) -> None:
        _process.end_forked_copy(self.method.name)
        self.sink.write(self.sink.encode({"type": "item", "id": self.request.id, "value": value}, self.key), final=False)

    def credit(self) -> None:
        """One item of the caller's stream was consumed."""
        self.sink.write(self.sink.encode({"type": "credit", "id": self.request.id, "n": 1}, self.key), final=False)

    def _finish(self, frame: dict[str, Any]) -> None:
        _process.end_forked_copy(self.method.name)
        try:
            body = self.sink.encode({**frame, "id": self.request.id}, self.key)
        except Exception as error:
            self.engine.segments.release(self.key)
            described = describe(error, skip=_OURS)
            described.update(code="invalid_result", message=f"{self.method.name}: the result cannot be sent: {error}")
            self._end(self._error_body(described))
        else:
            self._end(body)

    def _fail(self, error: BaseException) -> None:
        _process.end_forked_copy(self.method.name)
        if isinstance(error, Cancelled) and self._cancelled == "deadline":
            deadline = DeadlineExceeded(f"the deadline of {self.method.name} has passed")
            error = deadline.with_traceback(error.__traceback__)
        self._end(self._error_body(describe(error, skip=_OURS)))

    def refuse(self, error: dict[str, Any]) -> None:
        """Answers a request that never began; it was not counted, either."""
        self.sink.write(self._error_body(error), final=True)

    def _error_body(self, error: dict[str, Any]) -> bytes:
        frame = {"type": "response", "id": self.request.id, "error": error}
        try:
            return self.sink.encode(frame, self.key)
        except Exception:
            # A message or a traceback of megabytes, or with lone surrogates.
            for name in ("message", "traceback"):
                text = str(error.get(name, "")).encode("utf-8", "backslashreplace").decode()
                error[name] = text if len(text) <= 4096 else text[:2048] + " … " + text[-2048:]
            return self.sink.encode(frame, self.key)

    def _end(self, body: bytes) -> None:
        with self._lock:
            self._done = True
        try:
            self.sink.write(body, final=True)
        finally:
            self.engine.ended(self)


class _SyncInput:
    """The caller's stream, for a sync handler."""

    def __init__(self, call: Call) -> None:
        self._call = call

    def __iter__(self) -> _SyncInput:
        return self

    def __next__(self) -> Any:
        try:
            with _lanes.waiting():
                item = self._call.input.get(self._call.ctx.deadline)
        except Ended:
            raise StopIteration from None
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed while the caller's stream was read") from None
        self._call.credit()
        return item


class _AsyncInput:
    """The caller's stream, for an async handler."""

    def __init__(self, call: Call) -> None:
        self._call = call

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        try:
            item = await self._call.input.aget()
        except Ended:
            raise StopAsyncIteration from None
        self._call.credit()
        return item
