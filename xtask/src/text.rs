//! `cargo xtask text`: the rules of docs/style.md that a program can check.
//!
//! Every tracked Rust and Markdown file is checked, and the words also in Python.

mod comments;
mod index;
mod maps;
mod markdown;
mod words;

use std::path::Path;
use std::process::Command;

use crate::steps::{Outcome, output, root};

/// What to do about a file that breaks a rule.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Check,
    /// Joins wrapped Markdown and wraps comments that are too wide; words need a person.
    Fix,
}

/// Checks every tracked file; lists every offence, not only the first.
pub(crate) fn run(mode: Mode) -> Outcome {
    let files = tracked()?;
    let mut offences = maps::missing(&files, |path| root().join(path).is_file());
    for file in &files {
        let text = read(file)?;
        let fixed = fix(file, &text)?;
        if mode == Mode::Fix && fixed != text {
            println!("fixed {file}");
            std::fs::write(root().join(file), &fixed).map_err(|error| format!("writing {file}: {error}"))?;
        }
        if mode == Mode::Check && file == index::FILE && fixed != text {
            offences.push(format!("{file}: the index does not list what the directory holds"));
        }
        let text = if mode == Mode::Fix { &fixed } else { &text };
        offences.extend(offences_in(file, text));
    }
    if offences.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{} of docs/style.md's rules broken:\n{}\n`cargo xtask text --fix` repairs wrapping.",
        offences.len(),
        offences.join("\n")
    ))
}

fn fix(file: &str, text: &str) -> Outcome<String> {
    Ok(match extension(file) {
        "md" if file == index::FILE => index::rendered(&markdown::joined(text))?,
        "md" => markdown::joined(text),
        "rs" => comments::wrapped(text),
        _ => text.to_owned(),
    })
}

fn offences_in(file: &str, text: &str) -> Vec<String> {
    let mut offences = Vec::new();
    if extension(file) == "md" {
        for line in markdown::wrapped_lines(text) {
            offences.push(format!("{file}:{line}: hard wrap; Markdown has one line per paragraph"));
        }
    }
    if extension(file) == "rs" {
        for line in comments::too_wide(text) {
            offences.push(format!(
                "{file}:{line}: comment is wider than {} columns",
                comments::WIDTH
            ));
        }
    }
    if !words::EXEMPT.contains(&file) {
        for (line, word, instead) in words::found(text) {
            offences.push(format!("{file}:{line}: \"{word}\"; say {instead}"));
        }
    }
    offences
}

/// Rust, Markdown and Python files that git tracks, or would once they are added.
fn tracked() -> Outcome<Vec<String>> {
    let mut git = Command::new("git");
    git.args([
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
        "*.rs",
        "*.md",
        "*.py",
    ])
    .current_dir(root());
    let files = output(&mut git)?;
    // A file that is deleted but not yet committed is still listed.
    Ok(files
        .lines()
        .filter(|file| root().join(file).is_file())
        .map(str::to_owned)
        .collect())
}

fn read(file: &str) -> Outcome<String> {
    std::fs::read_to_string(root().join(file)).map_err(|error| format!("reading {file}: {error}"))
}

fn extension(file: &str) -> &str {
    Path::new(file)
        .extension()
        .and_then(|extension| extension.to_str())
        .unwrap_or_default()
}
