//! `ostler doctor`: what this machine allows, what that means for the promises, and what to do
//! about it.
//!
//! Facts come from below: [`ostler_os::machine`], a guardian that is really started, a lock that is
//! really taken. [`judge`] alone says what they mean; [`report`] prints it.

mod judge;
mod report;

use std::path::{Path, PathBuf};
use std::time::Duration;

use ostler::DirEnv;
use ostler_core::chain::chain;
use ostler_os::cgroup::CgroupUse;
use ostler_os::guardian::{Guardian, GuardianOptions, ProgramFrom};
use ostler_os::machine::Machine;

use crate::cli::DoctorArgs;
use crate::config;
use crate::exit::{Exit, Failed};
use crate::output::text;
use crate::python;
use judge::{Facts, Level};

/// How long the guardian that was started for the examination has to end: 5 s. It has nothing, and
/// ends at once.
const QUIT_LIMIT: Duration = Duration::from_secs(5);

/// Examines the machine and prints what was found.
pub(crate) fn run(args: &DoctorArgs) -> Result<Exit, Failed> {
    let subject = subject(args)?;
    let directory = subject.directory.map_err(|error| error.to_string());
    let state = directory.as_deref().map_err(Clone::clone).map(ostler_registry::try_out);
    let facts = Facts {
        machine: Machine::examine(CgroupUse::Auto),
        guardian: start_guardian(directory.as_deref().ok()),
        state,
        workers: subject.workers,
    };
    let mut findings = judge::judge(&facts);
    findings.extend(subject.python.iter().map(judge::python));
    if args.json {
        report::as_json(&findings)?;
    } else {
        report::as_text(&findings)?;
    }
    Ok(status(findings.iter().map(|finding| finding.level).max()))
}

/// What could not be found out may be worse than anything that was, so it weighs most.
fn status(worst: Option<Level>) -> Exit {
    match worst {
        None | Some(Level::Holds) => Exit::Clean,
        Some(Level::Weaker | Level::Broken) => Exit::Trouble,
        Some(Level::Unknown) => Exit::Machine,
    }
}

/// What the machine is examined for.
struct Subject {
    /// Where runs would be recorded.
    directory: Result<PathBuf, ostler::AppDirError>,
    /// How many workers the file has; `None` without a file.
    workers: Option<u64>,
    /// What the interpreters of its Python pools have and lack.
    python: Vec<python::Finding>,
}

fn subject(args: &DoctorArgs) -> Result<Subject, Failed> {
    let directory = |app: &str, given: Option<&Path>| ostler::app_dir(&DirEnv::from_process(), app, given);
    let Some(file) = &args.file else {
        // Any app's directory is in the same file system as this one's.
        let directory = directory("doctor", args.state_dir.as_deref());
        return Ok(Subject {
            directory,
            workers: None,
            python: Vec::new(),
        });
    };
    let config = config::load(file).map_err(Failed::mistakes)?;
    Ok(Subject {
        directory: directory(&config.app.name, config.app.state_dir.as_deref()),
        workers: Some(config.pools.iter().map(|pool| u64::from(pool.workers)).sum()),
        python: python::examine(&config, &mut text::say),
    })
}

/// Starts a guardian as a run does, notes where its program came from, and ends it.
fn start_guardian(state_dir: Option<&Path>) -> Result<ProgramFrom, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("the runtime can't be started: {error}"))?;
    let options = GuardianOptions {
        state_dir: state_dir.map(Path::to_owned),
        label: "doctor".into(),
        ..GuardianOptions::default()
    };
    runtime.block_on(async {
        let (guardian, _events) = Guardian::launch(options).await.map_err(|error| chain(&error))?;
        let program = guardian.program().clone();
        guardian.quit(QUIT_LIMIT).await.map_err(|error| chain(&error))?;
        Ok(program)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_that_of_the_worst() {
        let status = |levels: &[Level]| status(levels.iter().copied().max());
        assert_eq!(status(&[Level::Holds]), Exit::Clean);
        assert_eq!(status(&[Level::Weaker, Level::Holds]), Exit::Trouble);
        assert_eq!(status(&[Level::Broken]), Exit::Trouble);
        assert_eq!(status(&[Level::Unknown, Level::Broken]), Exit::Machine);
    }
}
