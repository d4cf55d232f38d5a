//! Program files that can be executed at once.
//!
//! A file that this process writes itself is busy (ETXTBSY) for as long as a process that another
//! test has forked meanwhile holds a copy of the descriptor, which is until its exec. So install(1)
//! writes them, whose descriptors no other test can copy.

use std::path::Path;
use std::process::Command;

/// Copies a program, for every user to run.
pub(crate) fn copy_program(from: impl AsRef<Path>, to: &Path) {
    let mut install = Command::new("install");
    install.args(["-m", "755"]).arg(from.as_ref()).arg(to);
    let status = install.status().expect("install(1) is run");
    assert!(status.success(), "{}: {status}", to.display());
}

/// Writes a script.
#[allow(dead_code, reason = "not every test program writes one")]
pub(crate) fn write_script(path: &Path, text: &str) {
    let draft = path.with_extension("draft");
    std::fs::write(&draft, text).expect("written");
    copy_program(&draft, path);
    std::fs::remove_file(draft).expect("removed");
}
