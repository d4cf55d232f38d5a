//! The process table: a worker's three writes one after the other, and those of many workers at
//! once. The baseline is the hand-off alone: a thread that answers three questions.

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use ostler::Engine;
use ostler_core::ids::{Incarnation, RunId, WorkerId};
use ostler_registry::{
    Activation, Containment, Identity, Key, Owner, Record, RunDir, RunInfo, Table, TableOptions, UnixNanos,
};
use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::report::{Bound, Measure, Report, Spread};
use crate::{Scale, children};

/// The process that measures it, on processors that are kept awake.
pub(crate) const ROLE: &str = "--table";

/// How many workers' writes are under way at a time.
const BULK: u32 = 1_000;
const BOUND: f64 = 40.0;

pub(crate) fn run(scale: Scale, report: &mut Report) {
    let count = scale.pick(BULK, 20);
    let measure = |what| Measure::new(what, 0).unit("µs").baseline("hand-off");
    let mut measures = [
        measure("reserve + activate + remove").bound(Bound::Value(BOUND)),
        measure("the same, of 1,000 at once"),
    ];
    for _ in 0..scale.rounds {
        let figures: Vec<f64> = children::numbers(ROLE, &[&count.to_string()]);
        let [hand_off, single, bulk] = figures[..] else {
            panic!("expected three figures, got {figures:?}");
        };
        measures[0].add(hand_off, single);
        measures[1].add(hand_off, bulk);
    }
    report.take("table", &measures);
}

/// Prints the microseconds of three hand-offs, of one worker's three writes, and of one worker's
/// share of the writes of many.
pub(crate) fn role(arguments: &[String]) {
    let count: u32 = arguments[0].parse().expect("a count");
    keep_processors_awake();
    let directory = TempDir::new().expect("temporary directory");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.expect("tokio runtime").block_on(async {
        let identity = ostler_os::identity::own().expect("this process");
        let owner = Owner {
            app: "bench".to_owned(),
            instance: "main".to_owned(),
            run: RunId::from_u128(7),
        };
        let info = RunInfo::new(&owner, identity, Engine::DEFAULT, UnixNanos(1));
        let run = RunDir::create(directory.path(), info).expect("run directory");
        let options = TableOptions {
            engine: Engine::DEFAULT,
            ..TableOptions::default()
        };
        let no_events = Arc::new(|event| panic!("unexpected event {event:?}"));
        let table = Table::open(&run, options, no_events).await.expect("table");
        let write = async |index, incarnation| {
            let key = || Key::new(WorkerId::new("bench", index), Incarnation(incarnation));
            let record = Record::reservation(&owner, key(), 5, UnixNanos(2));
            let activation = Activation {
                identity: Identity::LocalProcess(identity),
                sitter: Some(identity),
                ports: Vec::new(),
                containment: Containment::Sitter,
                at: UnixNanos(3),
            };
            table.reserve(record).await.expect("reserved");
            table.activate(key(), activation).await.expect("activated");
            table.remove(key()).await.expect("removed");
        };
        let mut singles = Vec::new();
        for index in 0..count {
            let begun = Instant::now();
            write(index, 1).await;
            singles.push(micros(begun.elapsed()));
        }
        let begun = Instant::now();
        join_all((0..count).map(|index| write(index, 2))).await;
        let bulk = micros(begun.elapsed()) / f64::from(count);
        children::print([hand_offs(count).await, Spread::of(&singles).median, bulk]);
        table.close().await.expect("closed");
    });
}

/// The median of three questions to a thread, each with its answer.
async fn hand_offs(count: u32) -> f64 {
    let (questions, asked) = mpsc::channel::<oneshot::Sender<()>>();
    let thread = std::thread::spawn(move || {
        for answer in asked {
            answer.send(()).expect("the question's task is waiting");
        }
    });
    let mut times = Vec::new();
    for _ in 0..count {
        let begun = Instant::now();
        for _ in 0..3 {
            let (answer, answered) = oneshot::channel();
            questions.send(answer).expect("the thread is running");
            answered.await.expect("an answer");
        }
        times.push(micros(begun.elapsed()));
    }
    drop(questions);
    thread.join().expect("the thread ends with its questions");
    Spread::of(&times).median
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// A processor that halts between two calls needs about 50 µs to wake up on a virtual machine,
/// several times what the table needs. So a thread of the lowest priority spins on each of them
/// until this process ends.
fn keep_processors_awake() {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    for _ in 0..processors {
        std::thread::spawn(|| {
            // Linux keeps the priority per thread (sched(7)).
            rustix::process::nice(19).expect("lowering the priority");
            loop {
                std::hint::spin_loop();
            }
        });
    }
}
