//! One incarnation from its reservation to its release: carries out what the lifecycle decides.
//!
//! A task of its own. All that happens to the incarnation reaches it as an [`Input`] for the pure lifecycle, one at a
//! time; all it does is an [`Effect`] of it. Nothing is awaited in between: whatever takes time is a future in
//! `pending` or `watching`, so that a stop is heard at every step.

mod hearing;

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::stream::{FuturesUnordered, StreamExt};
use ostler_core::failure::{Failure, Reason};
use ostler_core::ids::Incarnation;
use ostler_core::lifecycle::{Cause, Effect, Input, Lifecycle, Outcome, Rules, State, Transition};
use ostler_core::spec::{Ports, StopSpec};
use ostler_core::traceback;
use ostler_failpoint::{self as failpoint, Point};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};

use super::protocol::{Done, Line, Message, Progress, Told, Work};
use super::slot::Slot;
use super::spans::Spans;
use super::start::{self, Resources};
use super::{announce, release, watch as ready};
use crate::guard::Route;
use crate::services::StopLevel;

/// Drives one incarnation to its end.
pub(super) async fn drive(slot: Arc<Slot>, incarnation: Incarnation, mut line: Line) {
    let released = Released {
        slot: Arc::clone(&slot),
        incarnation,
    };
    let predecessor = line.predecessor.take();
    let outcome = match start::wait_turn(&slot, predecessor.clone(), &mut line.inbox).await {
        Ok(permit) => {
            Driver::begin(slot, incarnation, line.inbox, line.sender, permit)
                .run(&line.told, &line.progress)
                .await
        }
        Err(outcome) => {
            drop(released);
            (line.told)(Told::Ended(outcome));
            start::stand_for(predecessor, &line.progress).await;
            return;
        }
    };
    drop(released);
    line.progress.send_replace(Progress::Released);
    (line.told)(Told::Ended(outcome));
}

/// Gives back what an incarnation holds in its instance, also when its task is dropped with the runtime.
struct Released {
    slot: Arc<Slot>,
    incarnation: Incarnation,
}

impl Drop for Released {
    fn drop(&mut self) {
        self.slot.services.link.forget(self.slot.number, self.incarnation);
        self.slot.services.unreleased.send_modify(|count| *count -= 1);
    }
}

/// One incarnation under way.
pub(crate) struct Driver {
    pub(crate) slot: Arc<Slot>,
    pub(crate) incarnation: Incarnation,
    pub(crate) resources: Resources,
    pub(super) spans: Spans,
    lifecycle: Lifecycle,
    first: Vec<Effect>,
    inbox: mpsc::UnboundedReceiver<Message>,
    stop_level: watch::Receiver<StopLevel>,
    pending: FuturesUnordered<Work>,
    /// The readiness or health watch of the present state.
    watching: Option<Work>,
    permit: Option<OwnedSemaphorePermit>,
    sender: mpsc::UnboundedSender<Message>,
    tree_gone: bool,
    /// Its guardian is lost: the sitter ends the tree by its specification, and takes no orders.
    unguarded: bool,
    /// It was to be killed by its guardian, which may have died before it heard of that.
    kill_ordered: bool,
    /// Nobody is left who would end the tree for us.
    sitterless: bool,
    /// We are ending it ourselves just now.
    ending_tree: bool,
    /// We are killing it past its sitter just now.
    killing: bool,
    /// What follows upon the input that was just given.
    backlog: VecDeque<Input>,
    /// The kill of the whole instance is told once; repeated, it would keep everything else from being heard.
    kill_heard: bool,
}

impl Driver {
    fn begin(
        slot: Arc<Slot>,
        incarnation: Incarnation,
        inbox: mpsc::UnboundedReceiver<Message>,
        sender: mpsc::UnboundedSender<Message>,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        let spec = &slot.spec.worker;
        let rules = Rules {
            start_timeout: spec.start_timeout,
            min_uptime: spec.min_uptime,
            stop: spec.stop,
            release_timeout: spec.release_timeout,
            host_death: spec.host_death,
            has_ports: spec.ports != Ports::None,
        };
        let (lifecycle, first) = Lifecycle::new(rules, slot.services.now());
        let stop_level = slot.services.stop_level.subscribe();
        Self {
            spans: Spans::begin(&slot, incarnation),
            slot,
            incarnation,
            resources: Resources::default(),
            lifecycle,
            first,
            inbox,
            stop_level,
            pending: FuturesUnordered::new(),
            watching: None,
            permit: Some(permit),
            sender,
            tree_gone: false,
            unguarded: false,
            kill_ordered: false,
            sitterless: false,
            ending_tree: false,
            killing: false,
            backlog: VecDeque::new(),
            kill_heard: false,
        }
    }

