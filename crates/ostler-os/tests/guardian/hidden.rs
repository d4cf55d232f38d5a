//! A /proc that hides processes (`hidepid=2`), such as an unprivileged user's own children that are
//! not dumpable.

use crate::support::{
    Bench, Role, alive, assert_gone, line, line_with, pids, python, role, role_process, unprivileged, with_output,
};

/// Leaves a daemon outside the worker's session and parentage that is not dumpable, like ssh-agent
/// or a program its user may not read. The daemon prints its pid, then the worker prints its own.
const HIDES: &str = "import ctypes, os, signal
r, w = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork(): os._exit(0)
    ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
    os.write(w, f'{os.getpid()} '.encode())
    while True: signal.pause()
text = b''
while not text.endswith(b' '): text += os.read(r, 64)
print(text.decode() + str(os.getpid()), flush=True)
while True: signal.pause()";

async fn start(bench: &mut Bench, slot: u32) -> Vec<i32> {
    let mut spawn_request = python(HIDES);
    let output = with_output(&mut spawn_request);
    bench.start(slot, 1, spawn_request).await;
    pids(&line(output).await.0)
}

/// Ends one such tree, prints the pids of another one, and waits to be killed.
#[tokio::test]
async fn role_host() {
    if role().as_deref() != Some("hides") {
        return;
    }
    let mut bench = Bench::launch().await;
    let ended = start(&mut bench, 0).await;
    let hidden = std::fs::metadata(format!("/proc/{}", ended[0])).is_err();
    assert!(hidden && alive(ended[0]), "/proc must hide the daemon");
    bench.kill(0, 1);
    bench.gone(0, 1).await;
    assert!(ended.iter().all(|pid| !alive(*pid)), "TreeGone came too early");
    let left: Vec<String> = start(&mut bench, 1).await.iter().map(i32::to_string).collect();
    println!("\npids={}", left.join(" "));
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn child_hidden_by_proc_is_found() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: mounting /proc needs root");
    }
    let directory = tempfile::tempdir().expect("temporary directory");
    let mount = "mount -t proc -o hidepid=2 proc /proc && exec \"$0\" \"$@\"";
    let by = ["unshare", "--mount", "sh", "-c", mount];
    let role = role_process("hidden::role_host", "hides");
    let (mut host, output) = Role::start(unprivileged(&by, &role, directory.path()));
    let (left, _output) = line_with(output, "pids=").await;
    let left = pids(&left);
    assert!(left.iter().all(|pid| alive(*pid)));
    host.kill();
    left.iter().for_each(|pid| assert_gone(*pid));
}
