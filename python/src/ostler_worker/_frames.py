"""Frames on a pair of descriptors: length-prefixed MessagePack, or JSON lines."""

from __future__ import annotations

import json
import os
import struct
import threading
from typing import Any, Optional

from . import _values

MAX_FRAME = (64 << 20) + (64 << 10)
"""Longest frame in bytes that a side accepts unless it announces another limit: 64 MiB and 64 KiB."""


class ProtocolError(Exception):
    """What arrived is not this protocol."""


class FrameTooLong(ValueError):
    """A frame would be longer than its receiver accepts."""


class PipeBroken(Exception):
    """The other side no longer reads."""


class PipeClosed(Exception):
    """This process itself has closed or replaced the descriptor."""


FINDINGS = ""
"""The field (no sender uses the empty name) in which a received frame carries what decoding it came across, if anything."""


def unpack(body: bytes) -> Any:
    """A frame from its MessagePack. Raises `ProtocolError`."""
    findings = _values.Findings()
    try:
        frame = _values.decode(body, findings)
    except _values.Undecodable as error:
        raise ProtocolError(f"a frame is not MessagePack: {error}") from error
    if (findings.broken or findings.segments) and isinstance(frame, dict):
        frame[FINDINGS] = findings
    return frame


class Reader:
    """Reads frames from a descriptor that only it reads."""

    def __init__(self, fd: int, framing: str, max_frame: int = MAX_FRAME) -> None:
        self._fd = fd
        self._framing = framing
        self._max = max_frame
        self._buffer = bytearray()

    def read(self) -> Optional[dict[str, Any]]:
        """The next frame; None at the end of the file."""
        frame = self._line() if self._framing == "json" else self._packet()
        if frame is not None and not isinstance(frame, dict):
            raise ProtocolError(f"a frame is a map, and this one is a {type(frame).__name__}")
        return frame

    def _fill(self, size: int) -> bool:
        while len(self._buffer) < size:
            data = os.read(self._fd, max(65536, min(size - len(self._buffer), 1 << 20)))
            if not data:
                if self._buffer:
                    raise ProtocolError(f"the input ended within a frame: {len(self._buffer)} bytes are left over")
                return False
            self._buffer += data
        return True

    def _packet(self) -> Any:
        if not self._fill(4):
            return None
        (size,) = struct.unpack_from(">I", self._buffer)
        if not 0 < size <= self._max:
            start = bytes(self._buffer[:40])
            raise ProtocolError(f"a frame of {size} bytes, where 1 to {self._max} are allowed; it begins with {start!r}")
        self._fill(4 + size)
        with memoryview(self._buffer) as view:
            body = bytes(view[4 : 4 + size])
        del self._buffer[: 4 + size]
        return unpack(body)

    def _line(self) -> Any:
        searched = 0
        while True:
            end = self._buffer.find(b"\n", searched)
            if end >= 0:
                line = bytes(self._buffer[:end])
                del self._buffer[: end + 1]
                if not line.strip():
                    searched = 0
                    continue
                try:
                    return json.loads(line)
                except ValueError as error:
                    raise ProtocolError(f"a line is not JSON: {error}: {line[:80]!r}") from error
            searched = len(self._buffer)
            if searched > self._max:
                raise ProtocolError(f"a line is longer than {self._max} bytes")
            if not self._fill(searched + 1):
                return None


class Writer:
    """Writes frames to a descriptor, one at a time."""

    def __init__(self, fd: int, framing: str) -> None:
        self._fd = fd
        self._framing = framing
        self._lock = threading.Lock()
        self._place = _place(fd)
        self.max_frame = MAX_FRAME
        """The longest frame that the other side accepts."""
        self.lend: Optional[_values.Lend] = None
        """How large bytes get into shared memory; None where the other side cannot read it."""
        self.shm_min = 1 << 20

    def encode(self, frame: dict[str, Any], lend: Optional[_values.Lend] = None) -> bytes:
        """The bytes of a frame's body. Raises `FrameTooLong`, or what the value's encoder raises."""
        if self._framing == "json":
            body = json.dumps(frame, separators=(",", ":"), default=_json_default).encode()
        else:
            body = _values.encode_frame(frame, lend, self.shm_min)
        if len(body) > self.max_frame:
            raise FrameTooLong(f"{len(body)} bytes, where the receiver accepts {self.max_frame}")
        return body

    def write(self, body: bytes) -> None:
        """Writes one encoded frame whole. Raises `PipeBroken` or `PipeClosed`."""
        if self._framing == "json":
            parts = [memoryview(body), memoryview(b"\n")]
        else:
            parts = [memoryview(struct.pack(">I", len(body))), memoryview(body)]
        with self._lock:
            # A handler may close every descriptor above 2, and open a file that gets our number: no frame goes there.
            if _place(self._fd) != self._place:
                raise PipeClosed(f"descriptor {self._fd} of the protocol was closed by the worker's own code")
            try:
                while parts:
                    done = os.writev(self._fd, parts)
                    while parts and done >= len(parts[0]):
                        done -= len(parts.pop(0))
                    if parts:
                        parts[0] = parts[0][done:]
            except (BrokenPipeError, ConnectionResetError) as error:
                raise PipeBroken(str(error)) from error


def _place(fd: int) -> Optional[tuple[int, int]]:
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _json_default(value: Any) -> Any:
    numpy_like = getattr(value, "tolist", None)
    if callable(numpy_like):
        return numpy_like()
    if isinstance(value, (set, frozenset)):
        return list(value)
    raise TypeError(f"a value of type {type(value).__qualname__} cannot be sent as JSON")
