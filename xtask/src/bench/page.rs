//! The figures in docs/performance.md: what stands between the comments `<!-- bench:NAME -->` and
//! `<!-- /bench -->` is written from the kept figures.

use std::fmt::Write as _;
use std::fs;

use super::figures::{Figures, Measure, Spread, grouped};
use super::{kept, plot};
use crate::steps::{Outcome, root};

const STORES: [&str; 2] = ["redb", "rocksdb"];
const BEGIN: &str = "<!-- bench:";
const END: &str = "<!-- /bench -->";

/// The sizes whose cost per worker is compared.
const GROWTH: [u64; 3] = [100, 1_000, 5_000];
/// The most by which the ratio to the floor may grow from the smallest to the largest size.
const GROWTH_BOUND: f64 = 1.2;

/// Writes the page's figures and the plot again.
pub(super) fn refresh() -> Outcome {
    let stores: Vec<(&str, Figures)> = STORES
        .iter()
        .map(|store| Ok((*store, Figures::read(&kept(store))?)))
        .collect::<Outcome<_>>()?;
    let page = root().join("docs/performance.md");
    let write = |path: &std::path::Path, text: String| {
        fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
    };
    let text = fs::read_to_string(&page).map_err(|error| format!("{}: {error}", page.display()))?;
    write(&page, filled(&text, |name| block(name, &stores))?)?;
    let (_, figures) = &stores[0];
    write(&root().join("docs/performance/growth.svg"), plot::growth(figures))
}

/// The page with every block replaced.
fn filled(page: &str, block: impl Fn(&str) -> Outcome<String>) -> Outcome<String> {
    let mut parts = page.split(BEGIN);
    let mut filled = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part
            .split_once(" -->")
            .ok_or("a block of docs/performance.md has no name")?;
        let (_, rest) = rest
            .split_once(END)
            .ok_or_else(|| format!("the block {name} of docs/performance.md has no end"))?;
        write!(
            filled,
            "{BEGIN}{name} -->\n\n{}\n\n{END}{rest}",
            block(name)?.trim_end()
        )
        .expect("a string");
    }
    Ok(filled)
}

fn block(name: &str, stores: &[(&str, Figures)]) -> Outcome<String> {
    let measured = || stores.iter().filter(|(_, figures)| !figures.measures.is_empty());
    match name {
        "machine" => Ok(measured()
            .map(|(store, figures)| format!("{store}: {}; {}.\n\n", figures.machine, figures.date))
            .collect()),
        "bounds" => Ok(bounds(&measured().collect::<Vec<_>>())),
        "growth" => Ok(or_unmeasured(measured().map(|(store, figures)| growth(store, figures)))),
        "cost" => Ok(or_unmeasured(measured().map(|(store, figures)| cost(store, figures)))),
        subject => Ok(or_unmeasured(
            measured().map(|(store, figures)| table(store, subject, figures)),
        )),
    }
}

fn or_unmeasured(tables: impl Iterator<Item = String>) -> String {
    let tables: String = tables.collect();
    if tables.is_empty() {
        "Not measured yet.".to_owned()
    } else {
        tables
    }
}

/// Every bound, with the result of each store.
fn bounds(stores: &[&(&str, Figures)]) -> String {
    let mut text = String::from("| what | at most |");
    for (store, _) in stores {
        write!(text, " {store} |").expect("a string");
    }
    text.push_str("\n|---|---|");
    text.push_str(&"---|".repeat(stores.len()));
    text.push('\n');
    let Some((_, first)) = stores.first() else {
        return "Not measured yet.".to_owned();
    };
    for measure in first.measures.iter().filter(|measure| !measure.verdict().is_empty()) {
        let verdict = measure.verdict();
        let bound = verdict.split(':').next().unwrap_or_default();
        write!(text, "| {} | {bound} |", measure.title()).expect("a string");
        for (_, figures) in stores {
            let result = figures.find(&measure.key()).map_or_else(String::new, |found| {
                let verdict = found.verdict();
                let met = verdict.rsplit(": ").next().unwrap_or_default();
                format!("{}: {met}", found.show_result())
            });
            write!(text, " {result} |").expect("a string");
        }
        text.push('\n');
    }
    text
}

/// All measures of a subject.
fn table(store: &str, subject: &str, figures: &Figures) -> String {
    let measures: Vec<&Measure> = figures.of_subject(subject).collect();
    let Some(first) = measures.first() else {
        return String::new();
    };
    let tokio = measures.iter().any(|measure| !measure.show_tokio().is_empty());
    let baseline = if first.baseline.is_empty() {
        "baseline"
    } else {
        &first.baseline
    };
    let compared = measures.iter().any(|measure| !measure.show_base().is_empty());
    let mut head = format!("| {store} | |");
    let mut rule = String::from("|---|---|");
    let mut column = |name: &str| {
        write!(head, " {name} |").expect("a string");
        rule.push_str("---|");
    };
    if compared {
        column(baseline);
    }
    if tokio {
        column("tokio, ×");
    }
    column("Ostler");
    if compared {
        column("×");
    }
    column("at most");
    let mut text = format!("{head}\n{rule}\n");
    for measure in measures {
        write!(text, "| {} | {} |", measure.title(), measure.unit).expect("a string");
        let ratio = measure.ratio().map_or_else(String::new, |ratio| {
            format!("{:.2} ({:.2}–{:.2})", ratio.median, ratio.low, ratio.high)
        });
        let cells = [
            (compared, measure.show_base()),
            (tokio, measure.show_tokio()),
            (true, measure.show_ours()),
            (compared, ratio),
            (true, measure.verdict()),
        ];
        for (_, cell) in cells.into_iter().filter(|(shown, _)| *shown) {
            write!(text, " {cell} |").expect("a string");
        }
        text.push('\n');
    }
    text.push('\n');
    text
}

