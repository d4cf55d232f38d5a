"""The functions that a worker serves, and how a request's arguments fit them."""

from __future__ import annotations

import collections.abc
import inspect
import typing
from dataclasses import dataclass
from typing import Any, Callable, Optional

from ._context import Context
from ._errors import Refused

_STREAMS = ("Iterator", "Iterable", "Generator", "AsyncIterator", "AsyncIterable", "AsyncGenerator")


@dataclass
class Method:
    """One served function."""

    name: str
    fn: Callable[..., Any]
    is_async: bool
    """It is a coroutine function or an async generator: it runs on the event loop."""
    input: str
    """`unary`, or `stream`: its first parameter is an iterator of the caller's items."""
    output: str
    context: Optional[str]
    """The name of the parameter that gets the `Context`."""
    signature: inspect.Signature

    def bind(self, args: list[Any], kwargs: dict[str, Any], ctx: Context) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What the function is called with. Raises `Refused` where the arguments do not fit."""
        if len(args) == 1 and args[0] is None and not kwargs and not self._takes_any():
            # A caller whose call always has an argument sends nil to a function without parameters.
            args = []
        if self.context is not None:
            kwargs = {**kwargs, self.context: ctx}
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise Refused("invalid_arguments", f"{self.name}{self.shown()}: {error}") from None
        return bound.args, bound.kwargs

    def _takes_any(self) -> bool:
        return any(name != self.context for name in self.signature.parameters)

    def shown(self) -> str:
        """The signature for people, without the context."""
        kept = [p for name, p in self.signature.parameters.items() if name != self.context]
        return str(self.signature.replace(parameters=kept))


class Methods:
    """All of a worker's methods, by name."""

    def __init__(self) -> None:
        self._by_name: dict[str, Method] = {}

    def __len__(self) -> int:
        return len(self._by_name)

    def add(self, fn: Callable[..., Any], name: Optional[str] = None, stream: Optional[bool] = None) -> Method:
        """Adds a function. `stream` says whether its first parameter is a stream, where no annotation does."""
        method = examine(fn, name, stream)
        if method.name in self._by_name:
            raise ValueError(f"there are two methods named {method.name!r}: give one of them another name")
        self._by_name[method.name] = method
        return method

    def find(self, name: Optional[str]) -> Method:
        """The method of a request. Raises `Refused`."""
        if name is None and len(self._by_name) == 1:
            return next(iter(self._by_name.values()))
        method = self._by_name.get(name or "")
        if method is None:
            known = ", ".join(sorted(self._by_name)) or "none: decorate a function with @serve.method"
            asked = "the request names no method" if name is None else f"there is no method {name!r}"
            raise Refused("method_not_found", f"{asked}; this worker's methods: {known}")
        return method

    def describe(self) -> dict[str, dict[str, str]]:
        """For `hello`."""
        return {m.name: {"input": m.input, "output": m.output} for m in self._by_name.values()}

    def any_async(self) -> bool:
        return any(method.is_async for method in self._by_name.values())


def examine(fn: Callable[..., Any], name: Optional[str], stream: Optional[bool]) -> Method:
    """What a function's signature says of it."""
    called = fn if inspect.isroutine(fn) or not hasattr(fn, "__call__") else fn.__call__
    if inspect.isclass(fn):
        raise TypeError(f"{fn.__qualname__} is a class: serve the methods of an instance, serve.method(instance.method)")
    signature = inspect.signature(fn)
    hints = _hints(called)
    parameters = list(signature.parameters.values())
    context = next((p.name for p in parameters if _is_context(p, hints)), None)
    first = next((p for p in parameters if p.name != context), None)
    if stream is None:
        stream = first is not None and _is_stream(hints.get(first.name, first.annotation))
    chosen = name or getattr(fn, "__name__", None)
    if not chosen:
        raise ValueError("this function has no name: use serve.method(fn, name=...)")
    return Method(
        name=chosen,
        fn=fn,
        is_async=inspect.iscoroutinefunction(called) or inspect.isasyncgenfunction(called),
        input="stream" if stream else "unary",
        output="stream" if inspect.isgeneratorfunction(called) or inspect.isasyncgenfunction(called) else "unary",
        context=context,
        signature=signature,
    )


def _hints(fn: Callable[..., Any]) -> dict[str, Any]:
    """Annotations as types; where one cannot be evaluated (a name under TYPE_CHECKING), all stay as they are written."""
    try:
        return typing.get_type_hints(fn)
    except Exception:
        return dict(getattr(fn, "__annotations__", {}))


def _is_context(parameter: inspect.Parameter, hints: dict[str, Any]) -> bool:
    hint = hints.get(parameter.name)
    if hint is Context or (isinstance(hint, str) and hint.split(".")[-1].strip("'\"") == "Context"):
        return True
    return parameter.name == "ctx" and hint is None


def _is_stream(hint: Any) -> bool:
    if isinstance(hint, str):
        return hint.split("[")[0].split(".")[-1] in _STREAMS
    origin = typing.get_origin(hint) or hint
    return any(origin is getattr(collections.abc, name) for name in _STREAMS)
