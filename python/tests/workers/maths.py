"""A generated servicer, sync or async by its first argument, beside plain methods."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

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


class Maths(services.MathsServicer):  # type: ignore[misc]
    def Double(self, request: Any, context: Any) -> Any:
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
        for value in range(request.value):
            if value == 3 and request.value == 4:
                raise TimeoutError("in the middle")
            yield messages.Number(value=value)

    def Sum(self, request: Any, context: Any) -> Any:
        return messages.Number(value=sum(each.value for each in request))

    def Running(self, request: Any, context: Any) -> Any:
        total = 0
        for each in request:
            total += each.value
            yield messages.Number(value=total)


class AsyncMaths(services.MathsServicer):  # type: ignore[misc]
    async def Double(self, request: Any, context: Any) -> Any:
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
        for value in range(request.value):
            if value == 3 and request.value == 4:
                raise TimeoutError("in the middle")
            yield messages.Number(value=value)

    async def Sum(self, request: Any, context: Any) -> Any:
        return messages.Number(value=sum([each.value async for each in request]))

    async def Running(self, request: Any, context: Any) -> Any:
        total = 0
        async for each in request:
            total += each.value
            yield messages.Number(value=total)


if __name__ == "__main__":
    serve.grpc(services.add_MathsServicer_to_server, Maths() if sys.argv[2] == "sync" else AsyncMaths())
    serve.run(load=lambda: "loaded")
