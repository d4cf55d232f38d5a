//! Checks that dependencies between the crates of the workspace only point down.

#[path = "layers/cycles.rs"]
mod cycles;

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

/// The layers, lowest first. A crate may only depend on crates listed before it.
const LAYERS: [&str; 10] = [
    "ostler-failpoint",
    "ostler-core",
    "ostler-os",
    "ostler-registry",
    "ostler-telemetry",
    "ostler-supervisor",
    "ostler",
    "ostler-serve",
    "ostler-python",
    "ostler-cli",
];

/// Dependencies that these layers must not have by design.
const FORBIDDEN: [(&str, &[&str]); 6] = [
    // A leaf that every layer uses.
    ("ostler-failpoint", &["ostler-core", "tokio", "tracing"]),
    // No clock, no runtime, no operating system.
    (
        "ostler-core",
        &["tokio", "nix", "libc", "rustix", "rocksdb", "redb", "ractor", "tracing"],
    ),
    // Linux only, independent of actors.
    ("ostler-os", &["ractor", "rocksdb", "redb"]),
    // Identities come from the core; records need no Linux.
    ("ostler-registry", &["ostler-os", "ractor"]),
    // OTP supervision of any ractor actor, without OS processes.
    (
        "ostler-supervisor",
        &[
            "ostler-os",
            "ostler-registry",
            "ostler-telemetry",
            "nix",
            "rustix",
            "libc",
        ],
    ),
    // Telemetry is received through a trait, so that apps without it do not compile it.
    (
        "ostler",
        &[
            "opentelemetry",
            "opentelemetry_sdk",
            "opentelemetry-otlp",
            "tracing-opentelemetry",
        ],
    ),
];

/// The dependencies of each crate in the workspace, without dev-dependencies.
fn dependencies() -> BTreeMap<String, Vec<String>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("running cargo");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("parsing cargo's JSON");
    let text = |value: &Value| value.as_str().expect("string").to_owned();
    let list = |value: &Value| value.as_array().expect("array").clone();
    list(&metadata["packages"])
        .iter()
        .map(|package| {
            let dependencies = list(&package["dependencies"]);
            let normal = dependencies.iter().filter(|dependency| dependency["kind"].is_null());
            (
                text(&package["name"]),
                normal.map(|dependency| text(&dependency["name"])).collect(),
            )
        })
        .collect()
}

#[test]
fn dependencies_point_down_only() {
    let all = dependencies();
    for (height, layer) in LAYERS.iter().enumerate() {
        let dependencies = all.get(*layer).unwrap_or_else(|| panic!("no crate {layer}"));
        for (above, upper) in LAYERS.iter().enumerate().skip(height) {
            assert!(
                !dependencies.iter().any(|name| name == upper),
                "{layer} depends on {upper}, a higher layer ({above} > {height})"
            );
        }
    }
}

#[test]
fn every_crate_is_in_a_layer() {
    let all = dependencies();
    for name in all
        .keys()
        .filter(|name| name.starts_with("ostler") && *name != "ostler-tests")
    {
        assert!(LAYERS.contains(&name.as_str()), "{name} is not in LAYERS");
    }
}

#[test]
fn lower_layers_have_no_forbidden_dependencies() {
    let all = dependencies();
    for (layer, forbidden) in FORBIDDEN {
        for name in forbidden {
            assert!(
                !all[layer].iter().any(|dependency| dependency == name),
                "{layer} depends on {name}"
            );
        }
    }
}
