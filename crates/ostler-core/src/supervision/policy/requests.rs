//! Requests, answered as OTP answers them.

use super::{Doing, Policy, Postponed};
use crate::moment::Moment;
use crate::supervision::child::{StartFor, State, StopFor};
use crate::supervision::{
    CallId, ChildId, ChildKey, ChildSpec, DeleteChildError, Reply, Request, RestartChildError, StartChildError,
    Strategy, Target, TerminateChildError,
};

impl<S: Clone> Policy<S> {
    /// Answers a request, or postpones it while an operation is in progress.
    pub(super) fn call(&mut self, call: CallId, request: Request<S>, now: Moment) {
        if self.is_ending() {
            self.refuse(call, &request);
        } else if self.doing.is_some() {
            self.call_while_busy(call, request);
        } else {
            match request {
                Request::StartChild(spec) => self.start_child(call, spec),
                Request::TerminateChild(target) => self.terminate_child(call, target, now),
                Request::RestartChild(id) => self.restart_child(call, id),
                Request::DeleteChild(id) => self.delete_child(call, id),
            }
        }
    }

    /// Requests wait for the operation in progress, with one exception: a start that hangs can be
    /// terminated.
    fn call_while_busy(&mut self, call: CallId, request: Request<S>) {
        if let Request::TerminateChild(target) = &request
            && let Ok(Some(key)) = self.find(target)
            && matches!(self.children[&key].state, State::Starting { .. })
        {
            self.cancel_start(key, StopFor::Calls(vec![call]));
        } else {
            self.mailbox.push_back(Postponed::Call(call, request));
        }
    }

    /// Postpones a request about a child that is starting or stopping.
    fn postpone(&mut self, key: ChildKey, call: CallId, request: Request<S>) {
        if let Some(child) = self.children.get_mut(&key) {
            child.postponed.push((call, request));
        }
    }

    fn start_child(&mut self, call: CallId, spec: ChildSpec<S>) {
        if let Err(refused) = spec.validate(self.flags.auto_shutdown) {
            return self.reply_start_child(call, refused.into());
        }
        let Some(&key) = self.ids.get(&spec.id) else {
            let key = self.insert(spec);
            return self.launch_single(key, StartFor::NewChild(call));
        };
        let child = &self.children[&key];
        match &child.state {
            State::Running { .. } | State::Ended(_) => {
                let error = StartChildError::AlreadyStarted(child.reference(key));
                self.reply_start_child(call, error);
            }
            State::Undefined | State::Restarting { .. } => {
                self.reply_start_child(call, StartChildError::AlreadyPresent(spec.id));
            }
            State::Starting { .. } | State::Stopping { .. } => self.postpone(key, call, Request::StartChild(spec)),
        }
    }

    fn launch_single(&mut self, key: ChildKey, on_behalf_of: StartFor) {
        self.launch(key, on_behalf_of);
        self.occupy(key);
    }

    /// Under strategies whose restarts affect siblings, nothing else begins while one child starts
    /// or stops.
    fn occupy(&mut self, key: ChildKey) {
        if self.flags.strategy.restarts_siblings() {
            self.doing = Some(Doing::Single(key));
        }
    }

    /// Finds the target. `None` is a dynamic child that has already ended.
    fn find(&self, target: &Target) -> Result<Option<ChildKey>, TerminateChildError> {
        let dynamic = self.flags.strategy == Strategy::SimpleOneForOne;
        match target {
            Target::Id(_) if dynamic => Err(TerminateChildError::SimpleOneForOne),
            Target::Id(id) => self
                .ids
                .get(id)
                .map(|key| Some(*key))
                .ok_or(TerminateChildError::NotFound),
            Target::Key(key) if self.children.contains_key(key) => Ok(Some(*key)),
            Target::Key(key) if dynamic && key.0 < self.next_key => Ok(None),
            Target::Key(_) => Err(TerminateChildError::NotFound),
        }
    }

    fn terminate_child(&mut self, call: CallId, target: Target, now: Moment) {
        let key = match self.find(&target) {
            Ok(Some(key)) => key,
            Ok(None) => return self.reply(call, Reply::TerminateChild(Ok(()))),
            Err(error) => return self.reply(call, Reply::TerminateChild(Err(error))),
        };
        let Some(child) = self.children.get_mut(&key) else {
            return;
        };
        match &mut child.state {
            State::Running { .. } => {
                self.stop_child(key, StopFor::Calls(vec![call]), now);
                self.occupy(key);
            }
            State::Starting { .. } => self.cancel_start(key, StopFor::Calls(vec![call])),
            State::Stopping {
                on_behalf_of: StopFor::Calls(calls),
                ..
            } => calls.push(call),
            State::Stopping { .. } => self.postpone(key, call, Request::TerminateChild(target)),
            State::Undefined | State::Ended(_) | State::Restarting { .. } => {
                self.settle_unless_running(key);
                self.reply(call, Reply::TerminateChild(Ok(())));
            }
        }
    }

    fn restart_child(&mut self, call: CallId, id: ChildId) {
        let refused = match self.find(&Target::Id(id.clone())) {
            Err(TerminateChildError::SimpleOneForOne) => RestartChildError::SimpleOneForOne,
            Err(_) | Ok(None) => RestartChildError::NotFound,
            Ok(Some(key)) => match &self.children[&key].state {
                State::Undefined => return self.launch_single(key, StartFor::Again(call)),
                State::Starting { .. } | State::Stopping { .. } => {
                    return self.postpone(key, call, Request::RestartChild(id));
                }
                State::Running { .. } | State::Ended(_) => RestartChildError::Running,
                State::Restarting { .. } => RestartChildError::Restarting,
            },
        };
        self.reply(call, Reply::RestartChild(Err(refused)));
    }

    fn delete_child(&mut self, call: CallId, id: ChildId) {
        let refused = match self.find(&Target::Id(id.clone())) {
            Err(TerminateChildError::SimpleOneForOne) => DeleteChildError::SimpleOneForOne,
            Err(_) | Ok(None) => DeleteChildError::NotFound,
            Ok(Some(key)) => match &self.children[&key].state {
                State::Undefined => {
                    self.remove(key);
                    return self.reply(call, Reply::DeleteChild(Ok(())));
                }
                State::Starting { .. } | State::Stopping { .. } => {
                    return self.postpone(key, call, Request::DeleteChild(id));
                }
                State::Running { .. } | State::Ended(_) => DeleteChildError::Running,
                State::Restarting { .. } => DeleteChildError::Restarting,
            },
        };
        self.reply(call, Reply::DeleteChild(Err(refused)));
    }
}
