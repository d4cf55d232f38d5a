//! Compares the lists of names with what a full run sends: nothing may be missing or unlisted. The
//! test also exercises an app that adds the layer to its own `tracing` subscriber.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use ostler::otlp::{Protocol, Settings, Telemetry};
use ostler::{
    Event, EventItem, EventKind, EventStream, Facts, Observer, Ostler, PoolSpec, Port, Ports, Probe, ProbeKind, Ready,
    Restart, Stdin,
};
use ostler_serve::ServingPool;
use ostler_telemetry::SpanLink;
use ostler_telemetry::names::{Name, attribute, metric, resource, span, span_event};
use ostler_tests::leftovers::TestDirectory;
use ostler_tests::receiver::{Received, Receiver, metric::Data};
use ostler_tests::route_guide::Point;
use ostler_tests::route_guide::route_guide_client::RouteGuideClient;
use ostler_tests::{SOON, program, run_directories, send, stray, survivors, tagged_directory};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// The state directory of an instance, and the tag of its processes.
struct Place {
    directory: TestDirectory,
    tag: String,
}

impl Place {
    fn new() -> Self {
        let (directory, tag) = tagged_directory();
        Self { directory, tag }
    }

    /// A pool of one worker that speaks this protocol, with a circuit breaker that opens at once.
    async fn serving(&self, ostler: &Ostler, name: &str, protocol: &str) -> ServingPool {
        let worker = program("ostler-serve-worker").display().to_string();
        let record = self.directory.path().join("record").display().to_string();
        let mut spec = PoolSpec::new(name, [&*worker, protocol, &*record, &*self.tag]);
        match protocol {
            "grpc" => spec = spec.port(Port::Unix).ready(Ready::grpc()),
            "http" => spec = spec.port(Port::Any).ready(Ready::tcp()),
            _ => spec = spec.stdin(Stdin::Pipe),
        }
        spec.serve.breaker.failures = 1;
        spec.serve.breaker.open = Duration::from_millis(50);
        let pool = ostler.add_pool(spec).await.unwrap();
        pool.wait_ready().await.unwrap();
        ServingPool::of(pool)
    }

    fn pool(&self, name: &str, modes: &str) -> PoolSpec {
        let worker = program("ostler-test-worker").display().to_string();
        let mut spec = PoolSpec::new(name, [worker.as_str(), modes, "{port}", &self.tag]);
        spec.worker.stop.grace = Duration::from_millis(50);
        spec
    }

    /// Pools that together cause every event of a worker's life.
    fn pools(&self) -> Vec<PoolSpec> {
        let mut served = self.pool("served", "http=3");
        served.worker.ports = Ports::One(Port::Any);
        served.worker.ready = Some(Ready::Probe(http()));
        let mut health = ostler::Health::new(http());
        (health.every, health.misses) = (Duration::from_millis(20), 1);
        served.worker.health = Some(health);
        (served.intensity, served.backoff) = (1_000, Some(ostler::Backoff::new(Duration::ZERO, Duration::ZERO)));
        let mut named = self.pool("named", "metrics+sleep");
        named.worker.ports = Ports::Named([("metrics".to_owned(), Port::Any), ("local".to_owned(), Port::Unix)].into());
        let mut stubborn = self.pool("stubborn", "ignore-term+flood=30000000+sleep");
        stubborn.restart = Restart::Permanent;
        stubborn.worker.ports = Ports::One(Port::Unix);
        let mut done = self.pool("done", "pause=50+exit=0");
        done.restart = Restart::Transient;
        let mut failing = self.pool("failing", "stderr+exit=3");
        failing.intensity = 0;
        vec![served, named, stubborn, done, failing]
    }
}

fn http() -> Probe {
    Probe::new(ProbeKind::Http("/".into()))
}

async fn until(events: &mut EventStream, what: &str, mut fits: impl FnMut(&Event) -> bool) {
    let deadline = tokio::time::Instant::now() + SOON;
    loop {
        let event = tokio::time::timeout_at(deadline, events.recv()).await;
        let event = event
            .unwrap_or_else(|_| panic!("no {what} in time"))
            .and_then(EventItem::event)
            .expect("run is still going");
        if fits(&event) {
            return;
        }
    }
}

