//! Ends what a test program has left, when that program has been killed.
//!
//! Reads lines from the test program: `+DIRECTORY` when a test has created its directory, and
//! `-DIRECTORY` when it has cleaned up. At the end of the input the test program is gone. What is
//! left then is killed and removed.

use std::collections::BTreeSet;
use std::io::BufRead;
use std::path::Path;

use ostler_tests::leftovers::end_all_of;

fn main() {
    let mut open = BTreeSet::new();
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        if let Some(directory) = line.strip_prefix('+') {
            open.insert(directory.to_owned());
        } else if let Some(directory) = line.strip_prefix('-') {
            open.remove(directory);
        }
    }
    for directory in open {
        let directory = Path::new(&directory);
        end_all_of(directory);
        // It may be gone already.
        _ = std::fs::remove_dir_all(directory);
    }
}
