//! The same pools in an app's own configuration, by serde: they mean the same, and their mistakes
//! have the same texts.

use std::collections::BTreeMap;

use ostler_core::config::PoolSpecs;
use serde_json::Value;

use super::*;

/// What an app reads from this text, with the base of [`read`].
fn by_serde(text: &str) -> Result<Vec<PoolSpec>, String> {
    let mut all: BTreeMap<String, Value> = toml::from_str(text).unwrap();
    let pools = serde_json::from_value::<PoolSpecs>(all.remove("pool").unwrap());
    let pools = pools.map_err(|error| error.to_string())?;
    Ok(pools.relative_to("/srv/demo").into_iter().collect())
}

/// Without the place, sorted.
fn texts(mistakes: &str) -> Vec<String> {
    let text = |line: &str| match line.strip_prefix("ostler.toml:") {
        Some(placed) => placed.split_once(": ").unwrap().1.to_owned(),
        None => line.to_owned(),
    };
    let mut texts: Vec<String> = mistakes.lines().map(text).collect();
    texts.sort();
    texts
}

/// The same from the file and by serde.
#[track_caller]
fn same(text: &str) {
    match (read(text), by_serde(text)) {
        (Ok(config), Ok(pools)) => assert_eq!(config.pools, pools),
        (Err(of_file), Err(of_serde)) => assert_eq!(texts(&of_file), texts(&of_serde)),
        (of_file, of_serde) => panic!("{of_file:#?}\n{of_serde:#?}"),
    }
}

#[test]
fn pools_are_the_same() {
    same(&in_pool(""));
    same(&in_pool("cwd = \"data\"\nhealth = { exec = [\"./is-up\"] }"));
    same(&in_pool(
        "ports = { http = \"7000-7009\", own = 0x1f90 }\nintensity = 3",
    ));
    same(&in_pool(
        "recycle = { memory = \"2GiB\", jitter = 1 }\nretry = { budget = 0.5 }",
    ));
    assert!(read(&in_pool("cwd = \"data\"")).is_ok());
}

#[test]
fn mistakes_are_the_same() {
    for lines in [
        "workers = \"four\"\nrestart = \"transiemt\"\nperiod = 5\nport = \"70000\"\nready = { htpp = \"/\" }",
        "health = { http = \"healthz\", every = \"0s\", misses = 0 }\nstop = { signal = \"TERMINATE\" }",
        "output = { ring = \"64 apples\" }\ntelemetry = 1\nstdin = 1.5\nmode = \"independent\"",
        "port = 7001\nports = { \"x-y\" = 0 }\nwatchdog = \"0s\"\nenv = { A = 1, B = [] }",
        "workers = 2\nmin_workers = 3\nready = { notify = false, port = \"web\" }\nintensity = -1",
        "ready = { line = \"^(\" }\ncwd = \"\"\naddress = \"here\"\ninherit_env = \"yes\"",
        "sessions = { afinity = \"hint\", ttl = \"0s\" }\nbreaker = { rate = { share = 0 } }\nqueue = 3",
        "[pool.more]\ncommand = []\n[pool.none]\n[pool.text]\ncommand = \"python3 x.py\"",
        "port = 7001\n[pool.a]\ncommand = [\"x\"]\nport = 7001",
    ] {
        let text = in_pool(lines);
        assert!(read(&text).is_err(), "{text}");
        same(&text);
    }
}
