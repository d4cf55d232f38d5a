//! Supervisors whose children come and go.

use ostler_core::supervision::{ChildCounts, ChildId, ChildKey, End, StartChildError, Strategy, TerminateChildError};
use ractor::ActorCell;

use crate::child::ChildSpec;
use crate::handle::{Gone, Supervisor, SupervisorError, nested};
use crate::options::SupervisorOptions;
use crate::running::{ChildInfo, ChildStart, RunningChild};

/// A handle to a dynamic supervisor (OTP's simple_one_for_one): children come and go, in any number, are restarted one for one, and are
/// stopped in parallel. Cheap to clone.
///
/// A child is started from a specification, which is cheap to clone and so serves as a template; children with different ones are fine
/// (extension). Ids need not be unique: a child is known by its [`ChildKey`]. Children start concurrently (OTP starts one at a time). There is no
/// `restart_child` and no `delete_child`, which OTP refuses here.
#[derive(Debug, Clone)]
pub struct DynamicSupervisor(Supervisor);

impl DynamicSupervisor {
    /// Starts a dynamic supervisor, without a child. The strategy in `options` is set to simple_one_for_one.
    ///
    /// # Errors
    /// [`SupervisorError`].
    pub async fn spawn(name: Option<String>, options: SupervisorOptions) -> Result<Self, SupervisorError> {
        Supervisor::spawn(name, dynamic(options), Vec::new())
            .await
            .map(DynamicSupervisor)
    }

    /// The same, as a ractor child of `parent`, an actor of any kind. As a child of a [`Supervisor`], use
    /// [`ChildSpec::dynamic_supervisor`].
    ///
    /// # Errors
    /// [`SupervisorError`].
    pub async fn spawn_linked(
        name: Option<String>,
        options: SupervisorOptions,
        parent: ActorCell,
    ) -> Result<Self, SupervisorError> {
        Supervisor::spawn_linked(name, dynamic(options), Vec::new(), parent)
            .await
            .map(DynamicSupervisor)
    }

    /// Its actor.
    pub fn cell(&self) -> ActorCell {
        self.0.cell()
    }

    /// Adds a child and starts it; returns when it is up.
    ///
    /// # Errors
    /// As [`Supervisor::start_child`], but never `AlreadyStarted` or `AlreadyPresent`.
    pub async fn start_child(&self, spec: ChildSpec) -> Result<ChildStart, StartChildError> {
        self.0.start_child(spec).await
    }

    /// Stops a child; returns when it is gone and released. Of one that is gone already, too: idempotent.
    ///
    /// # Errors
    /// `NotFound` for a key that was never given, `Stopping`.
    pub async fn terminate_child(&self, key: ChildKey) -> Result<(), TerminateChildError> {
        self.0.terminate_child(key).await
    }

    /// The children, in start order.
    ///
    /// # Errors
    /// [`Gone`] when it has ended.
    pub async fn which_children(&self) -> Result<Vec<ChildInfo>, Gone> {
        self.0.which_children().await
    }

    /// How many children there are; `specs` is 1, as in OTP.
    ///
    /// # Errors
    /// [`Gone`] when it has ended.
    pub async fn count_children(&self) -> Result<ChildCounts, Gone> {
        self.0.count_children().await
    }

    /// Stops the children in parallel, each under its own time from now on, then itself. See [`Supervisor::stop`].
    pub async fn stop(&self) -> Option<End> {
        self.0.stop().await
    }

    /// The same, without waiting.
    pub fn request_stop(&self) {
        self.0.request_stop();
    }

    /// Waits until it has ended. See [`Supervisor::wait`].
    pub async fn wait(&self) -> Option<End> {
        self.0.wait().await
    }
}

fn dynamic(options: SupervisorOptions) -> SupervisorOptions {
    options.strategy(Strategy::SimpleOneForOne)
}

impl ChildSpec {
    /// A child that is a dynamic supervisor; its handle is the [`info`](crate::RunningChild::info) of its start. Its children are lost when
    /// it is restarted, as in OTP. Default shutdown: infinity.
    pub fn dynamic_supervisor(id: impl Into<ChildId>, options: SupervisorOptions) -> Self {
        nested(id.into(), dynamic(options), Vec::new, DynamicSupervisor)
    }
}

impl RunningChild {
    /// The handle of a child that is a [`DynamicSupervisor`].
    pub fn dynamic_supervisor(&self) -> Option<DynamicSupervisor> {
        self.info.as_ref()?.downcast_ref().cloned()
    }
}

impl ChildInfo {
    /// The handle of a child that is a [`DynamicSupervisor`], when it is up.
    pub fn dynamic_supervisor(&self) -> Option<DynamicSupervisor> {
        self.info.as_ref()?.downcast_ref().cloned()
    }
}
