//! The spawn: what the process is given, the order to the guardian, and what is learned of the
//! process.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use ostler_core::chain::chain;
use ostler_core::failure::{Failure, Reason};
use ostler_core::ids;
use ostler_core::lifecycle::Input;
use ostler_core::spec::{Placeholder, Ready, WorkerSpec};
use ostler_failpoint::{self as failpoint, Point};
use ostler_os::guardian::{EndPolicy, SpawnRequest, TreeProcess};
use ostler_os::identity::{self, here};
use ostler_os::program;
use ostler_registry::{Activation, Containment, Identity, UnixNanos};
use tracing::Span;

use super::super::host::{Host, SpawnRefused};
use super::super::incarnation::Incarnation;
use super::super::place::Place;
use super::super::protocol::{Done, Work};
use super::super::resources::Resources;
use super::super::watch::{LineWatch, Notify};
use super::environment::{self, Offers};
use super::{ports, refusal, streams};
use crate::guard::Route;
use crate::status::PortMap;

/// Orders the spawn: its news comes by the route.
pub(in crate::process) fn order(incarnation: &Incarnation, host: &Host, route: Route, request: SpawnRequest) -> Work {
    let (guard, slot) = (Arc::clone(&host.guard), incarnation.slot);
    Box::pin(async move {
        failpoint::reach(Point::SpawnPrepared);
        let ordered = guard.spawn(slot, route, request).await;
        failpoint::reach(Point::SpawnOrdered);
        match ordered {
            Ok(()) => Done::Nothing,
            Err(SpawnRefused::Closed(closed)) => {
                let failure = Failure::new(Reason::GuardianLost, closed.to_string());
                Done::Input(Input::SpawnFailed(failure))
            }
            Err(SpawnRefused::Order(error)) => Done::Input(Input::SpawnFailed(refusal::of_order(&error))),
        }
    })
}

/// Prepares what the process is given. The cgroups of the worker's incarnations up to `spent_until`
/// can't be used again.
///
/// # Errors
/// Why it can't be spawned: no port, no program, no room for a pipe.
pub(in crate::process) fn prepare(
    incarnation: &Incarnation,
    resources: &mut Resources,
    host: &Host,
    trace: Option<(String, Option<String>)>,
    spent_until: Option<ids::Incarnation>,
) -> Result<SpawnRequest, Failure> {
    if let Some(failure) = resources.port_failure.take() {
        return Err(*failure);
    }
    prepare_readiness(incarnation, resources, host)?;
    let spec = &expand(incarnation.spec(), incarnation, resources);
    let (listener_names, listen) = listening_sockets(resources)?;
    let offers = Offers {
        ports: resources.ports.clone(),
        sockets: resources.sockets.clone(),
        listeners: listener_names,
        notify_socket: resources.notify.as_ref().map(Notify::env_value),
        ready_file: resources.ready_file.as_deref(),
        watchdog: spec.watchdog,
        trace,
    };
    let env = environment::environment(
        environment::inherited(),
        spec,
        incarnation.run,
        incarnation.worker.marker_value(incarnation.number),
        &offers,
    );
    let named = spec.command.first().map_or("", String::as_str);
    let program = program::resolve(named, &env, spec.cwd.as_deref()).map_err(|error| refusal::of_program(&error))?;
    let streams = streams::make(incarnation, resources, &host.hub)?;
    let cgroup = cgroup(incarnation, resources, host, spent_until);
    resources.oom = host.machine.watch_oom(resources.cgroup.as_deref());
    Ok(SpawnRequest {
        program,
        argv: spec.command.iter().map(Into::into).collect(),
        env,
        cwd: spec.cwd.clone(),
        stdin: streams.stdin,
        stdout: streams.stdout,
        stderr: streams.stderr,
        cgroup,
        listen,
        host_death: EndPolicy {
            signal: spec.host_death.signal,
            grace: spec.host_death.grace,
        },
    })
}

/// A specification with what is known of the incarnation in place of its placeholders.
pub(super) fn expand(spec: &WorkerSpec, incarnation: &Incarnation, resources: &Resources) -> WorkerSpec {
    spec.expanded(|placeholder| match placeholder {
        Placeholder::Port(name) => resources.ports.get(name).map(u16::to_string),
        // Its path was chosen so that it is UTF-8.
        Placeholder::Socket(name) => Some(resources.sockets.get(name)?.to_str()?.to_owned()),
        Placeholder::Device => incarnation.spec().device(incarnation.worker.index).map(str::to_owned),
        Placeholder::Index => Some(incarnation.worker.index.to_string()),
        Placeholder::Incarnation => Some(incarnation.number.to_string()),
        Placeholder::Run => Some(incarnation.run.to_string()),
        _ => None,
    })
}

