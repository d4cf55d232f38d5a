//! What a terminal gets: cursor movements, colours, and nothing that others wrote.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

use crate::harness::{folder, utf8, with_the_test};

const FAILING: &str = "[pool.web]\ncommand = [\"sleep\", \"1000\"]\n\
    [pool.bad]\ncommand = [\"sh\", \"-c\", \"echo oh no >&2; exit 3\"]\nintensity = 0\n";

/// Runs `ostler up` on a pseudo-terminal of this size, and gives its status and what it wrote
/// there.
const ON_PTY: &str = "import fcntl, os, pty, struct, sys, termios\n\
    rows, columns = int(sys.argv[1]), int(sys.argv[2])\n\
    pid, master = pty.fork()\n\
    if pid == 0:\n\
    \x20   fcntl.ioctl(2, termios.TIOCSWINSZ, struct.pack('HHHH', rows, columns, 0, 0))\n\
    \x20   os.execv(sys.argv[3], sys.argv[3:])\n\
    shown = b''\n\
    while True:\n\
    \x20   try: more = os.read(master, 4096)\n\
    \x20   except OSError: break\n\
    \x20   if not more: break\n\
    \x20   shown += more\n\
    sys.stdout.buffer.write(shown)\n\
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))";

fn on_pty(pools: &str, size: (u16, u16), environment: &[(&str, &str)], extra: &[&str]) -> (Option<i32>, String) {
    let (_folder, file) = folder(pools);
    let (rows, columns) = (size.0.to_string(), size.1.to_string());
    let program = env!("CARGO_BIN_EXE_ostler");
    let mut command = with_the_test("python3");
    command.args(["-c", ON_PTY, &rows, &columns, program, "up", utf8(&file), "--for", "1s"]);
    command.args(extra);
    for unset in [
        "TERM",
        "NO_COLOR",
        "CLICOLOR",
        "CLICOLOR_FORCE",
        "CI",
        "XDG_RUNTIME_DIR",
    ] {
        command.env_remove(unset);
    }
    let output = command.envs(environment.iter().copied()).output().unwrap();
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}

const XTERM: (&str, &str) = ("TERM", "xterm");
const ROOMY: (u16, u16) = (24, 80);

#[test]
fn a_terminal_of_any_size_shows_the_trouble() {
    for size in [(0, 0), (1, 1), (24, 3), (0, 80), ROOMY] {
        let (status, shown) = on_pty(FAILING, size, &[XTERM], &[]);
        assert_eq!(status, Some(1), "{size:?}: {shown}");
        assert!(
            shown.contains("exited_early") || shown.contains("has failed"),
            "{size:?}: {shown}"
        );
        assert!(!shown.contains("panic"), "{size:?}: {shown}");
    }
    assert!(
        on_pty(FAILING, ROOMY, &[XTERM], &[]).1.contains("of 2 ready"),
        "no table"
    );
}

#[test]
fn a_dumb_terminal_gets_no_escape_at_all() {
    for dumb in [&[("TERM", "dumb")][..], &[]] {
        let (status, shown) = on_pty(FAILING, ROOMY, dumb, &[]);
        assert_eq!(status, Some(1), "{shown}");
        assert!(!shown.contains('\x1b'), "{dumb:?}: {shown:?}");
        assert!(shown.contains("web/0 is ready"), "plain lines: {shown}");
    }
}

#[test]
fn colours_follow_the_variables_for_them() {
    for (environment, coloured) in [
        (&[XTERM][..], true),
        (&[XTERM, ("NO_COLOR", "1")], false),
        (&[XTERM, ("CLICOLOR", "0")], false),
        (&[XTERM, ("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1")], false),
        (&[("TERM", "dumb"), ("CLICOLOR_FORCE", "1")], true),
    ] {
        let (_, shown) = on_pty(FAILING, ROOMY, environment, &["--no-table"]);
        assert_eq!(shown.contains("\x1b[31m"), coloured, "{environment:?}: {shown:?}");
    }
}

/// A process that listens on a port of its own, with a command line that tries to forge a line.
/// Killed when dropped.
struct Holder(Child, u16);

impl Holder {
    fn start() -> Self {
        let script = "import socket, sys, time\n\
            s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); print(s.getsockname()[1], flush=True)\n\
            time.sleep(1000)";
        let forged = "\x1b[2J\nostler: all is well\x07";
        let mut command = with_the_test("python3");
        let mut child = command
            .args(["-c", script, forged])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut port = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut port)
            .unwrap();
        Self(child, port.trim().parse().unwrap())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn no_control_character_of_another_process_gets_through() {
    let holder = Holder::start();
    let pools = format!(
        "[pool.web]\ncommand = [\"sleep\", \"1000\"]\nport = {}\nintensity = 0\n",
        holder.1
    );
    for extra in [&[][..], &["--no-table"], &["--log", "debug"]] {
        let (status, shown) = on_pty(&pools, ROOMY, &[XTERM, ("NO_COLOR", "1")], extra);
        assert_eq!(status, Some(1), "{shown}");
        assert!(shown.contains("all is well"), "the holder is named: {shown}");
        assert!(
            !shown.contains("\x1b[2J") && !shown.contains('\x07'),
            "{extra:?}: {shown:?}"
        );
        let forged = shown.lines().find(|line| line.starts_with("ostler: all is well"));
        assert_eq!(forged, None, "{extra:?}: {shown:?}");
    }
}

/// With `stty tostop` the kernel stops a background program that writes to its terminal, unless it
/// ignores TTOU.
#[test]
fn it_runs_in_the_background_of_a_terminal_that_stops_writers() {
    let (_folder, file) = folder("[pool.web]\ncommand = [\"sleep\", \"1000\"]\n");
    let script = "import os, pty, sys, termios, threading\n\
        leader, master = pty.fork()\n\
        if leader == 0:\n\
        \x20   modes = termios.tcgetattr(2); modes[3] |= termios.TOSTOP; termios.tcsetattr(2, termios.TCSANOW, modes)\n\
        \x20   pid = os.fork()\n\
        \x20   if pid == 0:\n\
        \x20       os.setpgid(0, 0)\n\
        \x20       os.execv(sys.argv[1], sys.argv[1:])\n\
        \x20   status = os.waitpid(pid, os.WUNTRACED)[1]\n\
        \x20   if os.WIFSTOPPED(status): os.kill(pid, 9); os._exit(100)\n\
        \x20   os._exit(os.waitstatus_to_exitcode(status))\n\
        def drain():\n\
        \x20   try:\n\
        \x20       while os.read(master, 4096): pass\n\
        \x20   except OSError: pass\n\
        threading.Thread(target=drain, daemon=True).start()\n\
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(leader, 0)[1]))";
    let program = env!("CARGO_BIN_EXE_ostler");
    let mut command = with_the_test("python3");
    command.args(["-c", script, program, "up", utf8(&file), "--for", "500ms"]);
    let status = command
        .env("TERM", "xterm")
        .env_remove("XDG_RUNTIME_DIR")
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(0), "100: it was stopped");
}
