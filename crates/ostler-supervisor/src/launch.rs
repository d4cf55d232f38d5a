//! The task that accompanies one incarnation of a child, from its start until all that it had is released.

use ostler_core::supervision::ChildRef;
use ractor::ActorCell;
use tokio::sync::oneshot;

use crate::child::{Launch, StartContext, StartError, StartedChild};
use crate::messages::{EngineMessage, News, Post, Up};

/// Starts a child. It is the caller's to keep the sender: the start is cancelled when it is dropped, so also when the supervisor is.
pub(crate) fn launch(child: ChildRef, launch: Launch, parent: ActorCell, post: Post) -> oneshot::Sender<()> {
    let (cancel, cancelled) = oneshot::channel();
    let context = StartContext::new(child.clone(), parent, cancelled);
    tokio::spawn(accompany(
        launch,
        context,
        Messenger {
            child,
            post,
            said: Said::Nothing,
        },
    ));
    cancel
}

async fn accompany(launch: Launch, context: StartContext, mut messenger: Messenger) {
    let Launch { start, gate, .. } = launch;
    let outcome = start(context).await;
    drop(start);
    match outcome {
        Ok(StartedChild {
            cell,
            join,
            probe,
            info,
        }) => {
            let (enter_gate, may_enter) = match gate {
                Some(gate) => {
                    let (enter, may_enter) = oneshot::channel();
                    (Some(enter), Some((gate, may_enter)))
                }
                None => (None, None),
            };
            let up = Up {
                cell,
                probe,
                info,
                enter_gate,
            };
            messenger.say(News::Up(up), Said::Up);
            // An actor's task catches its panics: an error says that the runtime is shutting down, and the task is gone either way.
            let _ = join.await;
            messenger.say(News::Over, if may_enter.is_some() { Said::Over } else { Said::All });
            if let Some((gate, may_enter)) = may_enter {
                // An error says that the supervisor is gone, and the state with it.
                let _ = may_enter.await;
                gate(messenger.child.clone()).await;
                messenger.say(News::Released, Said::All);
            }
        }
        Err(error) => {
            if let Some(gate) = gate {
                gate(messenger.child.clone()).await;
            }
            messenger.say(News::NotUp(error), Said::All);
        }
    }
}

/// Sees to it that the engine hears of a child's end although a start function or a gate of the user's panics.
struct Messenger {
    child: ChildRef,
    post: Post,
    said: Said,
}

#[derive(PartialEq)]
enum Said {
    Nothing,
    Up,
    Over,
    All,
}

impl Messenger {
    fn say(&mut self, news: News, said: Said) {
        self.said = said;
        (self.post)(EngineMessage::news(self.child.clone(), news));
    }
}

impl Drop for Messenger {
    fn drop(&mut self) {
        match self.said {
            // While the child is up only the end of the runtime drops this, and nobody listens.
            Said::Up | Said::All => {}
            Said::Nothing => {
                let panicked = ostler_core::exit::ExitReason::failed("the start function or the gate panicked");
                self.say(News::NotUp(StartError::Failed(panicked.into())), Said::All);
            }
            Said::Over => {
                tracing::error!(child = %self.child, "the release gate panicked: taken as released");
                self.say(News::Released, Said::All);
            }
        }
    }
}
