//! What files mean, and what is said of mistakes: whole messages, as people read them.

mod random;

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::path::Path;
use std::time::Duration;

use ostler::Engine;
use ostler::otlp::{Protocol, Settings};
use ostler_core::signal::Signal;
use ostler_core::spec::{Health, OnGiveUp, OutputSpec, PoolSpec, Port, Ports, Probe, ProbeKind, Ready, StopSpec};
use ostler_core::supervision::{Backoff, Restart};

use super::{App, Config, keys, load, parse, show};

fn read(text: &str) -> Result<Config, String> {
    parse("ostler.toml", Path::new("/srv/demo"), text.as_bytes()).map_err(|mistakes| mistakes.to_string())
}

fn mistakes(text: &str) -> Vec<String> {
    match read(text) {
        Ok(config) => panic!("read as {config:?}"),
        Err(told) => told.lines().map(str::to_owned).collect(),
    }
}

const APP: &str = "[app]\nname = \"demo\"\n";

fn in_pool(lines: &str) -> String {
    format!("{APP}[pool.web]\ncommand = [\"x\"]\n{lines}")
}

fn worker_with(lines: &str) -> PoolSpec {
    read(&in_pool(lines)).unwrap().pools.remove(0)
}

#[test]
fn a_short_file_takes_every_default() {
    let config = read(&in_pool("")).unwrap();
    assert_eq!(config.app.name, "demo");
    assert_eq!(config.app.state_dir, None);
    assert_eq!(config.app.store, Engine::DEFAULT);
    assert_eq!(config.app.audit, Duration::from_secs(60));
    assert_eq!(config.pools, [PoolSpec::new("web", ["x"])]);
}

#[test]
fn every_key_is_read() {
    let config = read(
        r#"
        [app]
        name = "demo"
        state_dir = "state"
        store = "redb"
        audit = "0s"
        [pool.embed]
        command = ["python3", "worker.py", "--port", "{port}"]
        cwd = "."
        env = { OMP_NUM_THREADS = "1" }
        inherit_env = false
        workers = 4
        min_workers = 2
        max_starting = 3
        restart = "transient"
        intensity = 5
        period = "1m 30s"
        on_give_up = "pool"
        backoff = { first = "50ms", max = "2s", jitter = 0.5 }
        min_uptime = "250ms"
        ports = { http = "any", metrics = "9100-9199", range = "7000-7099", own = "listen" }
        address = "::1"
        ready = { http = "/healthz", port = "http" }
        start_timeout = "7s"
        health = { tcp = true, port = "metrics", every = "3s", timeout = "1s", misses = 9 }
        watchdog = "10s"
        stop = { signal = "INT", grace = "6s" }
        host_death = { signal = "TERM", grace = "1s" }
        release_timeout = "11s"
        output = { ring = "128KiB", log = false }
        mode = "coupled"
        "#,
    )
    .unwrap();
    let mut wanted = PoolSpec::new("embed", ["python3", "worker.py", "--port", "{port}"]);
    wanted.workers = 4;
    wanted.min_workers = 2;
    wanted.max_starting = 3;
    wanted.restart = Restart::Transient;
    wanted.intensity = 5;
    wanted.period = Duration::from_secs(90);
    wanted.on_give_up = OnGiveUp::Pool;
    wanted.backoff = Some(Backoff {
        jitter: 0.5,
        ..Backoff::new(Duration::from_millis(50), Duration::from_secs(2))
    });
    let worker = &mut wanted.worker;
    worker.cwd = Some("/srv/demo".into());
    worker.env = BTreeMap::from([("OMP_NUM_THREADS".to_owned(), "1".to_owned())]);
    worker.inherit_env = false;
    worker.min_uptime = Duration::from_millis(250);
    worker.ports = Ports::Named(BTreeMap::from([
        ("http".to_owned(), Port::Any),
        ("metrics".to_owned(), Port::Range(9100, 9199)),
        ("range".to_owned(), Port::Range(7000, 7099)),
        ("own".to_owned(), Port::Listen),
    ]));
    worker.address = Ipv6Addr::LOCALHOST.into();
    worker.ready = Some(Ready::Probe(Probe {
        kind: ProbeKind::Http("/healthz".into()),
        port: Some("http".into()),
    }));
    worker.start_timeout = Duration::from_secs(7);
    worker.health = Some(Health {
        probe: Probe {
            kind: ProbeKind::Tcp,
            port: Some("metrics".into()),
        },
        every: Duration::from_secs(3),
        timeout: Duration::from_secs(1),
        misses: 9,
    });
    worker.watchdog = Some(Duration::from_secs(10));
    worker.stop = StopSpec {
        signal: Signal::INT,
        grace: Duration::from_secs(6),
    };
    worker.host_death = StopSpec {
        signal: Signal::TERM,
        grace: Duration::from_secs(1),
    };
    worker.release_timeout = Duration::from_secs(11);
    worker.output = OutputSpec {
        ring: 128 << 10,
        log: false,
    };
    assert_eq!(config.pools, [wanted]);
    assert_eq!(
        config.app,
        App {
            name: "demo".into(),
            state_dir: Some("/srv/demo/state".into()),
            store: Engine::Redb,
            audit: Duration::ZERO,
        }
    );
}

