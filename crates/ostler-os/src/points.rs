//! The names of all failpoints (ADR 0014). Compiled into the library and into the guardian's program, as `protocol.rs` is.

macro_rules! points {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A step at which a process can be made to end.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Point {
            $($(#[$doc])* $variant,)*
        }

        impl Point {
            /// Every one, in the order of a run.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name: before the first dot, whose life it is in.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

points! {
    // The host: its sweep of dead runs.
    /// A dead run was found, and its lock is ours.
    SweepBegun = "sweep.begun",
    /// Its guardian has ended.
    SweepGuardianAwaited = "sweep.guardian_awaited",
    /// What was in its cgroup is killed.
    SweepCgroupKilled = "sweep.cgroup_killed",
    /// What its records name is killed.
    SweepRecordedKilled = "sweep.recorded_killed",
    /// What bears its marker is killed.
    SweepMarkedKilled = "sweep.marked_killed",
    /// Its cgroup is removed.
    SweepCgroupRemoved = "sweep.cgroup_removed",
    /// All dead runs are swept.
    SweepDone = "sweep.done",

    // The host: its run's directory and its start.
    /// The directory is made under its temporary name, and not locked.
    RunMade = "run.made",
    /// It is locked.
    RunLocked = "run.locked",
    /// It is described.
    RunDescribed = "run.described",
    /// It has its name.
    RunNamed = "run.named",
    /// A new description is written beside the old one.
    RunInfoWritten = "run.info_written",
    /// The process table is open.
    TableOpened = "table.opened",
    /// The run's cgroup is made, and no file names it yet.
    CgroupMade = "start.cgroup_made",
    /// The guardian serves, and no file names it yet.
    GuardianLaunched = "start.guardian_launched",
    /// The guardian is named.
    GuardianNoted = "start.guardian_noted",

    // The host: every write of the table.
    /// A reservation is about to be written.
    ReserveWriting = "table.reserve_writing",
    /// It is written, and not answered yet.
    ReserveWritten = "table.reserve_written",
    /// An activation is about to be written.
    ActivateWriting = "table.activate_writing",
    /// It is written.
    ActivateWritten = "table.activate_written",
    /// A change of a record is about to be written.
    UpdateWriting = "table.update_writing",
    /// It is written.
    UpdateWritten = "table.update_written",
    /// A removal was answered, and is about to be written.
    RemoveWriting = "table.remove_writing",
    /// It is written.
    RemoveWritten = "table.remove_written",
    /// The table is closed.
    TableClosed = "table.closed",

    // The host: from a reservation to a worker that is ready.
    /// Pipes, sockets and cgroup of the spawn are made.
    SpawnPrepared = "spawn.prepared",
    /// The guardian has its order.
    SpawnOrdered = "spawn.ordered",
    /// The sitter has said that exec succeeded.
    SpawnTold = "spawn.told",
    /// The worker is active: its record names its process.
    Active = "activation.done",
    /// The worker is ready, and nobody was told.
    Ready = "activation.ready",

    // The host: release.
    /// The sitter has said that the worker has ended.
    ExitTold = "release.exit_told",
    /// The sitter has said that the tree is gone.
    TreeGoneTold = "release.tree_gone_told",
    /// The ports can be bound again.
    PortsChecked = "release.ports_checked",
    /// The record is removed, and nobody was told.
    Unrecorded = "release.unrecorded",
    /// The guardian has the order to end a worker.
    EndOrdered = "release.end_ordered",

    // The host: its stop.
    /// The stop has begun.
    StopBegun = "stop.begun",
    /// Every pool is down.
    StopPoolsDown = "stop.pools_down",
    /// The emergency cleaner has looked.
    StopChecked = "stop.checked",
    /// The guardian has ended.
    StopGuardianQuit = "stop.guardian_quit",
    /// The run's directory is out of sight, and not removed.
    RunHidden = "stop.run_hidden",

    // The guardian.
    /// It has read the host's first message.
    GuardianGreeted = "guardian.greeted",
    /// It is set up, and has not said so.
    GuardianSetUp = "guardian.set_up",
    /// It is about to pass on an order to spawn.
    GuardianSpawning = "guardian.spawning",
    /// It has forked a sitter, and not noted it.
    GuardianForked = "guardian.forked",
    /// The sitter has the order to spawn.
    GuardianSpawned = "guardian.spawned",
    /// The sitter has the order to end its worker.
    GuardianEnded = "guardian.ended",
    /// It was told to end.
    GuardianQuitting = "guardian.quitting",
    /// It has reaped a sitter.
    GuardianReaped = "guardian.reaped",
    /// It has seen that the host is gone.
    GuardianBereft = "guardian.bereft",
    /// It has told one sitter of that, and not the others.
    GuardianToldOne = "guardian.told_one",
    /// It has no child, and says so.
    GuardianLeaving = "guardian.leaving",

    // A sitter.
    /// It is a subreaper, and has no worker.
    SitterBegun = "sitter.begun",
    /// It has an order to spawn.
    SitterSpawning = "sitter.spawning",
    /// It has forked a worker, and not noted it.
    SitterForked = "sitter.forked",
    /// It knows that exec succeeded, and has not said so.
    SitterExecuted = "sitter.executed",
    /// It has seen the worker's end, and not reaped it.
    SitterWorkerEnded = "sitter.worker_ended",
    /// It has reaped the worker, and others of the tree are left.
    SitterWorkerReaped = "sitter.worker_reaped",
    /// It is about to kill a tree.
    SitterKilling = "sitter.killing",
    /// It has no child, and has not said so.
    SitterTreeGone = "sitter.tree_gone",
    /// It has an order to end its worker.
    SitterEnding = "sitter.ending",
    /// It has seen that nobody is left who gives orders.
    SitterBereft = "sitter.bereft",
    /// Its slot is closed, and it is about to end.
    SitterLeaving = "sitter.leaving",

    // A worker before its exec.
    /// It is forked, and not tied to its sitter's death.
    WorkerBorn = "worker.born",
    /// All is ready for its exec.
    WorkerPlaced = "worker.placed",
}
