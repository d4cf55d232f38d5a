"""Runs, but never becomes ready."""

import signal

print("not ready yet", flush=True)
signal.pause()
