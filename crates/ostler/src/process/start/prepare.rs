//! What an incarnation is given before and at its spawn: ports, record, descriptors, environment, the spawn itself.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use ostler_core::failure::{Failure, Reason};
use ostler_core::lifecycle::Input;
use ostler_core::spec::{Port, Ports, Ready, WorkerSpec};
use ostler_failpoint::{self as failpoint, Point};
use ostler_os::cgroup::Group;
use ostler_os::guardian::{EndPolicy, SpawnRequest, TreeProcess};
use ostler_os::identity::{self, ProcessIdentity, here};
use ostler_os::notify::NotifySocket;
use ostler_os::output::Capture;
use ostler_os::port_choice::{self, PortChoice, PortReservation};
use ostler_os::{ports, program};
use ostler_registry::{Activation, Containment, Identity, Key, Record, RecordedPort, UnixNanos};
use ostler_telemetry::Facts;

use super::super::driver::Driver;
use super::super::protocol::{Done, Work};
use super::super::slot::{Listeners, Slot};
use super::super::watch::{LastAnswer, LineWatch};
use super::environment::{self, Offers};
use super::refusal;
use crate::follow::Stdio;
use crate::services::PortMap;

/// How many lines of stderr a failure carries.
const STDERR_TAIL: usize = 20;

/// What one incarnation holds.
#[derive(Default)]
pub(crate) struct Resources {
    pub(crate) ports: PortMap,
    /// Ports that no other worker of this process is given meanwhile.
    pub(crate) reservations: Vec<PortReservation>,
    pub(crate) listeners: Listeners,
    /// Why no port could be had; told when the spawn is asked for, so that the reservation comes first.
    pub(crate) port_failure: Option<Failure>,
    pub(crate) pid: Option<u32>,
    pub(crate) identity: Option<ProcessIdentity>,
    pub(crate) sitter: Option<u32>,
    pub(crate) containment: Option<&'static str>,
    /// Shared with the work that ends its rest when no sitter does.
    pub(crate) cgroup: Option<Arc<Group>>,
    pub(crate) stdout: Option<Capture>,
    pub(crate) stderr: Option<Capture>,
    /// Its stdin and stdout, where they belong to a client.
    pub(crate) stdio: Option<Stdio>,
    pub(crate) notify: Option<Arc<tokio::sync::Mutex<NotifySocket>>>,
    pub(crate) ready_file: Option<PathBuf>,
    pub(crate) lines: Option<LineWatch>,
    /// Why it was not ready when it was last looked at.
    pub(crate) last_answer: LastAnswer,
}

impl Resources {
    /// Fills in what every event of the incarnation tells.
    pub(in crate::process) fn complete(&self, facts: Facts) -> Facts {
        let named = self.ports.iter().filter(|(name, _)| !name.is_empty());
        Facts {
            pid: facts.pid.or(self.pid),
            port: self.ports.get("").copied(),
            ports: named.map(|(name, port)| (name.clone(), *port)).collect(),
            containment: self.containment.map(str::to_owned),
            ..facts
        }
    }

    /// The worker has its ports: they keep other hosts away by themselves now.
    pub(in crate::process) fn settle_ports(&mut self) {
        for reservation in &mut self.reservations {
            reservation.settle();
        }
    }

    /// A cgroup that was killed is not used again. Whether it is gone: the kernel may call it busy for a moment more.
    pub(in crate::process) fn drop_cgroup(&mut self) -> bool {
        self.cgroup
            .take()
            .is_none_or(|group| group.try_remove().unwrap_or(false))
    }

    /// How many lines went from what is kept.
    pub(in crate::process) fn dropped_lines(&self) -> u64 {
        let captures = [&self.stdout, &self.stderr].into_iter().flatten();
        captures.map(Capture::dropped).sum()
    }

    pub(in crate::process) fn stderr_tail(&self) -> Vec<String> {
        self.stderr
            .as_ref()
            .map(|capture| capture.tail(STDERR_TAIL))
            .unwrap_or_default()
    }

