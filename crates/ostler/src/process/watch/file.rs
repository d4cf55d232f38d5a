//! The ready file: the worker is ready when it exists and is not empty. It may contain the ports
//! that the worker chose.

use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use super::super::incarnation::port_variable;
use super::Answer;
use crate::status::PortMap;

/// At most this much of a ready file is read.
const LONGEST: u64 = 4096;

/// `OSTLER_READY_FILE`, polled.
pub(super) struct ReadyFile {
    path: PathBuf,
    reported: Vec<String>,
    /// The content at the last poll. A text without a line end may be incomplete, and counts only
    /// if it is unchanged.
    before: Option<String>,
}

impl ReadyFile {
    pub(super) fn new(path: PathBuf, reported: Vec<String>) -> Self {
        Self {
            path,
            reported,
            before: None,
        }
    }

    pub(super) async fn look(&mut self) -> Answer {
        let path = self.path.clone();
        let read = tokio::task::spawn_blocking(move || read(&path)).await;
        let shown = self.path.display();
        match read.unwrap_or_else(|lost| Err(io::Error::other(lost))) {
            Ok(None) => Answer::NotYet(format!("{shown} is not there or empty")),
            Ok(Some(text)) => self.judge(text),
            Err(error) => Answer::NotYet(format!("{shown} can't be read: {error}")),
        }
    }

    fn judge(&mut self, text: String) -> Answer {
        if self.reported.is_empty() {
            return Answer::Yes(PortMap::new());
        }
        let whole = text.ends_with('\n') || self.before.as_deref() == Some(&text);
        let answer = match ports(&text, &self.reported) {
            Ok(ports) if whole => Answer::Yes(ports),
            Ok(_) => Answer::NotYet("the ready file may be half written".to_owned()),
            Err(why) => Answer::NotYet(format!("{} {why}", self.path.display())),
        };
        self.before = Some(text);
        answer
    }
}

/// The text of the file; `None` if there is none yet. Only regular files are read, because others
/// could block.
fn read(path: &Path) -> io::Result<Option<String>> {
    let file = match OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(path)
    {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(LONGEST).read_to_end(&mut bytes)?;
    Ok((!bytes.is_empty()).then(|| String::from_utf8_lossy(&bytes).into_owned()))
}

/// The reported ports in `text`: the number alone for a single one, or lines `PORT=n` and
/// `PORT_NAME=n`.
fn ports(text: &str, reported: &[String]) -> Result<PortMap, String> {
    if let ([only], Some(number)) = (reported, port_number(text)) {
        return Ok(PortMap::from([(only.clone(), number)]));
    }
    let line = |name: &String| {
        let key = port_variable(name);
        let line = text
            .lines()
            .filter_map(|line| line.split_once('='))
            .find(|(of, _)| of.trim() == key);
        let number = line.and_then(|(_, number)| port_number(number));
        number
            .map(|number| (name.clone(), number))
            .ok_or_else(|| match reported {
                [_] => format!("has no port: expected a number from 1 to 65535, or {key}=n"),
                _ => format!("has no line {key}=n with a number from 1 to 65535"),
            })
    };
    reported.iter().map(line).collect()
}

/// A ready file with these bytes, of a worker that reports one port, and of one that reports two.
/// For `fuzz/`.
///
/// # Panics
/// When a port is missing from the answer, or is 0.
#[cfg(feature = "fuzzing")]
pub fn ready_file(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for reported in [vec![String::new()], vec!["http".to_owned(), "metrics".to_owned()]] {
        if let Ok(ports) = ports(&text, &reported) {
            assert!(reported.iter().all(|name| ports.contains_key(name)), "{ports:?}");
            assert!(ports.values().all(|port| *port != 0), "{ports:?}");
        }
    }
}

fn port_number(text: &str) -> Option<u16> {
    text.trim().parse().ok().filter(|number| *number != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn parsed(text: &str, reported: &[&str]) -> Option<Vec<u16>> {
        ports(text, &names(reported))
            .ok()
            .map(|ports| ports.into_values().collect())
    }

    #[test]
    fn a_single_reported_port_is_the_number_alone_or_a_line() {
        assert_eq!(parsed("8080\n", &[""]), Some(vec![8080]));
        assert_eq!(parsed("8080", &["http"]), Some(vec![8080]));
        assert_eq!(parsed("PORT_HTTP=8080\n", &["http"]), Some(vec![8080]));
        assert_eq!(parsed("PORT=8080\n", &[""]), Some(vec![8080]));
        assert_eq!(parsed("0\n", &[""]), None);
        assert_eq!(parsed("70000\n", &[""]), None);
        assert_eq!(parsed("ready\n", &[""]), None);
    }

    #[test]
    fn several_reported_ports_need_a_line_each() {
        assert_eq!(parsed("PORT_A=1\nPORT_B = 2\n", &["a", "b"]), Some(vec![1, 2]));
        assert_eq!(parsed("PORT_A=1\n", &["a", "b"]), None);
    }

    #[tokio::test]
    async fn empty_is_not_ready_and_half_a_number_is_no_port() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ready");
        let mut file = ReadyFile::new(path.clone(), names(&[""]));
        let mut without_port = ReadyFile::new(path.clone(), Vec::new());
        assert!(matches!(file.look().await, Answer::NotYet(_)), "missing");
        std::fs::write(&path, "").unwrap();
        assert!(matches!(file.look().await, Answer::NotYet(_)), "empty");
        assert!(matches!(without_port.look().await, Answer::NotYet(_)), "empty");
        std::fs::write(&path, "80").unwrap();
        assert!(matches!(file.look().await, Answer::NotYet(_)), "half");
        assert!(matches!(without_port.look().await, Answer::Yes(_)), "whatever is in it");
        std::fs::write(&path, "8080").unwrap();
        assert!(matches!(file.look().await, Answer::NotYet(_)), "it changed");
        let Answer::Yes(ports) = file.look().await else {
            panic!("it stayed the same")
        };
        assert_eq!(ports, PortMap::from([(String::new(), 8080)]));
    }

    #[tokio::test]
    async fn a_pipe_in_its_place_does_not_hang_the_reader() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ready");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut file = ReadyFile::new(path, Vec::new());
        let Answer::NotYet(why) = file.look().await else {
            panic!("a pipe is not ready")
        };
        assert!(why.contains("not a regular file"), "{why}");
    }
}
