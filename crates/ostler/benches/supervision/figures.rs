//! Figures of several rounds, shown as the median with the lowest and highest value.

use crate::worker::Nanos;

/// The median and extremes of a set of values.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spread {
    low: f64,
    pub(crate) median: f64,
    high: f64,
}

impl Spread {
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

    fn show(&self, decimals: usize) -> String {
        let Self { low, median, high } = self;
        format!("{median:.decimals$} ({low:.decimals$}–{high:.decimals$})")
    }
}

/// The median of a list of times, in milliseconds.
pub(crate) fn median_ms(times: &[Nanos]) -> f64 {
    let times: Vec<f64> = times.iter().map(|time| milliseconds(*time)).collect();
    Spread::of(&times).median
}

pub(crate) fn milliseconds(time: Nanos) -> f64 {
    // Far below 2^52, so nothing is lost.
    time as f64 / 1e6
}

/// One measure next to the floor, in milliseconds, with one value per round.
pub(crate) struct Measure {
    name: String,
    bound: Option<f64>,
    floor: Vec<f64>,
    ours: Vec<f64>,
}

impl Measure {
    /// `bound` is the maximum ratio to the floor.
    pub(crate) fn new(name: impl Into<String>, bound: Option<f64>) -> Self {
        Self {
            name: name.into(),
            bound,
            floor: Vec::new(),
            ours: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, floor: f64, ours: f64) {
        self.floor.push(floor);
        self.ours.push(ours);
    }

    /// Prints a row of the table. The ratio is computed per round, so that a slow phase of the
    /// machine affects both sides.
    pub(crate) fn print(&self) {
        let ratios: Vec<f64> = self
            .ours
            .iter()
            .zip(&self.floor)
            .map(|(ours, floor)| ours / floor)
            .collect();
        let ratio = Spread::of(&ratios);
        println!(
            "{:<34} {:>24} {:>24} {:>20}  {}",
            self.name,
            Spread::of(&self.floor).show(2),
            Spread::of(&self.ours).show(2),
            ratio.show(2),
            verdict(ratio.median, self.bound)
        );
    }
}

pub(crate) fn print_head() {
    print_head_of("floor, ms", "ostler, ms", "times the floor");
}

pub(crate) fn print_head_of(floor: &str, ours: &str, ratio: &str) {
    println!("{:<34} {floor:>24} {ours:>24} {ratio:>20}  bound", "");
}

/// Whether a value is within its bound.
pub(crate) fn verdict(value: f64, bound: Option<f64>) -> String {
    match bound {
        None => String::new(),
        Some(bound) if value <= bound => format!("at most {bound}: met"),
        Some(bound) => format!("at most {bound}: MISSED"),
    }
}
