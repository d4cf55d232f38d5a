//! Ready files of workers.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ostler::fuzzing::ready_file(bytes));
