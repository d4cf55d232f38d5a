//! One incarnation from its reservation to its release: carries out what the lifecycle decides.
//!
//! A task of its own. Everything that happens to the incarnation reaches it as an [`Input`] for the
//! pure lifecycle, one at a time; everything it does is an [`Effect`] of it. Nothing is awaited in
//! between: work that takes time is a future in `pending`, `listening` or `watching`, so that a
//! stop is heard at every step. It keeps no state that decides anything: that is the lifecycle's.

mod arrivals;
mod waits;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_channel::mpsc;
use futures_util::stream::{FuturesUnordered, StreamExt};
use ostler_core::failure::{Failure, Reason};
use ostler_core::ids;
use ostler_core::lifecycle::{Cause, Effect, Input, Lifecycle, Outcome, Rules, Start, State, Transition};
use ostler_core::moment::Moment;
use ostler_core::spec::{Ports, Ready, StopSpec, WorkerSpec};
use ostler_failpoint::{self as failpoint, Point};
use ostler_os::guardian::SpawnRequest;
use ostler_os::patience;
use ostler_telemetry::{EventKind, Facts};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;

use self::waits::{killed, listen, poll_watch, sleep_until};
use super::host::{Host, Setup};
use super::incarnation::Incarnation;
use super::plan::{self, Watched};
use super::protocol::{Done, Line, Notice, Order, Owner, Progress, Work};
use super::resources::{BACKGROUND, RUN_IN_FOREGROUND, Resources};
use super::slot::{Next, Process, Slot};
use super::spans::Spans;
use super::start;
use super::watch::{wait_ready, watch_health};
use super::{announce, release};
use crate::guard::{News, Route};
use crate::instance::services::StopLevel;
use crate::small_watch;

/// Begins the slot's next incarnation. It is reserved only when the one before it is released, and
/// when the pool's `max_starting` allows. `None`: the slot was removed.
pub(crate) fn begin(setup: &Arc<Setup>, slot: &Arc<Slot>, owner: Owner) -> Option<Process> {
    let (orders, received) = mpsc::unbounded();
    let (progress, seen) = small_watch::channel(Progress::Held);
    let Next { number, predecessor } = slot.next(seen.clone(), orders.clone())?;
    setup.host.unreleased.send_modify(|count| *count += 1);
    let incarnation = Incarnation {
        worker: slot.worker.clone(),
        number,
        slot: slot.number,
        run: setup.host.owner.run,
        pool: Arc::clone(&setup.pool),
    };
    let line = Line {
        owner,
        progress,
        predecessor,
        orders: received,
    };
    tokio::spawn(drive(Arc::clone(setup), Arc::clone(slot), incarnation, line));
    Some(Process::new(orders, seen))
}

/// Drives one incarnation to its end.
async fn drive(setup: Arc<Setup>, slot: Arc<Slot>, incarnation: Incarnation, mut line: Line) {
    let unreleased = Unreleased {
        setup: Arc::clone(&setup),
        slot: incarnation.slot,
        number: incarnation.number,
    };
    let predecessor = line.predecessor.take();
    // In a box, which is gone when its turn has come.
    let turn = Box::pin(start::wait_turn(
        &setup,
        slot.not_before(),
        predecessor.clone(),
        &mut line.orders,
    ));
    let permit = match turn.await {
        Ok(permit) => permit,
        Err(outcome) => {
            drop(unreleased);
            (line.owner)(Notice::Ended(outcome));
            start::follow_predecessor(predecessor, &line.progress).await;
            return;
        }
    };
    let Line {
        owner,
        progress,
        orders,
        ..
    } = line;
    // In a box, because an async function keeps what it moves twice: in its caller and in itself.
    let driver = Box::new(Driver::new(
        &setup,
        slot,
        incarnation,
        (&owner, &progress),
        orders,
        permit,
    ));
    let outcome = driver.run().await;
    drop(unreleased);
    progress.set(Progress::Released);
    owner(Notice::Ended(outcome));
}

/// Gives back what an incarnation holds in its instance, also when its task is dropped with the
/// runtime.
struct Unreleased {
    setup: Arc<Setup>,
    slot: u32,
    number: ids::Incarnation,
}

impl Drop for Unreleased {
    fn drop(&mut self) {
        let host = &self.setup.host;
        host.guard.forget(self.slot, self.number);
        host.unreleased.send_modify(|count| *count -= 1);
    }
}

