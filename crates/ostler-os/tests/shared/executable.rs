//! Program files that can be executed at once, for the tests of this crate and of the product.

use std::path::Path;
use std::process::Command;

/// Has install(1) copy a program. A file that this process writes itself is busy (ETXTBSY) for as
/// long as a process that another test has forked meanwhile holds a copy of the descriptor, which
/// is until its exec.
pub(crate) fn install(from: impl AsRef<Path>, to: &Path, mode: u32) {
    let mut install = Command::new("install");
    install.args(["-m", &format!("{mode:o}")]).arg(from.as_ref()).arg(to);
    let status = install.status().expect("install(1) is run");
    assert!(status.success(), "{}: {status}", to.display());
}