    /// Reads what the process has written before it ended, without waiting for those who hold its pipes still.
    pub(in crate::process) fn drain_output(&self) -> impl Future<Output = ()> + Send + use<> {
        let captures = [self.stdout.clone(), self.stderr.clone()];
        async move {
            for capture in captures.iter().flatten() {
                capture.drain_after_exit().await;
            }
        }
    }
}

impl Drop for Resources {
    fn drop(&mut self) {
        for capture in [&self.stdout, &self.stderr].into_iter().flatten() {
            capture.close();
        }
        if let Some(file) = &self.ready_file {
            // It is not there when the worker has not made it, or has removed it.
            drop(std::fs::remove_file(file));
        }
    }
}

/// What [`Driver::reserve`] comes to.
pub(crate) struct Prepared {
    ports: Result<(PortMap, Vec<PortReservation>, Listeners), Failure>,
    recorded: Result<(), Failure>,
}

impl Driver {
    /// Chooses the ports and writes the reservation.
    pub(in crate::process) fn reserve(&self) -> Work {
        let slot = Arc::clone(&self.slot);
        let key = self.key();
        Box::pin(async move {
            let ports = chosen_ports(&slot).await;
            let mut record = Record::reservation(&slot.services.owner, key, 0, UnixNanos::now());
            if let Ok((ports, ..)) = &ports {
                record.ports = recorded_ports(&slot.spec.worker, ports);
            }
            let recorded = slot.services.table.reserve(record).await;
            let recorded = recorded.map_err(|error| {
                Failure::new(Reason::StoreFailed, error.to_string()).with_suggestion(error.suggestion())
            });
            Done::Reserved(Prepared { ports, recorded })
        })
    }

    pub(in crate::process) fn reserved(&mut self, prepared: Prepared) -> Input {
        match prepared.ports {
            Ok((ports, reservations, listeners)) => {
                self.slot.remember_ports(&ports, &listeners);
                self.resources.ports = ports;
                self.resources.reservations = reservations;
                self.resources.listeners = listeners;
            }
            Err(failure) => self.resources.port_failure = Some(failure),
        }
        match prepared.recorded {
            Ok(()) => Input::Recorded,
            Err(failure) => Input::RecordFailed(failure),
        }
    }

    pub(crate) fn key(&self) -> Key {
        Key::new(self.slot.worker.clone(), self.incarnation)
    }

    /// Spawns the process: its news comes from the guardian.
    pub(in crate::process) fn spawn(&mut self) -> Work {
        let request = match self.request() {
            Ok(request) => request,
            Err(failure) => return Box::pin(async { Done::Input(Input::SpawnFailed(failure)) }),
        };
        let link = Arc::clone(&self.slot.services.link);
        let (slot, incarnation, route) = (self.slot.number, self.incarnation, self.route());
        Box::pin(async move {
            failpoint::reach(Point::SpawnPrepared);
            let spawned = match link.guardian().await {
                Ok((guardian, generation)) => {
                    link.bind(slot, generation, route);
                    guardian
                        .spawn(slot, incarnation.0, request)
                        .map_err(|error| refusal::of_order(&error))
                }
                Err(closed) => Err(Failure::new(Reason::GuardianLost, closed.to_string())),
            };
            failpoint::reach(Point::SpawnOrdered);
            match spawned {
                Ok(()) => Done::Nothing,
                Err(failure) => Done::Input(Input::SpawnFailed(failure)),
            }
        })
    }

