//! From a name to a running instance: sweep, run directory, table, root supervisor, guardian.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ostler_core::chain::chain;
use ostler_core::ids::RunId;
use ostler_failpoint::{self as failpoint, Point};
use ostler_os::cgroup::{CgroupUse, RunGroup, Site};
use ostler_os::identity::{self, NoOwnIdentity, ProcessIdentity};
use ostler_registry::{Engine, Owner, RunDir, RunDirError, RunInfo, TableError, UnixNanos};
use ostler_telemetry::{Containment, EventKind, Facts, Observer};
use ractor::ActorCell;
use ractor::concurrency::JoinHandle;

use super::anchor::{self, Anchor};
use super::audit::{self, AUDIT_INTERVAL};
use super::cleaner::EmergencyCleaner;
use super::disk;
use super::handle::Ostler;
use super::process_table::ProcessTable;
use super::services::{Parts, Services};
use super::sweep::SweepReport;
use super::tree::Tree;
use crate::app_dir::{AppDirError, DirEnv, app_dir};
use crate::detached::detached;
use crate::guard::{GuardianKeeper, KeeperArguments, Link};
use crate::hub::{About, EventStream, Hub};
use crate::supervisor::{ChildSpec, Report, Restart, Shutdown, Supervisor, SupervisorError, SupervisorOptions};

/// How often a part of the root (mainly the guardian) may be lost within [`ROOT_PERIOD`]: 10
/// times.
pub const ROOT_INTENSITY: u32 = 10;
/// The period of [`ROOT_INTENSITY`]: 60 s.
pub const ROOT_PERIOD: Duration = Duration::from_secs(60);

/// How long a linked instance has to stop in order when its parent ends: 10 s.
pub const PARENT_GRACE: Duration = Duration::from_secs(10);

/// Why an instance did not start. Nothing is left behind by a start that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// There is no directory for its table, or the app's name is invalid as a directory name.
    #[error(transparent)]
    Directory(#[from] AppDirError),
    /// The run's directory can't be made or locked.
    #[error("the run has no directory; {}", source.suggestion())]
    RunDirectory {
        /// What went wrong, and where.
        source: RunDirError,
    },
    /// The process table can't be opened.
    #[error("the process table can't be opened; {}", source.suggestion())]
    Table {
        /// What went wrong.
        source: TableError,
    },
    /// The table's engine is not compiled in.
    #[error("the store {engine:?} is not compiled in; build with the feature {engine:?}, or choose another")]
    EngineMissing {
        /// The engine.
        engine: &'static str,
    },
    /// The guardian or another part of the root did not start.
    #[error("the instance did not start")]
    Root {
        /// What went wrong.
        source: SupervisorError,
    },
    /// The host process can't be identified, and so no other process either.
    #[error(transparent)]
    NoIdentity(#[from] NoOwnIdentity),
    /// There is no tokio runtime, or it lacks timers or I/O.
    #[error("Ostler needs a tokio runtime with timers and I/O: use #[tokio::main], or Builder::enable_all")]
    Runtime,
    /// tokio's clock is paused, as by `start_paused`: every deadline would pass at once, while
    /// processes take their time.
    #[error(
        "tokio's clock is paused, and processes run in real time: start the instance with ostler::testing::TestBed \
         (feature `testing`), or leave the clock running (no start_paused, no tokio::time::pause)"
    )]
    PausedClock,
}

impl StartError {
    /// The runtime is shut down during the start.
    pub(super) fn stopped() -> Self {
        Self::Root {
            source: SupervisorError::Stopped,
        }
    }
}

/// Configures and starts an instance. Created by [`Ostler::builder`].
#[derive(Debug)]
#[must_use = "an instance runs when it is started"]
pub struct OstlerBuilder {
    app: String,
    run: RunId,
    hub: Arc<Hub>,
    state_dir: Option<PathBuf>,
    engine: Engine,
    cgroups: bool,
    audit: Duration,
    guardian_program: Option<PathBuf>,
    parent_grace: Duration,
    /// The caller takes care of a paused clock.
    paused: bool,
}

