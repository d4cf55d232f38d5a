//! Why an incarnation could not be started: what its machine, its guardian and its own
//! specification refuse.

use std::io;
use std::path::Path;

use ostler_core::chain::chain;
use ostler_core::failure::{Failure, Reason};
use ostler_core::spec::WorkerSpec;
use ostler_os::guardian::{OrderError, SpawnStep};
use ostler_os::holders::Holder;
use ostler_os::ports::PortError;
use ostler_os::program::ProgramError;
use ostler_os::start_error::{Action, Verdict, errno_of, verdict};

/// A spawn that failed at a step of guardian or sitter.
pub(in crate::process) fn of_spawn(spec: &WorkerSpec, step: SpawnStep, errno: i32) -> Failure {
    let program = spec.command.first().map_or("", String::as_str);
    let directory = spec.cwd.as_deref().unwrap_or(Path::new(".")).display();
    let action = Action::of(step);
    let what = match action {
        Action::Execute => format!("{program:?} can't be run"),
        Action::EnterDirectory => format!("the working directory {directory} can't be entered"),
        Action::CreateProcess => format!("no process can be created for {program:?}"),
        Action::SetUp | Action::Host => format!("the process of {program:?} can't be set up (step {step:?})"),
        Action::Order => format!("its sitter was lost before it started {program:?} (step {step:?})"),
    };
    refused(&what, action, errno)
}

/// A program or directory that is refused before the spawn.
pub(super) fn of_program(error: &ProgramError) -> Failure {
    Failure::new(error.reason(), error.to_string()).with_suggestion(error.suggestion())
}

/// An order that could not be given. Only a guardian that is gone is not the worker's fault: a
/// request that can't be made is counted, or it would be repeated without end.
pub(super) fn of_order(error: &OrderError) -> Failure {
    let message = format!("the order to spawn did not reach the guardian: {}", chain(error));
    let counted = |suggestion| Failure::new(Reason::ExecFailed, message.clone()).with_suggestion(suggestion);
    match error {
        OrderError::Gone => Failure::new(Reason::GuardianLost, message),
        OrderError::Io(source) => {
            let verdict = verdict(Action::Order, errno_of(source));
            Failure::new(verdict.reason, message).with_suggestion(verdict.suggestion)
        }
        OrderError::Nul { .. } => counted("remove the NUL byte from command, env or cwd"),
        OrderError::TooLarge { .. } => counted("shorten command and env"),
        OrderError::TooManyListeners { .. } => counted("give the pool fewer ports with listen"),
        OrderError::SlotRange { .. } => counted("run fewer workers in one instance"),
    }
}

/// A failure of the host's own resources.
pub(super) fn of_io(what: &str, error: &io::Error) -> Failure {
    match error.raw_os_error() {
        Some(errno) => refused(&format!("{what} can't be made"), Action::Host, errno),
        None => Failure::new(Action::Host.otherwise(), format!("{what} can't be made: {error}")),
    }
}

fn refused(what: &str, action: Action, errno: i32) -> Failure {
    let Verdict {
        reason,
        meaning,
        suggestion,
    } = verdict(action, errno);
    Failure::new(reason, format!("{what}: {meaning}")).with_suggestion(suggestion)
}

/// Only a fixed port can be another daemon's by design.
const FIXED_IN_USE: &str = "stop the holder, or give the pool another port, a range, or port = \"any\"; if the holder answers for the worker by design, set owner = \"any\" in ready and health";

