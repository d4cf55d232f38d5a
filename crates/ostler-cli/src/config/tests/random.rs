//! Random files and random specifications.

use std::path::Path;
use std::time::Duration;

use ostler::Engine;
use ostler_core::signal::Signal;
use ostler_core::spec::{Health, PoolSpec, Port, Ports, Probe, ProbeKind, Ready, StopSpec};
use ostler_core::supervision::{Backoff, Restart};
use proptest::prelude::*;

use super::super::{App, Config, parse, show};
use super::read;

fn any_engine() -> impl Strategy<Value = Engine> {
    prop::sample::select(
        Engine::ALL
            .into_iter()
            .filter(|engine| engine.is_compiled_in())
            .collect::<Vec<_>>(),
    )
}

fn any_duration() -> impl Strategy<Value = Duration> {
    (1_u64..1_000_000, 0_u32..1_000_000_000).prop_map(|(secs, nanos)| Duration::new(secs, nanos))
}

fn any_port() -> impl Strategy<Value = Port> {
    prop_oneof![
        Just(Port::Any),
        Just(Port::Listen),
        (1_u16..).prop_map(Port::Fixed),
        (1_u16..=100, 100_u16..).prop_map(|(first, last)| Port::Range(first, last)),
    ]
}

prop_compose! {
    fn any_pool()(
        name in "[a-z.]{1,8}", command in prop::collection::vec("[^\0]{1,12}", 1..4),
        env in prop::collection::btree_map("[^=\0]{1,8}", "[^\0]{0,20}", 0..3),
        workers in 0_u32..9, restart in prop::sample::select(vec![Restart::Permanent, Restart::Transient, Restart::Temporary]),
        period in any_duration(), port in prop::option::of(any_port()), line in prop::option::of("[a-z '\"\n\\\\]{0,9}"),
        ring in 1024_usize..1 << 30, watchdog in prop::option::of(any_duration()), backoff in prop::option::of(0.0..=1.0_f64),
        grace in any_duration(), number in 1_i32..32, health in any::<bool>(),
    ) -> PoolSpec {
        let mut pool = PoolSpec::new(name, command);
        // More workers than ports are refused.
        let workers = workers.min(match port {
            Some(Port::Fixed(_)) => 1,
            Some(Port::Range(first, last)) => u32::from(last - first) + 1,
            _ => u32::MAX,
        });
        pool.workers = workers;
        pool.min_workers = workers;
        pool.restart = restart;
        pool.period = period;
        pool.backoff = backoff.map(|jitter| Backoff { jitter, ..Backoff::new(Duration::ZERO, grace) });
        let worker = &mut pool.worker;
        worker.env = env;
        worker.ports = port.map_or(Ports::None, Ports::One);
        worker.ready = line.map(|line| Ready::Line(line.replace('\\', "\\\\")));
        worker.output.ring = ring;
        worker.watchdog = watchdog;
        worker.stop = StopSpec { signal: Signal::from_number(number).unwrap(), grace };
        worker.cwd = Some("/tmp/a \"b\"".into());
        if health && port.is_some() {
            worker.health = Some(Health::new(Probe { kind: ProbeKind::Http("/x?y".into()), port: None }));
        }
        pool
    }
}

proptest! {
    #[test]
    fn what_is_shown_reads_back_as_the_same(pool in any_pool(), store in any_engine()) {
        let config = Config { app: App { name: "demo".into(), state_dir: Some("/x".into()), store, audit: Duration::from_millis(1500) }, telemetry: None, pools: vec![pool] };
        let text = show(&config);
        prop_assert_eq!(read(&text), Ok(config), "{}", text);
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        drop(parse("x", Path::new("/"), &bytes));
    }

    #[test]
    fn random_words_of_a_file_never_panic(words in prop::collection::vec(prop::sample::select(WORDS), 0..40)) {
        drop(parse("x", Path::new("/"), words.join("").as_bytes()));
    }
}

/// What random files are made of.
const WORDS: &[&str] = &[
    "[app]\n",
    "[pool.web]\n",
    "[pool]\n",
    "[[pool]]\n",
    "name",
    " = ",
    "\"demo\"",
    "\n",
    "command",
    "[\"x\"]",
    "{ ",
    " }",
    ", ",
    "port",
    "ports",
    "\"any\"",
    "99999",
    "-1",
    "ready",
    "health",
    "http",
    "\"/\"",
    "tcp",
    "true",
    "every",
    "\"0s\"",
    "\"5s\"",
    "backoff",
    "first",
    "max",
    "jitter",
    "0.5",
    "nan",
    "1e400",
    "é",
    "\"\"\"",
    "'",
    "#",
    "mode",
    "\"distributed\"",
    "output",
    "ring",
    "\"64KiB\"",
    ".",
    "pool",
    "1979-05-27",
    "0x",
    "workers",
    "min_workers",
];
