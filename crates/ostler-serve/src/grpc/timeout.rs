//! `grpc-timeout`: at most eight digits and a unit.

use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use tokio::time::Instant;

const HEADER: &str = "grpc-timeout";

/// The most that eight digits can say.
const MOST: u128 = 99_999_999;

/// The request's timeout; `None`: it has none, or one that can't be read.
pub(super) fn of(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(HEADER)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

/// Replaces the request's timeout by what is left of it.
pub(super) fn pass_on(headers: &mut HeaderMap, deadline: Option<Instant>) {
    if headers.contains_key(HEADER) {
        announce(headers, deadline);
    }
}

/// Says what is left until this deadline.
pub(super) fn announce(headers: &mut HeaderMap, deadline: Option<Instant>) {
    let Some(deadline) = deadline else { return };
    let left = written(deadline.saturating_duration_since(Instant::now()));
    if let Ok(value) = HeaderValue::try_from(left) {
        headers.insert(HEADER, value);
    }
}

/// In the smallest unit that has room for it.
fn written(left: Duration) -> String {
    let units = [
        (left.as_nanos(), 'n'),
        (left.as_micros(), 'u'),
        (left.as_millis(), 'm'),
        (u128::from(left.as_secs()), 'S'),
        (u128::from(left.as_secs() / 60), 'M'),
    ];
    let fits = units.into_iter().find(|(count, _)| *count <= MOST);
    let (count, unit) = fits.unwrap_or((u128::from(left.as_secs() / 3600).min(MOST), 'H'));
    format!("{count}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, HeaderValue::from_str(text).ok()?);
        of(&headers)
    }

    #[test]
    fn every_unit_is_read_and_nonsense_is_not() {
        assert_eq!(read("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(read("100m"), Some(Duration::from_millis(100)));
        for nonsense in ["", "m", "1", "123456789S", "-1S", "1X", "1.5S"] {
            assert_eq!(read(nonsense), None, "{nonsense:?}");
        }
    }

    proptest! {
        /// What is written is never longer than what is left, and loses little of it.
        #[test]
        fn what_is_left_survives_the_header(nanos in 0u64..u64::MAX) {
            let left = Duration::from_nanos(nanos);
            let read = read(&written(left)).expect("it can be read");
            prop_assert!(read <= left);
            prop_assert!(left - read <= left / 1000 + Duration::from_nanos(1), "{left:?} {read:?}");
        }
    }
}
