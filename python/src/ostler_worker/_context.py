"""What a handler can ask about its request, and do on its behalf."""

from __future__ import annotations

import contextvars
import time
from typing import Any, Mapping, Optional, Protocol

from . import _lanes, _notify
from ._errors import Cancelled, DeadlineExceeded


class HostCaller(Protocol):
    """What carries a handler's calls to the host."""

    def call_host(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any: ...


class Context:
    """The request that a handler works on. A handler gets it by a parameter named `ctx`, or annotated with this type."""

    def __init__(
        self,
        *,
        id: int = 0,
        method: str = "",
        deadline: Optional[float] = None,
        traceparent: Optional[str] = None,
        tracestate: Optional[str] = None,
        session: Optional[str] = None,
        metadata: Optional[Mapping[str, str]] = None,
        state: Any = None,
        caller: Optional[HostCaller] = None,
    ) -> None:
        self.id = id
        """The request's id, unique among those in flight."""
        self.method = method
        self.deadline = deadline
        """When the caller stops waiting, on the clock of `time.monotonic`; None: never."""
        self.traceparent = traceparent
        self.tracestate = tracestate
        self.session = session
        """The caller's session, if it has one."""
        self.metadata: Mapping[str, str] = metadata or {}
        self.state: Any = state
        """What `load` returned."""
        self.host = Host(caller)
        """Functions that the host offers: `ctx.host.lookup(key)`; in an async handler, `await ctx.host.lookup(key)`."""
        self._cancelled: Optional[str] = None

    @property
    def cancelled(self) -> bool:
        """Whether the caller no longer wants the result."""
        return self._cancelled is not None

    def remaining(self) -> Optional[float]:
        """Seconds to the deadline, at least 0; None where there is none. Fits as the timeout of most libraries."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def check(self) -> None:
        """Raises `Cancelled` or `DeadlineExceeded` when the result is of no use any more. Also a heartbeat.

        A sync handler that works for long calls it now and then: nothing else can interrupt it.
        """
        self.heartbeat()
        if self._cancelled is not None:
            raise Cancelled(self._cancelled)
        if self.deadline is not None and time.monotonic() >= self.deadline:
            raise DeadlineExceeded(f"the deadline of {self.method} has passed")

    def heartbeat(self) -> None:
        """Says that this handler still makes progress. Without it (or a `yield`), one that runs for longer than the pool's
        `watchdog` counts as hung."""
        lane = _lanes.current()
        if lane is not None:
            lane.progress()

    def status(self, text: str) -> None:
        """Shows `text` as the worker's status."""
        _notify.notifier.send(f"STATUS={text}")


class Host:
    """The functions of the host, by attribute."""

    def __init__(self, caller: Optional[HostCaller]) -> None:
        self._caller = caller

    def __getattr__(self, name: str) -> HostFunction:
        if name.startswith("__"):
            raise AttributeError(name)
        return HostFunction(self._caller, name)

    def call(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        """The function of any name, also one that is no Python identifier."""
        return HostFunction(self._caller, name)(*args, **kwargs)


class HostFunction:
    """One function of the host. Raises `HostError` where it fails; the request's deadline applies."""

    def __init__(self, caller: Optional[HostCaller], name: str) -> None:
        self._caller = caller
        self._name = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._caller is None:
            raise RuntimeError("a context made by hand has no host")
        return self._caller.call_host(self._name, args, kwargs)


_current: contextvars.ContextVar[Optional[Context]] = contextvars.ContextVar("ostler_worker_context", default=None)


def current_context() -> Context:
    """The context of the request that the calling handler works on. Raises `LookupError` outside of one."""
    ctx = _current.get()
    if ctx is None:
        raise LookupError("no request is being handled here")
    return ctx
