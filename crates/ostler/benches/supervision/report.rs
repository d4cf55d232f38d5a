//! The figures of a run: a table for people, and lines of JSON for `cargo xtask bench`.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;

/// The median and extremes of a set of values.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spread {
    low: f64,
    pub(crate) median: f64,
    high: f64,
}

impl Spread {
    /// Panics without values: a measure that measured nothing is a mistake of the benchmark.
    pub(crate) fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let median = match sorted.len() {
            0 => panic!("no values"),
            even if even % 2 == 0 => f64::midpoint(sorted[even / 2 - 1], sorted[even / 2]),
            odd => sorted[odd / 2],
        };
        Self {
            low: sorted[0],
            median,
            high: sorted[sorted.len() - 1],
        }
    }

    fn show(&self) -> String {
        let Self { low, median, high } = self;
        let decimals = usize::from(*median < 100.0) + usize::from(*median < 10.0);
        format!("{median:.decimals$} ({low:.decimals$}–{high:.decimals$})")
    }
}

/// The maximum that a measure may reach.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bound {
    /// Times the baseline.
    Ratio(f64),
    /// In the measure's unit.
    Value(f64),
}

/// One measure, with one value per round and side. The sides take turns within a round, so that a
/// slow phase of the machine affects all of them.
#[derive(Debug)]
pub(crate) struct Measure {
    pub(crate) what: &'static str,
    /// The number of workers, if the measure depends on it; otherwise 0.
    pub(crate) workers: u32,
    pub(crate) unit: &'static str,
    /// What it is compared with: "floor" or the name of another baseline; empty for nothing.
    pub(crate) baseline: &'static str,
    pub(crate) base: Vec<f64>,
    /// The same with `tokio::process`, where that is measured.
    pub(crate) tokio: Vec<f64>,
    pub(crate) ours: Vec<f64>,
    pub(crate) bound: Option<Bound>,
}

impl Measure {
    /// A time in milliseconds beside the floor.
    pub(crate) fn new(what: &'static str, workers: u32) -> Self {
        Self {
            what,
            workers,
            unit: "ms",
            baseline: "floor",
            base: Vec::new(),
            tokio: Vec::new(),
            ours: Vec::new(),
            bound: None,
        }
    }

    pub(crate) fn unit(self, unit: &'static str) -> Self {
        Self { unit, ..self }
    }

    pub(crate) fn baseline(self, baseline: &'static str) -> Self {
        Self { baseline, ..self }
    }

    pub(crate) fn bound(self, bound: impl Into<Option<Bound>>) -> Self {
        Self {
            bound: bound.into(),
            ..self
        }
    }

    /// Adds a round: the baseline and ours.
    pub(crate) fn add(&mut self, base: f64, ours: f64) {
        self.base.push(base);
        self.ours.push(ours);
    }

    /// The ratio to the baseline, per round.
    fn ratios(&self) -> Vec<f64> {
        self.ours
            .iter()
            .zip(&self.base)
            .map(|(ours, base)| ours / base)
            .collect()
    }

    fn row(&self) -> String {
        let name = match self.workers {
            0 => self.what.to_owned(),
            workers => format!("{}, {workers}", self.what),
        };
        let side = |values: &[f64]| match values.is_empty() {
            true => String::new(),
            false => Spread::of(values).show(),
        };
        let ratios = self.ratios();
        format!(
            "{name:<38} {:<5}{:>22}{:>22}{:>24}{:>19}  {}",
            self.unit,
            side(&self.base),
            side(&self.tokio),
            side(&self.ours),
            side(&ratios),
            self.verdict(&ratios)
        )
    }

    fn verdict(&self, ratios: &[f64]) -> String {
        let (value, bound, unit) = match self.bound {
            None => return String::new(),
            Some(Bound::Ratio(bound)) => (Spread::of(ratios).median, bound, "×"),
            Some(Bound::Value(bound)) => (Spread::of(&self.ours).median, bound, self.unit),
        };
        let verdict = if value <= bound { "met" } else { "MISSED" };
        format!("at most {bound} {unit}: {verdict}")
    }

    /// `{:?}` of strings and finite numbers is JSON.
    fn json(&self, subject: &str) -> String {
        let bound = match self.bound {
            None => String::new(),
            Some(Bound::Ratio(most)) => format!(",\"most_ratio\":{most:?}"),
            Some(Bound::Value(most)) => format!(",\"most\":{most:?}"),
        };
        format!(
            "{{\"subject\":{subject:?},\"what\":{:?},\"workers\":{},\"unit\":{:?},\"baseline\":{:?},\"base\":{:?},\"tokio\":{:?},\"ours\":{:?}{bound}}}\n",
            self.what, self.workers, self.unit, self.baseline, self.base, self.tokio, self.ours
        )
    }
}

/// Receives every measure of a run.
pub(crate) struct Report {
    results: Option<File>,
    /// Whether figures are shown. A run that only checks that everything works has none worth it.
    shown: bool,
}

impl Report {
    /// `results` is the file that receives the lines of JSON.
    pub(crate) fn new(results: Option<&str>, shown: bool) -> Self {
        let results = results.map(|path| File::create(path).unwrap_or_else(|error| panic!("{path}: {error}")));
        Self { results, shown }
    }

    /// Takes the properties of the machine and the run.
    pub(crate) fn head(&mut self, about: &str) {
        if self.shown {
            println!("{about}; medians (lowest–highest)");
        }
        self.keep(&format!("{{\"machine\":{about:?}}}\n"));
    }

    fn keep(&mut self, lines: &str) {
        if let Some(file) = &mut self.results {
            file.write_all(lines.as_bytes()).expect("writing the results");
        }
    }

    /// Takes the measures of a subject, which is complete.
    pub(crate) fn take(&mut self, subject: &str, measures: &[Measure]) {
        if !self.shown {
            return println!("{subject}: works");
        }
        let baseline = measures.first().map_or("", |measure| measure.baseline);
        let mut table = format!(
            "\n{subject:<44}{:>22}{:>22}{:>24}{:>19}\n",
            baseline, "tokio::process", "ostler", "ratio"
        );
        for measure in measures {
            writeln!(table, "{}", measure.row()).expect("a string takes everything");
        }
        print!("{table}");
        let lines: String = measures.iter().map(|measure| measure.json(subject)).collect();
        self.keep(&lines);
    }
}
