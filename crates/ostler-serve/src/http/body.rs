//! The body of a worker's response. The worker is busy until it has been read to its end.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use tokio::time::Instant;

use super::GRPC_STATUS;
use super::connection::InUse;
use crate::call::post_mortem;
use crate::connect::due;
use crate::error::SharedError;
use crate::flight::Flight;
use crate::outcome::{Lost, Unknown};
use crate::worker::Worker;

/// A response that began and was cut off.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the response was cut off")]
pub struct CutOff(#[from] pub Unknown);

type Later<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A worker's response while it is being read. Dropping it cancels the call.
pub(super) struct WorkerBody {
    body: Incoming,
    /// Until the response is complete.
    flight: Option<Flight>,
    /// Until the connection can be used again.
    in_use: Option<InUse>,
    worker: Arc<Worker>,
    began: Instant,
    due: Option<Instant>,
    deadline: Option<Later<()>>,
    /// The worker has ended, and its last words are over.
    gone: Later<()>,
    /// What became of a response that was cut off.
    verdict: Option<Later<Unknown>>,
    /// The caller has learned that it was cut off: nothing follows.
    failed: bool,
}

impl WorkerBody {
    pub(super) fn new(body: Incoming, flight: Flight, in_use: Option<InUse>, deadline: Option<Instant>) -> Self {
        let worker = Arc::clone(flight.worker());
        let watched = Arc::clone(&worker);
        let mut this = Self {
            body,
            flight: Some(flight),
            in_use,
            worker,
            began: Instant::now(),
            due: deadline,
            deadline: deadline.map(|deadline| Box::pin(due(Some(deadline))) as Later<()>),
            gone: Box::pin(async move { watched.gone().await }),
            verdict: None,
            failed: false,
        };
        if this.body.is_end_stream() {
            this.complete();
        }
        this
    }

    fn complete(&mut self) {
        // Before the next call looks for a connection.
        self.in_use = None;
        if let Some(flight) = self.flight.take() {
            flight.answered();
        }
    }

    fn cut_off(&mut self, cause: Lost) {
        let (worker, due) = (Arc::clone(&self.worker), self.due);
        self.verdict = Some(Box::pin(async move { post_mortem(&worker, cause, due).await }));
    }

    /// What ends the response before its body does.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Unknown> {
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Unknown {
                worker: self.worker.who().clone(),
                cause: Lost::Deadline {
                    sent_for: self.began.elapsed(),
                },
                failure: None,
            });
        }
        ready!(self.gone.as_mut().poll(cx));
        self.cut_off(Lost::Worker);
        self.poll_verdict(cx)
    }

    fn poll_verdict(&mut self, cx: &mut Context<'_>) -> Poll<Unknown> {
        match &mut self.verdict {
            Some(verdict) => verdict.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }

    /// The caller learns how it was cut off; the worker is in the middle of it.
    fn fail(&mut self, unknown: Unknown) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        self.verdict = None;
        self.failed = true;
        if let Some(mut flight) = self.flight.take() {
            flight.cut_off(&unknown.clone().into());
        }
        Poll::Ready(Some(Err(unknown.into())))
    }
}

impl Body for WorkerBody {
    type Data = Bytes;
    type Error = CutOff;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        if self.failed {
            return Poll::Ready(None);
        }
        if self.verdict.is_none() {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    if let Some(trailers) = frame.trailers_ref()
                        && let Some(status) = trailers.get(GRPC_STATUS).and_then(|status| status.to_str().ok())
                        && let Some(observed) = self.flight.as_ref().and_then(Flight::observed)
                    {
                        observed.grpc_status(status);
                    }
                    if frame.is_trailers() || self.body.is_end_stream() {
                        self.complete();
                    }
                    return Poll::Ready(Some(Ok(frame)));
                }
                Poll::Ready(None) => {
                    self.complete();
                    return Poll::Ready(None);
                }
                Poll::Ready(Some(Err(error))) => self.cut_off(Lost::Connection(SharedError::new(error))),
                Poll::Pending if self.flight.is_none() => return Poll::Pending,
                Poll::Pending => {
                    let unknown = ready!(self.poll_end(cx));
                    return self.fail(unknown);
                }
            }
        }
        let unknown = ready!(self.poll_verdict(cx));
        self.fail(unknown)
    }

    fn is_end_stream(&self) -> bool {
        self.failed || self.flight.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
