"""The threads on which sync handlers run. The first one is the main thread: some libraries insist on it."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from concurrent.futures import Future
from typing import Any, Callable, Iterator, Optional

Job = Callable[[], None]


class Lane:
    """One thread's state, for those who ask whether it hangs."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.thread: Optional[threading.Thread] = None
        self.busy_since: Optional[float] = None
        """`time.monotonic` of the last sign of life within the present job; None between jobs and in our own waits."""

    def progress(self) -> None:
        """A sign of life from within the job."""
        if self.busy_since is not None:
            self.busy_since = time.monotonic()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """A wait for the other side: its length is unknown, and it is not a hang."""
        busy, self.busy_since = self.busy_since, None
        try:
            yield
        finally:
            self.busy_since = None if busy is None else time.monotonic()


_current = threading.local()


def current() -> Optional[Lane]:
    """The lane of the calling thread."""
    lane: Optional[Lane] = getattr(_current, "lane", None)
    return lane


@contextlib.contextmanager
def waiting() -> Iterator[None]:
    """`Lane.waiting` of the calling thread, if it is a lane."""
    lane = current()
    if lane is None:
        yield
    else:
        with lane.waiting():
            yield


class Lanes:
    """A fixed number of threads with one queue."""

    def __init__(self, count: int) -> None:
        self._jobs: "queue.SimpleQueue[Optional[Job]]" = queue.SimpleQueue()
        self.lanes = [Lane(f"ostler-lane-{index}") for index in range(max(1, count))]

    def start(self) -> None:
        """Starts all lanes but the first, which is `run_main`."""
        for lane in self.lanes[1:]:
            lane.thread = threading.Thread(target=self._run, args=(lane,), name=lane.name, daemon=True)
            lane.thread.start()

    def run_main(self) -> None:
        """Makes the calling thread the first lane, until `close`."""
        lane = self.lanes[0]
        lane.thread = threading.current_thread()
        self._run(lane)

    def post(self, job: Job) -> None:
        """Runs `job`, which does not raise, on the next free lane."""
        self._jobs.put(job)

    def submit(self, fn: Callable[..., Any], *args: Any) -> "Future[Any]":
        """Runs a function, which may raise and be cancelled before it begins, on the next free lane."""
        future: "Future[Any]" = Future()

        def job() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        self.post(job)
        return future

    def close(self) -> None:
        """Ends each lane after its present job."""
        for _ in self.lanes:
            self._jobs.put(None)

    def stuck(self, limit: float) -> Optional[Lane]:
        """A lane whose handler gave no sign of life for `limit` seconds."""
        now = time.monotonic()
        for lane in self.lanes:
            since = lane.busy_since
            if since is not None and now - since > limit:
                return lane
        return None

    def _run(self, lane: Lane) -> None:
        _current.lane = lane
        while True:
            job = self._jobs.get()
            if job is None:
                return
            lane.busy_since = time.monotonic()
            try:
                job()
            finally:
                lane.busy_since = None