impl OstlerBuilder {
    pub(crate) fn new(app: String) -> Self {
        let run = new_run_id();
        let hub = Arc::new(Hub::new(app.clone(), run));
        Self {
            app,
            run,
            hub,
            state_dir: None,
            engine: Engine::DEFAULT,
            cgroups: true,
            audit: AUDIT_INTERVAL,
            guardian_program: None,
            parent_grace: PARENT_GRACE,
            paused: false,
        }
    }

    /// The instance may be started while tokio's clock is paused.
    #[cfg(feature = "testing")]
    pub(crate) fn under_paused_clock(mut self) -> Self {
        self.paused = true;
        self
    }

    /// Where the runs of the app are kept. Default: the first of `$RUNTIME_DIRECTORY`,
    /// `$XDG_RUNTIME_DIR/ostler`, `$XDG_STATE_HOME/ostler`, `~/.local/state/ostler`.
    pub fn state_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.state_dir = Some(directory.into());
        self
    }

    /// The engine of the process table. Default: RocksDB where it is compiled in, else redb.
    pub fn store(mut self, engine: Engine) -> Self {
        self.engine = engine;
        self
    }

    /// Whether cgroups are used where they are available. Default true. Without them all promises
    /// hold except one: that nothing survives when host, guardian and sitters are killed at once.
    pub fn cgroups(mut self, on: bool) -> Self {
        self.cgroups = on;
        self
    }

    /// The interval of the audit, which compares what supervision, the process table, the guardian
    /// and `/proc` say about the same processes. What disagrees twice, a second apart, is logged as
    /// a `tracing` warning with the target `ostler`; nothing is touched. An audit costs about 40 µs
    /// per process on the machine, on a thread of its own. Default [`AUDIT_INTERVAL`]; zero: never.
    pub fn audit(mut self, interval: Duration) -> Self {
        self.audit = interval;
        self
    }

    /// A guardian program to use instead of the built-in one; the variable `OSTLER_GUARDIAN` does
    /// the same.
    pub fn guardian_program(mut self, program: impl Into<PathBuf>) -> Self {
        self.guardian_program = Some(program.into());
        self
    }

    /// Adds an observer, such as `Telemetry` (feature `otlp`), which receives every event,
    /// measurement and line of output. Spans go through `tracing`. Several observers receive the
    /// same, in the order in which they were added. Default: none.
    pub fn observer(self, observer: impl Observer + 'static) -> Self {
        self.hub.add_observer(Arc::new(observer));
        self
    }

    /// How long the instance has to stop in order when the actor that it is linked under ends; then
    /// its workers are killed. Default [`PARENT_GRACE`]; zero: they are killed at once.
    pub fn parent_grace(mut self, grace: Duration) -> Self {
        self.parent_grace = grace;
        self
    }

    /// The id of the run to be started.
    pub fn run_id(&self) -> RunId {
        self.run
    }

    /// Subscribes to all events from the first one on, including those of the start.
    pub fn subscribe(&self) -> EventStream {
        self.hub.subscribe()
    }

    /// Starts the instance: sweeps dead runs of the app, then starts table, guardian and root. A
    /// disk that stalls only delays it, with a warning every 5 s.
    ///
    /// Needs a tokio runtime with timers and I/O (`enable_all`), whose clock is not paused; for
    /// tests with a paused one see `ostler::testing`.
    ///
    /// Cancel safe: if the future is dropped, the instance ends as soon as it has started, and
    /// leaves nothing.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(self) -> Result<Ostler, StartError> {
        self.start_whole(None).await
    }

    /// Starts the instance linked under an actor of the app:
    ///
    /// - The parent stops, fails, panics or is killed: the instance stops in order, with the cause
    ///   `parent_ended`; after [`parent_grace`](Self::parent_grace) its workers are killed.
    /// - The runtime is shut down: the workers are killed at once.
    /// - The instance is stopped by its handle: the parent sees a child that terminated with the
    ///   reason `"shutdown"`.
    /// - Its last handle is dropped, or its actor is killed: its workers are killed, and the parent
    ///   sees a child that terminated with the reason `"killed"`.
    /// - Its root gives up: the parent sees a child that failed with
    ///   [`RunGaveUp`](crate::RunGaveUp).
    ///
    /// The parent sees the end once everything is released. Waiting for the instance never depends
    /// on the parent's mailbox. Cancel safe, as [`OstlerBuilder::start`] is.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start_linked(self, parent: ActorCell) -> Result<Ostler, StartError> {
        self.start_whole(Some(parent)).await
    }

    /// Starts in a task of its own, whose result is an instance that ends on drop. So a start whose
    /// caller gives up in the middle leaves nothing behind.
    async fn start_whole(self, parent: Option<ActorCell>) -> Result<Ostler, StartError> {
        if !super::runtime::is_complete() {
            return Err(StartError::Runtime);
        }
        let stopped = || Err(StartError::stopped());
        detached(self.start_under(parent)).await.unwrap_or_else(stopped)
    }

    async fn start_under(self, parent: Option<ActorCell>) -> Result<Ostler, StartError> {
        if !self.engine.is_compiled_in() {
            return Err(StartError::EngineMissing {
                engine: self.engine.name(),
            });
        }
        // First: without /proc, what follows would fail with errors about other paths.
        let host = identity::own()?;
        let app_dir = app_dir(&DirEnv::from_process(), &self.app, self.state_dir.as_deref())?;
        let clock = super::runtime::Clock::read();
        let swept = disk::sweep_dead_runs(&app_dir)
            .await
            .map_err(|source| StartError::RunDirectory { source })?;
        if clock.is_paused() && !self.paused {
            return Err(StartError::PausedClock);
        }
        let program = self.guardian_program.clone();
        let (audit_interval, parent_grace) = (self.audit, self.parent_grace);
        let services = Arc::new(self.open(&app_dir, host).await?);
        services
            .hub
            .emit(EventKind::RunStarted, About::run(), started(&services));
        services
            .hub
            .emit(EventKind::SweepDone, About::run(), swept_facts(&swept));
        let keeper = KeeperArguments {
            services: Arc::clone(&services),
            program,
            state_dir: app_dir,
        };
        let rooted = match start_root(keeper).await {
            Ok(root) => link(root, parent).await,
            Err(source) => Err(source),
        };
        match rooted {
            Ok((root, anchored)) => {
                let (anchor, join) = anchored.unzip();
                let tree = Tree::new(services, root, anchor.clone());
                if let (Some(anchor), Some(join)) = (anchor, join) {
                    anchor::watch(&tree, anchor, join, parent_grace);
                }
                audit::start(&tree, audit_interval);
                Ok(Ostler::new(tree, swept))
            }
            Err(source) => {
                services.link.abandon();
                services.remove_run(true).await;
                Err(StartError::Root { source })
            }
        }
    }

    /// Everything of the instance that is not an actor.
    async fn open(self, app_dir: &Path, host: ProcessIdentity) -> Result<Services, StartError> {
        let owner = Owner {
            app: self.app.clone(),
            instance: self.app.clone(),
            run: self.run,
        };
        let info = RunInfo::new(&owner, host, self.engine, UnixNanos::now());
        let run_dir = disk::make_run_dir(app_dir, info).await?;
        let table = match disk::open_table(&run_dir, self.engine).await {
            Ok(table) => table,
            Err(source) => {
                if let Err(error) = run_dir.remove() {
                    tracing::warn!(target: "ostler", error = %chain(&error), "the directory of a run that did not start is left");
                }
                return Err(StartError::Table { source });
            }
        };
        failpoint::reach(Point::TableOpened);
        let cgroup = if self.cgroups {
            run_cgroup(&run_dir, self.run)
        } else {
            None
        };
        Ok(Services::new(Parts {
            owner,
            hub: self.hub,
            table,
            link: Arc::new(Link::new()),
            cgroup,
            run_dir,
        }))
    }
}

