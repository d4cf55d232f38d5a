//! Building blocks for tests: pools in TOML, programs in Python, ports, limits.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::executable::install;
use crate::worker;

/// A pool `p` of test workers with these modes and additional keys.
pub fn pool(modes: &str, tag: &str, keys: &str) -> String {
    pool_of(&worker(modes, tag), keys)
}

/// A pool `p` with this command (a TOML array) and additional keys.
pub fn pool_of(command: &str, keys: &str) -> String {
    format!("[pool.p]\ncommand = {command}\n{keys}\n")
}

/// The command line of a Python program as a TOML array. Its arguments are the port and the tag.
pub fn python(program: &str, tag: &str) -> String {
    format!("[\"python3\", \"-c\", '''{program}''', \"{{port}}\", {tag:?}]")
}

/// A port that is free at the moment.
///
/// # Panics
///
/// If there is none.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("free port");
    listener.local_addr().expect("local address").port()
}

/// Makes the run of this command audit itself every 50 ms.
///
/// # Panics
///
/// If its configuration file cannot be changed.
pub fn audited(command: &mut Command) {
    let file = command.get_args().nth(1).expect("configuration file");
    let text = std::fs::read_to_string(file).expect("reading the configuration");
    let audited = text.replace("[app]\n", "[app]\naudit = \"50ms\"\n");
    std::fs::write(file, audited).expect("writing the configuration");
}

/// Wraps the command: `wrapper... program arguments...`.
pub fn wrapped(command: &mut Command, wrapper: &[&str]) {
    let mut outer = Command::new(wrapper[0]);
    outer
        .args(&wrapper[1..])
        .arg(command.get_program())
        .args(command.get_args());
    outer.env_remove("XDG_RUNTIME_DIR").env_remove("RUNTIME_DIRECTORY");
    outer.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    *command = outer;
}

/// Makes a system call fail with this errno in the command and in everything it starts
/// (seccomp(2)).
pub fn refusing(command: &mut Command, call: i64, errno: i32) {
    // A filter of four instructions: load the call's number, compare, fail, allow.
    const FILTER: &str = "
import ctypes, os, struct, sys
call, errno = int(sys.argv[1]), int(sys.argv[2])
steps = [(0x20, 0, 0, 0), (0x15, 0, 1, call), (0x06, 0, 0, 0x50000 | errno), (0x06, 0, 0, 0x7fff0000)]
code = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *step) for step in steps))
program = ctypes.create_string_buffer(struct.pack('HxxxxxxP', len(steps), ctypes.addressof(code)))
prctl = ctypes.CDLL(None, use_errno=True).prctl
prctl.argtypes = [ctypes.c_int] + [ctypes.c_void_p] * 4
assert prctl(38, 1, 0, 0, 0) == 0 and prctl(22, 2, ctypes.addressof(program), 0, 0) == 0, ctypes.get_errno()
os.execvp(sys.argv[3], sys.argv[3:])
";
    let (call, errno) = (call.to_string(), errno.to_string());
    wrapped(command, &["python3", "-c", FILTER, &call, &errno]);
}

/// Returns the command, changed so that the kernel kills the process when the thread that started
/// it ends. Processes outside an Ostler run would otherwise survive a killed test. Changing the
/// user later would undo this (prctl(2), PR_SET_PDEATHSIG).
pub fn killed_with_the_test(command: &Command) -> Command {
    let mut outer = Command::new("setpriv");
    outer
        .args(["--pdeathsig", "KILL", "--"])
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    outer
}

/// The start of a command line that runs the rest in new namespaces (unshare(1) with these
/// options). Returns `None` and prints a message if the user lacks the permission.
pub fn unshared(options: &[&str]) -> Option<Vec<String>> {
    let wrapper: Vec<String> = ["unshare"].iter().chain(options).map(ToString::to_string).collect();
    let tried = Command::new(&wrapper[0]).args(&wrapper[1..]).arg("true").output();
    if tried.is_ok_and(|output| output.status.success()) {
        return Some(wrapper);
    }
    eprintln!("skipped: unshare {options:?} is not allowed here");
    None
}

