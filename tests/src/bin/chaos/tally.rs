//! Counts, times and samples for the summary.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Duration;

use crate::census::{Id, weight};
use crate::flat::{Allowance, Growth, Weights};

/// The content of the summary.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) eras: u32,
    pub(crate) faults: u64,
    pub(crate) strikes: u64,
    pub(crate) events: u64,
    pub(crate) orders: u64,
    kinds: BTreeMap<String, u64>,
    /// From a fault to full strength.
    pub(crate) recovered: Vec<Duration>,
    /// From a host's death to the end of its last process.
    pub(crate) gone: Vec<Duration>,
    /// Processes that only the next start's sweep could end.
    pub(crate) swept: u64,
    pub(crate) remarks: BTreeMap<String, u64>,
    weights: HashMap<Id, (&'static str, Allowance, Weights)>,
    /// The greatest growth of each kind of process that was observed long enough.
    growths: BTreeMap<&'static str, (u64, Growth)>,
}

impl Tally {
    pub(crate) fn count(&mut self, kind: &impl fmt::Debug) {
        let text = format!("{kind:?}");
        let word = text.split([' ', '(', '{']).next().unwrap_or_default();
        *self.kinds.entry(word.to_owned()).or_default() += 1;
    }

    pub(crate) fn remark(&mut self, remark: &str) {
        *self.remarks.entry(remark.to_owned()).or_default() += 1;
    }

    /// Samples a process that watches these ones.
    pub(crate) fn weigh(&mut self, who: &'static str, id: Id, watched: &[i32], allowed: Allowance) {
        if let Some((kib, descriptors)) = weight(id.pid, watched) {
            let entry = self.weights.entry(id);
            let (_, _, weights) = entry.or_insert_with(|| (who, allowed, Weights::default()));
            weights.add(kib, descriptors);
        }
    }

    /// Evaluates the samples at the end of a host.
    pub(crate) fn judge_weights(&mut self) -> Result<(), String> {
        for (id, (who, allowed, weights)) in std::mem::take(&mut self.weights) {
            let Some(growth) = weights.growth() else { continue };
            if !growth.is_flat(allowed) {
                return Err(format!(
                    "the {who} {} is not flat: {growth:?}, allowed {allowed:?}",
                    id.pid
                ));
            }
            let worst = self.growths.entry(who).or_insert((0, growth));
            worst.0 += 1;
            let grown = |growth: &Growth| growth.kib.1.saturating_sub(growth.kib.0);
            if grown(&growth) > grown(&worst.1) {
                worst.1 = growth;
            }
        }
        Ok(())
    }

    pub(crate) fn progress(&self) -> String {
        format!(
            "{} faults, {} strikes, {} hosts, {} events; full strength again after {}",
            self.faults,
            self.strikes,
            self.eras,
            self.events,
            spread(&self.recovered)
        )
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  {}", self.progress())?;
        writeln!(f, "  every process gone after a host's death: {}", spread(&self.gone))?;
        writeln!(
            f,
            "  left for the next start's sweep and ended by it: {} processes",
            self.swept
        )?;
        writeln!(f, "  requests answered: {}", self.orders)?;
        let kinds: Vec<String> = self
            .kinds
            .iter()
            .map(|(kind, count)| format!("{kind} {count}"))
            .collect();
        writeln!(f, "  {}", kinds.join(", "))?;
        for (who, (count, growth)) in &self.growths {
            writeln!(
                f,
                "  {count} {who}s observed for long, all flat; the worst: {} -> {} KiB, {} -> {} descriptors",
                growth.kib.0, growth.kib.1, growth.descriptors.0, growth.descriptors.1
            )?;
        }
        for (remark, count) in &self.remarks {
            writeln!(f, "  {count} × {remark}")?;
        }
        Ok(())
    }
}

fn spread(times: &[Duration]) -> String {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    match sorted.as_slice() {
        [] => "none yet".to_owned(),
        all => format!(
            "{} ms (median), {} ms (99 %), {} ms (worst) of {}",
            all[all.len() / 2].as_millis(),
            all[all.len() * 99 / 100].as_millis(),
            all[all.len() - 1].as_millis(),
            all.len()
        ),
    }
}
