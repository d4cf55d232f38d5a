//! Which directory an app's runs are in.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The variables that the choice goes by, read by the caller.
#[derive(Debug, Clone, Default)]
pub struct DirEnv {
    /// `RUNTIME_DIRECTORY`, set by systemd for a unit with `RuntimeDirectory=`; several are separated by colons.
    pub runtime_directory: Option<OsString>,
    /// `XDG_RUNTIME_DIR`.
    pub xdg_runtime_dir: Option<OsString>,
    /// `XDG_STATE_HOME`.
    pub xdg_state_home: Option<OsString>,
    /// `HOME`.
    pub home: Option<OsString>,
}

impl DirEnv {
    /// The variables of this process.
    pub fn from_process() -> Self {
        Self {
            runtime_directory: std::env::var_os("RUNTIME_DIRECTORY"),
            xdg_runtime_dir: std::env::var_os("XDG_RUNTIME_DIR"),
            xdg_state_home: std::env::var_os("XDG_STATE_HOME"),
            home: std::env::var_os("HOME"),
        }
    }
}

/// Why there is no directory for an app's runs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppDirError {
    /// The app's name is not fit for the name of a directory.
    #[error("the app's name {name:?} {wrong}")]
    BadAppName {
        /// The name.
        name: String,
        /// What is wrong with it.
        wrong: &'static str,
    },
    /// No state directory was given, and the environment names none.
    #[error(
        "there is no directory for the process table: no state directory is given, and none of RUNTIME_DIRECTORY, \
         XDG_RUNTIME_DIR, XDG_STATE_HOME and HOME is an absolute path"
    )]
    NoDirectory,
}

/// The longest name of an app, in bytes.
const MAX_APP_NAME: usize = 64;

/// The directory that holds the runs of an app, all its instances'. Nothing is made, nothing is looked at.
///
/// The first of: the state directory that was given; `$RUNTIME_DIRECTORY` (its first, of several);
/// `$XDG_RUNTIME_DIR/ostler`; `$XDG_STATE_HOME/ostler`; `$HOME/.local/state/ostler`; and in it a directory of the
/// app's name. Variables that are empty or no absolute path count as not set (XDG Base Directory Specification).
///
/// # Errors
/// [`AppDirError::BadAppName`] for a name that is empty, longer than 64 bytes, begins with a dot, or has anything but
/// ASCII letters, digits, `.`, `_` and `-`; [`AppDirError::NoDirectory`].
pub fn app_dir(env: &DirEnv, app: &str, state_dir: Option<&Path>) -> Result<PathBuf, AppDirError> {
    check_app_name(app)?;
    let base = state_dir
        .map(Path::to_owned)
        .or_else(|| from_env(env))
        .ok_or(AppDirError::NoDirectory)?;
    Ok(base.join(app))
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

/// Whether an app may have this name: it is a directory's, too.
///
/// # Errors
/// [`AppDirError::BadAppName`], as [`app_dir`] has it.
pub fn check_app_name(app: &str) -> Result<(), AppDirError> {
    let wrong = if app.is_empty() {
        "is empty"
    } else if app.len() > MAX_APP_NAME {
        "is longer than 64 bytes"
    } else if app.starts_with('.') {
        "begins with a dot"
    } else if !app
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    {
        "has something else than ASCII letters, digits, '.', '_' and '-'"
    } else {
        return Ok(());
    };
    Err(AppDirError::BadAppName {
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
    fn the_first_that_is_set_is_chosen() {
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
    fn what_is_empty_or_relative_is_not_set() {
        assert_eq!(chosen(&env("", "run", "", "/h"), None), "/h/.local/state/ostler/demo");
        assert_eq!(
            app_dir(&env("", "run", "x", "-"), "demo", None),
            Err(AppDirError::NoDirectory)
        );
    }

    #[test]
    fn a_name_that_would_leave_the_directory_is_refused() {
        for name in ["", ".", "..", ".new-x", "a/b", "a b", "ä", &"x".repeat(65)] {
            let refused = app_dir(&env("/run/svc", "-", "-", "-"), name, None);
            assert!(matches!(refused, Err(AppDirError::BadAppName { .. })), "{name}");
        }
    }
}
