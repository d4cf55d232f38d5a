//! OTP supervision of ordinary ractor actors, without any OS process.
//!
//! `cargo run -p actors` prints what happens: a counter, and a ledger that depends on it, run under
//! rest_for_one; sessions come and go under a dynamic supervisor. A session ends normally and is
//! removed, another one fails and is restarted. The counter fails on its third message, and the
//! children started after it are restarted with it. Finally a child fails too often, and the
//! supervisor gives up.

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

/// Does nothing until it is asked to end.
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
            End::Badly => return Err("connection lost".into()),
        }
        Ok(())
    }
}

/// A reporter that prints each report and forwards it to the channel.
fn reporter(name: &'static str, reports: mpsc::UnboundedSender<Report>) -> impl Fn(Report) + Send + Sync {
    move |report| {
        let child = report.child();
        match &report {
            Report::Progress { .. } => println!("  {name}: {child} is up"),
            Report::ChildTerminated { reason, .. } => println!("  {name}: {child} ended: {reason}"),
            Report::RestartScheduled { attempt, restarts, .. } => {
                println!("  {name}: {child} is being restarted (attempt {attempt}, {restarts} restarts in the period)");
            }
            Report::ReachedMaxRestartIntensity { restarts, .. } => {
                println!("  {name}: giving up after {restarts} restarts");
            }
            Report::StartError { reason, .. } | Report::ShutdownError { reason, .. } => {
                println!("  {name}: {} of {child}: {reason}", report.name());
            }
            other => println!("  {name}: {} of {child}", other.name()),
        }
        // The receiver may be gone at the end.
        let _ = reports.send(report);
    }
}

/// Waits until this many children have started.
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
        .ok_or_else(|| format!("{id} is not running").into())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (sender, mut reports) = mpsc::unbounded_channel();

    println!("A tree: a counter, a ledger that depends on it, and a supervisor of sessions.");
    let sessions_reporter = reporter("sessions", sender.clone());
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
        .reporter(reporter("top", sender));
    let top = Supervisor::spawn(None, options, children).await?;
    until_up(&mut reports, 3).await;

    println!("Sessions come and go: a transient session that ends normally is not restarted, one that fails is.");
    let info = top
        .which_children()
        .await?
        .into_iter()
        .find_map(|info| info.dynamic_supervisor());
    let sessions: DynamicSupervisor = info.ok_or("the sessions supervisor is not running")?;
    let template = ChildSpec::actor("session", || (Plain, ())).restart(Restart::Transient);
    let first = sessions
        .start_child(template.clone())
        .await?
        .started()
        .ok_or("the session did not start")?;
    let second = sessions
        .start_child(template)
        .await?
        .started()
        .ok_or("the session did not start")?;
    ActorRef::<End>::from(first.cell).cast(End::Normally)?;
    ActorRef::<End>::from(second.cell).cast(End::Badly)?;
    until_up(&mut reports, 3).await;

    println!("The counter fails on its third message: the children started after it are restarted with it.");
    let counter: ActorRef<Count> = child(&top, "counter").await?.into();
    for _ in 0..3 {
        counter.cast(Count::Up)?;
    }
    until_up(&mut reports, 3).await;

    println!("The ledger is killed: its restart would be the second within five seconds, and only one is allowed.");
    child(&top, "ledger").await?.kill();
    let end = top.wait().await.ok_or("the supervisor gives up")?;
    println!(
        "The supervisor has ended; its own supervisor would see: {}.",
        end.exit_reason()
    );
    assert_eq!(end.exit_reason(), ExitReason::SHUTDOWN);
    Ok(())
}
