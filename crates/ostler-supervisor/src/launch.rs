//! The task that accompanies one incarnation of a child from its start until everything it held is
//! released.

use std::panic::AssertUnwindSafe;

use futures_util::future::{BoxFuture, FutureExt};
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
    let Launch { start, gate, .. } = launch;
    // In a box, so that the task keeps no room for the start while the child runs.
    let started = Box::pin(async move { start(context).await });
    let mut messenger = Messenger {
        child,
        post,
        said: Said::Nothing,
    };
    // A block, because an async function keeps room for each argument that it moves twice.
    tokio::spawn(async move {
        match started.await {
            Ok(started) => {
                let (up, over, may_enter) = up(started, gate.is_some());
                messenger.say(News::Up(up), Said::Up);
                // What follows the end of the actor may panic.
                let _ = AssertUnwindSafe(over).catch_unwind().await;
                messenger.say(News::Over, if gate.is_some() { Said::Over } else { Said::All });
                if let (Some(gate), Some(may_enter)) = (&gate, may_enter) {
                    // An error means that the supervisor is gone, and the state with it.
                    let _ = may_enter.await;
                    gate(messenger.child.clone()).await;
                    messenger.say(News::Released, Said::All);
                }
            }
            Err(error) => {
                if let Some(gate) = &gate {
                    gate(messenger.child.clone()).await;
                }
                messenger.say(News::NotUp(error), Said::All);
            }
        }
    });
    cancel
}

type MayEnter = Option<oneshot::Receiver<()>>;

/// What the engine gets of a child that is running, and what its task keeps.
fn up(started: StartedChild, has_gate: bool) -> (Up, BoxFuture<'static, ()>, MayEnter) {
    let StartedChild {
        cell,
        over,
        probe,
        info,
    } = started;
    let (enter_gate, may_enter) = has_gate.then(oneshot::channel).unzip();
    let up = Up {
        cell,
        probe,
        info,
        enter_gate,
    };
    (up, over, may_enter)
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
