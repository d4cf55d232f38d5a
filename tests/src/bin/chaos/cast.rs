//! The pools that everything happens to: each is one way in which real workers behave.

use std::time::Duration;

use ostler::{OnGiveUp, OutputSpec, PoolSpec, Port, Ports, Probe, ProbeKind, Ready, StopSpec};
use ostler_tests::program;

/// One kind of worker.
#[derive(Debug)]
pub(crate) struct Part {
    /// The pool's name.
    pub(crate) name: &'static str,
    /// What the test worker does.
    modes: &'static str,
    pub(crate) workers: u32,
    /// How many processes a settled worker is, itself among them.
    pub(crate) processes: usize,
    traits: Traits,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Traits {
    Common,
    /// Serves HTTP on a port, and is ready when it does.
    Serves,
    /// A host's death gives it TERM and a grace.
    Graced,
    /// It never lasts: what the others do goes on beside its restarts.
    Mortal,
    /// It leaves a process with neither record nor marker.
    Naked,
}

/// So long has a worker to end after TERM.
pub(crate) const GRACE: Duration = Duration::from_millis(200);

const fn part(name: &'static str, modes: &'static str, processes: usize, traits: Traits) -> Part {
    let workers = match traits {
        Traits::Mortal => 1,
        _ => 2,
    };
    Part {
        name,
        modes,
        workers,
        processes,
        traits,
    }
}

/// Every pool.
const PARTS: [Part; 11] = [
    part("plain", "sleep", 1, Traits::Common),
    part("web", "http", 1, Traits::Serves),
    part("deaf", "ignore-term+child+sleep", 2, Traits::Common),
    part("daemons", "daemon+daemon+child+sleep", 4, Traits::Graced),
    part("flood", "flood=2000000+sleep", 1, Traits::Common),
    part("keeper", "port-keeper", 2, Traits::Serves),
    part("loner", "setsid+ignore-term+child+daemon+sleep", 3, Traits::Graced),
    part("groups", "setsid+ignore-term+child-groups+sleep", 5, Traits::Common),
    part("stopped", "child-stopped+daemon+sleep", 3, Traits::Graced),
    part("mortal", "daemon+pause=300+exit=3", 2, Traits::Mortal),
    part("naked", "ignore-term+daemon-naked+daemon+child+sleep", 4, Traits::Naked),
];

/// The pools of an era; `naked`: with those whose daemons have an empty environment.
pub(crate) fn parts(naked: bool) -> impl Iterator<Item = &'static Part> {
    PARTS.iter().filter(move |part| naked || part.traits != Traits::Naked)
}

impl Part {
    /// Whether it has a full strength to come back to.
    pub(crate) fn is_steady(&self) -> bool {
        self.traits != Traits::Mortal
    }

    /// Whether its leader blocks TERM.
    pub(crate) fn is_deaf(&self) -> bool {
        self.modes.contains("ignore-term")
    }

    /// Its pool. Restarts are counted and never too many: giving up is what `quitters` are for.
    pub(crate) fn spec(&self, tag: &str) -> PoolSpec {
        let mut spec = base(self.name, self.modes, tag);
        spec.workers = self.workers;
        (spec.intensity, spec.period) = (1_000_000, Duration::from_secs(1));
        match self.traits {
            Traits::Serves => {
                spec.worker.ports = Ports::One(Port::Any);
                spec.worker.ready = Some(Ready::Probe(Probe {
                    kind: ProbeKind::Http("/".into()),
                    port: None,
                }));
            }
            Traits::Graced => spec.worker.host_death = spec.worker.stop,
            Traits::Common | Traits::Mortal | Traits::Naked => {}
        }
        spec
    }
}

/// The pool that gives up.
pub(crate) const QUITTERS: &str = "quitters";

/// Workers that leave a daemon and exit before they are ready, with status 0: the pool gives up at the third.
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
    spec.worker.output = OutputSpec {
        log: false,
        ..OutputSpec::default()
    };
    spec.worker.stop = StopSpec {
        grace: GRACE,
        ..spec.worker.stop
    };
    spec
}
