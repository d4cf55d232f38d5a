//! The findings for people, and for programs.

use std::io::{self, Write as _};

use serde_json::json;

use super::judge::{Finding, Level};
use crate::exit::Failed;

/// The form of `--json`: raised when a field changes its meaning or goes.
const SCHEMA: u32 = 1;

/// Where the second and further lines of a finding begin.
const MARGIN: &str = "                    ";

/// A page for people.
pub(super) fn as_text(findings: &[Finding]) -> Result<(), Failed> {
    write(&page(findings))
}

/// One object: the verdict, and every finding.
pub(super) fn as_json(findings: &[Finding]) -> Result<(), Failed> {
    write(&format!("{:#}\n", value(findings)))
}

fn write(text: &str) -> Result<(), Failed> {
    match io::stdout().write_all(text.as_bytes()) {
        // A reader such as `head` that has seen enough is no failure.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failed::machine(format!("stdout: {error}"))),
        _ => Ok(()),
    }
}

fn page(findings: &[Finding]) -> String {
    let mut page = String::new();
    for finding in findings {
        let line = |text: &str| format!("{MARGIN}{text}\n");
        page.push_str(&format!(
            "{:<7} {:<11} {}\n",
            finding.level.word(),
            finding.check,
            finding.found
        ));
        page.push_str(&line(&finding.means));
        if let Some(advice) = &finding.advice {
            page.push_str(&line(&format!("to do: {advice}")));
        }
    }
    page.push_str(&format!("\n{}\n", verdict(findings)));
    page
}

fn verdict(findings: &[Finding]) -> String {
    let of = |level: Level| -> Vec<&str> {
        let those = findings.iter().filter(|finding| finding.level == level);
        those.map(|finding| finding.check).collect()
    };
    let mut parts = Vec::new();
    for (level, what) in [
        (Level::Broken, "a promise can't be kept here"),
        (Level::Weaker, "a promise is weaker here"),
        (Level::Unknown, "it could not be found out"),
    ] {
        let checks = of(level);
        if !checks.is_empty() {
            parts.push(format!("{what}: {}", checks.join(", ")));
        }
    }
    if parts.is_empty() {
        "Every promise holds on this machine.".to_owned()
    } else {
        parts.join("\n")
    }
}

fn value(findings: &[Finding]) -> serde_json::Value {
    let worst = findings.iter().map(|finding| finding.level).max();
    let list: Vec<_> = findings
        .iter()
        .map(|finding| {
            json!({
                "check": finding.check,
                "level": finding.level.word(),
                "found": finding.found,
                "means": finding.means,
                "advice": finding.advice,
            })
        })
        .collect();
    json!({
        "schema": SCHEMA,
        "verdict": worst.unwrap_or(Level::Holds).word(),
        "findings": list,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings() -> Vec<Finding> {
        let finding = |check, level, advice: Option<&str>| Finding {
            check,
            level,
            found: "it is so".into(),
            means: "it means that".into(),
            advice: advice.map(str::to_owned),
        };
        vec![
            finding("kernel", Level::Holds, None),
            finding("cgroup", Level::Weaker, Some("delegate it")),
        ]
    }

    #[test]
    fn people_read_what_holds_what_does_not_and_what_to_do() {
        assert_eq!(
            page(&findings()),
            "holds   kernel      it is so\n                    it means that\n\
             weaker  cgroup      it is so\n                    it means that\n                    to do: delegate it\n\
             \na promise is weaker here: cgroup\n"
        );
        assert!(page(&findings()[..1]).ends_with("\nEvery promise holds on this machine.\n"));
    }

    #[test]
    fn programs_read_the_same() {
        let value = value(&findings());
        assert_eq!(value["schema"], 1);
        assert_eq!(value["verdict"], "weaker");
        assert_eq!(value["findings"][0]["advice"], serde_json::Value::Null);
        assert_eq!(value["findings"][1]["check"], "cgroup");
        assert_eq!(value["findings"][1]["advice"], "delegate it");
    }
}
