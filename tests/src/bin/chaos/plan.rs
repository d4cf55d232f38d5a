//! The faults and their order, derived from a seed alone. Pure.
//!
//! The target of a strike is a number, which the run takes modulo the number of possible targets.

use fastrand::Rng;

/// The life of one host, from its start to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Era {
    /// Counted from 1.
    pub(crate) number: u32,
    /// Whether the host may use cgroups, if the machine has them.
    pub(crate) cgroups: bool,
    /// Whether sitters may be killed together with what is above them. Without a cgroup, only
    /// records and markers lead to what is left, so in such an era no worker leaves a process
    /// without both.
    pub(crate) severed: bool,
    /// The faults that the host survives.
    pub(crate) faults: Vec<Fault>,
    /// The one that it does not survive.
    pub(crate) end: End,
}

/// A fault in a running host, after which it must return to full strength.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Signals without warning.
    Strikes(Vec<Strike>),
    /// Concurrent restarts of workers through the API, with an optional signal meanwhile.
    Restarts { workers: Vec<u32>, strike: Option<Strike> },
    /// Stops a pool through the API, starts it, stops it during the start after this many
    /// milliseconds, and starts it again.
    Cycle { pool: u32, after_ms: u64 },
    /// A pool of workers that exit before they are ready: it must give up and then hold nothing.
    Quitters,
    /// The host is stopped for this many milliseconds, which exceed the workers' watchdog. No
    /// worker may be replaced because of that.
    HostStopped { ms: u64 },
    /// The guardian is stopped, then workers are restarted. The host must continue the guardian.
    GuardianStopped { workers: Vec<u32> },
    /// A worker's sitter is stopped, then the worker is restarted. The host must continue the
    /// sitter.
    SitterStopped { worker: u32 },
    /// The thread that writes the process table is held for this many milliseconds, while workers
    /// are restarted.
    StoreStalled { ms: u64, workers: Vec<u32> },
    /// Workers that send thousands of messages to their notify sockets start at once. The host is
    /// stopped for a moment, this many milliseconds after that.
    NotifyFlood { after_ms: u64 },
    /// A worker with many processes in sessions of their own is restarted, and killed this many
    /// milliseconds later.
    Strays { after_ms: u64 },
    /// The state directory is removed with everything in it, then workers are restarted. The last
    /// fault of an era, because the dead host leaves nothing that a sweep could read.
    DirectoryRemoved { workers: Vec<u32> },
}

/// A signal to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Strike {
    /// The delay after the previous strike.
    pub(crate) after_ms: u64,
    pub(crate) at: Mark,
    pub(crate) pick: u32,
    pub(crate) how: How,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    Worker,
    /// Any descendant of a worker: children, daemons in sessions of their own.
    Descendant,
    Sitter,
    Guardian,
    Host,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    Kill,
    Term,
    /// SIGSTOP, and SIGCONT after this many milliseconds.
    Pause(u64),
    /// SIGSTOP without SIGCONT.
    Halt,
}

/// How a host ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// `Ostler::stop`.
    Stop,
    /// `Ostler::stop`, this many milliseconds after restarting all pools.
    StopInStart(u64),
    /// The handle is dropped and `main` returns.
    Return,
    /// `std::process::abort`.
    Abort,
    /// SIGKILL at full strength.
    Kill(Who),
    /// SIGKILL this many milliseconds after restarting all pools.
    KillInStart(Who, u64),
    /// SIGKILL this many milliseconds after a stop request.
    KillInStop(Who, u64),
    /// The guardian is stopped for good, then the host is killed: only the next start's sweep can
    /// end the rest.
    KillWithGuardianHalted,
    /// The same with a stopped sitter.
    KillWithSitterHalted(u32),
    /// The guardian is killed repeatedly until the root gives up.
    GuardianTooOften,
}

/// Which processes are killed at the same instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    Host,
    HostAndGuardian,
    HostGuardianAndSitters,
}

