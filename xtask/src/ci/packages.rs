//! `cargo add ostler` works: every crate is packaged as it would be published, and an app outside
//! the workspace, the README's example, is built from the packages, without a network, and run.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::steps::{Outcome, cargo, metadata, output, root, step, target_directory};

pub(super) fn build_an_app_from_them() -> Outcome {
    let crates = published()?;
    let mut package = cargo();
    package.args(["package", "--no-verify", "--offline", "--allow-dirty"]);
    for krate in &crates {
        package.args(["-p", &krate.name]);
    }
    step("packaging every crate", &mut package)?;
    let place = target_directory()?.join("packaged");
    // What an earlier run has left must not be what is built.
    fs::remove_dir_all(&place).ok();
    fs::create_dir_all(place.join("app/src")).map_err(|error| format!("{}: {error}", place.display()))?;
    for krate in &crates {
        unpack(krate, &place)?;
    }
    write_app(&crates, &place)?;
    let app = place.join("app");
    let mut run = cargo();
    run.args(["run", "--offline"])
        .current_dir(&app)
        .env("RUNTIME_DIRECTORY", &place);
    step("an app built from the packages", &mut run)
}

struct Published {
    name: String,
    version: String,
}

/// The crates of the workspace that may be published.
fn published() -> Outcome<Vec<Published>> {
    let metadata = metadata()?;
    let packages = metadata["packages"]
        .as_array()
        .ok_or("cargo metadata lists no packages")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(packages
        .iter()
        .filter(|package| package["publish"].is_null())
        .map(|package| Published {
            name: text(&package["name"]),
            version: text(&package["version"]),
        })
        .collect())
}

fn unpack(krate: &Published, place: &Path) -> Outcome {
    let archive = target_directory()?.join(format!("package/{}-{}.crate", krate.name, krate.version));
    output(Command::new("tar").arg("-xmzf").arg(archive).arg("-C").arg(place)).map(drop)
}

/// The app's manifest names the crates as crates.io would have them; the patches stand in for
/// crates.io. Profile and lock file are the workspace's, so that what is compiled already is used
/// again.
fn write_app(crates: &[Published], place: &Path) -> Outcome {
    let workspace = fs::read_to_string(root().join("Cargo.toml")).map_err(|error| format!("Cargo.toml: {error}"))?;
    let profiles = workspace.find("[profile.dev]").map_or("", |at| &workspace[at..]);
    let version = |name: &str| {
        let found = crates.iter().find(|krate| krate.name == name);
        found
            .map(|krate| krate.version.clone())
            .ok_or(format!("no crate {name}"))
    };
    let mut manifest = format!(
        "[package]\nname = \"app\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[workspace]\n\n[dependencies]\n\
         ostler = {{ version = \"{}\", default-features = false, features = [\"redb\", \"probes\"] }}\n\
         tokio = {{ version = \"1\", features = [\"rt-multi-thread\", \"macros\"] }}\n\n[patch.crates-io]\n",
        version("ostler")?
    );
    for Published { name, version } in crates {
        writeln!(manifest, "{name} = {{ path = \"../{name}-{version}\" }}").map_err(|error| error.to_string())?;
    }
    write!(manifest, "\n{}", without_unused(profiles)).map_err(|error| error.to_string())?;
    let app = place.join("app");
    let put = |file: &str, text: &str| {
        fs::write(app.join(file), text).map_err(|error| format!("{}: {error}", app.join(file).display()))
    };
    put("Cargo.toml", &manifest)?;
    put("src/main.rs", &main_of_readme()?)?;
    fs::copy(root().join("examples/web/server.py"), app.join("server.py"))
        .map_err(|error| format!("server.py: {error}"))?;
    fs::copy(root().join("Cargo.lock"), app.join("Cargo.lock")).map_err(|error| format!("Cargo.lock: {error}"))?;
    Ok(())
}

/// The README's example in Rust, as a program.
fn main_of_readme() -> Outcome<String> {
    let readme = fs::read_to_string(root().join("README.md")).map_err(|error| format!("README.md: {error}"))?;
    let (_, rest) = readme
        .split_once("```rust\n")
        .ok_or("README.md has no example in Rust")?;
    let (example, _) = rest.split_once("```").ok_or("README.md: the example does not end")?;
    Ok(format!(
        "#[tokio::main]\nasync fn main() -> Result<(), Box<dyn std::error::Error>> {{\n{example}\n\
         drop(events);\nassert!(report.is_success(), \"{{report}}\");\nprintln!(\"{{report}}\");\nOk(())\n}}\n"
    ))
}

/// Profiles of packages that the app does not have would be warnings.
fn without_unused(profiles: &str) -> String {
    let of_rocksdb = |section: &&str| !section.starts_with("[profile.dev.package.librocksdb-sys]");
    let sections = profiles.split("\n\n").map(str::trim_start);
    sections.filter(of_rocksdb).collect::<Vec<_>>().join("\n\n")
}
