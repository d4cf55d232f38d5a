"""Runs, but never gets ready."""

import signal

print("thinking about it", flush=True)
signal.pause()
