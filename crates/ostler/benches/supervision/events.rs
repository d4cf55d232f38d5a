//! Events to 100 subscribers, one of which never reads. The baseline is a bare
//! `tokio::sync::broadcast` with as many receivers that all read.

use std::time::Duration;

use ostler::{EventKind, EventStream, Facts, Pool};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::Scale;
use crate::ours::Ours;
use crate::report::{Measure, Report};
use crate::worker::{Worker, now};

const SUBSCRIBERS: usize = 100;
const EVENTS: u64 = 5_000;
/// Events are sent in groups that fit into the buffer, and each group is read before the next one,
/// so that only the stuck subscriber loses any.
const GROUP: u64 = 500;
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn run(scale: Scale, report: &mut Report) {
    let events = scale.pick(EVENTS, GROUP);
    let worker = Worker::build();
    let ours = Ours::start(&worker);
    let (instance, runtime) = ours.instance();
    let _entered = runtime.enter();
    let pool = ours.pool(1);
    worker.next_stamp();
    runtime.block_on(pool.wait_ready()).expect("the pool is ready");
    let measure = |what| Measure::new(what, 0).unit("µs").baseline("broadcast");
    let mut measures = [
        measure("an event, 100 subscribers read"),
        measure("an event, one of them never reads"),
    ];
    for _ in 0..scale.rounds {
        let base = runtime.block_on(bare(events));
        for (measure, stuck) in measures.iter_mut().zip([0, 1]) {
            let streams: Vec<EventStream> = (0..SUBSCRIBERS).map(|_| instance.subscribe()).collect();
            measure.add(base, runtime.block_on(delivered(&pool, streams, stuck, events)));
        }
    }
    ours.end();
    report.take("events", &measures);
}

/// The microseconds from an event to its receipt by every subscriber that reads, on average.
async fn delivered(pool: &Pool, mut streams: Vec<EventStream>, stuck: usize, events: u64) -> f64 {
    let stuck = streams.split_off(streams.len() - stuck);
    let begun = now();
    for _ in 0..events / GROUP {
        let readers = streams.into_iter().map(|stream| tokio::spawn(read(stream)));
        let readers: Vec<JoinHandle<EventStream>> = readers.collect();
        for _ in 0..GROUP {
            pool.publish(EventKind::SweepDone, None, Facts::default());
        }
        streams = Vec::with_capacity(SUBSCRIBERS);
        for reader in readers {
            let read = timeout(LIMIT, reader).await.expect("every reader gets every event");
            streams.push(read.expect("no reader panics"));
        }
    }
    let took = now() - begun;
    drop(stuck);
    each(took, events)
}

async fn read(mut stream: EventStream) -> EventStream {
    for _ in 0..GROUP {
        let item = stream.recv().await.expect("the instance is running");
        let event = item.event().expect("no event is lost");
        assert_eq!(event.kind, EventKind::SweepDone, "no event is lost");
    }
    stream
}

async fn bare(events: u64) -> f64 {
    let (sender, first) = broadcast::channel::<std::sync::Arc<u64>>(1024);
    let mut receivers = vec![first];
    receivers.extend((1..SUBSCRIBERS).map(|_| sender.subscribe()));
    let begun = now();
    for _ in 0..events / GROUP {
        let readers = receivers.into_iter().map(|mut receiver| {
            tokio::spawn(async move {
                for _ in 0..GROUP {
                    receiver.recv().await?;
                }
                Ok::<_, RecvError>(receiver)
            })
        });
        let readers: Vec<JoinHandle<_>> = readers.collect();
        for number in 0..GROUP {
            sender.send(std::sync::Arc::new(number)).expect("there are receivers");
        }
        receivers = Vec::with_capacity(SUBSCRIBERS);
        for reader in readers {
            receivers.push(reader.await.expect("no reader panics").expect("nothing is lost"));
        }
    }
    each(now() - begun, events)
}

fn each(took: u64, events: u64) -> f64 {
    took as f64 / 1e3 / events as f64
}
