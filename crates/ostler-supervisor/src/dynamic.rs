//! Supervisors whose children are added and removed at run time.

use ostler_core::supervision::{ChildCounts, ChildId, ChildKey, End, StartChildError, Strategy, TerminateChildError};
use ractor::ActorCell;

use crate::child::ChildSpec;
use crate::handle::{Gone, Supervisor, SupervisorError};
use crate::nested::nested;
use crate::options::SupervisorOptions;
use crate::running::{ChildInfo, ChildStart, RunningChild};

/// A handle to a dynamic supervisor (OTP's simple_one_for_one). Any number of children can be added
/// and removed; they are restarted one for one and stopped in parallel. Cheap to clone.
///
/// A child is started from a specification, which is cheap to clone and thus serves as a template;
/// unlike in OTP, children may have different ones. Ids need not be unique, because a child is
/// identified by its [`ChildKey`]. Children start concurrently (OTP starts one at a time). As in
/// OTP, there is no `restart_child` or `delete_child`.
///
/// Every `async fn` here is cancel safe, as those of [`Supervisor`] are.
#[derive(Debug, Clone)]
pub struct DynamicSupervisor(Supervisor);

impl DynamicSupervisor {
    /// Starts a dynamic supervisor without children. The strategy in `options` is replaced by
    /// simple_one_for_one.
    ///
    /// # Errors
    ///
    /// Returns [`SupervisorError`] if the options are invalid or the actor cannot be spawned.
    pub async fn spawn(name: Option<String>, options: SupervisorOptions) -> Result<Self, SupervisorError> {
        Supervisor::spawn(name, dynamic(options), Vec::new())
            .await
            .map(DynamicSupervisor)
    }

    /// The same, as a ractor child of `parent`, which can be any actor. To make it a child of a
    /// [`Supervisor`], use [`ChildSpec::dynamic_supervisor`].
    ///
    /// # Errors
    ///
    /// The same as [`spawn`](Self::spawn).
    pub async fn spawn_linked(
        name: Option<String>,
        options: SupervisorOptions,
        parent: ActorCell,
    ) -> Result<Self, SupervisorError> {
        Supervisor::spawn_linked(name, dynamic(options), Vec::new(), parent)
            .await
            .map(DynamicSupervisor)
    }

    /// The supervisor's actor.
    pub fn cell(&self) -> ActorCell {
        self.0.cell()
    }

    /// Adds a child and starts it. Returns once it is running.
    ///
    /// # Errors
    ///
    /// The same as [`Supervisor::start_child`], except `AlreadyStarted` and `AlreadyPresent`.
    pub async fn start_child(&self, spec: ChildSpec) -> Result<ChildStart, StartChildError> {
        self.0.start_child(spec).await
    }

    /// Stops a child. Returns once it is gone and released. Idempotent: succeeds for a child that
    /// is already gone.
    ///
    /// # Errors
    ///
    /// `NotFound` for a key that this supervisor never assigned; `Stopping`.
    pub async fn terminate_child(&self, key: ChildKey) -> Result<(), TerminateChildError> {
        self.0.terminate_child(key).await
    }

    /// The children in start order.
    ///
    /// # Errors
    ///
    /// [`Gone`] if the supervisor has ended.
    pub async fn which_children(&self) -> Result<Vec<ChildInfo>, Gone> {
        self.0.which_children().await
    }

    /// Counts the children; `specs` is 1, as in OTP.
    ///
    /// # Errors
    ///
    /// [`Gone`] if the supervisor has ended.
    pub async fn count_children(&self) -> Result<ChildCounts, Gone> {
        self.0.count_children().await
    }

    /// Stops the children in parallel, each with its own timeout from now on, then the supervisor.
    /// See [`Supervisor::stop`].
    pub async fn stop(&self) -> Option<End> {
        self.0.stop().await
    }

    /// Requests a stop without waiting for it.
    pub fn request_stop(&self) {
        self.0.request_stop();
    }

    /// Waits until the supervisor has ended. See [`Supervisor::wait`].
    pub async fn wait(&self) -> Option<End> {
        self.0.wait().await
    }
}

fn dynamic(options: SupervisorOptions) -> SupervisorOptions {
    options.strategy(Strategy::SimpleOneForOne)
}

impl ChildSpec {
    /// A child that is a dynamic supervisor. Its handle is the [`info`](crate::RunningChild::info)
    /// of its start. As in OTP, its children are lost when it is restarted. Default shutdown:
    /// infinity.
    pub fn dynamic_supervisor(id: impl Into<ChildId>, options: SupervisorOptions) -> Self {
        nested(id.into(), dynamic(options), Vec::new, DynamicSupervisor)
    }
}

impl RunningChild {
    /// The handle of a child that is a [`DynamicSupervisor`].
    pub fn dynamic_supervisor(&self) -> Option<DynamicSupervisor> {
        self.info_as()
    }
}

impl ChildInfo {
    /// The handle of a running child that is a [`DynamicSupervisor`].
    pub fn dynamic_supervisor(&self) -> Option<DynamicSupervisor> {
        self.info_as()
    }
}
