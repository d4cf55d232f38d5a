//! `ready` and `health`: which question is asked, and of which port.

use ostler_core::spec::{Health, Probe, ProbeKind, Ready};

use super::keys;
use super::section::{Field, Section, Walk};
use super::values;

/// `ready = { … }`: exactly one of its forms.
pub(super) fn ready(walk: &mut Walk<'_>, pool: &Section<'_>) -> Field<Ready> {
    let section = match pool.table(walk, "ready", keys::READY) {
        Field::Is(section) => section,
        Field::Absent => return Field::Absent,
        Field::Wrong => return Field::Wrong,
    };
    let forms = ["notify", "http", "grpc", "tcp", "line", "file", "after"];
    let Some(form) = the_one(walk, &section, &forms) else {
        return Field::Wrong;
    };
    let port = section.read(walk, "port", values::string);
    if matches!(port, Field::Is(_)) && matches!(form, "notify" | "line" | "file" | "after") {
        walk.wrong(
            section.locate("port"),
            &section.path_of("port"),
            format!("{form} asks no port; leave it out"),
        );
        return Field::Wrong;
    }
    let port = port.ok();
    match form {
        "notify" => section.read(walk, form, values::only_true).map(|()| Ready::Notify),
        "file" => section.read(walk, form, values::only_true).map(|()| Ready::File),
        "line" => section.read(walk, form, values::regular_expression).map(Ready::Line),
        "after" => section.read(walk, form, values::duration).map(Ready::After),
        asked => kind(walk, &section, asked).map(|kind| Ready::Probe(Probe { kind, port })),
    }
}

/// `health = { … }`: one probe, and how often.
pub(super) fn health(walk: &mut Walk<'_>, pool: &Section<'_>) -> Option<Health> {
    let section = pool.table(walk, "health", keys::HEALTH).ok()?;
    let form = the_one(walk, &section, &["http", "grpc", "tcp"]);
    let port = section.read(walk, "port", values::string).ok();
    let kind = form.and_then(|form| kind(walk, &section, form).ok());
    let defaults = Health::new(Probe {
        kind: kind.clone().unwrap_or(ProbeKind::Tcp),
        port,
    });
    let health = Health {
        every: section.read(walk, "every", values::duration).or(defaults.every),
        timeout: section.read(walk, "timeout", values::duration).or(defaults.timeout),
        misses: section.read(walk, "misses", values::count).or(defaults.misses),
        probe: defaults.probe,
    };
    kind.map(|_| health)
}

fn kind(walk: &mut Walk<'_>, section: &Section<'_>, form: &str) -> Field<ProbeKind> {
    match form {
        "http" => section.read(walk, form, values::string).map(ProbeKind::Http),
        "grpc" => section.read(walk, form, values::only_true).map(|()| ProbeKind::Grpc),
        _ => section.read(walk, form, values::only_true).map(|()| ProbeKind::Tcp),
    }
}

/// Which one of `forms` the table holds; none or several are mistakes.
fn the_one<'f>(walk: &mut Walk<'_>, section: &Section<'_>, forms: &[&'f str]) -> Option<&'f str> {
    let held: Vec<&str> = forms
        .iter()
        .copied()
        .filter(|form| section.get(form).is_some())
        .collect();
    match held.as_slice() {
        [one] => Some(one),
        [] => {
            walk.missing(
                section.at,
                &section.path,
                &format!("it asks nothing; one of {} is wanted", forms.join(", ")),
            );
            None
        }
        several => {
            walk.wrong(
                section.at,
                &section.path,
                format!("{} were found; one of them is wanted", several.join(" and ")),
            );
            None
        }
    }
}
