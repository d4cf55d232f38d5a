//! Why an incarnation could not be started: what its machine, its guardian and its own
//! specification refuse.

use std::io;

use nix::libc::{E2BIG, ENOEXEC};
use ostler_core::failure::{Failure, Reason};
use ostler_core::spec::WorkerSpec;
use ostler_os::guardian::{OrderError, SpawnStep};
use ostler_os::holders::Holder;
use ostler_os::limits;
use ostler_os::ports::PortError;

/// A spawn that failed.
pub(in crate::process) fn of_spawn(spec: &WorkerSpec, step: SpawnStep, errno: i32) -> Failure {
    let error = io::Error::from_raw_os_error(errno);
    let program = spec.command.first().map_or("", String::as_str);
    let directory = spec
        .cwd
        .as_ref()
        .map_or_else(|| ".".into(), |path| path.display().to_string());
    let limit = limits::reason_of_errno(errno);
    let (reason, message) = match (step, limit) {
        // The sitter was killed before it had its order or its child, what it left is still being
        // killed, or its socket is full (EAGAIN).
        (SpawnStep::Slot | SpawnStep::Forward | SpawnStep::Parent, None | Some(Reason::ProcessLimit))
            if error.kind() != io::ErrorKind::InvalidInput =>
        {
            (
                Reason::GuardianLost,
                format!("its sitter was lost before it started {program:?}: {error} (at the step {step:?})"),
            )
        }
        (_, Some(limit)) => (limit, format!("no process for {program:?}: {error}")),
        (SpawnStep::Directory, None) => (
            match error.kind() {
                io::ErrorKind::PermissionDenied => Reason::PermissionDenied,
                _ => Reason::DirectoryMissing,
            },
            format!("the working directory {directory} can't be entered: {error}"),
        ),
        (_, None) if error.kind() == io::ErrorKind::NotFound => (
            Reason::CommandNotFound,
            format!("{program:?} can't be run: {error} (for a script: its interpreter)"),
        ),
        (_, None) => (
            Reason::PermissionDenied,
            format!("{program:?} can't be run: {error} (at the step {step:?})"),
        ),
    };
    let failure = Failure::new(reason, message);
    match errno {
        ENOEXEC => failure.with_suggestion(
            "build it for this machine; a script has to begin with the line of its interpreter, such as #!/bin/sh",
        ),
        E2BIG => failure.with_suggestion("shorten command and env: together they are too long for the kernel"),
        _ => failure,
    }
}

/// An order that could not be given. Only a guardian that is gone is not the worker's fault: a
/// request that can't be made is counted, or it would be repeated without end.
pub(super) fn of_order(error: &OrderError) -> Failure {
    let message = format!("the order to spawn did not reach the guardian: {error}");
    match error {
        OrderError::Gone => Failure::new(Reason::GuardianLost, message),
        OrderError::Io(source) => {
            let limit = source.raw_os_error().and_then(limits::reason_of_errno);
            Failure::new(limit.unwrap_or(Reason::GuardianLost), message)
        }
        OrderError::Nul { .. }
        | OrderError::TooLarge { .. }
        | OrderError::TooManyListeners { .. }
        | OrderError::SlotRange { .. } => Failure::new(Reason::PermissionDenied, message)
            .with_suggestion("shorten command and env, or run fewer workers and ports in one instance"),
    }
}

/// A failure of the host's own resources.
pub(super) fn of_io(what: &str, error: &io::Error) -> Failure {
    let reason = error
        .raw_os_error()
        .and_then(limits::reason_of_errno)
        .unwrap_or(Reason::StoreFailed);
    Failure::new(reason, format!("{what} can't be made: {error}"))
}

pub(super) fn of_port(error: &PortError) -> Failure {
    let names = |holders: &[Holder]| holders.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match error {
        PortError::InUse { holders, .. } | PortError::RangeTaken { holders, .. } => {
            Failure::new(Reason::PortInUse, error.to_string()).with_holder(names(holders))
        }
        PortError::Exhausted { .. } => Failure::new(Reason::PortInUse, error.to_string()),
        PortError::NotOurs { .. } => Failure::new(Reason::PortInUse, error.to_string())
            .with_suggestion("give the pool an address of this machine, such as 127.0.0.1 or 0.0.0.0"),
        PortError::NotPermitted { .. } => Failure::new(Reason::PermissionDenied, error.to_string())
            .with_suggestion("take a port from 1024 on, or give Ostler CAP_NET_BIND_SERVICE"),
        PortError::Check { source, .. } => of_io("a check of its port", source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::libc::{EACCES, EAGAIN, EBUSY, EINVAL, EMFILE, ENOENT, EPERM, EPIPE, ESHUTDOWN, ESRCH, ETOOMANYREFS};

    #[test]
    fn only_faults_of_the_worker_are_counted() {
        let spec = ostler_core::spec::PoolSpec::new("p", ["sh"]).worker;
        let rows = [
            (SpawnStep::Slot, EBUSY, Reason::GuardianLost),
            (SpawnStep::Slot, ESHUTDOWN, Reason::GuardianLost),
            (SpawnStep::Slot, EINVAL, Reason::PermissionDenied),
            (SpawnStep::Forward, EPIPE, Reason::GuardianLost),
            (SpawnStep::Forward, EAGAIN, Reason::GuardianLost),
            (SpawnStep::Forward, ETOOMANYREFS, Reason::DescriptorLimit),
            (SpawnStep::Parent, ESRCH, Reason::GuardianLost),
            (SpawnStep::Receive, EMFILE, Reason::DescriptorLimit),
            (SpawnStep::Fork, EAGAIN, Reason::ProcessLimit),
            (SpawnStep::Directory, ENOENT, Reason::DirectoryMissing),
            (SpawnStep::Directory, EACCES, Reason::PermissionDenied),
            (SpawnStep::Exec, ENOENT, Reason::CommandNotFound),
            (SpawnStep::Exec, EACCES, Reason::PermissionDenied),
            (SpawnStep::Limits, EPERM, Reason::PermissionDenied),
        ];
        for (step, errno, reason) in rows {
            let failure = of_spawn(&spec, step, errno);
            assert_eq!(failure.reason, reason, "{step:?} {errno}: {failure}");
        }
    }

    #[test]
    fn what_is_no_matter_of_permission_has_a_suggestion_of_its_own() {
        let spec = ostler_core::spec::PoolSpec::new("p", ["sh"]).worker;
        let suggestion = |errno| of_spawn(&spec, SpawnStep::Exec, errno).suggestion;
        assert!(suggestion(ENOEXEC).contains("#!/bin/sh"));
        assert!(suggestion(E2BIG).contains("shorten command and env"));
        assert_eq!(suggestion(EACCES), Reason::PermissionDenied.suggestion());
        let address = "192.0.2.1:80".parse().unwrap();
        let suggestion = |error| of_port(&error).suggestion;
        assert!(suggestion(PortError::NotOurs { address }).contains("address of this machine"));
        assert!(suggestion(PortError::NotPermitted { address }).contains("CAP_NET_BIND_SERVICE"));
    }
}
