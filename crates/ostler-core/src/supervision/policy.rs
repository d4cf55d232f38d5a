//! The supervisor's state machine. Starts, exits and restarts, stops, requests and queries have a
//! module each.

mod exits;
mod queries;
mod requests;
mod starts;
mod stops;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use super::backoff::Fractions;
use super::child::{Child, State};
use super::intensity::Intensity;
use super::{
    CallId, ChildId, ChildKey, ChildRef, ChildSpec, Reply, Report, Request, SpecError, StartChildError, Strategy,
    SupervisorFlags,
};
use crate::exit::ExitReason;
use crate::moment::Moment;

/// Something that happened. Events about a past incarnation of a child are ignored.
#[derive(Debug, Clone)]
pub enum Event<S> {
    /// Start the specified children, left to right.
    Begin,
    /// The child of an [`Effect::Start`] is running.
    Started(ChildKey, u64),
    /// The child declined to start and holds nothing.
    Ignored(ChildKey, u64),
    /// The start failed or was [cancelled](Effect::CancelStart), and the child holds nothing.
    StartFailed {
        /// Which child.
        key: ChildKey,
        /// Which start.
        incarnation: u64,
        /// Why.
        reason: ExitReason,
        /// Extension: false if the failure is not the child's fault. The next attempt is not
        /// counted then.
        counted: bool,
    },
    /// A running child ended, on its own or on request, and everything it held is released.
    Ended {
        /// Which child.
        key: ChildKey,
        /// Which incarnation.
        incarnation: u64,
        /// Its exit reason.
        reason: ExitReason,
        /// Extension: false if the exit is not the child's fault. The restart is not counted then.
        counted: bool,
    },
    /// A request. The policy [replies](Effect::Reply) exactly once.
    Call(CallId, Request<S>),
    /// Stop the supervisor: its children first, right to left (simple_one_for_one: in parallel).
    /// Accepted at any time; idempotent.
    Stop,
    /// The [next deadline](Policy::next_deadline) has passed.
    Tick,
}

/// Something the driver must do.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect<S> {
    /// Start this child and answer once, with `Started`, `Ignored` or `StartFailed`.
    Start {
        /// Which child and incarnation.
        child: ChildRef,
        /// What starts it.
        start: S,
    },
    /// Cancel a start. The driver still answers the [`Effect::Start`] with any of its three events.
    CancelStart(ChildKey, u64),
    /// Ask the child to stop; `Ended` follows.
    Stop(ChildKey, u64),
    /// Kill the child; `Ended` follows.
    Kill(ChildKey, u64),
    /// The reply to a request.
    Reply(CallId, Reply),
    /// A report to pass on.
    Report(Report),
    /// All specified children are running: the supervisor has started.
    Ready,
    /// No child is left: end the supervisor. The only effects after this one refuse late requests.
    End(End),
}

/// Why a supervisor ends.
#[derive(Debug, Clone, PartialEq)]
pub enum End {
    /// On request.
    Stopped,
    /// A specified child did not start.
    StartFailed {
        /// The child.
        child: ChildRef,
        /// Why.
        reason: ExitReason,
    },
    /// The supervisor gave up: there were more restarts within the period than its intensity
    /// allows.
    MaxIntensity {
        /// The child whose restart exceeded the intensity.
        child: ChildRef,
        /// Its exit reason, or why its last start failed.
        reason: ExitReason,
    },
    /// Significant children exited on their own.
    AutoShutdown,
}

impl End {
    /// The supervisor's own exit reason. As in OTP it is `shutdown`, so that a *transient*
    /// supervisor that gave up is not restarted; with a message if a child did not start (OTP's
    /// `{shutdown, {failed_to_start_child, Id, Reason}}`).
    pub fn exit_reason(&self) -> ExitReason {
        match self {
            End::Stopped | End::MaxIntensity { .. } | End::AutoShutdown => ExitReason::SHUTDOWN,
            End::StartFailed { child, reason } => {
                ExitReason::Shutdown(Some(format!("child {} did not start: {reason}", child.id)))
            }
        }
    }
}

