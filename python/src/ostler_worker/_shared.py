"""Large bytes in shared memory: a sealed memfd that its sender keeps open until the request lets go of it.

A memfd has no name and no place in any directory. Whatever dies, the kernel frees it with the last descriptor and the last
mapping, so there is nothing that a cleaner could miss.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import threading
from typing import Any, NamedTuple, Optional

DEFAULT_MIN = 1 << 20
"""Bytes from which on shared memory is used: 1 MiB."""

_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class SegmentLost(ConnectionError):
    """The segment that a reference names is gone, and its sender with it."""


class Reference(NamedTuple):
    """What travels in place of the bytes."""

    path: str
    dev: int
    ino: int
    size: int

    def to_map(self) -> dict[str, Any]:
        return {"path": self.path, "dev": self.dev, "ino": self.ino, "size": self.size}

    @classmethod
    def from_map(cls, fields: dict[str, Any]) -> Reference:
        return cls(str(fields["path"]), int(fields["dev"]), int(fields["ino"]), int(fields["size"]))


class Segments:
    """The segments that this process has lent out, each under the request that it belongs to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[Any, dict[int, int]] = {}

    def create(self, owner: Any, data: memoryview) -> Optional[Reference]:
        """Copies `data` into a new segment of `owner`; None where the system forbids memfds."""
        try:
            fd = os.memfd_create("ostler", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except OSError:
            return None
        try:
            flat = data if data.contiguous and data.format == "B" and data.ndim == 1 else data.cast("B")
            os.ftruncate(fd, len(flat))
            done = 0
            while done < len(flat):
                done += os.pwrite(fd, flat[done : done + (1 << 30)], done)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            status = os.fstat(fd)
        except BaseException:
            os.close(fd)
            raise
        with self._lock:
            self._held.setdefault(owner, {})[status.st_ino] = fd
        return Reference(f"/proc/{os.getpid()}/fd/{fd}", status.st_dev, status.st_ino, len(flat))

    def release(self, owner: Any, inos: Optional[list[int]] = None) -> None:
        """Lets go of these segments of `owner`, or of all of them. Unknown ones are no error: a release may come twice."""
        with self._lock:
            held = self._held.get(owner, {})
            fds = [held.pop(ino) for ino in (list(held) if inos is None else inos) if ino in held]
            if not held:
                self._held.pop(owner, None)
        for fd in fds:
            os.close(fd)

    def holds(self, owner: Any) -> bool:
        with self._lock:
            return owner in self._held

    def count(self) -> int:
        """How many segments are lent out."""
        with self._lock:
            return sum(len(held) for held in self._held.values())

    def forget(self) -> None:
        """In a forked child: closes all without a word to anyone. The lock may be held by a thread that is not here."""
        held, self._held, self._lock = self._held, {}, threading.Lock()
        for fds in held.values():
            for fd in fds.values():
                os.close(fd)


def open_segment(reference: Reference) -> memoryview:
    """The bytes behind a reference, read-only and without a copy. They live as long as the view, or anything made of it."""
    try:
        fd = os.open(reference.path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise SegmentLost(f"shared memory {reference.path} is gone: {error.strerror}") from error
    try:
        status = os.fstat(fd)
        if (status.st_dev, status.st_ino, status.st_size) != (reference.dev, reference.ino, reference.size):
            raise SegmentLost(f"{reference.path} is no longer the segment that was sent")
        if reference.path.startswith("/proc/"):
            # Without the seals, the sender could change or truncate what we read: the latter would be a SIGBUS here.
            try:
                sealed = fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS == _SEALS
            except OSError:
                sealed = False
            if not sealed:
                raise SegmentLost(f"{reference.path} is not a sealed memfd")
        if reference.size == 0:
            return memoryview(b"")
        return memoryview(mmap.mmap(fd, reference.size, mmap.MAP_SHARED, mmap.PROT_READ))
    finally:
        os.close(fd)
