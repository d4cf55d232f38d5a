//! Queries, which are answered at any time.

use super::{Child, Doing, Phase, Policy};
use crate::supervision::child::State;
use crate::supervision::{ChildCounts, ChildId, ChildInfo, ChildKey, ChildKind, ChildSpec, ChildStatus, Strategy};

impl<S: Clone> Policy<S> {
    /// The children in start order (OTP's order is the reverse).
    pub fn which_children(&self) -> Vec<ChildInfo> {
        let info = |key: ChildKey, child: &Child<S>| ChildInfo {
            child: child.reference(key),
            status: if self.awaits_its_group(key, child) {
                ChildStatus::Restarting
            } else {
                child.status()
            },
            kind: child.kind,
        };
        self.children.iter().map(|(key, child)| info(*key, child)).collect()
    }

    /// Whether the child is down and the restart in progress will start it.
    fn awaits_its_group(&self, key: ChildKey, child: &Child<S>) -> bool {
        match &self.doing {
            Some(Doing::Restart(group)) => {
                let tried = group.launched.is_some_and(|launched| key <= launched);
                child.state == State::Undefined && key >= group.first && !tried
            }
            _ => false,
        }
    }

    /// Counts the children.
    pub fn count_children(&self) -> ChildCounts {
        let mut counts = ChildCounts {
            specs: self.children.len(),
            ..ChildCounts::default()
        };
        if self.flags.strategy == Strategy::SimpleOneForOne {
            counts.specs = 1;
        }
        for child in self.children.values() {
            counts.active += usize::from(matches!(child.state, State::Running { .. }));
            match child.kind {
                ChildKind::Worker => counts.workers += 1,
                ChildKind::Supervisor => counts.supervisors += 1,
            }
        }
        counts
    }

    /// The specification of a child, by id. `None` under simple_one_for_one. `start` is `None` for
    /// a temporary child that has been started.
    pub fn child_spec(&self, id: &ChildId) -> Option<ChildSpec<Option<S>>> {
        let child = self.children.get(self.ids.get(id)?)?;
        Some(ChildSpec {
            id: child.id.clone(),
            start: child.start.clone(),
            restart: child.restart,
            shutdown: child.shutdown,
            significant: child.significant,
            kind: child.kind,
        })
    }

    /// Whether the supervisor is ending or has ended, so that it accepts no more requests.
    pub fn is_ending(&self) -> bool {
        matches!(self.phase, Phase::Stopping(_) | Phase::Ended)
    }
}
