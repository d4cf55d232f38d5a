use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// A file that accepts `left` more writes and then fails them all, as if the process had been
/// killed.
#[derive(Debug)]
struct DiesAfter {
    file: UnsyncedFile,
    left: Arc<AtomicUsize>,
}

impl DiesAfter {
    fn step(&self) -> Result<(), io::Error> {
        let stepped = self
            .left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        stepped.map(|_| ()).map_err(|_| io::Error::other("dead"))
    }
}

impl StorageBackend for DiesAfter {
    fn len(&self) -> Result<u64, io::Error> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.step()?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.step()?;
        self.file.write(offset, data)
    }
}

fn put(key: u8) -> Change {
    Change::Put {
        key: vec![key],
        value: vec![key; 300],
    }
}

/// Enough commits for pages freed by one to be reused by a later one.
const COMMITS: u8 = 9;

/// Makes this many commits and fails at one write after the store was created. Returns the number
/// of acknowledged commits, and the total number of writes.
fn die_at(step: usize, path: &Path) -> (u8, usize) {
    drop(RedbStore::open(path).expect("made"));
    let left = Arc::new(AtomicUsize::new(step));
    let file = OpenOptions::new().read(true).write(true).open(path).expect("opens");
    let mut acknowledged = 0;
    if let Ok(mut store) = RedbStore::existing(
        DiesAfter {
            file: UnsyncedFile(file),
            left: left.clone(),
        },
        path,
    ) {
        for key in 1..=COMMITS {
            match store.apply(&[put(key)]) {
                Ok(()) => acknowledged = key,
                Err(_) => break,
            }
        }
    }
    (acknowledged, step - left.load(Ordering::SeqCst))
}

#[test]
fn acknowledged_commits_survive_a_death_at_each_write() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (all, steps) = die_at(1_000_000, &dir.path().join("counted"));
    assert_eq!(all, COMMITS);
    assert!(
        steps > 2 * usize::from(COMMITS),
        "only {steps} writes: the count is wrong"
    );
    for step in 0..steps {
        let path = dir.path().join(format!("dead-{step}"));
        let (acknowledged, _) = die_at(step, &path);
        let keys: Vec<u8> = read(&path).expect("readable").iter().map(|(key, _)| key[0]).collect();
        let expected: Vec<u8> = (1..=acknowledged).collect();
        let one_more: Vec<u8> = (1..=acknowledged + 1).collect();
        assert!(
            keys == expected || keys == one_more,
            "step {step}: {acknowledged} acknowledged, {keys:?} found"
        );
    }
}

#[test]
fn newer_file_format_is_too_new() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("table.redb");
    drop(RedbStore::open(&path).expect("made"));
    let mut bytes = fs::read(&path).expect("read");
    // The two commit slots in redb's header, at bytes 64 and 192, start with the format version.
    bytes[64] = 200;
    bytes[192] = 200;
    fs::write(&path, bytes).expect("written");
    assert!(
        matches!(read(&path), Err(StoreError::TooNew { .. })),
        "{:?}",
        read(&path)
    );
}

#[test]
fn death_during_creation_leaves_no_incomplete_store() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("table.redb");
    fs::write(path.with_extension("redb-new"), b"half").expect("written");
    drop(RedbStore::open(&path).expect("opens"));
    assert_eq!(read(&path).expect("reads"), vec![]);
    assert!(!path.with_extension("redb-new").exists());
}
