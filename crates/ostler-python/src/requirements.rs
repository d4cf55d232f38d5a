//! What a requirements file of pip says, as far as it decides which environment is made of it.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The options that name another file, with the same syntax.
const FILES: [&str; 4] = ["--requirement", "--constraint", "-r", "-c"];

/// The endings by which pip takes a name without a slash for a file.
const ARCHIVES: [&str; 4] = [".whl", ".zip", ".gz", ".bz2"];

/// A requirements file with those that it names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Requirements {
    /// The text of all of them, the first one first. A file that is named twice, or cannot be read,
    /// is left out: pip reports it.
    pub(crate) text: String,
    /// The first file's folder, if a path in them is relative: `./package`, `-e .` or
    /// `--find-links wheels/`. `None`: they mean the same in any folder.
    pub(crate) relative_to: Option<PathBuf>,
}

/// Reads the file and all that it names.
pub(crate) fn read(file: &Path) -> io::Result<Requirements> {
    let mut found = Requirements::default();
    let mut seen = BTreeSet::new();
    let mut waiting = vec![file.to_owned()];
    while let Some(path) = waiting.pop() {
        if !seen.insert(fs::canonicalize(&path).unwrap_or_else(|_| path.clone())) {
            continue;
        }
        let text = match fs::read_to_string(&path) {
            Err(_) if path != file => continue,
            text => text?,
        };
        let folder = path.parent().unwrap_or(Path::new(""));
        for line in text.lines().map(without_comment) {
            match named(line) {
                Some(other) if other.contains("://") => {}
                Some(other) => waiting.push(folder.join(other)),
                None if line.split_whitespace().any(is_relative) => {
                    found.relative_to = Some(fs::canonicalize(file)?.parent().unwrap_or(file).to_owned());
                }
                None => {}
            }
        }
        found.text.push_str(&text);
        found.text.push('\n');
    }
    Ok(found)
}

/// A comment begins with the line or after a space, as in pip.
fn without_comment(line: &str) -> &str {
    let line = line.trim();
    if line.starts_with('#') {
        return "";
    }
    line.split_once(" #").map_or(line, |(before, _)| before)
}

/// The file that a line such as `-r other.txt` names.
fn named(line: &str) -> Option<&str> {
    let rest = FILES.iter().find_map(|option| line.strip_prefix(option))?;
    // `-rother.txt` is as good as `-r other.txt` and `-r=other.txt`.
    let file = rest.trim_start_matches(['=', ' ', '\t']);
    file.split_whitespace().next()
}

/// Whether a word of a line is a path that is relative to something.
fn is_relative(word: &str) -> bool {
    let value = word.split_once('=').map_or(word, |(_, value)| value);
    let path = value.strip_prefix("file:").unwrap_or(value);
    let path = path.split('[').next().unwrap_or(path);
    let is_path = path.starts_with('.') || path.contains('/') || ARCHIVES.iter().any(|ending| path.ends_with(ending));
    is_path && !path.starts_with('/') && !path.contains("://")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_with(files: &[(&str, &str)]) -> (tempfile::TempDir, Requirements) {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("it has one")).expect("a folder");
            fs::write(path, text).expect("it is written");
        }
        let read = read(&folder.path().join(files[0].0)).expect("it can be read");
        (folder, read)
    }

    #[test]
    fn files_that_are_named_are_part_of_it() {
        let (_folder, read) = read_with(&[
            (
                "all.txt",
                "-r sub/more.txt\n# -r no.txt\n--constraint=pins.txt\n-r absent.txt\nnumpy",
            ),
            ("sub/more.txt", "-r ../all.txt\nmsgpack"),
            ("pins.txt", "numpy<2"),
            ("no.txt", "never"),
        ]);
        for text in ["numpy\n", "msgpack\n", "numpy<2\n"] {
            assert!(read.text.contains(text), "{read:?}");
        }
        assert_eq!(read.text.matches("msgpack").count(), 1, "{read:?}");
        assert!(!read.text.contains("never"), "{read:?}");
        assert_eq!(read.relative_to, None, "{read:?}");
    }

    #[test]
    fn the_folder_counts_where_a_path_is_relative_to_it() {
        for (line, relative) in [
            ("./package", true),
            ("../package[extra]", true),
            ("-e .", true),
            ("vendored/package", true),
            ("wheel-1.0-py3-none-any.whl", true),
            ("--find-links=wheels/", true),
            ("name @ file:./package", true),
            ("/srv/package[extra]", false),
            ("name @ file:///srv/package", false),
            ("name @ https://example.org/name-1.0.tar.gz", false),
            ("numpy>=1.26,<3; python_version >= '3.9' # for ./this", false),
            ("numpy==2.4.6 --hash=sha256:0123", false),
            ("# ./comment", false),
        ] {
            let (_folder, read) = read_with(&[("requirements.txt", line)]);
            assert_eq!(read.relative_to.is_some(), relative, "{line}");
        }
    }

    #[test]
    fn the_file_itself_must_be_there() {
        assert!(read(Path::new("/nowhere/requirements.txt")).is_err());
    }
}
