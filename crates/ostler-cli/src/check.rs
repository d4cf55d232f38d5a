//! `ostler check`: is the file right, and what does it mean?

use std::io;

use crate::cli::CheckArgs;
use crate::config::{self, Config};
use crate::exit::{self, Exit, Failed};
use crate::output::text::{self, Line, lines_of};
use crate::python;
use crate::threads;

/// Prints the resolved specification, or every mistake; warnings go to stderr.
pub(crate) fn run(args: &CheckArgs) -> Result<Exit, Failed> {
    let config = config::load(&args.file).map_err(Failed::mistakes)?;
    let warning = |warning| Line::plain(format!("{}: warning: {warning}", args.file.display()));
    let warnings: Vec<Line> = config.warnings().map(warning).collect();
    // A stderr that can't be written does not fail the check.
    drop(text::print(&mut io::stderr(), &warnings));
    exit::print(&lines_of(&config::show(&config)))?;
    if args.preflight {
        threads::require()?;
        return preflight(&config);
    }
    Ok(Exit::Clean)
}

/// Prints what each Python pool has and lacks, as comments behind the specification.
fn preflight(config: &Config) -> Result<Exit, Failed> {
    let findings = python::examine(config, &mut text::say);
    let mut lines = Vec::new();
    for finding in &findings {
        lines.push(Line::plain(format!("# pool {}: {}", finding.pool, finding.found)));
        for (problem, advice) in &finding.problems {
            lines.extend(problem.lines().map(|line| Line::plain(format!("#   {line}"))));
            lines.push(Line::plain(format!("#     {advice}")));
        }
    }
    exit::print(&lines)?;
    let sound = findings.iter().all(|finding| finding.problems.is_empty());
    Ok(if sound { Exit::Clean } else { Exit::Trouble })
}
