//! Starting children, and the outcomes of a start.

use super::{Doing, Effect, End, Phase, Policy};
use crate::exit::ExitReason;
use crate::moment::Moment;
use crate::supervision::child::{Retry, StartFor, State, StopFor};
use crate::supervision::{ChildKey, ChildStart, Reply, Report, Restart, RestartChildError, StartChildError, Strategy};

/// The outcome of a start after which the child is not running.
#[derive(Debug, Clone)]
enum NotUp {
    Ignored,
    Failed { reason: ExitReason, counted: bool },
}

impl<S: Clone> Policy<S> {
    pub(super) fn launch(&mut self, key: ChildKey, on_behalf_of: StartFor) {
        let Some(child) = self.children.get_mut(&key) else {
            return;
        };
        let start = match child.restart {
            Restart::Temporary => child.start.take(),
            Restart::Permanent | Restart::Transient => child.start.clone(),
        };
        let Some(start) = start else { return };
        child.incarnation += 1;
        let child = child.reference(key);
        self.set_state(
            key,
            State::Starting {
                on_behalf_of,
                cancelled: None,
            },
        );
        self.effects.push(Effect::Start { child, start });
    }

    /// Starts the next specified child once the previous one has started.
    pub(super) fn advance_init(&mut self) {
        let Some(Doing::Init { launched }) = self.doing else {
            return;
        };
        if launched.is_some_and(|key| self.in_transit(key)) {
            return;
        }
        match self.next_after(launched, ChildKey(0)) {
            Some(key) => {
                self.doing = Some(Doing::Init { launched: Some(key) });
                self.launch(key, StartFor::Init);
            }
            None => {
                self.doing = None;
                self.effects.push(Effect::Ready);
            }
        }
    }

    /// The child after `key` in start order, or the first one from `first` on.
    pub(super) fn next_after(&self, key: Option<ChildKey>, first: ChildKey) -> Option<ChildKey> {
        let from = key.map_or(first, |ChildKey(key)| ChildKey(key + 1));
        self.children.range(from..).next().map(|(key, _)| *key)
    }

    /// The start in progress of the child, if it is that of `incarnation`.
    fn start_of(&mut self, key: ChildKey, incarnation: u64) -> Option<(StartFor, Option<StopFor>)> {
        let child = self
            .children
            .get_mut(&key)
            .filter(|child| child.incarnation == incarnation)?;
        match &mut child.state {
            State::Starting {
                on_behalf_of,
                cancelled,
            } => Some((on_behalf_of.clone(), cancelled.take())),
            _ => None,
        }
    }

    pub(super) fn started(&mut self, key: ChildKey, incarnation: u64, now: Moment) {
        let Some((on_behalf_of, cancelled)) = self.start_of(key, incarnation) else {
            return;
        };
        if let Some(stop_for) = cancelled {
            self.reply_cancelled(&on_behalf_of);
            self.stop_child(key, stop_for, now);
            return;
        }
        self.set_state(key, State::Running { since: now });
        let child = self.children[&key].reference(key);
        self.report(Report::Progress { child: child.clone() });
        match on_behalf_of {
            StartFor::Init | StartFor::Restart => {}
            StartFor::NewChild(call) => self.reply(call, Reply::StartChild(Ok(ChildStart::Started(child)))),
            StartFor::Again(call) => self.reply(call, Reply::RestartChild(Ok(ChildStart::Started(child)))),
        }
    }

    pub(super) fn ignored(&mut self, key: ChildKey, incarnation: u64) {
        self.not_up(key, incarnation, NotUp::Ignored, Moment::ORIGIN);
    }

    pub(super) fn start_failed(
        &mut self,
        key: ChildKey,
        incarnation: u64,
        reason: ExitReason,
        counted: bool,
        now: Moment,
    ) {
        self.not_up(key, incarnation, NotUp::Failed { reason, counted }, now);
    }

    fn not_up(&mut self, key: ChildKey, incarnation: u64, outcome: NotUp, now: Moment) {
        let Some((on_behalf_of, cancelled)) = self.start_of(key, incarnation) else {
            return;
        };
        if let Some(stop_for) = cancelled {
            self.reply_cancelled(&on_behalf_of);
            self.settle_stopped(key, stop_for);
            return;
        }
        let child = self.children[&key].reference(key);
        match (on_behalf_of, outcome) {
            (StartFor::Init | StartFor::Restart, NotUp::Ignored) => self.mark_down(key),
            (StartFor::Init, NotUp::Failed { reason, .. }) => {
                self.report(Report::StartError {
                    child: child.clone(),
                    reason: reason.clone(),
                });
                self.set_state(key, State::Undefined);
                self.begin_end(End::StartFailed { child, reason }, now);
            }
            (StartFor::Restart, NotUp::Failed { reason, counted }) => {
                self.report(Report::StartError {
                    child,
                    reason: reason.clone(),
                });
                self.set_state(
                    key,
                    State::Restarting {
                        due: now,
                        next: Retry::Count { counted },
                        reason,
                    },
                );
            }
            (StartFor::NewChild(call), NotUp::Ignored) => {
                self.reply(call, Reply::StartChild(Ok(ChildStart::Ignored(child))));
                self.mark_down(key);
            }
            (StartFor::NewChild(call), NotUp::Failed { reason, .. }) => {
                self.reply_start_child(call, StartChildError::Failed(reason));
                self.remove(key);
            }
            (StartFor::Again(call), NotUp::Ignored) => {
                self.reply(call, Reply::RestartChild(Ok(ChildStart::Ignored(child))));
                self.mark_down(key);
            }
            (StartFor::Again(call), NotUp::Failed { reason, .. }) => {
                self.reply(call, Reply::RestartChild(Err(RestartChildError::Failed(reason))));
                self.set_state(key, State::Undefined);
            }
        }
    }

    fn reply_cancelled(&mut self, on_behalf_of: &StartFor) {
        match on_behalf_of {
            StartFor::Init | StartFor::Restart => {}
            StartFor::NewChild(call) => self.reply_start_child(*call, StartChildError::Cancelled),
            StartFor::Again(call) => self.reply(*call, Reply::RestartChild(Err(RestartChildError::Cancelled))),
        }
    }

    /// Handles a child that is down: its specification is kept, unless it is temporary or dynamic
    /// or the supervisor is ending.
    pub(super) fn mark_down(&mut self, key: ChildKey) {
        let Some(child) = self.children.get(&key) else { return };
        let dynamic = self.flags.strategy == Strategy::SimpleOneForOne;
        let ending = matches!(self.phase, Phase::Stopping(_));
        if dynamic || ending || child.restart == Restart::Temporary {
            self.remove(key);
        } else {
            self.set_state(key, State::Undefined);
        }
    }
}
