//! The pools under test. Each is one kind of worker behaviour.

use std::time::Duration;

use ostler::{OnGiveUp, OutputSpec, PoolSpec, Port, Ports, Probe, ProbeKind, Ready};
use ostler_tests::program;

/// One kind of worker.
#[derive(Debug)]
pub(crate) struct PoolKind {
    /// The pool's name.
    pub(crate) name: &'static str,
    /// The modes of the test worker.
    modes: &'static str,
    pub(crate) workers: u32,
    /// The number of processes of a worker at rest, including itself.
    pub(crate) processes: usize,
    traits: Traits,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Traits {
    Common,
    /// Serves HTTP on a port; ready once it answers.
    Serves,
    /// The host's death sends it TERM and gives it a grace.
    Graced,
    /// Dies soon after each start, so that the others' faults happen next to its restarts.
    Mortal,
    /// Leaves a process with neither record nor marker.
    Naked,
    /// Ready by a message to its notify socket, and sends heartbeats.
    Notifies,
    /// Ready by a file.
    Files,
    /// Has many processes.
    Crowd,
}

/// The watchdog of the workers that send heartbeats.
const WATCHDOG: Duration = Duration::from_secs(2);
/// The pool of workers that send thousands of messages to their notify sockets.
pub(crate) const CHATTY: &str = "chatty";
/// The pool of a worker with many processes in sessions of their own.
pub(crate) const STRAYS: &str = "strays";
/// The pool of workers with a ready file.
pub(crate) const FILED: &str = "filed";

/// How long a worker has to end after TERM.
pub(crate) const GRACE: Duration = Duration::from_millis(200);

const fn kind(name: &'static str, modes: &'static str, processes: usize, traits: Traits) -> PoolKind {
    let workers = match traits {
        Traits::Mortal | Traits::Crowd => 1,
        _ => 2,
    };
    PoolKind {
        name,
        modes,
        workers,
        processes,
        traits,
    }
}

/// All kinds.
const KINDS: [PoolKind; 14] = [
    kind("plain", "sleep", 1, Traits::Common),
    kind("web", "http", 1, Traits::Serves),
    kind("deaf", "ignore-term+child+sleep", 2, Traits::Common),
    kind("daemons", "daemon+daemon+child+sleep", 4, Traits::Graced),
    kind("flood", "flood=2000000+sleep", 1, Traits::Common),
    kind("keeper", "port-keeper", 2, Traits::Serves),
    kind("loner", "setsid+ignore-term+child+daemon+sleep", 3, Traits::Graced),
    kind("groups", "setsid+ignore-term+child-groups+sleep", 5, Traits::Common),
    kind("stopped", "child-stopped+daemon+sleep", 3, Traits::Graced),
    kind(CHATTY, "report=2000+notify+beat", 1, Traits::Notifies),
    kind(FILED, "file+sleep", 1, Traits::Files),
    kind(STRAYS, "strays=12+sleep", 13, Traits::Crowd),
    kind("mortal", "daemon+pause=300+exit=3", 2, Traits::Mortal),
    kind("naked", "ignore-term+daemon-naked+daemon+child+sleep", 4, Traits::Naked),
];

/// The kinds of an era; `naked` includes those whose daemons have an empty environment.
pub(crate) fn kinds(naked: bool) -> impl Iterator<Item = &'static PoolKind> {
    KINDS.iter().filter(move |kind| naked || kind.traits != Traits::Naked)
}

impl PoolKind {
    /// Whether it has a state of rest to return to.
    pub(crate) fn is_steady(&self) -> bool {
        self.traits != Traits::Mortal
    }

    /// Whether its leader blocks TERM.
    pub(crate) fn is_deaf(&self) -> bool {
        self.modes.contains("ignore-term")
    }

    /// Its pool. Restarts are counted but never exceed the intensity: only `quitters` give up.
    pub(crate) fn spec(&self, tag: &str) -> PoolSpec {
        let mut spec = base(self.name, self.modes, tag);
        spec.workers = self.workers;
        (spec.intensity, spec.period) = (1_000_000, Duration::from_secs(1));
        match self.traits {
            Traits::Serves => {
                spec.worker.ports = Ports::One(Port::Any);
                spec.worker.ready = Some(Ready::Probe(Probe::new(ProbeKind::Http("/".into()))));
            }
            Traits::Graced => spec.worker.host_death = spec.worker.stop,
            Traits::Notifies => {
                spec.worker.ready = Some(Ready::Notify);
                spec.worker.watchdog = Some(WATCHDOG);
            }
            Traits::Files => spec.worker.ready = Some(Ready::File),
            Traits::Common | Traits::Mortal | Traits::Naked | Traits::Crowd => {}
        }
        spec
    }
}

/// The name of the pool that gives up.
pub(crate) const QUITTERS: &str = "quitters";

/// A pool of workers that leave a daemon and exit with status 0 before they are ready. It gives up
/// at the third exit.
pub(crate) fn quitters(tag: &str) -> PoolSpec {
    let mut spec = base(QUITTERS, "daemon+stderr+exit=0", tag);
    (spec.workers, spec.intensity, spec.period) = (2, 2, Duration::from_secs(3600));
    spec.on_give_up = OnGiveUp::Pool;
    spec.worker.ready = Some(Ready::File);
    spec
}

fn base(name: &str, modes: &str, tag: &str) -> PoolSpec {
    let worker = program("ostler-test-worker").display().to_string();
    let mut spec = PoolSpec::new(name, [worker.as_str(), modes, "{port}", tag]);
    spec.worker.output = OutputSpec::default().log(false);
    spec.worker.stop.grace = GRACE;
    spec
}
