//! Readiness, probes and heartbeats of real processes on real sockets.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ostler_core::failure::{Failure, Reason};
use ostler_core::spec::{Health, PortOwner, Probe, ProbeKind};
use ostler_os::procfile;

use super::*;
use crate::follow::Endpoint;

/// No wait of these tests takes longer.
const DEADLINE: Duration = Duration::from_secs(20);

/// A process that takes commands on its stdin, and ends with it.
struct Worker {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Worker {
    fn start(prepare: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new("python3");
        command.args(["-c", include_str!("worker.py")]);
        Self::run(command, prepare)
    }

    /// The same below a shell, which is its sitter.
    fn start_below_a_shell() -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", "python3 -c \"$0\"; true", include_str!("worker.py")]);
        Self::run(command, |_| {})
    }

    fn run(mut command: Command, prepare: impl FnOnce(&mut Command)) -> Self {
        prepare(&mut command);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdin, stdout }
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    fn hear(&mut self) -> String {
        if self.stdout.buffer().is_empty() {
            let mut readable = [PollFd::new(self.stdout.get_ref().as_fd(), PollFlags::POLLIN)];
            let limit = PollTimeout::try_from(DEADLINE).unwrap();
            assert_eq!(poll(&mut readable, limit), Ok(1), "it says nothing");
        }
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// Starts its HTTP server, on a port of its own choice for 0.
    fn listen(&mut self, port: u16) -> SocketAddr {
        self.tell(&format!("listen {port}"));
        let line = self.hear();
        let port = line
            .strip_prefix("port ")
            .unwrap_or_else(|| panic!("it does not listen: {line}"));
        SocketAddr::from((Ipv4Addr::LOCALHOST, port.parse().unwrap()))
    }

    /// Ends it with its stdin, and proves that it has ended.
    fn end(&mut self) {
        drop(self.stdin.take());
        let pid = self.pid();
        self.child.wait().unwrap();
        assert_eq!(procfile::stat(pid).unwrap(), None, "it is left");
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The test has failed already, perhaps because it hangs.
            drop(self.stdin.take());
            self.child.kill().unwrap();
        } else {
            self.end();
        }
    }
}

/// The test process stands in for a sitter: its children are the worker's tree, itself is not.
fn ourselves() -> i32 {
    i32::try_from(std::process::id()).unwrap()
}

fn a_free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

fn get(path: &str) -> Request {
    Request::Http {
        path: path.to_owned(),
        headers: BTreeMap::new(),
    }
}

fn http(address: SocketAddr, sitter: i32) -> PortPlan {
    PortPlan {
        request: get("/healthz"),
        endpoint: Endpoint::Tcp(address),
        sitter,
        owner: PortOwner::Worker,
        uninspected: Uninspected::default(),
    }
}

fn probed(port: PortPlan) -> Sign {
    Sign::Probe(Question::Port(port))
}

async fn ready(sign: Sign) -> Result<ReadyInfo, Failure> {
    let plan = ReadyPlan {
        sign,
        last_answer: LastAnswer::default(),
    };
    tokio::time::timeout(DEADLINE, wait_ready(plan))
        .await
        .expect("neither ready nor failed")
}

/// Waits in the background, so that the test can act meanwhile.
fn waiting(sign: Sign) -> (tokio::task::JoinHandle<Result<ReadyInfo, Failure>>, LastAnswer) {
    let last_answer = LastAnswer::default();
    let plan = ReadyPlan {
        sign,
        last_answer: last_answer.clone(),
    };
    (tokio::spawn(wait_ready(plan)), last_answer)
}

async fn until_answer(last_answer: &LastAnswer, part: &str) {
    let started = Instant::now();
    while !last_answer.get().is_some_and(|answer| answer.contains(part)) {
        assert!(
            started.elapsed() < DEADLINE,
            "{part:?} never came: {:?}",
            last_answer.get()
        );
        tokio::task::yield_now().await;
    }
}

async fn joined(task: tokio::task::JoinHandle<Result<ReadyInfo, Failure>>) -> Result<ReadyInfo, Failure> {
    tokio::time::timeout(DEADLINE, task)
        .await
        .expect("neither ready nor failed")
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_comes_up_late_and_says_no_first_gets_ready() {
    let mut worker = Worker::start(|_| {});
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, a_free_port()));
    let (task, last_answer) = waiting(probed(http(address, ourselves())));
    until_answer(&last_answer, "no process listens").await;
    worker.tell("mode bad");
    assert_eq!(worker.hear(), "mode");
    worker.listen(address.port());
    until_answer(&last_answer, "GET /healthz was answered with 503").await;
    assert!(!task.is_finished());
    worker.tell("mode ok");
    assert!(joined(task).await.is_ok());
}

#[tokio::test]
async fn a_redirect_is_a_yes() {
    let mut worker = Worker::start(|_| {});
    let address = worker.listen(0);
    worker.tell("mode moved");
    assert_eq!(worker.hear(), "mode");
    assert!(ready(probed(http(address, ourselves()))).await.is_ok());
}

