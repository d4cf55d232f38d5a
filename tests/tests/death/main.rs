//! Whatever dies first, nothing is left, and nobody else is touched: seen from outside, with the worst of workers.

mod at_once;
mod figures;
mod host;
mod runs;

use ostler_tests::scene::pool;

/// The kinds of workers, and how many processes each is at least: plain, deaf to polite signals, with daemons in sessions of
/// their own, with daemons in an empty environment, and one in a session of its own with all of that.
const KINDS: [(&str, usize); 5] = [
    ("sleep", 1),
    ("ignore-term+child+sleep", 2),
    ("daemon+daemon+child+sleep", 4),
    ("ignore-term+daemon-naked+daemon-naked+daemon+child+sleep", 5),
    ("setsid+ignore-term+child+child+daemon+daemon-naked+sleep", 5),
];

/// Further kinds, that resist the look of whoever comes to kill them: trees in process groups of their own, children that are
/// born all the time, a runner that hands on to the next and ends, a child that is stopped, one that its sibling traces.
const RESTLESS: [(&str, usize); 5] = [
    ("setsid+ignore-term+child-groups+sleep", 5),
    ("child-forker+sleep", 3),
    ("relay+sleep", 2),
    ("child-stopped+daemon+sleep", 3),
    ("child-traced+sleep", 3),
];

/// A pool of so many workers of each kind; it is ready when all that they leave is there.
fn pools(kinds: &[(&str, usize)], workers: usize, tag: &str) -> String {
    let pool = |(index, (modes, _)): (usize, &(&str, usize))| {
        let name = format!("[pool.k{index}]");
        let keys = format!("workers = {workers}\nmax_starting = 8");
        told_when_all_are_there(modes, tag, &keys).replace("[pool.p]", &name)
    };
    kinds.iter().enumerate().map(pool).collect()
}

/// A pool `p` of workers that say so when they have started all that they leave.
fn told_when_all_are_there(modes: &str, tag: &str, keys: &str) -> String {
    let modes = telling(modes);
    let keys =
        format!("{keys}\nready = {{ line = \"ready to serve\" }}\nstop = {{ signal = \"TERM\", grace = \"100ms\" }}");
    pool(&modes, tag, &keys)
}

/// These modes, and a word on stdout when all that they leave is there.
fn telling(modes: &str) -> String {
    format!("{}say-out+sleep", modes.trim_end_matches("sleep"))
}

/// How many processes they are at least.
fn processes(kinds: &[(&str, usize)], workers: usize) -> usize {
    kinds.iter().map(|(_, count)| count * workers).sum()
}
