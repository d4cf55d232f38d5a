//! The host as seen by the observer: requests, replies with a deadline, and its events, which are
//! checked.

use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::census::Id;
use crate::host::HostArguments;
use crate::pools::QUITTERS;

/// The limit for a reply.
pub(crate) const ANSWER: Duration = Duration::from_secs(40);
/// The number of events kept for the report of a failure.
const KEPT: usize = 250;

/// Reasons that none of the faults explains.
const UNEXPLAINED: [&str; 9] = [
    "release_timeout",
    "store_failed",
    "command_not_found",
    "directory_missing",
    "permission_denied",
    "process_limit",
    "descriptor_limit",
    "out_of_memory",
    "ready_timeout",
];

/// A host process.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) id: Id,
    stdin: ChildStdin,
    lines: Receiver<Value>,
    answers: HashMap<u64, Value>,
    orders: u64,
    /// The host's reply to its start.
    started: Option<Value>,
    pub(crate) failed: Option<String>,
    /// Why its root gave up, if it did.
    pub(crate) over: Option<String>,
    pub(crate) guardian_losses: u32,
    /// `cgroup` or `sitter`.
    pub(crate) containment: String,
    pub(crate) events: u64,
    pub(crate) last: VecDeque<String>,
    /// The latest reserved incarnation of each worker, and whether it has been released.
    turns: HashMap<String, (u64, bool)>,
    /// How often a port was held by an unrelated process.
    pub(crate) foreign_holders: u64,
    /// How many incarnations ended without a proof that nothing of them is left, which is so if
    /// guardian and sitter die together without a cgroup. The run is not clean then.
    pub(crate) unseen: u64,
    /// Its state directory was removed, and with it paths that its workers need.
    pub(crate) paths_removed: bool,
    tag: String,
    /// The first event that must not occur.
    pub(crate) wrong: Option<String>,
}

impl Host {
    /// Starts a host. [`Host::await_start`] waits for it.
    #[expect(clippy::zombie_processes, reason = "the observer reaps all its children")]
    pub(crate) fn launch(arguments: &HostArguments) -> Self {
        let own: PathBuf = std::env::current_exe().expect("path of this program");
        let mut child = Command::new(own)
            .arg("--host")
            .args([&arguments.app, &arguments.tag])
            .arg(&arguments.state)
            .args(arguments.cgroups.then_some("--cgroups"))
            .env_remove("RUNTIME_DIRECTORY")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("host starts");
        let stdout = BufReader::new(child.stdout.take().expect("piped stdout"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            // The death of the host may cut off the last line.
            let values = stdout.lines().map_while(Result::ok);
            for value in values.filter_map(|line| serde_json::from_str(&line).ok()) {
                if sender.send(value).is_err() {
                    return;
                }
            }
        });
        let pid = i32::try_from(child.id()).expect("valid pid");
        Self {
            id: Id::of(pid).expect("not reaped yet"),
            stdin: child.stdin.take().expect("piped stdin"),
            lines,
            answers: HashMap::new(),
            orders: 0,
            started: None,
            failed: None,
            over: None,
            guardian_losses: 0,
            containment: String::new(),
            events: 0,
            last: VecDeque::new(),
            turns: HashMap::new(),
            foreign_holders: 0,
            unseen: 0,
            paths_removed: false,
            tag: arguments.tag.clone(),
            wrong: None,
        }
    }

    /// The result of the start: the run, and what its sweep did.
    pub(crate) fn await_start(&mut self, within: Duration) -> Result<Value, String> {
        self.read_until(within, |host| host.started.is_some() || host.failed.is_some());
        match (self.started.clone(), &self.failed) {
            (Some(started), _) => Ok(started),
            (None, Some(failed)) => Err(format!("the host did not start: {failed}")),
            (None, None) => Err(format!("the start hangs: no reply within {within:?}")),
        }
    }

    /// Sends a request. Returns the number by which to ask for its reply.
    pub(crate) fn order(&mut self, mut order: Value) -> u64 {
        self.orders += 1;
        order["id"] = json!(self.orders);
        // If the host has just died, waiting for the reply fails.
        _ = writeln!(self.stdin, "{order}");
        self.orders
    }

    /// The result of a request.
    pub(crate) fn answer(&mut self, order: u64) -> Result<Value, String> {
        self.answer_whole(order).map(|answer| answer["ok"].clone())
    }

