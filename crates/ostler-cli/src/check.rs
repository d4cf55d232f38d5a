//! `ostler check`: is the file right, and what does it mean?

use std::io::{self, Write as _};

use crate::cli::CheckArgs;
use crate::config;
use crate::exit::{Exit, Failed};

/// Prints the resolved specification, or every mistake; what is hardly meant goes to stderr.
pub(crate) fn run(args: &CheckArgs) -> Result<Exit, Failed> {
    let config = config::load(&args.file).map_err(Failed::wrong)?;
    for doubt in config.doubts() {
        // A stderr that nobody reads is no failure of the check.
        drop(writeln!(io::stderr(), "{}: {doubt}", args.file.display()));
    }
    match io::stdout().write_all(config::show(&config).as_bytes()) {
        // A reader such as `head` that has seen enough is no failure.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failed::machine(format!("stdout: {error}"))),
        _ => Ok(Exit::Clean),
    }
}
