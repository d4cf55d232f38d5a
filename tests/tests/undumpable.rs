//! Guardian and sitters hold what a worker must not have: the descriptors of orders and events, and
//! the power over other workers. A worker runs as the same user, and must not be able to take them.

use ostler_tests::Up;
use ostler_tests::scene::{pool_of, python, unprivileged};

/// Tries to trace its sitter, its guardian and a child of its own, and to copy a descriptor of
/// each. Writes down the errors, 0 for success.
const THIEF: &str = r#"
import ctypes, os, subprocess, time
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long] * 4
SEIZE, DETACH, INTERRUPT, PIDFD_GETFD = 0x4206, 17, 0x4207, 438
def parent(pid):
    return int(open(f'/proc/{pid}/stat').read().rsplit(') ', 1)[1].split()[1])
def error(result):
    return ctypes.get_errno() if result == -1 else 0
def trace(pid):
    failed = error(libc.ptrace(SEIZE, pid, 0, 0))
    if not failed:
        libc.ptrace(INTERRUPT, pid, 0, 0)
        os.waitpid(pid, 0x40000000)
        libc.ptrace(DETACH, pid, 0, 0)
    return failed
def steal(pid):
    return error(libc.syscall(PIDFD_GETFD, os.pidfd_open(pid), 0, 0))
sitter = os.getppid()
child = subprocess.Popen(['sleep', '1000'])
with open('errors', 'w') as errors:
    for pid in (child.pid, sitter, parent(sitter)):
        print(trace(pid), steal(pid), end=' ', file=errors)
child.kill()
print('done', flush=True)
time.sleep(1000)
"#;

#[test]
fn worker_can_neither_trace_its_guardians_nor_take_their_descriptors() {
    const EPERM: &str = "1";
    let command = |tag: &str| pool_of(&python(THIEF, tag), "ready = { line = \"^done$\" }");
    // Root may trace everything.
    let mut up = Up::start_with(command, |command| unprivileged(command, 64_110));
    up.wait_for_event("worker.ready");
    let errors = std::fs::read_to_string(up.directory.path().join("errors")).unwrap();
    up.stop_cleanly();
    let [child, child_fd, rest @ ..] = &errors.split_ascii_whitespace().collect::<Vec<_>>()[..] else {
        panic!("{errors}");
    };
    if (*child, *child_fd) != ("0", "0") {
        return eprintln!("skipped: ptrace is not permitted");
    }
    assert_eq!(rest, [EPERM; 4], "sitter and guardian, each by ptrace and pidfd_getfd");
}
