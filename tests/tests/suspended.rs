//! A stop while the host, or everything, can't run: a debugger, a paused container, a virtual
//! machine that is suspended. Workers keep the grace that they were promised.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use ostler::{EventItem, EventKind, Ostler, PoolSpec, Ready};
use ostler_tests::scene::{parent, pool_of, python};
use ostler_tests::{SOON, Up, halt, pid_of, send, survivors, tagged_directory};
use ractor::{Actor, ActorProcessingErr, ActorRef};

/// Ends in order when it may: once `finish` exists. It does not wait for TERM by a handler: Python
/// does not run one for a signal that comes just before it goes to sleep.
const TIDY: &str = "import os, signal, time\n\
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n\
    print('up', flush=True)\n\
    signal.sigwait([signal.SIGTERM])\n\
    open('leaving', 'w').close()\n\
    while not os.path.exists('finish'): time.sleep(0.01)\n\
    os._exit(0)";

/// The worker that runs in this directory may end.
fn finish(directory: &Path) {
    std::fs::write(directory.join("finish"), "").expect("written");
}

/// A run of one such worker, whose stop has begun.
fn stopping(keys: &str) -> (Up, u32) {
    let keys = format!("ready = {{ line = \"up\" }}\n{keys}");
    let mut up = Up::start(|tag| pool_of(&python(TIDY, tag), &keys));
    let worker = pid_of(&up.wait_for_event("worker.ready"));
    up.signal(Signal::SIGTERM);
    // The sitter has sent TERM: the grace has begun.
    wait_for_file(&up, "leaving", 0);
    (up, worker)
}

/// The worker has ended with status 0, and nothing was late.
fn ends_in_order(mut up: Up) {
    let (status, stderr) = up.end(SOON);
    assert_eq!(status.code(), Some(0), "{stderr}");
    let exited = up.named("worker.exited").next().expect("an exit").clone();
    assert_eq!(exited["status"], 0, "{}", up.story());
    assert_eq!(up.count("worker.failed"), 0, "{}", up.story());
    up.assert_nothing_left();
}

/// Stops these processes, in this order, and continues them in the same order. The time is what is
/// tested.
fn suspend(pids: &[u32], time: Duration) {
    pids.iter().copied().for_each(halt);
    std::thread::sleep(time);
    pids.iter().for_each(|pid| send(*pid, Signal::SIGCONT));
}

/// Is ready once. Later probes have to wait for half a second of its own time.
const PROBED: &str = "import http.server, os, sys, time\n\
    class Handler(http.server.BaseHTTPRequestHandler):\n\
    \x20   def do_GET(self):\n\
    \x20       if self.path == '/slow':\n\
    \x20           open('probed', 'a').write('.')\n\
    \x20           for _ in range(10): time.sleep(0.05)\n\
    \x20       self.send_response(200)\n\
    \x20       self.end_headers()\n\
    http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()";

/// Reports that it is ready once `go` exists.
const GO_AHEAD: &str = "import os, socket, time\n\
    while not os.path.exists('go'): time.sleep(0.01)\n\
    name = os.environ['NOTIFY_SOCKET']\n\
    name = '\\0' + name[1:] if name[0] == '@' else name\n\
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'READY=1', name)\n\
    open('sent', 'w').close()\n\
    while True: time.sleep(1000)";

/// Waits until what a worker writes shows this.
fn wait_for_file(up: &Up, name: &str, bytes: u64) {
    let path = up.directory.path().join(name);
    let deadline = Instant::now() + SOON;
    while !std::fs::metadata(&path).is_ok_and(|found| found.len() >= bytes) {
        assert!(Instant::now() < deadline, "{name} is not there");
        std::thread::yield_now();
    }
}

#[test]
fn health_probe_of_a_suspended_machine_is_no_miss() {
    let keys = "port = \"any\"\nready = { http = \"/\" }\n\
        health = { http = \"/slow\", every = \"50ms\", timeout = \"2s\", misses = 1 }";
    let mut up = Up::start(|tag| pool_of(&python(PROBED, tag), keys));
    let worker = pid_of(&up.wait_for_event("worker.ready"));
    wait_for_file(&up, "probed", 1);
    suspend(&[up.pid(), worker], Duration::from_secs(4));
    // The probe is answered, or there would be no other.
    wait_for_file(&up, "probed", 3);
    up.stop_cleanly();
    assert_eq!(up.count("worker.failed"), 0, "{}", up.story());
    up.assert_nothing_left();
}

