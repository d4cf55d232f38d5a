//! Machines and workers of which less can be seen: workers that can't be inspected, `/proc` with
//! `hidepid`, and system calls that a seccomp filter refuses. What can't be checked is never taken
//! for a no (items C.5, C.7 and J.29 of issue 11).

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::libc::{EPERM, SYS_pidfd_open};
use ostler_tests::scene::{audited, free_port, pool, pool_of, python, refusing, unprivileged, unshared, wrapped};
use ostler_tests::world::Bystander;
use ostler_tests::{SOON, Up, pid_of, program};

/// A user id that nothing else uses.
const USER: u32 = 64_130;
/// The owner of the set-uid program.
const OTHER_USER: u32 = 64_131;

const HTTP: &str = "port = \"any\"\nready = { http = \"/\" }\nhealth = { http = \"/\", every = \"20ms\", timeout = \"10s\", misses = 1 }\nintensity = 0";

/// Mounts of `/proc`: as it is, and with `hidepid`.
const PROC: [Option<&str>; 3] = [None, Some("1"), Some("2")];

fn may_not_run() -> bool {
    let skipped = !nix::unistd::geteuid().is_root();
    if skipped {
        eprintln!("skipped: changing the user takes root");
    }
    skipped || unshared(&["--mount"]).is_none()
}

/// Runs as an unprivileged user with an audit every 50 ms, in which `/proc` is mounted so.
fn start(modes: &str, keys: &str, hidepid: Option<&str>) -> Up {
    start_pool(|tag| pool(modes, tag, keys), hidepid)
}

/// The same, with the pool that `config` makes of a tag.
fn start_pool(config: impl FnOnce(&str) -> String, hidepid: Option<&str>) -> Up {
    Up::start_with(config, |command| {
        audited(command);
        unprivileged(command, USER);
        if let Some(hidepid) = hidepid {
            hide(command, hidepid);
        }
    })
}

fn hide(command: &mut Command, hidepid: &str) {
    let line = format!("mount -t proc -o hidepid={hidepid} proc /proc && exec \"$0\" \"$@\"");
    wrapped(command, &["unshare", "--mount", "sh", "-c", &line]);
}

fn lines_with(stderr: &str, part: &str) -> usize {
    stderr.lines().filter(|line| line.contains(part)).count()
}

/// Twenty probes and ten audits later, it is well, and one warning says what could not be seen.
fn stays_well(up: &mut Up, warnings: usize) {
    let ended = up.poll(Duration::from_millis(600), |event| event["event"] == "worker.unhealthy");
    assert!(ended.is_none(), "{}", up.story());
    let stderr = up.stop_cleanly();
    assert_eq!(up.count("worker.ready"), 1, "{}", up.story());
    let inspected = lines_with(&stderr, "worker=\"p/0#1\"");
    assert_eq!(inspected, warnings, "{stderr}");
    assert_eq!(lines_with(&stderr, "the audit"), 0, "{stderr}");
}

#[test]
fn worker_that_can_not_be_inspected_is_ready_and_stays_well() {
    if may_not_run() {
        return;
    }
    for hidepid in PROC {
        let mut up = start("protect+http", HTTP, hidepid);
        up.wait_for_event("worker.ready");
        stays_well(&mut up, 1);
    }
}

#[test]
fn ordinary_worker_causes_no_warning_under_hidepid() {
    if may_not_run() {
        return;
    }
    for hidepid in PROC {
        let mut up = start("http", HTTP, hidepid);
        up.wait_for_event("worker.ready");
        stays_well(&mut up, 0);
    }
}

/// Serves from a thread, once the main thread has ended.
const WITHOUT_MAIN_THREAD: &str = "
import ctypes, http.server, os, socketserver, sys, threading

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(204)
        self.end_headers()
    def log_message(self, *of):
        pass

