//! Why something is done to a worker, as its events say it.

use std::fmt;

macro_rules! causes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)*) => {
        /// Why a worker is stopped or drained, or what is special about its end.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Cause {
            $($(#[doc = $doc])+ $variant,)*
        }

        impl Cause {
            /// Every cause.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The cause's name in events, such as `user_stop`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

causes! {
    /// A user stopped this worker.
    UserStop = "user_stop",
    /// A user asked for a restart of this worker.
    RestartRequested = "restart_requested",
    /// Its pool is made smaller.
    PoolResize = "pool_resize",
    /// Its pool stops or gives up.
    PoolStop = "pool_stop",
    /// The whole instance stops.
    InstanceStop = "instance_stop",
    /// The actor that the instance is linked under ends.
    ParentEnded = "parent_ended",
    /// The worker was not ready in time.
    StartTimeout = "start_timeout",
    /// The worker can't become ready.
    StartFailed = "start_failed",
    /// The worker failed its health probes or stopped its heartbeat.
    Unhealthy = "unhealthy",
    /// The guardian is gone, and the sitter ends the worker.
    GuardianLost = "guardian_lost",
    /// The grace of a stop is over, and the sitter has killed the rest of the tree.
    GraceOver = "grace_over",
    /// The release is overdue, and the kill is repeated.
    ReleaseRetry = "release_retry",
    /// The worker's actor was killed or panicked.
    OwnerGone = "owner_gone",
    /// Nothing proves that nothing of the incarnation is left.
    Unseen = "unseen",
    /// The worker has reached its `recycle.age`.
    RecycleAge = "recycle_age",
    /// The worker has served its `recycle.requests`.
    RecycleRequests = "recycle_requests",
    /// The worker has reached its `recycle.memory`.
    RecycleMemory = "recycle_memory",
    /// The pool's workers are restarted in turn.
    RollingRestart = "rolling_restart",
    /// A client asked for another worker.
    ReplaceRequested = "replace_requested",
    /// A lease of the worker was discarded.
    Discarded = "discarded",
    /// A call to the worker has no answer.
    CallLost = "call_lost",
    /// The caller gave up a call that the worker was serving.
    CallCancelled = "call_cancelled",
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