fn new_run_id() -> RunId {
    let since_1970 = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let millis = u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX);
    let mut random = [0; 10];
    random.copy_from_slice(&uuid::Uuid::new_v4().as_bytes()[..10]);
    RunId::from_parts(millis, random)
}

/// The cgroup of the run, if one is available.
fn run_cgroup(run_dir: &RunDir, run: RunId) -> Option<RunGroup> {
    let made = match Site::find(CgroupUse::Auto) {
        Ok(site) => site.create_run(run).map_err(|error| chain(&error)),
        Err(why) => Err(chain(&why)),
    };
    match made {
        Ok(group) => {
            failpoint::reach(Point::CgroupMade);
            let path = group.group().path().display().to_string();
            if let Err(error) = run_dir.set_cgroup(Some(path)) {
                tracing::warn!(target: "ostler", error = %chain(&error), "run.json does not name the run's cgroup");
            }
            Some(group)
        }
        Err(why) => {
            tracing::info!(target: "ostler", why, "no cgroups here: sitters hold the workers' trees");
            None
        }
    }
}

fn started(services: &Services) -> Facts {
    let containment = match services.cgroup {
        Some(_) => Containment::Cgroup,
        None => Containment::Sitter,
    };
    Facts::default()
        .with_pid(std::process::id())
        .with_containment(containment)
}