def serve():
    socketserver.TCPServer.allow_reuse_address = True
    while open(\"/proc/%d/stat\" % os.getpid()).read().rsplit(\") \", 1)[1][0] != \"Z\":
        os.sched_yield()
    socketserver.TCPServer((\"127.0.0.1\", int(sys.argv[1])), Handler).serve_forever()

threading.Thread(target=serve).start()
ctypes.CDLL(None).pthread_exit(None)
";

/// What `/proc` has of a main thread that has ended is refused to all but root.
#[test]
fn server_whose_main_thread_has_ended_is_ready_and_stays_well() {
    if may_not_run() {
        return;
    }
    for hidepid in PROC {
        let mut up = start_pool(|tag| pool_of(&python(WITHOUT_MAIN_THREAD, tag), HTTP), hidepid);
        up.wait_for_event("worker.ready");
        stays_well(&mut up, 0);
    }
}

/// The kernel names the process at a Unix socket. With `hidepid` that is no use, and the private
/// directory decides.
#[test]
fn worker_at_a_unix_socket_that_can_not_be_inspected_is_ready_and_stays_well() {
    if may_not_run() {
        return;
    }
    for (hidepid, warnings) in PROC.into_iter().zip([0, 1, 1]) {
        let mut up = start("protect+http-unix", &HTTP.replace("any", "unix"), hidepid);
        up.wait_for_event("worker.ready");
        stays_well(&mut up, warnings);
    }
}

/// Starts an unprivileged run whose worker's program was changed by `change` first.
fn start_changed(keys: &str, change: impl FnOnce(&Path)) -> Up {
    Up::start_with(
        |tag| pool("http", tag, keys),
        |command| {
            audited(command);
            unprivileged(command, USER);
            // The copy that `unprivileged` made.
            let config = command
                .get_args()
                .find(|argument| argument.to_string_lossy().ends_with("ostler.toml"));
            change(&Path::new(config.unwrap()).with_file_name("ostler-test-worker"));
        },
    )
}

/// As with node(1) that may bind port 80: the kernel makes its process undumpable.
#[test]
fn worker_with_file_capabilities_is_ready_and_stays_well() {
    if may_not_run() {
        return;
    }
    let mut up = start_changed(HTTP, may_bind_low_ports);
    let ready = up.wait_for_event("worker.ready");
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid_of(&ready))).unwrap();
    assert!(status.contains("CapEff:\t0000000000000400\n"), "{status}");
    stays_well(&mut up, 1);
}

/// Ostler itself may not bind that port, and so can't try whether it is free.
#[test]
fn worker_that_may_bind_a_low_port_has_it_and_releases_it() {
    if may_not_run() {
        return;
    }
    let port = free_low_port();
    let keys = HTTP.replace("\"any\"", &port.to_string());
    let mut up = start_changed(&keys, may_bind_low_ports);
    assert_eq!(up.wait_for_event("worker.ready")["port"], port);
    stays_well(&mut up, 1);
    assert_eq!(up.count("worker.released"), 1, "{}", up.story());
    let _held = TcpListener::bind(("127.0.0.1", port)).expect("it was released");
    let mut refused = start_changed(&keys, may_bind_low_ports);
    let failed = refused.wait_for_event("worker.failed");
    assert_eq!(failed["reason"], "port_in_use", "{failed}");
    refused.end(SOON);
    refused.assert_nothing_left();
}

/// No socket is on it. It is not tried by a bind: a process that another test starts meanwhile
/// would have a copy of the socket.
fn free_low_port() -> u16 {
    let sockets = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| std::fs::read_to_string(path).unwrap_or_default());
    let is_used = |port: u16| sockets.iter().any(|table| table.contains(&format!(":{port:04X} ")));
    (600..1024).find(|&port| !is_used(port)).expect("a free low port")
}

/// Sets the attribute that setcap(8) writes for cap_net_bind_service+ep (capabilities(7)).
fn may_bind_low_ports(program: &Path) {
    const SETCAP: &str = "
import os, struct, sys
os.setxattr(sys.argv[1], 'security.capability', struct.pack('<5I', 0x02000001, 1 << 10, 0, 0, 0))
";
    let set = Command::new("python3").args(["-c", SETCAP]).arg(program).status();
    assert!(set.unwrap().success(), "setting the capability");
}

