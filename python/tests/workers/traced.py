"""A worker with OpenTelemetry, whose spans can be asked for. With the folder of generated code as its first argument, it has a
servicer, too: sync or async by the second one."""

from __future__ import annotations

from ostler_worker import Context, serve

import sys  # noqa: E402
from typing import Any, AsyncIterator, Iterator  # noqa: E402

from opentelemetry import trace  # noqa: E402
from opentelemetry.sdk.trace import TracerProvider  # noqa: E402
from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: E402
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter  # noqa: E402

EXPORTER = InMemorySpanExporter()


def load() -> None:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(EXPORTER))
    trace.set_tracer_provider(provider)


@serve.method
def sync(ctx: Context) -> str:
    with trace.get_tracer("own").start_as_current_span("inner"):
        return "answer"


@serve.method
async def later() -> str:
    with trace.get_tracer("own").start_as_current_span("inner"):
        return "answer"


@serve.method
def items() -> Iterator[int]:
    yield 1


@serve.method
async def items_later() -> AsyncIterator[int]:
    yield 1


@serve.method
def fails() -> None:
    raise ValueError("no")


@serve.method
def asks(ctx: Context) -> Any:
    return ctx.host.where()


@serve.method
def spans() -> list[dict[str, Any]]:
    """Of all requests but this one."""

    def of(span: Any) -> dict[str, Any]:
        context = span.get_span_context()
        return {
            "name": span.name,
            "trace": f"{context.trace_id:032x}",
            "id": f"{context.span_id:016x}",
            "parent": None if span.parent is None else f"{span.parent.span_id:016x}",
            "error": not span.status.is_ok and not span.status.is_unset,
        }

    return [of(span) for span in EXPORTER.get_finished_spans() if span.name != "spans"]


def inner() -> Any:
    return trace.get_tracer("own").start_as_current_span("inner")


def serve_maths(generated: str, kind: str) -> None:
    sys.path.insert(0, generated)
    import test_pb2 as messages
    import test_pb2_grpc as services

    class Maths(services.MathsServicer):  # type: ignore[misc]
        def Double(self, request: Any, context: Any) -> Any:
            with inner():
                return messages.Number(value=2 * request.value)

        def Count(self, request: Any, context: Any) -> Any:
            with inner():
                yield messages.Number(value=request.value)

        def Sum(self, request: Any, context: Any) -> Any:
            with inner():
                return messages.Number(value=sum(each.value for each in request))

        def Running(self, request: Any, context: Any) -> Any:
            with inner():
                for each in request:
                    yield each

    class AsyncMaths(services.MathsServicer):  # type: ignore[misc]
        async def Double(self, request: Any, context: Any) -> Any:
            with inner():
                return messages.Number(value=2 * request.value)

        async def Count(self, request: Any, context: Any) -> Any:
            with inner():
                yield messages.Number(value=request.value)

        async def Sum(self, request: Any, context: Any) -> Any:
            with inner():
                return messages.Number(value=sum([each.value async for each in request]))

        async def Running(self, request: Any, context: Any) -> Any:
            with inner():
                async for each in request:
                    yield each

    serve.grpc(services.add_MathsServicer_to_server, Maths() if kind == "sync" else AsyncMaths())


if __name__ == "__main__":
    if len(sys.argv) > 2:
        serve_maths(*sys.argv[1:])
    serve.run(load=load)
