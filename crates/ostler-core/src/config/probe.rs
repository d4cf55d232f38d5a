//! `ready` and `health`: what is asked, and of which port.

use super::section::{Field, Section, Walk};
use super::{keys, values};
use crate::spec::{Health, PortOwner, Probe, ProbeKind, Ready};

/// `ready = { … }`: exactly one of its forms.
pub(super) fn ready(walk: &mut Walk, of: &Section<'_>) -> Field<Ready> {
    let section = match of.table(walk, "ready", keys::READY) {
        Field::Is(section) => section,
        Field::Absent => return Field::Absent,
        Field::Wrong => return Field::Wrong,
    };
    let forms = ["notify", "http", "grpc", "tcp", "exec", "line", "file", "after"];
    let Some(form) = the_one(walk, &section, &forms) else {
        return Field::Wrong;
    };
    if matches!(form, "notify" | "line" | "file" | "after") && needs_no_port(walk, &section, form) {
        return Field::Wrong;
    }
    match form {
        "notify" => section.read(walk, form, values::only_true).map(|()| Ready::Notify),
        "file" => section.read(walk, form, values::only_true).map(|()| Ready::File),
        "line" => section.read(walk, form, values::string).map(Ready::Line),
        "after" => section.read(walk, form, values::duration).map(Ready::After),
        question => probe(walk, &section, question).map(Ready::Probe),
    }
}

/// Refuses the keys that say something about a port, for a form that asks none. Whether there were
/// any.
fn needs_no_port(walk: &mut Walk, section: &Section<'_>, form: &str) -> bool {
    let refused = ["port", "owner", "headers"].map(|key| refuse_for(walk, section, form, key));
    refused.contains(&true)
}

fn refuse_for(walk: &mut Walk, section: &Section<'_>, form: &str, key: &str) -> bool {
    let found = section.has(key);
    if found {
        let message = format!("{form} needs no port; leave it out");
        walk.wrong(section.locate(key), &section.path_of(key), message);
    }
    found
}

/// `health = { … }`: one probe, and its interval.
pub(super) fn health(walk: &mut Walk, of: &Section<'_>) -> Option<Health> {
    let section = of.table(walk, "health", keys::HEALTH).ok()?;
    let form = the_one(walk, &section, &["http", "grpc", "tcp", "exec"]);
    let probe = form.map_or(Field::Wrong, |form| probe(walk, &section, form)).ok();
    let defaults = Health::new(probe.clone().unwrap_or(Probe::new(ProbeKind::Tcp)));
    let mut health = defaults.clone();
    health.every = section.read(walk, "every", values::duration).or(defaults.every);
    health.timeout = section.read(walk, "timeout", values::duration).or(defaults.timeout);
    health.misses = section.read(walk, "misses", values::count).or(defaults.misses);
    probe.map(|_| health)
}

fn probe(walk: &mut Walk, section: &Section<'_>, form: &str) -> Field<Probe> {
    if form == "exec" {
        return match needs_no_port(walk, section, form) {
            true => Field::Wrong,
            false => section.read(walk, form, values::strings).map(Probe::exec),
        };
    }
    let port = section.read(walk, "port", values::string).ok();
    let owner = section.read(walk, "owner", values::owner).or(PortOwner::default());
    let kind = match form {
        "http" => section.read(walk, form, values::string).map(ProbeKind::Http),
        "grpc" => section.read(walk, form, values::grpc_service).map(ProbeKind::Grpc),
        _ => section.read(walk, form, values::only_true).map(|()| ProbeKind::Tcp),
    };
    let headers = section.strings(walk, "headers");
    kind.map(|kind| {
        let mut probe = Probe::new(kind);
        (probe.port, probe.owner, probe.headers) = (port, owner, headers);
        probe
    })
}

/// Which one of `forms` the table holds; none or several are mistakes.
fn the_one<'f>(walk: &mut Walk, section: &Section<'_>, forms: &[&'f str]) -> Option<&'f str> {
    let held: Vec<&str> = forms.iter().copied().filter(|form| section.has(form)).collect();
    match held.as_slice() {
        [one] => Some(one),
        [] => {
            walk.missing(
                section.at,
                &section.path,
                &format!("expected one of {}", forms.join(", ")),
            );
            None
        }
        several => {
            walk.wrong(
                section.at,
                &section.path,
                format!("use only one of {}", several.join(" and ")),
            );
            None
        }
    }
}
