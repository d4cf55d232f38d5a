//! Messages between host, guardian and sitters.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ostler_os::fuzzing::protocol(bytes));