/// How often the guardian may die in one era: the root gives up at the eleventh death within a
/// minute.
const GUARDIAN_DEATHS: u32 = 8;
/// One in this many eras is long, to check that memory and descriptors stay flat.
const LONG_ERA: u32 = 5;
/// In one of this many eras the guardian is not killed, to check the same for it.
const ONE_GUARDIAN: u32 = 10;
/// Ends that take 20 s occur in one of this many eras.
const SLOW_END: u32 = 40;
/// Faults that take long or end the era occur in one of this many eras, and in the first.
const RARE_FAULTS: u32 = 6;
/// How long a store stalls, in milliseconds: longer than a request to it waits before it is
/// repeated (5 s).
const STALL_MS: u64 = 6_000;

/// How long a host is stopped, in milliseconds: longer than the workers' watchdog.
const HOST_STOP_MS: std::ops::Range<u64> = 2_500..4_000;
/// The number of kinds that [`Drawer::fault_of_kind`] knows.
const ORDINARY: u32 = 9;

/// The endless sequence of a seed's eras.
pub(crate) struct Plan {
    random: Rng,
    eras: u32,
}

impl Plan {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            random: Rng::with_seed(seed),
            eras: 0,
        }
    }
}

impl Iterator for Plan {
    type Item = Era;

    fn next(&mut self) -> Option<Era> {
        self.eras += 1;
        // Each era has its own generator, so that its draws do not change later eras.
        Some(Drawer::new(self.random.u64(..), self.eras).era())
    }
}

struct Drawer {
    random: Rng,
    number: u32,
    severed: bool,
    /// Guardian deaths so far.
    guardian_deaths: u32,
    /// Whether the state directory is removed in this era.
    removed: bool,
}

impl Drawer {
    fn new(seed: u64, number: u32) -> Self {
        let mut random = Rng::with_seed(seed);
        let severed = random.u32(..3) == 0;
        Self {
            random,
            number,
            severed,
            guardian_deaths: if number.is_multiple_of(ONE_GUARDIAN) {
                GUARDIAN_DEATHS
            } else {
                0
            },
            removed: number % RARE_FAULTS == 1,
        }
    }

    fn era(mut self) -> Era {
        let length = match self.number % LONG_ERA {
            0 => self.random.u32(80..160),
            _ => self.random.u32(1..10),
        };
        let mut faults: Vec<Fault> = (0..length).map(|_| self.fault()).collect();
        if self.number == 1 {
            // Even a short run has every kind of fault.
            faults.truncate(2);
            faults.extend((0..ORDINARY).map(|kind| self.fault_of_kind(kind)));
        }
        if self.number % RARE_FAULTS == 1 {
            let workers = self.workers();
            faults.push(Fault::StoreStalled { ms: STALL_MS, workers });
        }
        self.random.shuffle(&mut faults);
        if self.removed {
            let workers = self.workers();
            faults.push(Fault::DirectoryRemoved { workers });
        }
        Era {
            number: self.number,
            cgroups: self.random.bool(),
            severed: self.severed,
            faults,
            end: self.end(),
        }
    }

    fn fault(&mut self) -> Fault {
        let kind = match self.random.u32(..40) {
            0..=17 => 0,
            18..=28 => 1,
            29..=33 => 2,
            rest => rest - 31,
        };
        self.fault_of_kind(kind)
    }

    /// One of the kinds of faults that occur in every era, numbered below [`ORDINARY`].
    fn fault_of_kind(&mut self, kind: u32) -> Fault {
        match kind {
            0 => Fault::Strikes(self.strikes()),
            1 => {
                let workers = self.workers();
                let struck = self.random.bool();
                let strike = struck.then(|| self.strike(&mut Deaths::default()));
                Fault::Restarts { workers, strike }
            }
            2 => Fault::Cycle {
                pool: self.random.u32(..),
                after_ms: self.random.u64(..60),
            },
            3 => Fault::Quitters,
            4 => Fault::HostStopped {
                ms: self.random.u64(HOST_STOP_MS),
            },
            5 => Fault::GuardianStopped {
                workers: self.workers(),
            },
            6 => Fault::SitterStopped {
                worker: self.random.u32(..),
            },
            7 => Fault::NotifyFlood {
                after_ms: self.random.u64(..30),
            },
            _ => Fault::Strays {
                after_ms: self.random.u64(..30),
            },
        }
    }

