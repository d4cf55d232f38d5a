//! `ostler sweep`: ends what dead runs of an app left behind, and removes their records.

use ostler::DirEnv;
use ostler::sweep::{self, Elsewhere, SweepReport};

use crate::cli::SweepArgs;
use crate::exit::{self, Exit, Failed};
use crate::output::lines::counted;
use crate::output::text::Line;
use crate::threads;

/// Sweeps, and prints what was found.
pub(crate) fn run(args: &SweepArgs) -> Result<Exit, Failed> {
    threads::require()?;
    let app_dir =
        ostler::app_dir(&DirEnv::from_process(), &args.app, args.state_dir.as_deref()).map_err(Failed::error)?;
    let elsewhere = match args.forget_elsewhere {
        true => Elsewhere::Forget,
        false => Elsewhere::Keep,
    };
    let report = sweep::sweep(&app_dir, elsewhere).map_err(Failed::error)?;
    exit::print(&lines(&args.app, &report))?;
    Ok(if report.kept == 0 { Exit::Clean } else { Exit::Machine })
}

fn lines(app: &str, report: &SweepReport) -> Vec<Line> {
    let head = format!(
        "{app}: {} removed, {} killed, {} left alone",
        counted(report.runs, "dead run", "dead runs"),
        counted(report.killed.len() as u64, "process", "processes"),
        counted(report.live, "live run", "live runs")
    );
    let killed = report.killed.iter().map(|process| format!("  killed {process}"));
    let survivors = report.survivors.iter();
    let survivors = survivors.map(|process| format!("  could not be killed: {process}"));
    let remarks = report.remarks.iter().map(|remark| format!("  {remark}"));
    let below = killed.chain(survivors).chain(remarks);
    [head].into_iter().chain(below).map(Line::plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_prints_what_was_found() {
        let mut report = SweepReport::default();
        report.runs = 1;
        report.killed = vec!["pid 7 (sleep)".into()];
        report.survivors = vec!["pid 8 (dd): uninterruptible".into()];
        let texts: Vec<_> = lines("demo", &report).into_iter().map(|line| line.text).collect();
        assert_eq!(
            texts.join("\n"),
            "demo: 1 dead run removed, 1 process killed, 0 live runs left alone\n  killed pid 7 (sleep)\n  could not be killed: pid 8 (dd): uninterruptible"
        );
    }
}
