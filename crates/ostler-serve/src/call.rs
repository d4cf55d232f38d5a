//! A call from its beginning to its one outcome: queue, connection, attempt, retry.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use ostler_core::spec::OnCancel;
use ostler_os::patience;
use tokio::time::Instant;

use crate::adapter::{Adapter, Attempt, Fault};
use crate::connect::{FINAL_READ, connection, deadline_after, due, sleep_until};
use crate::dispatcher::Slot;
use crate::error::{BoxError, SharedError};
use crate::flight::Flight;
use crate::observe::Observed;
use crate::outcome::{CallError, Lost, Refused, Unknown};
use crate::policy::breaker::Verdict;
use crate::policy::queue::SessionId;
use crate::pool::{Serving, Trial};
use crate::worker::Worker;

/// A lost connection is usually the first sign of a worker's end, which is waited for so long …
pub(crate) const NOTICE: Duration = Duration::from_millis(200);

/// … and then for so long until it is known why it ended.
pub(crate) const POST_MORTEM: Duration = Duration::from_secs(2);

/// The pause before the first retry; it doubles with each, and is shortened by up to a half at
/// random.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How one call differs from the others of its pool.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct CallOptions {
    pub(crate) deadline: Option<Instant>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) idempotent: bool,
    pub(crate) key: Option<Arc<str>>,
    pub(crate) session: Option<SessionId>,
}

impl CallOptions {
    /// A call like the pool's others.
    pub fn new() -> Self {
        Self::default()
    }

    /// The one deadline for queue, call and retries. Default: the pool's `timeout` from now on.
    pub fn deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// The same, from the moment of the call. Zero: none.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// The worker may execute it more than once without harm: it is retried when its outcome is
    /// unknown because the worker or the connection was lost. Default: it is not retried.
    pub fn idempotent(mut self) -> Self {
        self.idempotent = true;
        self
    }

    /// Names the request, so that crashes are counted over all calls with it (`poison`). Default:
    /// each call is counted by itself.
    pub fn key(mut self, key: impl Into<Arc<str>>) -> Self {
        self.key = Some(key.into());
        self
    }

    pub(crate) fn due(&self, default: Duration) -> Option<Instant> {
        self.deadline
            .or_else(|| deadline_after(self.timeout.unwrap_or(default)))
    }

    /// The caller's own deadline, which is for the whole answer; the pool's is for its beginning.
    #[cfg(any(feature = "http", feature = "stdio"))]
    pub(crate) fn own_deadline(&self) -> Option<Instant> {
        self.due(Duration::ZERO)
    }
}

/// A failed attempt, with the request if it can be sent again.
struct Failed<R> {
    error: CallError,
    request: Option<R>,
    /// The caller's own request failed: it says nothing about the worker.
    by_caller: bool,
}

impl<R> Failed<R> {
    fn refused(refused: Refused, request: Option<R>) -> Self {
        Self {
            request,
            ..Self::of(refused.into())
        }
    }

    fn of(error: CallError) -> Self {
        Self {
            error,
            request: None,
            by_caller: false,
        }
    }
}

/// Makes a call on any worker of the pool. The answer comes with its flight, which the caller ends
/// when the answer is complete.
pub(crate) async fn call<A: Adapter>(
    serving: &Arc<Serving>,
    adapter: &A,
    request: A::Request,
    options: &CallOptions,
) -> Result<(A::Response, Flight), CallError> {
    let mut observed = Observed::begin(serving, || adapter.describe(&request));
    let answered = attempts(serving, adapter, request, options, &mut observed).await;
    observe(observed, answered)
}

