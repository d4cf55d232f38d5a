"""What a worker does to its own process: environment, standard descriptors, forks."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import sys
from dataclasses import dataclass
from typing import Callable, NoReturn, Optional

EX_SOFTWARE = 70
EX_IOERR = 74
EX_PROTOCOL = 76
EX_CONFIG = 78

_PRIVATE_FROM = 100
"""Private descriptors get numbers from here on, out of the way of code that closes or reuses low ones."""

_NUMERIC = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "RAYON_NUM_THREADS",
)


class ConfigurationError(Exception):
    """The worker cannot serve as it is started; the message says what to do."""


def limit_numeric_threads() -> None:
    """One thread for numeric libraries, each variable unless it is set: a pool has its parallelism in its processes.

    `OSTLER_THREADS` sets another number; `OSTLER_THREADS=all` leaves the libraries alone.
    """
    chosen = os.environ.get("OSTLER_THREADS", "1")
    if chosen == "all":
        return
    # Libraries read these when they are loaded.
    late = [name for name in ("numpy", "torch", "tokenizers") if name in sys.modules]
    if late and not any(name in os.environ for name in _NUMERIC):
        say(
            f"{', '.join(late)} was imported before ostler_worker and may start a thread per core: "
            "import ostler_worker first, or set OMP_NUM_THREADS"
        )
    for name in _NUMERIC:
        os.environ.setdefault(name, chosen)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false" if chosen == "1" else "true")


def keep_grpc_out_of_forks() -> None:
    """Has grpcio start no threads in a forked copy of this process, unless the variable is set.

    By default it does, and they crash where the worker has a server. grpcio reads the variable when it is loaded, which generated
    code does before `serve` does; so this is called when the package is imported.
    """
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")


def take_core() -> None:
    """Runs this process on one core, where the host asks for it: `OSTLER_CORE` is the worker's number, and the cores that the
    process may use are taken in turn. At import, so that every thread that numeric libraries start has the same core."""
    try:
        number = _number("OSTLER_CORE", os.environ.pop("OSTLER_CORE", None), 0)
    except ConfigurationError as error:
        leave(EX_CONFIG, str(error))
    if number is not None:
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[number % len(cores)]})


@dataclass
class Settings:
    """What the host asks of this worker by its environment."""

    transport: Optional[str]
    framing: Optional[str]
    concurrency: Optional[int]
    grace: float
    socket: Optional[str]
    port: Optional[int]
    listen: bool
    hosted: bool

    @classmethod
    def take(cls) -> Settings:
        """Reads the variables, and removes those that children must not inherit. Raises `ConfigurationError`."""
        env = os.environ
        transport = adopted.transport or env.pop("OSTLER_TRANSPORT", None)
        framing = env.pop("OSTLER_FRAMING", None)
        if transport not in (None, "stdio", "grpc"):
            raise ConfigurationError(f"OSTLER_TRANSPORT is {transport!r}; it can be stdio or grpc")
        if framing not in (None, "packet", "json"):
            raise ConfigurationError(f"OSTLER_FRAMING is {framing!r}; it can be packet or json")
        listen = env.pop("LISTEN_FDS", "") not in ("", "0") and env.pop("LISTEN_PID", "") in ("", str(os.getpid()))
        marked = any(name.startswith("OSTLER_RUN_") for name in env)
        return cls(
            transport=transport,
            framing=framing,
            concurrency=_number("OSTLER_CONCURRENCY", env.pop("OSTLER_CONCURRENCY", None), 1),
            grace=(_number("OSTLER_GRACE_MS", env.pop("OSTLER_GRACE_MS", None), 0) or 5000) / 1000,
            socket=env.pop("OSTLER_SOCKET", None) or None,
            port=_number("PORT", env.get("PORT"), 0),
            listen=listen,
            hosted=marked or transport is not None,
        )


def _number(name: str, text: Optional[str], least: int) -> Optional[int]:
    if text is None or text == "":
        return None
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise ConfigurationError(f"{name} is {text!r}; it is a whole number from {least} on")
    return value


class Adopted:
    """The standard descriptors, taken from user code before it can read or write what is the protocol's."""

    def __init__(self) -> None:
        self.transport: Optional[str] = None
        self.stdin: Optional[int] = None
        self.stdout: Optional[int] = None
        self.stderr: Optional[int] = None
        """What 1 and 2 are, as a private descriptor."""

    def early(self) -> None:
        """At import: where the host has announced the transport, no `print` at import time reaches the protocol."""
        self.transport = os.environ.pop("OSTLER_TRANSPORT", None)
        if self.transport == "stdio":
            self.take()
        elif self.transport == "grpc":
            self.print_to_stderr()

    def take(self) -> None:
        """Moves the protocol to private descriptors. 0 becomes /dev/null, 1 a second stderr."""
        if self.stdout is not None:
            return
        try:
            self.stdin = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, _PRIVATE_FROM)
            self.stdout = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, _PRIVATE_FROM)
        except OSError as error:
            raise ConfigurationError(f"stdin or stdout is not open: {error}") from error
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        self.print_to_stderr()

    def print_to_stderr(self) -> None:
        """1 becomes a second stderr, for `print`, children and native code. Only once: what the worker's own code makes of 1
        afterwards stays."""
        if self.stderr is not None or sys.__stdout__ is None:
            # Without a stdout at the start, 1 may be any descriptor by now.
            return
        with contextlib.suppress(OSError, ValueError):
            # What was printed before us is text in the stream already; it must not stay in a buffer until the first frame.
            sys.__stdout__.flush()
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            self.stderr = fcntl.fcntl(2, fcntl.F_DUPFD_CLOEXEC, _PRIVATE_FROM)
        except OSError:
            # There is none.
            self.stderr = fcntl.fcntl(null, fcntl.F_DUPFD_CLOEXEC, _PRIVATE_FROM)
        os.close(null)
        os.dup2(self.stderr, 1)
        with contextlib.suppress(ValueError):
            # As stderr: `leave` flushes no buffer.
            sys.__stdout__.reconfigure(line_buffering=True)

    def restore(self) -> None:
        """Opens 1 and 2 again where a handler has closed them: the next file or connection would have the number, and get what is
        printed."""
        if self.stderr is None:
            return
        for fd in (1, 2):
            try:
                fcntl.fcntl(fd, fcntl.F_GETFD)
            except OSError:
                with contextlib.suppress(OSError):
                    os.dup2(self.stderr, fd)


