//! What RocksDB's build needs of the machine: a C++ compiler, and libclang for the bindings, which
//! few machines have.
//!
//! Cargo rebuilds RocksDB when one of these variables changes, which takes minutes: both values are
//! always the same.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::steps::{Outcome, exists, output, programs};

/// The wheel of the libclang that bindgen loads.
const LIBCLANG: &str = "libclang==18.1.1";

/// The variables of a build with RocksDB, with their values. Fetches libclang on the first call.
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

/// Says what RocksDB's build costs, unless it is built.
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
    let hint = "or set LIBCLANG_PATH to a folder with libclang.so";
    python_package(LIBCLANG, "libclang", "clang/native", "libclang.so").map_err(|error| format!("{error}; {hint}"))
}

/// The folder `name` in the cache with a `part` of what pip installs for a requirement, filled on
/// the first call. It is complete when it has the file `proof`.
pub(crate) fn python_package(requirement: &str, name: &str, part: &str, proof: &str) -> Outcome<PathBuf> {
    let tools = cache()?.join("tools");
    let folder = tools.join(name);
    if folder.join(proof).exists() {
        return Ok(folder);
    }
    if !exists("python3") {
        return Err(
            "no python3 was found: it fetches what the build needs, and runs the tests' workers (Debian: apt-get install python3 python3-pip)"
                .to_owned(),
        );
    }
    println!("fetching {requirement} from PyPI into {}", folder.display());
    let unpacked = tools.join(format!("{name}.{}", std::process::id()));
    let outcome = install(requirement, &unpacked).and_then(|()| put(&unpacked.join(part), &folder, proof));
    // What is left of a failed attempt serves no purpose; a failure to remove it does no harm.
    std::fs::remove_dir_all(&unpacked).ok();
    outcome.map(|()| folder)
}

fn install(requirement: &str, into: &Path) -> Outcome {
    std::fs::create_dir_all(into).map_err(|error| format!("creating {}: {error}", into.display()))?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
        .args(["--only-binary=:all:", "--target"]);
    output(pip.arg(into).arg(requirement))
        .map(drop)
        .map_err(|error| format!("{error}\n{requirement} could not be fetched; install pip"))
}

/// Moves the folder to its place in one step, so that no other process sees half of it. Another
/// process may have been faster with the same.
fn put(from: &Path, to: &Path, proof: &str) -> Outcome {
    match std::fs::rename(from, to) {
        Ok(()) => Ok(()),
        Err(_) if to.join(proof).exists() => Ok(()),
        Err(error) => Err(format!("moving {} to {}: {error}", from.display(), to.display())),
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
