//! Datagrams to a worker's notify socket.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ostler_os::fuzzing::notify(bytes));