/// A run that emits everything except what `provoke` adds.
async fn full_run(place: &Place, telemetry: &Telemetry, receiver: &Receiver) -> Traces {
    let builder = Ostler::builder("names")
        .state_dir(place.directory.path().join("state"))
        .audit(Duration::from_millis(50))
        .observer(telemetry.clone());
    let mut events = builder.subscribe();
    let run = builder.run_id();
    let ostler = builder.start().await.unwrap();
    let mut pools = Vec::new();
    for spec in place.pools() {
        pools.push(ostler.pool_from(spec).start().await.unwrap());
    }
    let mut missing = BTreeSet::from(
        [
            EventKind::WorkerUnhealthy,
            EventKind::WorkerRestarting,
            EventKind::WorkerFinished,
            EventKind::WorkerGaveUp,
            EventKind::PoolFinished,
            EventKind::PoolGaveUp,
        ]
        .map(EventKind::name),
    );
    until(&mut events, "every kind of event", |event| {
        missing.remove(event.kind.name());
        missing.is_empty()
    })
    .await;
    let guardian = ostler.guardian_pid().unwrap();
    send(guardian, Signal::SIGKILL);
    until(&mut events, "guardian.lost", |event| {
        event.kind == EventKind::GuardianLost
    })
    .await;
    until(&mut events, "a worker of the next guardian", |event| {
        event.kind == EventKind::WorkerReady && event.pool_name() == Some("named")
    })
    .await;
    // Its gauges are read while the pool has a client.
    let (traces, _called) = calls(&ostler, &mut events, place).await;
    // Wait for one complete export of the metrics.
    let before = receiver.received().metrics.len();
    receiver.wait_for("a worker's CPU time", SOON, |received| {
        received.metrics[before..]
            .iter()
            .any(|metric| metric.name == metric::CPU_TIME)
    });
    receiver.wait_for("a call's state", SOON, |received| {
        received
            .metrics
            .iter()
            .any(|metric| metric.name == metric::BREAKER_STATE)
    });
    let mut stray = stray(pools[1].workers()[0].pid.unwrap(), &place.tag);
    // It is outside every sitter's tree, so the audit reports it, and later the cleaner.
    receiver.wait_for("the audit's finding", SOON, |received| {
        received
            .metrics
            .iter()
            .any(|metric| metric.name == metric::DISAGREEMENTS)
    });
    ostler.stop().await.expect("nothing is left");
    stray.ended();
    provoke(telemetry, run);
    traces
}

