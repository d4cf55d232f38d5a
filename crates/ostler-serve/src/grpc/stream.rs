//! The body of a gRPC response: it ends in trailers, or in an error.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use tonic::{Code, Status};

use super::status::status;
use crate::http::Answer;

/// The body of a worker's gRPC response. It ends in trailers or, if the worker breaks off, in a
/// [`Status`]. The worker is busy until the body has been read to its end or is dropped.
pub struct GrpcBody {
    body: Answer,
    /// The status has been seen.
    complete: bool,
}

impl GrpcBody {
    pub(super) fn new(body: Answer, complete: bool) -> Self {
        Self { body, complete }
    }
}

impl fmt::Debug for GrpcBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcBody")
            .field("complete", &self.complete)
            .finish_non_exhaustive()
    }
}

impl Body for GrpcBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Poll::Ready(match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            Some(Ok(frame)) => {
                self.complete |= frame.is_trailers();
                Some(Ok(frame))
            }
            Some(Err(cut_off)) => {
                self.complete = true;
                Some(Err(status(&cut_off.0.into())))
            }
            None if self.complete => None,
            None => {
                self.complete = true;
                Some(Err(Status::new(Code::Internal, "the response ended without a status")))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.complete && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