    fn request(&mut self) -> Result<SpawnRequest, Failure> {
        if let Some(failure) = self.resources.port_failure.take() {
            return Err(failure);
        }
        let slot = Arc::clone(&self.slot);
        let spec = &slot.spec.worker;
        self.prepare_readiness(spec)?;
        let (listener_names, listen) = self.listening_sockets()?;
        let offers = Offers {
            ports: self.resources.ports.clone(),
            listeners: listener_names,
            notify_socket: self.notify_value(),
            ready_file: self.resources.ready_file.as_deref(),
            watchdog: spec.watchdog,
            trace: self.spans.start().headers(),
        };
        let services = &slot.services;
        let env = environment::environment(
            std::env::vars_os(),
            spec,
            services.run,
            &slot.worker,
            self.incarnation,
            &offers,
        );
        let argv = spec.expand_command(|name| self.resources.ports.get(name).copied());
        let named = argv.first().map_or("", String::as_str);
        let program = program::resolve(named, &env, spec.cwd.as_deref())
            .map_err(|error| Failure::new(error.reason(), error.to_string()))?;
        let streams = self.streams(spec)?;
        Ok(SpawnRequest {
            program,
            argv: argv.into_iter().map(Into::into).collect(),
            env,
            cwd: spec.cwd.clone(),
            stdin: streams.stdin,
            stdout: streams.stdout,
            stderr: streams.stderr,
            cgroup: self.cgroup(),
            listen,
            host_death: EndPolicy {
                signal: spec.host_death.signal,
                grace: spec.host_death.grace,
            },
        })
    }

    /// The socket or file by which the worker tells that it is ready, and the watch for its lines.
    fn prepare_readiness(&mut self, spec: &WorkerSpec) -> Result<(), Failure> {
        let name = format!("{}-{}", self.slot.number, self.incarnation);
        let scratch = &self.slot.services.scratch;
        if spec.watchdog.is_some() || spec.ready == Some(Ready::Notify) {
            let socket = NotifySocket::bind(scratch, &format!("{name}.notify"))
                .map_err(|error| refusal::of_io("its notify socket", &error))?;
            self.resources.notify = Some(Arc::new(tokio::sync::Mutex::new(socket)));
        }
        if spec.ready == Some(Ready::File) {
            self.resources.ready_file = Some(scratch.join(format!("{name}.ready")));
        }
        if let Some(Ready::Line(pattern)) = &spec.ready {
            let watch = LineWatch::new(pattern).map_err(|error| {
                Failure::new(
                    Reason::ReadyTimeout,
                    format!("ready.line is no regular expression: {error}"),
                )
            })?;
            self.resources.lines = Some(watch);
        }
        Ok(())
    }

    fn notify_value(&self) -> Option<std::ffi::OsString> {
        let socket = self.resources.notify.as_ref()?.try_lock().ok()?;
        Some(socket.env_value())
    }

    fn listening_sockets(&self) -> Result<(Vec<String>, Vec<OwnedFd>), Failure> {
        let copy = |(name, listener): (&String, &Arc<TcpListener>)| {
            let copy = listener
                .try_clone()
                .map_err(|error| refusal::of_io("a copy of its listening socket", &error))?;
            Ok((name.clone(), OwnedFd::from(copy)))
        };
        Ok(self
            .resources
            .listeners
            .iter()
            .map(copy)
            .collect::<Result<Vec<_>, Failure>>()?
            .into_iter()
            .unzip())
    }

    fn cgroup(&mut self) -> Option<OwnedFd> {
        let group = self.slot.services.cgroup.as_ref()?;
        let made = group
            .slot_after(&self.slot.worker, self.slot.spent_cgroups())
            .and_then(|made| made.directory().try_clone_to_owned().map(|fd| (made, fd)));
        match made {
            Ok((made, directory)) => {
                self.resources.cgroup = Some(Arc::new(made));
                Some(directory)
            }
            Err(error) => {
                tracing::warn!(target: "ostler", worker = %self.slot.worker, %error, "no cgroup for this worker");
                None
            }
        }
    }

