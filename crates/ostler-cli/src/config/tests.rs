//! What files mean, and the messages for mistakes, as people read them.

mod random;

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::path::Path;
use std::time::Duration;

use ostler::Engine;
use ostler::otlp::{Protocol, Settings};
use ostler_core::signal::Signal;
use ostler_core::spec::{
    Affinity, Breaker, Codel, FailureRate, Health, OnCancel, OnGiveUp, OutputSpec, PoolSpec, Port, PortOwner, Ports,
    Probe, ProbeKind, QueueOrder, QueueSpec, Ready, Recycle, ServeSpec, Sessions, Stdin, StopSpec,
};
use ostler_core::supervision::{Backoff, Restart};

use super::{App, Config, Mistakes, keys, load, parse, show};

fn read(text: &str) -> Result<Config, String> {
    parse("ostler.toml", Path::new("/srv/demo"), text.as_bytes()).map_err(joined)
}

fn joined(mistakes: Mistakes) -> String {
    mistakes.lines().collect::<Vec<_>>().join("\n")
}

fn mistakes(text: &str) -> Vec<String> {
    match read(text) {
        Ok(config) => panic!("read as {config:?}"),
        Err(text) => text.lines().map(str::to_owned).collect(),
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
    let mut expected = PoolSpec::new("web", ["x"]);
    expected.worker.cwd = Some("/srv/demo".into());
    assert_eq!(config.pools, [expected]);
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
        ports = { http = "any", metrics = "9100-9103", range = "7000-7099", own = "listen", local = "unix" }
        address = "::1"
        ready = { http = "/healthz", port = "http" }
        start_timeout = "7s"
        health = { tcp = true, port = "metrics", owner = "any", every = "3s", timeout = "1s", misses = 9 }
        watchdog = "10s"
        stop = { signal = "INT", grace = "6s" }
        host_death = { signal = "TERM", grace = "1s" }
        release_timeout = "11s"
        output = { ring = "128KiB", log = false }
        mode = "coupled"
        "#,
    )
    .unwrap();
    let mut expected = PoolSpec::new("embed", ["python3", "worker.py", "--port", "{port}"]);
    expected.workers = 4;
    expected.min_workers = 2;
    expected.max_starting = 3;
    expected.restart = Restart::Transient;
    expected.intensity = 5;
    expected.period = Duration::from_secs(90);
    expected.on_give_up = OnGiveUp::Pool;
    expected.backoff = Some(Backoff {
        jitter: 0.5,
        ..Backoff::new(Duration::from_millis(50), Duration::from_secs(2))
    });
    let worker = &mut expected.worker;
    worker.cwd = Some("/srv/demo".into());
    worker.env = BTreeMap::from([("OMP_NUM_THREADS".to_owned(), "1".to_owned())]);
    worker.inherit_env = false;
    worker.min_uptime = Duration::from_millis(250);
    worker.ports = Ports::Named(BTreeMap::from([
        ("http".to_owned(), Port::Any),
        ("metrics".to_owned(), Port::Range(9100, 9103)),
        ("range".to_owned(), Port::Range(7000, 7099)),
        ("own".to_owned(), Port::Listen),
        ("local".to_owned(), Port::Unix),
    ]));
    worker.address = Ipv6Addr::LOCALHOST.into();
    worker.ready = Some(Ready::Probe(Probe {
        port: Some("http".into()),
        ..Probe::new(ProbeKind::Http("/healthz".into()))
    }));
    worker.start_timeout = Duration::from_secs(7);
    worker.health = Some(Health {
        probe: Probe {
            port: Some("metrics".into()),
            owner: PortOwner::Any,
            ..Probe::new(ProbeKind::Tcp)
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
    assert_eq!(config.pools, [expected]);
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
    assert_eq!(ports("port = \"unix\""), Ports::One(Port::Unix));
    assert_eq!(ports("port = 0x1f90"), Ports::One(Port::Fixed(8080)));
    assert_eq!(ports("port = \"7000-7009\""), Ports::One(Port::Range(7000, 7009)));
    assert_eq!(worker_with("workers = 0").min_workers, 1);
}

#[test]
fn a_check_shows_what_placeholders_become() {
    let pool = |lines: &str| format!("{APP}[pool.web]\n{lines}");
    let config = pool(
        "command = [\"serve\", \"{index}\", \"{port}\"]\nport = \"any\"\nenv = { A = \"{incarnation}\" }\ncwd = \"data/{index}\"\n",
    );
    let shown = super::show(&read(&config).unwrap());
    let with = |text: &str| assert!(shown.contains(text), "{text} in {shown}");
    with(r#"# worker 0, first process, with run 0…0: command = ["serve", "0", "{port}"]"#);
    with("# worker 0, first process, with run 0…0: env = { A = \"1\" }");
    with("/data/0\n");
    let plain = super::show(&read(&pool("command = [\"serve\", \"{port}\"]\nport = \"any\"\n")).unwrap());
    assert!(!plain.contains("first process"), "{plain}");
}

/// A pool that says nothing about restarts is patient; one that sets either of OTP's two values
/// gets OTP's rule.
#[test]
fn otps_rule_is_chosen_by_its_keys() {
    let rule = |lines: &str| {
        let pool = worker_with(lines);
        (
            pool.intensity,
            pool.period.as_secs(),
            pool.backoff.map(|backoff| backoff.first.as_millis()),
        )
    };
    assert_eq!(rule(""), (60, 900, Some(100)));
    assert_eq!(rule("backoff = { first = \"1s\" }"), (60, 900, Some(1_000)));
    assert_eq!(rule("intensity = 0"), (0, 5, None));
    assert_eq!(rule("period = \"1m\""), (3, 60, None));
    assert_eq!(
        rule("intensity = 9\nperiod = \"1h\"\nbackoff = {}"),
        (9, 3_600, Some(100))
    );
}

#[test]
fn a_check_shows_how_long_a_failing_worker_is_restarted() {
    let shown = |lines: &str| {
        let shown = show(&read(&in_pool(lines)).unwrap());
        let line = shown.lines().find(|line| line.contains("fails at once every time"));
        line.unwrap()
            .trim_start_matches("# a worker that fails at once every time ")
            .to_owned()
    };
    assert_eq!(shown(""), "is restarted for about 9m 2s, then gives up");
    assert_eq!(shown("intensity = 3"), "gives up at once");
    assert_eq!(
        shown("intensity = 3\nbackoff = {}"),
        "is restarted for about 700ms, then gives up"
    );
    assert_eq!(
        shown("intensity = 3\nbackoff = { first = \"2s\" }"),
        "is restarted forever"
    );
    assert_eq!(shown("intensity = 4294967295\nbackoff = {}"), "is restarted forever");
}

#[test]
fn relative_paths_are_relative_to_the_file() {
    let worker = |lines: &str| {
        read(&format!("{APP}[pool.web]\n{lines}\n"))
            .unwrap()
            .pools
            .remove(0)
            .worker
    };
    let plain = worker("command = [\"./w.sh\", \"./argument\"]");
    assert_eq!(plain.command, ["/srv/demo/w.sh", "./argument"]);
    assert_eq!(plain.cwd, Some("/srv/demo".into()));
    let below = worker("command = [\"bin/w\"]\ncwd = \"data\"");
    assert_eq!(below.command, ["/srv/demo/bin/w"]);
    assert_eq!(below.cwd, Some("/srv/demo/data".into()));
    let fixed = worker("command = [\"/bin/w\"]\ncwd = \"/data\"");
    assert_eq!(
        (fixed.command, fixed.cwd),
        (vec!["/bin/w".to_owned()], Some("/data".into()))
    );
    assert_eq!(worker("command = [\"w\"]").command, ["w"], "from PATH");
}

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
            r#"ostler.toml:10:1: pool.embed.ready: expected one of notify, http, grpc, tcp, line, file, after"#,
            r#"ostler.toml:10:11: pool.embed.ready.htpp: unknown key; did you mean "http"?"#,
            r#"ostler.toml:11:10: pool.embed.health: "healthz" is not a path: it has to begin with '/'"#,
            r#"ostler.toml:11:38: pool.embed.health.every: zero would never pause; use a longer time"#,
            r#"ostler.toml:11:53: pool.embed.health.misses: 0 would never be healthy; use at least 1"#,
            r#"ostler.toml:12:19: pool.embed.stop.signal: expected a signal such as TERM, INT, HUP, QUIT, USR1, KILL or RTMIN+3, found "TERMINATE""#,
            r#"ostler.toml:12:40: pool.embed.stop.grace: expected a duration such as "5s", "100ms" or "1m 30s", found the string "5 parsecs""#,
            r#"ostler.toml:13:19: pool.embed.output.ring: expected a size such as "64KiB", "1MiB" or a number of bytes, found the string "64 apples""#,
            r#"ostler.toml:14:1: pool.embed.telemetry: unknown key; expected one of command, python, venv, requirements, cwd, env, inherit_env, workers, min_workers, max_starting, restart, intensity, period, on_give_up, backoff, min_uptime, port, ports, address, ready, start_timeout, health, watchdog, stop, host_death, release_timeout, output, mode, stdin, concurrency, queue, call_timeout, sessions, recycle, drain_timeout, breaker, retry, on_cancel, poison"#,
            r#"ostler.toml:15:2: pools: unknown key; did you mean "pool"?"#,
        ]
    );
}

#[test]
fn the_keys_for_serving_are_read_and_shown() {
    let keys = r#"
        stdin = "pipe"
        concurrency = 8
        queue = { max = 50, order = "lifo", codel = { target = "5ms", interval = "100ms" } }
        call_timeout = "3s"
        sessions = { affinity = "strict_queue", ttl = "10m", max = 7 }
        recycle = { age = "1h", requests = 10000, memory = "2GiB", jitter = 0.1, surge = 0 }
        drain_timeout = "9s"
        breaker = { failures = 4, open = "2s", rate = { share = 0.25, window = "30s", calls = 40 } }
        retry = { budget = 0.2 }
        on_cancel = "reuse"
        poison = 3
    "#;
    let config = read(&in_pool(keys)).unwrap();
    let pool = &config.pools[0];
    assert_eq!(pool.worker.stdin, Stdin::Pipe);
    let secs = Duration::from_secs;
    let expected = ServeSpec {
        concurrency: 8,
        queue: QueueSpec {
            max: 50,
            order: QueueOrder::Lifo,
            codel: Some(Codel {
                target: Duration::from_millis(5),
                interval: Duration::from_millis(100),
            }),
        },
        timeout: secs(3),
        sessions: Sessions {
            affinity: Affinity::StrictQueue,
            ttl: secs(600),
            max: 7,
        },
        recycle: Recycle {
            age: Some(secs(3600)),
            requests: Some(10_000),
            memory: Some(2 << 30),
            jitter: 0.1,
            surge: 0,
        },
        drain_timeout: secs(9),
        breaker: Breaker {
            failures: 4,
            rate: Some(FailureRate {
                share: 0.25,
                window: secs(30),
                calls: 40,
            }),
            open: secs(2),
        },
        retry_budget: 0.2,
        on_cancel: OnCancel::Reuse,
        poison: 3,
    };
    assert_eq!(pool.serve, expected);
    assert_eq!(read(&show(&config)).unwrap(), config);
    let warnings: Vec<String> = config.warnings().collect();
    assert!(
        warnings
            .iter()
            .any(|warning| warning.contains("stdin: \"pipe\" is for a program")),
        "{warnings:?}"
    );
    assert_eq!(worker_with("").serve, ServeSpec::default());
}

#[test]
fn mistakes_in_the_keys_for_serving_have_their_places() {
    assert_eq!(
        mistakes(&in_pool(
            "concurency = 2\nsessions = { afinity = \"hint\", ttl = \"0s\" }\nrecycle = { requests = 0 }\nbreaker = { rate = { share = 0 } }\nqueue = { order = \"filo\" }\n"
        )),
        [
            "ostler.toml:5:1: pool.web.concurency: unknown key; did you mean \"concurrency\"?",
            "ostler.toml:6:14: pool.web.sessions.afinity: unknown key; did you mean \"affinity\"?",
            "ostler.toml:6:38: pool.web.sessions.ttl: zero would forget every session; use a longer time",
            "ostler.toml:7:24: pool.web.recycle.requests: zero would replace workers without end; leave it out to switch it off",
            "ostler.toml:8:30: pool.web.breaker.rate.share: 0 is not above 0 and at most 1",
            "ostler.toml:9:19: pool.web.queue.order: expected \"fifo\" | \"lifo\", found \"filo\" (did you mean \"fifo\"?)",
        ]
    );
}

#[test]
fn probes_ask_by_grpc_and_send_headers() {
    let keys = "port = \"unix\"\nready = { grpc = true }\nhealth = { grpc = \"a.B\" }";
    let config = read(&in_pool(keys)).unwrap();
    let worker = &config.pools[0].worker;
    assert_eq!(worker.ready, Some(Ready::grpc()));
    assert_eq!(worker.health, Some(Health::grpc("a.B")));
    assert_eq!(read(&show(&config)).unwrap(), config);

    let keys = "port = \"any\"\nready = { http = \"/\", headers = { Host = \"example.com\", X-Token = \"s\" } }";
    let config = read(&in_pool(keys)).unwrap();
    let expected = Probe::http("/").header("Host", "example.com").header("X-Token", "s");
    assert_eq!(config.pools[0].worker.ready, Some(Ready::Probe(expected)));
    assert_eq!(read(&show(&config)).unwrap(), config);

    assert_eq!(
        mistakes(&in_pool(
            "port = \"any\"\nready = { http = \"/\", headers = { \"a b\" = \"x\" } }\nhealth = { tcp = true, headers = { A = \"b\" } }\n"
        )),
        [
            "ostler.toml:6:9: pool.web.ready: \"a b\" is not the name of a header",
            "ostler.toml:7:10: pool.web.health: headers are for http; leave them out",
        ]
    );
    assert_eq!(
        mistakes(&in_pool("port = \"any\"\nready = { grpc = 1 }\n")),
        ["ostler.toml:6:18: pool.web.ready.grpc: expected true, or the name of a gRPC service, found the integer 1"]
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
            "ostler.toml:5:12: telemetry.protocol: expected \"grpc\" | \"http/protobuf\", found \"http\"",
            "ostler.toml:6:12: telemetry.sampling: expected a number between 0 and 1, found 2",
            "ostler.toml:7:1: telemetry.service: unknown key; did you mean \"service_name\"?",
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
fn files_without_a_specification() {
    assert_eq!(
        mistakes(""),
        [
            "ostler.toml:1:1: app: missing; add a table [app] with a name for this app, for example name = \"demo\"",
            "ostler.toml:1:1: pool: no pool; add a table such as [pool.web] with a command",
        ]
    );
    assert_eq!(
        mistakes(&format!("{APP}[pool]\n")),
        ["ostler.toml:3:2: pool: no pool; add a table such as [pool.web] with a command"]
    );
    assert_eq!(
        mistakes("app = 3\npool = \"web\""),
        [
            "ostler.toml:1:7: app: expected a table, found the integer 3",
            "ostler.toml:2:8: pool: expected a table, found the string \"web\"",
        ]
    );
    let found = parse("a.toml", Path::new("/"), b"[app]\nname = \"\xff\"")
        .map_err(joined)
        .unwrap_err();
    assert_eq!(found, "a.toml:2:9: the byte 0xff is not valid UTF-8");
}

#[test]
fn invalid_toml_is_reported_with_what_can_be_read() {
    let found = mistakes(
        "[app]\nname = \"demo\"\nname = \"twice\"\n[pool.web]\ncommand = [\"x\"\nworkers = 1\n[pool.b]\nworkers = \"x\"\n",
    );
    assert!(found[0].starts_with("ostler.toml:3:1: duplicate key"), "{found:?}");
    assert!(
        found
            .iter()
            .any(|line| line.starts_with("ostler.toml:5:") || line.starts_with("ostler.toml:6:")),
        "{found:?}"
    );
}

#[test]
fn files_that_can_not_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let found = |path: &Path| load(path).map_err(joined).unwrap_err();
    let missing = dir.path().join("none.toml");
    assert_eq!(found(&missing), format!("{}: no such file", missing.display()));
    assert_eq!(
        found(dir.path()),
        format!("{}: a directory; expected a TOML file", dir.path().display())
    );
    assert_eq!(
        found(Path::new("/dev/zero")),
        "/dev/zero: larger than 16 MiB; expected a TOML file of pools"
    );
}

#[test]
fn paths_are_relative_to_the_files_directory() {
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
        keys::QUEUE,
        keys::CODEL,
        keys::SESSIONS,
        keys::RECYCLE,
        keys::BREAKER,
        keys::RATE,
        keys::RETRY,
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
            "name" | "command" | "cwd" | "store" | "port" => assert!(!rows.is_empty(), "{key}"),
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
fn python_is_a_preset_whose_settings_can_be_changed() {
    let text = "[pool.web]\npython = \"app/worker.py\"\nvenv = \"env\"\nrequirements = \"app/requirements.txt\"\n";
    let config = read(&format!("{APP}{text}")).unwrap();
    let worker = &config.pools[0].worker;
    assert_eq!(worker.command, ["python3", "-u", "/srv/demo/app/worker.py"]);
    assert_eq!(worker.ready, Some(Ready::Notify));
    assert_eq!(worker.ports, Ports::One(Port::Unix));
    assert_eq!(worker.stop.grace, Duration::from_secs(6));
    assert_eq!(worker.host_death.signal, Signal::TERM);
    assert_eq!(worker.env["OSTLER_GRACE_MS"], "6000");
    assert_eq!(config.python["web"].venv_folder().unwrap(), Path::new("/srv/demo/env"));
    assert_eq!(read(&show(&config)).unwrap(), config);

    let more = "port = 7001\nready = { tcp = true }\nstop = { grace = \"1s\" }\nenv = { A = \"b\" }\n";
    let config = read(&format!("{APP}{text}{more}")).unwrap();
    let worker = &config.pools[0].worker;
    assert_eq!(worker.ports, Ports::One(Port::Fixed(7001)));
    assert_eq!(
        (worker.env["OSTLER_GRACE_MS"].as_str(), worker.env["A"].as_str()),
        ("1000", "b")
    );
    assert_eq!(read(&show(&config)).unwrap(), config);
}

#[test]
fn python_and_a_command_exclude_each_other() {
    assert_eq!(
        mistakes(&in_pool("python = \"worker.py\"\n")),
        ["ostler.toml:5:10: pool.web.python: use only one of `command` and `python`"]
    );
    let alone = "is for a pool with `python`; set python = \"worker.py\" instead of a command";
    assert_eq!(
        mistakes(&in_pool("venv = \"env\"\nrequirements = \"r.txt\"\n")),
        [
            format!("ostler.toml:5:8: pool.web.venv: {alone}"),
            format!("ostler.toml:6:16: pool.web.requirements: {alone}"),
        ]
    );
}

#[test]
fn a_file_named_without_its_directory_is_in_the_current_one() {
    let current = std::env::current_dir().expect("a current directory");
    assert_eq!(super::directory_of("ostler.toml".as_ref()), current);
    assert_eq!(super::directory_of("./ostler.toml".as_ref()), current);
    assert_eq!(super::directory_of("sub/ostler.toml".as_ref()), current.join("sub"));
    assert_eq!(
        super::directory_of("/srv/ostler.toml".as_ref()),
        std::path::Path::new("/srv")
    );
}
