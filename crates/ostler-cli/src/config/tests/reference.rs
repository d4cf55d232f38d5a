//! docs/configuration.md against the code.

use super::*;

fn reference() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn the_reference_names_every_key() {
    let sections = [
        keys::APP,
        keys::TELEMETRY,
        keys::POOL,
        keys::BACKOFF,
        keys::READY,
        keys::HEALTH,
        keys::STOP,
        keys::OUTPUT,
        keys::QUEUE,
        keys::CODEL,
        keys::SESSIONS,
        keys::RECYCLE,
        keys::BREAKER,
        keys::RATE,
        keys::RETRY,
    ];
    for key in sections.into_iter().flatten() {
        assert!(
            reference().contains(&format!("`{key}`")),
            "docs/configuration.md says nothing of {key}"
        );
    }
}

#[test]
fn the_reference_has_the_defaults_of_the_code() {
    let reference = reference();
    let shown = show(&read(&in_pool("health = { http = \"/\" }\nport = \"any\"\nbackoff = {}")).unwrap());
    for line in shown
        .lines()
        .filter(|line| line.contains(" = ") && !line.starts_with('#'))
    {
        let (key, value) = line.split_once(" = ").unwrap();
        let rows: Vec<&str> = reference
            .lines()
            .filter(|row| row.starts_with(&format!("| `{key}` |")))
            .collect();
        let said = |value: &str| rows.iter().any(|row| row.contains(&format!("`{value}`")));
        match key {
            "name" | "command" | "cwd" | "store" | "port" => assert!(!rows.is_empty(), "{key}"),
            "health" | "backoff" => {}
            _ => assert!(
                said(value),
                "docs/configuration.md does not have {line} as the default: {rows:#?}"
            ),
        }
    }
    for nested in [
        "every = \"2s\"",
        "timeout = \"10s\"",
        "misses = 3",
        "first = \"50ms\"",
        "max = \"10s\"",
        "jitter = 0.2",
    ] {
        assert!(shown.contains(nested), "{nested} is no default: {shown}");
        assert!(reference.contains(nested), "docs/configuration.md lacks {nested}");
    }
}
