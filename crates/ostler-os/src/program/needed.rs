//! What the kernel needs beside a program's file to run it: the interpreter of a script's first
//! line, or the loader that an ELF file names (execve(2), elf(5)). If it is missing, execve(2)
//! reports ENOENT as if the program itself were missing.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use memchr::memchr;

/// How much of a file the kernel reads for its `#!` line (BINPRM_BUF_SIZE since 5.1, execve(2)).
const FIRST_LINE_LIMIT: usize = 256;

/// The longest table of program headers that the kernel loads, and the longest path.
const TABLE_LIMIT: usize = 65_536;
const PATH_LIMIT: u64 = 4096;

const PT_INTERP: u64 = 3;

/// What a program is run by.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Needed {
    /// The first word behind `#!`. A trailing carriage return belongs to it.
    Interpreter(PathBuf),
    /// The dynamic loader of an ELF program.
    Loader(PathBuf),
}

/// What the program is run by. `None`: nothing, or it may be executed but not read, or it is
/// malformed, which is left to the kernel.
pub(super) fn needed_by(program: &Path) -> Option<Needed> {
    let file = File::open(program).ok()?;
    let mut start = [0; FIRST_LINE_LIMIT];
    let length = file.read_at(&mut start, 0).ok()?;
    let start = &start[..length];
    interpreter(start)
        .map(Needed::Interpreter)
        .or_else(|| loader(&file, start).map(Needed::Loader))
}

fn interpreter(start: &[u8]) -> Option<PathBuf> {
    let line = start.strip_prefix(b"#!")?;
    let line = memchr(b'\n', line).map_or(line, |end| &line[..end]);
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let word = line.split(blank).find(|word| !word.is_empty())?;
    Some(PathBuf::from(OsStr::from_bytes(word)))
}

/// Where the fields of the two kinds of ELF files are: offset and width in bytes.
struct Layout {
    table: (usize, usize),
    entry_size: (usize, usize),
    entries: (usize, usize),
    offset: (usize, usize),
    size: (usize, usize),
}

const ELF_32: Layout = Layout {
    table: (28, 4),
    entry_size: (42, 2),
    entries: (44, 2),
    offset: (4, 4),
    size: (16, 4),
};

const ELF_64: Layout = Layout {
    table: (32, 8),
    entry_size: (54, 2),
    entries: (56, 2),
    offset: (8, 8),
    size: (32, 8),
};

/// The path in the PT_INTERP segment of a little-endian ELF file: Ostler's architectures have no
/// other.
fn loader(file: &File, start: &[u8]) -> Option<PathBuf> {
    let layout = match start.strip_prefix(b"\x7fELF")?.get(..2)? {
        [1, 1] => ELF_32,
        [2, 1] => ELF_64,
        _ => return None,
    };
    let entry_size = usize::try_from(number(start, layout.entry_size)?).ok()?;
    let entries = usize::try_from(number(start, layout.entries)?).ok()?;
    if entry_size == 0 || entry_size.checked_mul(entries)? > TABLE_LIMIT {
        return None;
    }
    let mut table = vec![0; entry_size * entries];
    file.read_exact_at(&mut table, number(start, layout.table)?).ok()?;
    let entry = table
        .chunks_exact(entry_size)
        .find(|entry| number(entry, (0, 4)) == Some(PT_INTERP))?;
    let size = number(entry, layout.size).filter(|size| (1..=PATH_LIMIT).contains(size))?;
    let mut path = vec![0; usize::try_from(size).ok()?];
    file.read_exact_at(&mut path, number(entry, layout.offset)?).ok()?;
    path.truncate(memchr(0, &path)?);
    Some(PathBuf::from(OsStr::from_bytes(&path)))
}

fn number(bytes: &[u8], (at, width): (usize, usize)) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(width)?)?;
    Some(
        field
            .iter()
            .rev()
            .fold(0, |number, byte| number << 8 | u64::from(*byte)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_program_names_its_loader() {
        let program = std::env::current_exe().expect("path of this program");
        // A static build, as for musl, names none.
        if let Some(needed) = needed_by(&program) {
            let Needed::Loader(loader) = needed else {
                panic!("{needed:?}")
            };
            assert!(loader.is_absolute() && loader.exists(), "{loader:?}");
        }
    }

    #[test]
    fn malformed_files_name_nothing() {
        let program = std::fs::read(std::env::current_exe().expect("path of this program")).expect("readable");
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("program");
        let of = |bytes: &[u8]| {
            std::fs::write(&path, bytes).expect("written");
            needed_by(&path)
        };
        for length in 0..64 {
            assert_eq!(of(&program[..length]), None, "cut at {length}");
        }
        // Every byte of the header, with every bit set: whatever it comes to, nothing panics.
        for at in 4..64 {
            let mut bytes = program[..4096].to_vec();
            bytes[at] = 0xff;
            drop(of(&bytes));
        }
        assert_eq!(of(b"#!\n"), None);
        assert_eq!(of(b"#! /bin/sh -e"), Some(Needed::Interpreter("/bin/sh".into())));
    }
}
