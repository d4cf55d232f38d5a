//! Random files and random specifications.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use ostler::Engine;
use ostler_core::config::PoolSpecs;
use ostler_core::signal::Signal;
use ostler_core::spec::{
    Affinity, Breaker, Codel, FailureRate, Health, LONGEST, Mode, OnCancel, OnGiveUp, OutputSpec, PoolSpec, Port,
    PortOwner, Ports, Probe, ProbeKind, QueueOrder, QueueSpec, Ready, Recycle, ServeSpec, Sessions, Stdin, StopSpec,
    WorkerSpec,
};
use ostler_core::supervision::{Backoff, Restart};
use proptest::prelude::*;
use proptest::sample::select;

use super::super::{App, Config, parse, show};
use super::read;

fn any_engine() -> impl Strategy<Value = Engine> {
    let compiled_in = Engine::ALL.into_iter().filter(|engine| engine.is_compiled_in());
    select(compiled_in.collect::<Vec<_>>())
}

/// Mostly sensible ones.
fn any_duration() -> impl Strategy<Value = Duration> {
    prop_oneof![
        40 => (1_u64..1_000_000, 0_u32..1_000_000_000).prop_map(|(secs, nanos)| Duration::new(secs, nanos)),
        1 => select(vec![Duration::ZERO, LONGEST, LONGEST + Duration::from_nanos(1), Duration::MAX]),
    ]
}

fn any_port() -> impl Strategy<Value = Port> {
    prop_oneof![
        Just(Port::Any),
        Just(Port::Listen),
        Just(Port::Reported),
        Just(Port::Unix),
        any::<u16>().prop_map(Port::Fixed),
        (0_u16..=100, 99_u16..).prop_map(|(first, last)| Port::Range(first, last)),
    ]
}

fn any_ports() -> impl Strategy<Value = Ports> {
    let names = prop_oneof![20 => "[a-z]{1,3}", 1 => "[a-zA-Z-]{0,2}"];
    prop_oneof![
        Just(Ports::None),
        any_port().prop_map(Ports::One),
        prop::collection::btree_map(names, any_port(), 0..3).prop_map(Ports::Named),
    ]
}

prop_compose! {
    fn any_probe()(
        kind in prop_oneof![
            4 => Just(ProbeKind::Http("/x?y".into())),
            4 => Just(ProbeKind::Tcp),
            2 => "[a-z. ]{0,9}".prop_map(ProbeKind::Grpc),
            1 => "[ /x\n]{0,3}".prop_map(ProbeKind::Http),
            2 => prop::collection::vec("[a-z{}]{0,4}", 0..3).prop_map(ProbeKind::Exec),
        ].boxed(),
        port in prop::option::weighted(0.2, "[a-z]{0,2}"),
        owner in select(vec![PortOwner::Worker, PortOwner::Any]),
        headers in prop_oneof![9 => Just(BTreeMap::new()), 1 => prop::collection::btree_map("[A-Z é]{0,3}", "[a-z\n]{0,5}", 0..2)],
    ) -> Probe {
        let mut probe = Probe::new(kind);
        (probe.port, probe.owner, probe.headers) = (port, owner, headers);
        probe
    }
}

fn any_ready() -> impl Strategy<Value = Ready> {
    prop_oneof![
        Just(Ready::Notify),
        Just(Ready::File),
        any_duration().prop_map(Ready::After),
        "[a-z '\"\n\\\\(]{0,5}".prop_map(Ready::Line),
        any_probe().prop_map(Ready::Probe),
    ]
}

prop_compose! {
    fn any_health()(probe in any_probe(), every in any_duration(), timeout in any_duration(), misses in 0_u32..4) -> Health {
        let mut health = Health::new(probe);
        (health.every, health.timeout, health.misses) = (every, timeout, misses);
        health
    }
}

prop_compose! {
    fn any_backoff()(first in any_duration(), more in any_duration(), jitter in prop_oneof![9 => 0.0..=1.0_f64, 1 => any::<f64>()]) -> Backoff {
        Backoff::new(first, first.saturating_add(more)).jitter(jitter)
    }
}

prop_compose! {
    fn any_stop()(number in 1_i32..=64, grace in any_duration()) -> StopSpec {
        StopSpec::new(Signal::from_number(number).unwrap(), grace)
    }
}

