"""A worker whose own spans join the trace that started it, by the variable TRACEPARENT."""

import argparse
import os
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

ENDPOINT = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317")


class Health(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"ok\n")

    def log_message(self, *_):
        """Does not log health probes."""


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--tag", help="ignored; tests use it to find the worker's processes")
    port = parser.parse_args().port

    # OTEL_SERVICE_NAME, set in the pool's env, is the service's name.
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=ENDPOINT, insecure=True)))
    trace.set_tracer_provider(provider)
    tracer = trace.get_tracer("worker")

    # Ostler passes the trace context in the environment: the W3C header names in capitals.
    headers = {name: os.environ[name.upper()] for name in ("traceparent", "tracestate") if name.upper() in os.environ}
    started_by = TraceContextTextMapPropagator().extract(headers)

    with tracer.start_as_current_span("worker.load", context=started_by):
        with tracer.start_as_current_span("load the model"):
            time.sleep(0.05)
        server = HTTPServer(("127.0.0.1", port), Health)
    provider.force_flush(2000)
    server.serve_forever()


if __name__ == "__main__":
    main()
