//! A newcomer's walkthrough: an app whose actor keeps web workers running, and asks them things.

use ostler::ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort, call_t};
use ostler::supervisor::{Supervisor, SupervisorOptions};
use ostler::testing::TestBed;
use ostler::{EventKind, Ostler, OstlerBuilder, OutputItem, PoolSpec, Port, Ready, Signal, StopReport, Worker};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// The app's actor. It owns an Ostler: the workers end with it, however it ends.
struct App;

enum Request {
    Ostler(RpcReplyPort<Ostler>),
    Stop(RpcReplyPort<StopReport>),
}

impl Actor for App {
    type Msg = Request;
    type State = Ostler;
    type Arguments = OstlerBuilder;

    async fn pre_start(&self, me: ActorRef<Request>, builder: OstlerBuilder) -> Result<Ostler, ActorProcessingErr> {
        Ok(builder.start_linked(me.get_cell()).await?)
    }

    async fn handle(&self, _: ActorRef<Request>, request: Request, it: &mut Ostler) -> Result<(), ActorProcessingErr> {
        match request {
            Request::Ostler(reply) => reply.send(it.clone())?,
            // A stop from inside the parent: it waits for nothing that this actor has to do.
            Request::Stop(reply) => reply.send(it.stop().await?)?,
        }
        Ok(())
    }
}

fn web() -> PoolSpec {
    let command = ["python3", "-u", "-m", "http.server", "--bind", "127.0.0.1", "{port}"];
    PoolSpec::new("web", command).port(Port::Any).ready(Ready::http("/"))
}

#[tokio::test]
async fn an_app_with_web_workers() -> Outcome {
    let mut bed = TestBed::new();
    let (app, ended) = Actor::spawn(None, App, bed.builder()).await?;
    let ostler = call_t!(app, Request::Ostler, 20_000)?;
    let web = ostler.add_pool(web().workers(2)).await?;
    web.wait_ready().await?;

    // Query a chosen worker.
    let worker = web.worker(1)?;
    assert!(get(&worker, "/").await?.starts_with("HTTP/1.0 200"));

    // See it die, and where its replacement is.
    bed.allow_failures("web/1");
    worker.signal(Signal::KILL)?;
    let failed = bed.event("web/1", EventKind::WorkerFailed).await;
    assert_eq!(failed.facts.exit.and_then(|exit| exit.signal()), Some(Signal::KILL));
    assert_eq!(worker.ready().await?.0, 2);
    assert!(get(&worker, "/").await?.starts_with("HTTP/1.0 200"));

    // Restart one, and wait for that one.
    let restarted = worker.restart().await?;
    assert_eq!(worker.ready().await?, restarted);

    // More workers.
    web.resize(4).await?;
    web.wait_ready().await?;
    assert_eq!(web.ready().count(), 4);

    // Read what one of them writes: now, and as it comes.
    let mut output = worker.output();
    assert!(get(&worker, "/missing").await?.starts_with("HTTP/1.0 404"));
    while let Some(OutputItem::Line(line)) = bed.within("its log", output.recv()).await {
        if line.text.contains("GET /missing") {
            break;
        }
    }
    assert!(worker.stderr_tail(10).concat().contains("GET /missing"));

    // Stop from inside the parent.
    let report = call_t!(app, Request::Stop, 20_000)?;
    assert!(report.is_clean(), "{report}");
    app.stop(None);
    ended.await?;
    bed.finish().await;
    Ok(())
}

#[tokio::test]
async fn a_supervised_instance_comes_back_with_its_pools() -> Outcome {
    let mut bed = TestBed::new();
    let workers = Ostler::child_spec("workers", bed.maker(), [web()]);
    let supervisor = Supervisor::spawn(None, SupervisorOptions::new(), vec![workers]).await?;
    bed.event("web/0", EventKind::WorkerReady).await;

    // Whatever ends an instance, its supervisor starts it again.
    let child = supervisor.child("workers").await?.ok_or("it was specified")?;
    child.info_as::<Ostler>().ok_or("it runs")?.cell().kill();
    bed.event("web/0", EventKind::WorkerReady).await;
    supervisor.stop().await;
    bed.finish().await;
    Ok(())
}

async fn get(worker: &Worker, path: &str) -> Outcome<String> {
    let address = worker.addr().ok_or("a ready worker has an address")?;
    let mut stream = TcpStream::connect(address).await?;
    stream
        .write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())
        .await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}