/// The message lies in the socket, and the deadline has passed.
#[test]
fn ready_that_comes_while_the_host_is_suspended_is_in_time() {
    let keys = "ready = { notify = true }\nstart_timeout = \"3s\"";
    let mut up = Up::start(|tag| pool_of(&python(GO_AHEAD, tag), keys));
    let worker = pid_of(&up.wait_for_event("worker.spawned"));
    halt(up.pid());
    std::fs::write(up.directory.path().join("go"), "").expect("written");
    wait_for_file(&up, "sent", 0);
    suspend(&[up.pid()], Duration::from_secs(5));
    assert_eq!(pid_of(&up.wait_for_event("worker.ready")), worker);
    up.stop_cleanly();
    assert_eq!(up.count("worker.failed"), 0, "{}", up.story());
    up.assert_nothing_left();
}

#[test]
fn host_that_is_suspended_during_a_stop_blames_no_worker() {
    let (up, _) = stopping("release_timeout = \"1s\"\nstop = { signal = \"TERM\", grace = \"2s\" }");
    // Its exit is not read before the host runs again.
    finish(up.directory.path());
    suspend(&[up.pid()], Duration::from_secs(4));
    ends_in_order(up);
}

#[test]
fn worker_that_is_suspended_with_its_sitter_keeps_its_grace() {
    let (up, worker) = stopping("stop = { signal = \"TERM\", grace = \"2s\" }");
    let sitter = parent(worker);
    // The guardian continues a sitter after each order, perhaps not before the sitter has carried
    // it out. So the guardian stops first.
    suspend(&[up.pid(), parent(sitter), sitter, worker], Duration::from_secs(3));
    std::thread::sleep(Duration::from_millis(300));
    finish(up.directory.path());
    ends_in_order(up);
}

/// An actor of an app that holds an instance.
struct App;

impl Actor for App {
    type Msg = ();
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}

/// The host is suspended in the middle of the grace that the end of the app leaves its worker, and
/// beyond it. The worker needs a while longer, as one that was suspended, too, does.
#[tokio::test]
async fn worker_of_a_suspended_app_that_ends_keeps_its_grace() {
    let (directory, tag) = tagged_directory();
    let grace = Duration::from_secs(3);
    let (app, _) = Actor::spawn(None, App, ()).await.expect("an actor");
    let builder = Ostler::builder("suspended").state_dir(directory.path().join("state"));
    let builder = builder.parent_grace(grace);
    let mut events = builder
        .subscribe()
        .kinds([EventKind::WorkerReady, EventKind::WorkerExited]);
    let ostler = builder.start_linked(app.get_cell()).await.expect("it starts");
    let mut spec = PoolSpec::new("p", ["python3", "-c", TIDY, &tag]);
    spec.worker.cwd = Some(directory.path().to_owned());
    spec.worker.ready = Some(Ready::Line("up".into()));
    spec.worker.stop.grace = Duration::from_secs(3600);
    ostler.add_pool(spec).await.expect("the pool starts");
    let Some(EventItem::Event(_ready)) = events.recv().await else {
        panic!("it is not ready");
    };
    app.stop(None);
    let has_term = async {
        while !directory.path().join("leaving").exists() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, has_term).await.expect("TERM arrives");
    // The runtime stands still: this is what is tested.
    std::thread::sleep(grace * 2);
    tokio::time::sleep(Duration::from_millis(300)).await;
    finish(directory.path());
    let report = tokio::time::timeout(SOON, ostler.ended()).await.expect("it ends");
    assert!(report.is_success(), "{report}");
    let Some(EventItem::Event(exited)) = events.recv().await else {
        panic!("it has not ended");
    };
    assert_eq!(exited.facts.exit.and_then(|exit| exit.code()), Some(0), "{exited:?}");
    assert_eq!(survivors(&tag), []);
}
