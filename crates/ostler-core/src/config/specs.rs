//! Pools in an app's own configuration, by serde.

use std::collections::{BTreeMap, btree_map};
use std::path::Path;

use serde::de::{self, Deserialize, Deserializer};
use serde::ser::{Error as _, Serialize, Serializer};

use super::section::{Mistake, Section, Walk};
use super::value::Table;
use super::{entries, keys, pool};
use crate::spec::PoolSpec;

/// Pools by name, in an app's own configuration as in the file of `ostler up`.
///
/// Keys, units, defaults and error messages are those of `[pool.NAME]` in
/// [docs/configuration.md]. All mistakes come in one error, a line for each. What is read is valid:
/// [`PoolSpec::problems`] has nothing to say, and no two pools use the same fixed port. An empty
/// map is allowed. Any self-describing format will do: TOML, JSON, YAML and so on.
///
/// A relative path is relative to the app's current directory until
/// [`relative_to`](Self::relative_to) says what else.
///
/// The keys for Python workers (`python`, `interpreter`, `venv`, `requirements`, `devices`, `cpus`)
/// need the crate `ostler-python`, whose `Python` makes a [`PoolSpec`]; here they are an error that
/// says so.
///
/// ```
/// use ostler_core::config::PoolSpecs;
/// use serde::Deserialize;
///
/// #[derive(Deserialize)]
/// struct Settings {
///     listen: String,
///     #[serde(default, rename = "pool")]
///     pools: PoolSpecs,
/// }
///
/// let settings: Settings = toml::from_str(
///     r#"
///     listen = "0.0.0.0:80"
///     [pool.web]
///     command = ["./server", "{port}"]
///     workers = 4
///     port = "any"
///     ready = { http = "/healthz" }
///     "#,
/// )?;
/// let pools = settings.pools.relative_to("/srv/app");
/// assert_eq!(pools.get("web").unwrap().worker.command, ["/srv/app/server", "{port}"]);
/// # Ok::<(), toml::de::Error>(())
/// ```
///
/// [docs/configuration.md]: https://github.com/ostler-rs/ostler/blob/main/docs/configuration.md#poolname
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PoolSpecs(BTreeMap<String, PoolSpec>);

impl PoolSpecs {
    /// The pools in the order of their names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &PoolSpec> {
        self.0.values()
    }

    /// The pool with this name.
    pub fn get(&self, name: &str) -> Option<&PoolSpec> {
        self.0.get(name)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The same with all relative paths relative to `base`, an absolute directory:
    /// [`PoolSpec::relative_to`] of each. The directory of the app's configuration file is what
    /// people expect.
    #[must_use]
    pub fn relative_to(self, base: impl AsRef<Path>) -> Self {
        let base = base.as_ref();
        self.into_iter().map(|pool| pool.relative_to(base)).collect()
    }
}

impl FromIterator<PoolSpec> for PoolSpecs {
    /// Of two pools with the same name the last one stays.
    fn from_iter<I: IntoIterator<Item = PoolSpec>>(pools: I) -> Self {
        Self(pools.into_iter().map(|pool| (pool.name.clone(), pool)).collect())
    }
}

impl IntoIterator for PoolSpecs {
    type Item = PoolSpec;
    type IntoIter = btree_map::IntoValues<String, PoolSpec>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_values()
    }
}

impl<'p> IntoIterator for &'p PoolSpecs {
    type Item = &'p PoolSpec;
    type IntoIter = btree_map::Values<'p, String, PoolSpec>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.values()
    }
}

impl<'de> Deserialize<'de> for PoolSpecs {
    /// Reads a map of pools by name; the error has every mistake in it, a line for each.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let table = Table::deserialize(deserializer)?;
        let mut walk = Walk::new();
        let section = Section::named("pool", &table);
        let mut pools = Vec::new();
        for name in section.names() {
            if let Some(section) = section.table(&mut walk, name, keys::POOL).ok() {
                let pool = read(&mut walk, &section, name, &pools);
                pools.push(pool);
            }
        }
        finish(walk, pools.into_iter().collect())
    }
}

impl Serialize for PoolSpecs {
    /// Writes a map of pools by name, each as [`PoolSpec`] does.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter())
    }
}

impl<'de> Deserialize<'de> for PoolSpec {
    /// Reads one pool, in the form of [`PoolSpecs`]. Its name is not part of it: set it with
    /// [`PoolSpec::name()`] before the pool is started.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let table = Table::deserialize(deserializer)?;
        let mut walk = Walk::new();
        let section = Section::root(&mut walk, &table, keys::POOL);
        let pool = read(&mut walk, &section, "", &[]);
        finish(walk, pool)
    }
}

impl Serialize for PoolSpec {
    /// Writes every setting but the name, in the form that is read: the defaults, too, and paths as
    /// they are.
    ///
    /// # Errors
    /// The form has no key for `worker.devices` and `backoff.reset`, which code alone sets, and no
    /// form for a `cwd` that is not UTF-8.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Some(why) = unwritable(self) {
            return Err(S::Error::custom(format_args!("pool.{}.{why}", self.name)));
        }
        let set = entries(self).into_iter().filter_map(|(key, value)| Some((key, value?)));
        serializer.collect_map(set)
    }
}

fn read(walk: &mut Walk, section: &Section<'_>, name: &str, before: &[PoolSpec]) -> PoolSpec {
    for key in keys::PYTHON.iter().filter(|key| section.has(key)) {
        let message = "is for Python workers, which this configuration does not have; set command, or add the pool in \
                       code with `ostler_python::Python::new(\"worker.py\")`";
        walk.wrong(section.at, &section.path_of(key), message);
    }
    let spec = pool::read(walk, section, PoolSpec::new(name, Vec::<String>::new()));
    pool::check(walk, section, &spec, before);
    spec
}

/// `value`, if nothing is wrong.
fn finish<T, E: de::Error>(walk: Walk, value: T) -> Result<T, E> {
    let mistakes = walk.mistakes();
    if mistakes.is_empty() {
        return Ok(value);
    }
    let lines: Vec<String> = mistakes.iter().map(Mistake::to_string).collect();
    Err(E::custom(lines.join("\n")))
}

fn unwritable(pool: &PoolSpec) -> Option<&'static str> {
    let worker = &pool.worker;
    if !worker.devices.is_empty() {
        return Some("devices: can't be written; only code sets it for a pool with a command");
    }
    if pool.backoff.as_ref().is_some_and(|backoff| backoff.reset.is_some()) {
        return Some("backoff.reset: can't be written; only code sets it");
    }
    let text = worker.cwd.as_ref().is_none_or(|cwd| cwd.to_str().is_some());
    (!text).then_some("cwd: can't be written; it is not UTF-8")
}
