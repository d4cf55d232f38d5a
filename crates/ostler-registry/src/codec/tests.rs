use std::path::PathBuf;

use super::*;
use crate::record::Identity;
use crate::samples::{active, full, reserved};

/// Records of each shape that is written, with the suffix of the file that contains its bytes as
/// first released.
fn shapes() -> Vec<(&'static str, Record)> {
    vec![
        ("reserved.bin", reserved("embed", 0, 1)),
        ("active.bin", active("embed", 3, 12)),
        ("cgroup.bin", full("vector", u32::MAX, u64::MAX)),
    ]
}

/// Records whose files contain what is no longer written: a lease, later states and their times.
fn older_shapes() -> Vec<(&'static str, Record)> {
    vec![
        ("full.bin", full("vector", u32::MAX, u64::MAX)),
        ("releasing.bin", active("embed", 7, 3)),
    ]
}

/// The part of a record that version 1 stores.
fn as_version_1(mut record: Record) -> Record {
    if let Some(Identity::LocalProcess(process)) = &mut record.identity {
        process.pidfd_inode = 0;
    }
    if let Some(sitter) = &mut record.sitter {
        sitter.pidfd_inode = 0;
    }
    record
}

fn fixture_path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

/// `OSTLER_BLESS=1` writes fixtures that do not exist yet, for a new version. It never changes
/// existing ones.
#[test]
fn committed_records_are_read_and_written_byte_for_byte() {
    for (shape, record) in shapes() {
        let name = format!("record-v{RECORD_VERSION}-{shape}");
        let path = fixture_path(&name);
        if std::env::var_os("OSTLER_BLESS").is_some() && !path.exists() {
            std::fs::write(&path, encode_record(&record).expect("encodes")).expect("written");
        }
        let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(decode_record(&bytes).as_ref(), Ok(&record), "{name}");
        assert_eq!(encode_record(&record).as_deref(), Ok(bytes.as_slice()), "{name}");
    }
}

#[test]
fn committed_records_with_parts_that_are_no_longer_written_are_read() {
    for (shape, record) in older_shapes() {
        let bytes = std::fs::read(fixture_path(&format!("record-v2-{shape}"))).expect("fixture");
        assert_eq!(decode_record(&bytes), Ok(record), "{shape}");
    }
}

#[test]
fn committed_records_of_version_1_are_read() {
    let since_version_2 = "cgroup.bin";
    for (shape, record) in shapes().into_iter().chain(older_shapes()) {
        if shape != since_version_2 {
            let bytes = std::fs::read(fixture_path(&format!("record-v1-{shape}"))).expect("fixture");
            assert_eq!(decode_record(&bytes), Ok(as_version_1(record)), "{shape}");
        }
    }
}

#[test]
fn newer_record_is_refused_by_version() {
    let bytes = std::fs::read(fixture_path("record-too-new.bin")).expect("fixture");
    assert_eq!(decode_record(&bytes), Err(DecodeError::TooNew { found: u16::MAX }));
}

#[test]
fn every_flipped_bit_is_detected() {
    let bytes = encode_record(&full("vector", 1, 2)).expect("encodes");
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(decode_record(&damaged).is_err(), "bit {bit}");
    }
}

#[test]
fn every_truncation_is_corrupt() {
    let bytes = encode_record(&active("embed", 1, 2)).expect("encodes");
    for length in 0..bytes.len() {
        assert!(
            matches!(decode_record(&bytes[..length]), Err(DecodeError::Corrupt { .. })),
            "{length} bytes"
        );
    }
}

/// Trailing bytes with a valid checksum: the checksum alone must not accept them.
#[test]
fn trailing_bytes_are_corrupt() {
    let mut payload = encode_record(&reserved("embed", 0, 1))
        .expect("encodes")
        .split_off(HEADER_BYTES);
    payload.push(0);
    let version = RECORD_VERSION.to_le_bytes();
    let mut bytes = version.to_vec();
    bytes.extend_from_slice(&checksum(version, &payload).to_le_bytes());
    bytes.extend_from_slice(&payload);
    let error = decode_record(&bytes).expect_err("trailing byte");
    assert!(error.to_string().contains("1 bytes follow"), "{error}");
}

#[test]
fn version_0_and_incarnation_0_are_invalid() {
    let mut zero = encode_record(&reserved("embed", 0, 1)).expect("encodes");
    zero[0] = 0;
    let sum = checksum([0, 0], &zero[HEADER_BYTES..]);
    zero[2..HEADER_BYTES].copy_from_slice(&sum.to_le_bytes());
    assert!(
        decode_record(&zero)
            .expect_err("version 0")
            .to_string()
            .contains("version 0")
    );

    let unborn = encode_record(&reserved("embed", 0, 0)).expect("encodes");
    assert!(matches!(decode_record(&unborn), Err(DecodeError::Corrupt { .. })));
}

#[test]
fn oversized_record_is_refused_both_ways() {
    let mut record = reserved("embed", 0, 1);
    record.marker = "m".repeat(MAX_RECORD_BYTES);
    assert!(encode_record(&record).is_err());
    assert!(matches!(
        decode_record(&vec![1; MAX_RECORD_BYTES + 1]),
        Err(DecodeError::Corrupt { .. })
    ));
}

#[test]
fn keys_are_unique_and_sort_within_a_pool() {
    let key = |pool: &str, index, incarnation| encode_key(&reserved(pool, index, incarnation).key());
    assert!(key("a", 1, 300) < key("a", 2, 1));
    assert!(key("a", 1, 1) < key("a", 1, 256));
    assert_ne!(key("a", 1, 1), key("a1", 1, 1));
}
