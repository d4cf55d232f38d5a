//! The events of the run in batches: what comes within a few milliseconds is read at once.
//!
//! A restart has six events within a millisecond. If each of them woke the reader, what emits
//! them would pay for the wake-ups, and the reader would take a processor away from the restart.

use std::pin::Pin;
use std::time::Duration;

use futures_util::{FutureExt as _, Stream, StreamExt as _};
use tokio::time::{Instant, Sleep, sleep};

/// How long the reader rests after a batch. People don't notice, and the stream has room for 16,384
/// events meanwhile.
const REST: Duration = Duration::from_millis(5);

/// A stream that is read in batches.
#[derive(Debug)]
pub(super) struct Gathered<S> {
    items: S,
    rest: Pin<Box<Sleep>>,
}

impl<S: Stream + Unpin> Gathered<S> {
    pub(super) fn new(items: S) -> Self {
        Self {
            items,
            rest: Box::pin(sleep(Duration::ZERO)),
        }
    }

    /// What there is: the first item as soon as it comes, the later ones when the rest after the
    /// batch before is over. `None`: the stream has ended. Cancel safe: nothing is awaited once an
    /// item is taken.
    pub(super) async fn next(&mut self) -> Option<Vec<S::Item>> {
        self.rest.as_mut().await;
        let mut batch = vec![self.items.next().await?];
        while let Some(Some(item)) = self.items.next().now_or_never() {
            batch.push(item);
        }
        self.rest.as_mut().reset(Instant::now() + REST);
        Some(batch)
    }

    /// The stream, to be read without rests.
    pub(super) fn into_inner(self) -> S {
        self.items
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use tokio::sync::mpsc;
    use tokio_stream::wrappers::UnboundedReceiverStream;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_wakes_the_reader_once_and_a_late_item_waits_for_the_rest() {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut items = Gathered::new(UnboundedReceiverStream::new(receiver));
        let begun = Instant::now();
        sender.send(0).unwrap();
        assert_eq!(items.next().await, Some(vec![0]));
        assert_eq!(begun.elapsed(), Duration::ZERO, "the first one does not wait");
        for n in 1..=5 {
            sender.send(n).unwrap();
        }
        assert_eq!(items.next().await, Some(vec![1, 2, 3, 4, 5]));
        assert_eq!(begun.elapsed(), REST);
        drop(sender);
        assert_eq!(items.next().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_gives_up_meanwhile_loses_nothing() {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut items = Gathered::new(UnboundedReceiverStream::new(receiver));
        let mut seen = Vec::new();
        for n in 0..100 {
            sender.send(n).unwrap();
            tokio::time::advance(REST / 4).await;
            tokio::select! {
                biased;
                batch = items.next() => seen.extend(batch.unwrap()),
                () = ready(()) => {}
            }
        }
        drop(sender);
        while let Some(batch) = items.next().await {
            seen.extend(batch);
        }
        assert_eq!(seen, (0..100).collect::<Vec<_>>());
    }
}