/// The state machine of one supervisor. See the [module documentation](super).
#[derive(Debug)]
pub struct Policy<S> {
    flags: SupervisorFlags,
    intensity: Intensity,
    fractions: Fractions,
    /// In start order, because keys only grow. Boxed because a B-tree node has room for eleven
    /// children, and most supervisors here have one.
    children: BTreeMap<ChildKey, Box<Child<S>>>,
    /// Empty under simple_one_for_one.
    ids: HashMap<ChildId, ChildKey>,
    next_key: u64,
    phase: Phase,
    /// The operation in progress, if it must finish before exits and requests are handled.
    doing: Option<Doing>,
    mailbox: VecDeque<Postponed<S>>,
    deadlines: BTreeSet<(Moment, ChildKey)>,
    effects: Vec<Effect<S>>,
}

#[derive(Debug)]
enum Phase {
    New,
    Running,
    Stopping(End),
    Ended,
}

/// An operation that must finish before another begins.
#[derive(Debug)]
enum Doing {
    /// Starting the specified children. `launched` is the last one tried.
    Init { launched: Option<ChildKey> },
    /// Restarting a group.
    Restart(Group),
    /// Starting or stopping one child of a group strategy on request.
    Single(ChildKey),
}

/// A restart under one_for_all or rest_for_one: its members are stopped right to left, then started
/// left to right.
#[derive(Debug)]
struct Group {
    /// The child whose exit caused the restart.
    offender: ChildKey,
    /// The leftmost member.
    first: ChildKey,
    /// All members from this one on are stopped.
    stopped_from: ChildKey,
    /// Backoff: once all members are stopped, wait until then to start them.
    wait_until: Option<(Moment, ExitReason)>,
    /// The last member that was started; `None` while members are being stopped.
    launched: Option<ChildKey>,
}

/// What waits for the operation in progress: OTP's mailbox.
#[derive(Debug)]
enum Postponed<S> {
    Exit(ChildKey, u64),
    Due(ChildKey),
    Call(CallId, Request<S>),
}

impl<S: Clone> Policy<S> {
    /// Creates a supervisor with these children, which [`Event::Begin`] starts. `seed` seeds the
    /// jitter of the backoff.
    ///
    /// # Errors
    ///
    /// If the flags or a child specification are invalid ([`SpecError`]).
    pub fn new(flags: SupervisorFlags, children: Vec<ChildSpec<S>>, seed: u64) -> Result<Self, SpecError> {
        flags.validate()?;
        if flags.strategy == Strategy::SimpleOneForOne && !children.is_empty() {
            return Err(SpecError::InitialDynamicChildren);
        }
        let mut policy = Policy {
            intensity: Intensity::new(flags.intensity, flags.period),
            fractions: Fractions::new(seed),
            flags,
            children: BTreeMap::new(),
            ids: HashMap::new(),
            next_key: 1,
            phase: Phase::New,
            doing: None,
            mailbox: VecDeque::new(),
            deadlines: BTreeSet::new(),
            effects: Vec::new(),
        };
        for spec in children {
            spec.validate(policy.flags.auto_shutdown)?;
            if policy.ids.contains_key(&spec.id) {
                return Err(SpecError::DuplicateId(spec.id));
            }
            policy.insert(spec);
        }
        Ok(policy)
    }

    /// Handles one event and returns the effects to carry out, in order.
    pub fn handle(&mut self, event: Event<S>, now: Moment) -> Vec<Effect<S>> {
        match event {
            Event::Begin => self.begin(),
            Event::Started(key, incarnation) => self.started(key, incarnation, now),
            Event::Ignored(key, incarnation) => self.ignored(key, incarnation),
            Event::StartFailed {
                key,
                incarnation,
                reason,
                counted,
            } => {
                self.start_failed(key, incarnation, reason, counted, now);
            }
            Event::Ended {
                key,
                incarnation,
                reason,
                counted,
            } => self.ended(key, incarnation, reason, counted, now),
            Event::Call(call, request) => self.call(call, request, now),
            Event::Stop => self.begin_end(End::Stopped, now),
            Event::Tick => self.tick(now),
        }
        self.advance(now);
        while let Some(postponed) = self.next_postponed() {
            self.handle_postponed(postponed, now);
            self.advance(now);
        }
        std::mem::take(&mut self.effects)
    }

    /// When [`Event::Tick`] is due, if no other event comes first. A moment in the past means: as
    /// soon as the events that are already waiting have been handled. OTP's restart loop also
    /// handles its mailbox between attempts.
    pub fn next_deadline(&self) -> Option<Moment> {
        self.deadlines.first().map(|(moment, _)| *moment)
    }

