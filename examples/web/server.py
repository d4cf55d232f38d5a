"""A web server that uses only the standard library: one process of the pool.

GET /healthz  answers 200
GET /         answers with the worker's name and pid
TERM          finishes the current requests, then exits with status 0
"""

import argparse
import os
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def worker_name() -> str:
    """The value of the marker variable that Ostler sets: OSTLER_RUN_<id>=web/0#1."""
    for name, value in os.environ.items():
        if name.startswith("OSTLER_RUN_"):
            return value
    return "(not started by Ostler)"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/healthz":
            self.answer(200, "ok\n")
        elif self.path == "/":
            self.answer(200, f"worker {worker_name()}, pid {os.getpid()}\n")
        else:
            self.answer(404, "not found; try / or /healthz\n")

    def answer(self, status: int, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code="-", size="-") -> None:
        if self.path != "/healthz":
            super().log_request(code, size)


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--port", type=int, required=True)
    server = ThreadingHTTPServer(("127.0.0.1", arguments.parse_args().port), Handler)
    # shutdown() blocks until the serving loop, which runs in this thread, has ended.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print(f"serving on port {server.server_port}", flush=True)
    server.serve_forever(poll_interval=0.05)
    server.server_close()
    print("stopped", flush=True)


if __name__ == "__main__":
    main()
