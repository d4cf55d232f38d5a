//! Tests that every compiled-in engine must pass.

use std::fs;
use std::path::Path;

use super::{Change, Engine, Row, StoreError};

fn engines() -> impl Iterator<Item = Engine> {
    Engine::ALL.into_iter().filter(|engine| engine.is_compiled_in())
}

fn on_each_engine(check: impl Fn(Engine, &Path)) {
    for engine in engines() {
        let dir = tempfile::tempdir().expect("temporary directory");
        check(engine, &dir.path().join(engine.file_name()));
    }
}

fn put(key: &[u8], value: &[u8]) -> Change {
    Change::Put {
        key: key.to_vec(),
        value: value.to_vec(),
    }
}

fn remove(key: &[u8]) -> Change {
    Change::Remove { key: key.to_vec() }
}

fn row(key: &[u8], value: &[u8]) -> Row {
    (key.to_vec(), value.to_vec())
}

#[test]
fn new_store_is_empty() {
    on_each_engine(|engine, path| {
        assert_eq!(
            engine.open(path).expect("opens").scan().expect("scans"),
            vec![],
            "{engine}"
        );
    });
}

#[test]
fn rows_are_put_replaced_removed_and_listed_in_order() {
    on_each_engine(|engine, path| {
        let mut store = engine.open(path).expect("opens");
        store.apply(&[put(b"b", b"1"), put(b"a", b"2")]).expect("applies");
        store
            .apply(&[put(b"b", b"3"), remove(b"never stored")])
            .expect("applies");
        assert_eq!(
            store.scan().expect("scans"),
            vec![row(b"a", b"2"), row(b"b", b"3")],
            "{engine}"
        );
        store.apply(&[remove(b"a")]).expect("applies");
        assert_eq!(store.scan().expect("scans"), vec![row(b"b", b"3")], "{engine}");
    });
}

#[test]
fn changes_of_one_batch_are_applied_in_order() {
    on_each_engine(|engine, path| {
        let mut store = engine.open(path).expect("opens");
        store
            .apply(&[
                put(b"a", b"1"),
                remove(b"a"),
                put(b"b", b"1"),
                remove(b"b"),
                put(b"b", b"2"),
            ])
            .expect("applies");
        assert_eq!(store.scan().expect("scans"), vec![row(b"b", b"2")], "{engine}");
    });
}

#[test]
fn reopened_store_has_its_rows() {
    on_each_engine(|engine, path| {
        engine
            .open(path)
            .expect("opens")
            .apply(&[put(b"a", &[0, 255, 7])])
            .expect("applies");
        let mut store = engine.open(path).expect("reopening the store");
        assert_eq!(store.scan().expect("scans"), vec![row(b"a", &[0, 255, 7])], "{engine}");
    });
}

#[test]
fn thousands_of_rows_are_added_and_removed() {
    on_each_engine(|engine, path| {
        let mut store = engine.open(path).expect("opens");
        let keys: Vec<[u8; 4]> = (0_u32..3_000).map(u32::to_be_bytes).collect();
        for key in &keys {
            store.apply(&[put(key, &[7; 300])]).expect("put");
        }
        assert_eq!(store.scan().expect("scans").len(), keys.len(), "{engine}");
        for key in &keys {
            store.apply(&[remove(key)]).expect("removed");
        }
        assert_eq!(store.scan().expect("scans"), vec![], "{engine}");
    });
}

#[test]
fn reading_a_store_needs_no_write_permission_and_changes_nothing() {
    on_each_engine(|engine, path| {
        engine
            .open(path)
            .expect("opens")
            .apply(&[put(b"a", b"1")])
            .expect("applies");
        let before = content(path);
        assert_eq!(engine.read(path).expect("reads"), vec![row(b"a", b"1")], "{engine}");
        assert_eq!(content(path), before, "{engine}");
    });
}

