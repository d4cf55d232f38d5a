//! Any specification is an error or a pool, never a panic.

use std::panic;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fastrand::Rng;
use ostler::{Backoff, Health, PoolError, PoolSpec, Port, Ports, Probe, ProbeKind, Ready, Restart};
use ostler_core::spec::{LONGEST, MOST_WORKERS};

use super::scene::{Place, in_time, start, stop};

const SPECS: u32 = 150;

/// Now and then one of the odd values, so that many specifications have one or none of them.
fn usually<T, const N: usize>(random: &mut Rng, sensible: T, odd: [T; N]) -> T {
    if random.u8(..30) > 0 {
        return sensible;
    }
    random.choice(odd).unwrap_or(sensible)
}

/// The shortest, the longest and what is beyond.
fn duration(random: &mut Rng) -> Duration {
    let odd = [
        Duration::ZERO,
        Duration::from_nanos(1),
        LONGEST,
        LONGEST + Duration::from_nanos(1),
        Duration::MAX,
    ];
    usually(random, Duration::from_secs(5), odd)
}

fn probe(random: &mut Rng) -> Probe {
    let odd = ["x y", "", "/\n"].map(|path| ProbeKind::Http(path.into()));
    let path = ProbeKind::Http("/".into());
    let kind = usually(random, path, odd);
    Probe::new(if random.bool() { kind } else { ProbeKind::Tcp })
}

fn ready(random: &mut Rng) -> Option<Ready> {
    match random.u8(..8) {
        0 => Some(Ready::Notify),
        1 => Some(Ready::File),
        2 => Some(Ready::Line(usually(random, "ready", ["(", "^", "\\"]).to_owned())),
        3 => Some(Ready::After(duration(random))),
        4 => Some(Ready::Probe(probe(random))),
        _ => None,
    }
}

fn spec(random: &mut Rng, place: &Place, name: u32) -> PoolSpec {
    let modes = random.choice(["sleep", "exit=1", "notify+sleep"]).unwrap();
    let mut spec = place.pool(&format!("p{name}"), modes);
    spec.workers = usually(random, 1, [0, 2, MOST_WORKERS + 1, u32::MAX]);
    spec.min_workers = usually(random, 1, [0, 2, u32::MAX]);
    spec.max_starting = usually(random, 8, [0, 1, u32::MAX]);
    spec.restart = random
        .choice([Restart::Permanent, Restart::Transient, Restart::Temporary])
        .unwrap();
    spec.intensity = usually(random, 3, [0, u32::MAX]);
    spec.period = duration(random);
    spec.backoff = random.bool().then(|| {
        let mut backoff = Backoff::new(duration(random), duration(random));
        backoff.jitter = usually(random, 0.2, [0.0, 1.0, -1.0, f64::NAN, f64::INFINITY]);
        backoff.reset = random.bool().then(|| duration(random));
        backoff
    });
    let worker = &mut spec.worker;
    let odd = [Port::Listen, Port::Reported, Port::Fixed(0), Port::Range(9, 3)];
    worker.ports = Ports::One(usually(random, Port::Any, odd));
    worker.ready = ready(random);
    worker.health = random.bool().then(|| {
        let mut health = Health::new(probe(random)).every(duration(random));
        (health.timeout, health.misses) = (duration(random), usually(random, 3, [0, 1, u32::MAX]));
        health
    });
    worker.watchdog = random.bool().then(|| duration(random));
    worker.min_uptime = duration(random);
    worker.start_timeout = duration(random);
    worker.release_timeout = duration(random);
    worker.host_death.grace = duration(random);
    worker.output.ring = usually(random, 64 << 10, [0, 1 << 10, usize::MAX]);
    spec
}

#[tokio::test(flavor = "multi_thread")]
async fn any_specification_is_an_error_or_a_pool() {
    let panics = Arc::new(AtomicUsize::new(0));
    let (seen_before, counted) = (panic::take_hook(), Arc::clone(&panics));
    panic::set_hook(Box::new(move |info| {
        // Other tests of this program run beside this one.
        if !std::thread::current().name().is_some_and(|name| name.contains("::")) {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        seen_before(info);
    }));
    let place = Place::new();
    let (ostler, mut seen) = start(&place).await;
    let mut random = Rng::with_seed(20_261_126);
    let (mut pools, mut errors) = (0, 0);
    for name in 0..SPECS {
        let spec = spec(&mut random, &place, name);
        let shown = format!("{spec:?}");
        match in_time(ostler.add_pool(spec)).await {
            Ok(pool) => {
                pools += 1;
                in_time(pool.stop()).await;
            }
            Err(PoolError::Invalid { problems, .. }) => {
                errors += 1;
                assert!(!problems.is_empty());
            }
            Err(error) => panic!("{error}: {shown}"),
        }
        assert_eq!(panics.load(Ordering::Relaxed), 0, "{shown}");
    }
    assert!(pools > 20 && errors > 20, "{pools} pools, {errors} errors");
    drop(panic::take_hook());
    stop(&place, ostler, &mut seen).await;
}
