//! Concurrent operations on two threads: invariants that hold in every order.

use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};

use ostler_supervisor::{ChildSpec, End, Exit, ExitReason, Restart, Shutdown, Strategy, Supervisor};
use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::support::{Bench, Command, tell, within};

/// The number of incarnations of one child.
#[derive(Clone, Default)]
struct Census {
    alive: Arc<AtomicIsize>,
    most: Arc<AtomicIsize>,
}

struct Counted(Census);

impl Counted {
    fn new(census: Census) -> Self {
        let alive = census.alive.fetch_add(1, Ordering::SeqCst) + 1;
        census.most.fetch_max(alive, Ordering::SeqCst);
        Counted(census)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A child whose start and stop yield to the executor, so that other operations come in between.
struct Yielding;

impl Actor for Yielding {
    type Msg = Command;
    type State = Counted;
    type Arguments = Census;

    async fn pre_start(&self, _: ActorRef<Command>, census: Census) -> Result<Counted, ActorProcessingErr> {
        let state = Counted::new(census);
        tokio::task::yield_now().await;
        match fastrand::u8(0..10) {
            0 => Err("no start".into()),
            1 => panic!("no start"),
            _ => Ok(state),
        }
    }

    async fn post_stop(&self, _: ActorRef<Command>, _: &mut Counted) -> Result<(), ActorProcessingErr> {
        tokio::task::yield_now().await;
        match fastrand::u8(0..10) {
            0 => Err("no stop".into()),
            1 => std::future::pending().await,
            _ => Ok(()),
        }
    }

    async fn handle(&self, _: ActorRef<Command>, command: Command, _: &mut Counted) -> Result<(), ActorProcessingErr> {
        match command {
            Command::Fail => Err("boom".into()),
            Command::Panic => panic!("boom"),
            Command::Exit(exit) => Err(exit.into()),
            Command::Hang => std::future::pending().await,
        }
    }
}

const IDS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

async fn torment(supervisor: &Supervisor, specs: &[ChildSpec]) {
    let id = fastrand::choice(IDS).expect("non-empty list");
    match fastrand::u8(0..16) {
        0 => drop(supervisor.terminate_child(id).await),
        1 => drop(supervisor.restart_child(id).await),
        2 => drop(supervisor.delete_child(id).await),
        3 => drop(
            supervisor
                .start_child(specs[fastrand::usize(..specs.len())].clone())
                .await,
        ),
        dice => {
            let Ok(children) = supervisor.which_children().await else {
                return;
            };
            let Some(cell) = children
                .into_iter()
                .find(|info| info.child.id.as_str() == id)
                .and_then(|info| info.cell)
            else {
                return;
            };
            match dice {
                4 => cell.kill(),
                5 => cell.stop(Some("killed".into())),
                6 => cell.stop(None),
                7 => tell(&cell, Command::Panic),
                8 => tell(&cell, Command::Hang),
                9 => tell(&cell, Command::Exit(Exit::uncounted(ExitReason::Killed))),
                10 => drop(cell.drain()),
                _ => tell(&cell, Command::Fail),
            }
        }
    }
}

async fn storm(strategy: Strategy) {
    let bench = Bench::new();
    let censuses: Vec<Census> = IDS.iter().map(|_| Census::default()).collect();
    let gates = Arc::new(AtomicIsize::new(0));
    let spec = |(id, census): (&&str, &Census)| {
        let (census, gates, of_this) = (census.clone(), gates.clone(), census.clone());
        let restart = [Restart::Permanent, Restart::Transient, Restart::Temporary][fastrand::usize(..3)];
        ChildSpec::actor(*id, move || (Yielding, census.clone()))
            .restart(restart)
            .shutdown(Shutdown::Timeout(std::time::Duration::from_millis(1)))
            .gate(move |_| {
                let (gates, census) = (gates.clone(), of_this.clone());
                async move {
                    assert_eq!(
                        census.alive.load(Ordering::SeqCst),
                        0,
                        "gate ran before the state was dropped"
                    );
                    gates.fetch_add(1, Ordering::SeqCst);
                    tokio::task::yield_now().await;
                }
            })
    };
    let specs: Vec<ChildSpec> = IDS.iter().zip(&censuses).map(spec).collect();
    // Children are added one by one, because the first start may fail.
    let options = bench.with_intensity(strategy, u32::MAX);
    let supervisor = within(Supervisor::spawn(None, options, vec![])).await.unwrap();
    let tormentors: Vec<_> = (0..8)
        .map(|_| {
            let (supervisor, specs) = (supervisor.clone(), specs.clone());
            tokio::spawn(async move {
                for _ in 0..150 {
                    torment(&supervisor, &specs).await;
                }
            })
        })
        .collect();
    for tormentor in tormentors {
        within(tormentor).await.unwrap();
    }
    assert_eq!(within(supervisor.stop()).await, Some(End::Stopped));
    for census in &censuses {
        assert_eq!(census.alive.load(Ordering::SeqCst), 0, "children left");
        assert!(
            census.most.load(Ordering::SeqCst) <= 1,
            "two incarnations at the same time"
        );
    }
    let starts = bench.reported("progress").len();
    assert!(starts > 20, "too few starts: {starts}");
    assert!(
        gates.load(Ordering::SeqCst) >= starts as isize,
        "each incarnation must have its gate"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_incarnation_at_a_time_and_nothing_left_one_for_one() {
    storm(Strategy::OneForOne).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_incarnation_at_a_time_and_nothing_left_one_for_all() {
    storm(Strategy::OneForAll).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_incarnation_at_a_time_and_nothing_left_rest_for_one() {
    storm(Strategy::RestForOne).await;
}
