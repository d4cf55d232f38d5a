//! The findings for people, and for programs.

use serde_json::json;

use super::judge::{Finding, Level};
use crate::exit::{self, Failed};
use crate::output::text::{self, Line, lines_of};

/// The form of `--json`: raised when a field changes its meaning or goes.
const SCHEMA: u32 = 1;

/// Where the second and further lines of a finding begin.
const MARGIN: &str = "                    ";

/// A page for people.
pub(super) fn as_text(findings: &[Finding]) -> Result<(), Failed> {
    exit::print(&page(findings))
}

/// One object: the verdict, and every finding.
pub(super) fn as_json(findings: &[Finding]) -> Result<(), Failed> {
    exit::print(&lines_of(&text::visible_json(format!("{:#}", value(findings)))))
}

fn page(findings: &[Finding]) -> Vec<Line> {
    let mut page = Vec::new();
    for finding in findings {
        page.push(format!(
            "{:<7} {:<11} {}",
            finding.level.word(),
            finding.check,
            finding.found
        ));
        page.extend(finding.means.lines().map(|line| format!("{MARGIN}{line}")));
        page.extend(finding.advice.iter().map(|advice| format!("{MARGIN}to do: {advice}")));
    }
    page.push(String::new());
    page.extend(verdict(findings));
    page.into_iter().map(Line::plain).collect()
}

fn verdict(findings: &[Finding]) -> Vec<String> {
    let of = |level: Level| -> Vec<&str> {
        let those = findings.iter().filter(|finding| finding.level == level);
        those.map(|finding| finding.check).collect()
    };
    let mut parts = Vec::new();
    for (level, what) in [
        (Level::Broken, "a promise can't be kept here"),
        (Level::Weaker, "a promise is weaker here"),
        (Level::Unknown, "could not be found out"),
    ] {
        let checks = of(level);
        if !checks.is_empty() {
            parts.push(format!("{what}: {}", checks.join(", ")));
        }
    }
    if parts.is_empty() {
        parts.push("Every promise holds on this machine.".to_owned());
    }
    parts
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
        let page = |findings: &[Finding]| -> String { page(findings).iter().map(|line| line.render(false)).collect() };
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