pub(super) fn of_port(error: &PortError) -> Failure {
    let names = |holders: &[Holder]| holders.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match error {
        PortError::InUse { holders, .. } => Failure::new(Reason::PortInUse, error.to_string())
            .with_holder(names(holders))
            .with_suggestion(FIXED_IN_USE),
        PortError::RangeTaken { holders, .. } => {
            Failure::new(Reason::PortInUse, error.to_string()).with_holder(names(holders))
        }
        PortError::Exhausted { .. } => Failure::new(Reason::PortInUse, error.to_string()),
        PortError::NotOurs { .. } => Failure::new(Reason::PortInUse, error.to_string())
            .with_suggestion("give the pool an address of this machine, such as 127.0.0.1 or 0.0.0.0"),
        PortError::NotPermitted { .. } => Failure::new(Reason::PermissionDenied, error.to_string())
            .with_suggestion("allow it in the security module under which Ostler runs, or take another port"),
        PortError::Check { source, .. } => of_io("a check of its port", source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::libc::{
        EACCES, EAGAIN, EBUSY, EINVAL, EMFILE, ENOENT, ENOMEM, ENOTCONN, EPERM, EPIPE, ESHUTDOWN, ESRCH, ETOOMANYREFS,
        ETXTBSY,
    };

    #[test]
    fn each_step_of_a_spawn_has_its_reason() {
        let spec = ostler_core::spec::PoolSpec::new("p", ["sh"]).worker;
        let rows = [
            (SpawnStep::Slot, EBUSY, Reason::GuardianLost),
            (SpawnStep::Slot, ESHUTDOWN, Reason::GuardianLost),
            (SpawnStep::Slot, EINVAL, Reason::ExecFailed),
            (SpawnStep::Forward, EPIPE, Reason::GuardianLost),
            (SpawnStep::Forward, ENOTCONN, Reason::GuardianLost),
            (SpawnStep::Forward, EAGAIN, Reason::GuardianLost),
            (SpawnStep::Forward, ETOOMANYREFS, Reason::DescriptorLimit),
            (SpawnStep::Parent, ESRCH, Reason::GuardianLost),
            (SpawnStep::Receive, EMFILE, Reason::DescriptorLimit),
            (SpawnStep::SitterSocket, EMFILE, Reason::DescriptorLimit),
            (SpawnStep::SitterFork, EAGAIN, Reason::ProcessLimit),
            (SpawnStep::Pipe, EMFILE, Reason::DescriptorLimit),
            (SpawnStep::Fork, EAGAIN, Reason::ProcessLimit),
            (SpawnStep::Fork, ENOMEM, Reason::OutOfMemory),
            (SpawnStep::Fork, EPERM, Reason::PermissionDenied),
            (SpawnStep::Session, EPERM, Reason::PermissionDenied),
            (SpawnStep::Spec, ENOMEM, Reason::OutOfMemory),
            (SpawnStep::Descriptors, EMFILE, Reason::DescriptorLimit),
            (SpawnStep::Limits, EPERM, Reason::PermissionDenied),
            (SpawnStep::Directory, ENOENT, Reason::DirectoryMissing),
            (SpawnStep::Directory, EACCES, Reason::PermissionDenied),
            (SpawnStep::Exec, ENOENT, Reason::CommandNotFound),
            (SpawnStep::Exec, EACCES, Reason::PermissionDenied),
            (SpawnStep::Exec, ETXTBSY, Reason::ProgramBusy),
        ];
        for (step, errno, reason) in rows {
            let failure = of_spawn(&spec, step, errno);
            assert_eq!(failure.reason, reason, "{step:?} {errno}: {failure}");
            let named = failure.message.contains("\"sh\"") || failure.message.contains("the working directory");
            assert!(named, "{failure}");
        }
    }

    #[test]
    fn orders_that_can_not_be_made_are_counted_and_say_what_to_change() {
        let errors = [
            OrderError::Nul { what: "an argument" },
            OrderError::TooLarge { bytes: 1 << 30 },
            OrderError::TooManyListeners { count: 65 },
            OrderError::SlotRange { slot: 1 << 20 },
        ];
        for error in errors {
            let failure = of_order(&error);
            assert_eq!(failure.reason, Reason::ExecFailed, "{failure}");
            assert_ne!(failure.suggestion, failure.reason.suggestion());
        }
        assert!(!of_order(&OrderError::Gone).reason.is_counted());
        let full = io::Error::from_raw_os_error(EMFILE);
        assert_eq!(of_order(&OrderError::Io(full)).reason, Reason::DescriptorLimit);
    }

    #[test]
    fn a_refused_port_has_a_suggestion_of_its_own() {
        let address = "192.0.2.1:80".parse().unwrap();
        let suggestion = |error| of_port(&error).suggestion;
        assert!(suggestion(PortError::NotOurs { address }).contains("address of this machine"));
        assert!(suggestion(PortError::NotPermitted { address }).contains("security module"));
    }
}
