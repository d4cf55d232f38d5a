"""A worker with a method for each thing that a handler can do."""

from __future__ import annotations

from ostler_worker import Cancelled, Context, current_context, serve

print("printed while importing")

import asyncio  # noqa: E402
import ctypes  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import threading  # noqa: E402
import time  # noqa: E402
from typing import Any, AsyncIterator, Iterator  # noqa: E402

LIBC = ctypes.CDLL(None)
LIBC_WITH_LOCK = ctypes.PyDLL(None)


@serve.method
def add(a: int, b: int = 1) -> int:
    return a + b


@serve.method
async def add_later(a: int, b: int, ctx: Context) -> int:
    await asyncio.sleep(0.01)
    assert current_context() is ctx
    return a + b


@serve.method
def echo(value: Any) -> Any:
    return value


@serve.method
def count(to: int) -> Iterator[int]:
    yield from range(to)


@serve.method
async def count_later(to: int) -> AsyncIterator[int]:
    for number in range(to):
        yield number


@serve.method
def total(numbers: Iterator[int], start: int = 0) -> int:
    return sum(numbers, start)


@serve.method
def gather(numbers: Iterator[int]) -> int:
    """Says how its stream ended."""
    read = 0
    try:
        for number in numbers:
            read += 1
            print(f"gather has read {read}", file=sys.stderr)
    except Cancelled:
        print("gather was cut off", file=sys.stderr)
        raise
    print("gather has read all", file=sys.stderr)
    return read


@serve.method
async def double(numbers: AsyncIterator[int]) -> AsyncIterator[int]:
    async for number in numbers:
        yield 2 * number


@serve.method
def fail(kind: str, message: str) -> None:
    kinds = {"ValueError": ValueError, "TimeoutError": TimeoutError, "MemoryError": MemoryError, "Own": OwnError}
    raise kinds[kind](message)


class OwnError(ValueError):
    pass


@serve.method
def fail_as(what: list[str]) -> None:
    fail(*what)


@serve.method
def unsendable() -> object:
    return object()


@serve.method
def about(ctx: Context) -> dict[str, Any]:
    return {
        "id": ctx.id,
        "remaining": ctx.remaining(),
        "traceparent": ctx.traceparent,
        "session": ctx.session,
        "metadata": dict(ctx.metadata),
        "state": ctx.state,
        "thread": threading.current_thread() is threading.main_thread(),
    }


MEETING = threading.Barrier(4)


@serve.method
def meet(seconds: float) -> bool:
    """Returns when four calls are here at once."""
    MEETING.wait(seconds)
    return True


@serve.method
def look_up(key: str, ctx: Context) -> Any:
    return ctx.host.lookup(key)


@serve.method
async def look_up_later(key: str, ctx: Context) -> Any:
    return await ctx.host.lookup(key=key)


@serve.method
def work(seconds: float, ctx: Context) -> str:
    """Works in steps, and looks at its context between them."""
    print("work begins", file=sys.stderr)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.005)
        try:
            ctx.check()
        except Cancelled as error:
            print(f"saw {error}", file=sys.stderr)
            raise
    return "worked"


@serve.method
def gate(path: str, ctx: Context) -> str:
    """Waits until there is such a file."""
    while not os.path.exists(path):
        time.sleep(0.005)
        ctx.check()
    return "passed"


@serve.method
async def work_later(seconds: float) -> str:
    print("work begins", file=sys.stderr)
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        print("saw it, too", file=sys.stderr)
        raise
    return "worked"


TICKS = 0


@serve.method
def ticks_yielded() -> int:
    return TICKS


@serve.method
def count_and(end: str, ctx: Context) -> Iterator[int]:
    """One item, and then the end that is asked for."""
    yield 0
    if end == "raise":
        raise ValueError("after one item")
    while True:
        time.sleep(0.005)
        ctx.check()


@serve.method
def repeat(size: int) -> str:
    return "x" * size


@serve.method
def tick(ctx: Context) -> Iterator[int]:
    """A stream without an end."""
    global TICKS
    number = 0
    try:
        while True:
            TICKS = number + 1
            yield number
            number += 1
    except Cancelled:
        print("the stream was cancelled", file=sys.stderr)
        raise


@serve.method
def hang_in_native_code(seconds: int) -> None:
    LIBC.sleep(seconds)


@serve.method
def deadlock_in_native_code() -> None:
    """Unlike `sleep`, no signal ends it."""
    print("deadlock begins", file=sys.stderr)
    mutex = ctypes.create_string_buffer(64)
    LIBC.pthread_mutex_lock(mutex)
    LIBC.pthread_mutex_lock(mutex)