    /// The complete reply to a request.
    pub(crate) fn answer_whole(&mut self, order: u64) -> Result<Value, String> {
        self.read_until(ANSWER, |host| host.answers.contains_key(&order) || host.over.is_some());
        let Some(answer) = self.answers.remove(&order) else {
            return Err(match &self.over {
                Some(over) => format!("the instance has ended: {over}"),
                None => format!("request {order} hangs, or the host is gone: no reply within {ANSWER:?}"),
            });
        };
        match answer["error"].as_str() {
            Some(error) => Err(format!("request {order}: {error}")),
            None => Ok(answer),
        }
    }

    pub(crate) fn ask(&mut self, order: Value) -> Result<Value, String> {
        let order = self.order(order);
        self.answer(order)
    }

    /// Reads what has arrived so far.
    pub(crate) fn read(&mut self) {
        while let Ok(line) = self.lines.try_recv() {
            self.take(line);
        }
    }

    /// Reads until the condition holds, the host's output ends, or the time is up.
    pub(crate) fn read_until(&mut self, within: Duration, so: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + within;
        while !so(self) {
            match self
                .lines
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(line) => self.take(line),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn take(&mut self, line: Value) {
        if let Some(id) = line["id"].as_u64() {
            self.answers.insert(id, line);
        } else if let Some(started) = line.get("started") {
            self.started = Some(started.clone());
        } else if let Some(failed) = line["failed"].as_str() {
            self.failed = Some(failed.to_owned());
        } else if let Some(over) = line["over"].as_str() {
            self.over = Some(over.to_owned());
        } else {
            self.check_event(&line);
        }
    }

    fn check_event(&mut self, event: &Value) {
        self.events += 1;
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back(brief(event));
        let of_quitters = event["pool"] == QUITTERS;
        let wrong = match event["event"].as_str().unwrap_or_default() {
            "run.started" => {
                self.containment = event["containment"].as_str().unwrap_or_default().to_owned();
                false
            }
            "guardian.lost" => {
                self.guardian_losses += 1;
                false
            }
            // Nothing can be concluded about missing events.
            "events.dropped" => {
                self.turns.clear();
                false
            }
            "worker.reserved" => self.is_out_of_turn(event),
            "worker.released" => {
                self.release(event);
                false
            }
            // Instead of the release.
            "worker.failed" if event["cause"] == "unseen" => {
                self.release(event);
                self.unseen += 1;
                false
            }
            "worker.gave_up" | "pool.gave_up" => !of_quitters,
            "worker.failed" if self.is_held_by_a_foreign_process(event) => {
                self.foreign_holders += 1;
                false
            }
            "worker.failed" if self.paths_removed && is_lost_path(event) => false,
            "worker.failed" => UNEXPLAINED.iter().any(|reason| event["reason"] == *reason),
            "cleanup.orphans_found" | "cleanup.emergency_kill" => true,
            _ => false,
        };
        if wrong {
            self.wrong.get_or_insert_with(|| format!("unexpected event: {event}"));
        }
    }

    /// Whether an unrelated process of this machine took the worker's port before the worker was
    /// replaced, which `release_timeout` is for.
    fn is_held_by_a_foreign_process(&self, event: &Value) -> bool {
        let holder = event["holder"].as_str().unwrap_or_default();
        let pid = holder.strip_prefix("pid ").and_then(|rest| rest.split(' ').next());
        let held_on_a_port = event["reason"] == "release_timeout" && holder.contains(" on ");
        let command = pid.and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok());
        held_on_a_port && command.is_none_or(|command| !command.split('\0').any(|word| word == self.tag))
    }

    /// Whether a worker is reserved before its previous incarnation was released.
    fn is_out_of_turn(&mut self, event: &Value) -> bool {
        let (worker, incarnation) = turn(event);
        let before = self.turns.insert(worker, (incarnation, false));
        before.is_some_and(|(last, released)| !released || incarnation <= last)
    }

    fn release(&mut self, event: &Value) {
        let (worker, incarnation) = turn(event);
        self.turns.insert(worker, (incarnation, true));
    }
}

fn turn(event: &Value) -> (String, u64) {
    let worker = event["worker"].as_str().unwrap_or_default().to_owned();
    (worker, event["incarnation"].as_u64().unwrap_or_default())
}

/// Whether the worker was ended because a path that it needs was removed.
fn is_lost_path(event: &Value) -> bool {
    let message = event["message"].as_str().unwrap_or_default();
    event["reason"] == "store_failed" && message.ends_with("was removed while it ran")
}

/// An event without the fields that every event has.
fn brief(event: &Value) -> String {
    let mut brief = event.clone();
    if let Some(fields) = brief.as_object_mut() {
        for field in ["schema", "app", "run", "pool", "suggestion", "stderr_tail"] {
            fields.remove(field);
        }
    }
    brief.to_string()
}