#[test]
fn the_forms_of_ready_and_port() {
    let ready = |text: &str| worker_with(text).worker.ready;
    assert_eq!(ready("ready = { notify = true }"), Some(Ready::Notify));
    assert_eq!(ready("ready = { file = true }"), Some(Ready::File));
    assert_eq!(ready("ready = { line = '^ready' }"), Some(Ready::Line("^ready".into())));
    assert_eq!(
        ready("ready = { after = \"1s\" }"),
        Some(Ready::After(Duration::from_secs(1)))
    );
    let ports = |text: &str| worker_with(text).worker.ports;
    assert_eq!(ports("port = \"none\""), Ports::None);
    assert_eq!(ports("port = 0x1f90"), Ports::One(Port::Fixed(8080)));
    assert_eq!(ports("port = \"7000-7009\""), Ports::One(Port::Range(7000, 7009)));
    assert_eq!(worker_with("workers = 0").min_workers, 0);
}

#[test]
fn all_mistakes_come_at_once_in_the_order_of_their_lines() {
    let told = mistakes(
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
        told,
        [
            r#"ostler.toml:1:2: app.name: it is missing: the identity that sweeps go by is wanted, as in name = "demo""#,
            r#"ostler.toml:2:1: app.nmae: there is no such key; did you mean "name"?"#,
            r#"ostler.toml:3:9: app.store: "sqlite" was found; "rocksdb" | "redb" is allowed"#,
            r#"ostler.toml:5:11: pool.embed.command: the string "python3 worker.py" was found; a list with the program and its arguments is wanted, as in ["python3", "worker.py"]: no shell takes it apart"#,
            r#"ostler.toml:6:11: pool.embed.workers: the string "four" was found; an integer from 0 to 1000000 is wanted"#,
            r#"ostler.toml:7:11: pool.embed.restart: "transiemt" was found; "permanent" | "transient" | "temporary" is allowed (did you mean "transient"?)"#,
            r#"ostler.toml:8:10: pool.embed.period: the integer 5 was found; a duration such as "5s", "100ms" or "1m 30s" is wanted"#,
            r#"ostler.toml:9:8: pool.embed.port: the string "70000" was found; a port from 1 to 65535, a range "7000-7099", "any", "reported" or "listen" is wanted"#,
            r#"ostler.toml:10:1: pool.embed.ready: it asks nothing; one of notify, http, grpc, tcp, line, file, after is wanted"#,
            r#"ostler.toml:10:11: pool.embed.ready.htpp: there is no such key; did you mean "http"?"#,
            r#"ostler.toml:11:10: pool.embed.health: "healthz" is no path: it has to begin with '/'"#,
            r#"ostler.toml:11:38: pool.embed.health.every: zero would never pause; it has to be longer"#,
            r#"ostler.toml:11:53: pool.embed.health.misses: 0 would never be healthy; at least 1 is wanted"#,
            r#"ostler.toml:12:19: pool.embed.stop.signal: invalid signal "TERMINATE": expected a name such as TERM, INT, HUP, QUIT, USR1 or KILL"#,
            r#"ostler.toml:12:40: pool.embed.stop.grace: the string "5 parsecs" was found; a duration such as "5s", "100ms" or "1m 30s" is wanted"#,
            r#"ostler.toml:13:19: pool.embed.output.ring: the string "64 apples" was found; a size such as "64KiB", "1MiB" or a number of bytes is wanted"#,
            r#"ostler.toml:14:1: pool.embed.telemetry: there is no such key; known here are command, cwd, env, inherit_env, workers, min_workers, max_starting, restart, intensity, period, on_give_up, backoff, min_uptime, port, ports, address, ready, start_timeout, health, watchdog, stop, host_death, release_timeout, output, mode"#,
            r#"ostler.toml:15:2: pools: there is no such key; did you mean "pool"?"#,
        ]
    );
}

