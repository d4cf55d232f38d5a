"""Listens on its port, and leaves the socket to a grandchild in its own session as well."""

import os
import signal
import socket
import sys

listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
if os.fork() == 0:
    os.setsid()
    if os.fork() != 0:
        os._exit(0)
    # The grandchild keeps the socket open and ignores TERM.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        signal.pause()
os.wait()
while True:
    connection, _ = listener.accept()
    connection.close()
