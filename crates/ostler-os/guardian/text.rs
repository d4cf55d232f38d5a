//! Parses and formats the few texts of the kernel's interface. Pure.

/// The decimal number that all of the bytes form; `None` for anything else and for more than nine
/// digits.
pub(crate) fn pid_of(name: &[u8]) -> Option<i32> {
    if name.is_empty() || name.len() > 9 {
        return None;
    }
    let mut value = 0;
    for byte in name {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value * 10 + i32::from(digit);
    }
    Some(value)
}

/// Writes `value` in decimal at the start of `out` and returns the number of digits; 0 if they do
/// not fit.
pub(crate) fn write_decimal(mut value: u32, out: &mut [u8]) -> usize {
    let mut digits = [0; 10];
    let mut count = 0;
    loop {
        digits[count] = b'0' + (value % 10) as u8;
        count += 1;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    if count > out.len() {
        return 0;
    }
    for (to, from) in out.iter_mut().zip(digits[..count].iter().rev()) {
        *to = *from;
    }
    count
}

/// Field 22 of a /proc/PID/stat: the start time in clock ticks since boot. Field 2, the name, may
/// contain anything, so counting starts after the last `)`.
pub(crate) fn start_time(stat: &[u8]) -> Option<u64> {
    let after_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
    // A space follows the bracket, then field 3.
    let field = stat.get(after_name + 1..)?.split(|byte| *byte == b' ').nth(19)?;
    if field.is_empty() {
        return None;
    }
    let mut value: u64 = 0;
    for byte in field {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value.checked_mul(10)?.checked_add(u64::from(digit))?;
    }
    Some(value)
}

/// Whether a cgroup.events says that the cgroup or one below it has members; `None` if it does not
/// say.
pub(crate) fn populated(events: &[u8]) -> Option<bool> {
    let line = events
        .split(|byte| *byte == b'\n')
        .find(|line| line.starts_with(b"populated "))?;
    match line {
        b"populated 0" => Some(false),
        b"populated 1" => Some(true),
        _ => None,
    }
}