#[test]
fn one_mistake_is_told_once() {
    let told = |lines: &str| mistakes(&in_pool(lines)).len();
    assert_eq!(
        told("port = \"nay\"\nready = { http = \"/\" }"),
        1,
        "the probe's port is not missing, it is wrong"
    );
    assert_eq!(
        told("port = \"reported\"\nready = { notfy = true }"),
        2,
        "the key, and that nothing is asked"
    );
    assert_eq!(told("workers = \"4\"\nmin_workers = 3"), 1);
    assert_eq!(told("backoff = { first = \"1 fortnight\" , max = \"1s\" }"), 1);
    assert_eq!(told("watchdog = \"0s\""), 1);
}

#[test]
fn what_is_not_built_is_refused_by_name() {
    let told = mistakes(&format!(
        "{APP}[pool.a]\ncommand = [\"x\"]\nport = \"any\"\nmode = \"independent\"\nready = {{ grpc = true }}\nhealth = {{ grpc = true }}\n"
    ));
    assert_eq!(
        told,
        [
            "ostler.toml:6:8: pool.a.mode: mode \"independent\" is not built yet; only \"coupled\" is",
            "ostler.toml:7:9: pool.a.ready: grpc is not built yet; http, tcp, notify, line, file and after are",
            "ostler.toml:8:10: pool.a.health: grpc is not built yet; http, tcp, notify, line, file and after are",
        ]
    );
}

#[test]
fn telemetry_is_read_and_its_mistakes_have_their_places() {
    let with = |lines: &str| format!("{APP}[telemetry]\n{lines}\n[pool.a]\ncommand = [\"x\"]\n");
    let config = read(&with(
        "otlp = \"http://127.0.0.1:4318\"\nprotocol = \"http/protobuf\"\nheaders = { a = \"b\" }\nsampling = 0.5\nservice_name = \"s\"",
    ))
    .unwrap();
    assert_eq!(
        config.telemetry,
        Some(Settings {
            endpoint: Some("http://127.0.0.1:4318".into()),
            protocol: Protocol::Http,
            headers: [("a".to_owned(), "b".to_owned())].into(),
            sampling: Some(0.5),
            service_name: Some("s".into()),
            ..Settings::default()
        })
    );
    assert_eq!(read(&show(&config)), Ok(config));
    assert_eq!(read(&with("")).unwrap().telemetry, Some(Settings::default()));
    assert_eq!(
        mistakes(&with(
            "otlp = \"https://x\"\nprotocol = \"http\"\nsampling = 2\nservice = \"s\""
        )),
        [
            "ostler.toml:4:8: telemetry.otlp: https://x: TLS is not supported; send to a local collector over http:// and let it forward the data",
            "ostler.toml:5:12: telemetry.protocol: \"http\" was found; \"grpc\" | \"http/protobuf\" is allowed",
            "ostler.toml:6:12: telemetry.sampling: 2 is no part; a number between 0 and 1 is wanted",
            "ostler.toml:7:1: telemetry.service: there is no such key; did you mean \"service_name\"?",
        ]
    );
}

