//! Signals by Linux number and name. Plain data: sending signals is the job of `ostler-os`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A signal, identified by its Linux number (see signal(7)). Numbers below 32 are the same on every
/// supported architecture.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Signal(u8);

const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
    "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO",
    "PWR", "SYS",
];

impl Signal {
    /// SIGHUP.
    pub const HUP: Self = Self(1);
    /// SIGINT.
    pub const INT: Self = Self(2);
    /// SIGABRT.
    pub const ABRT: Self = Self(6);
    /// SIGKILL.
    pub const KILL: Self = Self(9);
    /// SIGTERM.
    pub const TERM: Self = Self(15);
    /// SIGCONT.
    pub const CONT: Self = Self(18);

    /// Returns the signal with this number, or `None` if it is outside 1..=64.
    pub fn from_number(number: i32) -> Option<Self> {
        u8::try_from(number).ok().filter(|n| (1..=64).contains(n)).map(Self)
    }

    /// The number, as passed to kill(2).
    pub const fn number(self) -> i32 {
        self.0 as i32
    }

    /// The name without `SIG`, for example `TERM`. Real-time signals are named `RTMIN+n`, counted
    /// from the kernel's first real-time signal, 32.
    pub fn name(self) -> String {
        match NAMES.get(usize::from(self.0) - 1) {
            Some(name) => (*name).to_owned(),
            None => format!("RTMIN+{}", self.0 - 32),
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SIG{self}")
    }
}

/// The error returned when a signal name is unknown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid signal {name:?}: expected a name such as TERM, INT, HUP, QUIT, USR1 or KILL")]
pub struct UnknownSignal {
    name: String,
}

impl FromStr for Signal {
    type Err = UnknownSignal;

    /// Accepts `TERM` and `SIGTERM` in upper or lower case.
    fn from_str(text: &str) -> Result<Self, UnknownSignal> {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        NAMES
            .iter()
            .position(|known| *known == name)
            .and_then(|index| u8::try_from(index + 1).ok())
            .map(Self)
            .ok_or_else(|| UnknownSignal { name: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_agree() {
        assert_eq!("SIGTERM".parse(), Ok(Signal::TERM));
        assert_eq!("kill".parse(), Ok(Signal::KILL));
        assert_eq!(Signal::from_number(15), Some(Signal::TERM));
        assert_eq!(Signal::from_number(31).map(Signal::name), Some("SYS".to_owned()));
        assert_eq!(Signal::from_number(34).map(Signal::name), Some("RTMIN+2".to_owned()));
        assert_eq!(Signal::from_number(0), None);
        assert_eq!(Signal::from_number(65), None);
        assert!("NOPE".parse::<Signal>().is_err());
    }
}
