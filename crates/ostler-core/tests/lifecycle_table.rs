//! `docs/lifecycle.md` holds the whole table of states and inputs: it is rendered here from the
//! code and compared. `OSTLER_BLESS=1 cargo test -p ostler-core --test lifecycle_table` writes it
//! again.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use ostler_core::failure::{ExitStatus, Failure, Reason};
use ostler_core::lifecycle::{Cause, Effect, Input, Lifecycle, Outcome, Rest, Rules, Start, Transition};
use ostler_core::moment::Moment;
use ostler_core::spec::StopSpec;

const BEGIN: &str = "<!-- begin table: rendered by crates/ostler-core/tests/lifecycle_table.rs -->\n";
const END: &str = "<!-- end table -->\n";

#[test]
fn the_docs_hold_the_table_of_the_code() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/lifecycle.md");
    let page = std::fs::read_to_string(path).expect("docs/lifecycle.md is readable");
    let (head, rest) = page.split_once(BEGIN).expect("the page has the table's first mark");
    let (written, tail) = rest.split_once(END).expect("the page has the table's last mark");
    let rendered = render();
    if std::env::var_os("OSTLER_BLESS").is_some() {
        std::fs::write(path, format!("{head}{BEGIN}{rendered}{END}{tail}")).expect("docs/lifecycle.md is writable");
        return;
    }
    assert!(
        written == rendered,
        "docs/lifecycle.md differs from the code; OSTLER_BLESS=1 writes the table again. The code says:\n{rendered}"
    );
}

fn rules() -> Rules {
    Rules {
        start_timeout: Duration::from_secs(30),
        min_uptime: Duration::ZERO,
        stop: StopSpec::term(Duration::from_secs(5)),
        host_death: StopSpec::kill(),
        release_timeout: Duration::from_secs(10),
        start: Start::Shown,
        has_ports: true,
    }
}

fn stop(kill: bool) -> Input {
    Input::Stop {
        cause: Cause::UserStop,
        kill,
    }
}

fn exited() -> Input {
    Input::Exited(ExitStatus::Code(1))
}

/// Every situation with reactions of its own, with the inputs that lead to it.
fn situations() -> Vec<(&'static str, Vec<Input>)> {
    use Input::{GuardianLost, PortsFree, PortsHeld, Ready, Recorded, SittersEnded, Spawned, TreeGone, Unrecorded};
    let after = |more: Vec<Input>| [vec![Recorded, Spawned, Ready], more].concat();
    vec![
        ("Reserved: the record is being written", vec![]),
        (
            "Reserved: the record is being written, and a stop waits for it",
            vec![stop(false)],
        ),
        ("Reserved: the process is being spawned", vec![Recorded]),
        (
            "Reserved: the process is being spawned, and a stop waits for it",
            vec![Recorded, stop(false)],
        ),
        (
            "Reserved: the process is being spawned, and the guardian is lost",
            vec![Recorded, GuardianLost],
        ),
        (
            "Reserved: the process is being spawned, and guardian and sitters have ended",
            vec![Recorded, SittersEnded],
        ),
        ("Spawned", vec![Recorded, Spawned]),
        ("Ready", after(vec![])),
        ("Ready: the tree is gone, the exit not yet seen", after(vec![TreeGone])),
        ("Stopping", after(vec![stop(false)])),
        ("Stopping: killed", after(vec![stop(true)])),
        ("Stopping: the guardian is lost", after(vec![GuardianLost])),
        (
            "Stopping: the guardian is lost, and the tree is being killed past its sitter",
            after(vec![GuardianLost, stop(true)]),
        ),
        ("Stopping: guardian and sitters have ended", after(vec![SittersEnded])),
        (
            "Stopping: overdue, and its holder asked for",
            after(vec![stop(false), Input::Deadline]),
        ),
        (
            "Exited: after a stop, the grace runs",
            after(vec![stop(false), exited()]),
        ),
        ("Exited: by itself", after(vec![exited()])),
        (
            "Exited: by itself, and guardian and sitters have ended",
            after(vec![exited(), SittersEnded]),
        ),
        ("Releasing: the ports", after(vec![exited(), TreeGone])),
        (
            "Releasing: the ports, which were held",
            after(vec![exited(), TreeGone, PortsHeld("x".into())]),
        ),
        ("Releasing: the record", after(vec![exited(), TreeGone, PortsFree])),
        ("Released", after(vec![exited(), TreeGone, PortsFree, Unrecorded])),
    ]
}

