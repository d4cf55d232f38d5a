//! The pages of `docs/` are compared with the code, so that neither drifts.

use std::path::Path;
use std::time::{Duration, SystemTime};

use ostler_core::failure::{ExitStatus, Reason};
use ostler_core::ids::{Incarnation, RunId, WorkerId};
use ostler_telemetry::{Event, EventKind, Facts};

fn page(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The names in the first column of the page's tables.
fn first_column(page: &str) -> Vec<&str> {
    page.lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(name, _)| name)
        .collect()
}

#[test]
fn every_event_has_its_row_and_no_row_is_made_up() {
    let page = page("events.md");
    let rows: Vec<&str> = first_column(&page)
        .into_iter()
        .filter(|name| name.contains('.'))
        .collect();
    for kind in EventKind::ALL {
        assert!(
            rows.contains(&kind.name()),
            "docs/events.md says nothing of {}",
            kind.name()
        );
    }
    assert_eq!(
        rows.len(),
        EventKind::ALL.len(),
        "a row that is no event, or one twice: {rows:?}"
    );
}

#[test]
fn every_field_of_an_event_has_its_row() {
    let one = |name: &str| Some(name.to_owned());
    let event = |facts| Event {
        seq: 1,
        time: SystemTime::UNIX_EPOCH,
        kind: EventKind::WorkerFailed,
        app: "demo".into(),
        run: RunId::from_u128(1),
        pool: None,
        worker: Some(WorkerId::new("web", 0)),
        incarnation: Some(Incarnation::FIRST),
        facts,
    };
    let facts = Facts {
        pid: Some(1),
        port: Some(1),
        ports: [("http".to_owned(), 1)].into(),
        containment: one("sitter"),
        reason: Some(Reason::Killed),
        message: one("x"),
        suggestion: one("x"),
        exit: Some(ExitStatus::Code(1)),
        signal: one("TERM"),
        cause: one("x"),
        stderr_tail: vec!["x".into()],
        holder: one("x"),
        count: Some(1),
        orphans: vec!["x".into()],
        attempt: Some(1),
        delay: Some(Duration::ZERO),
        elapsed: Some(Duration::ZERO),
    };
    let page = page("events.md");
    let rows = page.split("## The run").next().unwrap();
    let fields = serde_json::to_value(event(facts)).unwrap();
    for field in fields.as_object().unwrap().keys() {
        assert!(
            rows.contains(&format!("`{field}`")),
            "docs/events.md says nothing of the field {field}"
        );
    }
}

#[test]
fn every_reason_has_its_row_with_whether_it_is_counted() {
    let page = page("failure-reasons.md");
    assert_eq!(first_column(&page), Reason::ALL.map(Reason::name));
    for reason in Reason::ALL {
        let row = page
            .lines()
            .find(|line| line.starts_with(&format!("| `{reason}`")))
            .unwrap();
        let counted = row.trim_end_matches([' ', '|']).rsplit("| ").next().unwrap();
        assert_eq!(counted == "yes", reason.is_counted(), "{row}");
    }
}