/// Tries until there is an answer, or no further attempt may be made.
async fn attempts<A: Adapter>(
    serving: &Arc<Serving>,
    adapter: &A,
    mut request: A::Request,
    options: &CallOptions,
    observed: &mut Observed,
) -> Result<(A::Response, Flight), CallError> {
    let deadline = options.due(serving.spec().timeout);
    serving.called();
    let mut crashes = serving.crashes_on(options.key.as_deref());
    let mut pause = FIRST_PAUSE;
    loop {
        if serving.is_poison(crashes) {
            return Err(Refused::Poisoned { crashes }.into());
        }
        let trial = Trial::begin(serving)?;
        let copy = options.idempotent.then(|| adapter.copy(&request)).flatten();
        let asked = Instant::now();
        let checkout = serving.dispatcher().checkout(options.session.as_ref(), deadline);
        let checkout = checkout.await;
        observed.waited(asked.elapsed());
        let attempt = match checkout {
            Ok(slot) => {
                let room = (serving, Arc::new(slot));
                attempt(room, adapter, request, options, deadline, observed).await
            }
            Err(refused) => Err(Failed::refused(refused, None)),
        };
        let failed = match attempt {
            Ok(answered) => {
                let (response, flight) = answered;
                return Ok((response, flight.of_request(options.key.clone(), trial.begun())));
            }
            Err(failed) => failed,
        };
        trial.end(match failed.by_caller {
            true => Verdict::Neutral,
            false => verdict(&failed.error),
        });
        if crashed(&failed.error) {
            crashes += 1;
            serving.crashed_on(options.key.as_deref());
        }
        let again = failed.request.or(copy).filter(|_| may_retry(&failed.error));
        let wait = pause.mul_f64(0.5 + fastrand::f64() / 2.0);
        let in_time = deadline.is_none_or(|deadline| Instant::now() + wait < deadline);
        match again {
            Some(again) if in_time && !serving.is_poison(crashes) && serving.may_retry() => request = again,
            _ => return Err(failed.error),
        }
        tokio::time::sleep(wait).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Makes a call on the worker of a lease: it is tried once.
pub(crate) async fn call_on<A: Adapter>(
    serving: &Arc<Serving>,
    slot: Arc<Slot<Arc<Worker>>>,
    adapter: &A,
    request: A::Request,
    options: &CallOptions,
) -> Result<(A::Response, Flight), CallError> {
    let deadline = options.due(serving.spec().timeout);
    let observed = Observed::begin(serving, || adapter.describe(&request));
    let attempt = attempt((serving, slot), adapter, request, options, deadline, &observed).await;
    observe(observed, attempt.map_err(|failed| failed.error))
}

/// An answer is observed until it is complete.
fn observe<R>(observed: Observed, answered: Result<(R, Flight), CallError>) -> Result<(R, Flight), CallError> {
    match answered {
        Ok((response, flight)) => Ok((response, flight.observed_by(observed))),
        Err(error) => {
            observed.failed(&error);
            Err(error)
        }
    }
}

pub(crate) fn verdict(error: &CallError) -> Verdict {
    match error {
        CallError::Unknown(unknown) if unknown.cause == Lost::Stopped => Verdict::Neutral,
        CallError::Unknown(_) | CallError::Refused(Refused::Unreachable { .. }) => Verdict::Failed,
        CallError::Refused(_) => Verdict::Neutral,
    }
}

/// Whether the worker ended with the call, and was not stopped.
pub(crate) fn crashed(error: &CallError) -> bool {
    matches!(error, CallError::Unknown(unknown) if unknown.cause == Lost::Worker || unknown.failure.is_some())
}

/// Another worker may do better. A queue that is full or too slow will not, and a deadline has
/// passed.
fn may_retry(error: &CallError) -> bool {
    match error {
        CallError::Refused(refused) => matches!(refused, Refused::Unreachable { .. }),
        CallError::Unknown(unknown) => match unknown.cause {
            Lost::Worker | Lost::Stopped | Lost::Connection(_) => true,
            // Half an answer of a worker that has ended.
            Lost::Answer(_) => unknown.failure.is_some(),
            Lost::Deadline { .. } => false,
        },
    }
}

/// What ended a call first.
enum End<T> {
    Returned(T),
    WorkerExited,
    Deadline,
}

async fn attempt<A: Adapter>(
    (serving, slot): (&Arc<Serving>, Arc<Slot<Arc<Worker>>>),
    adapter: &A,
    request: A::Request,
    options: &CallOptions,
    deadline: Option<Instant>,
    observed: &Observed,
) -> Result<(A::Response, Flight), Failed<A::Request>> {
    let flight = Flight::begin(serving, slot);
    let worker = Arc::clone(flight.worker());
    let is_over = || deadline.is_some_and(|deadline| deadline <= Instant::now());
    // Without a connection, the end of the time to make one would be the verdict.
    if is_over() {
        return Err(expired(flight, observed));
    }
    let connection = match connection(adapter, &worker, deadline).await {
        Ok(connection) => connection,
        Err(error) => return Err(unreachable(flight, request, error, !A::RECONNECTS)),
    };
    // A worker that is sent what no one waits for would have to be replaced.
    if is_over() {
        return Err(expired(flight, observed));
    }
    let attempt = Attempt {
        sent: flight.sent().clone(),
        deadline,
        session: options.session.clone(),
        trace: observed.sending_to(&worker),
    };
    let end = {
        let mut call = pin!(adapter.call(&connection, request, &attempt));
        tokio::select! {
            biased;
            returned = &mut call => End::Returned(returned),
            () = worker.exited() => match patience::within(FINAL_READ, &mut call).await {
                Some(returned) => End::Returned(returned),
                None => End::WorkerExited,
            },
            () = due(deadline) => End::Deadline,
        }
    };
    let fault = match end {
        End::Returned(Ok(response)) => return Ok((response, flight)),
        End::Returned(Err(fault)) => fault,
        End::WorkerExited => Fault::Lost("its process has ended".into()),
        End::Deadline => return Err(overdue(flight)),
    };
    match fault {
        Fault::NotSent { request, error } => {
            let broken = !A::RECONNECTS && !adapter.is_open(&connection);
            Err(unreachable(flight, request, error, broken))
        }
        // The request's own body failed on its way: as if the caller had given up.
        Fault::Invalid(error) if flight.sent().at().is_some() => {
            drop(flight);
            let unknown = Unknown {
                worker: worker.who().clone(),
                cause: Lost::Connection(SharedError::new(error)),
                failure: None,
            };
            let by_caller = true;
            Err(Failed {
                by_caller,
                ..Failed::of(unknown.into())
            })
        }
        Fault::Invalid(error) => {
            flight.not_sent();
            Err(Failed::refused(Refused::invalid(error), None))
        }
        // It can't be sent again: the adapter has consumed it.
        Fault::Lost(error) if flight.sent().at().is_none() => {
            flight.not_sent();
            Err(Failed::refused(Refused::unreachable(worker.who(), error), None))
        }
        Fault::Lost(error) => {
            let cause = Lost::Connection(SharedError::new(error));
            Err(lost(flight, cause, A::RECONNECTS, deadline).await)
        }
        Fault::BadAnswer(error) => {
            let cause = Lost::Answer(SharedError::new(error));
            Err(lost(flight, cause, false, deadline).await)
        }
    }
}

fn expired<R>(flight: Flight, observed: &Observed) -> Failed<R> {
    flight.not_sent();
    let waited = observed.has_waited();
    Failed::refused(Refused::Expired { waited }, None)
}

fn unreachable<R>(flight: Flight, request: R, error: BoxError, broken: bool) -> Failed<R> {
    let refused = Refused::unreachable(flight.worker().who(), error);
    if broken {
        flight.broken();
    } else {
        flight.not_sent();
    }
    Failed::refused(refused, Some(request))
}

fn overdue<R>(flight: Flight) -> Failed<R> {
    let worker = flight.worker().who().clone();
    let Some(sent) = flight.sent().at() else {
        flight.not_sent();
        let refused = Refused::unreachable(&worker, "the deadline came before it could be sent");
        return Failed::refused(refused, None);
    };
    let sent_for = sent.elapsed();
    // The worker is in the middle of it: as if the caller had given up.
    drop(flight);
    let error = Unknown {
        worker,
        cause: Lost::Deadline { sent_for },
        failure: None,
    };
    Failed::of(error.into())
}

/// The outcome of a call that was sent and lost, with why the worker ended.
async fn lost<R>(flight: Flight, cause: Lost, reconnects: bool, deadline: Option<Instant>) -> Failed<R> {
    let worker = Arc::clone(flight.worker());
    let mut error = post_mortem(&worker, cause, deadline).await;
    // A server that keeps the deadline itself may reset the call a moment earlier.
    if let (Lost::Connection(_), Some(sent)) = (&error.cause, flight.sent().at())
        && deadline.is_some_and(|deadline| deadline <= Instant::now())
    {
        let sent_for = sent.elapsed();
        error.cause = Lost::Deadline { sent_for };
    }
    let reuse = reconnects && flight.serving().spec().on_cancel == OnCancel::Reuse;
    if reuse && matches!(error.cause, Lost::Connection(_) | Lost::Deadline { .. }) {
        flight.kept();
    } else {
        flight.broken();
    }
    Failed::of(error.into())
}

/// What became of a call that was lost with this worker, or with the connection to it; as far as it
/// is known at the call's deadline.
pub(crate) async fn post_mortem(worker: &Worker, cause: Lost, deadline: Option<Instant>) -> Unknown {
    let ended = tokio::select! {
        biased;
        ended = worker.ended(NOTICE, POST_MORTEM) => ended,
        () = sleep_until(deadline) => None,
    };
    let (cause, failure) = match ended {
        // That half an answer came says more than that the worker ended, which the failure says.
        Some(Some(failure)) if matches!(cause, Lost::Answer(_)) => (cause, Some(failure)),
        Some(Some(failure)) => (Lost::Worker, Some(failure)),
        Some(None) if worker.was_stopped() => (Lost::Stopped, None),
        Some(None) => (Lost::Worker, None),
        None => (cause, None),
    };
    Unknown {
        worker: worker.who().clone(),
        cause,
        failure,
    }
}
