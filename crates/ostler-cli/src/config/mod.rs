//! The TOML file, read so that all its mistakes are reported at once.
//!
//! `load` → `read_root` walks the parsed table with the place of every value at hand; [`show()`]
//! writes the resolved specification back, as a file that reads the same. The tables of pools are
//! read and written by [`ostler_core::config`], for this file and for apps' own configurations.

mod keys;
mod mistake;
mod python;
mod show;
mod telemetry;
mod text;
mod values;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ostler::otlp::Settings;
use ostler::{AUDIT_INTERVAL, Engine};
use ostler_core::config::values::{duration, path};
use ostler_core::config::{Section, Table, Walk, pool};
use ostler_core::spec::{PoolSpec, Stdin};
use ostler_python::Python;
use toml::de::DeTable;

pub(crate) use mistake::Mistakes;
pub(crate) use show::show;

/// Everything that a file says, with every default filled in.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Config {
    /// `[app]`.
    pub(crate) app: App,
    /// `[telemetry]`; `None`: it is not there.
    pub(crate) telemetry: Option<Settings>,
    /// `[pool.NAME]`, in the order of their names.
    pub(crate) pools: Vec<PoolSpec>,
    /// The pools with `python`, by name: their interpreter is not known yet.
    pub(crate) python: BTreeMap<String, Python>,
}

impl Config {
    /// What is allowed in its pools, but is probably a mistake.
    pub(crate) fn warnings(&self) -> impl Iterator<Item = String> {
        let of_pool = |pool: &PoolSpec| {
            let name = pool.name.clone();
            let warnings = pool.warnings().into_iter().map(|warning| warning.to_string());
            warnings
                .chain(unread(pool))
                .map(move |warning| format!("pool.{name}.{warning}"))
        };
        self.pools.iter().flat_map(of_pool)
    }
}

/// A pool whose workers are called by their stdin, which this program does not do.
fn unread(pool: &PoolSpec) -> Option<String> {
    (pool.worker.stdin == Stdin::Pipe).then(|| {
        "stdin: \"pipe\" is for a program that calls the workers (ostler-serve); `ostler up` writes nothing to \
         their stdin and leaves their stdout unread"
            .to_owned()
    })
}

/// The app that the pools belong to, and where its runs are recorded.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct App {
    /// The app's identity, by which sweeps find its dead runs.
    pub(crate) name: String,
    /// Where the process table is kept; `None`: the runtime directory of the machine.
    pub(crate) state_dir: Option<PathBuf>,
    /// The engine of the process table.
    pub(crate) store: Engine,
    /// How often the instance is audited; zero: never.
    pub(crate) audit: Duration,
}

/// A specification is a page or two: a larger file is another one (`/dev/zero`, a database).
const MAX_FILE: u64 = 16 << 20;

/// Reads the file at `path`. Relative paths in it are relative to its own directory.
pub(crate) fn load(path: &Path) -> Result<Config, Mistakes> {
    let name = path.display().to_string();
    let bytes = read_file(path).map_err(|message| Mistakes::of_file(&name, message))?;
    parse(&name, &directory_of(path), &bytes)
}

/// The directory of the file at `path`. The parent of a bare file name is the empty path, which has
/// no absolute form: the file is in the current directory then.
fn directory_of(path: &Path) -> PathBuf {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = parent.unwrap_or(Path::new("."));
    std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned())
}

fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    let said = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => "no such file".to_owned(),
        std::io::ErrorKind::IsADirectory => "a directory; expected a TOML file".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => format!("can't be read: {error}"),
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(said)?;
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(said)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(format!(
            "larger than {} MiB; expected a TOML file of pools",
            MAX_FILE >> 20
        ));
    }
    Ok(bytes)
}

/// Reads the bytes of a file called `name`, whose relative paths are relative to `base`.
pub(crate) fn parse(name: &str, base: &Path, bytes: &[u8]) -> Result<Config, Mistakes> {
    let text = std::str::from_utf8(bytes).map_err(|error| Mistakes::of_encoding(name, bytes, error.valid_up_to()))?;
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut mistakes = Mistakes::new(name);
    for error in &errors {
        mistakes.syntax(text, error.span().map_or(0, |span| span.start), error.message());
    }
    let mut walk = if errors.is_empty() {
        Walk::new()
    } else {
        Walk::partial()
    };
    let config = read_root(&mut walk, &text::table(table.get_ref()), base);
    mistakes.values(text, walk.mistakes());
    if mistakes.is_empty() {
        Ok(config)
    } else {
        Err(mistakes.sorted())
    }
}

fn read_root(walk: &mut Walk, table: &Table, base: &Path) -> Config {
    let root = Section::root(walk, table, keys::ROOT);
    let app = match root.table(walk, "app", keys::APP).ok() {
        Some(section) => read_app(walk, &section, base),
        None => {
            if !root.has("app") {
                walk.missing(
                    0,
                    "app",
                    "missing; add a table [app] with a name for this app, for example name = \"demo\"",
                );
            }
            App {
                name: String::new(),
                state_dir: None,
                store: Engine::DEFAULT,
                audit: AUDIT_INTERVAL,
            }
        }
    };
    let telemetry = telemetry::read(walk, &root);
    let (pools, python) = read_pools(walk, &root, base);
    Config {
        app,
        telemetry,
        pools,
        python,
    }
}

fn read_app(walk: &mut Walk, section: &Section<'_>, base: &Path) -> App {
    if !section.has("name") {
        walk.missing(
            section.at,
            "app.name",
            "missing; set it to a name for this app, for example \"demo\"",
        );
    }
    App {
        name: section.read(walk, "name", values::name).or(String::new()),
        state_dir: section.read(walk, "state_dir", path).ok().map(|dir| base.join(dir)),
        store: section.read(walk, "store", values::store).or(Engine::DEFAULT),
        audit: section.read(walk, "audit", duration).or(AUDIT_INTERVAL),
    }
}

fn read_pools(walk: &mut Walk, root: &Section<'_>, base: &Path) -> (Vec<PoolSpec>, BTreeMap<String, Python>) {
    let Some(pools) = root.any_table(walk, "pool").ok() else {
        if !root.has("pool") {
            walk.missing(0, "pool", "no pool; add a table such as [pool.web] with a command");
        }
        return (Vec::new(), BTreeMap::new());
    };
    if pools.names().next().is_none() {
        walk.missing(
            pools.at,
            "pool",
            "no pool; add a table such as [pool.web] with a command",
        );
    }
    let (mut specs, mut with_python) = (Vec::new(), BTreeMap::new());
    for name in pools.names() {
        if let Some(section) = pools.table(walk, name, keys::POOL).ok() {
            let python = python::read(walk, &section, base);
            let mut spec = PoolSpec::new(name, Vec::<String>::new());
            if let Some(python) = &python {
                // Until the interpreter is found, or its virtual environment made.
                spec.worker = python.worker(Path::new("python3"));
            }
            let mut spec = pool::read(walk, &section, spec).relative_to(base);
            if let Some(python) = &python {
                python.inform(&mut spec);
            }
            pool::check(walk, &section, &spec, &specs);
            with_python.extend(python.map(|python| (name.to_owned(), python)));
            specs.push(spec);
        }
    }
    (specs, with_python)
}
