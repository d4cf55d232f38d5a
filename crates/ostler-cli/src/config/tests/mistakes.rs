//! Mistakes in a file: all at once, each with its place.

use super::*;

#[test]
fn all_mistakes_come_at_once_in_the_order_of_their_lines() {
    let found = mistakes(
        r#"[app]
nmae = "demo"
store = "sqlite"
[pool.embed]
command = "python3 worker.py"
workers = "four"
restart = "transiemt"
period = 5
port = "70000"
ready = { htpp = "/healthz" }
health = { http = "healthz", every = "0s", misses = 0 }
stop = { signal = "TERMINATE", grace = "5 parsecs" }
output = { ring = "64 apples" }
telemetry = 1
[pools]
"#,
    );
    assert_eq!(
        found,
        [
            r#"ostler.toml:1:2: app.name: missing; set it to a name for this app, for example "demo""#,
            r#"ostler.toml:2:1: app.nmae: unknown key; did you mean "name"?"#,
            r#"ostler.toml:3:9: app.store: expected "rocksdb" | "redb", found "sqlite""#,
            r#"ostler.toml:5:11: pool.embed.command: expected a list such as ["python3", "worker.py"], found the string "python3 worker.py": no shell splits it"#,
            r#"ostler.toml:6:11: pool.embed.workers: expected an integer from 0 to 4294967295, found the string "four""#,
            r#"ostler.toml:7:11: pool.embed.restart: expected "permanent" | "transient" | "temporary", found "transiemt" (did you mean "transient"?)"#,
            r#"ostler.toml:8:10: pool.embed.period: expected a duration such as "5s", "100ms" or "1m 30s", found the integer 5"#,
            r#"ostler.toml:9:8: pool.embed.port: expected a port from 1 to 65535, a range "7000-7099", "any", "reported", "listen" or "unix", found the string "70000""#,
            r#"ostler.toml:10:1: pool.embed.ready: expected one of notify, http, grpc, tcp, exec, line, file, after"#,
            r#"ostler.toml:10:11: pool.embed.ready.htpp: unknown key; did you mean "http"?"#,
            r#"ostler.toml:11:10: pool.embed.health: "healthz" is not a path: it has to begin with '/'"#,
            r#"ostler.toml:11:38: pool.embed.health.every: zero would never pause; use a longer time"#,
            r#"ostler.toml:11:53: pool.embed.health.misses: 0 would never be healthy; use at least 1"#,
            r#"ostler.toml:12:19: pool.embed.stop.signal: expected a signal such as TERM, INT, HUP, QUIT, USR1, KILL or RTMIN+3, found "TERMINATE""#,
            r#"ostler.toml:12:40: pool.embed.stop.grace: expected a duration such as "5s", "100ms" or "1m 30s", found the string "5 parsecs""#,
            r#"ostler.toml:13:19: pool.embed.output.ring: expected a size such as "64KiB", "1MiB" or a number of bytes, found the string "64 apples""#,
            r#"ostler.toml:14:1: pool.embed.telemetry: unknown key; expected one of command, python, interpreter, venv, requirements, devices, cpus, cwd, env, inherit_env, workers, min_workers, max_starting, restart, intensity, period, on_give_up, backoff, min_uptime, port, ports, address, ready, start_timeout, health, watchdog, stop, host_death, release_timeout, output, mode, stdin, concurrency, queue, call_timeout, sessions, recycle, drain_timeout, breaker, retry, on_cancel, poison"#,
            r#"ostler.toml:15:2: pools: unknown key; did you mean "pool"?"#,
        ]
    );
}

#[test]
fn one_mistake_is_reported_once() {
    let found = |lines: &str| mistakes(&in_pool(lines)).len();
    assert_eq!(
        found("port = \"nay\"\nready = { http = \"/\" }"),
        1,
        "the probe's port is not missing, it is wrong"
    );
    assert_eq!(
        found("port = \"reported\"\nready = { notfy = true }"),
        2,
        "the key, and that nothing is asked"
    );
    assert_eq!(found("workers = \"4\"\nmin_workers = 3"), 1);
    assert_eq!(found("backoff = { first = \"1 fortnight\" , max = \"1s\" }"), 1);
    assert_eq!(found("watchdog = \"0s\""), 1);
}

#[test]
fn what_is_not_built_is_refused_by_name() {
    let found = mistakes(&format!(
        "{APP}[pool.a]\ncommand = [\"x\"]\nport = \"any\"\nmode = \"independent\"\n"
    ));
    assert_eq!(
        found,
        ["ostler.toml:6:8: pool.a.mode: \"independent\" is not built yet; only \"coupled\" is",]
    );
}

