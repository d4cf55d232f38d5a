use super::*;
use crate::spec::StopSpec;
use crate::supervision::Backoff;

fn spec() -> PoolSpec {
    PoolSpec::new("web", ["python3", "-m", "http.server", "{port}"])
}

#[test]
fn the_defaults_are_valid() {
    assert_eq!(spec().problems(), []);
}

#[test]
fn each_mistake_is_named_by_its_key() {
    let mut wrong = spec();
    wrong.name = "a b".into();
    wrong.max_starting = 0;
    wrong.min_workers = 2;
    wrong.period = Duration::ZERO;
    wrong.worker.command.clear();
    wrong.worker.mode = Mode::Supervised;
    wrong.worker.ports = Ports::One(Port::Range(9, 3));
    wrong.worker.ready = Some(Ready::Probe(Probe {
        port: Some("y".into()),
        ..Probe::new(ProbeKind::Http("x".into()))
    }));
    let keys: Vec<_> = wrong.problems().into_iter().map(|p| p.key).collect();
    assert_eq!(
        keys,
        [
            "name",
            "max_starting",
            "min_workers",
            "period",
            "command",
            "mode",
            "port",
            "ready",
            "ready"
        ]
    );
}

#[test]
fn what_a_probe_asks_for_is_checked() {
    let problems = |probe: Probe| {
        let mut pool = spec();
        pool.worker.ports = Ports::One(Port::Any);
        pool.worker.health = Some(Health::new(probe));
        pool.problems()
            .into_iter()
            .map(|problem| problem.message)
            .collect::<Vec<_>>()
    };
    let no_problem: [&str; 0] = [];
    assert_eq!(problems(Probe::grpc("")), no_problem);
    assert_eq!(problems(Probe::grpc("a.B")), no_problem);
    assert_eq!(
        problems(Probe::grpc("a b")),
        ["\"a b\" is not the name of a gRPC service"]
    );
    assert_eq!(problems(Probe::http("/").header("Host", "example.com")), no_problem);
    assert_eq!(
        problems(Probe::http("/").header("", "x")),
        ["\"\" is not the name of a header"]
    );
    assert!(problems(Probe::http("/").header("A", "b\nC: d"))[0].contains("printable ASCII"));
    assert_eq!(
        problems(Probe::tcp().header("A", "b")),
        ["headers are for http; leave them out"]
    );
}

#[test]
fn a_path_can_be_requested() {
    let problems = |path: &str| {
        let mut pool = spec();
        pool.worker.ports = Ports::One(Port::Any);
        let kind = ProbeKind::Http(path.to_owned());
        pool.worker.ready = Some(Ready::Probe(Probe::new(kind)));
        pool.problems().len()
    };
    for (path, expected) in [
        ("/", 0),
        ("/healthz?a=%20b", 0),
        ("healthz", 1),
        ("/a b", 1),
        ("/a\r\nX: y", 1),
    ] {
        assert_eq!(problems(path), expected, "{path:?}");
    }
}

#[test]
fn ports_have_names_and_numbers_of_their_own() {
    let with = |ports: &[(&str, Port)]| {
        let mut pool = spec();
        pool.worker.ports = Ports::Named(ports.iter().map(|(name, port)| ((*name).to_owned(), *port)).collect());
        pool.problems()
            .into_iter()
            .map(|problem| problem.message)
            .collect::<Vec<_>>()
    };
    let no_problem: [&str; 0] = [];
    assert_eq!(
        with(&[("http", Port::Fixed(80)), ("metrics", Port::Fixed(81))]),
        no_problem
    );
    let twins = with(&[("a", Port::Fixed(80)), ("b", Port::Fixed(80))]);
    assert_eq!(twins, ["\"a\" and \"b\" are both 80"]);
    let twins = with(&[("HTTP", Port::Any), ("http", Port::Any)]);
    assert_eq!(twins, ["\"HTTP\" and \"http\" are the same variable, PORT_HTTP"]);
    assert_eq!(with(&[("", Port::Any)]).len(), 1);
    let long = "n".repeat(33);
    assert_eq!(with(&[(&long, Port::Any)]), no_problem);
    assert_eq!(with(&[(&long[..32], Port::Unix)]), no_problem);
    assert!(with(&[(&long, Port::Unix)])[0].ends_with("at most 32 characters"));
}

fn with_ports(workers: u32, ports: Ports, argument: &str) -> PoolSpec {
    let mut pool = PoolSpec::new("web", ["x", argument]);
    pool.workers = workers;
    pool.worker.ports = ports;
    pool
}

fn named(port: Port) -> Ports {
    Ports::Named([("http".to_owned(), Port::Any), ("metrics".to_owned(), port)].into())
}

