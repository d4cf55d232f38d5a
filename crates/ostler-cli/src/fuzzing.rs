//! What `fuzz/` and the replay of its corpus call: any bytes may come in, and nothing may panic.

use std::path::Path;

use crate::config;

/// A configuration file. One that is valid is printed by `ostler check`, and must read back as the
/// same.
///
/// # Panics
/// When it does not.
pub fn toml(bytes: &[u8]) {
    let base = Path::new("/srv");
    let Ok(config) = config::parse("ostler.toml", base, bytes) else {
        return;
    };
    let shown = config::show(&config);
    match config::parse("shown.toml", base, shown.as_bytes()) {
        Ok(again) => assert_eq!(again, config, "{shown}"),
        Err(mistakes) => {
            let mistakes: Vec<_> = mistakes.lines().collect();
            panic!("what `check` prints is invalid: {mistakes:#?}\n{shown}")
        }
    }
}
