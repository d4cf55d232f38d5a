//! When a worker is ready, and whether it stays well: what the driver waits on, without any
//! knowledge of actors.
//!
//! Everything here ends by being dropped. What is left behind ends soon: the process of a probe,
//! which is killed then, and the rest of an answer, which is read for a second at most. No deadline
//! is kept but those of single attempts. How long a start may take is the lifecycle's business.

mod connection;
mod exec;
mod file;
#[cfg(feature = "probe-grpc")]
mod grpc;
mod health;
#[cfg(feature = "probe-http")]
mod http;
mod lines;
mod notify;
mod owner;
mod probe;
#[cfg(all(test, feature = "probe-http", feature = "ready-line"))]
mod tests;
mod unix;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ostler_core::failure::Failure;
use ostler_core::supervision::Backoff;
use tokio::sync::watch;

pub(in crate::process) use exec::ExecPlan;
use file::ReadyFile;
#[cfg(feature = "fuzzing")]
pub use file::ready_file;
pub(in crate::process) use health::{HealthPlan, HealthProbe, watch as watch_health};
pub(in crate::process) use lines::LineWatch;
pub(in crate::process) use notify::{Heard, Notify};
pub(in crate::process) use owner::Uninspected;
pub(in crate::process) use probe::{PortPlan, Request, reachable};

use crate::status::PortMap;

/// The first pause between two looks at a worker that is not ready.
const PAUSE_FIRST: Duration = Duration::from_millis(10);

/// The longest such pause.
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// How long one attempt may take while the worker starts. A worker that accepts and answers late is
/// still heard, as long as it takes less than this.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(5);

/// What shows that a worker is ready.
pub(in crate::process) struct ReadyPlan {
    pub(in crate::process) sign: Sign,
    /// Where the latest reason for not being ready is left.
    pub(in crate::process) last_answer: LastAnswer,
}

/// The sign by which a worker shows that it is ready.
pub(in crate::process) enum Sign {
    /// A probe succeeds.
    Probe(Question),
    /// A line matches.
    Line(LineWatch),
    /// The file is there and not empty. It holds the ports of these names.
    File {
        /// `OSTLER_READY_FILE`.
        path: PathBuf,
        /// The names of the ports that the worker picks itself; the unnamed one is empty.
        reported: Vec<String>,
    },
    /// `READY=1` from the worker's tree. Messages report the ports of these names.
    Notify {
        /// What the worker's tree says.
        heard: watch::Receiver<Heard>,
        /// The names of the ports that the worker picks itself; the unnamed one is empty.
        reported: Vec<String>,
    },
    /// So much time passes.
    After(Duration),
}

/// What a worker reported when it became ready.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::process) struct ReadyInfo {
    /// The ports that it reported, by name.
    pub(in crate::process) ports: PortMap,
}

/// Why a worker was not ready when it was last looked at: for the message of the failure, if time
/// runs out.
#[derive(Debug, Clone, Default)]
pub(in crate::process) struct LastAnswer(Arc<Mutex<Option<String>>>);

impl LastAnswer {
    /// The latest reason; `None` when there never was one.
    pub(in crate::process) fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, answer: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
    }
}

/// The result of one check.
#[derive(Debug)]
enum Answer {
    /// It is ready, or well; it reported these ports.
    Yes(PortMap),
    /// Not now; it may be the next time.
    NotYet(String),
    /// The host could not ask, for lack of descriptors or memory, say: nothing is known.
    Unasked(String),
    /// It never will be.
    Never(Failure),
}

/// What a probe asks.
pub(in crate::process) enum Question {
    /// A port.
    Port(PortPlan),
    /// A command.
    Exec(Box<ExecPlan>),
}

impl Question {
    /// Asks once.
    async fn attempt(&self, limit: Duration) -> Answer {
        match self {
            Self::Port(plan) => plan.attempt(limit).await,
            Self::Exec(plan) => plan.attempt(limit).await,
        }
    }
}

/// What has to be polled.
enum Look {
    Probe(Question),
    File(ReadyFile),
}

impl Look {
    async fn once(&mut self) -> Answer {
        match self {
            Self::Probe(probe) => probe.attempt(ATTEMPT_LIMIT).await,
            Self::File(file) => file.look().await,
        }
    }

    /// The first pause between two looks, and the longest. Each run of a command costs a process.
    fn pauses(&self) -> (Duration, Duration) {
        match self {
            Self::Probe(Question::Exec(_)) => (PAUSE_FIRST * 5, PAUSE_MAX * 4),
            Self::Probe(Question::Port(_)) | Self::File(_) => (PAUSE_FIRST, PAUSE_MAX),
        }
    }
}

/// Waits until the worker is ready. Has no time limit of its own.
///
/// # Errors
/// When it never will be: an unrelated process has its port (`port_in_use`), or the sign can't be
/// watched.
pub(in crate::process) async fn wait_ready(plan: ReadyPlan) -> Result<ReadyInfo, Failure> {
    let ReadyPlan { sign, last_answer } = plan;
    let ports = match sign {
        Sign::Probe(probe) => until_yes(&last_answer, Look::Probe(probe)).await?,
        Sign::File { path, reported } => until_yes(&last_answer, Look::File(ReadyFile::new(path, reported))).await?,
        Sign::Notify { heard, reported } => notify::ready(heard, &reported, &last_answer).await?,
        Sign::Line(lines) => {
            last_answer.set("no line matched yet".to_owned());
            lines.matched().await;
            PortMap::new()
        }
        Sign::After(time) => {
            tokio::time::sleep(time).await;
            PortMap::new()
        }
    };
    Ok(ReadyInfo { ports })
}

/// Polls, with pauses that double up to a longest one and vary at random, so that
/// workers that start together don't ask together.
async fn until_yes(last_answer: &LastAnswer, mut look: Look) -> Result<PortMap, Failure> {
    let (first, longest) = look.pauses();
    let pauses = Backoff::new(first, longest).jitter(0.5);
    let mut attempt = 0;
    loop {
        match look.once().await {
            Answer::Yes(ports) => return Ok(ports),
            Answer::Never(failure) => return Err(failure),
            Answer::NotYet(why) | Answer::Unasked(why) => last_answer.set(why),
        }
        attempt += 1;
        tokio::time::sleep(pauses.delay(attempt, fastrand::f64())).await;
    }
}
