//! OTP supervision of ordinary ractor actors: no process in sight.
//!
//! `cargo run -p actors` tells the story as it happens: a counter and a ledger that depends on it, under rest_for_one, and sessions that
//! come and go under a dynamic supervisor. The counter fails on its third message, and what depends on it is restarted with it; a
//! session ends normally and is forgotten; another fails and comes back; then a child fails too often, and the supervisor gives up.

use std::error::Error;
use std::time::Duration;

use ostler::supervisor::{
    ChildSpec, DynamicSupervisor, ExitReason, Report, Restart, Strategy, Supervisor, SupervisorOptions,
};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};
use tokio::sync::mpsc;

/// Counts, and fails on its third message.
struct Counter;

enum Count {
    Up,
}

impl Actor for Counter {
    type Msg = Count;
    type State = u32;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Count>, (): ()) -> Result<u32, ActorProcessingErr> {
        Ok(0)
    }

    async fn handle(&self, _: ActorRef<Count>, _: Count, count: &mut u32) -> Result<(), ActorProcessingErr> {
        *count += 1;
        println!("  the counter is at {count}");
        match *count {
            3 => Err("three is too many".into()),
            _ => Ok(()),
        }
    }
}

/// Does nothing but be there, until it is told to end in some way.
struct Plain;

enum End {
    Normally,
    Badly,
}

impl Actor for Plain {
    type Msg = End;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<End>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(&self, myself: ActorRef<End>, end: End, (): &mut ()) -> Result<(), ActorProcessingErr> {
        match end {
            End::Normally => myself.stop(None),
            End::Badly => return Err("the line was cut".into()),
        }
        Ok(())
    }
}

/// What is reported is told, and handed on to whoever waits for it.
fn storyteller(name: &'static str, told: mpsc::UnboundedSender<Report>) -> impl Fn(Report) + Send + Sync {
    move |report| {
        let child = report.child();
        match &report {
            Report::Progress { .. } => println!("  {name}: {child} is up"),
            Report::ChildTerminated { reason, .. } => println!("  {name}: {child} ended, {reason}"),
            Report::RestartScheduled { attempt, restarts, .. } => {
                println!("  {name}: {child} is restarted (attempt {attempt} in a row, {restarts} in the period)");
            }
            Report::ReachedMaxRestartIntensity { restarts, .. } => {
                println!("  {name}: {restarts} restarts are too many, giving up");
            }
            Report::StartError { reason, .. } | Report::ShutdownError { reason, .. } => {
                println!("  {name}: {} of {child}: {reason}", report.name());
            }
        }
        // The story is told either way.
        let _ = told.send(report);
    }
}

/// Waits until so many children have come up.
async fn until_up(reports: &mut mpsc::UnboundedReceiver<Report>, mut count: usize) {
    while count > 0 {
        match reports.recv().await {
            Some(Report::Progress { .. }) => count -= 1,
            Some(_) => {}
            None => return,
        }
    }
}

async fn child(supervisor: &Supervisor, id: &str) -> Result<ActorCell, Box<dyn Error>> {
    let children = supervisor.which_children().await?;
    let child = children.into_iter().find(|info| info.child.id.as_str() == id);
    child
        .and_then(|info| info.cell)
        .ok_or_else(|| format!("{id} is not up").into())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (told, mut reports) = mpsc::unbounded_channel();

    println!("A tree: a counter, a ledger that depends on it, and a supervisor of sessions.");
    let sessions_reporter = storyteller("sessions", told.clone());
    let sessions_options = SupervisorOptions::new()
        .intensity(3, Duration::from_secs(5))
        .reporter(sessions_reporter);
    let children = vec![
        ChildSpec::actor("counter", || (Counter, ())),
        ChildSpec::actor("ledger", || (Plain, ())),
        ChildSpec::dynamic_supervisor("sessions", sessions_options),
    ];
    let options = SupervisorOptions::new()
        .strategy(Strategy::RestForOne)
        .intensity(1, Duration::from_secs(5))
        .reporter(storyteller("top", told));
    let top = Supervisor::spawn(None, options, children).await?;
    until_up(&mut reports, 3).await;

    println!("Sessions come and go; a transient one that ended normally is not restarted, one that failed is.");
    let info = top
        .which_children()
        .await?
        .into_iter()
        .find_map(|info| info.dynamic_supervisor());
    let sessions: DynamicSupervisor = info.ok_or("the sessions are not up")?;
    let template = ChildSpec::actor("session", || (Plain, ())).restart(Restart::Transient);
    let first = sessions
        .start_child(template.clone())
        .await?
        .started()
        .ok_or("it is up")?;
    let second = sessions.start_child(template).await?.started().ok_or("it is up")?;
    ActorRef::<End>::from(first.cell).cast(End::Normally)?;
    ActorRef::<End>::from(second.cell).cast(End::Badly)?;
    until_up(&mut reports, 3).await;

    println!("The counter fails on the third message: what was started after it is stopped and started again with it.");
    let counter: ActorRef<Count> = child(&top, "counter").await?.into();
    for _ in 0..3 {
        counter.cast(Count::Up)?;
    }
    until_up(&mut reports, 3).await;

    println!("The ledger is killed, which is one restart too many within five seconds.");
    child(&top, "ledger").await?.kill();
    let end = top.wait().await.ok_or("it ended by itself")?;
    println!(
        "The supervisor has ended; its own supervisor would see: {}.",
        end.exit_reason()
    );
    assert_eq!(end.exit_reason(), ExitReason::SHUTDOWN);
    Ok(())
}
