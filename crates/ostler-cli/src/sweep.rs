//! `ostler sweep`: what dead runs of an app have left is ended, and their records are removed.

use std::io::{self, Write as _};

use ostler::DirEnv;
use ostler::sweep::{self, Elsewhere, SweepReport};

use crate::cli::SweepArgs;
use crate::exit::{Exit, Failed};

/// Sweeps, and says what was found.
pub(crate) fn run(args: &SweepArgs) -> Result<Exit, Failed> {
    let app_dir =
        ostler::app_dir(&DirEnv::from_process(), &args.app, args.state_dir.as_deref()).map_err(Failed::machine)?;
    let elsewhere = match args.forget_elsewhere {
        true => Elsewhere::Forget,
        false => Elsewhere::Keep,
    };
    let report = sweep::sweep(&app_dir, elsewhere).map_err(Failed::machine)?;
    // A stdout that nobody reads is no failure of the sweep.
    drop(writeln!(io::stdout(), "{}", text(&args.app, &report)));
    Ok(if report.kept == 0 { Exit::Clean } else { Exit::Machine })
}

fn text(app: &str, report: &SweepReport) -> String {
    let mut lines = vec![format!(
        "{app}: {} dead runs removed, {} processes killed, {} live runs left alone",
        report.runs,
        report.killed.len(),
        report.live
    )];
    lines.extend(report.killed.iter().map(|process| format!("  killed {process}")));
    lines.extend(
        report
            .survivors
            .iter()
            .map(|process| format!("  could not be killed: {process}")),
    );
    lines.extend(report.remarks.iter().map(|remark| format!("  {remark}")));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_was_found() {
        let report = SweepReport {
            runs: 1,
            killed: vec!["pid 7 (sleep)".into()],
            survivors: vec!["pid 8 (dd): uninterruptible".into()],
            ..SweepReport::default()
        };
        assert_eq!(
            text("demo", &report),
            "demo: 1 dead runs removed, 1 processes killed, 0 live runs left alone\n  killed pid 7 (sleep)\n  could not be killed: pid 8 (dd): uninterruptible"
        );
    }
}