/// A relative path means something else in a file: these have none.
fn any_command() -> impl Strategy<Value = Vec<String>> {
    let program = prop_oneof![9 => "[^/\0]{1,9}", 1 => "[\0a]{0,2}"];
    (program, prop::collection::vec("[^\0]{0,12}", 0..3)).prop_map(|(program, mut command)| {
        command.insert(0, program);
        command
    })
}

fn any_env() -> impl Strategy<Value = BTreeMap<String, String>> {
    let names = prop_oneof![20 => "[^=\0]{1,8}", 1 => "[=\0A]{0,2}"];
    prop::collection::btree_map(names, "[^\0]{0,20}", 0..3)
}

prop_compose! {
    fn any_process()(
        command in any_command(), env in any_env(), inherit_env in any::<bool>(), ports in any_ports(), address in any::<std::net::IpAddr>(),
        ring in prop_oneof![9 => 1024_usize..=1 << 30, 1 => any::<usize>()], log in any::<bool>(),
        cwd in prop_oneof![9 => Just("/tmp/a \"b\""), 1 => select(vec!["", "/a\0"])],
        mode in prop_oneof![9 => Just(Mode::Coupled), 1 => Just(Mode::Supervised)],
        stdin in select(vec![Stdin::Null, Stdin::Pipe]),
    ) -> WorkerSpec {
        let mut worker = WorkerSpec::new(command);
        (worker.stdin, worker.env, worker.inherit_env, worker.ports, worker.address) = (stdin, env, inherit_env, ports, address);
        (worker.cwd, worker.output, worker.mode) = (Some(cwd.into()), OutputSpec::default().ring(ring).log(log), mode);
        worker
    }
}

prop_compose! {
    fn any_worker()(
        worker in any_process(), min_uptime in any_duration(), start_timeout in any_duration(), release_timeout in any_duration(),
        ready in prop::option::of(any_ready()), health in prop::option::of(any_health()), watchdog in prop::option::of(any_duration()),
        stop in any_stop(), host_death in any_stop(),
    ) -> WorkerSpec {
        let mut worker = worker;
        (worker.min_uptime, worker.start_timeout, worker.release_timeout) = (min_uptime, start_timeout, release_timeout);
        (worker.ready, worker.health, worker.watchdog, worker.stop, worker.host_death) = (ready, health, watchdog, stop, host_death);
        worker
    }
}

fn any_fraction() -> impl Strategy<Value = f64> {
    prop_oneof![19 => 0.0..=1.0_f64, 1 => -1.0..2.0_f64]
}

prop_compose! {
    fn any_codel()(target in any_duration(), interval in any_duration()) -> Codel {
        Codel::default().target(target).interval(interval)
    }
}

prop_compose! {
    fn any_queue()(
        max in 0_usize..5_000, order in select(vec![QueueOrder::Fifo, QueueOrder::Lifo]), codel in prop::option::of(any_codel()),
    ) -> QueueSpec {
        let mut queue = QueueSpec::default().max(max).order(order);
        queue.codel = codel;
        queue
    }
}

prop_compose! {
    fn any_sessions()(
        affinity in select(vec![Affinity::Hint, Affinity::StrictQueue, Affinity::StrictFailFast]), ttl in any_duration(),
        max in prop_oneof![19 => 1_usize..5_000, 1 => Just(0)],
    ) -> Sessions {
        Sessions::default().affinity(affinity).ttl(ttl).max(max)
    }
}

prop_compose! {
    fn any_recycle()(
        age in prop::option::of(any_duration()), requests in prop::option::of(1_u64..5_000),
        memory in prop::option::of(prop_oneof![19 => 1_u64..1 << 40, 1 => Just(0)]), jitter in any_fraction(), surge in 0_u32..=1,
    ) -> Recycle {
        let mut recycle = Recycle::default().jitter(jitter).surge(surge);
        (recycle.age, recycle.requests, recycle.memory) = (age, requests, memory);
        recycle
    }
}

prop_compose! {
    fn any_rate()(share in any_fraction(), window in any_duration(), calls in 1_u32..50) -> FailureRate {
        FailureRate::default().share(share).window(window).calls(calls)
    }
}