/// A measure whose growth is shown.
struct Grown {
    subject: &'static str,
    what: &'static str,
    /// It is measured for all workers together, and not for one.
    of_all: bool,
}

const fn grown(subject: &'static str, what: &'static str, of_all: bool) -> Grown {
    Grown { subject, what, of_all }
}

const GROWN: [Grown; 5] = [
    grown("pools", "restart", false),
    grown("pools", "start", true),
    grown("pools", "stop, workers gone", true),
    grown("pools", "stop, release confirmed", true),
    grown("memory", "memory", false),
];

/// The cost of one worker by the number of workers: times the floor, and KiB.
fn growth(store: &str, figures: &Figures) -> String {
    let mut text = format!("| {store} |");
    for size in GROWTH {
        write!(text, " {} |", grouped(size)).expect("a string");
    }
    writeln!(text, " growth | at most |\n|---|---|---|---|---|---|").expect("a string");
    let mut any = false;
    for Grown { subject, what, .. } in GROWN {
        let result = |size| {
            let measure = figures.find(&(subject, what, size))?;
            let result = measure.ratio().or_else(|| measure.value())?;
            Some((result.median, measure))
        };
        let results: Vec<_> = GROWTH.iter().filter_map(|size| result(*size)).collect();
        let (Some((first, measure)), Some((last, _))) = (results.first(), results.last()) else {
            continue;
        };
        if results.len() < GROWTH.len() {
            continue;
        }
        any = true;
        let unit = if measure.ratio().is_some() {
            "× floor"
        } else {
            &measure.unit
        };
        write!(text, "| {what}, {unit} |").expect("a string");
        for (value, _) in &results {
            write!(text, " {value:.2} |").expect("a string");
        }
        let grown = last / first;
        let met = if grown <= GROWTH_BOUND { "met" } else { "**missed**" };
        writeln!(text, " {grown:.2} | {GROWTH_BOUND}: {met} |").expect("a string");
    }
    text.push('\n');
    if any { text } else { String::new() }
}

/// What one worker costs by the number of workers, beside what it costs the floor.
fn cost(store: &str, figures: &Figures) -> String {
    let mut text = format!("| {store} |");
    for size in GROWTH {
        write!(text, " {} | floor |", grouped(size)).expect("a string");
    }
    text.push_str("\n|---|");
    text.push_str(&"---|---|".repeat(GROWTH.len()));
    text.push('\n');
    let mut any = false;
    for Grown { subject, what, of_all } in GROWN {
        let cells: Option<String> = GROWTH
            .iter()
            .map(|size| {
                let measure = figures.find(&(subject, what, *size))?;
                let workers = if of_all { *size as f64 } else { 1.0 };
                let each = |spread: Spread| match measure.unit.as_str() {
                    "ms" => format!("{:.0} µs", spread.median / workers * 1e3),
                    unit => format!("{:.1} {unit}", spread.median),
                };
                let base = measure.base().map_or_else(String::new, each);
                Some(format!(" {} | {base} |", each(measure.value()?)))
            })
            .collect();
        if let Some(cells) = cells {
            any = true;
            writeln!(text, "| {what} |{cells}").expect("a string");
        }
    }
    text.push('\n');
    if any { text } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workers_cost_is_that_of_all_divided_by_their_number() {
        let measure = |what: &str, workers: u64, base: f64, ours: f64| {
            Measure::read(&serde_json::json!({
                "subject": "pools", "what": what, "workers": workers, "unit": "ms", "base": [base], "ours": [ours],
            }))
        };
        let of_size = |size: u64| [measure("start", size, 2.0, 5.0), measure("restart", size, 0.25, 0.5)];
        let figures = Figures {
            measures: GROWTH.into_iter().flat_map(of_size).collect(),
            ..Figures::default()
        };
        let text = cost("redb", &figures);
        assert!(
            text.contains("| start | 50 µs | 20 µs | 5 µs | 2 µs | 1 µs | 0 µs |"),
            "{text}"
        );
        assert!(text.contains("| restart | 500 µs | 250 µs | 500 µs |"), "{text}");
        assert_eq!(cost("redb", &Figures::default()), "");
    }

    #[test]
    fn blocks_are_replaced_and_the_rest_stays() {
        let page = "a\n<!-- bench:x -->\nold\n<!-- /bench -->\nb <!-- bench:y --><!-- /bench -->";
        let once = filled(page, |name| Ok(format!("new {name}\n"))).unwrap();
        assert_eq!(
            once,
            "a\n<!-- bench:x -->\n\nnew x\n\n<!-- /bench -->\nb <!-- bench:y -->\n\nnew y\n\n<!-- /bench -->"
        );
        assert_eq!(filled(&once, |name| Ok(format!("new {name}\n"))).unwrap(), once);
        assert!(filled("<!-- bench:x -->", |_| Ok(String::new())).is_err(), "no end");
    }
}