    fn workers(&mut self) -> Vec<u32> {
        let how_many = self.random.usize(1..5);
        (0..how_many).map(|_| self.random.u32(..)).collect()
    }

    fn strikes(&mut self) -> Vec<Strike> {
        let how_many = *self.random.choice(&[1, 1, 1, 2, 3, 6]).expect("non-empty list");
        let mut deaths = Deaths::default();
        (0..how_many).map(|_| self.strike(&mut deaths)).collect()
    }

    fn strike(&mut self, deaths: &mut Deaths) -> Strike {
        let at = match self.random.u32(..20) {
            0..=8 => Mark::Worker,
            9..=13 => Mark::Descendant,
            14..=16 => Mark::Sitter,
            17..=18 => Mark::Guardian,
            _ => Mark::Host,
        };
        let how = self.how(at, deaths);
        Strike {
            after_ms: *self.random.choice(&[0, 0, 0, 1, 5, 30]).expect("non-empty list"),
            at,
            pick: self.random.u32(..),
            how,
        }
    }

    fn how(&mut self, at: Mark, deaths: &mut Deaths) -> How {
        let pause = How::Pause(self.random.u64(1..400));
        match at {
            Mark::Worker | Mark::Descendant => *self
                .random
                .choice(&[How::Kill, How::Kill, How::Kill, How::Term, pause, How::Halt])
                .expect("non-empty list"),
            Mark::Sitter if self.random.u32(..3) > 0 && (self.severed || !deaths.guardian) => {
                deaths.sitter = true;
                How::Kill
            }
            Mark::Guardian
                if self.random.bool() && self.guardian_deaths < GUARDIAN_DEATHS && (self.severed || !deaths.sitter) =>
            {
                deaths.guardian = true;
                self.guardian_deaths += 1;
                How::Kill
            }
            Mark::Sitter | Mark::Guardian => *self.random.choice(&[pause, How::Term]).expect("non-empty list"),
            // The host's death ends an era and is not one of its faults.
            Mark::Host => pause,
        }
    }

    fn end(&mut self) -> End {
        let ms = self.random.u64(..80);
        let pick = self.random.u32(..);
        // Only a sweep could end the rest, and it would find no run.
        if self.random.u32(..SLOW_END) == 0 && !self.removed {
            return match self.random.bool() {
                true => End::KillWithGuardianHalted,
                false => End::KillWithSitterHalted(pick),
            };
        }
        match self.random.u32(..20) {
            0..=2 => End::Stop,
            3..=4 => End::StopInStart(ms),
            5 => End::Return,
            6 => End::Abort,
            7..=11 => End::Kill(self.who()),
            12..=15 => End::KillInStart(self.who(), ms),
            16..=18 => End::KillInStop(self.who(), ms),
            _ => End::GuardianTooOften,
        }
    }

    fn who(&mut self) -> Who {
        let all = [Who::Host, Who::HostAndGuardian, Who::HostGuardianAndSitters];
        let may = if self.severed && !self.removed {
            &all[..]
        } else {
            &all[..2]
        };
        *self.random.choice(may).expect("non-empty list")
    }
}

/// The deaths in the current fault.
#[derive(Default)]
struct Deaths {
    sitter: bool,
    guardian: bool,
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn eras(seed: u64, how_many: usize) -> Vec<Era> {
        Plan::new(seed).take(how_many).collect()
    }

    fn strikes(fault: &Fault) -> Vec<Strike> {
        match fault {
            Fault::Strikes(strikes) => strikes.clone(),
            Fault::Restarts { strike, .. } => strike.iter().copied().collect(),
            _ => Vec::new(),
        }
    }

    #[test]
    fn same_seed_gives_the_same_plan() {
        assert_eq!(eras(7, 50), eras(7, 50));
        assert_eq!(eras(7, 50)[..20], eras(7, 20));
        assert_ne!(eras(7, 5), eras(8, 5));
    }

