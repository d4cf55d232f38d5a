//! What every signal does to this program: one table, set up first thing in `main`.
//!
//! `docs/cli.md` has the same table for people, and a test compares the two. Workers get none of
//! this: the guardian unblocks every signal for them and gives each its default action.

use ostler_core::signal::Signal;
use ostler_os::dispositions;

/// What a signal does to `ostler`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// Begins the ordered stop; a second one kills.
    Stop,
    /// Begins the ordered stop; in a stop it changes nothing, because no one who wants to kill
    /// sends it.
    StopOnce,
    /// Opens the events file again.
    Reopen,
    /// Is discarded.
    Ignored,
    /// Has the kernel's default action.
    Default,
}

/// One row of the table.
#[derive(Debug)]
pub(crate) struct Row {
    /// The name, without `SIG`.
    pub(crate) name: &'static str,
    /// What it does.
    pub(crate) meaning: Meaning,
    /// A parent that ignores it, as nohup(1) ignores HUP and a shell without job control INT and
    /// QUIT, decides for us.
    pub(crate) stays_ignored: bool,
}

const fn row(name: &'static str, meaning: Meaning) -> Row {
    Row {
        name,
        meaning,
        stays_ignored: false,
    }
}

const fn unless_ignored(name: &'static str, meaning: Meaning) -> Row {
    Row {
        name,
        meaning,
        stays_ignored: true,
    }
}

/// Every signal of signal(7) but the real-time ones, 32 and 33 among them, whose default action
/// would end the program: they are all [`Meaning::Ignored`].
pub(crate) const TABLE: [Row; 31] = [
    // The terminal is gone, or a service manager sends it after TERM (`SendSIGHUP=`); a later
    // version will reload the file.
    unless_ignored("HUP", Meaning::StopOnce),
    // Ctrl-C.
    unless_ignored("INT", Meaning::Stop),
    // Ctrl-\; no core dump is written.
    unless_ignored("QUIT", Meaning::Stop),
    // A bug in Ostler: it ends with a core dump.
    row("ILL", Meaning::Default),
    // For debuggers.
    row("TRAP", Meaning::Default),
    // A bug in Ostler: it ends with a core dump.
    row("ABRT", Meaning::Default),
    // A bug in Ostler: it ends with a core dump.
    row("BUS", Meaning::Default),
    // A bug in Ostler: it ends with a core dump.
    row("FPE", Meaning::Default),
    // Can't be caught; the guardian ends the workers.
    row("KILL", Meaning::Default),
    // Log rotation.
    row("USR1", Meaning::Reopen),
    // A bug in Ostler: it ends with a core dump.
    row("SEGV", Meaning::Default),
    // No meaning yet.
    row("USR2", Meaning::Ignored),
    // A reader that is gone is an error of the write.
    row("PIPE", Meaning::Ignored),
    // A timer of the program that started Ostler outlives exec.
    row("ALRM", Meaning::Ignored),
    // What service managers and kill(1) send.
    row("TERM", Meaning::Stop),
    // The kernel never sends it.
    row("STKFLT", Meaning::Ignored),
    // The default discards it; a parent may have ignored it, and no child could be waited for.
    row("CHLD", Meaning::Default),
    // Continues after a stop.
    row("CONT", Meaning::Default),
    // Can't be caught; the workers run on, and no deadline passes meanwhile.
    row("STOP", Meaning::Default),
    // Ctrl-Z stops the program; the workers run on.
    row("TSTP", Meaning::Default),
    // Ostler never reads from the terminal.
    row("TTIN", Meaning::Ignored),
    // In the background it still writes to a terminal with `stty tostop`.
    row("TTOU", Meaning::Ignored),
    // The default discards it.
    row("URG", Meaning::Default),
    // The limit on CPU time: the kernel repeats it each second, up to KILL.
    row("XCPU", Meaning::StopOnce),
    // A file at its limit (`ulimit -f`) is an error of the write.
    row("XFSZ", Meaning::Ignored),
    // As ALRM.
    row("VTALRM", Meaning::Ignored),
    // As ALRM.
    row("PROF", Meaning::Ignored),
    // The default discards it; the table asks for the size whenever it is drawn.
    row("WINCH", Meaning::Default),
    // No descriptor of Ostler's sends it.
    row("IO", Meaning::Ignored),
    // The power fails, or a container manager asks its init to shut down.
    row("PWR", Meaning::StopOnce),
    // A system call that seccomp forbids: it ends with a core dump.
    row("SYS", Meaning::Default),
];

impl Row {
    /// The signal of this row.
    pub(crate) fn signal(&self) -> Signal {
        self.name.parse().expect("the table's names are those of signals")
    }
}

/// The signals that stay ignored because they were when the program started.
#[derive(Debug, Clone, Default)]
pub(crate) struct Inherited(Vec<Signal>);

impl Inherited {
    /// The rows that `meaning` applies to.
    pub(crate) fn rows(&self, meaning: Meaning) -> impl Iterator<Item = &'static Row> {
        TABLE
            .iter()
            .filter(move |row| row.meaning == meaning && !(row.stays_ignored && self.0.contains(&row.signal())))
    }
}

/// Sets up mask and dispositions. Until something receives them, signals that stop have their
/// default action: there is nothing yet that would have to be stopped in order.
pub(crate) fn set_up() -> Inherited {
    // Whatever fails here is a matter of /proc or seccomp, and the program still works without it.
    drop(dispositions::unblock_all());
    let ignored = dispositions::ignored().unwrap_or_default();
    let set = |signal, meaning| match meaning {
        Meaning::Ignored | Meaning::Reopen => drop(dispositions::ignore(signal)),
        // Those that nothing has touched keep what Rust's runtime set up, such as the report of a
        // stack overflow.
        Meaning::Stop | Meaning::StopOnce | Meaning::Default if ignored.contains(&signal) => {
            drop(dispositions::reset(signal));
        }
        Meaning::Stop | Meaning::StopOnce | Meaning::Default => {}
    };
    for row in &TABLE {
        if !(row.stays_ignored && ignored.contains(&row.signal())) {
            set(row.signal(), row.meaning);
        }
    }
    for number in 32..=64 {
        Signal::from_number(number)
            .into_iter()
            .for_each(|signal| set(signal, Meaning::Ignored));
    }
    Inherited(ignored)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_every_signal_once_in_the_order_of_their_numbers() {
        let numbers: Vec<i32> = TABLE.iter().map(|row| row.signal().number()).collect();
        assert_eq!(numbers, (1..=31).collect::<Vec<_>>());
    }

    #[test]
    fn what_was_ignored_at_the_start_stays_so_for_the_signals_of_terminals_only() {
        let inherited = Inherited(vec![Signal::HUP, Signal::TERM]);
        let stops: Vec<_> = inherited.rows(Meaning::Stop).map(|row| row.name).collect();
        assert_eq!(stops, ["INT", "QUIT", "TERM"]);
    }
}
