//! What `fuzz/` and the replay of its corpus call: any bytes may come in, and nothing may panic.

use crate::codec::{checksum, decode_record, encode_record};

/// A row of the process table, as it is and with the right checksum, which a fuzzer does not guess.
/// What decodes is encoded again and must decode as the same.
///
/// # Panics
/// When it does not.
pub fn codec(bytes: &[u8]) {
    check(bytes);
    if let Some((&[v0, v1, ..], payload)) = bytes.split_first_chunk::<6>() {
        let mut row = vec![v0, v1];
        row.extend_from_slice(&checksum([v0, v1], payload).to_le_bytes());
        row.extend_from_slice(payload);
        check(&row);
    }
}

fn check(row: &[u8]) {
    let Ok(record) = decode_record(row) else {
        return;
    };
    // A record of an older version may be larger in the newest one.
    if let Ok(again) = encode_record(&record) {
        assert_eq!(decode_record(&again).expect("what was encoded decodes"), record);
    }
}
