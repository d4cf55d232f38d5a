"""The worker of this folder's tests: does what each line on its stdin says, and ends with it."""
import http.server
import os
import socket
import sys
import threading
import time

mode = "ok"
asked = 0


class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global asked
        asked += 1
        print("asked", asked, flush=True)
        if mode == "hang":
            threading.Event().wait()
        flaky = 200 if asked % 3 == 0 else 503
        self.send_response({"ok": 200, "moved": 302, "bad": 503, "flaky": flaky}[mode])
        self.end_headers()

    def log_message(self, *args):
        pass


def notify(text):
    name = os.environ["NOTIFY_SOCKET"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(text.encode(), "\0" + name[1:] if name[0] == "@" else name)


for line in sys.stdin:
    word, _, rest = line.strip().partition(" ")
    if word == "listen":
        server = http.server.ThreadingHTTPServer(("127.0.0.1", int(rest)), Answers)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print("port", server.server_port, flush=True)
    elif word == "mode":
        mode = rest
        print("mode", flush=True)
    elif word == "notify":
        notify(rest.replace("|", "\n"))
        print("notified", flush=True)
    elif word == "beat":
        count, pause = rest.split()
        for _ in range(int(count)):
            notify("WATCHDOG=1")
            time.sleep(float(pause))
        print("beaten", flush=True)
    elif word == "write":
        path, text = rest.split()
        with open(path, "w") as file:
            file.write(text)
os._exit(0)
