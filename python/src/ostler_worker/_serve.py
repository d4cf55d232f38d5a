"""`serve`: what a worker's file calls."""

from __future__ import annotations

import asyncio
import os
import platform
import sys
import threading
from typing import Any, Callable, Optional, TypeVar, Union, overload

from . import _frames, _lanes, _methods, _notify, _process, _trace, _version
from ._engine import Engine
from ._stdio import PROTOCOL, Stdio, is_pipe_like
from ._watch import Watch

F = TypeVar("F", bound=Callable[..., Any])


class Serve:
    """Collects the functions and servicers of a worker, and serves them."""

    def __init__(self) -> None:
        self._methods = _methods.Methods()
        self._servicers: list[tuple[Any, Any]] = []
        self._running = False

    @overload
    def method(self, fn: F, /, *, name: Optional[str] = None, stream: Optional[bool] = None) -> F: ...

    @overload
    def method(
        self, fn: Optional[str] = None, /, *, name: Optional[str] = None, stream: Optional[bool] = None
    ) -> Callable[[F], F]: ...

    def method(
        self, fn: Union[F, str, None] = None, /, *, name: Optional[str] = None, stream: Optional[bool] = None
    ) -> Union[F, Callable[[F], F]]:
        """Serves a function: `@serve.method`, `@serve.method(name="other")`, or `serve.method(model.embed)`.

        It can be sync or async; a generator streams its items to the caller; a first parameter annotated as an iterator (or
        `stream=True`) is the caller's stream; a parameter named `ctx`, or annotated as `Context`, gets the request's context.
        Returns the function unchanged.
        """
        if isinstance(fn, str):
            name, fn = fn, None
        if fn is not None:
            self._methods.add(fn, name, stream)
            return fn

        def decorate(fn: F) -> F:
            self._methods.add(fn, name, stream)
            return fn

        return decorate

    def grpc(self, register: Callable[[Any, Any], None], servicer: Any) -> None:
        """Serves a generated servicer: `serve.grpc(add_EmbedderServicer_to_server, Embedder())`. Needs `ostler-worker[grpc]`."""
        self._servicers.append((register, servicer))

    def describe(self) -> dict[str, dict[str, str]]:
        """The methods and their kinds."""
        return self._methods.describe()

    def run(
        self,
        load: Optional[Callable[[], Any]] = None,
        *,
        transport: Optional[str] = None,
        framing: Optional[str] = None,
        concurrency: Optional[int] = None,
        address: Optional[str] = None,
    ) -> None:
        """Serves until SIGTERM, the end of stdin, or the end of the host; returns after the drain.

        `load` runs first, and its result is `ctx.state`: the worker is ready when it returns. It may be a coroutine function.
        The other arguments are for workers that are started by hand; what the host sets in the environment takes precedence:
        `transport` ("stdio" or "grpc"), `framing` ("packet" or "json"), `concurrency` (1): how many sync handlers run at
        once, `address` for gRPC ("127.0.0.1:0").
        """
        if os.environ.get("OSTLER_PREFLIGHT"):
            # `ostler check --preflight` wants the imports, and no server.
            return
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("serve.run() must be called from the main thread")
        if self._running:
            raise RuntimeError("serve.run() is already running in this process")
        self._running = True
        try:
            settings = _process.Settings.take()
            settings.framing = settings.framing or framing
            settings.concurrency = settings.concurrency or concurrency
            _Run(self._methods, self._servicers, settings, self._choose(settings, transport), address).run(load)
        except _process.ConfigurationError as error:
            _process.leave(_process.EX_CONFIG, str(error))
        finally:
            self._running = False

    def _choose(self, settings: _process.Settings, transport: Optional[str]) -> str:
        if transport not in (None, "stdio", "grpc"):
            raise _process.ConfigurationError(f"transport is {transport!r}; it can be stdio or grpc")
        chosen = settings.transport or transport
        if chosen is None:
            given = settings.socket is not None or settings.port is not None or settings.listen
            chosen = "grpc" if self._servicers or given else "stdio"
        if chosen == "stdio" and self._servicers:
            raise _process.ConfigurationError("a generated servicer needs the transport grpc, and stdio was chosen")
        if not len(self._methods) and not self._servicers:
            raise _process.ConfigurationError("there is nothing to serve: decorate a function with @serve.method")
        return chosen


