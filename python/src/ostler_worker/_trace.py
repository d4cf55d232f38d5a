"""Spans of handlers in the caller's trace, where OpenTelemetry is installed and in use."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from typing import Any, Iterator, Optional

from . import _process
from ._context import Context

_state: dict[str, Any] = {"tracer": None, "looked": False}

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def setup() -> None:
    """Finds the tracer: the provider that the worker's own code has set up, or one by the standard OTEL_* variables."""
    _state["looked"] = True
    exporting = any(os.environ.get(name) for name in _ENDPOINTS)
    if "opentelemetry.trace" not in sys.modules and not (exporting and _installed("opentelemetry.sdk.trace")):
        return
    from opentelemetry import trace

    if exporting and type(trace.get_tracer_provider()).__name__ == "ProxyTracerProvider":
        _export(trace)
    _state["tracer"] = trace.get_tracer("ostler_worker")


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


def _export(trace: Any) -> None:
    if not _installed("opentelemetry.exporter.otlp.proto.http"):
        _process.say("OTEL_* asks for traces: pip install 'ostler-worker[otel]'")
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


@contextlib.contextmanager
def span(ctx: Context) -> Iterator[None]:
    """A server span around a handler, below the caller's span."""
    tracer = _state["tracer"]
    if tracer is None:
        yield
        return
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {"traceparent": ctx.traceparent or "", "tracestate": ctx.tracestate or ""}
    parent = TraceContextTextMapPropagator().extract({name: value for name, value in carrier.items() if value})
    attributes = {"rpc.system": "ostler", "rpc.method": ctx.method}
    with tracer.start_as_current_span(ctx.method, context=parent, kind=trace.SpanKind.SERVER, attributes=attributes):
        yield


def current_traceparent() -> Optional[str]:
    """The present span, for calls that the handler makes."""
    if _state["tracer"] is None:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent")


def flush() -> None:
    """Sends the spans that are still here, for two seconds at most."""
    if _state["tracer"] is None:
        return
    from opentelemetry import trace

    force = getattr(trace.get_tracer_provider(), "force_flush", None)
    if callable(force):
        force(2000)