fn swept_facts(report: &SweepReport) -> Facts {
    let runs = if report.runs == 1 { "run" } else { "runs" };
    let mut message = format!("{} dead {runs} swept, {} live left alone", report.runs, report.live);
    for remark in report.remarks.iter().chain(&report.survivors) {
        message.push_str("; ");
        message.push_str(remark);
    }
    Facts::default()
        .with_count(report.killed.len() as u64)
        .with_orphans(report.killed.clone())
        .with_message(message)
}

async fn start_root(keeper: KeeperArguments) -> Result<Supervisor, SupervisorError> {
    let link = Arc::clone(&keeper.services.link);
    let options = SupervisorOptions::new()
        .intensity(ROOT_INTENSITY, ROOT_PERIOD)
        .reporter(move |report| {
            if let Report::ReachedMaxRestartIntensity { .. } = report {
                // Workers that are about to be stopped may be waiting for a guardian that will
                // never come.
                link.expect_no_other();
            }
        });
    let (for_cleaner, for_table) = (Arc::clone(&keeper.services), Arc::clone(&keeper.services));
    // Started in this order and stopped in reverse, so the cleaner is the last one.
    let children = vec![
        ChildSpec::actor("emergency cleaner", move || {
            (EmergencyCleaner, Arc::clone(&for_cleaner))
        })
        .shutdown(Shutdown::Infinity),
        ChildSpec::actor("process table", move || (ProcessTable, Arc::clone(&for_table))),
        ChildSpec::actor("guardian", move || (GuardianKeeper, keeper.clone())).restart(Restart::Permanent),
    ];
    Supervisor::spawn(None, options, children).await
}

/// Links the instance under its parent, if it has one.
async fn link(
    root: Supervisor,
    parent: Option<ActorCell>,
) -> Result<(Supervisor, Option<(Anchor, JoinHandle<()>)>), SupervisorError> {
    let Some(parent) = parent else { return Ok((root, None)) };
    match Anchor::link(parent).await {
        Ok(anchored) => Ok((root, Some(anchored))),
        Err(error) => {
            root.stop().await;
            Err(error.into())
        }
    }
}
