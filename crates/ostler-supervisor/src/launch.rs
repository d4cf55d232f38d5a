//! The task that accompanies one incarnation of a child from its start until everything it held is
//! released.

use ostler_core::supervision::ChildRef;
use ractor::ActorCell;
use tokio::sync::oneshot;

use crate::child::{Launch, NotStarted, StartContext, StartedChild};
use crate::messages::{EngineMessage, News, Post, Up};

/// Starts a child. The caller keeps the returned sender: dropping it, for example with the
/// supervisor, cancels the start.
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
            // An actor's task catches its panics. An error means that the runtime is shutting down,
            // and the task is gone either way.
            let _ = join.await;
            messenger.say(News::Over, if may_enter.is_some() { Said::Over } else { Said::All });
            if let Some((gate, may_enter)) = may_enter {
                // An error means that the supervisor is gone, and the state with it.
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

/// Reports the child's end to the engine even if a user's start function or gate panics.
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
            // While the child is running, this is only dropped at the end of the runtime, when
            // there is no engine to report to.
            Said::Up | Said::All => {}
            Said::Nothing => {
                let panicked = ostler_core::exit::ExitReason::failed("the start function or the gate panicked");
                self.say(News::NotUp(NotStarted::Failed(panicked.into())), Said::All);
            }
            Said::Over => {
                tracing::error!(child = %self.child, "the release gate panicked: treated as released");
                self.say(News::Released, Said::All);
            }
        }
    }
}
