"""The thread that hears signals, sees the host go, sends heartbeats, and ends a drain that takes too long."""

from __future__ import annotations

import errno
import faulthandler
import os
import select
import signal
import sys
import threading
import time
from typing import Callable, Optional

from . import _notify, _process
from ._engine import Engine

_POKE = b"\0"
_EXIT = 0.05
"""Seconds that a cancelled handler has to come back, at the least."""


class Watch:
    """One thread that never waits for Python code of the worker's, so that it can end the process when others hang."""

    def __init__(self, engine: Engine, grace: float) -> None:
        self.engine = engine
        self.grace = grace
        self.stop_serving: Callable[[], None] = lambda: None
        """Called once, when the drain begins."""
        self.all_done: Callable[[], None] = lambda: None
        """Called once, when the drain is over."""
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._reader, select.POLLIN)
        self._parent: Optional[int] = None
        self._output: Optional[int] = None
        self._deadline: Optional[float] = None
        self._cancel_at: Optional[float] = None
        self._reason: Optional[str] = None
        self._finished = False
        self._beat_at: Optional[float] = None

    def start(self, parent: Optional[int]) -> None:
        """Begins to watch the host, by its parent's pidfd; signals come with `hear_signals`."""
        self._parent = parent
        if parent is not None:
            self._poll.register(parent, select.POLLIN)
        threading.Thread(target=self._run, name="ostler-watch", daemon=True).start()

    def watch_output(self, fd: int) -> None:
        """The host is gone when the other end of this descriptor is closed."""
        self._output = fd
        self._poll.register(fd, 0)  # POLLERR and POLLHUP are always reported
        self.poke()

    def hear_signals(self) -> None:
        """TERM and INT begin the drain. Python's own handlers run on the main thread, which may be in native code for long:
        the C-level handler writes the signal's number into our pipe at once."""
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._signalled)

    def _signalled(self, number: int, _: object) -> None:
        """Python's own handler: the worker's code may have put another descriptor in place of ours, as asyncio does where it is
        asked for signals."""
        if signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False) != self._writer:
            self.poke(bytes([number]))

    def beat(self) -> None:
        """Begins to send heartbeats, where the supervisor asks for them."""
        if _notify.notifier.watchdog is not None:
            self._beat_at = time.monotonic()
            self.poke()

    def poke(self, what: bytes = _POKE) -> None:
        try:
            os.write(self._writer, what)
        except BlockingIOError:
            pass

    def drain(self, reason: str) -> None:
        """Begins the drain, as a signal does; from any thread."""
        self._reason = self._reason or reason
        self.poke()

    def forget(self) -> None:
        """In a forked child."""
        for fd in (self._reader, self._writer, self._parent):
            if fd is not None:
                os.close(fd)

    # The thread ------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._watch()
        except OSError as error:
            _process.leave(
                _process.EX_IOERR, f"a descriptor of the protocol was closed by the worker's own code: {error}"
            )
        except BaseException as error:
            # Without this thread, the worker might outlive its host.
            sys.excepthook(type(error), error, error.__traceback__)
            _process.leave(_process.EX_SOFTWARE, "a fault in ostler_worker itself ended this worker")

    def _watch(self) -> None:
        while True:
            found = self._poll.poll(self._timeout())
            if any(events & select.POLLNVAL for _, events in found):
                # Whatever else is found is of no use: their numbers may be those of other files by now.
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            for fd, _ in found:
                if fd == self._reader:
                    self._hear(os.read(self._reader, 4096))
                elif fd == self._parent:
                    _process.leave(0, "the host is gone: its process has ended")
                elif fd == self._output:
                    _process.leave(0, "the host is gone: its end of stdout is closed")
            if self._reason is not None and self._deadline is None:
                self._begin_drain(self._reason)
            now = time.monotonic()
            self._go_on_draining(now)
            if self._beat_at is not None and now >= self._beat_at:
                self._send_beat(now)

    def _timeout(self) -> Optional[float]:
        times = [at for at in (self._beat_at, self._cancel_at, self._deadline) if at is not None]
        return max(0.0, (min(times) - time.monotonic()) * 1000 + 1) if times else None

    def _hear(self, data: bytes) -> None:
        for number in data:
            if number == signal.SIGTERM:
                self._reason = self._reason or "SIGTERM"
            elif number == signal.SIGINT:
                if self._reason is not None:
                    _process.leave(130, "a second interrupt: ended at once")
                self._reason = "SIGINT"

    def _begin_drain(self, reason: str) -> None:
        margin = min(1.0, max(0.05, self.grace * 0.1))
        self._deadline = time.monotonic() + max(_EXIT, self.grace - margin)
        self._cancel_at = self._deadline - min(0.5, max(_EXIT, self.grace * 0.1))
        self.engine.on_idle = self.poke
        self.engine.drain()
        _notify.notifier.send("STOPPING=1", f"STATUS=stopping ({reason}), {self.engine.in_flight()} in flight")
        self.stop_serving()

    def _go_on_draining(self, now: float) -> None:
        if self._deadline is None:
            return
        if not self._finished and self.engine.in_flight() == 0:
            self._finished = True
            self._cancel_at = None
            self.all_done()
        if self._cancel_at is not None and now >= self._cancel_at:
            self._cancel_at = None
            _process.say(f"the grace of {self.grace:g} s is nearly over: cancelling what is in flight")
            self.engine.cancel_all("the worker's grace is over")
        if now >= self._deadline:
            self._end_now()

    def _end_now(self) -> None:
        left = self.engine.in_flight()
        if left:
            _process.say(f"{left} requests outlast the grace of {self.grace:g} s; the threads are at:")
            faulthandler.dump_traceback(2, all_threads=True)
        _process.leave(0, f"ended at the end of its grace, {left} requests unanswered")

    def _send_beat(self, now: float) -> None:
        period = _notify.notifier.watchdog
        assert period is not None
        self._beat_at = now + period / 4
        # Silent from half the period on: a handler is found hung after one to one and a half periods without a sign of life.
        lane = self.engine.lanes.stuck(period / 2)
        if lane is None and self._loop_turns():
            _notify.notifier.send("WATCHDOG=1")

    _loop_asked: Optional[float] = None

    def _loop_turns(self) -> bool:
        """Whether the event loop, if there is one, has answered the last beat's question."""
        loop = self.engine.loop
        if loop is None:
            return True
        answered = self._loop_asked is None
        if answered:
            self._loop_asked = time.monotonic()
            loop.call_soon_threadsafe(self._loop_answers)
        return answered or time.monotonic() - (self._loop_asked or 0) < (_notify.notifier.watchdog or 0) / 2

    def _loop_answers(self) -> None:
        self._loop_asked = None