#[tokio::test]
async fn the_answer_of_an_unrelated_process_does_not_count_and_the_process_is_named() {
    let worker = Worker::start_below_a_shell();
    let mut unrelated = Worker::start(|_| {});
    let address = unrelated.listen(0);
    for request in [get("/"), Request::Tcp] {
        let probe = PortPlan {
            request,
            endpoint: Endpoint::Tcp(address),
            sitter: worker.pid(),
            owner: PortOwner::Worker,
            uninspected: Uninspected::default(),
        };
        let failure = ready(probed(probe))
            .await
            .expect_err("an unrelated process was taken for the worker");
        assert_eq!(failure.reason, Reason::PortInUse);
        assert!(failure.suggestion.contains("owner = \"any\""), "{failure}");
        let holder = failure.holder.expect("the holder is named");
        assert!(
            holder.contains(&unrelated.pid().to_string()) && holder.contains("python"),
            "{holder}"
        );
    }
    let mut plan = health(address, DEADLINE);
    if let Some(Question::Port(port)) = plan.probe.as_mut().map(|probe| &mut probe.question) {
        port.sitter = worker.pid();
    }
    let failure = unwell(plan).await;
    assert!(failure.suggestion.contains("owner = \"any\""), "{failure}");
    assert!(failure.holder.is_some(), "{failure}");
}

#[tokio::test]
async fn a_listener_of_a_grandchild_counts() {
    let mut worker = Worker::start_below_a_shell();
    let address = worker.listen(0);
    let sitter = worker.pid();
    assert!(ready(probed(http(address, sitter))).await.is_ok());
    assert!(
        ready(probed(PortPlan {
            request: Request::Tcp,
            endpoint: Endpoint::Tcp(address),
            sitter,
            owner: PortOwner::Worker,
            uninspected: Uninspected::default(),
        }))
        .await
        .is_ok()
    );
}

#[tokio::test]
async fn a_listener_of_the_host_counts_once_the_tree_has_it_open() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let passed = listener.try_clone().unwrap();
    fcntl(passed.as_fd(), FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    let holder = Worker::start_below_a_shell();
    drop(passed);
    let probe = |sitter| PortPlan {
        request: Request::Tcp,
        endpoint: Endpoint::Tcp(address),
        sitter,
        owner: PortOwner::Worker,
        uninspected: Uninspected::default(),
    };
    assert!(ready(probed(probe(holder.pid()))).await.is_ok());
    let without = Worker::start_below_a_shell();
    let failure = ready(probed(probe(without.pid())))
        .await
        .expect_err("it has not got the listener");
    assert_eq!(failure.reason, Reason::PortInUse);
}

#[tokio::test]
async fn a_line_and_a_time_are_signs_too() {
    let lines = LineWatch::new("^up").unwrap();
    let (task, last_answer) = waiting(Sign::Line(lines.clone()));
    until_answer(&last_answer, "no line").await;
    lines.see("up and running");
    assert!(joined(task).await.is_ok());
    let started = Instant::now();
    assert!(ready(Sign::After(Duration::from_millis(30))).await.is_ok());
    assert!(started.elapsed() >= Duration::from_millis(30));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ready_file_reports_the_port() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ready");
    let mut worker = Worker::start(|_| {});
    let (task, last_answer) = waiting(Sign::File {
        path: path.clone(),
        reported: vec![String::new()],
    });
    until_answer(&last_answer, "is not there or empty").await;
    worker.tell(&format!("write {} 4711", path.display()));
    assert_eq!(
        joined(task).await.unwrap().ports,
        PortMap::from([(String::new(), 4711)])
    );
}

/// A notify socket that is read, and a worker that has its name.
struct Notified {
    worker: Worker,
    notify: Notify,
    reader: tokio::task::JoinHandle<std::convert::Infallible>,
    _directory: tempfile::TempDir,
}

impl Notified {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut notify = Notify::bind(directory.path(), "notify").unwrap();
        let worker = Worker::start(|command| {
            command.env("NOTIFY_SOCKET", notify.env_value());
        });
        let reader = tokio::spawn(notify.listen(ourselves(), Uninspected::default()).unwrap());
        Self {
            worker,
            notify,
            reader,
            _directory: directory,
        }
    }

    fn sign(&self, reported: &[&str]) -> Sign {
        Sign::Notify {
            heard: self.notify.heard(),
            reported: reported.iter().map(|name| (*name).to_owned()).collect(),
        }
    }
}

