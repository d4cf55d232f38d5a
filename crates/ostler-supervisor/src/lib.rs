//! Erlang/OTP supervisors for [ractor] actors.
//!
//! ractor links actors and reports their exits, but restarts nothing. A [`Supervisor`] starts its
//! children in order, restarts them as OTP does ([`Restart`], [`Strategy`], intensity), stops them
//! in reverse order, and gives up when OTP gives up. The children of a [`DynamicSupervisor`] are
//! added and removed at run time. [`Engine`] is the same supervisor inside an actor of your own.
//! `docs/supervision.md` lists the promises. `ostler` re-exports this crate as
//! `ostler::supervisor`; this crate itself knows nothing about OS processes.
//!
//! ```
//! use ostler_supervisor::{ChildSpec, Supervisor, SupervisorOptions};
//! use ractor::{Actor, ActorProcessingErr, ActorRef};
//! # use std::time::Duration;
//!
//! struct Greeter;
//!
//! impl Actor for Greeter {
//!     type Msg = String;
//!     type State = ();
//!     type Arguments = ();
//!     async fn pre_start(&self, _: ActorRef<String>, _: ()) -> Result<(), ActorProcessingErr> {
//!         Ok(())
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let options = SupervisorOptions::new().intensity(3, Duration::from_secs(5));
//! let children = vec![ChildSpec::actor("greeter", || (Greeter, ()))];
//! let supervisor = Supervisor::spawn(None, options, children).await?;
//! assert_eq!(supervisor.count_children().await?.active, 1);
//! supervisor.stop().await;
//! # Ok(())
//! # }
//! ```

mod actor;
mod alarm;
mod answer;
mod child;
mod dynamic;
mod engine;
mod exit;
mod handle;
mod launch;
mod messages;
mod nested;
mod options;
mod running;
mod supervised;
mod trace;

pub use child::{ChildSpec, Info, KeptSpec, Launch, NotStarted, StartContext, StartedChild};
pub use dynamic::DynamicSupervisor;
pub use engine::Engine;
pub use exit::{Exit, Ignore};
pub use handle::{Gone, Supervisor, SupervisorError};
pub use messages::EngineMessage;
pub use options::SupervisorOptions;
pub use running::{ChildInfo, ChildStart, RunningChild};

pub use ostler_core::exit::{ExitReason, Failure as ExitFailure};
pub use ostler_core::supervision::{
    AutoShutdown, Backoff, ChildCounts, ChildId, ChildKey, ChildKind, ChildRef, ChildStatus, DeleteChildError, End,
    Report, Restart, RestartChildError, Shutdown, SpecError, StartChildError, Strategy, SupervisorFlags, Target,
    TerminateChildError,
};