fn inputs() -> Vec<(&'static str, Input)> {
    let failure = |reason| Failure::new(reason, "x");
    vec![
        ("Recorded", Input::Recorded),
        ("RecordFailed", Input::RecordFailed(failure(Reason::StoreFailed))),
        ("Spawned", Input::Spawned),
        ("SpawnFailed", Input::SpawnFailed(failure(Reason::CommandNotFound))),
        ("Ready", Input::Ready),
        ("StartFailed", Input::StartFailed(failure(Reason::ReadyTimeout))),
        ("Unhealthy", Input::Unhealthy(failure(Reason::HealthCheckFailed))),
        ("Stop", stop(false)),
        ("Stop, kill", stop(true)),
        ("Exited(1)", exited()),
        ("TreeGone", Input::TreeGone),
        ("SitterLost", Input::SitterLost),
        ("GuardianLost", Input::GuardianLost),
        ("SittersEnded", Input::SittersEnded),
        ("KilledPastSitter", Input::KilledPastSitter),
        ("EndedWithoutSitter(gone)", Input::EndedWithoutSitter(Rest::Gone)),
        (
            "EndedWithoutSitter(unseen)",
            Input::EndedWithoutSitter(Rest::Unseen("x".into())),
        ),
        (
            "EndedWithoutSitter(left)",
            Input::EndedWithoutSitter(Rest::Left("x".into())),
        ),
        ("PortsFree", Input::PortsFree),
        ("PortsHeld", Input::PortsHeld("x".into())),
        ("Unrecorded", Input::Unrecorded),
        ("UnrecordFailed", Input::UnrecordFailed("x".into())),
        ("Held", Input::Held("x".into())),
        ("Deadline", Input::Deadline),
    ]
}

fn render() -> String {
    let mut page = String::new();
    for (title, way) in situations() {
        let (mut life, _) = Lifecycle::new(rules(), Moment::ORIGIN);
        for input in way {
            let now = when(&life, &input);
            life.try_step(input, now)
                .unwrap_or_else(|why| panic!("{title}: its inputs do not lead there: {why}"));
        }
        let wait = match life.deadline() {
            Some(deadline) => format!("deadline {:?}", deadline.since_origin()),
            None => "no deadline".to_owned(),
        };
        write!(page, "\n### {title}\n\n{wait}\n\n").expect("a string takes all");
        page.push_str(&table(&life));
    }
    page.push('\n');
    page
}

fn table(life: &Lifecycle) -> String {
    let mut rows = String::new();
    let mut ignored = BTreeMap::<String, Vec<&str>>::new();
    for (name, input) in inputs() {
        let mut next = life.clone();
        let now = when(life, &input);
        match next.try_step(input, now) {
            Ok(effects) => {
                let effects: Vec<_> = effects.iter().map(short).collect();
                let effects = if effects.is_empty() {
                    "(noted)".to_owned()
                } else {
                    effects.join(", ")
                };
                writeln!(rows, "| {name} | {} | {effects} |", next.state().name()).expect("a string takes all");
            }
            Err(why) => ignored.entry(why.to_string()).or_default().push(name),
        }
    }
    let mut text = String::new();
    if !rows.is_empty() {
        write!(text, "| input | next state | effects |\n|---|---|---|\n{rows}\n").expect("a string takes all");
    }
    for (why, names) in ignored {
        writeln!(text, "- ignored, {why}: {}", names.join(", ")).expect("a string takes all");
    }
    text
}

/// A deadline comes at its time, everything else at once.
fn when(life: &Lifecycle, input: &Input) -> Moment {
    match (input, life.deadline()) {
        (Input::Deadline, Some(deadline)) => deadline,
        _ => Moment::ORIGIN,
    }
}

fn short(effect: &Effect) -> String {
    match effect {
        Effect::Record => "Record".into(),
        Effect::Spawn => "Spawn".into(),
        Effect::WatchReady => "WatchReady".into(),
        Effect::WatchHealth => "WatchHealth".into(),
        Effect::End(stop) => format!("**End({}, {:?})**", stop.signal, stop.grace),
        Effect::KillPastSitter => "**KillPastSitter**".into(),
        Effect::EndWithoutSitter => "**EndWithoutSitter**".into(),
        Effect::CheckPorts => "CheckPorts".into(),
        Effect::Unrecord => "Unrecord".into(),
        Effect::NameHolders => "NameHolders".into(),
        Effect::Announce { what, .. } => format!("announce *{}*", named(what)),
        Effect::ReleaseOverdue(failure) => format!("ReleaseOverdue({})", failure.reason),
        Effect::Done(outcome) => match outcome {
            Outcome::Stopped { status: Some(status) } => format!("Done(stopped, {status})"),
            Outcome::Stopped { status: None } => "Done(stopped)".into(),
            Outcome::Finished { status } => format!("Done(finished, {status})"),
            Outcome::Failed(failure) => format!("Done(failed: {})", failure.reason),
        },
    }
}

fn named(what: &Transition) -> String {
    match what {
        Transition::Reserved => "reserved".into(),
        Transition::Spawned => "spawned".into(),
        Transition::Ready => "ready".into(),
        Transition::Unhealthy(failure) => format!("unhealthy: {}", failure.reason),
        Transition::Stopping { cause, .. } => format!("stopping: {cause}"),
        Transition::Exited(status) => format!("exited: {status}"),
        Transition::Failed(failure) => format!("failed: {}", failure.reason),
        Transition::Released => "released".into(),
        Transition::Unseen(_) => "unseen".into(),
    }
}