/// The parent of a process, from /proc.
///
/// # Panics
///
/// If the process is gone.
pub fn parent(pid: u32) -> u32 {
    living_parent(pid).expect("process is running")
}

/// The parent of a process, from /proc, or `None` if the process is gone.
pub fn living_parent(pid: u32) -> Option<u32> {
    let process = procfs::process::Process::new(i32::try_from(pid).ok()?).ok()?;
    u32::try_from(process.stat().ok()?.ppid).ok()
}

/// Sets a soft limit of a running process with prlimit(1), for example `--nofile=8:`. Runs as the
/// user of that process, because root is not allowed to do this everywhere.
///
/// # Panics
///
/// If the limit cannot be set.
pub fn limit(pid: u32, option: &str) {
    let owner = std::fs::metadata(format!("/proc/{pid}")).expect("process is running");
    let mut command = Command::new("prlimit");
    command.args(["--pid", &pid.to_string(), option]);
    if nix::unistd::geteuid().is_root() {
        command.uid(owner.uid()).gid(owner.gid());
    }
    let status = command.status().expect("prlimit(1) runs");
    assert!(status.success(), "prlimit {option} of {pid}");
}

/// Copies a program of the workspace to where every user can reach it.
///
/// # Panics
///
/// If it cannot be copied.
pub fn reachable_copy(name: &str, directory: &Path) -> PathBuf {
    let copy = directory.join(name);
    install(crate::program(name), &copy, 0o755);
    copy
}

/// Writes a program file that can be executed at once.
///
/// # Panics
///
/// If it cannot be written.
pub fn write_program(path: &Path, content: impl AsRef<[u8]>, mode: u32) {
    let draft = path.with_extension("draft");
    std::fs::write(&draft, content).expect("writing the program");
    install(&draft, path, mode);
    std::fs::remove_file(draft).expect("removing the draft");
}

/// Makes the command, whose second argument is the run's configuration file, run as this user in
/// the file's directory, so that ordinary limits and permissions apply. Uses copies of the programs
/// that the user can reach. Does nothing if the test does not run as root.
///
/// # Panics
///
/// If the directory cannot be given to the user.
pub fn unprivileged(command: &mut Command, user: u32) {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let file = PathBuf::from(command.get_args().nth(1).expect("configuration file"));
    let directory = file.parent().expect("parent directory");
    let owner = Some(nix::unistd::Uid::from_raw(user));
    for path in [directory, &file] {
        nix::unistd::chown(path, owner, None).expect("giving the directory to the user");
    }
    let name = Path::new(command.get_program())
        .file_name()
        .expect("file name of the program");
    let program = reachable_copy(&name.to_string_lossy(), directory);
    let worker = reachable_copy("ostler-test-worker", directory);
    let text = std::fs::read_to_string(&file).expect("reading the configuration");
    let text = text.replace(
        &*crate::program("ostler-test-worker").to_string_lossy(),
        &worker.to_string_lossy(),
    );
    std::fs::write(&file, text).expect("writing the configuration");
    let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    let mut own = Command::new(program);
    own.args(arguments).current_dir(directory);
    *command = own;
    let id = user.to_string();
    wrapped(command, &["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups"]);
}

/// The time of an event.
///
/// # Panics
///
/// If the event has no valid time.
pub fn moment(event: &serde_json::Value) -> std::time::SystemTime {
    let text = event["time"].as_str().expect("event has a time");
    humantime::parse_rfc3339(text).expect("RFC 3339")
}

/// Sends GET `/` and returns the body of the answer. A test worker answers with its pid.
///
/// # Errors
///
/// If the connection or the request fails.
pub fn get(address: impl ToSocketAddrs) -> io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    ask(&mut stream)?;
    body(stream)
}

/// Sends GET `/`.
///
/// # Errors
///
/// If the connection breaks.
pub fn ask(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
}

/// Reads an answer to its end and returns its body.
///
/// # Errors
///
/// If the connection breaks.
pub fn body(mut stream: TcpStream) -> io::Result<String> {
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text.rsplit("\r\n").next().unwrap_or_default().to_owned())
}