#[test]
fn the_rules_of_the_specification_have_their_places() {
    assert_eq!(
        mistakes(&in_pool(
            "workers = 2\nmin_workers = 3\nport = \"9-3\"\nready = { http = \"/\", port = \"web\" }\n"
        )),
        [
            "ostler.toml:6:15: pool.web.min_workers: 3 is more than the 2 workers that the pool has",
            "ostler.toml:7:8: pool.web.port: \"9-3\" is no range: its first port has to be at least 1 and not above its last",
            "ostler.toml:8:9: pool.web.ready: it asks port \"web\", which the worker does not have",
        ]
    );
    assert_eq!(
        mistakes(&format!(
            "{APP}[pool.\"a b\"]\ncommand = []\nports = {{ \"x-y\" = 0 }}\nport = \"none\""
        )),
        [
            "ostler.toml:3:7: pool.a b: \"a b\" is not a pool's name: letters, digits, '-', '_' and '.' are allowed, at most 64 of them",
            "ostler.toml:4:11: pool.a b.command: it is empty; the program to run is wanted",
            "ostler.toml:5:1: pool.a b.ports: port and ports were found; one of them is wanted",
        ]
    );
}

#[test]
fn probes_say_one_thing() {
    let told = |lines: &str| mistakes(&in_pool(lines)).join("\n");
    assert_eq!(
        told("port = \"any\"\nready = { http = \"/\", tcp = true }"),
        "ostler.toml:6:1: pool.web.ready: http and tcp were found; one of them is wanted"
    );
    assert_eq!(
        told("ready = { notify = false }"),
        "ostler.toml:5:20: pool.web.ready.notify: false says nothing; leave it out, or set it to true"
    );
    assert_eq!(
        told("ready = { line = \"^(\" }"),
        "ostler.toml:5:18: pool.web.ready.line: \"^(\" is no regular expression: unclosed group"
    );
    assert_eq!(
        told("ready = { after = \"1s\", port = \"http\" }"),
        "ostler.toml:5:32: pool.web.ready.port: after asks no port; leave it out"
    );
}

#[test]
fn numbers_that_no_machine_can_mean_are_refused() {
    let told = |lines: &str| mistakes(&in_pool(lines)).join("\n");
    assert_eq!(
        told("period = \"500000000years\""),
        "ostler.toml:5:10: pool.web.period: the string \"500000000years\" was found; at most ten years is wanted"
    );
    assert_eq!(
        told("workers = 4000000000"),
        "ostler.toml:5:11: pool.web.workers: the integer 4000000000 was found; an integer from 0 to 1000000 is wanted"
    );
    assert!(told("intensity = -1").contains("an integer from 0 to 4294967295 is wanted"));
}

#[test]
fn files_that_are_no_specification() {
    assert_eq!(
        mistakes(""),
        [
            "ostler.toml:1:1: app: a table [app] with the app's name is wanted, as in [app] name = \"demo\"",
            "ostler.toml:1:1: pool: no pool is named: a table such as [pool.web] with its command is wanted",
        ]
    );
    assert_eq!(
        mistakes(&format!("{APP}[pool]\n")),
        ["ostler.toml:3:2: pool: no pool is named: a table such as [pool.web] with its command is wanted"]
    );
    assert_eq!(
        mistakes("app = 3\npool = \"web\""),
        [
            "ostler.toml:1:7: app: the integer 3 is no table; a table is wanted",
            "ostler.toml:2:8: pool: the string \"web\" is no table; a table is wanted",
        ]
    );
    let told = parse("a.toml", Path::new("/"), b"[app]\nname = \"\xff\"")
        .unwrap_err()
        .to_string();
    assert_eq!(told, "a.toml:2:9: the byte 0xff is not UTF-8; TOML is text in UTF-8");
}

#[test]
fn what_is_no_toml_is_told_with_what_can_be_read() {
    let told = mistakes(
        "[app]\nname = \"demo\"\nname = \"twice\"\n[pool.web]\ncommand = [\"x\"\nworkers = 1\n[pool.b]\nworkers = \"x\"\n",
    );
    assert!(told[0].starts_with("ostler.toml:3:1: duplicate key"), "{told:?}");
    assert!(
        told.iter()
            .any(|line| line.starts_with("ostler.toml:5:") || line.starts_with("ostler.toml:6:")),
        "{told:?}"
    );
}

