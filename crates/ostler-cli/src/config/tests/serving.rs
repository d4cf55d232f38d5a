//! The keys for calls to the workers.

use super::*;

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
    let codel = Codel::default()
        .target(Duration::from_millis(5))
        .interval(Duration::from_millis(100));
    let rate = FailureRate::default().share(0.25).window(secs(30)).calls(40);
    let recycle = Recycle::default().age(secs(3600)).requests(10_000).memory(2 << 30);
    let expected = ServeSpec::default()
        .concurrency(8)
        .queue(QueueSpec::default().max(50).order(QueueOrder::Lifo).codel(codel))
        .timeout(secs(3))
        .sessions(
            Sessions::default()
                .affinity(Affinity::StrictQueue)
                .ttl(secs(600))
                .max(7),
        )
        .recycle(recycle.jitter(0.1).surge(0))
        .drain_timeout(secs(9))
        .breaker(Breaker::default().failures(4).rate(rate).open(secs(2)))
        .retry_budget(0.2)
        .on_cancel(OnCancel::Reuse)
        .poison(3);
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
