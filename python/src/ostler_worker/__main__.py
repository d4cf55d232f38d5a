"""`python -m ostler_worker`: try a worker without a pool."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from . import _version
from .testing import Worker, WorkerError, WorkerGone


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m ostler_worker", description="Try a stdio worker without a pool.")
    parser.add_argument("--version", action="version", version=f"ostler-worker {_version.VERSION}")
    commands = parser.add_subparsers(dest="command", required=True)
    describe = commands.add_parser("describe", help="start a worker and list its methods")
    describe.add_argument("file")
    call = commands.add_parser("call", help="start a worker, call a method, print its answer as JSON")
    call.add_argument("file", help="the worker's Python file")
    call.add_argument("method")
    call.add_argument("arguments", nargs="*", help="each as JSON; what is no JSON is a string")
    call.add_argument("--timeout", type=float, default=60.0, help="seconds (60)")
    arguments = parser.parse_args()
    try:
        with Worker(arguments.file, start_timeout=600.0) as worker:
            if arguments.command == "describe":
                return _describe(worker)
            return _call(worker, arguments)
    except WorkerGone as gone:
        print(f"{gone.stderr}{arguments.file} ended with {gone.status} before it answered", file=sys.stderr)
        return 1


def _describe(worker: Worker) -> int:
    for name, kinds in sorted(worker.hello["methods"].items()):
        print(f"{name}  {kinds['input']} -> {kinds['output']}")
    return 0


def _call(worker: Worker, arguments: argparse.Namespace) -> int:
    values = [_value(text) for text in arguments.arguments]
    try:
        if worker.hello["methods"].get(arguments.method, {}).get("output") == "stream":
            for item in worker.stream(arguments.method, *values):
                _print(item)
        else:
            _print(worker.call(arguments.method, *values, timeout=arguments.timeout))
    except WorkerError as error:
        print(error.traceback or error, file=sys.stderr)
        return 1
    finally:
        print(worker.stderr, end="", file=sys.stderr)
    return 0


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _print(value: Any) -> None:
    print(json.dumps(value, default=lambda other: other.tolist() if hasattr(other, "tolist") else str(other)), flush=True)


if __name__ == "__main__":
    sys.exit(main())