adopted = Adopted()


# Forks ---------------------------------------------------------------------------------------------------------------

_serving_pid: Optional[int] = None
_forget: list[Callable[[], None]] = []


def guard_forks(*forget: Callable[[], None]) -> None:
    """From here on a forked copy of this process loses the protocol, and ends where it would answer a request."""
    global _serving_pid
    _serving_pid = os.getpid()
    _forget.extend(forget)
    os.register_at_fork(after_in_child=_in_child)


def _in_child() -> None:
    # A copy of stdout, or of the log, would keep the host from seeing that the worker is gone.
    for fd in (adopted.stdin, adopted.stdout, adopted.stderr):
        if fd is not None:
            try:
                os.close(fd)
            except OSError:
                pass
    adopted.stdin = adopted.stdout = adopted.stderr = None
    for forget in _forget:
        forget()
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
    except ValueError:
        # Forked by another thread than the main one: in the child, that thread is the main one, but Python may differ.
        pass


def end_forked_copy(method: str) -> None:
    """Ends this process if it is a forked copy of the worker: the request is its parent's to answer."""
    if _serving_pid is not None and os.getpid() != _serving_pid:
        leave(
            EX_SOFTWARE,
            f"a forked copy of the worker came back from the handler {method!r} and was ended: the child of os.fork() in a "
            "handler must end with os._exit(), or use subprocess or multiprocessing",
        )


def say(message: str) -> None:
    """A line on stderr. Past `sys.stderr`, which a handler may have closed or replaced."""
    with contextlib.suppress(OSError):
        os.write(2, f"ostler_worker: {message}\n".encode("utf-8", "replace"))


def leave(status: int, message: str) -> NoReturn:
    """Ends the process at once, whatever its other threads do."""
    try:
        say(message)
    finally:
        os._exit(status)


# Parent --------------------------------------------------------------------------------------------------------------

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Has the kernel kill this process with its parent, even while native code holds the interpreter's lock.

    The signal comes when the *thread* that started us ends, so only a parent of one thread (Ostler's sitter is one) is
    trusted with it.
    """
    parent = os.getppid()
    try:
        threads = len(os.listdir(f"/proc/{parent}/task"))
    except OSError:
        return
    if parent > 1 and threads == 1:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(0)


def open_parent() -> Optional[int]:
    """A pidfd of the parent; None where its death cannot be seen: it is init, or of another PID namespace."""
    parent = os.getppid()
    if parent <= 1:
        return None
    try:
        fd = os.pidfd_open(parent, 0)
    except (OSError, AttributeError):
        return None
    if os.getppid() != parent:
        os._exit(0)
    return fd