/// One incarnation under way.
struct Driver<'a> {
    setup: &'a Arc<Setup>,
    host: &'a Host,
    slot: Arc<Slot>,
    incarnation: Incarnation,
    resources: Resources,
    spans: Spans,
    lifecycle: Lifecycle,
    /// The lifecycle's moments count from here.
    origin: Instant,
    first: Vec<Effect>,
    owner: &'a Owner,
    progress: &'a small_watch::Sender<Progress>,
    orders: mpsc::UnboundedReceiver<Order>,
    news: (mpsc::UnboundedSender<News>, mpsc::UnboundedReceiver<News>),
    pending: FuturesUnordered<Work>,
    /// `None` once the whole instance is killed.
    stop_level: Option<watch::Receiver<StopLevel>>,
    preparation: Preparation,
    /// The reader of the notify socket.
    listening: Option<Pin<Box<dyn Future<Output = Infallible> + Send>>>,
    /// The readiness or health watch of the present state.
    watching: Option<Work>,
    permit: Option<OwnedSemaphorePermit>,
}

/// How far the preparation of the spawn is. There is one: another would replace the pipes that the
/// worker writes to.
enum Preparation {
    Due,
    /// Boxed, because the driver keeps the room for it.
    Done(Box<Result<SpawnRequest, Failure>>),
    Used,
}

impl<'a> Driver<'a> {
    fn new(
        setup: &'a Arc<Setup>,
        slot: Arc<Slot>,
        incarnation: Incarnation,
        (owner, progress): (&'a Owner, &'a small_watch::Sender<Progress>),
        orders: mpsc::UnboundedReceiver<Order>,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        let host = &setup.host;
        let (lifecycle, first) = Lifecycle::new(rules(incarnation.spec()), Moment::ORIGIN);
        Self {
            setup,
            host,
            spans: Spans::begin(&incarnation, &host.hub, &slot.last_stop()),
            resources: Resources::new(&slot.tap),
            slot,
            incarnation,
            lifecycle,
            origin: Instant::now(),
            first,
            owner,
            progress,
            orders,
            news: mpsc::unbounded(),
            pending: FuturesUnordered::new(),
            stop_level: Some(host.stop_level.clone()),
            preparation: Preparation::Due,
            listening: None,
            watching: None,
            permit: Some(permit),
        }
    }

    async fn run(mut self: Box<Self>) -> Outcome {
        let mut effects = std::mem::take(&mut self.first);
        loop {
            for effect in effects {
                if let Some(outcome) = self.perform(effect) {
                    return self.finish(outcome);
                }
            }
            self.leave_watch();
            let input = self.next_input().await;
            self.look_before_verdict(&input);
            let now = Moment::after_origin(self.origin.elapsed());
            effects = self.lifecycle.step(input, now);
        }
    }

    /// The next thing that happens to the incarnation. What has arrived comes before a deadline.
    async fn next_input(&mut self) -> Input {
        loop {
            let deadline = self.lifecycle.deadline().map(Moment::since_origin);
            let deadline = deadline.map(|after| patience::after(self.origin, after));
            let input = tokio::select! {
                biased;
                Ok(news) = self.news.1.recv() => self.heard(news),
                Ok(order) = self.orders.recv() => Some(order.into()),
                Some(done) = self.pending.next() => self.done(done),
                () = killed(&mut self.stop_level) => Some(KILL),
                never = listen(&mut self.listening) => match never {},
                done = poll_watch(&mut self.watching) => self.done(done),
                () = sleep_until(deadline) => Some(Input::Deadline),
            };
            if let Some(input) = input {
                return input;
            }
        }
    }

