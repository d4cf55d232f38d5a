//! Dependencies point down only: what each crate of the workspace may know of the others.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

/// The layers from the ground up. A crate may depend on those that are listed before it.
const LAYERS: [&str; 7] = [
    "ostler-core",
    "ostler-os",
    "ostler-registry",
    "ostler-telemetry",
    "ostler-supervisor",
    "ostler",
    "ostler-cli",
];

/// What these layers must not depend on, for the design's reasons.
const STRANGERS: [(&str, &[&str]); 5] = [
    // No clock, no runtime, no operating system.
    (
        "ostler-core",
        &["tokio", "nix", "libc", "rustix", "rocksdb", "redb", "ractor", "tracing"],
    ),
    // Linux, without a thought of actors.
    ("ostler-os", &["ractor", "rocksdb", "redb"]),
    ("ostler-registry", &["ractor"]),
    // OTP supervision of any ractor actor: no processes.
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
    // Telemetry is told by a trait: who wants none compiles none.
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

/// Of each crate of the workspace, what it depends on outside its tests.
fn dependencies() -> BTreeMap<String, Vec<String>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let text = |value: &Value| value.as_str().expect("a name is a string").to_owned();
    let list = |value: &Value| value.as_array().expect("a list").clone();
    list(&metadata["packages"])
        .iter()
        .map(|package| {
            let needed = list(&package["dependencies"]);
            let normal = needed.iter().filter(|dependency| dependency["kind"].is_null());
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
        let needed = all.get(*layer).unwrap_or_else(|| panic!("there is no crate {layer}"));
        for (above, upper) in LAYERS.iter().enumerate().skip(height) {
            assert!(
                !needed.iter().any(|name| name == upper),
                "{layer} depends on {upper}, which stands above it ({above} > {height})"
            );
        }
    }
}

#[test]
fn every_crate_has_its_layer() {
    let all = dependencies();
    for name in all
        .keys()
        .filter(|name| name.starts_with("ostler") && *name != "ostler-tests")
    {
        assert!(LAYERS.contains(&name.as_str()), "{name} has no place among the layers");
    }
}

#[test]
fn the_lower_layers_do_not_know_what_they_must_not() {
    let all = dependencies();
    for (layer, strangers) in STRANGERS {
        for stranger in strangers {
            assert!(
                !all[layer].iter().any(|name| name == stranger),
                "{layer} depends on {stranger}"
            );
        }
    }
}
