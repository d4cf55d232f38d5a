//! Lines of /proc/PID/stat.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ostler_os::fuzzing::proc_lines(bytes));
