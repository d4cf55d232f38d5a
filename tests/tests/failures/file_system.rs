//! Errors that a file system itself returns, row by row of the table in docs/failure-reasons.md:
//! a FUSE file system fails with the errno that a file's name asks for.
//!
//! It is mounted in a mount namespace of the test's thread, which the run inherits. The namespace
//! ends with the processes in it, so that a killed test leaves no mount behind.

use std::ffi::OsStr;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    AccessFlags, BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo,
    OpenFlags, ReplyAttr, ReplyEmpty, ReplyEntry, ReplyOpen, Request,
};
use nix::libc::{EACCES, ENOENT, ENOTDIR};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use ostler_os::start_error::{Action, ROWS, Row};
use ostler_tests::{SOON, Up};
use serde_json::Value;

use crate::{assert_message, text};

/// Inodes: programs that can't be opened, and directories that can't be entered, each plus the
/// errno.
const PROGRAM: u64 = 1_000;
const DIRECTORY: u64 = 2_000;

/// `open-ERRNO` is a program whose open(2) fails, `enter-ERRNO` a directory whose chdir(2) fails,
/// `look-ERRNO` a name whose lookup fails.
struct FailingFs;

impl Filesystem for FailingFs {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.to_string_lossy();
        let parsed: Option<(&str, u16)> = name
            .split_once('-')
            .and_then(|(kind, errno)| Some((kind, errno.parse().ok()?)));
        match parsed {
            Some(("open", errno)) => {
                reply.entry(&Duration::ZERO, &attributes(PROGRAM + u64::from(errno)), Generation(0))
            }
            Some(("enter", errno)) => reply.entry(
                &Duration::ZERO,
                &attributes(DIRECTORY + u64::from(errno)),
                Generation(0),
            ),
            Some(("look", errno)) => reply.error(Errno::from_i32(errno.into())),
            _ => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&Duration::ZERO, &attributes(inode.0));
    }

    fn open(&self, _: &Request, inode: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.error(errno_of(inode));
    }

    fn access(&self, _: &Request, inode: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        match inode.0 {
            DIRECTORY.. => reply.error(errno_of(inode)),
            _ => reply.ok(),
        }
    }
}

fn errno_of(inode: INodeNo) -> Errno {
    Errno::from_i32(i32::try_from(inode.0 % 1_000).unwrap_or(0))
}

fn attributes(inode: u64) -> FileAttr {
    FileAttr {
        ino: INodeNo(inode),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: if (PROGRAM..DIRECTORY).contains(&inode) {
            FileType::RegularFile
        } else {
            FileType::Directory
        },
        perm: 0o755,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

/// Mounts the file system where only this thread and what it starts see it.
fn mounted(at: &Path) -> Option<BackgroundSession> {
    let private = unshare(CloneFlags::CLONE_NEWNS).and_then(|()| {
        mount(
            None::<&str>,
            "/",
            None::<&str>,
            MsFlags::MS_REC | MsFlags::MS_PRIVATE,
            None::<&str>,
        )
    });
    if let Err(error) = private {
        eprintln!("skipped: a mount namespace is not allowed here: {error}");
        return None;
    }
    match fuser::spawn_mount(FailingFs, at, &Config::default()) {
        Ok(session) => Some(session),
        Err(error) => {
            eprintln!("skipped: mounting FUSE is not allowed here: {error}");
            None
        }
    }
}

/// A row of the table, and what fails with its error.
struct Case {
    row: &'static Row,
    kind: &'static str,
}

impl Case {
    /// `look`: a program whose path can't be looked up; `open`: one that can't be opened; `enter`:
    /// a directory.
    fn all() -> Vec<Self> {
        let of = |action, kinds: &'static [&'static str]| {
            let rows = ROWS.iter().filter(move |row| row.at.contains(&action));
            rows.flat_map(move |row| kinds.iter().map(move |kind| Self { row, kind }))
        };
        let programs = of(Action::Execute, &["look", "open"]);
        programs.chain(of(Action::EnterDirectory, &["enter"])).collect()
    }

    fn pool(&self) -> String {
        format!("{}-{}", self.kind, self.row.name.to_lowercase())
    }

    fn toml(&self, mount: &Path, tag: &str) -> String {
        let path = mount
            .join(format!("{}-{}", self.kind, self.row.errno))
            .display()
            .to_string();
        let keys = match self.kind {
            "enter" => format!("command = [\"sleep\", \"3600\", {tag:?}]\ncwd = {path:?}"),
            _ => format!("command = [{path:?}, {tag:?}]"),
        };
        format!("[pool.{}]\n{keys}\nintensity = 0\n", self.pool())
    }
}

#[test]
fn errors_of_a_file_system_are_those_of_the_table() {
    let directory = tempfile::tempdir().unwrap();
    let Some(session) = mounted(directory.path()) else {
        return;
    };
    let cases = Case::all();
    let mut up = Up::start(|tag| cases.iter().map(|case| case.toml(directory.path(), tag)).collect());
    for case in &cases {
        let (worker, row) = (format!("{}/0", case.pool()), case.row);
        let is_failure = |event: &Value| event["event"] == "worker.failed" && event["worker"] == *worker;
        let seen = up.seen.iter().find(|event| is_failure(event)).cloned();
        let failure = seen.unwrap_or_else(|| up.wait_for(&worker, SOON, is_failure));
        assert_eq!(text(&failure, "reason"), row.reason.name(), "{failure}");
        let suggestion = row.suggestion.unwrap_or(row.reason.suggestion());
        assert_eq!(text(&failure, "suggestion"), suggestion, "{failure}");
        // What the host sees before the spawn, it says in plainer words.
        if ![ENOENT, ENOTDIR, EACCES].contains(&row.errno) {
            assert_message(&failure, &[row.meaning, row.name]);
        }
    }
    up.signal(Signal::SIGTERM);
    up.end(SOON);
    for case in &cases {
        let pool = case.pool();
        let gave_up = up.named("pool.gave_up").any(|event| event["pool"] == *pool);
        assert_eq!(gave_up, case.row.reason.is_counted(), "{pool}");
    }
    up.assert_nothing_left();
    drop(session);
}
