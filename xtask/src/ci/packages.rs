//! `cargo add ostler` works: every crate is packaged as it would be published, and an app outside
//! the workspace is built from the packages, without a network, and run.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::steps::{Outcome, cargo, output, root, step};

/// The app: a pool of two processes from their start to their release.
const MAIN: &str = r#"
use ostler::{Ostler, Restart};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let state = std::env::temp_dir().join(format!("ostler-app-{}", std::process::id()));
    std::fs::create_dir(&state)?;
    let ostler = Ostler::builder("packaged").state_dir(&state).start().await?;
    let pool = ostler
        .pool("sleepers")
        .command(["sleep", "600"])
        .workers(2)
        .restart(Restart::Permanent)
        .start()
        .await?;
    pool.wait_ready().await;
    pool.restart_worker(0).await?;
    let report = ostler.stop().await?;
    std::fs::remove_dir_all(&state)?;
    assert!(report.is_success(), "{report}");
    println!("{report}");
    Ok(())
}
"#;

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
    run.args(["run", "--offline"]).current_dir(&app);
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

fn target_directory() -> Outcome<PathBuf> {
    let metadata = metadata()?;
    let directory = metadata["target_directory"].as_str();
    Ok(PathBuf::from(
        directory.ok_or("cargo metadata names no target directory")?,
    ))
}

fn metadata() -> Outcome<Value> {
    let printed = output(cargo().args(["metadata", "--format-version", "1", "--no-deps", "--offline"]))?;
    serde_json::from_str(&printed).map_err(|error| format!("cargo metadata: {error}"))
}

fn unpack(krate: &Published, place: &Path) -> Outcome {
    let archive = target_directory()?.join(format!("package/{}-{}.crate", krate.name, krate.version));
    output(Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(place)).map(drop)
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
         ostler = {{ version = \"{}\", default-features = false, features = [\"redb\"] }}\n\
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
    put("src/main.rs", MAIN)?;
    fs::copy(root().join("Cargo.lock"), app.join("Cargo.lock")).map_err(|error| format!("Cargo.lock: {error}"))?;
    Ok(())
}

/// Profiles of packages that the app does not have would be warnings.
fn without_unused(profiles: &str) -> String {
    let of_rocksdb = |section: &&str| !section.starts_with("[profile.dev.package.librocksdb-sys]");
    let sections = profiles.split("\n\n").map(str::trim_start);
    sections.filter(of_rocksdb).collect::<Vec<_>>().join("\n\n")
}
