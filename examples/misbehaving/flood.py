"""Writes 64 MiB to stdout. A pipe holds 64 KiB, so the worker would block forever if its output were not read."""

import sys

LINE = b"x" * 1023 + b"\n"

for _ in range(64 * 1024):
    sys.stdout.buffer.write(LINE)
