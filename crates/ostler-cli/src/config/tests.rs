//! What the keys of a file mean. Mistakes, paths, serving and the reference have files of their
//! own.

mod embedder;
mod files;
mod mistakes;
mod random;
mod reference;
mod serving;

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
    expected.backoff = Some(Backoff::new(Duration::from_millis(50), Duration::from_secs(2)).jitter(0.5));
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
    worker.ready = Some(Ready::Probe(Probe::http("/healthz").on("http")));
    worker.start_timeout = Duration::from_secs(7);
    let mut probe = Probe::new(ProbeKind::Tcp).on("metrics");
    probe.owner = PortOwner::Any;
    let mut health = Health::new(probe).every(Duration::from_secs(3));
    (health.timeout, health.misses) = (Duration::from_secs(1), 9);
    worker.health = Some(health);
    worker.watchdog = Some(Duration::from_secs(10));
    worker.stop = StopSpec::new(Signal::INT, Duration::from_secs(6));
    worker.host_death = StopSpec::term(Duration::from_secs(1));
    worker.release_timeout = Duration::from_secs(11);
    worker.output = OutputSpec::default().ring(128 << 10).log(false);
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
    assert_eq!(rule(""), (60, 900, Some(50)));
    assert_eq!(rule("backoff = { first = \"1s\" }"), (60, 900, Some(1_000)));
    assert_eq!(rule("intensity = 0"), (0, 5, None));
    assert_eq!(rule("period = \"1m\""), (3, 60, None));
    assert_eq!(
        rule("intensity = 9\nperiod = \"1h\"\nbackoff = {}"),
        (9, 3_600, Some(50))
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
    assert_eq!(shown(""), "is restarted for about 8m 52s, then gives up");
    assert_eq!(shown("intensity = 3"), "gives up at once");
    assert_eq!(
        shown("intensity = 3\nbackoff = {}"),
        "is restarted for about 350ms, then gives up"
    );
    assert_eq!(
        shown("intensity = 3\nbackoff = { first = \"2s\" }"),
        "is restarted forever"
    );
    assert_eq!(shown("intensity = 4294967295\nbackoff = {}"), "is restarted forever");
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

    assert_eq!(config.python["web"].interpreter_name(), None);
    for (interpreter, found) in [("python3.12", "python3.12"), ("bin/python3", "/srv/demo/bin/python3")] {
        let config = read(&format!("{APP}{text}interpreter = {interpreter:?}\n")).unwrap();
        assert_eq!(config.python["web"].interpreter_name(), Some(found));
        let shown = show(&config);
        assert!(shown.contains(&format!("interpreter = {found:?}\n")), "{shown}");
        assert_eq!(read(&shown).unwrap(), config);
    }

    let more = "devices = [\"0\", \"1\"]\ncpus = \"auto\"\nconcurrency = 4\n";
    let config = read(&format!("{APP}{text}{more}")).unwrap();
    let worker = &config.pools[0].worker;
    assert_eq!((worker.device(1), worker.device(2)), (Some("1"), Some("0")));
    let variables = ["CUDA_VISIBLE_DEVICES", "OSTLER_CORE", "OSTLER_CONCURRENCY"];
    assert_eq!(
        variables.map(|name| worker.env[name].as_str()),
        ["{device}", "{index}", "4"]
    );
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