    #[test]
    fn every_kind_of_fault_occurs() {
        let all = eras(1, 400);
        let marks_and_ways: HashSet<String> = all
            .iter()
            .flat_map(|era| &era.faults)
            .flat_map(strikes)
            .map(|strike| match strike.how {
                How::Pause(_) => format!("{:?} Pause", strike.at),
                how => format!("{:?} {how:?}", strike.at),
            })
            .collect();
        // Four ways each for workers and their descendants, three each for sitters and guardian,
        // one for the host.
        assert_eq!(marks_and_ways.len(), 4 + 4 + 3 + 3 + 1, "{marks_and_ways:?}");
        let word = |text: String| text.split([' ', '(', '{']).next().unwrap_or_default().to_owned();
        let faults: HashSet<String> = all
            .iter()
            .flat_map(|era| &era.faults)
            .map(|fault| word(format!("{fault:?}")))
            .collect();
        assert_eq!(faults.len(), 11, "{faults:?}");
        let ends: HashSet<String> = all.iter().map(|era| word(format!("{:?}", era.end))).collect();
        assert_eq!(ends.len(), 10, "{ends:?}");
    }

    #[test]
    fn first_era_of_every_seed_has_every_kind_of_fault() {
        for seed in 1..50 {
            let first = &eras(seed, 1)[0];
            let kinds: HashSet<_> = first.faults.iter().map(std::mem::discriminant).collect();
            assert_eq!(kinds.len(), 11, "{:?}", first.faults);
        }
    }

    #[test]
    fn no_sweep_is_needed_after_the_state_directory_was_removed() {
        let is_removal = |fault: &Fault| matches!(fault, Fault::DirectoryRemoved { .. });
        for era in (1..20).flat_map(|seed| eras(seed, 100)) {
            let Some(at) = era.faults.iter().position(is_removal) else {
                continue;
            };
            assert_eq!(at, era.faults.len() - 1, "{:?}", era.faults);
            let needs_sweep = matches!(
                era.end,
                End::KillWithGuardianHalted
                    | End::KillWithSitterHalted(_)
                    | End::Kill(Who::HostGuardianAndSitters)
                    | End::KillInStart(Who::HostGuardianAndSitters, _)
                    | End::KillInStop(Who::HostGuardianAndSitters, _)
            );
            assert!(!needs_sweep, "{:?}", era.end);
        }
    }

    #[test]
    fn sitters_die_with_their_ancestors_only_in_severed_eras() {
        for era in (1..20).flat_map(|seed| eras(seed, 100)).filter(|era| !era.severed) {
            for fault in &era.faults {
                let killed: HashSet<&str> = strikes(fault)
                    .iter()
                    .filter(|strike| strike.how == How::Kill)
                    .map(|strike| match strike.at {
                        Mark::Sitter => "sitter",
                        Mark::Guardian => "guardian",
                        Mark::Worker | Mark::Descendant | Mark::Host => "other",
                    })
                    .collect();
                assert!(!(killed.contains("sitter") && killed.contains("guardian")), "{fault:?}");
            }
            let who = match era.end {
                End::Kill(who) | End::KillInStart(who, _) | End::KillInStop(who, _) => who,
                _ => Who::Host,
            };
            assert_ne!(who, Who::HostGuardianAndSitters, "{:?}", era.end);
        }
    }

    #[test]
    fn guardian_deaths_stay_below_the_root_intensity() {
        for era in (1..20).flat_map(|seed| eras(seed, 100)) {
            let deaths = era.faults.iter().flat_map(strikes);
            let deaths = deaths.filter(|strike| strike.at == Mark::Guardian && strike.how == How::Kill);
            assert!(deaths.count() <= GUARDIAN_DEATHS as usize);
        }
    }

    #[test]
    fn only_workers_and_their_descendants_are_stopped_for_good() {
        for strike in eras(3, 300).iter().flat_map(|era| &era.faults).flat_map(strikes) {
            assert!(strike.how != How::Halt || matches!(strike.at, Mark::Worker | Mark::Descendant));
            assert!(strike.at != Mark::Host || matches!(strike.how, How::Pause(_)));
        }
    }
}
