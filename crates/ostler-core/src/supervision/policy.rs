//! The supervisor itself. Its parts: starts, exits and restarts, stops, requests, queries.

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

/// Something that happened. Events about an incarnation that is not the child's present one are ignored.
#[derive(Debug, Clone)]
pub enum Event<S> {
    /// Start the children of the specification, left to right.
    Begin,
    /// A child that was to be [started](Effect::Start) is up.
    Started(ChildKey, u64),
    /// It declined to start, and has nothing.
    Ignored(ChildKey, u64),
    /// It could not be started, or its start was [cancelled](Effect::CancelStart), and it has nothing any more.
    StartFailed {
        /// Which child.
        key: ChildKey,
        /// Which start.
        incarnation: u64,
        /// Why.
        reason: ExitReason,
        /// Extension: false when it is nobody's fault; the next attempt is not counted then.
        counted: bool,
    },
    /// A child that was up has ended, by itself or because it was told to, and all that it had is released.
    Ended {
        /// Which child.
        key: ChildKey,
        /// Which incarnation.
        incarnation: u64,
        /// Why.
        reason: ExitReason,
        /// Extension: false when it is nobody's fault; its restart is not counted then.
        counted: bool,
    },
    /// A request, to be [replied](Effect::Reply) to exactly once.
    Call(CallId, Request<S>),
    /// The supervisor is to stop: its children first, right to left (simple_one_for_one: in parallel). Taken at any time, idempotent.
    Stop,
    /// The [next deadline](Policy::next_deadline) has come.
    Tick,
}

/// Something to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect<S> {
    /// Start this child; reply with `Started`, `Ignored` or `StartFailed`, once.
    Start {
        /// Which child and incarnation.
        child: ChildRef,
        /// What starts it.
        start: S,
    },
    /// The start is no longer wanted; it still has to be replied to, in any of the three ways.
    CancelStart(ChildKey, u64),
    /// Ask it to stop; `Ended` follows.
    Stop(ChildKey, u64),
    /// Kill it; `Ended` follows.
    Kill(ChildKey, u64),
    /// A request's reply.
    Reply(CallId, Reply),
    /// Something to tell.
    Report(Report),
    /// The children of the specification are up: the supervisor has started.
    Ready,
    /// No child is left: the supervisor is to end. Nothing follows but the refusal of requests that come too late.
    End(End),
}

/// Why a supervisor ends.
#[derive(Debug, Clone, PartialEq)]
pub enum End {
    /// It was told to.
    Stopped,
    /// A child of its specification did not start.
    StartFailed {
        /// Which.
        child: ChildRef,
        /// Why.
        reason: ExitReason,
    },
    /// It gave up: more restarts than its intensity allows within the period.
    MaxIntensity {
        /// The child that was to be restarted once more.
        child: ChildRef,
        /// Its exit, or why its last start failed.
        reason: ExitReason,
    },
    /// Significant children ended by themselves.
    AutoShutdown,
}

impl End {
    /// The exit reason of the supervisor, for its own supervisor: `shutdown`, as in OTP, so that a *transient* supervisor that gave up is not
    /// restarted; with a text when it didn't start (OTP's `{shutdown, {failed_to_start_child, Id, Reason}}`).
    pub fn exit_reason(&self) -> ExitReason {
        match self {
            End::Stopped | End::MaxIntensity { .. } | End::AutoShutdown => ExitReason::SHUTDOWN,
            End::StartFailed { child, reason } => {
                ExitReason::Shutdown(Some(format!("child {} did not start: {reason}", child.id)))
            }
        }
    }
}

/// One supervisor. See the [module](super).
#[derive(Debug)]
pub struct Policy<S> {
    flags: SupervisorFlags,
    intensity: Intensity,
    fractions: Fractions,
    /// In start order: keys only ever grow. Boxed, because a node has room for eleven, and a starter has one child.
    children: BTreeMap<ChildKey, Box<Child<S>>>,
    /// Empty under simple_one_for_one.
    ids: HashMap<ChildId, ChildKey>,
    next_key: u64,
    phase: Phase,
    /// What goes on one at a time: exits and requests wait for its end.
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

/// Something that must be done before anything else is begun.
#[derive(Debug)]
enum Doing {
    /// Starting the children of the specification; `launched` is the last one that was tried.
    Init { launched: Option<ChildKey> },
    /// Restarting a group.
    Restart(Group),
    /// One child of a group strategy starts or stops on request.
    Single(ChildKey),
}

/// A restart under one_for_all or rest_for_one: its members are stopped right to left, then started left to right.
#[derive(Debug)]
struct Group {
    /// Whose exit it is about.
    offender: ChildKey,
    /// The leftmost member.
    first: ChildKey,
    /// All members from here on are down.
    stopped_from: ChildKey,
    /// Backoff: once all are down, the start waits.
    wait_until: Option<(Moment, ExitReason)>,
    /// The last member that was tried to start; none while they are being stopped.
    launched: Option<ChildKey>,
}

/// What waits for the end of what goes on: OTP's mailbox.
#[derive(Debug)]
enum Postponed<S> {
    Exit(ChildKey, u64),
    Due(ChildKey),
    Call(CallId, Request<S>),
}

impl<S: Clone> Policy<S> {
    /// A supervisor with these children, which [`Event::Begin`] starts. `seed` is where the jitter of the backoff comes from.
    ///
    /// # Errors
    /// Flags or children that OTP refuses ([`SpecError`]).
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

    /// Takes one event, and says what is to be done, in this order.
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
            self.take_up(postponed, now);
            self.advance(now);
        }
        std::mem::take(&mut self.effects)
    }

    /// When [`Event::Tick`] is due, if no other event comes before. A moment that has passed means: as soon as other events that are
    /// waiting already have been handled (OTP's restart loop lets its mailbox through between attempts).
    pub fn next_deadline(&self) -> Option<Moment> {
        self.deadlines.first().map(|(moment, _)| *moment)
    }

    fn begin(&mut self) {
        if matches!(self.phase, Phase::New) {
            self.phase = Phase::Running;
            self.doing = Some(Doing::Init { launched: None });
        }
    }

    /// Goes on with what goes on, as far as it can. Called after every change: a child that is in its way is waited for.
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

    fn take_up(&mut self, postponed: Postponed<S>, now: Moment) {
        match postponed {
            Postponed::Exit(key, incarnation) => self.take_up_exit(key, incarnation, now),
            Postponed::Due(key) => self.take_up_due(key, now),
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
                State::Stopping { kill_at, .. } => {
                    *kill_at = None;
                    self.effects.push(Effect::Kill(key, child.incarnation));
                }
                State::Restarting { .. } => {
                    self.mailbox.push_back(Postponed::Due(key));
                    // One attempt, then the mailbox is let through again.
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

    /// The only way in which a child changes its state: keeps its deadline known, and lets the requests that waited for it go on.
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
