//! The process of an `exec` probe.
//!
//! It runs in a slot of its own at the guardian, beside the worker's: below a sitter, which kills
//! everything that the command has started when the command ends, when it is cancelled, and when
//! host or guardian die. It has no record, because nothing of it outlives its worker's incarnation,
//! whose release waits for it; a sweep finds it by its marker (ADR 0041).

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ostler_core::chain::chain;
use ostler_core::failure::{ExitStatus, Failure, Reason};
use ostler_core::ids;
use ostler_core::lifecycle::{KILL_NOW, Rest};
use ostler_core::spec::WorkerSpec;
use ostler_os::guardian::{GuardianEvent, SpawnRequest};
use ostler_os::identity::{ProcessIdentity, here};
use tokio::sync::{oneshot, watch};

use super::host::{Host, Setup, SpawnRefused};
use super::incarnation::Incarnation;
use super::protocol::exit_status;
use super::remnants::Remnants;
use super::start;
use crate::guard::{News, Route};

/// The pause before what could not be killed is killed again.
const RETRY: Duration = Duration::from_secs(1);

/// Where the probes of one worker run, one at a time.
#[derive(Debug)]
pub(crate) struct ProbePlace {
    /// Its number at the guardian.
    pub(crate) number: u32,
    begun: AtomicU64,
    under_way: watch::Sender<UnderWay>,
}

/// The probe under way.
#[derive(Debug, Default, Clone, Copy)]
struct UnderWay {
    is: bool,
    /// The pid of its sitter, once it is known.
    sitter: Option<i32>,
}

impl ProbePlace {
    pub(crate) fn new(number: u32) -> Arc<Self> {
        Arc::new(Self {
            number,
            begun: AtomicU64::new(0),
            under_way: watch::Sender::default(),
        })
    }

    /// Whether no process of a probe is left.
    pub(super) fn is_idle(&self) -> bool {
        !self.under_way.borrow().is
    }

    /// Waits until no process of a probe is left. Cancel safe.
    pub(super) fn idle(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut under_way = self.under_way.subscribe();
        async move {
            // Without a sender, the slot is gone.
            _ = under_way.wait_for(|probe| !probe.is).await;
        }
    }

    /// The sitter of the probe under way.
    pub(super) fn sitter(&self) -> Option<i32> {
        self.under_way.borrow().sitter
    }
}

/// How a probe ended.
#[derive(Debug)]
pub(super) enum End {
    /// The command has ended.
    Exited {
        /// How; `None` if that is unknown.
        status: Option<ExitStatus>,
        /// How many processes it left behind. They were killed.
        left: u32,
    },
    /// It was not started.
    NotStarted(Failure),
    /// Its sitter or guardian was lost.
    Lost,
}

/// A probe. Dropping it kills the command and everything that it has started.
#[derive(Debug)]
pub(super) struct Probing {
    end: oneshot::Receiver<End>,
    _alive: oneshot::Sender<Infallible>,
}

impl Probing {
    /// Starts the command of `spec`. The place must be idle.
    pub(super) fn start(
        setup: &Arc<Setup>,
        place: &Arc<ProbePlace>,
        incarnation: &Incarnation,
        spec: Arc<WorkerSpec>,
        request: SpawnRequest,
    ) -> Self {
        let run = place.begun.fetch_add(1, Ordering::Relaxed) + 1;
        place.under_way.send_replace(UnderWay { is: true, sitter: None });
        let mut probe = Probe {
            setup: Arc::clone(setup),
            place: Arc::clone(place),
            incarnation: incarnation.clone(),
            run: ids::Incarnation(run),
            spec,
            identity: None,
        };
        let (report, end) = oneshot::channel();
        let (alive, dropped) = oneshot::channel();
        tokio::spawn(async move {
            let end = probe.live(request, dropped).await;
            // First the place becomes idle: who reads the answer may start the next probe.
            drop(probe);
            _ = report.send(end);
        });
        Self { end, _alive: alive }
    }

