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

/// The first real-time signal that a program can use.
const RTMIN: u8 = 34;

/// The last signal.
const RTMAX: u8 = 64;

impl Signal {
    /// SIGHUP.
    pub const HUP: Self = Self(1);
    /// SIGINT.
    pub const INT: Self = Self(2);
    /// SIGQUIT.
    pub const QUIT: Self = Self(3);
    /// SIGABRT.
    pub const ABRT: Self = Self(6);
    /// SIGKILL.
    pub const KILL: Self = Self(9);
    /// SIGUSR1.
    pub const USR1: Self = Self(10);
    /// SIGUSR2.
    pub const USR2: Self = Self(12);
    /// SIGTERM.
    pub const TERM: Self = Self(15);
    /// SIGCONT.
    pub const CONT: Self = Self(18);
    /// SIGSTOP.
    pub const STOP: Self = Self(19);

    /// Returns the signal with this number, or `None` if it is outside 1..=64.
    pub fn from_number(number: i32) -> Option<Self> {
        u8::try_from(number).ok().filter(|n| (1..=64).contains(n)).map(Self)
    }

    /// The number, as passed to kill(2).
    pub const fn number(self) -> i32 {
        self.0 as i32
    }

    /// The name without `SIG`, such as `TERM`. Real-time signals are `RTMIN+n` as kill(1) and
    /// systemd count them, from 34; 32 and 33, which the C library keeps for itself, are numbers.
    pub fn name(self) -> String {
        match NAMES.get(usize::from(self.0) - 1) {
            Some(name) => (*name).to_owned(),
            None if self.0 < RTMIN => self.0.to_string(),
            None => format!("RTMIN+{}", self.0 - RTMIN),
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

/// The number of a real-time signal, or of one without a name.
fn unnamed(name: &str) -> Option<u8> {
    let number = match name {
        "RTMIN" => RTMIN,
        "RTMAX" => RTMAX,
        other => match (other.strip_prefix("RTMIN+"), other.strip_prefix("RTMAX-")) {
            (Some(above), _) => RTMIN.checked_add(above.parse().ok()?)?,
            (_, Some(below)) => RTMAX
                .checked_sub(below.parse().ok()?)
                .filter(|number| *number >= RTMIN)?,
            (None, None) => other.parse().ok().filter(|number| (32..RTMIN).contains(number))?,
        },
    };
    (number <= RTMAX).then_some(number)
}

/// The error returned when a signal name is unknown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a signal such as TERM, INT, HUP, QUIT, USR1, KILL or RTMIN+3, found {name:?}")]
pub struct UnknownSignal {
    name: String,
}

impl FromStr for Signal {
    type Err = UnknownSignal;

    /// Accepts `TERM` and `SIGTERM` in upper or lower case, and whatever [`Signal::name`] returns.
    fn from_str(text: &str) -> Result<Self, UnknownSignal> {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        NAMES
            .iter()
            .position(|known| *known == name)
            .and_then(|index| u8::try_from(index + 1).ok())
            .or_else(|| unnamed(name))
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
        for number in 1..=64 {
            let signal = Signal::from_number(number).unwrap();
            assert_eq!(signal.name().parse(), Ok(signal), "{number}");
        }
        // As `kill -l` has it.
        assert_eq!("SIGRTMIN+3".parse().map(Signal::number), Ok(37));
        assert_eq!("RTMAX-1".parse().map(Signal::number), Ok(63));
        for wrong in ["RTMIN+31", "RTMAX-31", "RTMIN+-1", "15", "31", "65", ""] {
            assert!(wrong.parse::<Signal>().is_err(), "{wrong}");
        }
        assert_eq!(Signal::from_number(0), None);
        assert_eq!(Signal::from_number(65), None);
        assert!("NOPE".parse::<Signal>().is_err());
    }
}
