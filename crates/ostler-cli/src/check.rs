//! `ostler check`: is the file right, and what does it mean?

use std::io;

use crate::cli::CheckArgs;
use crate::config;
use crate::exit::{self, Exit, Failed};
use crate::output::text::{self, Line, lines_of};

/// Prints the resolved specification, or every mistake; warnings go to stderr.
pub(crate) fn run(args: &CheckArgs) -> Result<Exit, Failed> {
    let config = config::load(&args.file).map_err(Failed::mistakes)?;
    let warning = |warning| Line::plain(format!("{}: warning: {warning}", args.file.display()));
    let warnings: Vec<Line> = config.warnings().map(warning).collect();
    // A stderr that can't be written does not fail the check.
    drop(text::print(&mut io::stderr(), &warnings));
    exit::print(&lines_of(&config::show(&config)))?;
    Ok(Exit::Clean)
}