#[test]
fn more_workers_than_ports_are_invalid() {
    let messages = |workers, ports| {
        let problems = with_ports(workers, ports, "").problems();
        assert!(problems.iter().all(|problem| problem.key == "workers"));
        problems.into_iter().map(|problem| problem.message).collect::<Vec<_>>()
    };
    for (workers, ports) in [
        (1, Ports::One(Port::Fixed(7001))),
        (3, Ports::One(Port::Range(7000, 7002))),
        (9, named(Port::Listen)),
    ] {
        assert_eq!(messages(workers, ports), [""; 0]);
    }
    assert_eq!(
        messages(2, named(Port::Fixed(7001))),
        ["2 workers need one port each, and port 7001 is enough for 1; use a larger range, or \"any\""]
    );
    assert_eq!(
        messages(4, Ports::One(Port::Range(7000, 7002))),
        ["4 workers need one port each, and ports 7000-7002 are enough for 3; use a larger range, or \"any\""]
    );
}

/// A pool with a fixed port that these owners' probes ask.
fn held_elsewhere(workers: u32, ready: PortOwner, health: PortOwner) -> PoolSpec {
    let probe = |owner| Probe {
        owner,
        ..Probe::new(ProbeKind::Tcp)
    };
    let mut pool = with_ports(workers, Ports::One(Port::Fixed(8080)), "");
    pool.worker.ready = Some(Ready::Probe(probe(ready)));
    pool.worker.health = Some(Health::new(probe(health)));
    pool
}

#[test]
fn a_port_that_may_be_anyones_is_shared_with_a_warning() {
    use PortOwner::{Any, Worker};
    let several = held_elsewhere(2, Any, Any);
    assert_eq!(several.problems(), []);
    let own = held_elsewhere(1, Worker, Worker);
    assert_eq!(several.shared_port(&several), None);
    assert_eq!((several.shared_port(&own), own.shared_port(&several)), (None, None));
    assert_eq!(own.shared_port(&own), Some(8080));
    let warnings = |pool: PoolSpec| pool.warnings().iter().map(SpecProblem::to_string).collect::<Vec<_>>();
    assert_eq!(
        warnings(several),
        ["workers: all of them are asked at port 8080: an answer there says nothing about a single one"]
    );
    for (ready, health, expected) in [(Any, Any, 0), (Worker, Worker, 0), (Worker, Any, 0), (Any, Worker, 1)] {
        let found = warnings(held_elsewhere(1, ready, health));
        assert_eq!(found.len(), expected, "{found:?}");
        assert!(
            found
                .iter()
                .all(|found| found.starts_with("health: ") && found.contains("in both"))
        );
    }
    assert_eq!(held_elsewhere(2, Any, Worker).problems().len(), 1);
}

#[test]
fn what_is_probably_a_mistake_is_a_warning() {
    let warnings = |pool: PoolSpec| {
        assert_eq!(pool.problems(), []);
        pool.warnings()
            .into_iter()
            .map(|warning| warning.message)
            .collect::<Vec<_>>()
    };
    let plain = with_ports(1, Ports::One(Port::Fixed(7001)), "{port} {x} {portal} ${PORT}");
    assert_eq!(warnings(plain), [""; 0]);
    let unix = with_ports(2, Ports::One(Port::Unix), "{socket} {sockets}");
    assert_eq!(warnings(unix), [""; 0]);
    let unix = warnings(with_ports(1, Ports::One(Port::Unix), "{port}"));
    assert!(unix[0].starts_with("{port} names no port"), "{unix:?}");
    let tcp = warnings(with_ports(1, Ports::One(Port::Any), "{socket}"));
    assert!(tcp[0].starts_with("{socket} names no Unix socket"), "{tcp:?}");
    let none = warnings(with_ports(1, Ports::None, "--port={port}"));
    assert!(none[0].starts_with("{port} names no port"), "{none:?}");
    let typing_error = warnings(with_ports(1, named(Port::Any), "{port.htp}"));
    assert!(
        typing_error[0].starts_with("{port.htp} names no port"),
        "{typing_error:?}"
    );
    let probed = |port, kind| {
        let mut pool = with_ports(1, Ports::One(port), "");
        pool.worker.ready = Some(Ready::Probe(Probe::new(kind)));
        warnings(pool).len()
    };
    assert_eq!(probed(Port::Listen, ProbeKind::Tcp), 1);
    assert_eq!(probed(Port::Any, ProbeKind::Tcp), 0);
    assert_eq!(probed(Port::Listen, ProbeKind::Http("/".into())), 0);
}