#[test]
fn the_rules_of_the_specification_have_their_places() {
    assert_eq!(
        mistakes(&in_pool(
            "workers = 2\nmin_workers = 3\nport = \"9-3\"\nready = { http = \"/\", port = \"web\" }\n"
        )),
        [
            "ostler.toml:6:15: pool.web.min_workers: 3 is more than the pool's 2 workers",
            "ostler.toml:7:8: pool.web.port: \"9-3\" is not a range of ports: from 1 on, the lower one first",
            "ostler.toml:8:9: pool.web.ready: the worker has no port \"web\"",
        ]
    );
    assert_eq!(
        mistakes(&format!(
            "{APP}[pool.\"a b\"]\ncommand = []\nports = {{ \"x-y\" = 0 }}\nport = \"none\""
        )),
        [
            "ostler.toml:3:7: pool.a b: \"a b\" is not a valid name for a pool: use letters, digits, '-', '_' and '.', at most 64 of them",
            "ostler.toml:4:11: pool.a b.command: empty; expected the program and its arguments",
            "ostler.toml:5:1: pool.a b.ports: use only one of `port` and `ports`",
        ]
    );
}

#[test]
fn a_probe_is_one_request() {
    let found = |lines: &str| mistakes(&in_pool(lines)).join("\n");
    assert_eq!(
        found("port = \"any\"\nready = { http = \"/\", tcp = true }"),
        "ostler.toml:6:1: pool.web.ready: use only one of http and tcp"
    );
    assert_eq!(
        found("ready = { notify = false }"),
        "ostler.toml:5:20: pool.web.ready.notify: expected true; leave the key out instead of setting it to false"
    );
    assert_eq!(
        found("ready = { line = \"^(\" }"),
        "ostler.toml:5:18: pool.web.ready.line: \"^(\" is not a regular expression: unclosed group"
    );
    assert_eq!(
        found("ready = { after = \"1s\", port = \"http\" }"),
        "ostler.toml:5:32: pool.web.ready.port: after needs no port; leave it out"
    );
    assert!(found("health = { exec = \"is-up\" }").contains("found the string \"is-up\": no shell splits it"));
    assert_eq!(
        found("ready = { exec = [\"is-up\"], owner = \"any\" }"),
        "ostler.toml:5:37: pool.web.ready.owner: exec needs no port; leave it out"
    );
    assert_eq!(
        found("health = { exec = [] }"),
        "ostler.toml:5:10: pool.web.health: empty; expected the program and its arguments"
    );
}

#[test]
fn numbers_that_are_too_large_are_invalid() {
    let found = |lines: &str| mistakes(&in_pool(lines)).join("\n");
    assert_eq!(
        found("period = \"500000000years\""),
        "ostler.toml:5:10: pool.web.period: too long; at most ten years"
    );
    assert_eq!(
        found("workers = 4000000000"),
        "ostler.toml:5:11: pool.web.workers: 4000000000 is too many; at most 1000000"
    );
    assert!(found("intensity = -1").contains("an integer from 0 to 4294967295"));
}

#[test]
fn a_port_of_two_pools_is_invalid() {
    let pools = "[pool.a]\ncommand = [\"x\"]\nport = 7001\n[pool.b]\ncommand = [\"x\"]\nports = { m = 7001 }\n";
    assert_eq!(
        mistakes(&format!("{APP}{pools}")),
        ["ostler.toml:8:9: pool.b.ports: pool \"a\" uses port 7001 as well; use another one, or \"any\""]
    );
    let elsewhere = pools.replace("ports =", "address = \"127.0.0.2\"\nports =");
    assert!(read(&format!("{APP}{elsewhere}")).is_ok());
}

#[test]
fn the_rules_for_an_apps_name_are_those_of_a_run() {
    for name in ["a/b", ".", ".hidden", "", &"x".repeat(65)] {
        let found = mistakes(&format!("[app]\nname = {name:?}\n[pool.web]\ncommand = [\"x\"]"));
        assert!(found.len() == 1 && found[0].contains("app.name"), "{name}: {found:?}");
    }
}

#[test]
fn python_and_a_command_exclude_each_other() {
    assert_eq!(
        mistakes(&in_pool("python = \"worker.py\"\n")),
        ["ostler.toml:5:10: pool.web.python: use only one of `command` and `python`"]
    );
    let alone = "is for a pool with `python`; set python = \"worker.py\" instead of a command";
    assert_eq!(
        mistakes(&in_pool(
            "venv = \"env\"\nrequirements = \"r.txt\"\ninterpreter = \"python3\"\n"
        )),
        [
            format!("ostler.toml:5:8: pool.web.venv: {alone}"),
            format!("ostler.toml:6:16: pool.web.requirements: {alone}"),
            format!("ostler.toml:7:15: pool.web.interpreter: {alone}"),
        ]
    );
}
