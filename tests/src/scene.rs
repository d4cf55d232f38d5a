//! What a test sets up around a run: pools in TOML, programs in Python, ports, limits.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::worker;

/// A pool `p` of the test worker in these modes, with these further keys.
pub fn pool(modes: &str, tag: &str, keys: &str) -> String {
    pool_of(&worker(modes, tag), keys)
}

/// A pool `p` of this command (a TOML array), with these further keys.
pub fn pool_of(command: &str, keys: &str) -> String {
    format!("[pool.p]\ncommand = {command}\n{keys}\n")
}

/// The command line of a Python program, as a TOML array; its arguments are the port and the tag.
pub fn python(program: &str, tag: &str) -> String {
    format!("[\"python3\", \"-c\", '''{program}''', \"{{port}}\", {tag:?}]")
}

/// A port that nobody has at the moment.
///
/// # Panics
/// When there is none.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

/// Has the run of this command audited every 50 ms.
///
/// # Panics
/// When its file can't be changed.
pub fn audited(command: &mut Command) {
    let file = command.get_args().nth(1).expect("the file of the run");
    let text = std::fs::read_to_string(file).expect("the file is read");
    let audited = text.replace("[app]\n", "[app]\naudit = \"50ms\"\n");
    std::fs::write(file, audited).expect("the file is written");
}

/// The same command, run by this one: `wrapper... program arguments...`.
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

/// The same command, killed by the kernel when the thread that has started it ends: whoever is no process of an Ostler's is left
/// to nobody when a test is killed. A change of its user would undo that (prctl(2), PR_SET_PDEATHSIG).
pub fn dying_with_us(command: &Command) -> Command {
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

/// The beginning of a command line that runs the rest in namespaces of its own (unshare(1), with these options); `None`,
/// and a word to whoever reads the tests' output, where this user may not have them.
pub fn unshared(options: &[&str]) -> Option<Vec<String>> {
    let wrapper: Vec<String> = ["unshare"].iter().chain(options).map(ToString::to_string).collect();
    let tried = Command::new(&wrapper[0]).args(&wrapper[1..]).arg("true").output();
    if tried.is_ok_and(|output| output.status.success()) {
        return Some(wrapper);
    }
    eprintln!("skipped: unshare {options:?} is not allowed here");
    None
}

/// The parent of a process, by /proc.
///
/// # Panics
/// When the process is gone.
pub fn parent(pid: u32) -> u32 {
    living_parent(pid).expect("the process lives")
}

/// The parent of a process, by /proc; `None` when it is gone.
pub fn living_parent(pid: u32) -> Option<u32> {
    let process = procfs::process::Process::new(i32::try_from(pid).ok()?).ok()?;
    u32::try_from(process.stat().ok()?.ppid).ok()
}

/// Sets a soft limit of a running process, such as `--nofile=8:`, by prlimit(1). It is run as the process's own user:
/// root alone may not do it everywhere.
///
/// # Panics
/// When that fails.
pub fn limit(pid: u32, option: &str) {
    let owner = std::fs::metadata(format!("/proc/{pid}")).expect("the process lives");
    let mut command = Command::new("prlimit");
    command.args(["--pid", &pid.to_string(), option]);
    if nix::unistd::geteuid().is_root() {
        command.uid(owner.uid()).gid(owner.gid());
    }
    let status = command.status().expect("prlimit(1) runs");
    assert!(status.success(), "prlimit {option} of {pid}");
}

/// A copy of a program of ours where every user can reach it.
///
/// # Panics
/// When it can't be copied.
pub fn reachable_copy(name: &str, directory: &Path) -> PathBuf {
    let copy = directory.join(name);
    std::fs::copy(crate::program(name), &copy).expect("the program is copied");
    copy
}

/// Has the command, whose second argument is a file of the run, run as this user, in that file's directory, with copies of our programs that it can reach: under the limits and permissions that bind people.
/// Where the test isn't root already, nothing is changed.
///
/// # Panics
/// When the directory can't be given to the user.
pub fn unprivileged(command: &mut Command, user: u32) {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let file = PathBuf::from(command.get_args().nth(1).expect("the file of the run"));
    let directory = file.parent().expect("its directory");
    let owner = Some(nix::unistd::Uid::from_raw(user));
    for path in [directory, &file] {
        nix::unistd::chown(path, owner, None).expect("the user owns the run's directory");
    }
    let name = Path::new(command.get_program()).file_name().expect("a program");
    let program = reachable_copy(&name.to_string_lossy(), directory);
    let worker = reachable_copy("ostler-test-worker", directory);
    let text = std::fs::read_to_string(&file).expect("the file is read");
    let text = text.replace(
        &*crate::program("ostler-test-worker").to_string_lossy(),
        &worker.to_string_lossy(),
    );
    std::fs::write(&file, text).expect("the file is written");
    let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    let mut own = Command::new(program);
    own.args(arguments).current_dir(directory);
    *command = own;
    let id = user.to_string();
    wrapped(command, &["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups"]);
}

/// When an event happened.
///
/// # Panics
/// When the event doesn't say so.
pub fn moment(event: &serde_json::Value) -> std::time::SystemTime {
    let text = event["time"].as_str().expect("a time");
    humantime::parse_rfc3339(text).expect("RFC 3339")
}

/// A GET of `/`, and the body of the answer: a test worker's is its pid.
///
/// # Errors
/// When nobody answers.
pub fn get(address: impl ToSocketAddrs) -> io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    ask(&mut stream)?;
    body(stream)
}

/// Sends a GET of `/`.
///
/// # Errors
/// When the connection breaks.
pub fn ask(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
}

/// Reads an answer to its end, and gives its body.
///
/// # Errors
/// When the connection breaks.
pub fn body(mut stream: TcpStream) -> io::Result<String> {
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text.rsplit("\r\n").next().unwrap_or_default().to_owned())
}
