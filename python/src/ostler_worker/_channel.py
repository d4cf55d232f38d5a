"""A queue between threads whose reader may be a thread or a coroutine, and which ends with an exception."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from typing import Deque, Generic, Optional, Tuple, TypeVar

T = TypeVar("T")


class Ended(Exception):
    """The sender ended the channel, and everything in it was read."""


class Channel(Generic[T]):
    """Unbounded; what bounds it is its producer's credit."""

    def __init__(self) -> None:
        self._items: Deque[T] = deque()
        self._error: Optional[BaseException] = None
        self._ready = threading.Condition(threading.Lock())
        self._waiting: Deque[Tuple[asyncio.AbstractEventLoop, "asyncio.Future[None]"]] = deque()

    def put(self, *items: T) -> None:
        """Adds items; after the end they are dropped."""
        with self._ready:
            if self._error is None:
                self._items.extend(items)
                self._wake()

    def close(self, error: BaseException, discard: bool = False) -> None:
        """Ends the channel: readers get `error` after what is still in it, or at once with `discard`."""
        with self._ready:
            if discard:
                self._items.clear()
            if self._error is None or discard:
                self._error = error
            self._wake()

    def get(self, until: Optional[float] = None) -> T:
        """The next item. `until` is a time of `time.monotonic`; after it, raises `TimeoutError`."""
        with self._ready:
            while True:
                if self._items:
                    return self._items.popleft()
                if self._error is not None:
                    raise self._error
                left = None if until is None else until - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError("nothing arrived in time")
                self._ready.wait(left)

    async def aget(self) -> T:
        """The next item, for a coroutine; may be cancelled without loss of an item."""
        loop = asyncio.get_running_loop()
        while True:
            with self._ready:
                if self._items:
                    return self._items.popleft()
                if self._error is not None:
                    raise self._error
                woken = loop.create_future()
                self._waiting.append((loop, woken))
            await woken

    def _wake(self) -> None:
        self._ready.notify_all()
        while self._waiting:
            loop, woken = self._waiting.popleft()
            try:
                loop.call_soon_threadsafe(_resolve, woken)
            except RuntimeError:
                # The loop is closed, and its reader gone with it.
                continue


def _resolve(woken: "asyncio.Future[None]") -> None:
    if not woken.done():
        woken.set_result(None)