    /// Carries out what the lifecycle decided. The outcome is the last effect of a life.
    fn perform(&mut self, effect: Effect) -> Option<Outcome> {
        match effect {
            Effect::Record => {
                let before = self.slot.remembered_ports();
                self.pending.push(start::reserve(&self.incarnation, self.setup, before));
                // Behind the reservation, so that the table is at work meanwhile.
                if self.incarnation.spec().ports == Ports::None {
                    self.pending.push(Box::pin(async { Done::Prepare }));
                }
            }
            Effect::Spawn => {
                let spawn = self.spawn();
                self.pending.push(spawn);
            }
            Effect::WatchReady => self.watching = Some(self.watch_ready()),
            Effect::WatchHealth => self.watching = self.watch_health(),
            Effect::End(stop) => self.end(stop),
            // Both kill the cgroup, perhaps later than everything else: the next incarnation must
            // not be born into it.
            Effect::KillPastSitter => {
                self.slot.note_spent_cgroup(self.incarnation.number);
                let killed = release::kill_past_sitter(&self.incarnation, &self.resources, self.host);
                self.pending.push(killed);
            }
            Effect::EndWithoutSitter => {
                self.slot.note_spent_cgroup(self.incarnation.number);
                let ended = release::end_without_sitter(&self.incarnation, &self.resources, self.host);
                self.pending.push(ended);
            }
            Effect::CheckPorts => {
                self.spans.checking_ports();
                let checked = release::check_ports(&self.incarnation, &self.resources, self.host);
                self.pending.push(checked);
            }
            Effect::Unrecord => {
                self.spans.unrecording();
                self.pending.push(release::unrecord(&self.incarnation, self.host));
            }
            Effect::NameHolders => {
                let named = release::name_holders(&self.resources, &self.slot, self.host);
                self.pending.push(named);
            }
            Effect::Announce { what, elapsed } => self.announce(what, elapsed),
            Effect::ReleaseOverdue(failure) => {
                self.progress.set(Progress::Overdue(failure.reason));
                (self.owner)(Notice::Overdue(failure));
            }
            Effect::Done(outcome) => return Some(outcome),
        }
        None
    }

    /// Prepares everything that a spawn needs, short of a process, once. Without ports, which come
    /// with the reservation, this is done while the table writes the record, unless the table was
    /// faster.
    fn prepare(&mut self) {
        if matches!(self.preparation, Preparation::Due) {
            let (trace, spent) = (self.spans.start().headers(), self.slot.cgroups_spent_until());
            let prepared = start::prepare(&self.incarnation, &mut self.resources, self.host, trace, spent);
            self.preparation = Preparation::Done(Box::new(prepared));
        }
    }

    fn spawn(&mut self) -> Work {
        self.spans.spawning();
        self.prepare();
        let Preparation::Done(prepared) = std::mem::replace(&mut self.preparation, Preparation::Used) else {
            // The lifecycle orders one spawn.
            return Box::pin(async { Done::Nothing });
        };
        match *prepared {
            Ok(request) => {
                let route = Route {
                    incarnation: self.incarnation.number,
                    sender: self.news.0.clone(),
                };
                start::order(&self.incarnation, self.host, route, request)
            }
            Err(failure) => Box::pin(async { Done::Input(Input::SpawnFailed(failure)) }),
        }
    }

    /// Its notify socket is read from now on.
    fn listen(&mut self) {
        let uninspected = self.resources.uninspected(&self.incarnation);
        if let (Some(notify), Some(sitter)) = (&mut self.resources.notify, self.resources.sitter_pid)
            && let Some(listening) = notify.listen(sitter, uninspected)
        {
            self.listening = Some(Box::pin(listening));
        }
    }

