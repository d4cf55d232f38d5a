//! The combinations of features that people use. The default ones are what clippy and the tests are
//! built with.

use crate::steps::{Outcome, cargo, output, step};

/// A title, and the arguments of `cargo clippy`. RocksDB is compiled again (18 minutes) when
/// another selection of packages changes the features of what its build depends on: combinations
/// with it are of the whole workspace.
const COMBINATIONS: [(&str, &str); 11] = [
    (
        "none (crates without an engine)",
        "-p ostler-core -p ostler-failpoint -p ostler-os -p ostler-telemetry -p ostler-supervisor",
    ),
    (
        "Python workers, their specifications alone",
        "-p ostler-python --no-default-features",
    ),
    (
        "redb, Python workers",
        "-p ostler-python --no-default-features --features pool,redb",
    ),
    (
        "redb, without probes",
        "-p ostler --no-default-features --features redb",
    ),
    (
        "redb, probe-http",
        "-p ostler --no-default-features --features redb,probe-http",
    ),
    (
        "redb, probe-grpc",
        "-p ostler --no-default-features --features redb,probe-grpc",
    ),
    (
        "redb, config, ready-line, otlp, testing",
        "-p ostler --no-default-features --features redb,config,ready-line,otlp,testing",
    ),
    (
        "the program with redb",
        "-p ostler-cli --no-default-features --features redb",
    ),
    (
        "redb, stdio",
        "-p ostler-serve --no-default-features --features redb,stdio",
    ),
    (
        "rocksdb",
        "--workspace --no-default-features --features ostler/rocksdb,ostler-tests/rocksdb",
    ),
    // Without `--workspace`: with ractor's cluster feature, messages of the examples would have to
    // be serialisable. All other features together are what clippy checks.
    (
        "redb, otlp, cluster",
        "-p ostler --no-default-features --features redb,otlp,cluster",
    ),
];

/// Lints each, runs the supervision tests with ractor's cluster feature, and asks that a
/// build without an engine says what to choose.
pub(super) fn check(environment: &[(&'static str, String)]) -> Outcome {
    for (name, arguments) in COMBINATIONS {
        let mut check = cargo();
        check
            .arg("clippy")
            .args(arguments.split(' '))
            .args(["--", "-D", "warnings"])
            .envs(environment.iter().cloned());
        step(&format!("features: {name}"), &mut check)?;
    }
    no_engine()?;
    let mut refusals = cargo();
    refusals.args([
        "test",
        "--package",
        "ostler-core",
        "--no-default-features",
        "--lib",
        "features",
    ]);
    step("features: what a build lacks is refused by name", &mut refusals)?;
    // Features of ractor are shared by a whole build: with this one its messages must be
    // serialisable.
    let mut cluster = cargo();
    cluster.args([
        "test",
        "--package",
        "ostler-supervisor",
        "--test",
        "supervisor",
        "--features",
        "cluster",
    ]);
    step("features: cluster (tests of supervision)", &mut cluster)
}

/// A build without an engine is an error that names both.
fn no_engine() -> Outcome {
    let message = match output(cargo().args(["check", "-p", "ostler", "--no-default-features"])) {
        Ok(_) => return Err("ostler compiles without an engine for the process table".to_owned()),
        Err(message) => message,
    };
    if message.contains("rocksdb") && message.contains("redb") && message.contains("feature") {
        println!("── features: no engine: refused, with the choice named");
        return Ok(());
    }
    Err(format!(
        "a build without an engine does not say what to choose:\n{message}"
    ))
}
