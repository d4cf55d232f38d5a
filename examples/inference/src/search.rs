//! The vectors of all passages, and the nearest to a question.

use std::io::{IsTerminal as _, Write as _};
use std::time::Instant;

use futures_util::stream::{self, StreamExt as _};

use crate::embedder::{Embedder, Vector};
use crate::passages::Passage;

/// How many passages answer a question.
const BEST: usize = 3;

pub(crate) struct Index(Vec<(Passage, Vector)>);

impl Index {
    /// Embeds every passage, with progress on stderr.
    pub(crate) async fn build(embedder: &Embedder, passages: Vec<Passage>) -> Self {
        let (total, started) = (passages.len(), Instant::now());
        let mut index = Vec::with_capacity(total);
        let mut vectors = stream::iter(passages)
            .map(|passage| async move {
                let vector = embedder.embed(passage.input()).await;
                vector.map(|vector| (passage, vector))
            })
            .buffer_unordered(embedder.parallel);
        while let Some(embedded) = vectors.next().await {
            index.extend(embedded);
            progress(index.len(), total, started);
        }
        eprintln!();
        Self(index)
    }

    /// The passages nearest to this vector, with their likeness from -1 to 1.
    fn nearest(&self, vector: &Vector) -> Vec<(f32, &Passage)> {
        let likeness = |other: &Vector| other.iter().zip(vector).map(|(a, b)| a * b).sum::<f32>();
        let mut all: Vec<_> = self
            .0
            .iter()
            .map(|(passage, other)| (likeness(other), passage))
            .collect();
        all.sort_by(|a, b| b.0.total_cmp(&a.0));
        all.truncate(BEST);
        all
    }
}

/// Prints the best passages for a question.
pub(crate) async fn answer(index: &Index, embedder: &Embedder, question: &str) {
    println!("{question}");
    let Some(vector) = embedder.embed(question.to_owned()).await else {
        println!("  no answer");
        return;
    };
    for (likeness, passage) in index.nearest(&vector) {
        println!("  {likeness:.3}  {} § {}", passage.page, passage.heading);
    }
}

fn progress(done: usize, total: usize, started: Instant) {
    let end = if std::io::stderr().is_terminal() { '\r' } else { '\n' };
    if end == '\r' || done.is_multiple_of(50) || done == total {
        let rate = done as f64 / started.elapsed().as_secs_f64();
        eprint!("{done}/{total} passages, {rate:.1} a second{end}");
        // Progress is for people: a terminal that is gone needs none.
        let _ = std::io::stderr().flush();
    }
}
