"""Listens on its port, and has a grandchild in a session of its own that holds the same socket."""

import os
import signal
import socket
import sys

listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
if os.fork() == 0:
    os.setsid()
    if os.fork() != 0:
        os._exit(0)
    # The grandchild: it keeps the socket, and does not care for anything.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        signal.pause()
os.wait()
while True:
    connection, _ = listener.accept()
    connection.close()