impl Drop for Notified {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ready_by_notify_needs_every_reported_port_in_whichever_message() {
    let mut notified = Notified::new();
    let (task, last_answer) = waiting(notified.sign(&["", "metrics"]));
    let worker = &mut notified.worker;
    worker.tell("notify STATUS=loading|PORT=80");
    worker.tell("notify READY=1");
    until_answer(&last_answer, "READY=1 came without PORT_METRICS=n").await;
    assert!(!task.is_finished());
    worker.tell("notify PORT_METRICS=81");
    let ports = joined(task).await.unwrap().ports;
    assert_eq!(ports, PortMap::from([(String::new(), 80), ("metrics".to_owned(), 81)]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_status_and_a_port_alone_are_not_ready() {
    let mut notified = Notified::new();
    let (task, last_answer) = waiting(notified.sign(&[""]));
    let worker = &mut notified.worker;
    worker.tell("notify PORT=80|STATUS=half way");
    until_answer(&last_answer, "its status: half way").await;
    assert!(!task.is_finished());
    worker.tell("notify READY=1");
    assert!(joined(task).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ready_from_outside_the_tree_is_ignored() {
    let mut notified = Notified::new();
    let foreign = UnixDatagram::unbound().unwrap();
    foreign
        .send_to(b"READY=1\nPORT=1", notified.notify.env_value())
        .unwrap();
    let (task, last_answer) = waiting(notified.sign(&[""]));
    let worker = &mut notified.worker;
    worker.tell("notify READY=1");
    until_answer(&last_answer, "READY=1 came without PORT=n").await;
    worker.tell("notify PORT=2");
    assert_eq!(joined(task).await.unwrap().ports, PortMap::from([(String::new(), 2)]));
}

#[tokio::test]
async fn ready_from_a_child_that_has_ended_since_is_heard() {
    // The reader is a task of this thread: it reads when the test waits, and the worker has ended
    // by then.
    let mut notified = Notified::new();
    notified.worker.tell("notify READY=1");
    assert_eq!(notified.worker.hear(), "notified");
    notified.worker.end();
    assert!(ready(notified.sign(&[])).await.is_ok());
}

fn health(address: SocketAddr, timeout: Duration) -> HealthPlan {
    let probe = Probe::new(ProbeKind::Http("/".into()));
    let mut rules = Health::new(probe).every(Duration::from_millis(1));
    rules.timeout = timeout;
    HealthPlan {
        probe: Some(HealthProbe {
            question: Question::Port(http(address, ourselves())),
            rules,
        }),
        heartbeat: None,
    }
}

async fn unwell(plan: HealthPlan) -> Failure {
    tokio::time::timeout(DEADLINE, watch_health(plan))
        .await
        .expect("it was never unwell")
}

#[tokio::test]
async fn so_many_failed_probes_in_a_row_make_it_unwell() {
    let mut worker = Worker::start(|_| {});
    let address = worker.listen(0);
    worker.tell("mode bad");
    assert_eq!(worker.hear(), "mode");
    let failure = unwell(health(address, DEADLINE)).await;
    assert_eq!(failure.reason, Reason::HealthCheckFailed);
    assert!(
        failure.message.contains("3 health probes") && failure.message.contains("503"),
        "{failure}"
    );
    worker.tell("mode bad");
    let heard: Vec<String> = (0..4).map(|_| worker.hear()).collect();
    assert_eq!(
        heard,
        ["asked 1", "asked 2", "asked 3", "mode"],
        "three probes, no more"
    );
}

#[tokio::test]
async fn a_hanging_worker_is_unwell() {
    let mut worker = Worker::start(|_| {});
    let address = worker.listen(0);
    worker.tell("mode hang");
    assert_eq!(worker.hear(), "mode");
    let failure = unwell(health(address, Duration::from_millis(20))).await;
    assert!(failure.message.contains("did not answer within 20ms"), "{failure}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_success_in_between_starts_the_count_again() {
    let mut worker = Worker::start(|_| {});
    let address = worker.listen(0);
    worker.tell("mode flaky");
    assert_eq!(worker.hear(), "mode");
    let task = tokio::spawn(watch_health(health(address, DEADLINE)));
    while worker.hear() != "asked 12" {}
    assert!(!task.is_finished(), "two misses, a success, two misses, …");
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_is_a_lost_heartbeat_and_beats_put_it_off() {
    let mut notified = Notified::new();
    let heard = notified.notify.heard();
    let worker = &mut notified.worker;
    // It is up, and what counts from now on is its beats alone.
    worker.tell("mode steady");
    assert_eq!(worker.hear(), "mode");
    let longest = Duration::from_secs(2);
    let plan = HealthPlan {
        probe: None,
        heartbeat: Some((heard, longest)),
    };
    let started = Instant::now();
    let task = tokio::spawn(watch_health(plan));
    worker.tell("beat 11 0.25");
    assert_eq!(worker.hear(), "beaten");
    assert!(!task.is_finished(), "it beats");
    let failure = tokio::time::timeout(DEADLINE, task).await.unwrap().unwrap();
    assert_eq!(failure.reason, Reason::HeartbeatLost);
    assert!(
        started.elapsed() >= longest + Duration::from_millis(2500),
        "it was lost while it beat"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_talkative_worker_never_finds_its_notify_socket_full() {
    let mut notified = Notified::new();
    notified.worker.tell("beat 5000 0");
    assert_eq!(notified.worker.hear(), "beaten");
}
