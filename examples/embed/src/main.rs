//! An app that runs a pool of web servers under its own ractor supervisor and prints the events.
//!
//! `cargo run -p embed --no-default-features --features redb`

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use ostler::{EventItem, EventKind, EventStream, Ostler, Port, Ready, Restart};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};

/// The app's top supervisor. This one only prints when Ostler's tree ends.
struct App;

impl Actor for App {
    type Msg = ();
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<()>,
        event: SupervisionEvent,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorTerminated(child, _, reason) => {
                println!("app: {} has ended ({reason:?})", child.get_id())
            }
            SupervisionEvent::ActorFailed(child, error) => println!("app: {} has failed: {error}", child.get_id()),
            _ => {}
        }
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (app, app_ended) = Actor::spawn(None, App, ()).await?;

    let builder = Ostler::builder("embed");
    let events = tokio::spawn(print(builder.subscribe()));
    let ostler = builder.start_linked(app.get_cell()).await?;

    let pool = ostler
        .pool("web")
        .command(["python3", "-u", "server.py", "--port", "{port}"])
        .cwd(Path::new(env!("CARGO_MANIFEST_DIR")).join("../web"))
        .workers(2)
        .port(Port::Any)
        .ready(Ready::http("/healthz"))
        .restart(Restart::Permanent)
        .intensity(3, Duration::from_secs(5))
        .start()
        .await?;
    pool.wait_ready().await?;
    for worker in pool.ready() {
        println!(
            "{} is ready: pid {:?} at {:?}",
            worker.id(),
            worker.pid(),
            worker.addr()
        );
    }

    // A requested restart is a stop, a confirmed release and a start. It is complete once the next
    // process is ready.
    let worker = pool.worker(0)?;
    worker.restart().await?;
    let incarnation = worker.ready().await?;
    println!("{}#{incarnation} is ready at {:?}", worker.id(), worker.addr());

    let report = ostler.stop().await?;
    println!("stopped: {report}");
    app.stop(None);
    app_ended.await?;
    events.await?;
    Ok(())
}

async fn print(mut events: EventStream) {
    while let Some(item) = events.recv().await {
        let event = match item {
            EventItem::Event(event) => event,
            EventItem::Lagged(events) => {
                println!("{events} events were missed");
                continue;
            }
            _ => continue,
        };
        let worker = event.worker.as_ref().map(ToString::to_string).unwrap_or_default();
        println!(
            "{:>4} {:<18} {worker} {}",
            event.seq,
            event.kind.name(),
            event.facts.message.as_deref().unwrap_or_default()
        );
        if event.kind == EventKind::RunStopped {
            break;
        }
    }
}
