//! What RocksDB's build needs of the machine: a C++ compiler, and libclang for the bindings, which few machines have.
//!
//! Cargo rebuilds RocksDB when one of these variables changes, and that takes minutes: both values are always the same.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::steps::{Outcome, exists, output, programs};

/// The wheel of the libclang that bindgen loads.
const LIBCLANG: &str = "libclang==18.1.1";

/// The variables of a build with RocksDB, and what they are set to. Fetches libclang on the first call.
pub(crate) fn environment() -> Outcome<Vec<(&'static str, String)>> {
    if !exists("c++") {
        return Err("no c++ was found: RocksDB is C++; install a compiler (Debian: apt-get install g++)".to_owned());
    }
    let libclang = match std::env::var("LIBCLANG_PATH") {
        Ok(path) => path,
        Err(_) => libclang()?.display().to_string(),
    };
    let mut environment = vec![("LIBCLANG_PATH", libclang)];
    if std::env::var_os("BINDGEN_EXTRA_CLANG_ARGS").is_none() {
        // The wheel has no headers of its own: <stddef.h> is the compiler's.
        let include = output(Command::new("gcc").arg("-print-file-name=include"))?;
        environment.push(("BINDGEN_EXTRA_CLANG_ARGS", format!("-I{include}")));
    }
    Ok(environment)
}

/// Says what the first build costs, when it has not been paid yet.
pub(crate) fn announce_rocksdb() -> Outcome {
    let built = programs()?.join("build");
    let is_rocksdb = |entry: std::fs::DirEntry| {
        entry.file_name().to_string_lossy().starts_with("librocksdb-sys-")
            && entry.path().join("out/librocksdb.a").is_file()
    };
    if !std::fs::read_dir(&built).is_ok_and(|entries| entries.flatten().any(is_rocksdb)) {
        println!("RocksDB is compiled first, once a target folder: 343 C++ files, about 18 minutes on two cores.");
    }
    Ok(())
}

/// The folder with libclang.so, filled from PyPI when it is empty.
fn libclang() -> Outcome<PathBuf> {
    let tools = cache()?.join("tools");
    let folder = tools.join("libclang");
    if folder.join("libclang.so").is_file() {
        return Ok(folder);
    }
    if !exists("python3") {
        return Err("no python3 was found: it fetches libclang, and runs the tests' workers (Debian: apt-get install python3 python3-pip); or set LIBCLANG_PATH to a folder with libclang.so".to_owned());
    }
    println!(
        "libclang is fetched from PyPI ({LIBCLANG}, 24 MB) into {}.",
        folder.display()
    );
    let unpacked = tools.join(format!("libclang.{}", std::process::id()));
    let outcome = fetch(&unpacked).and_then(|()| put(&unpacked.join("clang/native"), &folder));
    // What is left of it is only in the way; a failure to remove it harms nobody.
    std::fs::remove_dir_all(&unpacked).ok();
    outcome.map(|()| folder)
}

fn fetch(into: &Path) -> Outcome {
    std::fs::create_dir_all(into).map_err(|error| format!("{} can't be made: {error}", into.display()))?;
    let hint = |error: String| {
        format!(
            "{error}\nlibclang could not be fetched; install pip, or set LIBCLANG_PATH to a folder with libclang.so"
        )
    };
    let mut pip = Command::new("python3");
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--only-binary=:all:",
        "--target",
    ]);
    output(pip.arg(into).arg(LIBCLANG)).map(drop).map_err(hint)
}

/// Puts the folder in its place at once, so that nobody sees half of it; whoever was faster has put the same there.
fn put(from: &Path, to: &Path) -> Outcome {
    match std::fs::rename(from, to) {
        Ok(()) => Ok(()),
        Err(_) if to.join("libclang.so").is_file() => Ok(()),
        Err(error) => Err(format!("libclang can't be put to {}: {error}", to.display())),
    }
}

/// The project's folder for what is fetched: `$XDG_CACHE_HOME/ostler` or `~/.cache/ostler`.
pub(crate) fn cache() -> Outcome<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(home)
        .map(|cache| cache.join("ostler"))
        .ok_or_else(|| "neither XDG_CACHE_HOME nor HOME is set: there is no cache folder".to_owned())
}