    async fn run(mut self, told: &(dyn Fn(Told) + Send + Sync), progress: &watch::Sender<Progress>) -> Outcome {
        let mut effects = std::mem::take(&mut self.first);
        loop {
            for effect in effects {
                match effect {
                    Effect::ReleaseOverdue(failure) => {
                        progress.send_replace(Progress::Overdue);
                        told(Told::Overdue(failure));
                    }
                    Effect::Done(outcome) => return self.finish(outcome),
                    Effect::Announce { what, elapsed } => {
                        let news = for_owner(&what);
                        announce::announce(&mut self, what, elapsed);
                        // Afterwards: what follows for the pool is an event that comes behind its cause.
                        news.into_iter().for_each(told);
                    }
                    other => self.perform(other),
                }
            }
            self.leave_watch();
            let input = self.next_input().await;
            effects = self.lifecycle.step(input, self.slot.services.now());
        }
    }

    /// The next thing that happens to the incarnation.
    async fn next_input(&mut self) -> Input {
        if let Some(input) = self.backlog.pop_front() {
            return input;
        }
        loop {
            let deadline = self
                .lifecycle
                .deadline()
                .map(|moment| self.slot.services.instant(moment));
            let done = tokio::select! {
                biased;
                Ok(_) = self.stop_level.wait_for(|level| *level == StopLevel::Kill), if !self.kill_heard => Done::Kill,
                Some(message) = self.inbox.recv() => Done::Message(message),
                Some(done) = self.pending.next() => done,
                done = poll_watch(&mut self.watching) => done,
                () = sleep_until(deadline) => Done::Input(Input::Deadline),
            };
            if let Some(input) = self.done(done) {
                return input;
            }
        }
    }

    fn done(&mut self, done: Done) -> Option<Input> {
        match done {
            Done::Message(message) => self.heard(message),
            Done::Kill => {
                self.kill_heard = true;
                Some(Input::Stop {
                    cause: Cause::InstanceStop,
                    kill: true,
                })
            }
            Done::Input(input) => {
                // An order that did not reach the guardian: there is nothing to end when that guardian's sitters have.
                self.tree_gone |= matches!(input, Input::SpawnFailed(_));
                Some(input)
            }
            Done::TreeEnded => Some(self.tree_ended_by_kill()),
            Done::TreeLeft => {
                self.ending_tree = false;
                None
            }
            Done::KilledPastSitter => {
                self.killing = false;
                None
            }
            Done::Nothing => None,
            Done::Reserved(prepared) => Some(self.reserved(prepared)),
            Done::Ready(reported) => {
                if !reported.is_empty() {
                    let recorded = self.learn_ports(reported);
                    self.pending.push(recorded);
                }
                Some(Input::Ready)
            }
        }
    }

    fn perform(&mut self, effect: Effect) {
        self.spans.perform(&effect);
        match effect {
            Effect::Record => self.pending.push(self.reserve()),
            Effect::Spawn => {
                let work = self.spawn();
                self.pending.push(work);
            }
            Effect::WatchReady => self.watch_ready(),
            Effect::WatchHealth => self.watching = self.watch_health(),
            Effect::End(stop) => self.end(stop),
            Effect::CheckPorts => self.pending.push(release::check_ports(self)),
            Effect::Unrecord => self.pending.push(release::unrecord(self)),
            Effect::NameHolders => self.pending.push(release::name_holders(self)),
            Effect::Announce { .. } | Effect::ReleaseOverdue(_) | Effect::Done(_) => {}
        }
    }

    fn end(&mut self, stop: StopSpec) {
        if self.sitterless {
            self.end_without_sitter();
            return;
        }
        if self.unguarded && stop.grace.is_zero() {
            self.kill_past_sitter();
            return;
        }
        self.kill_ordered |= stop.grace.is_zero();
        self.slot.services.link.end(self.slot.number, self.incarnation, stop);
        failpoint::reach(Point::EndOrdered);
    }

    /// Whatever were started in a cgroup that was killed would be killed at its birth: the next incarnation gets another.
    fn drop_cgroup(&mut self) {
        if !self.resources.drop_cgroup() {
            self.slot.note_spent_cgroup();
        }
    }

    /// One at a time: a second one would only do the same. It kills the cgroup, perhaps later than all else: the next
    /// incarnation must not be born into it.
    fn end_without_sitter(&mut self) {
        if !self.ending_tree {
            self.ending_tree = true;
            self.slot.note_spent_cgroup();
            self.pending.push(release::end_without_sitter(self));
        }
    }

