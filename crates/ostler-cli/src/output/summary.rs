//! The totals of a run, at its end.

use std::time::Duration;

use super::board::Board;
use super::lines::{counted, rounded};
use super::text::Line;

/// A paragraph on the whole run, after an empty line, so that people and programs find it.
pub(crate) fn summary(app: &str, run: &str, board: &Board, took: Duration) -> Vec<Line> {
    let tally = board.tally();
    let failures: Vec<String> = tally
        .failures
        .iter()
        .map(|(reason, count)| format!("{reason} {count}"))
        .collect();
    let pools: Vec<&str> = tally.pools_gave_up.iter().map(String::as_str).collect();
    let mut lines = vec![
        String::new(),
        format!("{app}, run {run}, {}", rounded(took)),
        row(
            "workers",
            format!(
                "{}, {} spawned",
                board.rows().len(),
                counted(tally.spawned, "process", "processes")
            ),
        ),
        row("restarts", tally.restarts.to_string()),
        row("failures", or_none(failures.join(", "))),
        row("gave up", gave_up(tally.workers_gave_up, &pools)),
        row("released", format!("{} of {}", tally.released, tally.reserved)),
        row(
            "orphans",
            if tally.orphans == 0 {
                "none".to_owned()
            } else {
                format!("{} found at the stop", tally.orphans)
            },
        ),
    ];
    if tally.swept > 0 {
        lines.push(row(
            "swept",
            format!("{} of dead runs", counted(tally.swept, "process", "processes")),
        ));
    }
    if tally.guardians_lost > 0 {
        lines.push(row("guardians", format!("{} lost", tally.guardians_lost)));
    }
    lines.into_iter().map(Line::plain).collect()
}

fn row(name: &str, value: String) -> String {
    format!("  {name:<10}{value}")
}

fn or_none(text: String) -> String {
    if text.is_empty() { "none".to_owned() } else { text }
}

fn gave_up(workers: u64, pools: &[&str]) -> String {
    match (workers, pools) {
        (0, []) => "none".to_owned(),
        (workers, []) => format!("{}, no pool", counted(workers, "worker", "workers")),
        (workers, pools) => format!(
            "{}; pool {}",
            counted(workers, "worker", "workers"),
            pools.join(", pool ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use ostler_core::failure::Reason;
    use ostler_core::ids::{Incarnation, RunId, WorkerId};
    use ostler_telemetry::{Event, EventKind, Facts};

    use super::*;

    #[test]
    fn it_has_the_totals_of_the_run() {
        let mut board = Board::default();
        let mut happen = |kind, pool: Option<&str>, facts| {
            let mut event = Event::new(1, SystemTime::UNIX_EPOCH, kind, "demo", RunId::from_u128(1));
            event.pool = pool.map(str::to_owned);
            event.worker = pool.is_none().then(|| WorkerId::new("web", 0));
            event.incarnation = Some(Incarnation::FIRST);
            event.facts = facts;
            board.apply(&event);
        };
        let failed = |reason: Reason| Facts::default().with_reason(reason);
        for _ in 0..2 {
            happen(EventKind::WorkerReserved, None, Facts::default());
            happen(EventKind::WorkerSpawned, None, Facts::default());
            happen(EventKind::WorkerFailed, None, failed(Reason::ExitedBeforeReady));
            happen(EventKind::WorkerReleased, None, Facts::default());
        }
        happen(EventKind::WorkerRestarting, None, Facts::default());
        happen(EventKind::WorkerGaveUp, None, Facts::default());
        happen(EventKind::PoolGaveUp, Some("web"), Facts::default());
        let lines = summary("demo", "9f3a-07c4", &board, Duration::from_millis(1_500));
        let texts: Vec<_> = lines.into_iter().map(|line| line.text).collect();
        assert_eq!(
            texts.join("\n"),
            "\ndemo, run 9f3a-07c4, 1500 ms\n  workers   1, 2 processes spawned\n  restarts  1\n  failures  exited_before_ready 2\n  gave up   1 worker; pool web\n  released  2 of 2\n  orphans   none"
        );
    }
}
