"""Messages to the supervisor, in the form of sd_notify(3)."""

from __future__ import annotations

import os
import socket
from typing import Optional


class Notifier:
    """Sends to `NOTIFY_SOCKET`; without one, sends nothing."""

    def __init__(self, address: Optional[str] = None, watchdog: Optional[float] = None) -> None:
        self.address = address
        self.watchdog = watchdog
        """The supervisor misses a heartbeat after this many seconds; None: it asks for none."""
        self._socket: Optional[socket.socket] = None

    @classmethod
    def from_environment(cls) -> Notifier:
        """Reads the variables and removes them: they are for this process, and not for those that it starts."""
        address = os.environ.pop("NOTIFY_SOCKET", None)
        microseconds = os.environ.pop("WATCHDOG_USEC", "")
        pid = os.environ.pop("WATCHDOG_PID", "")
        watchdog = int(microseconds) / 1e6 if microseconds.isdigit() and int(microseconds) > 0 else None
        if pid and pid != str(os.getpid()):
            watchdog = None
        return cls(address or None, watchdog)

    def send(self, *lines: str) -> None:
        """Sends these lines in one message. A supervisor that is gone or does not read is no error, and holds us up for a second at most."""
        if self.address is None:
            return
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
                self._socket.settimeout(1.0)
            address = "\0" + self.address[1:] if self.address.startswith("@") else self.address
            message = "\n".join(line.replace("\n", " ") for line in lines)
            self._socket.sendto(message.encode("utf-8", "replace"), address)
        except OSError:
            pass


notifier = Notifier()
"""This process's notifier; set by `serve.run`."""