/// The socket or file by which the worker reports that it is ready, and the watch for its lines.
fn prepare_readiness(incarnation: &Incarnation, resources: &mut Resources, host: &Host) -> Result<(), Failure> {
    let spec = incarnation.spec();
    let name = format!("{}-{}", incarnation.slot, incarnation.number);
    if has_notify_socket(spec) {
        let notify = host
            .scratch()
            .and_then(|scratch| Notify::bind(&scratch, &format!("{name}.notify")));
        let notify = notify.map_err(|error| refusal::of_io("its notify socket", &error))?;
        resources.places.push(Place::notify(Path::new(&notify.env_value())));
        resources.notify = Some(notify);
    }
    if spec.ready == Some(Ready::File) {
        let scratch = host
            .scratch()
            .map_err(|error| refusal::of_io("the directory of its ready file", &error))?;
        let file = scratch.join(format!("{name}.ready"));
        resources.places.push(Place::ready_file(&file));
        resources.ready_file = Some(file);
    }
    if let Some(Ready::Line(pattern)) = &spec.ready {
        let watch = LineWatch::new(pattern).map_err(|error| {
            let message = format!("ready.line is not a regular expression: {error}");
            Failure::new(Reason::ReadyTimeout, message)
        })?;
        resources.lines = Some(watch);
    }
    Ok(())
}

fn has_notify_socket(spec: &WorkerSpec) -> bool {
    spec.watchdog.is_some() || spec.ready == Some(Ready::Notify)
}

fn listening_sockets(resources: &Resources) -> Result<(Vec<String>, Vec<OwnedFd>), Failure> {
    let copy = |(name, listener): (&String, &Arc<TcpListener>)| {
        // All copies are one socket: what the worker before made non-blocking is so for this one.
        let copy = listener
            .try_clone()
            .and_then(|copy| copy.set_nonblocking(false).map(|()| copy))
            .map_err(|error| refusal::of_io("a copy of its listening socket", &error))?;
        Ok((name.clone(), OwnedFd::from(copy)))
    };
    let copies: Result<Vec<_>, Failure> = resources.listeners.iter().map(copy).collect();
    Ok(copies?.into_iter().unzip())
}

fn cgroup(
    incarnation: &Incarnation,
    resources: &mut Resources,
    host: &Host,
    spent_until: Option<ids::Incarnation>,
) -> Option<OwnedFd> {
    let made = host.machine.cgroup(&incarnation.worker, spent_until)?;
    match made.and_then(|made| made.directory().try_clone_to_owned().map(|fd| (made, fd))) {
        Ok((made, directory)) => {
            resources.cgroup = Some(Arc::new(made));
            Some(directory)
        }
        Err(error) => {
            tracing::warn!(target: "ostler", worker = %incarnation.worker, %error, "no cgroup for this worker");
            None
        }
    }
}

/// The process exists: what it is goes into the record.
pub(in crate::process) fn spawned(
    incarnation: &Incarnation,
    resources: &mut Resources,
    host: &Host,
    process: (&TreeProcess, &TreeProcess, bool),
    span: Span,
) -> Work {
    failpoint::reach(Point::SpawnReported);
    let (worker, sitter, in_cgroup) = process;
    resources.pid = Some(worker.pid);
    resources.sitter_pid = i32::try_from(sitter.pid).ok();
    resources.containment = Some(match in_cgroup {
        true => ostler_telemetry::Containment::Cgroup,
        false => ostler_telemetry::Containment::Sitter,
    });
    resources.identity = here().ok().map(|here| worker.identity(here));
    let Some(identity) = resources.identity else {
        return Box::pin(async { Done::Nothing });
    };
    let known = here().ok().filter(|_| sitter.start_time != 0);
    // An unrelated process that has its pid by now is younger than the worker.
    resources.sitter = known
        .map(|here| sitter.identity(here))
        .or_else(|| identity::of(resources.sitter_pid?).ok().flatten())
        .filter(|sitter| sitter.start_time <= identity.start_time);
    let group = resources.cgroup.as_ref().filter(|_| in_cgroup);
    let activation = Activation {
        identity: Identity::LocalProcess(identity),
        sitter: resources.sitter,
        ports: ports::recorded(incarnation.spec(), &resources.ports),
        containment: group.map_or(Containment::Sitter, |group| {
            Containment::Cgroup(group.path().display().to_string())
        }),
        at: UnixNanos::now(),
    };
    let (table, key) = (Arc::clone(&host.table), incarnation.key());
    Box::pin(async move {
        let _open = span;
        // An incarnation that is ending already is not made active any more; its record exists all
        // the same.
        if let Err(error) = table.activate(key, activation).await {
            tracing::debug!(target: "ostler", error = %chain(&error), "a record was not made active");
        }
        failpoint::reach(Point::Active);
        Done::Nothing
    })
}

/// The ports that the worker reported go on record, like those that it was given.
pub(in crate::process) fn learn_ports(
    incarnation: &Incarnation,
    resources: &mut Resources,
    host: &Host,
    reported: PortMap,
) -> Work {
    resources.ports.extend(reported);
    let (table, key) = (Arc::clone(&host.table), incarnation.key());
    let ports = ports::recorded(incarnation.spec(), &resources.ports);
    Box::pin(async move {
        if let Err(error) = table.set_ports(key, ports).await {
            tracing::debug!(target: "ostler", error = %chain(&error), "reported ports are not on record");
        }
        Done::Nothing
    })
}