    fn begin(&mut self) {
        if matches!(self.phase, Phase::New) {
            self.phase = Phase::Running;
            self.doing = Some(Doing::Init { launched: None });
        }
    }

    /// Continues the operation in progress as far as possible without waiting for a child. Called
    /// after every change.
    fn advance(&mut self, now: Moment) {
        match self.phase {
            Phase::New | Phase::Ended => {}
            Phase::Stopping(_) => self.advance_end(now),
            Phase::Running => match self.doing {
                None => {}
                Some(Doing::Init { .. }) => self.advance_init(),
                Some(Doing::Restart { .. }) => self.advance_restart(now),
                Some(Doing::Single(key)) if self.in_transit(key) => {}
                Some(Doing::Single(_)) => self.doing = None,
            },
        }
    }

    fn next_postponed(&mut self) -> Option<Postponed<S>> {
        match (&self.phase, &self.doing) {
            (Phase::Running, None) => self.mailbox.pop_front(),
            _ => None,
        }
    }

    fn handle_postponed(&mut self, postponed: Postponed<S>, now: Moment) {
        match postponed {
            Postponed::Exit(key, incarnation) => self.handle_exit(key, incarnation, now),
            Postponed::Due(key) => self.handle_due(key, now),
            Postponed::Call(call, request) => self.call(call, request, now),
        }
    }

    fn tick(&mut self, now: Moment) {
        while let Some((due, key)) = self.deadlines.first().copied().filter(|(due, _)| *due <= now) {
            self.deadlines.remove(&(due, key));
            let Some(child) = self.children.get_mut(&key) else {
                continue;
            };
            match &mut child.state {
                State::Stopping { kill, .. } => {
                    if kill.rearm_when_late(now) {
                        self.deadlines.extend(kill.at().map(|at| (at, key)));
                    } else {
                        kill.clear();
                        self.effects.push(Effect::Kill(key, child.incarnation));
                    }
                }
                State::Restarting { .. } => {
                    self.mailbox.push_back(Postponed::Due(key));
                    // One attempt only: the mailbox is handled between attempts.
                    return;
                }
                State::Undefined | State::Starting { .. } | State::Running { .. } | State::Ended(_) => {}
            }
        }
    }

    /// Whether the child is starting or stopping.
    fn in_transit(&self, key: ChildKey) -> bool {
        self.children
            .get(&key)
            .is_some_and(|child| matches!(child.state, State::Starting { .. } | State::Stopping { .. }))
    }

    fn insert(&mut self, spec: ChildSpec<S>) -> ChildKey {
        let key = ChildKey(self.next_key);
        self.next_key += 1;
        if self.flags.strategy != Strategy::SimpleOneForOne {
            self.ids.insert(spec.id.clone(), key);
        }
        self.children.insert(key, Box::new(Child::new(spec)));
        key
    }

    /// The only place where a child changes its state. Keeps its deadline current, and resumes
    /// requests that waited for the child.
    fn set_state(&mut self, key: ChildKey, state: State) {
        let Some(child) = self.children.get_mut(&key) else {
            return;
        };
        if let Some(deadline) = child.deadline() {
            self.deadlines.remove(&(deadline, key));
        }
        child.state = state;
        if let Some(deadline) = child.deadline() {
            self.deadlines.insert((deadline, key));
        }
        if !matches!(child.state, State::Starting { .. } | State::Stopping { .. }) {
            let waiting = child.postponed.drain(..);
            self.mailbox
                .extend(waiting.map(|(call, request)| Postponed::Call(call, request)));
        }
    }

    fn remove(&mut self, key: ChildKey) {
        self.set_state(key, State::Undefined);
        if let Some(child) = self.children.remove(&key) {
            self.ids.remove(&child.id);
        }
    }

    fn report(&mut self, report: Report) {
        self.effects.push(Effect::Report(report));
    }

    fn reply(&mut self, call: CallId, reply: Reply) {
        self.effects.push(Effect::Reply(call, reply));
    }

    fn reply_start_child(&mut self, call: CallId, error: StartChildError) {
        self.reply(call, Reply::StartChild(Err(error)));
    }
}
