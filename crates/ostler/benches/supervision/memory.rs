//! The memory of the host, the guardian and the sitters, as the kernel counts it.

use std::fs;

/// Bytes by process. Shared pages are counted in proportion (PSS, proc_pid_smaps(5)).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Footprint {
    host: u64,
    guardian: u64,
    sitters: u64,
    /// The page tables of all three, which PSS does not include.
    page_tables: u64,
}

/// The difference between two footprints, in bytes.
pub(crate) type Cost = Footprint;

impl Footprint {
    /// The footprint of this process, its guardian, and the guardian's children.
    pub(crate) fn of(guardian: u32) -> Self {
        let host = std::process::id();
        let sitters = children(guardian);
        let all = [host, guardian].into_iter().chain(sitters.iter().copied());
        Self {
            host: pss(host),
            guardian: pss(guardian),
            sitters: sitters.iter().map(|pid| pss(*pid)).sum(),
            page_tables: all.map(page_tables).sum(),
        }
    }

    pub(crate) fn since(&self, before: &Self) -> Cost {
        Self {
            host: self.host.saturating_sub(before.host),
            guardian: self.guardian.saturating_sub(before.guardian),
            sitters: self.sitters.saturating_sub(before.sitters),
            page_tables: self.page_tables.saturating_sub(before.page_tables),
        }
    }

    /// The PSS of all three.
    pub(crate) fn total(&self) -> u64 {
        self.host + self.guardian + self.sitters
    }

    /// A description with each one's share per worker.
    pub(crate) fn describe(&self, workers: u32) -> String {
        let each = |bytes: u64| kibibytes(bytes) / f64::from(workers);
        format!(
            "host {:.1}, guardian {:.1}, sitter {:.1}; page tables, not in PSS: {:.1}",
            each(self.host),
            each(self.guardian),
            each(self.sitters),
            each(self.page_tables)
        )
    }
}

pub(crate) fn kibibytes(bytes: u64) -> f64 {
    // Far below 2^52, so nothing is lost.
    bytes as f64 / 1024.0
}

/// The children of a single-threaded process.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn pss(pid: u32) -> u64 {
    field(&format!("/proc/{pid}/smaps_rollup"), "Pss:")
}

fn page_tables(pid: u32) -> u64 {
    field(&format!("/proc/{pid}/status"), "VmPTE:")
}

/// The value of a line `NAME  123 kB` of a file in /proc, in bytes.
fn field(path: &str, name: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.split_whitespace().next());
    let kibibytes: u64 = value.and_then(|value| value.parse().ok()).expect("number of kB");
    kibibytes * 1024
}