#[test]
fn files_that_can_not_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let told = |path: &Path| load(path).unwrap_err().to_string();
    let missing = dir.path().join("none.toml");
    assert_eq!(told(&missing), format!("{}: there is no such file", missing.display()));
    assert_eq!(
        told(dir.path()),
        format!(
            "{}: it is a directory; the TOML file in it is wanted",
            dir.path().display()
        )
    );
    assert_eq!(
        told(Path::new("/dev/zero")),
        "/dev/zero: it is larger than 16 MiB: that is no specification of pools"
    );
}

#[test]
fn paths_are_against_the_files_directory() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.toml");
    std::fs::write(
        &file,
        "[app]\nname = \"a\"\nstate_dir = \"s\"\n[pool.p]\ncommand = [\"x\"]\ncwd = \"sub\"\n",
    )
    .unwrap();
    let config = load(&file).unwrap();
    assert_eq!(config.app.state_dir, Some(dir.path().join("s")));
    assert_eq!(config.pools[0].worker.cwd, Some(dir.path().join("sub")));
}

fn reference() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn the_reference_names_every_key() {
    let sections = [
        keys::APP,
        keys::TELEMETRY,
        keys::POOL,
        keys::BACKOFF,
        keys::READY,
        keys::HEALTH,
        keys::STOP,
        keys::OUTPUT,
    ];
    for key in sections.into_iter().flatten() {
        assert!(
            reference().contains(&format!("`{key}`")),
            "docs/configuration.md says nothing of {key}"
        );
    }
}

#[test]
fn the_reference_has_the_defaults_of_the_code() {
    let reference = reference();
    let shown = show(&read(&in_pool("health = { http = \"/\" }\nport = \"any\"\nbackoff = {}")).unwrap());
    for line in shown
        .lines()
        .filter(|line| line.contains(" = ") && !line.starts_with('#'))
    {
        let (key, value) = line.split_once(" = ").unwrap();
        let rows: Vec<&str> = reference
            .lines()
            .filter(|row| row.starts_with(&format!("| `{key}` |")))
            .collect();
        let said = |value: &str| rows.iter().any(|row| row.contains(&format!("`{value}`")));
        match key {
            "name" | "command" | "store" | "port" => assert!(!rows.is_empty(), "{key}"),
            "health" | "backoff" => {}
            _ => assert!(
                said(value),
                "docs/configuration.md does not have {line} as the default: {rows:#?}"
            ),
        }
    }
    for nested in [
        "every = \"2s\"",
        "timeout = \"10s\"",
        "misses = 3",
        "first = \"100ms\"",
        "max = \"10s\"",
        "jitter = 0.2",
    ] {
        assert!(shown.contains(nested), "{nested} is no default: {shown}");
        assert!(reference.contains(nested), "docs/configuration.md lacks {nested}");
    }
}

#[test]
fn ports_that_two_would_have_are_refused() {
    let pools = "[pool.a]\ncommand = [\"x\"]\nport = 7001\n[pool.b]\ncommand = [\"x\"]\nports = { m = 7001 }\n";
    assert_eq!(
        mistakes(&format!("{APP}{pools}")),
        ["ostler.toml:8:9: pool.b.ports: 7001 is a port of pool \"a\", too; another port or \"any\" is wanted"]
    );
    let elsewhere = pools.replace("ports =", "address = \"127.0.0.2\"\nports =");
    assert!(read(&format!("{APP}{elsewhere}")).is_ok());
}

#[test]
fn an_apps_name_is_one_that_a_run_accepts() {
    for name in ["a/b", ".", ".hidden", "", &"x".repeat(65)] {
        let told = mistakes(&format!("[app]\nname = {name:?}\n[pool.web]\ncommand = [\"x\"]"));
        assert!(told.len() == 1 && told[0].contains("app.name"), "{name}: {told:?}");
    }
}
