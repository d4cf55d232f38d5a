//! When a worker's tree is signalled and killed: the life of one incarnation, as a pure value with
//! time passed in.
//!
//! ```text
//! Idle ─begin→ Starting ─executed→ Running ──worker ended by itself────────→ Killing ─finish→ Idle
//!                 │                    │                                        ↑
//!                 │     end(signal, grace) … worker ended → Draining ───────────┤ group ended,
//!                 └─ exec failed, reaped ─finish→ Idle                          │ or grace over
//!                          end(KILL or no grace), grace over, in any state ─────┘
//! ```
//! `Killing` ends only with the proof that no child is left.

use crate::protocol::Cause;

pub(crate) const SIGKILL: i32 = 9;

/// A grace period whose end is noticed later than this was interrupted: 250 ms, in nanoseconds.
const LATE: u64 = 250_000_000;

/// Where an incarnation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The slot is free.
    Idle,
    /// Forked. Exec has neither succeeded nor failed yet.
    Starting,
    /// The worker runs.
    Running,
    /// The worker was ordered to end and has ended. The rest of its process group has the rest of
    /// the grace period.
    Draining,
    /// The rest of the tree is being killed.
    Killing,
}

/// What to do with the tree now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Do {
    Nothing,
    /// Send this signal to the worker's process group.
    Signal(i32, Cause),
    /// Kill the whole tree, until it is gone.
    Kill(Cause),
}

/// How a tree ends when host or guardian is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) signal: i32,
    pub(crate) grace_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Life {
    phase: Phase,
    incarnation: u64,
    policy: Policy,
    /// When the grace period ends, in nanoseconds of the monotonic clock.
    deadline: Option<u64>,
    /// The length of the grace period.
    grace: u64,
    /// The grace period was extended, because its end was noticed late.
    extended: bool,
    /// Bit n: signal n was sent.
    sent: u64,
}

impl Life {
    pub(crate) const fn new() -> Self {
        let policy = Policy {
            signal: SIGKILL,
            grace_ms: 0,
        };
        Self {
            phase: Phase::Idle,
            incarnation: 0,
            policy,
            deadline: None,
            grace: 0,
            extended: false,
            sent: 0,
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// The incarnation in the slot, or the last one.
    pub(crate) fn incarnation(&self) -> u64 {
        self.incarnation
    }

    pub(crate) fn deadline(&self) -> Option<u64> {
        self.deadline
    }

    /// The worker is forked.
    pub(crate) fn begin(&mut self, incarnation: u64, policy: Policy) {
        *self = Self {
            phase: Phase::Starting,
            incarnation,
            policy,
            deadline: None,
            grace: 0,
            extended: false,
            sent: 0,
        };
    }

    /// Exec has succeeded.
    pub(crate) fn executed(&mut self) {
        if self.phase == Phase::Starting {
            self.phase = Phase::Running;
        }
    }

    /// The end is ordered. A repeated order can only bring it forward.
    pub(crate) fn end(&mut self, signal: i32, grace_ms: u64, cause: Cause, now: u64) -> Do {
        if matches!(self.phase, Phase::Idle | Phase::Killing) {
            return Do::Nothing;
        }
        if signal == SIGKILL || grace_ms == 0 {
            return self.kill(cause);
        }
        let grace = grace_ms.saturating_mul(1_000_000);
        let until = now.saturating_add(grace);
        if self.deadline.is_none_or(|earlier| until < earlier) {
            self.deadline = Some(until);
            self.grace = grace;
            self.extended = false;
        }
        let bit = 1_u64.checked_shl(signal.unsigned_abs() % 64).unwrap_or(0);
        if self.phase == Phase::Draining || self.sent & bit != 0 {
            return Do::Nothing;
        }
        self.sent |= bit;
        Do::Signal(signal, cause)
    }

    /// Host or guardian is gone: the tree ends by its policy.
    pub(crate) fn master_gone(&mut self, cause: Cause, now: u64) -> Do {
        self.end(self.policy.signal, self.policy.grace_ms, cause, now)
    }

    /// The worker's own process has ended.
    pub(crate) fn worker_ended(&mut self, now: u64) -> Do {
        if !matches!(self.phase, Phase::Starting | Phase::Running) {
            return Do::Nothing;
        }
        if self.deadline.is_some() && !self.grace_is_over(now) {
            self.phase = Phase::Draining;
            return Do::Nothing;
        }
        self.kill(Cause::TreeKill)
    }

    /// The worker's process group is empty.
    pub(crate) fn drained(&mut self) -> Do {
        match self.phase {
            Phase::Draining => self.kill(Cause::TreeKill),
            Phase::Idle | Phase::Starting | Phase::Running | Phase::Killing => Do::Nothing,
        }
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self, now: u64) -> Do {
        if self.grace_is_over(now) {
            self.kill(Cause::GraceOver)
        } else {
            Do::Nothing
        }
    }

    /// Whether there is a grace period and it is over. An end that is noticed late means that this
    /// sitter could not run (a frozen cgroup, a paused container, a virtual machine that was
    /// suspended), and then most likely its worker could not either: the grace period is extended
    /// once, by the time that was lost.
    fn grace_is_over(&mut self, now: u64) -> bool {
        let Some(deadline) = self.deadline.filter(|deadline| now >= *deadline) else {
            return false;
        };
        let late = now - deadline;
        if late <= LATE || self.extended {
            return true;
        }
        self.extended = true;
        self.deadline = Some(now.saturating_add(late.min(self.grace)));
        false
    }

    /// Nothing of the incarnation is left.
    pub(crate) fn finish(&mut self) {
        self.phase = Phase::Idle;
        self.deadline = None;
    }

    fn kill(&mut self, cause: Cause) -> Do {
        self.phase = Phase::Killing;
        self.deadline = None;
        Do::Kill(cause)
    }
}
