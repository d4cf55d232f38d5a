//! The figures of a run, as the benchmarks write them and as they are kept.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::steps::Outcome;

/// All figures of one store.
#[derive(Debug, Default)]
pub(super) struct Figures {
    pub(super) machine: String,
    pub(super) date: String,
    pub(super) measures: Vec<Measure>,
}

/// One measure, with one value per round and side.
#[derive(Debug, Clone)]
pub(super) struct Measure {
    pub(super) subject: String,
    pub(super) what: String,
    /// Zero: it does not depend on it.
    pub(super) workers: u64,
    pub(super) unit: String,
    /// Empty: there is none.
    pub(super) baseline: String,
    base: Vec<f64>,
    tokio: Vec<f64>,
    ours: Vec<f64>,
    most_ratio: Option<f64>,
    most: Option<f64>,
}

/// What identifies a measure.
pub(super) type Key<'a> = (&'a str, &'a str, u64);

impl Figures {
    /// The lines of JSON that a benchmark has written.
    pub(super) fn of_run(path: &Path) -> Outcome<Self> {
        let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let mut figures = Self::default();
        for line in text.lines() {
            let value: Value = serde_json::from_str(line).map_err(|error| format!("{}: {error}", path.display()))?;
            match value["machine"].as_str() {
                Some(machine) => machine.clone_into(&mut figures.machine),
                None => figures.measures.push(Measure::read(&value)),
            }
        }
        Ok(figures)
    }

    /// The figures that were kept; none if there is no such file.
    pub(super) fn read(path: &Path) -> Outcome<Self> {
        let Ok(text) = fs::read_to_string(path) else {
            return Ok(Self::default());
        };
        let value: Value = serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
        let measures = value["measures"].as_array().into_iter().flatten();
        Ok(Self {
            machine: text("machine"),
            date: text("date"),
            measures: measures.map(Measure::read).collect(),
        })
    }

    /// Keeps the figures, one measure a line.
    pub(super) fn write(&self, path: &Path) -> Outcome {
        let lines: Vec<String> = self.measures.iter().map(|measure| measure.json().to_string()).collect();
        let text = format!(
            "{{\"machine\":{},\"date\":{},\"measures\":[\n{}\n]}}\n",
            json!(self.machine),
            json!(self.date),
            lines.join(",\n")
        );
        let folder = path.parent().unwrap_or(path);
        fs::create_dir_all(folder)
            .and_then(|()| fs::write(path, text))
            .map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Adds the earlier figures of subjects that were not measured now.
    pub(super) fn complete(&mut self, before: Self) {
        let measured: Vec<String> = self.measures.iter().map(|measure| measure.subject.clone()).collect();
        let others = before.measures.into_iter();
        self.measures
            .extend(others.filter(|measure| !measured.contains(&measure.subject)));
        if self.machine.is_empty() {
            self.machine = before.machine;
        }
    }

    pub(super) fn find(&self, key: &Key<'_>) -> Option<&Measure> {
        self.measures.iter().find(|measure| measure.key() == *key)
    }

    pub(super) fn of_subject<'a>(&'a self, subject: &'a str) -> impl Iterator<Item = &'a Measure> {
        self.measures.iter().filter(move |measure| measure.subject == subject)
    }
}

impl Measure {
    pub(super) fn read(value: &Value) -> Self {
        let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
        let numbers = |name: &str| {
            let values = value[name].as_array().into_iter().flatten();
            values.filter_map(Value::as_f64).collect()
        };
        Self {
            subject: text("subject"),
            what: text("what"),
            workers: value["workers"].as_u64().unwrap_or_default(),
            unit: text("unit"),
            baseline: text("baseline"),
            base: numbers("base"),
            tokio: numbers("tokio"),
            ours: numbers("ours"),
            most_ratio: value["most_ratio"].as_f64(),
            most: value["most"].as_f64(),
        }
    }

    fn json(&self) -> Value {
        json!({
            "subject": self.subject, "what": self.what, "workers": self.workers, "unit": self.unit,
            "baseline": self.baseline, "base": rounded(&self.base), "tokio": rounded(&self.tokio),
            "ours": rounded(&self.ours), "most_ratio": self.most_ratio, "most": self.most,
        })
    }

