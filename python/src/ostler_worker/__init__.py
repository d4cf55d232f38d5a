"""Python workers for Ostler.

    from ostler_worker import serve, Context

    @serve.method
    def embed(texts: list[str], ctx: Context) -> list[list[float]]: ...

    if __name__ == "__main__":
        serve.run(load=load_model)

Importing this package limits numeric libraries to one thread (see `OSTLER_THREADS`), takes the core that the pool has chosen,
and, in a worker that a host has started, sends what is printed to stderr, and moves the protocol off stdout; so import it first.
"""

from . import _process

_process.adopted.early()
_process.limit_numeric_threads()
_process.keep_grpc_out_of_forks()
_process.take_core()

from ._context import Context, Host, HostFunction, current_context  # noqa: E402
from ._errors import Cancelled, DeadlineExceeded, HostError  # noqa: E402
from ._serve import Serve, serve  # noqa: E402
from ._version import VERSION as __version__  # noqa: E402

__all__ = [
    "Cancelled",
    "Context",
    "DeadlineExceeded",
    "Host",
    "HostError",
    "HostFunction",
    "Serve",
    "__version__",
    "current_context",
    "serve",
]
