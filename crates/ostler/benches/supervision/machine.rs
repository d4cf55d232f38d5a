//! The machine's properties and load, which the figures depend on.

use std::fs;

/// The machine's properties.
pub(crate) fn facts() -> String {
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "{processors} processors ({}), {}, Linux {}",
        line_of("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown model".to_owned()),
        line_of("/proc/meminfo", "MemTotal").unwrap_or_default(),
        read("/proc/sys/kernel/osrelease")
    )
}

/// The load. Figures from a busy machine are noisy.
pub(crate) fn load() -> String {
    let text = read("/proc/loadavg");
    text.split(' ').next().unwrap_or_default().to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|error| error.to_string(), |text| text.trim().to_owned())
}

/// The value of the first line `NAME : VALUE`.
fn line_of(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
