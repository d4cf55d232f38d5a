// The names of all failpoints (ADR 0014). Uses only `core`: the guardian's program includes this
// file, too, which is why it has no inner documentation.

macro_rules! points {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A step at which a process can be made to kill itself.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Point {
            $($(#[$doc])* $variant,)*
        }

        impl Point {
            /// All points, in the order in which a run reaches them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The point's name: what does the step, a dot, the step.
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
    /// A dead run is found and its lock taken.
    SweepBegun = "sweep.begun",
    /// The dead run's guardian has ended.
    SweepGuardianAwaited = "sweep.guardian_awaited",
    /// Everything in the dead run's cgroup is killed.
    SweepCgroupKilled = "sweep.cgroup_killed",
    /// Every process that a record of the dead run names is killed.
    SweepRecordedKilled = "sweep.recorded_killed",
    /// Every process with the dead run's marker is killed.
    SweepMarkedKilled = "sweep.marked_killed",
    /// The dead run's cgroup is removed.
    SweepCgroupRemoved = "sweep.cgroup_removed",
    /// All dead runs are swept.
    SweepDone = "sweep.done",

    // The host: its run's directory and its start.
    /// The directory exists under its temporary name and is not locked yet.
    RunMade = "run.made",
    /// The directory is locked.
    RunLocked = "run.locked",
    /// `run.json` is written.
    RunDescribed = "run.described",
    /// The directory has its final name.
    RunNamed = "run.named",
    /// A new `run.json` is written next to the old one.
    RunInfoWritten = "run.info_written",
    /// The process table is open.
    TableOpened = "table.opened",
    /// The run's cgroup exists and `run.json` does not name it yet.
    CgroupMade = "start.cgroup_made",
    /// The guardian serves and `run.json` does not name it yet.
    GuardianLaunched = "start.guardian_launched",
    /// `run.json` names the guardian.
    GuardianNoted = "start.guardian_noted",

    // The host: every write to the process table.
    /// A reservation is about to be written.
    ReserveWriting = "table.reserve_writing",
    /// The reservation is written and not answered yet.
    ReserveWritten = "table.reserve_written",
    /// An activation is about to be written.
    ActivateWriting = "table.activate_writing",
    /// The activation is written.
    ActivateWritten = "table.activate_written",
    /// A change of a record is about to be written.
    UpdateWriting = "table.update_writing",
    /// The change is written.
    UpdateWritten = "table.update_written",
    /// A removal is answered and about to be written.
    RemoveWriting = "table.remove_writing",
    /// The removal is written.
    RemoveWritten = "table.remove_written",
    /// The table is closed.
    TableClosed = "table.closed",

    // The host: from the reservation to a ready worker.
    /// Pipes, sockets and cgroup for the spawn exist.
    SpawnPrepared = "spawn.prepared",
    /// The order to spawn is sent to the guardian.
    SpawnOrdered = "spawn.ordered",
    /// The sitter reports that exec succeeded.
    SpawnReported = "spawn.reported",
    /// The record names the worker's process.
    Active = "activation.done",
    /// The worker is ready and this is not announced yet.
    Ready = "activation.ready",

    // The host: release.
    /// The sitter reports the worker's exit.
    ExitReported = "release.exit_reported",
    /// The sitter reports that the tree is gone.
    TreeGoneReported = "release.tree_gone_reported",
    /// The ports can be bound again.
    PortsChecked = "release.ports_checked",
    /// The record is removed and this is not announced yet.
    Unrecorded = "release.unrecorded",
    /// The order to end a worker is sent to the guardian.
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
    /// The run's directory is renamed and not removed yet.
    RunHidden = "stop.run_hidden",

    // The guardian.
    /// The guardian has read the host's first message.
    GuardianGreeted = "guardian.greeted",
    /// The guardian is set up and has not answered yet.
    GuardianSetUp = "guardian.set_up",
    /// The guardian is about to forward an order to spawn.
    GuardianSpawning = "guardian.spawning",
    /// The guardian has forked a sitter and not noted it yet.
    GuardianForked = "guardian.forked",
    /// The sitter has the order to spawn.
    GuardianSpawned = "guardian.spawned",
    /// The sitter has the order to end its worker.
    GuardianEnded = "guardian.ended",
    /// The guardian has received the order to quit.
    GuardianQuitting = "guardian.quitting",
    /// The guardian has reaped a sitter.
    GuardianReaped = "guardian.reaped",
    /// The guardian has noticed that the host is gone.
    GuardianHostGone = "guardian.host_gone",
    /// The guardian has passed this on to one sitter, not to the others.
    GuardianPassedOn = "guardian.passed_on",
    /// The guardian has no child left and is about to report it.
    GuardianLeaving = "guardian.leaving",

    // A sitter.
    /// The sitter is a subreaper and has no worker yet.
    SitterBegun = "sitter.begun",
    /// The sitter has received an order to spawn.
    SitterSpawning = "sitter.spawning",
    /// The sitter has forked a worker and not noted it yet.
    SitterForked = "sitter.forked",
    /// The sitter knows that exec succeeded and has not reported it yet.
    SitterExecuted = "sitter.executed",
    /// The sitter has noticed the worker's exit and not reaped it yet.
    SitterWorkerEnded = "sitter.worker_ended",
    /// The sitter has reaped the worker; the rest of its tree may be left.
    SitterWorkerReaped = "sitter.worker_reaped",
    /// The sitter is about to kill a tree.
    SitterKilling = "sitter.killing",
    /// The sitter has no child left and has not reported it yet.
    SitterTreeGone = "sitter.tree_gone",
    /// The sitter has received an order to end its worker.
    SitterEnding = "sitter.ending",
    /// The sitter has noticed that the host or the guardian is gone.
    SitterGuardianGone = "sitter.guardian_gone",
    /// The sitter's slot is closed and it is about to exit.
    SitterLeaving = "sitter.leaving",

    // A worker before its exec.
    /// The worker is forked and not yet tied to its sitter's death.
    WorkerBorn = "worker.born",
    /// The worker is about to exec.
    WorkerPlaced = "worker.placed",
}