#[test]
fn what_can_not_come_to_what_it_is_for_is_a_warning() {
    let warned = |change: &dyn Fn(&mut WorkerSpec)| {
        let mut pool = with_ports(1, Ports::None, "");
        change(&mut pool.worker);
        assert_eq!(pool.problems(), []);
        let warnings = pool.warnings().into_iter();
        warnings.map(|warning| warning.key).collect::<Vec<_>>()
    };
    assert_eq!(warned(&|_| {}), [""; 0]);
    let second = Duration::from_secs(1);
    let after = |worker: &mut WorkerSpec, limit| {
        worker.ready = Some(Ready::After(second));
        worker.start_timeout = limit;
    };
    assert_eq!(warned(&|worker| after(worker, second)), ["ready.after"]);
    assert_eq!(warned(&|worker| after(worker, second * 2)), [""; 0]);
    assert_eq!(warned(&|worker| after(worker, Duration::ZERO)), [""; 0]);
    assert_eq!(
        warned(&|worker| worker.host_death.signal = Signal::TERM),
        ["host_death"]
    );
    assert_eq!(warned(&|worker| worker.host_death = StopSpec::term(second)), [""; 0]);
    assert_eq!(warned(&|worker| worker.stop.signal = Signal::STOP), ["stop.signal"]);
}

#[test]
fn no_duration_is_longer_than_a_clock_can_bear() {
    let too_long: [fn(&mut PoolSpec); 13] = [
        |pool| pool.period = Duration::MAX,
        |pool| pool.backoff = Some(Backoff::new(Duration::ZERO, Duration::MAX)),
        |pool| pool.backoff.as_mut().unwrap().reset = Some(Duration::MAX),
        |pool| pool.worker.min_uptime = Duration::MAX,
        |pool| pool.worker.start_timeout = Duration::MAX,
        |pool| pool.worker.stop.grace = Duration::MAX,
        |pool| pool.worker.host_death.grace = Duration::MAX,
        |pool| pool.worker.release_timeout = Duration::MAX,
        |pool| pool.worker.watchdog = Some(Duration::MAX),
        |pool| pool.worker.watchdog = Some(LONGEST + Duration::from_nanos(1)),
        |pool| pool.worker.ready = Some(Ready::After(Duration::MAX)),
        |pool| pool.worker.health.as_mut().unwrap().every = Duration::MAX,
        |pool| pool.worker.health.as_mut().unwrap().timeout = Duration::MAX,
    ];
    for spoil in too_long {
        let mut pool = spec();
        pool.worker.ports = Ports::One(Port::Any);
        pool.worker.health = Some(Health::new(Probe::new(ProbeKind::Tcp)));
        assert_eq!(pool.problems(), []);
        spoil(&mut pool);
        let problems = pool.problems();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_eq!(problems[0].message, "too long; at most ten years", "{problems:?}");
    }
}

#[test]
fn patterns_and_paths_are_checked() {
    let mut pool = spec();
    pool.worker.ready = Some(Ready::Line("^(".into()));
    assert_eq!(
        pool.problems()[0].to_string(),
        "ready.line: \"^(\" is not a regular expression: unclosed group"
    );
    for cwd in ["", "a\0b"] {
        let mut pool = spec();
        pool.worker.cwd = Some(cwd.into());
        assert_eq!(pool.problems()[0].key, "cwd");
    }
}

#[test]
fn a_port_of_two_pools_is_found() {
    let on = |address: &str, port| {
        let mut pool = spec();
        pool.worker.address = address.parse().unwrap();
        pool.worker.ports = Ports::Named([("http".into(), Port::Any), ("metrics".into(), port)].into());
        pool
    };
    let here = on("127.0.0.1", Port::Fixed(9100));
    assert_eq!(here.shared_port(&here), Some(9100));
    assert_eq!(here.shared_port(&on("0.0.0.0", Port::Fixed(9100))), Some(9100));
    assert_eq!(here.shared_port(&on("127.0.0.2", Port::Fixed(9100))), None);
    assert_eq!(here.shared_port(&on("127.0.0.1", Port::Fixed(9101))), None);
    assert_eq!(here.shared_port(&on("127.0.0.1", Port::Any)), None);
    // All addresses are those of a family; only `::` stands for both.
    let shared = |one: &str, other: &str| {
        let [one, other] = [one, other].map(|address| on(address, Port::Fixed(80)));
        assert_eq!(one.shared_port(&other), other.shared_port(&one));
        one.shared_port(&other).is_some()
    };
    for meet in [
        ["::", "127.0.0.1"],
        ["::", "0.0.0.0"],
        ["::", "::1"],
        ["0.0.0.0", "0.0.0.0"],
    ] {
        assert!(shared(meet[0], meet[1]), "{meet:?}");
    }
    for apart in [["0.0.0.0", "::1"], ["127.0.0.1", "::1"]] {
        assert!(!shared(apart[0], apart[1]), "{apart:?}");
    }
}

#[test]
fn a_reported_port_needs_a_way_to_be_reported() {
    let mut pool = spec();
    pool.worker.ports = Ports::One(Port::Reported);
    assert_eq!(pool.problems().len(), 1);
    pool.worker.ready = Some(Ready::Notify);
    assert_eq!(pool.problems(), []);
}
