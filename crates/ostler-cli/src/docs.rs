//! The pages of `docs/` are compared with the code, so that neither drifts.

use std::path::Path;
use std::time::{Duration, SystemTime};

use ostler_core::failure::{ExitStatus, Reason};
use ostler_core::ids::{Incarnation, RunId, WorkerId};
use ostler_core::lifecycle::Cause;
use ostler_core::signal::Signal;
use ostler_os::start_error::{Action, ROWS};
use ostler_telemetry::names::{Name, attribute, metric, resource, span};
use ostler_telemetry::{Containment, Event, EventKind};

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
    let mut event = Event::new(
        1,
        SystemTime::UNIX_EPOCH,
        EventKind::WorkerFailed,
        "demo",
        RunId::from_u128(1),
    );
    event.worker = Some(WorkerId::new("web", 0));
    event.incarnation = Some(Incarnation::FIRST);
    let facts = &mut event.facts;
    facts.pid = Some(1);
    facts.port = Some(1);
    facts.ports = [("http".to_owned(), 1)].into();
    facts.socket = one("x");
    facts.sockets = [("http".to_owned(), "x".to_owned())].into();
    facts.containment = Some(Containment::Sitter);
    facts.reason = Some(Reason::Killed);
    facts.message = one("x");
    facts.suggestion = one("x");
    facts.exit = Some(ExitStatus::Code(1));
    facts.signal = Some(Signal::TERM);
    facts.cause = Some(Cause::UserStop);
    facts.stderr_tail = vec!["x".into()];
    facts.holder = one("x");
    facts.count = Some(1);
    facts.orphans = vec!["x".into()];
    facts.attempt = Some(1);
    facts.delay = Some(Duration::ZERO);
    facts.elapsed = Some(Duration::ZERO);
    let missing = format!("{facts:?}").matches("None").count();
    assert_eq!(missing, 0, "this test does not set every field: {facts:?}");
    let page = page("events.md");
    let rows = page.split("## The run").next().unwrap();
    let fields = serde_json::to_value(event).unwrap();
    for field in fields.as_object().unwrap().keys() {
        assert!(
            rows.contains(&format!("`{field}`")),
            "docs/events.md says nothing of the field {field}"
        );
    }
}

#[test]
fn every_cause_is_named() {
    let page = page("events.md");
    for cause in Cause::ALL {
        assert!(
            page.contains(&format!("`{cause}`")),
            "docs/events.md says nothing of the cause {cause}"
        );
    }
}

#[test]
fn telemetry_is_listed_with_unit_and_meaning_and_no_row_is_made_up() {
    let page = page("telemetry.md");
    let section = |title: &str| {
        let from = page
            .split(&format!("## {title}\n"))
            .nth(1)
            .unwrap_or_else(|| panic!("no section {title}"));
        from.split("\n## ").next().unwrap().to_owned()
    };
    let lists = [
        ("Spans", span::ALL, false),
        ("Metrics", metric::ALL, true),
        ("Attributes", attribute::ALL, true),
        ("The resource", resource::ALL, false),
    ];
    for (title, names, with_unit) in lists {
        let row = |name: &Name| match (with_unit, name.unit) {
            (false, _) => format!("| `{}` | {} |", name.name, name.meaning),
            (true, "") => format!("| `{}` |  | {} |", name.name, name.meaning),
            (true, unit) => format!("| `{}` | `{unit}` | {} |", name.name, name.meaning),
        };
        let expected: Vec<String> = names.iter().map(row).collect();
        let section = section(title);
        let rows: Vec<&str> = section.lines().filter(|line| line.starts_with("| `")).collect();
        assert_eq!(rows, expected, "docs/telemetry.md, {title}");
    }
}

/// What Prometheus calls a metric: dots are underscores, the unit and the kind are endings.
fn prometheus_names(metric: &Name) -> [String; 2] {
    let name = metric.name.replace('.', "_");
    let unit = match metric.unit {
        "s" => "_seconds",
        "By" => "_bytes",
        "1" => "_ratio",
        _ => "",
    };
    [format!("{name}{unit}"), format!("{name}{unit}_total")]
}

#[test]
fn dashboard_and_alerts_know_no_metric_that_is_not_there() {
    let known: Vec<String> = metric::ALL.iter().flat_map(prometheus_names).collect();
    let labels: Vec<String> = attribute::ALL.iter().map(|name| name.name.replace('.', "_")).collect();
    for file in ["telemetry/dashboard.json", "telemetry/alerts.yaml"] {
        let text = page(file);
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for word in words.filter(|word| word.starts_with("ostler_")) {
            let word = word.trim_end_matches("_bucket").to_owned();
            assert!(
                known.contains(&word) || labels.contains(&word),
                "{file} asks for {word}"
            );
        }
    }
    serde_json::from_str::<serde_json::Value>(&page("telemetry/dashboard.json")).unwrap();
}

#[test]
fn every_reason_has_its_row_with_whether_it_is_counted() {
    let page = page("failure-reasons.md");
    let (page, _) = page.split_once("\n## ").expect("a second section");
    assert_eq!(first_column(page), Reason::ALL.map(Reason::name));
    for reason in Reason::ALL {
        let row = page
            .lines()
            .find(|line| line.starts_with(&format!("| `{reason}`")))
            .unwrap();
        let counted = row.trim_end_matches([' ', '|']).rsplit("| ").next().unwrap();
        assert_eq!(counted == "yes", reason.is_counted(), "{row}");
    }
}

/// The page's table of system errors is the code's, row by row.
#[test]
fn every_error_of_a_start_has_its_row() {
    let page = page("failure-reasons.md");
    let (_, section) = page
        .split_once("\n## Errors of the system at a start\n")
        .expect("the section");
    let rows: Vec<&str> = section
        .lines()
        .filter(|line| line.starts_with("| `E") || line.starts_with("| any other"))
        .collect();
    let row = |error: String, at: &[Action], reason: Reason, meaning: &str, suggestion: Option<&str>| {
        let at: Vec<&str> = at.iter().map(|action| action.name()).collect();
        let counted = if reason.is_counted() {
            "yes"
        } else {
            "no, after a pause"
        };
        let reason = format!("`{reason}`");
        let cells = [
            &error,
            &at.join(", "),
            &reason,
            meaning,
            suggestion.unwrap_or_default(),
            counted,
        ];
        let cells = cells.map(|cell| {
            if cell.is_empty() {
                " |".to_owned()
            } else {
                format!(" {cell} |")
            }
        });
        format!("|{}", cells.concat())
    };
    let named = ROWS
        .iter()
        .map(|of| row(format!("`{}`", of.name), of.at, of.reason, of.meaning, of.suggestion));
    let others = Action::ALL
        .iter()
        .map(|action| row("any other".to_owned(), &[*action], action.otherwise(), "", None));
    let expected: Vec<String> = named.chain(others).collect();
    assert_eq!(
        rows,
        expected,
        "docs/failure-reasons.md should have\n{}\n",
        expected.join("\n")
    );
}
