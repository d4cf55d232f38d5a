//! The body of every response: a worker's, or ours about a call that has no answer.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, SizeHint};

use super::body::{CutOff, WorkerBody};
use super::problem::ProblemBody;

/// The body of a response. While a worker's has not been read to its end, the worker is busy with
/// it; dropped before, it is cancelled (`on_cancel`). A response that is cut off ends in an error,
/// never in a normal end.
pub struct Answer(Kind);

enum Kind {
    Worker(Box<WorkerBody>),
    Problem(ProblemBody),
}

impl Answer {
    pub(super) fn worker(body: WorkerBody) -> Self {
        Self(Kind::Worker(Box::new(body)))
    }

    pub(super) fn problem(problem: ProblemBody) -> Self {
        Self(Kind::Problem(problem))
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Worker(_) => f.write_str("Answer::Worker"),
            Kind::Problem(problem) => problem.fmt(f),
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = CutOff;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        match &mut self.0 {
            Kind::Worker(body) => Pin::new(body).poll_frame(cx),
            Kind::Problem(problem) => Poll::Ready(problem.take().map(|text| Ok(Frame::data(text)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Worker(body) => body.is_end_stream(),
            Kind::Problem(problem) => problem.is_taken(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Worker(body) => body.size_hint(),
            Kind::Problem(problem) => SizeHint::with_exact(problem.len()),
        }
    }
}