/// The `traceparent` that the worker of each pool was given, by the worker.
type Traces = [(&'static str, String); 3];

/// Calls workers over gRPC, HTTP and stdio; a crash opens the circuit breaker, and a worker is
/// drained.
async fn calls(ostler: &Ostler, events: &mut EventStream, place: &Place) -> (Traces, ServingPool) {
    let point = |latitude, longitude| Point { latitude, longitude };
    let grpc = place.serving(ostler, "called", "grpc").await;
    let mut client = RouteGuideClient::new(grpc.grpc());
    let answer = client.get_feature(point(1, 0)).await.expect("an answer");
    let trace = answer
        .metadata()
        .get("traceparent-seen")
        .expect("a trace")
        .to_str()
        .unwrap()
        .to_owned();
    client.get_feature(point(2, -1)).await.expect_err("it crashes");
    until(events, "breaker.opened", |event| event.kind == EventKind::BreakerOpened).await;
    while client.get_feature(point(3, 0)).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    until(events, "breaker.closed", |event| event.kind == EventKind::BreakerClosed).await;
    grpc.replace(0);
    until(events, "worker.draining", |event| {
        event.kind == EventKind::WorkerDraining
    })
    .await;

    let http = place.serving(ostler, "asked", "http").await;
    let mut asked = String::new();
    for method in ["BREW", "GET"] {
        let request = hyper::Request::builder().method(method).uri("/healthz");
        let request = request.body(http_body_util::Empty::<hyper::body::Bytes>::new());
        let response = http.http().send(request.unwrap()).await.expect("an answer");
        assert_eq!(response.status(), 200);
        let trace = response.headers().get("traceparent-seen").expect("a trace");
        asked = trace.to_str().unwrap().to_owned();
        let body = http_body_util::BodyExt::collect(response.into_body()).await;
        body.expect("the whole answer");
    }

    let stdio = place.serving(ostler, "spoken_to", "packet").await;
    let client = stdio.stdio::<serde_json::Value, serde_json::Value>();
    let answer = client.call(&serde_json::json!({"key": 4})).await.expect("an answer");
    let spoken_to = answer["traceparent"].as_str().expect("a trace").to_owned();
    let traces = [("called/0", trace), ("asked/0", asked), ("spoken_to/0", spoken_to)];
    (traces, grpc)
}

/// Sends what a test can only cause with a flood of events or with a bug.
fn provoke(telemetry: &Telemetry, run: ostler::RunId) {
    for kind in [
        EventKind::EventsDropped,
        EventKind::CleanupSuccess,
        EventKind::RunGaveUp,
    ] {
        let mut event = Event::new(1, SystemTime::now(), kind, "names", run);
        event.facts = Facts::default().with_count(1);
        event.facts.holder = Some("pid 1 (init)".into());
        telemetry.event(&Arc::new(event), &SpanLink::default());
    }
}

#[test]
fn full_run_sends_exactly_the_listed_names() {
    let receiver = Receiver::http();
    let settings = Settings {
        endpoint: Some(receiver.endpoint()),
        protocol: Protocol::Http,
        metric_interval: Some(Duration::from_millis(200)),
        service_name: Some("names".into()),
        ..Settings::default()
    };
    let telemetry = Telemetry::start(&settings).unwrap().expect("telemetry is enabled");
    tracing_subscriber::registry().with(telemetry.layer()).init();
    // Spans of the app itself must not be exported.
    drop(tracing::info_span!("the app's own"));
    let place = Place::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let traces = runtime.block_on(full_run(&place, &telemetry, &receiver));
    let undelivered = telemetry.shutdown(SOON);
    assert!(undelivered.is_empty(), "{undelivered}");
    assert_eq!(survivors(&place.tag), []);
    assert!(run_directories(&place.directory.path().join("state")).is_empty());

    let received = receiver.received();
    let kinds = EventKind::ALL.iter().map(|kind| kind.full_name());
    // Events without a span of their own are span events of starts and stops.
    let events: BTreeSet<&str> = kinds.collect();
    compare("events", &events, &event_names(&received));
    let spans: BTreeSet<&str> = listed(span::ALL);
    let is_call = |span: &&Span| span.kind() == SpanKind::Client && span.name != span::CALL;
    let calls: BTreeSet<&str> = received
        .spans
        .iter()
        .filter(is_call)
        .map(|span| span.name.as_str())
        .collect();
    assert_eq!(
        calls,
        BTreeSet::from(["GET", "HTTP", "routeguide.RouteGuide/GetFeature"])
    );
    for (worker, trace) in &traces {
        assert_is_in_trace(&received, worker, trace);
    }
    assert_is_of_unknown_method(&received);
    let others = received.spans.iter().filter(|span| !is_call(span));
    let sent: BTreeSet<&str> = others.map(|span| span.name.as_str()).collect();
    let of_spans: BTreeSet<&str> = received
        .spans
        .iter()
        .flat_map(|span| &span.events)
        .map(|event| event.name.as_str())
        .filter(|name| !events.contains(name))
        .collect();
    compare("events of spans", &listed(span_event::ALL), &of_spans);
    let unlisted: Vec<_> = sent.difference(&spans).filter(|name| !events.contains(*name)).collect();
    assert!(unlisted.is_empty(), "unlisted spans: {unlisted:?}");
    let missing: Vec<_> = spans.difference(&sent).collect();
    assert!(missing.is_empty(), "listed spans that were not sent: {missing:?}");
    let metrics = received.metrics.iter().map(|metric| metric.name.as_str()).collect();
    compare("metrics", &listed(metric::ALL), &metrics);
    for sent in &received.metrics {
        let listed = metric::ALL.iter().find(|listed| listed.name == sent.name).unwrap();
        assert_eq!(
            (sent.unit.as_str(), sent.description.as_str()),
            (listed.unit, listed.meaning)
        );
    }
    compare("attributes", &listed(attribute::ALL), &attributes(&received));
    let of_resources = received.resources.iter().flat_map(|from| &from.attributes);
    let ours = |name: &&str| !name.starts_with("telemetry.");
    let of_resources = of_resources.map(|pair| pair.key.as_str()).filter(ours).collect();
    compare("attributes of the resource", &listed(resource::ALL), &of_resources);
}

/// The text of an attribute.
fn text<'a>(span: &'a Span, key: &str) -> &'a str {
    let found = span.attributes.iter().find(|pair| pair.key == key);
    match found.and_then(|pair| pair.value.as_ref()?.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => text,
        other => panic!("{key} is {other:?} in {span:?}"),
    }
}