class _Run:
    """One run of a worker, from `load` to the end of the drain."""

    def __init__(
        self,
        methods: _methods.Methods,
        servicers: list[tuple[Any, Any]],
        settings: _process.Settings,
        transport: str,
        address: Optional[str],
    ) -> None:
        self.settings = settings
        self.transport = transport
        self.address = address
        self.methods = methods
        self.servicers = servicers
        self.lanes = _lanes.Lanes(settings.concurrency or 1)
        self.engine = Engine(methods, self.lanes)
        self.watch = Watch(self.engine, settings.grace)

    def run(self, load: Optional[Callable[[], Any]]) -> None:
        _notify.notifier = _notify.Notifier.from_environment()
        if self.transport == "stdio":
            if _process.adopted.stdin is None and not is_pipe_like(0):
                raise _process.ConfigurationError(
                    "stdin is a terminal, and frames are expected there: start this worker by a pool, or try it with "
                    "python -m ostler_worker call FILE METHOD ARGUMENTS"
                )
            _process.adopted.take()
        else:
            _process.adopted.print_to_stderr()
        parent = None
        if self.settings.hosted:
            _process.die_with_parent()
            parent = _process.open_parent()
        self.watch.start(parent)
        _process.guard_forks(self.watch.forget, self.engine.segments.forget)
        self.engine.state = self._load(load)
        _trace.setup()
        self.lanes.start()
        if self.methods.any_async():
            self.engine.start_loop()
        self.watch.all_done = self.lanes.close
        self.watch.hear_signals()
        if self.transport == "stdio":
            self._start_stdio()
            finish: Callable[[], None] = lambda: None
        else:
            finish = self._start_grpc()
        self.watch.beat()
        self.lanes.run_main()
        finish()
        _trace.flush()

    def _load(self, load: Optional[Callable[[], Any]]) -> Any:
        if load is None:
            return None
        _notify.notifier.send("STATUS=loading")
        try:
            if asyncio.iscoroutinefunction(load):
                loop = self.engine.start_loop()
                return asyncio.run_coroutine_threadsafe(load(), loop).result()
            return load()
        except SystemExit as error:
            # A worker that ends with 0 before it serves has still not started.
            _process.say(f"load called sys.exit({error.code!r})")
            sys.exit(error.code if isinstance(error.code, int) and error.code != 0 else 1)

    def _start_stdio(self) -> None:
        stdin, stdout = _process.adopted.stdin, _process.adopted.stdout
        assert stdin is not None and stdout is not None
        stdio = Stdio(self.engine, stdin, stdout, self.settings.framing or "packet")
        stdio.on_end = self.watch.drain
        self.watch.watch_output(stdout)
        # The hello comes first: a host that receives READY=1 finds it in the pipe.
        stdio.start(self._hello())
        _notify.notifier.send("READY=1", f"STATUS=serving {len(self.methods)} methods on stdio")

    def _start_grpc(self) -> Callable[[], None]:
        try:
            from ._grpc import GrpcServer
        except ImportError as error:
            raise _process.ConfigurationError(
                f"the transport grpc needs grpcio ({error}): pip install 'ostler-worker[grpc]'"
            ) from error
        self._spawn_instead_of_fork()
        server = GrpcServer(self.engine, self.servicers, self._hello)
        port = server.start(self._address())
        grace = self.settings.grace
        self.watch.stop_serving = lambda: server.stop_accepting(grace)
        messages = ["READY=1", f"STATUS=serving {len(self.methods)} methods and {len(self.servicers)} servicers on gRPC"]
        if self.settings.socket is None:
            messages.insert(0, f"PORT={port}")
        _notify.notifier.send(*messages)
        if not self.settings.hosted:
            _process.say(f"serving on {self.settings.socket or f'127.0.0.1:{port}'}")
        return lambda: server.finish(grace)

    def _address(self) -> str:
        settings = self.settings
        if settings.socket is not None:
            return f"unix:{os.path.abspath(settings.socket)}"
        if settings.port is not None:
            return f"127.0.0.1:{settings.port}"
        if settings.listen:
            raise _process.ConfigurationError(
                'grpcio cannot serve a socket that the host has bound (LISTEN_FDS): set port = "unix" or "any" for this pool'
            )
        return self.address or "127.0.0.1:0"

    def _spawn_instead_of_fork(self) -> None:
        """grpcio's threads do not survive a fork; multiprocessing forks by default before Python 3.14."""
        import multiprocessing

        if multiprocessing.get_start_method(allow_none=True) is None:
            multiprocessing.set_start_method("spawn")

    def _hello(self) -> dict[str, Any]:
        return {
            "type": "hello",
            "protocol": PROTOCOL,
            "sdk": f"ostler-worker {_version.VERSION}",
            "language": f"python {platform.python_version()}",
            "pid": os.getpid(),
            "concurrency": len(self.lanes.lanes),
            "methods": self.methods.describe(),
            "features": ["shm", "functions", "credit", "ping"],
            "max_frame": _frames.MAX_FRAME,
        }


serve = Serve()
"""The worker of this process."""