    /// Waits for its end, after which no process of it is left. Cancel safe.
    pub(super) async fn ended(&mut self) -> End {
        // An error: the runtime is shutting down.
        (&mut self.end).await.unwrap_or(End::Lost)
    }
}

/// The task of a probe: it lasts until no process of the probe is left.
struct Probe {
    setup: Arc<Setup>,
    place: Arc<ProbePlace>,
    incarnation: Incarnation,
    /// Its number among the probes of the worker, by which the guardian tells them apart.
    run: ids::Incarnation,
    /// What is run.
    spec: Arc<WorkerSpec>,
    identity: Option<ProcessIdentity>,
}

impl Probe {
    async fn live(&mut self, request: SpawnRequest, mut dropped: oneshot::Receiver<Infallible>) -> End {
        let (sender, mut news) = futures_channel::mpsc::unbounded();
        let route = Route {
            incarnation: self.run,
            sender,
        };
        let ordered = tokio::select! {
            biased;
            ordered = self.host().guard.spawn(self.place.number, route, request) => ordered,
            // Nothing is ordered before the future is ready.
            _ = &mut dropped => return End::Lost,
        };
        if let Err(refused) = ordered {
            return End::NotStarted(Failure::new(Reason::GuardianLost, why(&refused)));
        }
        let (mut status, mut killed) = (None, false);
        loop {
            let heard = tokio::select! {
                biased;
                heard = news.recv() => heard.ok(),
                _ = &mut dropped, if !killed => {
                    killed = true;
                    // Its answer is not needed any more.
                    self.host().guard.end(self.place.number, self.run, KILL_NOW);
                    continue;
                }
            };
            let event = match heard {
                Some(News::Event(event)) => *event,
                // Its sitter ends it.
                Some(News::GuardianLost) => continue,
                Some(News::SittersEnded) | None => {
                    self.end_without_sitter().await;
                    return End::Lost;
                }
            };
            match event {
                GuardianEvent::Spawned { worker, sitter, .. } => {
                    self.identity = here().ok().map(|here| worker.identity(here));
                    let sitter = i32::try_from(sitter.pid).ok();
                    self.place.under_way.send_modify(|probe| probe.sitter = sitter);
                }
                GuardianEvent::SpawnFailed { step, errno, .. } => {
                    return End::NotStarted(start::of_spawn(&self.spec, step, errno));
                }
                GuardianEvent::Exited { status: ended, .. } => status = exit_status(ended),
                GuardianEvent::TreeGone { killed, .. } => return End::Exited { status, left: killed },
                // The guardian has killed and reaped its tree.
                GuardianEvent::SitterLost { .. } => return End::Lost,
                _ => {}
            }
        }
    }

    /// Guardian and sitter are gone, and did not report that the tree is.
    async fn end_without_sitter(&self) {
        let machine = Arc::clone(&self.host().machine);
        let worker = &self.incarnation.worker;
        let remnants = Remnants {
            worker: worker.clone(),
            marker: worker.probe_marker_value(self.incarnation.number),
            identity: self.identity,
            sitter: None,
            cgroup: None,
        };
        loop {
            match machine.end_without_sitter(remnants.clone()).await {
                Some(Rest::Gone) => return,
                Some(Rest::Unseen(why)) => return self.host().note_unseen(format!("a probe of {worker}: {why}")),
                Some(Rest::Left(left)) => {
                    tracing::warn!(target: "ostler", %worker, left, "processes of a probe can't be killed yet");
                    tokio::time::sleep(RETRY).await;
                }
                // The runtime is shutting down.
                None => return,
            }
        }
    }

    fn host(&self) -> &Host {
        &self.setup.host
    }
}

fn why(refused: &SpawnRefused) -> String {
    match refused {
        SpawnRefused::Closed(closed) => closed.to_string(),
        SpawnRefused::Order(error) => format!("the order to start it did not reach the guardian: {}", chain(error)),
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.host().guard.forget(self.place.number, self.run);
        self.place.under_way.send_replace(UnderWay::default());
    }
}
