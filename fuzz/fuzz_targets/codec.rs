//! Rows of the process table.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ostler_registry::fuzzing::codec(bytes));
