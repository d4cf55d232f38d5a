//! The directory of an app's runs.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use ostler_os::machine::trusted_variable;

/// The environment variables used for the choice, read by the caller.
#[derive(Debug, Clone, Default)]
pub struct DirEnv {
    /// `RUNTIME_DIRECTORY`, set by systemd for a unit with `RuntimeDirectory=`; colon-separated if
    /// there are several.
    pub runtime_directory: Option<OsString>,
    /// `XDG_RUNTIME_DIR`.
    pub xdg_runtime_dir: Option<OsString>,
    /// `XDG_STATE_HOME`.
    pub xdg_state_home: Option<OsString>,
    /// `HOME`.
    pub home: Option<OsString>,
}

impl DirEnv {
    /// Reads the variables of this process. A process in secure execution (set-uid, set-gid, file
    /// capabilities; AT_SECURE of getauxval(3)) has none: the user who runs it chose their values.
    pub fn from_process() -> Self {
        Self {
            runtime_directory: trusted_variable("RUNTIME_DIRECTORY"),
            xdg_runtime_dir: trusted_variable("XDG_RUNTIME_DIR"),
            xdg_state_home: trusted_variable("XDG_STATE_HOME"),
            home: trusted_variable("HOME"),
        }
    }
}

/// Why there is no directory for an app's runs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AppDirError {
    /// The app's name is not valid as the name of a directory.
    #[error("invalid app name {name:?}: it {wrong}")]
    InvalidAppName {
        /// The name.
        name: String,
        /// What is wrong with it.
        wrong: &'static str,
    },
    /// No state directory was given, and the environment names none.
    #[error(
        "no directory for the process table: no state directory was given, and none of RUNTIME_DIRECTORY, \
         XDG_RUNTIME_DIR, XDG_STATE_HOME and HOME is set to an absolute path (a program that is set-uid or has file \
         capabilities ignores them): set one of them, or `state_dir` (in the \
         file's [app], as --state-dir, or in the builder)"
    )]
    NoDirectory,
    /// The given state directory is not a path.
    #[error("invalid state directory {0:?}: expected a path that is not empty and has no NUL byte")]
    InvalidStateDir(PathBuf),
}

/// The maximum length of an app's name, in bytes.
const MAX_APP_NAME: usize = 64;

/// Returns the directory for the runs of all instances of an app, without creating it or checking
/// that it exists.
///
/// It is a directory with the app's name in the first of: the given state directory;
/// `$RUNTIME_DIRECTORY` (the first one, if there are several); `$XDG_RUNTIME_DIR/ostler`;
/// `$XDG_STATE_HOME/ostler`; `$HOME/.local/state/ostler`. Variables that are empty or not absolute
/// paths count as unset (XDG Base Directory Specification).
///
/// # Errors
///
/// [`AppDirError::InvalidAppName`] for a name that is empty, longer than 64 bytes, starts with a
/// dot, or contains anything except ASCII letters, digits, `.`, `_` and `-`;
/// [`AppDirError::NoDirectory`]; [`AppDirError::InvalidStateDir`].
pub fn app_dir(env: &DirEnv, app: &str, state_dir: Option<&Path>) -> Result<PathBuf, AppDirError> {
    check_app_name(app)?;
    if let Some(invalid) = state_dir.filter(|path| !is_path(path)) {
        return Err(AppDirError::InvalidStateDir(invalid.to_owned()));
    }
    let base = state_dir
        .map(Path::to_owned)
        .or_else(|| from_env(env))
        .ok_or(AppDirError::NoDirectory)?;
    Ok(base.join(app))
}

fn is_path(path: &Path) -> bool {
    let bytes = path.as_os_str().as_encoded_bytes();
    !bytes.is_empty() && !bytes.contains(&0)
}

fn from_env(env: &DirEnv) -> Option<PathBuf> {
    let runtime = env.runtime_directory.as_ref().and_then(first_of_list);
    runtime
        .or_else(|| absolute(env.xdg_runtime_dir.as_ref()).map(|dir| dir.join("ostler")))
        .or_else(|| absolute(env.xdg_state_home.as_ref()).map(|dir| dir.join("ostler")))
        .or_else(|| absolute(env.home.as_ref()).map(|dir| dir.join(".local/state/ostler")))
}

fn first_of_list(list: &OsString) -> Option<PathBuf> {
    std::env::split_paths(list).find(|path| path.is_absolute())
}

fn absolute(value: Option<&OsString>) -> Option<PathBuf> {
    value.map(PathBuf::from).filter(|path| path.is_absolute())
}

/// Checks the name of an app, which is also the name of a directory.
///
/// # Errors
///
/// [`AppDirError::InvalidAppName`], as in [`app_dir`].
pub fn check_app_name(app: &str) -> Result<(), AppDirError> {
    let wrong = if app.is_empty() {
        "is empty"
    } else if app.len() > MAX_APP_NAME {
        "is longer than 64 bytes"
    } else if app.starts_with('.') {
        "starts with a dot"
    } else if !app
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    {
        "may only contain ASCII letters, digits, '.', '_' and '-'"
    } else {
        return Ok(());
    };
    Err(AppDirError::InvalidAppName {
        name: app.to_owned(),
        wrong,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(runtime: &str, xdg_runtime: &str, state: &str, home: &str) -> DirEnv {
        let var = |value: &str| (value != "-").then(|| OsString::from(value));
        DirEnv {
            runtime_directory: var(runtime),
            xdg_runtime_dir: var(xdg_runtime),
            xdg_state_home: var(state),
            home: var(home),
        }
    }

    fn chosen(env: &DirEnv, state_dir: Option<&str>) -> String {
        app_dir(env, "demo", state_dir.map(Path::new))
            .expect("a directory")
            .display()
            .to_string()
    }

    #[test]
    fn first_variable_that_is_set_is_used() {
        assert_eq!(
            chosen(&env("/run/svc", "/run/user/1", "/s", "/h"), Some("/given")),
            "/given/demo"
        );
        assert_eq!(
            chosen(&env("/run/svc:/run/two", "/run/user/1", "/s", "/h"), None),
            "/run/svc/demo"
        );
        assert_eq!(
            chosen(&env("-", "/run/user/1", "/s", "/h"), None),
            "/run/user/1/ostler/demo"
        );
        assert_eq!(chosen(&env("-", "-", "/s", "/h"), None), "/s/ostler/demo");
        assert_eq!(chosen(&env("-", "-", "-", "/h"), None), "/h/.local/state/ostler/demo");
    }

    #[test]
    fn empty_and_relative_variables_count_as_unset() {
        assert_eq!(chosen(&env("", "run", "", "/h"), None), "/h/.local/state/ostler/demo");
        assert_eq!(
            app_dir(&env("", "run", "x", "-"), "demo", None),
            Err(AppDirError::NoDirectory)
        );
    }

    #[test]
    fn name_that_would_leave_the_directory_is_refused() {
        for name in ["", ".", "..", ".new-x", "a/b", "a b", "ä", &"x".repeat(65)] {
            let refused = app_dir(&env("/run/svc", "-", "-", "-"), name, None);
            assert!(matches!(refused, Err(AppDirError::InvalidAppName { .. })), "{name}");
        }
    }
}
