//! Answers that are streams of items.

use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::exchange::Streaming;
use super::framing::Framing;
use super::large::receiving;
use super::message;
use super::request::StdioAnswer;
use super::result::{StdioError, exception};
use super::routes::{Closed, Delivery, Received};
use crate::call::post_mortem;
use crate::connect::due;
use crate::error::SharedError;
use crate::flight::Flight;
use crate::outcome::{CallError, Lost, Unknown};
use crate::worker::Worker;

/// The items of a stream as they come in. Dropped before the last one, the request is cancelled.
pub(super) struct Items {
    pub(super) rest: mpsc::UnboundedReceiver<Delivery>,
    pub(super) call: Box<dyn Streaming>,
}

impl fmt::Debug for Items {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Items").finish_non_exhaustive()
    }
}

/// The items that a worker's generator yields. The worker is busy with it until the stream has been
/// read to its end or is dropped; dropped before, it is cancelled, and the worker is dealt with by
/// `on_cancel`.
///
/// At most 16 items are on their way: a handler waits at its `yield` until they are read.
pub struct ResponseStream<T, F> {
    next: Option<Received>,
    rest: Option<Items>,
    /// Until the stream has ended.
    flight: Option<Flight>,
    worker: Arc<Worker>,
    began: Instant,
    deadline: Option<Instant>,
    types: PhantomData<fn() -> (T, F)>,
}

impl<T, F> fmt::Debug for ResponseStream<T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseStream")
            .field("worker", self.worker.who())
            .finish_non_exhaustive()
    }
}

impl<T: DeserializeOwned, F: Framing> ResponseStream<T, F> {
    pub(super) fn new(answer: StdioAnswer, flight: Flight, deadline: Option<Instant>) -> Self {
        Self {
            next: Some(answer.first),
            rest: answer.rest,
            worker: Arc::clone(flight.worker()),
            flight: Some(flight),
            began: Instant::now(),
            deadline,
            types: PhantomData,
        }
    }

    /// The next item; `None`: the handler has ended the stream. Cancel safe.
    ///
    /// # Errors
    /// The handler raised, the item is of another type, or the rest of the stream is lost with its
    /// worker: then nothing follows, and [`StdioError::Call`] names what became of the worker.
    pub async fn next(&mut self) -> Option<Result<T, StdioError>> {
        self.flight.as_ref()?;
        let received = match self.next.take() {
            Some(received) => received,
            None => match self.receive().await {
                Ok(received) => received,
                Err(cause) => return Some(Err(self.cut_off(cause).await)),
            },
        };
        match received.head.kind.as_deref() {
            Some("item") => Some(self.item(received)),
            Some("end") => {
                self.complete();
                None
            }
            _ => {
                self.complete();
                Some(Err(exception::<F>(&received.frame).unwrap_or_else(|| {
                    StdioError::Result("the method answers with one value and no stream: use `call`".into())
                })))
            }
        }
    }

    fn item(&mut self, received: Received) -> Result<T, StdioError> {
        if let Some(items) = &self.rest {
            items.call.consumed();
        }
        let item = receiving(received.segments, || F::decode::<message::Item<T>>(&received.frame));
        item.map(|item| item.value).map_err(StdioError::Result)
    }

    fn complete(&mut self) {
        self.rest = None;
        if let Some(flight) = self.flight.take() {
            flight.answered();
        }
    }

    /// The next message, or why there is none.
    async fn receive(&mut self) -> Result<Received, Lost> {
        let lost = || Lost::Connection(SharedError::new("the connection was dropped"));
        let items = self.rest.as_mut().ok_or_else(lost)?;
        tokio::select! {
            biased;
            delivery = items.rest.recv() => match delivery {
                Some(Ok(received)) => Ok(received),
                Some(Err(Closed::Ended(why) | Closed::NotSent(why))) => Err(Lost::Connection(SharedError::new(why))),
                Some(Err(Closed::Broken(why))) => Err(Lost::Answer(SharedError::new(why))),
                None => Err(lost()),
            },
            () = self.worker.gone() => Err(Lost::Worker),
            () = due(self.deadline) => Err(Lost::Deadline { sent_for: self.began.elapsed() }),
        }
    }

    /// The worker is in the middle of it, or gone.
    async fn cut_off(&mut self, cause: Lost) -> StdioError {
        let overdue = matches!(cause, Lost::Deadline { .. });
        let unknown = match overdue {
            true => Unknown {
                worker: self.worker.who().clone(),
                cause,
                failure: None,
            },
            false => post_mortem(&self.worker, cause, self.deadline).await,
        };
        let error = CallError::from(unknown);
        self.rest = None;
        if let Some(mut flight) = self.flight.take() {
            flight.cut_off(&error);
            match overdue {
                true => drop(flight),
                false => flight.broken(),
            }
        }
        error.into()
    }
}

impl<T: DeserializeOwned + 'static, F: Framing> ResponseStream<T, F> {
    /// As a [`Stream`], for combinators.
    pub fn into_stream(self) -> Pin<Box<dyn Stream<Item = Result<T, StdioError>> + Send>> {
        Box::pin(futures_util::stream::unfold(self, |mut items| async move {
            let item = items.next().await?;
            Some((item, items))
        }))
    }
}