@serve.method
def deadlock_with_the_lock() -> None:
    """The same, and no other thread of the interpreter runs meanwhile."""
    mutex = ctypes.create_string_buffer(64)
    LIBC_WITH_LOCK.pthread_mutex_lock(mutex)
    LIBC_WITH_LOCK.pthread_mutex_lock(mutex)


@serve.method
def hang_with_the_lock(seconds: int) -> None:
    LIBC_WITH_LOCK.sleep(seconds)


@serve.method
def segfault() -> None:
    ctypes.string_at(0)


@serve.method
async def block_the_loop(seconds: int) -> None:
    LIBC.sleep(seconds)


@serve.method
def say(text: str) -> str:
    print(text)
    os.write(1, b"written to 1\n")
    LIBC.write(1, b"from native code\n", 17)
    subprocess.run(["echo", "from a child"], check=True)
    return text


@serve.method
def write_to(descriptors: list[int]) -> None:
    for fd in descriptors:
        os.write(fd, f"written to {fd}\n".encode())


@serve.method
def ask() -> str:
    return input("your name? ")


@serve.method
def leave(how: str) -> None:
    if how == "sys.exit":
        sys.exit(3)
    if how == "SystemExit":
        raise SystemExit
    if how == "KeyboardInterrupt":
        raise KeyboardInterrupt
    if how == "os._exit":
        os._exit(5)


@serve.method
async def leave_later(how: str) -> None:
    leave(how)


@serve.method
async def leave_a_task() -> str:
    async def quit() -> None:
        raise SystemExit(4)

    asyncio.ensure_future(quit())
    await asyncio.sleep(0.01)
    return "still here"


@serve.method
def close(what: str) -> str:
    if what == "sys.stdout":
        sys.stdout.close()
    elif what == "sys.stderr":
        sys.stderr.close()
    elif what == "1":
        os.close(1)
    elif what == "all":
        os.closerange(3, 4096)
    elif what == "pidfd":
        for fd in map(int, os.listdir("/proc/self/fd")):
            # The listing's own descriptor is gone by now.
            if os.path.lexists(f"/proc/self/fd/{fd}") and "pidfd" in os.readlink(f"/proc/self/fd/{fd}"):
                os.close(fd)
    return what


@serve.method
def listen_for_signals() -> str:
    """Puts another descriptor in place of the SDK's, and takes it away."""

    async def listen() -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, print)

    asyncio.run(listen())
    return "listened"


@serve.method
def fork(returns: bool) -> str:
    pid = os.fork()
    if pid == 0 and not returns:
        os._exit(0)
    if pid == 0:
        return "the child"
    _, status = os.waitpid(pid, 0)
    return f"the child ended with {os.waitstatus_to_exitcode(status)}"


@serve.method
def children() -> list[int]:
    """A multiprocessing pool inside of a worker."""
    import multiprocessing

    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map(abs, [-1, -2])


@serve.method
def environment() -> dict[str, str]:
    return dict(os.environ)


@serve.method
def array(megabytes: int) -> Any:
    import numpy

    return numpy.arange(megabytes << 17, dtype="f8")


@serve.method
def scale(values: Any) -> Any:
    return values * 2


@serve.method
def scales(arrays: Iterator[Any]) -> Iterator[Any]:
    for values in arrays:
        yield values * 2


@serve.method
def table(rows: int) -> Any:
    import pyarrow

    return pyarrow.table({"n": list(range(rows)), "text": [str(n) for n in range(rows)]})


@serve.method
def sum_of(table: Any) -> dict[str, Any]:
    import pyarrow.compute

    return {"type": type(table).__name__, "rows": table.num_rows, "sum": pyarrow.compute.sum(table["n"]).as_py()}


@serve.method
def byte(data: Any, ctx: Context) -> dict[str, Any]:
    return {"type": type(data).__name__, "size": len(data), "first": data[0], "last": data[-1]}


@serve.method
def blob(size: int) -> bytes:
    return bytes(range(256)) * (size // 256)


@serve.method
def blob_when_cancelled(size: int, ctx: Context) -> bytes:
    """Works to its end, also when its caller has left."""
    while not ctx.cancelled:
        time.sleep(0.001)
    time.sleep(0.05)
    return bytes(size)


@serve.method
def hold(data: Any) -> None:
    """Never returns while it has shared memory."""
    time.sleep(600)


if __name__ == "__main__":
    serve.run(load=lambda: {"loaded": True})