    /// The process is there: what it is goes into the record.
    pub(in crate::process) fn spawned(&mut self, worker: &TreeProcess, sitter: u32, in_cgroup: bool) -> Work {
        failpoint::reach(Point::SpawnTold);
        let identity = here().ok().map(|here| worker.identity(here));
        self.resources.pid = Some(worker.pid);
        self.resources.identity = identity;
        self.resources.sitter = Some(sitter);
        self.resources.containment = Some(if in_cgroup { "cgroup" } else { "sitter" });
        let Some(identity) = identity else {
            return Box::pin(async { Done::Nothing });
        };
        let sitter = i32::try_from(sitter)
            .ok()
            .and_then(|pid| identity::of(pid).ok().flatten());
        self.slot.note_sitter(sitter);
        let group = self.resources.cgroup.as_ref().filter(|_| in_cgroup);
        let containment = group.map_or(Containment::Sitter, |group| {
            Containment::Cgroup(group.path().display().to_string())
        });
        let activation = Activation {
            identity: Identity::LocalProcess(identity),
            sitter,
            ports: recorded_ports(&self.slot.spec.worker, &self.resources.ports),
            containment,
            at: UnixNanos::now(),
        };
        let (table, key) = (self.slot.services.table.clone(), self.key());
        let span = self.spans.activating(worker.pid);
        Box::pin(async move {
            let _open = span;
            // An incarnation that is ending already is not made active any more; its record is there all the same.
            if let Err(error) = table.activate(key, activation).await {
                tracing::debug!(target: "ostler", %error, "a record was not made active");
            }
            failpoint::reach(Point::Active);
            Done::Nothing
        })
    }

    /// The ports that the worker told of go on record, as those that it was given.
    pub(in crate::process) fn learn_ports(&mut self, reported: PortMap) -> Work {
        self.resources.ports.extend(reported);
        let (table, key) = (self.slot.services.table.clone(), self.key());
        let ports = recorded_ports(&self.slot.spec.worker, &self.resources.ports);
        Box::pin(async move {
            if let Some(record) = table.record(&key)
                && let Err(error) = table.update(Record { ports, ..record }).await
            {
                tracing::debug!(target: "ostler", %error, "reported ports are not on record");
            }
            Done::Nothing
        })
    }
}

fn recorded_ports(spec: &WorkerSpec, ports: &PortMap) -> Vec<RecordedPort> {
    let row = |(name, port): (&String, &u16)| RecordedPort {
        name: name.clone(),
        address: spec.address,
        port: *port,
    };
    ports.iter().map(row).collect()
}

/// The same on a thread that may block, when there is anything to choose.
async fn chosen_ports(slot: &Arc<Slot>) -> Result<(PortMap, Vec<PortReservation>, Listeners), Failure> {
    if slot.spec.worker.ports == Ports::None {
        return Ok(Default::default());
    }
    let choosing = Arc::clone(slot);
    let lost = |_| {
        Err(Failure::new(
            Reason::PortInUse,
            "the choice of a port was lost in a panic",
        ))
    };
    let chosen = tokio::task::spawn_blocking(move || choose_ports(&choosing));
    chosen.await.unwrap_or_else(lost)
}

/// The ports of the next incarnation; those that the worker reports come later. Blocks for as long as it takes to name
/// a holder.
fn choose_ports(slot: &Slot) -> Result<(PortMap, Vec<PortReservation>, Listeners), Failure> {
    let spec = &slot.spec.worker;
    let (previous, mut bound) = slot.remembered_ports();
    let (mut ports, mut reservations, mut listeners) = (PortMap::new(), Vec::new(), BTreeMap::new());
    for (name, port) in spec.ports.iter() {
        let wanted = match port {
            Port::Any => PortChoice::Any,
            Port::Fixed(number) => PortChoice::Fixed(number),
            Port::Range(first, last) => PortChoice::Range { first, last },
            Port::Reported => continue,
            Port::Listen => {
                let listener = match bound.remove(name) {
                    Some(listener) => listener,
                    None => Arc::new(
                        ports::bind_listener(SocketAddr::new(spec.address, 0))
                            .map_err(|error| refusal::of_port(&error))?,
                    ),
                };
                let number = listener
                    .local_addr()
                    .map_err(|error| refusal::of_io("its listening socket", &error))?
                    .port();
                ports.insert(name.to_owned(), number);
                listeners.insert(name.to_owned(), listener);
                continue;
            }
        };
        let owner = slot.worker.to_string();
        let chosen = port_choice::reserve(spec.address, wanted, previous.get(name).copied(), &owner)
            .map_err(|error| refusal::of_port(&error))?;
        ports.insert(name.to_owned(), chosen.address().port());
        reservations.push(chosen);
    }
    Ok((ports, reservations, listeners))
}
