//! The signals that `ostler up` receives, by the table in [`crate::signals`].

use std::io;
use std::task::Poll;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::signals::{Inherited, Meaning};

/// A receiver for each signal with a meaning.
#[derive(Debug)]
pub(super) struct Signals(Vec<(&'static str, Meaning, Signal)>);

impl Signals {
    /// Receives them from now on.
    pub(super) fn new(inherited: &Inherited) -> io::Result<Self> {
        let receive = |meaning| {
            inherited.rows(meaning).map(move |row| {
                let kind = SignalKind::from_raw(row.signal().number());
                Ok((row.name, meaning, signal(kind)?))
            })
        };
        [Meaning::Stop, Meaning::StopOnce, Meaning::Reopen]
            .into_iter()
            .flat_map(receive)
            .collect::<io::Result<_>>()
            .map(Self)
    }

    /// The name and the meaning of the next one. Cancel safe.
    pub(super) async fn next(&mut self) -> (&'static str, Meaning) {
        std::future::poll_fn(|context| {
            for (name, meaning, signal) in &mut self.0 {
                if signal.poll_recv(context).is_ready() {
                    return Poll::Ready((*name, *meaning));
                }
            }
            Poll::Pending
        })
        .await
    }
}
