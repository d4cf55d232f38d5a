//! Pools by serde. That they are read as in a file, whatever is in them, is tested where files are
//! read: in `ostler-cli`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use super::PoolSpecs;
use crate::spec::{Health, PoolSpec, Port, Probe, Ready, StopSpec};
use crate::supervision::Backoff;

/// An app's configuration, with its own keys.
#[derive(Debug, Deserialize)]
struct Settings {
    listen: String,
    #[serde(default, rename = "pool")]
    pools: PoolSpecs,
}

fn error(json: serde_json::Value) -> Vec<String> {
    let error = serde_json::from_value::<PoolSpecs>(json).unwrap_err();
    error.to_string().lines().map(str::to_owned).collect()
}

fn web() -> PoolSpec {
    PoolSpec::new("web", ["./server", "--port", "{port}"])
        .workers(4)
        .port(Port::Any)
        .ready(Ready::http("/healthz"))
        .health(Health::http("/healthz").every(Duration::from_secs(5)))
        .stop(StopSpec::term(Duration::from_millis(2_500)))
}

#[test]
fn toml_and_json_say_the_same() {
    let toml = r#"
        listen = "0.0.0.0:80"
        [pool.web]
        command = ["./server", "--port", "{port}"]
        workers = 4
        port = "any"
        ready = { http = "/healthz" }
        health = { http = "/healthz", every = "5s" }
        stop = { grace = "2s 500ms" }
        [pool.plain]
        command = ["x"]
    "#;
    let json = json!({
        "listen": "0.0.0.0:80",
        "pool": {
            "web": {
                "command": ["./server", "--port", "{port}"],
                "workers": 4,
                "port": "any",
                "ready": { "http": "/healthz" },
                "health": { "http": "/healthz", "every": "5s" },
                "stop": { "grace": "2s 500ms" },
            },
            "plain": { "command": ["x"] },
        },
    });
    let expected: PoolSpecs = [PoolSpec::new("plain", ["x"]), web()].into_iter().collect();
    let from_toml: Settings = toml::from_str(toml).unwrap();
    let from_json: Settings = serde_json::from_str(&json.to_string()).unwrap();
    assert_eq!(from_toml.listen, from_json.listen);
    assert_eq!(from_toml.pools, expected);
    assert_eq!(from_json.pools, expected);
    let names: Vec<&str> = expected.iter().map(|pool| pool.name.as_str()).collect();
    assert_eq!((names, expected.len()), (vec!["plain", "web"], 2));
    assert_eq!(expected.get("web"), Some(&web()));

    let none: Settings = toml::from_str("listen = \"x\"").unwrap();
    assert!(none.pools.is_empty());
}

/// serde keeps what is flattened in a form of its own first.
#[test]
fn pools_beside_other_keys_are_read_too() {
    #[derive(Deserialize)]
    struct Flat {
        listen: String,
        #[serde(flatten)]
        pools: PoolSpecs,
    }
    let flat: Flat = toml::from_str("listen = \"x\"\n[web]\ncommand = [\"x\"]\nworkers = 3").unwrap();
    assert_eq!(flat.listen, "x");
    assert_eq!(flat.pools.get("web").unwrap().workers, 3);
}

#[test]
fn one_pool_gets_its_name_later() {
    let pool: PoolSpec = toml::from_str("command = [\"x\"]\nworkers = 2").unwrap();
    assert_eq!(pool.problems()[0].key, "name");
    let pool = pool.name("web");
    assert_eq!(pool, PoolSpec::new("web", ["x"]).workers(2));
    let error = toml::from_str::<PoolSpec>("command = []\nworkers = -1\nname = \"web\"").unwrap_err();
    assert_eq!(
        error
            .message()
            .lines()
            .map(|line| line.split(": ").next().unwrap())
            .collect::<Vec<_>>(),
        ["command", "name", "workers"]
    );
}

#[test]
fn all_mistakes_come_at_once_with_their_keys() {
    assert_eq!(
        error(json!({
            "web": {
                "comand": ["x"],
                "period": 5,
                "port": 70_000,
                "health": { "http": "healthz", "every": "0s" },
                "workers": "four",
            },
            "a b": { "command": ["x"], "port": 7001 },
            "more": { "command": ["x"], "ports": { "http": 7001 } },
        })),
        [
            r#"pool.a b: "a b" is not a valid name for a pool: use letters, digits, '-', '_' and '.', at most 64 of them"#,
            r#"pool.more.ports: pool "a b" uses port 7001 as well; use another one, or "any""#,
            r#"pool.web.comand: unknown key; did you mean "command"?"#,
            r#"pool.web.command: missing; set it to the program and its arguments, for example ["python3", "worker.py"]"#,
            r#"pool.web.health: "healthz" is not a path: it has to begin with '/'"#,
            r#"pool.web.health.every: zero would never pause; use a longer time"#,
            r#"pool.web.period: expected a duration such as "5s", "100ms" or "1m 30s", found the integer 5"#,
            r#"pool.web.port: expected a port from 1 to 65535, a range "7000-7099", "any", "reported", "listen" or "unix", found the integer 70000"#,
            r#"pool.web.workers: expected an integer from 0 to 4294967295, found the string "four""#,
        ]
    );
}