    /// One at a time, likewise. What is killed is reaped by the sitter, which confirms the end.
    pub(super) fn kill_past_sitter(&mut self) {
        if !self.killing {
            self.killing = true;
            self.slot.note_spent_cgroup();
            self.pending.push(release::kill_past_sitter(self));
        }
    }

    /// A watch ends with the state that it belongs to, and the start is no longer in flight.
    fn leave_watch(&mut self) {
        match self.lifecycle.state() {
            State::Reserved | State::Spawned => {}
            State::Ready => {
                self.permit = None;
                self.resources.settle_ports();
            }
            State::Stopping | State::Exited | State::Releasing | State::Released => {
                self.watching = None;
                self.permit = None;
            }
        }
    }

    /// The route by which the link brings this incarnation's news.
    pub(super) fn route(&self) -> Route {
        Route {
            incarnation: self.incarnation,
            sender: self.sender.clone(),
        }
    }

    fn finish(self, outcome: Outcome) -> Outcome {
        self.count_dropped_lines();
        // What is not counted would be tried again without end and without pause. A worker that ran and lost its guardian
        // comes back at once; a start that came to nothing takes its time.
        let ran = self.resources.pid.is_some();
        let wants_pause = |failure: &Failure| failure.reason.is_machine_limit() || !failure.reason.is_counted() && !ran;
        let pauses = matches!(&outcome, Outcome::Failed(failure) if wants_pause(failure));
        let mut memory = self.slot.memory();
        memory.uncounted_failures = if pauses { memory.uncounted_failures + 1 } else { 0 };
        drop(memory);
        match outcome {
            Outcome::Failed(failure) => Outcome::Failed(self.with_stderr(failure)),
            other => other,
        }
    }

    fn count_dropped_lines(&self) {
        let (hub, lines) = (&self.slot.services.hub, self.resources.dropped_lines());
        if let Some(observer) = hub.observer().filter(|_| lines > 0) {
            observer.output_dropped(hub.app(), &self.slot.worker.pool, lines);
        }
    }

    /// The failure with the last lines of stderr.
    pub(super) fn with_stderr(&self, mut failure: Failure) -> Failure {
        if failure.stderr_tail.is_empty() {
            failure.stderr_tail = self.resources.stderr_tail();
        }
        let more = match failure.reason {
            Reason::ExitedBeforeReady => self.last_words(&mut failure),
            Reason::ReadyTimeout => self.resources.last_answer.get(),
            _ => None,
        };
        if let Some(more) = more.filter(|more| !failure.message.ends_with(more.as_str())) {
            failure.message = format!("{}; {more}", failure.message);
        }
        failure
    }

    /// What a worker that never got ready printed last: the exception of a Python program, with the
    /// package that fixes it, or its last line on stderr.
    fn last_words(&self, failure: &mut Failure) -> Option<String> {
        let Some(found) = traceback::read(&failure.stderr_tail) else {
            let last = failure.stderr_tail.last()?;
            return Some(format!("its last line on stderr: {last}"));
        };
        if let Some(missing) = found.missing {
            let python = self.slot.spec.worker.command.first().map_or("python3", String::as_str);
            failure.suggestion = missing.suggestion(python);
        }
        Some(format!("its last exception: {}", found.line))
    }

    fn watch_ready(&mut self) {
        // What is known already is told before anything else is heard: an exit right behind exec is the exit of a ready
        // worker.
        let plan = match self.ready_plan() {
            Ok(Some(plan)) => plan,
            Ok(None) => return self.backlog.push_back(Input::Ready),
            Err(failure) => return self.backlog.push_back(Input::StartFailed(failure)),
        };
        self.watching = Some(Box::pin(async move {
            match ready::wait_ready(plan).await {
                Ok(info) => Done::Ready(info.ports),
                Err(failure) => Done::Input(Input::StartFailed(failure)),
            }
        }));
    }

    fn watch_health(&self) -> Option<Work> {
        let plan = self.health_plan()?;
        Some(Box::pin(async move {
            Done::Input(Input::Unhealthy(ready::watch(plan).await))
        }))
    }
}

/// What the owner of the process is told of a transition.
fn for_owner(what: &Transition) -> Option<Told> {
    match what {
        Transition::Ready => Some(Told::Ready),
        Transition::Stopping { .. } | Transition::Exited(_) | Transition::Unhealthy(_) => Some(Told::NotReady),
        Transition::Reserved | Transition::Spawned | Transition::Failed(_) | Transition::Released => None,
    }
}

async fn sleep_until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// The watch's outcome, after which there is none any more.
async fn poll_watch(watching: &mut Option<Work>) -> Done {
    let Some(work) = watching else {
        return std::future::pending().await;
    };
    let done = work.await;
    *watching = None;
    done
}