/// A method that the conventions do not list is no name of its own.
fn assert_is_of_unknown_method(received: &Received) {
    let call = received
        .spans
        .iter()
        .find(|span| span.name == "HTTP")
        .expect("the call");
    assert_eq!(
        (
            text(call, "http.request.method"),
            text(call, "http.request.method_original")
        ),
        ("_OTHER", "BREW")
    );
}

/// What the worker was given is the place of a call's span.
fn assert_is_in_trace(received: &Received, worker: &str, trace: &str) {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut calls = received.spans.iter().filter(|span| span.kind() == SpanKind::Client);
    let call = calls.find(|span| trace == format!("00-{}-{}-01", hex(&span.trace_id), hex(&span.span_id)));
    let call = call.unwrap_or_else(|| panic!("no call is {trace}"));
    if worker == "called/0" {
        assert_eq!(call.name, "routeguide.RouteGuide/GetFeature");
        assert_eq!(
            (text(call, "rpc.system.name"), text(call, "rpc.response.status_code")),
            ("grpc", "OK")
        );
    }
    assert_eq!(
        (text(call, "ostler.outcome"), text(call, "ostler.worker")),
        ("answered", worker)
    );
    assert!(call.events.iter().any(|event| event.name == span_event::QUEUED));
}

fn listed(names: &[Name]) -> BTreeSet<&'static str> {
    names.iter().map(|name| name.name).collect()
}

fn compare(what: &str, listed: &BTreeSet<&str>, sent: &BTreeSet<&str>) {
    let missing: Vec<_> = listed.difference(sent).collect();
    let unlisted: Vec<_> = sent.difference(listed).collect();
    assert!(missing.is_empty(), "listed {what} that were not sent: {missing:?}");
    assert!(unlisted.is_empty(), "unlisted {what}: {unlisted:?}");
}

fn event_names(received: &Received) -> BTreeSet<&str> {
    let names = received.records.iter().map(|record| record.event_name.as_str());
    names.filter(|name| !name.is_empty()).collect()
}

/// The attribute keys of everything received.
fn attributes(received: &Received) -> BTreeSet<&str> {
    let mut all: Vec<&[KeyValue]> = Vec::new();
    for span in &received.spans {
        all.push(&span.attributes);
        all.extend(span.events.iter().map(|event| event.attributes.as_slice()));
    }
    all.extend(received.records.iter().map(|record| record.attributes.as_slice()));
    for metric in &received.metrics {
        match metric.data.as_ref() {
            Some(Data::Gauge(gauge)) => all.extend(gauge.data_points.iter().map(|point| point.attributes.as_slice())),
            Some(Data::Sum(sum)) => all.extend(sum.data_points.iter().map(|point| point.attributes.as_slice())),
            Some(Data::Histogram(histogram)) => {
                all.extend(histogram.data_points.iter().map(|point| point.attributes.as_slice()));
            }
            other => panic!("{} is {other:?}", metric.name),
        }
    }
    all.into_iter().flatten().map(|pair| pair.key.as_str()).collect()
}