#[test]
fn python_is_refused_with_what_to_use_instead() {
    let found = error(json!({ "web": { "python": "worker.py", "devices": ["0"] } }));
    let instead = "is for Python workers, which this configuration does not have; set command, or add the pool in \
                   code with `ostler_python::Python::new(\"worker.py\")`";
    assert_eq!(
        found,
        [
            format!("pool.web.devices: {instead}"),
            format!("pool.web.python: {instead}")
        ]
    );
}

#[test]
fn what_no_key_takes_is_named() {
    let found = |pool: serde_json::Value| error(json!({ "web": pool })).join("\n");
    assert_eq!(found(json!(3)), "pool.web: expected a table, found the integer 3");
    assert!(found(json!({ "command": ["x"], "health": null })).ends_with("health: expected a table, found null"));
    assert!(
        found(json!({ "command": ["x"], "workers": u64::MAX })).ends_with("found the integer 18446744073709551615")
    );
    assert!(found(json!({ "command": ["x"], "workers": 1.0 })).ends_with("found the float 1.0"));
    assert!(found(json!({ "command": ["x", 1] })).ends_with("item 2: expected a string, found the integer 1"));
    assert_eq!(error(json!([1])), ["expected a table, found an array"]);

    let date = toml::from_str::<PoolSpec>("command = [\"x\"]\nperiod = 1979-05-27").unwrap_err();
    assert!(date.message().ends_with("found the date 1979-05-27"), "{date}");
    let twice = serde_json::from_str::<PoolSpecs>(r#"{ "web": { "command": ["x"], "command": ["y"] } }"#);
    assert!(twice.unwrap_err().to_string().starts_with("duplicate key \"command\""));
}

#[test]
fn relative_paths_get_their_base() {
    let below = |pool: PoolSpec| pool.relative_to("/srv/app").worker;
    let worker = below(
        PoolSpec::new("web", ["bin/../server", "./argument"])
            .cwd("data")
            .ready(Ready::exec(["./is-up", "./argument"]))
            .health(Health::exec(["is-well"])),
    );
    assert_eq!(worker.command, ["/srv/app/bin/../server", "./argument"]);
    assert_eq!(worker.cwd, Some("/srv/app/data".into()));
    let probe = Probe::exec(["/srv/app/is-up", "./argument"]);
    assert_eq!(worker.ready, Some(Ready::Probe(probe)));
    assert_eq!(worker.health, Some(Health::exec(["is-well"])), "from PATH");

    let plain = PoolSpec::new("web", ["/bin/server"]);
    assert_eq!(below(plain.clone()).cwd, Some(PathBuf::from("/srv/app")));
    assert_eq!(below(plain.clone().cwd("/data")).cwd, Some("/data".into()));
    let twice = plain.clone().relative_to("/srv/app").relative_to("/elsewhere");
    assert_eq!(twice, plain.relative_to("/srv/app"), "absolute by now");
}

#[test]
fn a_pool_is_written_in_the_form_that_is_read() {
    let written = serde_json::to_value(web()).unwrap();
    let said = |key: &str| written.get(key).cloned();
    assert_eq!(said("command"), Some(json!(["./server", "--port", "{port}"])));
    assert_eq!(said("stop"), Some(json!({ "signal": "TERM", "grace": "2s 500ms" })));
    assert_eq!(said("output"), Some(json!({ "ring": "64KiB", "log": true })));
    assert_eq!((said("name"), said("cwd"), said("watchdog")), (None, None, None));

    let pools: PoolSpecs = [web(), PoolSpec::new("b", ["x"]).env("A", "1")].into_iter().collect();
    let toml = toml::to_string(&pools).unwrap();
    assert_eq!(toml::from_str::<PoolSpecs>(&toml).unwrap(), pools, "{toml}");
    let json = serde_json::to_string(&pools).unwrap();
    assert_eq!(serde_json::from_str::<PoolSpecs>(&json).unwrap(), pools, "{json}");
}

#[test]
fn what_the_form_has_no_key_for_is_not_lost_in_silence() {
    let refused = |pool: &PoolSpec| serde_json::to_string(pool).unwrap_err().to_string();
    let mut pool = PoolSpec::new("web", ["x"]);
    pool.worker.devices = vec!["0".into()];
    assert!(refused(&pool).starts_with("pool.web.devices: "));
    let reset = Backoff {
        reset: Some(Duration::from_secs(1)),
        ..Backoff::of_pools()
    };
    assert!(refused(&PoolSpec::new("web", ["x"]).backoff(reset)).starts_with("pool.web.backoff.reset: "));
    let pool = PoolSpec::new("web", ["x"]).cwd(OsString::from_vec(vec![b'/', 0xff]));
    assert!(refused(&pool).starts_with("pool.web.cwd: "));
}
