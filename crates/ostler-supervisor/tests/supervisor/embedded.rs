//! The engine inside a custom actor.

use ostler_supervisor::{Engine, EngineMessage, ExitReason, Strategy};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::oneshot;

use crate::support::{Bench, Command, tell, within};

struct Host;

enum HostMessage {
    Engine(EngineMessage),
    Children(oneshot::Sender<Vec<ostler_supervisor::ChildInfo>>),
    Stop,
}

#[cfg(feature = "cluster")]
impl ractor::Message for HostMessage {}

impl Host {
    /// Called after each message to the engine.
    fn look(myself: &ActorRef<HostMessage>, engine: &Engine) {
        if let Some(end) = engine.ended() {
            myself.stop(Some(end.exit_reason().to_string()));
        }
    }
}

impl Actor for Host {
    type Msg = HostMessage;
    type State = Engine;
    type Arguments = (Bench, oneshot::Sender<Result<(), ostler_supervisor::End>>);

    async fn pre_start(
        &self,
        myself: ActorRef<HostMessage>,
        (bench, ready): Self::Arguments,
    ) -> Result<Engine, ActorProcessingErr> {
        let children = vec![bench.child("a"), bench.child("b")];
        let mailbox = myself.clone();
        let mut engine = Engine::new(
            bench.options(Strategy::OneForAll),
            children,
            myself.get_cell(),
            move |message| {
                let _ = mailbox.cast(HostMessage::Engine(message));
            },
        )?;
        engine.begin(ready);
        Ok(engine)
    }

    async fn handle(
        &self,
        myself: ActorRef<HostMessage>,
        message: HostMessage,
        engine: &mut Engine,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            HostMessage::Engine(message) => engine.handle(message),
            HostMessage::Children(reply) => drop(reply.send(engine.which_children())),
            HostMessage::Stop => engine.stop(),
        }
        Host::look(&myself, engine);
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<HostMessage>,
        event: SupervisionEvent,
        engine: &mut Engine,
    ) -> Result<(), ActorProcessingErr> {
        engine.on_supervision_event(event);
        Host::look(&myself, engine);
        Ok(())
    }
}

#[tokio::test]
async fn custom_actor_supervises_with_an_engine() {
    let bench = Bench::new();
    let (ready, is_ready) = oneshot::channel();
    let (host, ended) = Actor::spawn(None, Host, (bench.clone(), ready)).await.unwrap();
    within(is_ready).await.unwrap().unwrap();
    let children = async || {
        let (reply, answer) = oneshot::channel();
        host.cast(HostMessage::Children(reply)).ok().unwrap();
        within(answer).await.unwrap()
    };
    tell(children().await[0].cell.as_ref().unwrap(), Command::Fail);
    bench.until_reported("progress", 4).await;
    assert!(children().await.iter().all(|info| info.child.incarnation == 2));
    host.cast(HostMessage::Stop).ok().unwrap();
    within(ended).await.unwrap();
    let log = bench.log.lines();
    assert_eq!(log[2..7], ["gone a", "stop b", "gone b", "start a", "start b"]);
    assert_eq!(log[7..], ["stop b", "gone b", "stop a", "gone a"]);
    assert_eq!(
        bench.reported("child_terminated"),
        [format!("a/1 {}", ExitReason::failed("boom"))]
    );
}
