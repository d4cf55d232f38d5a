"""Records a program in a terminal as an animated SVG. `cargo xtask record` runs it; it needs pyte (a terminal emulator).

    record.py table OSTLER OUT.svg     the live table: three web servers, one is killed, Ctrl-C
    record.py demo XTASK OUT.svg       `cargo xtask demo`
"""

import html
import json
import os
import pty
import select
import signal
import struct
import sys
import tempfile
import termios
import time
from fcntl import ioctl
from pathlib import Path

import pyte

ROOT = Path(__file__).resolve().parents[2]
COLUMN, ROW, MARGIN = 8.4, 18, 12
LONGEST_PAUSE = 1.6  # seconds that nothing may happen in the recording
HOLD = 5.0  # seconds that the last picture stays
DEADLINE = 60.0
COLOURS = {
    "black": "#484f58", "red": "#ff7b72", "green": "#7ee787", "brown": "#e3b341", "yellow": "#e3b341",
    "blue": "#79c0ff", "magenta": "#d2a8ff", "cyan": "#56d4dd", "white": "#e6edf3", "default": "#e6edf3",
}


class Terminal:
    """A program in a pseudo terminal, and every picture that it shows."""

    def __init__(self, command, columns, rows, typed):
        self.columns, self.rows = columns, rows
        self.screen = pyte.Screen(columns, rows)
        self.stream = pyte.ByteStream(self.screen)
        self.started, self.pictures, self.is_open = time.monotonic(), [], True
        self.stream.feed(f"$ {typed}\r\n".encode())
        self.take()
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.chdir(ROOT)
            os.environ.update(TERM="xterm-256color", LANG="C.UTF-8", COLUMNS=str(columns), LINES=str(rows))
            os.execvp(command[0], command)
        ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def take(self):
        """Keeps the picture, if it differs from the one before."""
        picture = tuple(tuple(runs(self.screen.buffer[row], self.columns)) for row in range(self.rows))
        if not self.pictures or self.pictures[-1][1] != picture:
            self.pictures.append((time.monotonic() - self.started, picture))

    def read(self, seconds):
        """Reads what comes within a time; pictures are taken at most ten times a second."""
        end, next_picture = time.monotonic() + seconds, time.monotonic() + 0.1
        while self.is_open and time.monotonic() < end:
            if select.select([self.master], [], [], 0.02)[0]:
                try:
                    data = os.read(self.master, 65536)
                except OSError:  # EIO: the program has closed the terminal
                    data = b""
                self.is_open = bool(data)
                self.stream.feed(data)
            if time.monotonic() >= next_picture or not self.is_open:
                self.take()
                next_picture = time.monotonic() + 0.1
        self.take()

    def read_until(self, condition):
        end = time.monotonic() + DEADLINE
        while self.is_open and not condition():
            self.read(0.05)
            if time.monotonic() > end:
                sys.exit("recording: what was waited for did not happen")

    def end(self):
        self.read_until(lambda: False)
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)


def runs(line, columns):
    """A row as (column, text, colour, bold), one for each change of style; blanks at the end are dropped."""
    last = max((column for column in range(columns) if line[column].data.strip()), default=-1)
    result = []
    for column in range(last + 1):
        cell = line[column]
        style = (COLOURS.get(cell.fg, "#" + cell.fg if len(cell.fg) == 6 else COLOURS["default"]), cell.bold)
        if result and result[-1][2:] == style:
            result[-1] = (result[-1][0], result[-1][1] + cell.data, *style)
        else:
            result.append((column, cell.data, *style))
    return result


def shortened(pictures):
    """The pictures with long pauses cut."""
    at, before, result = 0.0, 0.0, []
    for moment, picture in pictures:
        at += min(moment - before, LONGEST_PAUSE)
        before = moment
        result.append((at, picture))
    return result


def svg(terminal):
    pictures = shortened(terminal.pictures)
    used = max((row + 1 for _, picture in pictures for row, line in enumerate(picture) if line), default=1)
    length = pictures[-1][0] + HOLD
    width, height = terminal.columns * COLUMN + 2 * MARGIN, used * ROW + 2 * MARGIN
    css, rows = [], []
    for row in range(used):
        for start, end, line in segments(pictures, row):
            if not line:
                continue
            style = ""
            if start > 0 or end is not None:
                name = f"a{len(css)}"
                begin, stop = 100 * start / length, 100 * (end if end is not None else length) / length
                css.append(
                    f"@keyframes {name}{{0%{{visibility:{'hidden' if start else 'visible'}}}"
                    f"{begin:.2f}%{{visibility:visible}}{stop:.2f}%{{visibility:{'hidden' if end else 'visible'}}}}}"
                )
                # Without animations the last picture is shown.
                style = f' style="animation:{name} {length:.1f}s step-end infinite;visibility:{"hidden" if end else "visible"}"'
            spans = "".join(span(*run) for run in line)
            rows.append(f'<text y="{MARGIN + (row + 0.75) * ROW:.1f}"{style}>{spans}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xml:space="preserve" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}">'
        f"<style>text{{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;white-space:pre}}{''.join(css)}</style>"
        f'<rect width="100%" height="100%" rx="8" fill="#0d1117"/>\n' + "\n".join(rows) + "\n</svg>\n"
    )


def span(column, text, colour, bold):
    weight = ' font-weight="bold"' if bold else ""
    return f'<tspan x="{MARGIN + column * COLUMN:.1f}" fill="{colour}"{weight}>{html.escape(text)}</tspan>'


def segments(pictures, row):
    """What a row shows, from when to when; `None`: to the end."""
    result = []
    for at, picture in pictures:
        if not result or result[-1][2] != picture[row]:
            if result:
                result[-1][1] = at
            result.append([at, None, picture[row]])
    return result


def table(ostler):
    with tempfile.TemporaryDirectory() as directory:
        events = Path(directory) / "events.jsonl"
        command = [ostler, "up", "examples/web/ostler.toml", "--events", str(events)]
        terminal = Terminal(command, 110, 24, "ostler up examples/web/ostler.toml")

        def seen(name, worker=""):
            lines = events.read_text().splitlines() if events.exists() else []
            found = [json.loads(line) for line in lines if line.endswith("}")]
            return [e for e in found if e["event"] == name and e.get("worker", "") == worker]

        terminal.read_until(lambda: seen("pool.ready"))
        terminal.read(2.5)
        os.kill(seen("worker.ready", "web/1")[-1]["pid"], signal.SIGKILL)
        terminal.read_until(lambda: len(seen("pool.ready")) > 1)
        terminal.read(2.5)
        os.write(terminal.master, b"\x03")
        return terminal, terminal.end()


def demo(xtask):
    terminal = Terminal([xtask, "demo"], 150, 84, "cargo xtask demo")
    return terminal, terminal.end()


def main():
    what, program, out = sys.argv[1:]
    terminal, status = {"table": table, "demo": demo}[what](program)
    if status != 0:
        sys.exit(f"recording {what}: the program ended with status {status}\n" + "\n".join(terminal.screen.display))
    Path(out).write_text(svg(terminal))


if __name__ == "__main__":
    main()