    #[cfg(test)]
    pub(super) fn of_test(what: &str, base: &[f64], ours: &[f64]) -> Self {
        Self {
            base: base.to_vec(),
            ours: ours.to_vec(),
            ..Self::read(&json!({ "what": what, "unit": "ms", "baseline": "floor" }))
        }
    }

    pub(super) fn key(&self) -> Key<'_> {
        (&self.subject, &self.what, self.workers)
    }

    /// What it is called, with its number of workers.
    pub(super) fn title(&self) -> String {
        match self.workers {
            0 => self.what.clone(),
            workers => format!("{}, {}", self.what, grouped(workers)),
        }
    }

    /// What the floor, or another baseline, takes.
    pub(super) fn base(&self) -> Option<Spread> {
        Spread::of(&self.base)
    }

    pub(super) fn show_base(&self) -> String {
        self.base().map_or_else(String::new, |spread| spread.show())
    }

    pub(super) fn show_ours(&self) -> String {
        Spread::of(&self.ours).map_or_else(String::new, |spread| spread.show())
    }

    /// The median of the ratio of `tokio::process` to the baseline.
    pub(super) fn show_tokio(&self) -> String {
        let ratio = Spread::of(&ratios(&self.tokio, &self.base));
        ratio.map_or_else(String::new, |ratio| format!("{:.2}", ratio.median))
    }

    /// The median of the ratio to the baseline, if there is one.
    pub(super) fn ratio(&self) -> Option<Spread> {
        Spread::of(&ratios(&self.ours, &self.base))
    }

    pub(super) fn value(&self) -> Option<Spread> {
        Spread::of(&self.ours)
    }

    /// What counts: the ratio to the baseline, or without one the value.
    fn result(&self) -> Option<Spread> {
        if self.most.is_some() {
            self.value()
        } else {
            self.ratio().or_else(|| self.value())
        }
    }

    pub(super) fn show_result(&self) -> String {
        match (self.ratio(), self.value()) {
            (Some(Spread { low, median, high }), _) if self.most.is_none() => {
                format!("{median:.2} × ({low:.2}–{high:.2})")
            }
            (_, Some(value)) => format!("{} {}", value.show(), self.unit),
            _ => String::new(),
        }
    }

    /// Whether it exceeds what the noise of both runs explains.
    pub(super) fn is_worse_than(&self, before: &Self) -> bool {
        let (Some(now), Some(before)) = (self.result(), before.result()) else {
            return false;
        };
        now.median > before.high && now.low > before.median
    }

    /// The bound, and whether it is met; empty without a bound.
    pub(super) fn verdict(&self) -> String {
        let met = |value: Option<Spread>, most: f64| match value {
            Some(value) if value.median <= most => "met",
            Some(_) => "**missed**",
            None => "not measured",
        };
        match (self.most_ratio, self.most) {
            (Some(most), _) => format!("{most} ×: {}", met(self.ratio(), most)),
            (_, Some(most)) => format!("{most} {}: {}", self.unit, met(self.value(), most)),
            _ => String::new(),
        }
    }
}

/// A ratio for each round.
fn ratios(values: &[f64], base: &[f64]) -> Vec<f64> {
    values.iter().zip(base).map(|(value, base)| value / base).collect()
}

/// Four digits are more than the noise leaves, and keep the file short.
fn rounded(values: &[f64]) -> Vec<f64> {
    values.iter().map(|value| (value * 1e4).round() / 1e4).collect()
}

/// 5000 as 5,000.
pub(super) fn grouped(number: u64) -> String {
    match number {
        0..1_000 => number.to_string(),
        _ => format!("{},{:03}", grouped(number / 1_000), number % 1_000),
    }
}

/// The median and the extremes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spread {
    pub(super) low: f64,
    pub(super) median: f64,
    pub(super) high: f64,
}

impl Spread {
    fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (low, high) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = match sorted.len() % 2 {
            0 => f64::midpoint(sorted[middle - 1], sorted[middle]),
            _ => sorted[middle],
        };
        Some(Self { low, median, high })
    }

    pub(super) fn show(&self) -> String {
        let Self { low, median, high } = self;
        let decimals = usize::from(*median < 100.0) + usize::from(*median < 10.0);
        if low == high {
            return format!("{median:.decimals$}");
        }
        format!("{median:.decimals$} ({low:.decimals$}–{high:.decimals$})")
    }
}