/// The files of a store with their bytes, except RocksDB's human-readable log.
fn content(path: &Path) -> Vec<(String, Vec<u8>)> {
    if path.is_file() {
        return vec![(String::new(), fs::read(path).expect("read"))];
    }
    let mut files: Vec<_> = fs::read_dir(path)
        .expect("listed")
        .map(|entry| entry.expect("entry").path())
        .filter(|file| {
            !file
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("LOG"))
        })
        .map(|file| (file.display().to_string(), fs::read(&file).expect("read")))
        .collect();
    files.sort();
    files
}

/// No damage may cause a panic, a hang or an abort: the result is an error or rows.
#[test]
fn damage_anywhere_never_panics() {
    on_each_engine(|engine, path| {
        engine
            .open(path)
            .expect("opens")
            .apply(&[put(b"key", &[7; 300]), put(b"other", &[8; 300])])
            .expect("applies");
        let whole = content(path);
        for (name, bytes) in &whole {
            let file = if name.is_empty() { path.to_owned() } else { name.into() };
            for step in 0..40 {
                let mut damaged = bytes.clone();
                match step % 4 {
                    0 => damaged.truncate(bytes.len() * step / 40),
                    _ if bytes.is_empty() => continue,
                    _ => {
                        let at = (bytes.len() - 1) * step / 40;
                        damaged[at] ^= 0xff;
                    }
                }
                fs::write(&file, &damaged).expect("damaged");
                let read = engine.read(path);
                assert!(
                    read.is_ok()
                        || matches!(
                            read,
                            Err(StoreError::Corrupt { .. } | StoreError::TooNew { .. } | StoreError::Io { .. })
                        ),
                    "{engine} {name}"
                );
                fs::write(&file, bytes).expect("restored");
            }
        }
        assert_eq!(engine.read(path).expect("restored").len(), 2, "{engine}");
    });
}

#[test]
fn file_that_is_not_a_store_is_corrupt() {
    on_each_engine(|engine, path| {
        let (file, head) = match engine {
            Engine::Redb => (path.to_owned(), None),
            Engine::RocksDb => (path.join("MANIFEST-000001"), Some(path.join("CURRENT"))),
        };
        fs::create_dir_all(file.parent().expect("parent")).expect("made");
        fs::write(
            &file,
            b"garbage, and enough of it to fill more than a header ".repeat(100),
        )
        .expect("written");
        if let Some(head) = head {
            fs::write(head, b"MANIFEST-000001\n").expect("written");
        }
        for result in [engine.open(path).map(|_| ()), engine.read(path).map(|_| ())] {
            assert!(
                matches!(result, Err(StoreError::Corrupt { .. })),
                "{engine}: {result:?}"
            );
        }
    });
}

#[test]
fn missing_directory_is_an_error_with_its_path() {
    on_each_engine(|engine, path| {
        let nowhere = path.join("no/such").join(engine.file_name());
        fs::write(path, b"a file where a directory should be").expect("written");
        let error = engine.open(&nowhere).map(|_| ()).expect_err("missing directory");
        assert!(error.to_string().contains("no/such"), "{engine}: {error}");
    });
}

#[test]
fn engines_have_names_whether_compiled_in_or_not() {
    assert_eq!(Engine::from_name("rocksdb"), Some(Engine::RocksDb));
    assert_eq!(Engine::from_name("redb"), Some(Engine::Redb));
    assert_eq!(Engine::from_name("dets"), None);
    assert!(Engine::DEFAULT.is_compiled_in());
}

#[cfg(not(all(feature = "rocksdb", feature = "redb")))]
#[test]
fn engine_that_is_not_compiled_in_is_named() {
    let missing = Engine::ALL
        .into_iter()
        .find(|engine| !engine.is_compiled_in())
        .expect("one");
    let dir = tempfile::tempdir().expect("temporary directory");
    for error in [
        missing.open(dir.path()).map(|_| ()).expect_err("missing"),
        super::read_dead_store(dir.path(), missing)
            .map(|_| ())
            .expect_err("missing"),
    ] {
        assert!(
            matches!(&error, StoreError::EngineMissing { name } if name == missing.name()),
            "{error}"
        );
        assert!(error.suggestion().contains(missing.name()));
    }
}
