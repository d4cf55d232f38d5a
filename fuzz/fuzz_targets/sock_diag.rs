//! The kernel's answers to sock_diag requests.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ostler_os::fuzzing::sock_diag(bytes));