prop_compose! {
    fn any_breaker()(failures in any::<u32>(), rate in prop::option::of(any_rate()), open in any_duration()) -> Breaker {
        let mut breaker = Breaker::default().failures(failures).open(open);
        breaker.rate = rate;
        breaker
    }
}

prop_compose! {
    fn any_serve()(
        concurrency in prop_oneof![19 => 1_u32..50, 1 => Just(0)], queue in any_queue(), timeout in any_duration(),
        sessions in any_sessions(), recycle in any_recycle(), drain_timeout in any_duration(), breaker in any_breaker(),
        retry_budget in any_fraction(), on_cancel in select(vec![OnCancel::Replace, OnCancel::Reuse]), poison in any::<u32>(),
    ) -> ServeSpec {
        let serve = ServeSpec::default().concurrency(concurrency).queue(queue).timeout(timeout).sessions(sessions).recycle(recycle);
        let serve = serve.drain_timeout(drain_timeout).breaker(breaker).retry_budget(retry_budget);
        serve.on_cancel(on_cancel).poison(poison)
    }
}

prop_compose! {
    fn any_pool()(
        name in prop_oneof![9 => "[a-z.]{1,8}", 1 => "[a ]{0,70}"], worker in any_worker(),
        workers in prop_oneof![20 => 0_u32..9, 1 => any::<u32>()], min_workers in 0_u32..2, max_starting in 0_u32..20,
        restart in select(vec![Restart::Permanent, Restart::Transient, Restart::Temporary]), on_give_up in select(vec![OnGiveUp::Worker, OnGiveUp::Pool]),
        intensity in any::<u32>(), period in any_duration(), backoff in prop::option::of(any_backoff()),
        serve in any_serve(),
    ) -> PoolSpec {
        let mut pool = PoolSpec::new(name, [""; 0]);
        pool.worker = worker;
        (pool.workers, pool.min_workers, pool.max_starting, pool.restart) = (workers, min_workers, max_starting, restart);
        (pool.intensity, pool.period, pool.on_give_up, pool.backoff) = (intensity, period, on_give_up, backoff);
        pool.serve = serve;
        pool
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// A file is read exactly when a builder would accept the same, and means the same then.
    #[test]
    fn files_and_builders_follow_the_same_rules(pool in any_pool(), store in any_engine()) {
        let problems = pool.problems();
        let config = Config { app: App { name: "demo".into(), state_dir: Some("/x".into()), store, audit: Duration::from_millis(1500) }, telemetry: None, pools: vec![pool], python: BTreeMap::new() };
        let text = show(&config);
        match read(&text) {
            Ok(read) => {
                prop_assert_eq!(problems, [], "{}", text);
                prop_assert_eq!(read, config, "{}", text);
            }
            Err(mistakes) => prop_assert!(!problems.is_empty(), "{}\n{}", mistakes, text),
        }
    }

    /// A pool that is valid survives an app's configuration; another one is refused there, too.
    #[test]
    fn a_pool_survives_serde(pool in any_pool()) {
        let problems = pool.problems();
        let pools: PoolSpecs = [pool.clone()].into_iter().collect();
        let toml = toml::to_string(&pools).unwrap();
        let json = serde_json::to_value(&pools).unwrap();
        let read = [
            toml::from_str::<PoolSpecs>(&toml).map_err(|error| error.to_string()),
            serde_json::from_value::<PoolSpecs>(json).map_err(|error| error.to_string()),
        ];
        for read in read {
            match read {
                Ok(read) => {
                    prop_assert_eq!(&problems, &[], "{}", toml);
                    prop_assert_eq!(&read, &pools, "{}", toml);
                }
                Err(mistakes) => prop_assert!(!problems.is_empty(), "{}\n{}", mistakes, toml),
            }
        }
        let one = toml::from_str::<PoolSpec>(&toml::to_string(&pool).unwrap());
        if problems.is_empty() {
            prop_assert_eq!(one.unwrap().name(&pool.name), pool);
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        drop(parse("x", Path::new("/"), &bytes));
    }

    #[test]
    fn random_words_of_a_file_never_panic(words in prop::collection::vec(select(WORDS), 0..40)) {
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