    fn watched(&self) -> Watched<'_> {
        Watched {
            setup: self.setup,
            slot: &self.slot,
            incarnation: &self.incarnation,
            resources: &self.resources,
        }
    }

    fn watch_ready(&self) -> Work {
        let plan = plan::ready(&self.watched());
        Box::pin(async move {
            let ready = match plan {
                Ok(plan) => wait_ready(plan).await,
                Err(failure) => Err(failure),
            };
            match ready {
                Ok(info) => Done::Ready(info.ports),
                Err(failure) => Done::Input(Input::StartFailed(failure)),
            }
        })
    }

    fn watch_health(&self) -> Option<Work> {
        let plan = plan::health(&self.watched())?;
        Some(Box::pin(async move {
            Done::Input(Input::Unhealthy(watch_health(plan).await))
        }))
    }

    fn end(&self, stop: StopSpec) {
        let Incarnation { slot, number, .. } = self.incarnation;
        self.host.guard.end(slot, number, stop);
        failpoint::reach(Point::EndOrdered);
    }

    /// A process that starts in a killed cgroup may be killed at once, so the next incarnation gets
    /// a new one.
    fn drop_cgroup(&mut self) {
        if !self.resources.drop_cgroup() {
            self.slot.note_spent_cgroup(self.incarnation.number);
        }
    }

    /// A watch ends with the state that it belongs to, and the start is no longer in flight.
    fn leave_watch(&mut self) {
        match self.lifecycle.state() {
            State::Reserved => {}
            // It has nothing to do before it is ready, so that others need not wait for it.
            State::Spawned if self.incarnation.spec().ready.is_none() => self.permit = None,
            State::Spawned => {}
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

    fn announce(&mut self, what: Transition, elapsed: Duration) {
        let what = match what {
            Transition::Failed(failure) => Transition::Failed(self.resources.explain(self.incarnation.spec(), failure)),
            Transition::Unhealthy(failure) => Transition::Unhealthy(self.resources.excuse(failure)),
            other => other,
        };
        if let Transition::Unseen(why) = &what {
            self.host.note_unseen(format!("{}: {why}", self.incarnation.key()));
        }
        let (incarnation, resources) = (&self.incarnation, &self.resources);
        self.slot
            .update_state(|state| announce::show(state, incarnation, resources, &what));
        match what {
            Transition::Ready => failpoint::reach(Point::Ready),
            Transition::Exited(_) => failpoint::reach(Point::ExitReported),
            _ => {}
        }
        let (kind, facts) = announce::event(&what);
        let facts = resources.complete(facts).with_elapsed(elapsed);
        let hub = &self.host.hub;
        let (span, link) = self.spans.enter(incarnation, hub, resources.pid, &what);
        hub.emit_in(span, link, kind, incarnation.about(), facts);
        self.spans.leave(&incarnation.worker.pool, hub, &what);
        if self.lifecycle.state() == State::Released {
            self.slot.remember_stop(self.spans.last());
        }
        // The owner comes last, so that the pool's events follow the worker's event that caused
        // them.
        let notice = announce::for_owner(&what);
        if let Some(change) = announce::for_followers(what, incarnation, resources) {
            let followers = &self.host.followers;
            followers.tell(&incarnation.worker, incarnation.number, change);
        }
        notice.into_iter().for_each(self.owner);
    }

    /// Publishes more of the stop under way: the sitter has killed what was left.
    fn emit_stop(&mut self, (kind, facts): (EventKind, Facts)) {
        let facts = self.resources.complete(facts);
        let (span, link) = self.spans.stop();
        let about = self.incarnation.about();
        self.host.hub.emit_in(span, link, kind, about, facts);
        self.spans.killed();
    }

    fn finish(self, outcome: Outcome) -> Outcome {
        let (hub, lines) = (&self.host.hub, self.resources.dropped_lines());
        if let Some(observer) = hub.observer().filter(|_| lines > 0) {
            observer.output_dropped(hub.app(), &self.incarnation.worker.pool, lines);
        }
        let outcome = match outcome {
            Outcome::Failed(failure) => Outcome::Failed(self.resources.explain(self.incarnation.spec(), failure)),
            other => other,
        };
        // An uncounted failure is retried forever, so it delays the next start. A worker that ran
        // and lost its guardian comes back at once.
        let ran = self.resources.pid.is_some();
        let at_once = |reason| reason == Reason::GuardianLost && ran;
        let pauses = |failure: &Failure| !failure.reason.is_counted() && !at_once(failure.reason);
        let failed_uncounted = matches!(&outcome, Outcome::Failed(failure) if pauses(failure));
        self.slot.note_start(failed_uncounted, Instant::now());
        if let Outcome::Finished { status } = &outcome
            && status.success()
            && self.resources.went_into_background()
        {
            let (worker, incarnation) = (&self.incarnation.worker, self.incarnation.number.0);
            tracing::warn!(target: "ostler", %worker, incarnation, suggestion = RUN_IN_FOREGROUND, "{BACKGROUND}");
        }
        outcome
    }
}

fn rules(spec: &WorkerSpec) -> Rules {
    Rules {
        start_timeout: spec.start_timeout,
        start: match &spec.ready {
            None => Start::Alive,
            Some(Ready::After(Duration::ZERO)) => Start::AtOnce,
            Some(_) => Start::Shown,
        },
        min_uptime: spec.min_uptime,
        stop: spec.stop,
        release_timeout: spec.release_timeout,
        host_death: spec.host_death,
        has_ports: spec.ports != Ports::None,
    }
}

/// The whole instance is killed, and with it this incarnation.
const KILL: Input = Input::Stop {
    cause: Cause::InstanceStop,
    kill: true,
};

#[cfg(test)]
mod tests;
