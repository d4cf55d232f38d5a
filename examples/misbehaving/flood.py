"""Writes 64 MiB that nobody reads. A pipe holds 64 KiB: whoever does not drain it stops this worker for ever."""

import sys

LINE = b"x" * 1023 + b"\n"

for _ in range(64 * 1024):
    sys.stdout.buffer.write(LINE)
