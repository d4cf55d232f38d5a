"""The public helloworld, by generated code in the folder that is the first argument; sync or async by the second one."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

from ostler_worker import current_context, serve

sys.path.insert(0, sys.argv[1])
import grpc  # noqa: E402
import helloworld_pb2 as messages  # noqa: E402
import helloworld_pb2_grpc as services  # noqa: E402


def reply(name: str) -> Any:
    if name == "ValueError":
        raise ValueError("no such name")
    if name == "SystemExit":
        sys.exit(3)
    if name == "remaining":
        name = str(current_context().remaining() is not None)
    return messages.HelloReply(message=f"Hello {name}")


class Greeter(services.GreeterServicer):  # type: ignore[misc]
    def SayHello(self, request: Any, context: Any) -> Any:
        if request.name == "own":
            context.abort(grpc.StatusCode.ALREADY_EXISTS, "its own status")
        if request.name == "endless":
            print("endless begins", file=sys.stderr)
            while context.is_active():
                time.sleep(0.005)
            print("endless is over", file=sys.stderr)
        return reply(request.name)

    def SayHelloStreamReply(self, request: Any, context: Any) -> Any:
        for _ in range(3):
            yield reply(request.name)

    def SayHelloBidiStream(self, request: Any, context: Any) -> Any:
        for each in request:
            yield reply(each.name)


class AsyncGreeter(services.GreeterServicer):  # type: ignore[misc]
    async def SayHello(self, request: Any, context: Any) -> Any:
        if request.name == "own":
            await context.abort(grpc.StatusCode.ALREADY_EXISTS, "its own status")
        if request.name == "endless":
            print("endless begins", file=sys.stderr)
            try:
                await asyncio.sleep(600)
            finally:
                print("endless is over", file=sys.stderr)
        return reply(request.name)

    async def SayHelloStreamReply(self, request: Any, context: Any) -> Any:
        for _ in range(3):
            yield reply(request.name)

    async def SayHelloBidiStream(self, request: Any, context: Any) -> Any:
        async for each in request:
            yield reply(each.name)


if __name__ == "__main__":
    serve.grpc(services.add_GreeterServicer_to_server, Greeter() if sys.argv[2] == "sync" else AsyncGreeter())
    serve.run()
