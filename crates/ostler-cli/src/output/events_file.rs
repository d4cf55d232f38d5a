//! The file of `--events FILE`: a path that others rotate, truncate, remove and fill while it is
//! open.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::outlet::write_whole;

/// A file that is appended to, so that a truncation leaves no hole, and that is opened again when
/// its path no longer leads to it.
#[derive(Debug)]
pub(super) struct EventsFile {
    path: PathBuf,
    kind: Kind,
    /// `None`: it could not be opened, or nothing reads the FIFO.
    open: Option<Open>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Regular,
    Fifo,
    /// A terminal or another device.
    Device,
}

#[derive(Debug)]
struct Open {
    file: File,
    /// Device and inode.
    identity: (u64, u64),
}

impl EventsFile {
    /// Opens the file and empties it. A FIFO that nothing reads yet is not an error, and not waited
    /// for.
    ///
    /// # Errors
    /// When it can't be opened for writing.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let path = path.to_owned();
        match open(&path, OFlags::NONBLOCK) {
            Ok((file, kind)) => {
                if kind == Kind::Regular {
                    file.file.set_len(0)?;
                }
                let flags = fcntl_getfl(&file.file)?;
                fcntl_setfl(&file.file, flags - OFlags::NONBLOCK)?;
                Ok(Self {
                    path,
                    kind,
                    open: Some(file),
                })
            }
            Err(error) if is_unread_fifo(&path, &error) => Ok(Self {
                path,
                kind: Kind::Fifo,
                open: None,
            }),
            Err(error) => Err(error),
        }
    }

    /// Whether the next write waits for a reader of the FIFO.
    pub(super) fn needs_reader(&self) -> bool {
        self.kind == Kind::Fifo && self.open.is_none()
    }

    /// Appends all of `bytes`, or none of them. Blocks while a FIFO has no reader, or a slow one.
    ///
    /// # Errors
    /// When the file can't be opened or written. The next call tries again.
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.open.as_ref().is_none_or(|open| self.is_replaced(open)) {
            self.reopen()?;
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        let Err((error, written)) = write_whole(&mut open.file, bytes) else {
            return Ok(());
        };
        if self.kind == Kind::Regular && written > 0 {
            // Half a line is worth nothing, and would spoil the next one.
            let undone = open.file.metadata().map(|now| now.len().saturating_sub(written as u64));
            drop(undone.and_then(|len| open.file.set_len(len)));
        }
        if error.kind() == io::ErrorKind::BrokenPipe {
            self.open = None;
        }
        Err(error)
    }

    /// Opens the path again, as after a log rotation. A FIFO stays as it is: its readers come and
    /// go.
    ///
    /// # Errors
    /// When it can't be opened. The next write tries again.
    pub(super) fn rotate(&mut self) -> io::Result<()> {
        match self.kind {
            Kind::Fifo => Ok(()),
            Kind::Regular | Kind::Device => self.reopen(),
        }
    }

    fn reopen(&mut self) -> io::Result<()> {
        self.open = None;
        let (file, kind) = open(&self.path, OFlags::empty())?;
        (self.open, self.kind) = (Some(file), kind);
        Ok(())
    }

    /// Whether the path leads to another file by now, or to none.
    fn is_replaced(&self, open: &Open) -> bool {
        self.kind == Kind::Regular
            && match fs::metadata(&self.path) {
                Ok(now) => identity(&now) != open.identity,
                Err(error) => error.kind() == io::ErrorKind::NotFound,
            }
    }
}

fn open(path: &Path, flags: OFlags) -> io::Result<(Open, Kind)> {
    let flags = (flags | OFlags::NOCTTY).bits();
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .custom_flags(i32::try_from(flags).expect("flags of open(2) fit an int"))
        .open(path)?;
    let metadata = file.metadata()?;
    let kind = match metadata.file_type() {
        of if of.is_file() => Kind::Regular,
        of if of.is_fifo() => Kind::Fifo,
        _ => Kind::Device,
    };
    let identity = identity(&metadata);
    Ok((Open { file, identity }, kind))
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// ENXIO is what open(2) says of a FIFO without a reader.
fn is_unread_fifo(path: &Path, error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error())
        && fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn created() -> (tempfile::TempDir, PathBuf, EventsFile) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events");
        fs::write(&path, "of an earlier run\n").unwrap();
        let file = EventsFile::create(&path).unwrap();
        (folder, path, file)
    }

    #[test]
    fn a_truncated_file_has_no_hole() {
        let (_folder, path, mut file) = created();
        file.append(b"one\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\n");
        File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
        file.append(b"two\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
    }

    #[test]
    fn a_file_that_is_removed_or_replaced_is_opened_again() {
        let (folder, path, mut file) = created();
        file.append(b"one\n").unwrap();
        fs::remove_file(&path).unwrap();
        file.append(b"two\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
        fs::rename(&path, folder.path().join("rotated")).unwrap();
        fs::write(&path, "").unwrap();
        file.append(b"three\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "three\n");
        assert_eq!(fs::read_to_string(folder.path().join("rotated")).unwrap(), "two\n");
    }

    #[test]
    fn a_rotation_creates_the_file_at_once() {
        let (folder, path, mut file) = created();
        fs::rename(&path, folder.path().join("rotated")).unwrap();
        file.rotate().unwrap();
        assert!(path.exists());
    }

    #[test]
    fn a_directory_that_comes_back_is_written_to_again() {
        let (folder, path, mut file) = created();
        fs::remove_dir_all(folder.path()).unwrap();
        assert_eq!(file.append(b"lost\n").unwrap_err().kind(), io::ErrorKind::NotFound);
        fs::create_dir(folder.path()).unwrap();
        file.append(b"back\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "back\n");
    }

    #[test]
    fn a_fifo_is_not_waited_for_when_it_is_created() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut file = EventsFile::create(&path).unwrap();
        assert!(file.needs_reader());
        let reader = std::thread::spawn({
            let path = path.clone();
            move || {
                let mut line = String::new();
                io::BufRead::read_line(&mut io::BufReader::new(File::open(path).unwrap()), &mut line).unwrap();
                line
            }
        });
        file.append(b"one\n").unwrap();
        assert_eq!(reader.join().unwrap(), "one\n");
        assert_eq!(file.append(b"two\n").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert!(file.needs_reader(), "its next reader is waited for");
    }
}