/// It listens as another user than the one that Ostler runs as.
#[test]
fn set_uid_worker_is_ready_and_stays_well() {
    if may_not_run() {
        return;
    }
    let mut up = start_changed(HTTP, |program| {
        nix::unistd::chown(program, Some(nix::unistd::Uid::from_raw(OTHER_USER)), None).unwrap();
        std::fs::set_permissions(program, PermissionsExt::from_mode(0o4755)).unwrap();
    });
    let ready = up.wait_for_event("worker.ready");
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid_of(&ready))).unwrap();
    assert!(status.contains(&format!("Uid:\t{USER}\t{OTHER_USER}\t")), "{status}");
    stays_well(&mut up, 1);
}

/// The worker can't be inspected, but the listener is another user's. It answers.
#[test]
fn another_process_on_the_port_of_such_a_worker_is_not_taken_for_it() {
    if may_not_run() {
        return;
    }
    for hidepid in PROC {
        let port = free_port();
        let keys = format!("port = {port}\nready = {{ http = \"/\" }}\nintensity = 0");
        let mut up = start("protect+sleep", &keys, hidepid);
        up.wait_for_event("worker.spawned");
        let user = OTHER_USER.to_string();
        let mut server = Command::new("setpriv");
        server.args(["--reuid", &user, "--regid", &user, "--clear-groups"]);
        server.arg(up.directory.path().join("ostler-test-worker"));
        server.args(["http", &port.to_string(), "bystander"]);
        let server = Bystander::start(&mut server);
        let (status, stderr) = up.end(SOON);
        assert_eq!(status.code(), Some(1), "{stderr}");
        let failed = up.named("worker.failed").next().expect("failed");
        assert_eq!(failed["reason"], "port_in_use", "{failed}");
        drop(server);
        up.assert_nothing_left();
    }
}

#[test]
fn messages_of_a_worker_that_proc_hides_are_heard() {
    if may_not_run() {
        return;
    }
    let keys = "ready = { notify = true }\nwatchdog = \"10s\"\nintensity = 0";
    for (hidepid, warnings) in PROC.into_iter().zip([0, 1, 1]) {
        let mut up = start("protect+notify+sleep", keys, hidepid);
        up.wait_for_event("worker.ready");
        stays_well(&mut up, warnings);
    }
}

/// Item J.29: what is missing is named, and what to do about it.
#[test]
fn refused_pidfd_open_is_not_called_an_unreadable_proc() {
    let mut up = Up::start_with(
        |tag| pool("sleep", tag, ""),
        |command| refusing(command, SYS_pidfd_open, EPERM),
    );
    let (status, stderr) = up.end(SOON);
    assert_eq!(status.code(), Some(3), "{stderr}");
    assert!(
        stderr.contains("pidfd_open was refused") && stderr.contains("seccomp"),
        "{stderr}"
    );
    assert!(!stderr.contains("/proc"), "{stderr}");
    up.assert_nothing_left();

    let mut doctor = Command::new(program("ostler"));
    doctor.args(["doctor", "--state-dir"]).arg(up.directory.path());
    refusing(&mut doctor, SYS_pidfd_open, EPERM);
    let report = doctor.output().unwrap();
    assert_eq!(report.status.code(), Some(1));
    let text = String::from_utf8_lossy(&report.stdout).into_owned();
    assert_eq!(lines_with(&text, "allow pidfd_open and pidfd_send_signal"), 1, "{text}");
    assert_eq!(lines_with(&text, "see pidfd above"), 1, "{text}");
}

#[test]
fn proc_that_is_not_mounted_is_named() {
    if may_not_run() {
        return;
    }
    for mount in ["mount -t tmpfs none /proc", "mount -t proc -o subset=pid proc /proc"] {
        let mut up = Up::start_with(
            |tag| pool("sleep", tag, ""),
            |command| {
                let line = format!("{mount} && exec \"$0\" \"$@\"");
                wrapped(command, &["unshare", "--mount", "sh", "-c", &line]);
            },
        );
        let (status, stderr) = up.end(SOON);
        assert_eq!(status.code(), Some(3), "{mount}: {stderr}");
        assert!(
            stderr.contains("/proc can't be read") && stderr.contains("mount /proc"),
            "{mount}: {stderr}"
        );
        up.assert_nothing_left();
    }
}
