//! Supervisors that are children of supervisors.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, ready};

use ostler_core::exit::ExitReason;
use ostler_core::supervision::{ChildId, ChildKey, ChildKind};
use ractor::{ActorId, ActorRef};
use tokio::runtime::Handle;

use crate::actor::{Over, SupervisorActor};
use crate::child::{ChildSpec, NotStarted, StartContext, StartedChild};
use crate::handle::{Incarnation, Place, Supervisor, arguments, request_stop};
use crate::messages::SupervisorMessage;
use crate::options::SupervisorOptions;
use crate::running::{ChildInfo, RunningChild};

/// The end of a nested supervisor ([`Over`]). Dropping it before gives the supervisor up: as a
/// start function does that stops waiting for the start, or fails after it. Its actor is linked,
/// and would stay for as long as its parent; so it stops in order, accompanied by a task of its
/// own.
struct Nested {
    actor: ActorRef<SupervisorMessage>,
    /// `None` when it is over.
    over: Option<Over>,
}

impl Future for Nested {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if let Some(over) = &mut self.over {
            ready!(Pin::new(over).poll(context));
            self.over = None;
        }
        Poll::Ready(())
    }
}

impl Drop for Nested {
    fn drop(&mut self) {
        let Some(over) = self.over.take() else { return };
        request_stop(&self.actor);
        // Without a runtime, or while it shuts down, everything is dropped.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(over);
        }
    }
}

/// Starts a supervisor as a child of another one. It counts as running once its children are.
async fn start_nested(
    mut context: StartContext,
    options: SupervisorOptions,
    children: Vec<ChildSpec>,
) -> Result<(StartedChild, Incarnation), NotStarted> {
    let (arguments, mut start) = arguments(options, children);
    let started = context.spawn(None, SupervisorActor, arguments).await?;
    let actor = ActorRef::<SupervisorMessage>::from(started.cell.clone());
    let mut over = Nested {
        actor: actor.clone(),
        over: Some(Over::new(started.over, &start.shared)),
    };
    let outcome = tokio::select! {
        biased;
        outcome = &mut start.ready => outcome,
        // The engine is gone, and this with it.
        () = &mut over => (&mut start.ready).await,
        () = context.cancelled() => {
            request_stop(&actor);
            over.await;
            return Err(NotStarted::cancelled());
        }
    };
    let reason = match outcome {
        Ok(Ok(())) => {
            let shared = start.shared;
            let over = Box::pin(over);
            return Ok((StartedChild { over, ..started }, Incarnation { actor, shared }));
        }
        Ok(Err(end)) => end.exit_reason(),
        Err(_) => ExitReason::Killed,
    };
    over.await;
    Err(NotStarted::Failed(reason.into()))
}

impl Supervisor {
    /// Starts a supervisor in the start function of a child ([`ChildSpec::starting`]), as that
    /// child. Returns once its children are running. Set the child's
    /// [`stop_with`](ChildSpec::stop_with) to [`Supervisor::request_stop`] and its
    /// [`kind`](ChildSpec::kind) to a supervisor. [`ChildSpec::supervisor`] does all of this.
    ///
    /// Cancel safe: if the future is dropped, everything started so far is stopped in order. So it
    /// is if the [`StartedChild`] is dropped instead of returned.
    ///
    /// # Errors
    ///
    /// [`NotStarted`]; nothing is left running then.
    pub async fn spawn_child(
        context: StartContext,
        options: SupervisorOptions,
        children: Vec<ChildSpec>,
    ) -> Result<(Self, StartedChild), NotStarted> {
        let (started, incarnation) = start_nested(context, options, children).await?;
        Ok((Self::at(Place::new(incarnation)), started))
    }
}

/// The places of the children that were started from one specification, which may serve as a
/// template. As long as there are handles to a place, a restart continues it.
#[derive(Default)]
struct Places(Mutex<HashMap<Key, Weak<Place>>>);

/// A child: the actor of its supervisor, and its key there.
type Key = (ActorId, ChildKey);

impl Places {
    fn key(context: &StartContext) -> Key {
        (context.parent().get_id(), context.child().key)
    }

    fn place(&self, key: Key, incarnation: Incarnation) -> Arc<Place> {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = places.get(&key).and_then(Weak::upgrade) {
            place.renew(incarnation);
            return place;
        }
        places.retain(|_, place| place.strong_count() > 0);
        let place = Place::new(incarnation);
        places.insert(key, Arc::downgrade(&place));
        place
    }
}

/// A child that is a supervisor. `handle` converts its handle to the info of its start.
pub(crate) fn nested<F, I>(
    id: ChildId,
    options: SupervisorOptions,
    children: F,
    handle: fn(Supervisor) -> I,
) -> ChildSpec
where
    F: Fn() -> Vec<ChildSpec> + Send + Sync + 'static,
    I: Send + Sync + 'static,
{
    let places = Arc::<Places>::default();
    let start = move |context: StartContext| {
        let (places, key) = (Arc::clone(&places), Places::key(&context));
        let starting = start_nested(context, options.clone(), children());
        async move {
            let (started, incarnation) = starting.await?;
            let supervisor = Supervisor::at(places.place(key, incarnation));
            Ok(started.with_info(Arc::new(handle(supervisor))))
        }
    };
    ChildSpec::starting(id, start)
        .kind(ChildKind::Supervisor)
        .stop_with(|cell| request_stop(&ActorRef::from(cell.clone())))
}

impl ChildSpec {
    /// A child that is a supervisor itself. `children` returns its children at each start. It
    /// counts as running once they are. Its handle is the [`info`](crate::RunningChild::info) of
    /// its start, and stays valid across restarts. Default shutdown: infinity.
    pub fn supervisor<F>(id: impl Into<ChildId>, options: SupervisorOptions, children: F) -> Self
    where
        F: Fn() -> Vec<ChildSpec> + Send + Sync + 'static,
    {
        nested(id.into(), options, children, |supervisor| supervisor)
    }
}

impl RunningChild {
    /// The handle of a child that is a [`Supervisor`].
    pub fn supervisor(&self) -> Option<Supervisor> {
        self.info_as()
    }
}

impl ChildInfo {
    /// The handle of a running child that is a [`Supervisor`].
    pub fn supervisor(&self) -> Option<Supervisor> {
        self.info_as()
    }
}
