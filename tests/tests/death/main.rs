//! Whatever dies first, nothing is left and no unrelated process is touched: end-to-end tests with
//! the worst workers.

mod at_once;
mod figures;
mod host;
mod runs;

use ostler_tests::scene::pool;

/// The kinds of workers, with the minimum number of processes of each: plain; ignoring TERM, INT
/// and HUP; with daemons in sessions of their own; with daemons with an empty environment; and one
/// in its own session with all of these.
const KINDS: [(&str, usize); 5] = [
    ("sleep", 1),
    ("ignore-term+child+sleep", 2),
    ("daemon+daemon+child+sleep", 4),
    ("ignore-term+daemon-naked+daemon-naked+daemon+child+sleep", 5),
    ("setsid+ignore-term+child+child+daemon+daemon-naked+sleep", 5),
];

/// Kinds that are hard to kill because they change while they are looked at: trees in process
/// groups of their own, children that are created all the time, a chain in which each process
/// starts the next one and exits, a stopped child, and a child traced by its sibling.
const RESTLESS: [(&str, usize); 5] = [
    ("setsid+ignore-term+child-groups+sleep", 5),
    ("child-forker+sleep", 3),
    ("relay+sleep", 2),
    ("child-stopped+daemon+sleep", 3),
    ("child-traced+sleep", 3),
];

/// Pools with this number of workers of each kind. A worker is ready once all its processes have
/// been started.
fn pools(kinds: &[(&str, usize)], workers: usize, tag: &str) -> String {
    let pool = |(index, (modes, _)): (usize, &(&str, usize))| {
        let name = format!("[pool.k{index}]");
        let keys = format!("workers = {workers}\nmax_starting = 8");
        pool_ready_when_complete(modes, tag, &keys).replace("[pool.p]", &name)
    };
    kinds.iter().enumerate().map(pool).collect()
}

/// A pool `p` of workers that become ready once all their processes have been started.
fn pool_ready_when_complete(modes: &str, tag: &str, keys: &str) -> String {
    let modes = with_ready_message(modes);
    let keys =
        format!("{keys}\nready = {{ line = \"ready to serve\" }}\nstop = {{ signal = \"TERM\", grace = \"100ms\" }}");
    pool(&modes, tag, &keys)
}

/// Adds a message on stdout after these modes have been started.
fn with_ready_message(modes: &str) -> String {
    format!("{}say-out+sleep", modes.trim_end_matches("sleep"))
}

/// The minimum number of processes of these workers.
fn processes(kinds: &[(&str, usize)], workers: usize) -> usize {
    kinds.iter().map(|(_, count)| count * workers).sum()
}
