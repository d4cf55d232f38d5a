"""Runs ostler.toml with a Jaeger for a while and kills workers meanwhile.

Needs a running Jaeger, see docs/jaeger.md. `--for 20` sets the time in seconds; OSTLER is the path of the program.
"""

import argparse
import json
import os
import queue
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
VENV = HERE / ".venv"
NEEDED = ["opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-grpc"]


def python_with_opentelemetry():
    """Creates a virtual environment next to this file, once. Its bin directory comes first in the workers' PATH."""
    if not (VENV / "ready").exists():
        print("creating a virtual environment with OpenTelemetry (only once) …", flush=True)
        venv.create(VENV, with_pip=True)
        subprocess.run([VENV / "bin" / "pip", "install", "--quiet", *NEEDED], check=True)
        (VENV / "ready").touch()
    return VENV / "bin"


def program():
    root = HERE.parent.parent
    target = Path(os.environ.get("CARGO_TARGET_DIR", root / "target"))
    found = os.environ.get("OSTLER") or target / "debug" / "ostler"
    if not Path(found).exists():
        sys.exit("ostler is not built; run: cargo build -p ostler-cli --no-default-features --features redb")
    return found


def reach_receiver():
    try:
        socket.create_connection(("127.0.0.1", 4317), timeout=2).close()
    except OSError as error:
        sys.exit(f"no OTLP receiver on 127.0.0.1:4317 ({error}); see docs/jaeger.md")


def read_events(run, events):
    for line in run.stdout:
        events.put(json.loads(line))
    events.put(None)


def kill_now_and_then(run, seconds):
    """Reads the events, kills a worker of the pool embed every second, and stops the run at the end."""
    events = queue.Queue()
    threading.Thread(target=read_events, args=(run, events), daemon=True).start()
    alive, next_kill, end = {}, time.monotonic() + 1, time.monotonic() + seconds
    while True:
        try:
            event = events.get(timeout=0.1)
        except queue.Empty:
            event = {}
        if event is None:
            return
        if event.get("pool") == "embed" and event["event"] == "worker.ready":
            alive[event["worker"]] = event["pid"]
        elif event.get("event") in ("worker.exited", "worker.stopping"):
            alive.pop(event.get("worker"), None)
        now = time.monotonic()
        if now > end:
            run.send_signal(signal.SIGTERM)
            end, alive = float("inf"), {}
        elif alive and now > next_kill and end < float("inf"):
            victim = random.choice(sorted(alive))
            os.kill(alive.pop(victim), signal.SIGKILL)
            print(f"killed {victim}", flush=True)
            next_kill = now + 1


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--for", dest="seconds", type=float, default=20)
    parser.add_argument("--prepare", action="store_true", help="only create the virtual environment")
    arguments = parser.parse_args()
    path = f"{python_with_opentelemetry()}{os.pathsep}{os.environ['PATH']}"
    if arguments.prepare:
        return
    reach_receiver()
    command = [program(), "up", HERE / "ostler.toml", "--events", "-", "--no-table"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PATH": path}) as run:
        try:
            kill_now_and_then(run, arguments.seconds)
        except KeyboardInterrupt:
            # The terminal sends SIGINT to ostler as well.
            run.wait()
    print("open http://127.0.0.1:16686/search?service=jaeger-demo; docs/jaeger.md says what to look for")
    # Status 1 is expected, because one pool gives up.
    sys.exit(0 if run.returncode in (0, 1) else run.returncode)


if __name__ == "__main__":
    main()
