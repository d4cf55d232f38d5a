"""A generated servicer, sync or async by its first argument, beside plain methods."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from typing import Any, Iterator

from ostler_worker import Context, current_context, serve

sys.path.insert(0, sys.argv[1])
import test_pb2 as messages  # noqa: E402
import test_pb2_grpc as services  # noqa: E402


@serve.method
def add(a: int, b: int) -> int:
    return a + b


@serve.method
async def add_later(a: int, b: int) -> int:
    return a + b


@serve.method
def look_up(key: str, ctx: Context) -> Any:
    return ctx.host.lookup(key)


@serve.method
def count(to: int) -> Any:
    yield from range(to)


@serve.method
def fork() -> str:
    import os

    pid = os.fork()
    if pid == 0:
        return "the child"
    return f"the child ended with {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}"


@serve.method
def start_method() -> str:
    import multiprocessing

    return multiprocessing.get_start_method()


@serve.method
def big(megabytes: int) -> bytes:
    return b"x" * (megabytes << 20)


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def noted() -> Iterator[None]:
    """Notes what ends the block early."""
    try:
        yield
    except BaseException as error:
        note(f"saw {type(error).__name__}")
        raise


class Maths(services.MathsServicer):  # type: ignore[misc]
    def Double(self, request: Any, context: Any) -> Any:
        if request.value == -5:
            context.add_callback(lambda: note("its callback ran"))
            note("it is active")
            while context.is_active():
                time.sleep(0.005)
            note("it is inactive")
        if request.value == -6:
            note(f"remaining {current_context().remaining() is not None}")
            with noted():
                while True:
                    time.sleep(0.005)
                    current_context().check()
        if request.value == -7:
            raise StopIteration("by mistake")
        if request.value == -8:
            import os

            if os.fork() == 0:
                return messages.Number(value=0)
            return messages.Number(value=os.waitstatus_to_exitcode(os.wait()[1]))
        if request.value == -1:
            raise ValueError("no negatives")
        if request.value == -2:
            raise SystemExit(3)
        if request.value == -3:
            import grpc

            context.abort(grpc.StatusCode.ALREADY_EXISTS, "its own status")
        if request.value == -4:
            time.sleep(0.5)
        assert current_context().state == "loaded"
        return messages.Number(value=2 * request.value)

    def Count(self, request: Any, context: Any) -> Any:
        if request.value == -1:
            with noted():
                while True:
                    yield messages.Number(value=1)
        for value in range(request.value):
            if value == 3 and request.value == 4:
                raise TimeoutError("in the middle")
            yield messages.Number(value=value)

    def Sum(self, request: Any, context: Any) -> Any:
        total = 0
        with noted():
            for each in request:
                total += each.value
                note(f"Sum has read {each.value}")
        note("Sum has read all")
        return messages.Number(value=total)

    def Running(self, request: Any, context: Any) -> Any:
        total = 0
        for each in request:
            total += each.value
            yield messages.Number(value=total)


class AsyncMaths(services.MathsServicer):  # type: ignore[misc]
    async def Double(self, request: Any, context: Any) -> Any:
        if request.value == -6:
            note(f"remaining {current_context().remaining() is not None}")
            with noted():
                await asyncio.sleep(600)
        if request.value == -1:
            raise ValueError("no negatives")
        if request.value == -2:
            raise SystemExit(3)
        if request.value == -3:
            import grpc

            await context.abort(grpc.StatusCode.ALREADY_EXISTS, "its own status")
        if request.value == -4:
            await asyncio.sleep(0.5)
        assert current_context().state == "loaded"
        return messages.Number(value=2 * request.value)

    async def Count(self, request: Any, context: Any) -> Any:
        if request.value == -1:
            with noted():
                while True:
                    yield messages.Number(value=1)
                    await asyncio.sleep(0)
        for value in range(request.value):
            if value == 3 and request.value == 4:
                raise TimeoutError("in the middle")
            yield messages.Number(value=value)

    async def Sum(self, request: Any, context: Any) -> Any:
        total = 0
        with noted():
            async for each in request:
                total += each.value
                note(f"Sum has read {each.value}")
        note("Sum has read all")
        return messages.Number(value=total)

    async def Running(self, request: Any, context: Any) -> Any:
        total = 0
        async for each in request:
            total += each.value
            yield messages.Number(value=total)


if __name__ == "__main__":
    serve.grpc(services.add_MathsServicer_to_server, Maths() if sys.argv[2] == "sync" else AsyncMaths())
    serve.run(load=lambda: "loaded")
