//! The host as the observer has it: orders, answers with a deadline, and its events under suspicion.

use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cast::QUITTERS;
use crate::census::Id;
use crate::host::HostArguments;

/// An order that is not answered in this time hangs.
pub(crate) const ANSWER: Duration = Duration::from_secs(40);
/// So many events are kept for the story of a failure.
const KEPT: usize = 250;

/// What no fault of ours explains.
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
    /// What its start said, once it has.
    started: Option<Value>,
    pub(crate) failed: Option<String>,
    /// How its root gave up, if it did.
    pub(crate) over: Option<String>,
    pub(crate) guardian_losses: u32,
    /// `cgroup` or `sitter`.
    pub(crate) containment: String,
    pub(crate) events: u64,
    pub(crate) last: VecDeque<String>,
    /// Of each worker the incarnation that was reserved last, and whether it was released.
    turns: HashMap<String, (u64, bool)>,
    /// How often a port was held by somebody who is none of ours.
    pub(crate) strangers: u64,
    tag: String,
    /// What an event said that must not be.
    pub(crate) wrong: Option<String>,
}

impl Host {
    /// Starts a host; [`Host::await_start`] waits for it.
    #[expect(
        clippy::zombie_processes,
        reason = "the observer reaps whatever becomes its child, this one too"
    )]
    pub(crate) fn launch(arguments: &HostArguments) -> Self {
        let own: PathBuf = std::env::current_exe().expect("the path of this program");
        let mut child = Command::new(own)
            .arg("--host")
            .args([&arguments.app, &arguments.tag])
            .arg(&arguments.state)
            .args(arguments.cgroups.then_some("--cgroups"))
            .env_remove("RUNTIME_DIRECTORY")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the host starts");
        let stdout = BufReader::new(child.stdout.take().expect("its stdout"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            // A line that its death has cut off is none.
            let values = stdout.lines().map_while(Result::ok);
            for value in values.filter_map(|line| serde_json::from_str(&line).ok()) {
                if sender.send(value).is_err() {
                    return;
                }
            }
        });
        let pid = i32::try_from(child.id()).expect("a pid");
        Self {
            id: Id::of(pid).expect("it is not reaped yet"),
            stdin: child.stdin.take().expect("its stdin"),
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
            strangers: 0,
            tag: arguments.tag.clone(),
            wrong: None,
        }
    }

    /// What the start told: the run, and what its sweep did.
    pub(crate) fn await_start(&mut self, within: Duration) -> Result<Value, String> {
        self.read_until(within, |host| host.started.is_some() || host.failed.is_some());
        match (self.started.clone(), &self.failed) {
            (Some(started), _) => Ok(started),
            (None, Some(failed)) => Err(format!("the host did not start: {failed}")),
            (None, None) => Err(format!("the start hangs: no word of it within {within:?}")),
        }
    }

    /// Gives an order, whose answer is to be asked for by the number.
    pub(crate) fn order(&mut self, mut order: Value) -> u64 {
        self.orders += 1;
        order["id"] = json!(self.orders);
        // A host that has just died is seen by whoever waits for the answer.
        _ = writeln!(self.stdin, "{order}");
        self.orders
    }

    /// What an order came to.
    pub(crate) fn answer(&mut self, order: u64) -> Result<Value, String> {
        self.answer_whole(order).map(|answer| answer["ok"].clone())
    }

    /// The same with whatever else the answer says.
    pub(crate) fn answer_whole(&mut self, order: u64) -> Result<Value, String> {
        self.read_until(ANSWER, |host| host.answers.contains_key(&order) || host.over.is_some());
        let Some(answer) = self.answers.remove(&order) else {
            return Err(match &self.over {
                Some(over) => format!("the instance is over: {over}"),
                None => format!("order {order} hangs, or the host is gone: no answer within {ANSWER:?}"),
            });
        };
        match answer["error"].as_str() {
            Some(error) => Err(format!("order {order}: {error}")),
            None => Ok(answer),
        }
    }

    pub(crate) fn ask(&mut self, order: Value) -> Result<Value, String> {
        let order = self.order(order);
        self.answer(order)
    }

    /// Reads what has come so far.
    pub(crate) fn read(&mut self) {
        while let Ok(line) = self.lines.try_recv() {
            self.take(line);
        }
    }

    /// Reads on until it is so, the host says no more, or the time is over.
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
            self.hear(&line);
        }
    }

    fn hear(&mut self, event: &Value) {
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
            // What was missed can't be judged.
            "events.dropped" => {
                self.turns.clear();
                false
            }
            "worker.reserved" => self.is_out_of_turn(event),
            "worker.released" => {
                self.release(event);
                false
            }
            "worker.gave_up" | "pool.gave_up" => !of_quitters,
            "worker.failed" if self.is_held_by_a_stranger(event) => {
                self.strangers += 1;
                false
            }
            "worker.failed" => UNEXPLAINED.iter().any(|reason| event["reason"] == *reason),
            "cleanup.orphans_found" | "cleanup.emergency_kill" => true,
            _ => false,
        };
        if wrong {
            self.wrong.get_or_insert_with(|| format!("this must not be: {event}"));
        }
    }

    /// A worker's port was taken by somebody else of this machine before the worker was replaced: that is what
    /// `release_timeout` is for.
    fn is_held_by_a_stranger(&self, event: &Value) -> bool {
        let holder = event["holder"].as_str().unwrap_or_default();
        let pid = holder.strip_prefix("pid ").and_then(|rest| rest.split(' ').next());
        let held_on_a_port = event["reason"] == "release_timeout" && holder.contains(" on ");
        let command = pid.and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok());
        held_on_a_port && command.is_none_or(|command| !command.split('\0').any(|word| word == self.tag))
    }

    /// A reservation comes after the release of everything before it.
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

/// An event without what every event has.
fn brief(event: &Value) -> String {
    let mut brief = event.clone();
    if let Some(fields) = brief.as_object_mut() {
        for field in ["schema", "app", "run", "pool", "suggestion", "stderr_tail"] {
            fields.remove(field);
        }
    }
    brief.to_string()
}
