//! A way in for each directory of sources: `lib.rs`, `main.rs` or `mod.rs` in it, `DIR.rs` beside
//! it, or a README.md.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The directories with two Rust files or more that have no map. `exists` answers for a path.
pub(super) fn missing(files: &[String], exists: impl Fn(&Path) -> bool) -> Vec<String> {
    let mut directories: BTreeMap<PathBuf, usize> = BTreeMap::new();
    for file in files.iter().filter(|file| file.ends_with(".rs")) {
        let directory = Path::new(file).parent().unwrap_or(Path::new(""));
        *directories.entry(directory.to_owned()).or_default() += 1;
    }
    let is_lost = |directory: &Path| {
        let inside = ["lib.rs", "main.rs", "mod.rs", "README.md"].map(|name| directory.join(name));
        !inside.iter().any(|path| exists(path)) && !exists(&directory.with_extension("rs"))
    };
    directories
        .into_iter()
        .filter(|(directory, files)| *files > 1 && is_lost(directory))
        .map(|(directory, _)| format!("{}: no map; add a README.md", directory.display()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_several_files_needs_a_map() {
        let files = [
            "a/lib.rs", "a/b.rs", "a/b/c.rs", "a/b/d.rs", "t/one.rs", "u/one.rs", "u/two.rs",
        ];
        let files: Vec<String> = files.map(str::to_owned).to_vec();
        let exists = |path: &Path| files.iter().any(|file| Path::new(file) == path);
        assert_eq!(missing(&files, exists), ["u: no map; add a README.md"]);
    }
}
