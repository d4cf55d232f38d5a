"""What can end a request beside its result, and how an exception is described to the caller."""

from __future__ import annotations

import asyncio
import traceback
from typing import Any, Optional

Cancelled = asyncio.CancelledError
"""Raised in a handler whose request was cancelled: at an `await`, a `yield`, or `ctx.check()`. A `BaseException`, so that
`except Exception` does not swallow it."""


class DeadlineExceeded(TimeoutError):
    """The request's deadline has passed."""


class HostError(Exception):
    """A function of the host failed, or cannot be called."""

    def __init__(self, message: str, *, code: str = "exception", type: str = "", traceback: str = "") -> None:
        super().__init__(message)
        self.code = code
        """As in the table of errors: `exception`, `method_not_found`, `deadline_exceeded`, …"""
        self.type = type
        """The type's name in the host."""
        self.traceback = traceback


class Refused(Exception):
    """A request that no handler has seen."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def describe(error: BaseException, *, executed: bool = True, skip: Optional[str] = None) -> dict[str, Any]:
    """The error map of the protocol. Frames of the file `skip` (our own) are left out of the traceback's top."""
    if isinstance(error, Refused):
        return {"code": error.code, "type": error.code, "message": str(error), "bases": [], "executed": False}
    kind = type(error)
    if isinstance(error, KeyboardInterrupt):
        code = "interrupt"
    elif isinstance(error, SystemExit):
        code = "exit"
    elif isinstance(error, asyncio.CancelledError):
        code = "cancelled"
    elif isinstance(error, DeadlineExceeded):
        code = "deadline_exceeded"
    else:
        code = "exception"
    return {
        "code": code,
        "type": kind.__qualname__,
        "module": kind.__module__,
        "message": message_of(error),
        "traceback": traceback_of(error, skip),
        "bases": [base.__name__ for base in kind.__mro__ if base is not object],
        "executed": executed,
    }


def message_of(error: BaseException) -> str:
    """The exception's own text; its `str` may itself raise."""
    if isinstance(error, SystemExit):
        return f"the handler called sys.exit({'' if error.code is None else repr(error.code)}); the worker goes on serving"
    try:
        return str(error)
    except Exception:
        return f"<{type(error).__qualname__} whose message cannot be shown>"


def traceback_of(error: BaseException, skip: Optional[str] = None) -> str:
    trace = error.__traceback__
    while skip is not None and trace is not None and trace.tb_frame.f_code.co_filename.startswith(skip):
        trace = trace.tb_next
    try:
        return "".join(traceback.format_exception(type(error), error, trace))
    except Exception:
        return f"{type(error).__qualname__}: {message_of(error)}\n"
