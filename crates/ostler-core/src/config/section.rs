//! A table with its name and place, and the walk that collects the mistakes.

use std::collections::BTreeMap;
use std::fmt;

use super::keys::Keys;
use super::value::{Item, Table, Value};
use super::values;

/// Something that is wrong in a table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Mistake {
    /// The byte of the text where it is; 0 without a text.
    pub at: usize,
    /// The key in full, such as `pool.embed.health.every`.
    pub key: String,
    /// What was found, and what is expected.
    pub message: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.message)
    }
}

/// One reading, with the mistakes found so far.
#[derive(Debug, Default)]
pub struct Walk {
    mistakes: Vec<Mistake>,
    partial: bool,
}

impl Walk {
    /// Nothing is read yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// For a text of which only a part could be parsed: what is there is checked, but nothing is
    /// reported as missing.
    pub fn partial() -> Self {
        Self {
            partial: true,
            ..Self::default()
        }
    }

    /// The value at this byte is invalid.
    pub fn wrong(&mut self, at: usize, key: &str, message: impl Into<String>) {
        self.mistakes.push(Mistake {
            at,
            key: key.to_owned(),
            message: message.into(),
        });
    }

    /// Something required is not there.
    pub fn missing(&mut self, at: usize, key: &str, message: &str) {
        if !self.partial {
            self.wrong(at, key, message);
        }
    }

    /// Whether this key has a mistake already.
    pub(super) fn has_mistake(&self, key: &str) -> bool {
        self.mistakes.iter().any(|mistake| mistake.key == key)
    }

    /// Whether only a part of the text could be parsed.
    pub(super) fn is_partial(&self) -> bool {
        self.partial
    }

    /// Every mistake, in the order of their places, then of their keys.
    pub fn mistakes(mut self) -> Vec<Mistake> {
        self.mistakes.sort();
        self.mistakes.dedup();
        self.mistakes
    }
}

/// What came of reading a key.
#[derive(Debug)]
pub enum Field<T> {
    /// It is not there.
    Absent,
    /// It is there and wrong; that has been reported.
    Wrong,
    /// Its value.
    Is(T),
}

impl<T> Field<T> {
    /// The value, if it is there and right.
    pub fn ok(self) -> Option<T> {
        match self {
            Self::Is(value) => Some(value),
            Self::Absent | Self::Wrong => None,
        }
    }

    /// The same with another value.
    pub(super) fn map<U>(self, change: impl FnOnce(T) -> U) -> Field<U> {
        match self {
            Self::Absent => Field::Absent,
            Self::Wrong => Field::Wrong,
            Self::Is(value) => Field::Is(change(value)),
        }
    }

    /// The value, or the default.
    pub fn or(self, default: T) -> T {
        self.ok().unwrap_or(default)
    }

    /// The value, or the default. For a wrong one a value that no other rule objects to, so that
    /// one mistake is reported once.
    pub(super) fn or_harmless(self, default: T, harmless: T) -> T {
        match self {
            Self::Is(value) => value,
            Self::Absent => default,
            Self::Wrong => harmless,
        }
    }
}

/// A table with its name.
#[derive(Debug, Clone)]
pub struct Section<'t> {
    /// Its key in full, such as `pool.embed`; empty for the top.
    pub path: String,
    /// The byte where it begins.
    pub at: usize,
    table: &'t Table,
}

impl<'t> Section<'t> {
    /// The top of a configuration, whose keys have to be among `known`.
    pub fn root(walk: &mut Walk, table: &'t Table, known: Keys) -> Self {
        let section = Self::named("", table);
        section.refuse_unknown(walk, known);
        section
    }

    /// A table that was found under this key.
    pub(super) fn named(path: &str, table: &'t Table) -> Self {
        Self {
            path: path.to_owned(),
            at: 0,
            table,
        }
    }

    /// The names of what it holds.
    pub fn names(&self) -> impl Iterator<Item = &'t str> + use<'t> {
        self.table.names()
    }

    /// Whether it holds `key`.
    pub fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    fn get(&self, key: &str) -> Option<&'t Item> {
        self.table.get(key)
    }

    /// `key` in full.
    pub fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// Reads `key` with `read`, whose error says what was found and what is expected.
    pub fn read<T>(&self, walk: &mut Walk, key: &str, read: impl FnOnce(&Value) -> Result<T, String>) -> Field<T> {
        let Some(item) = self.get(key) else {
            return Field::Absent;
        };
        match read(&item.value) {
            Ok(read) => Field::Is(read),
            Err(message) => {
                walk.wrong(item.at, &self.path_of(key), message);
                Field::Wrong
            }
        }
    }

    /// The table `key`, whose keys have to be among `known`.
    pub fn table(&self, walk: &mut Walk, key: &str, known: Keys) -> Field<Section<'t>> {
        let table = self.any_table(walk, key);
        if let Field::Is(section) = &table {
            section.refuse_unknown(walk, known);
        }
        table
    }

    /// The table `key`, whose keys are names that people choose.
    pub fn any_table(&self, walk: &mut Walk, key: &str) -> Field<Section<'t>> {
        let Some(item) = self.get(key) else {
            return Field::Absent;
        };
        let path = self.path_of(key);
        match &item.value {
            Value::Table(table) => Field::Is(Section {
                path,
                at: item.key_at,
                table,
            }),
            other => {
                walk.wrong(item.at, &path, format!("expected a table, found {}", other.found()));
                Field::Wrong
            }
        }
    }

    /// The strings of the table `key`, under names that people choose; empty when it is not there.
    pub fn strings(&self, walk: &mut Walk, key: &str) -> BTreeMap<String, String> {
        let Some(section) = self.any_table(walk, key).ok() else {
            return BTreeMap::new();
        };
        section
            .names()
            .filter_map(|name| Some((name.to_owned(), section.read(walk, name, values::string).ok()?)))
            .collect()
    }

    /// The byte where the value of a dotted key begins, or of its longest part that exists.
    pub fn locate(&self, dotted: &str) -> usize {
        let mut at = self.at;
        let mut table = self.table;
        for key in dotted.split('.') {
            let Some(item) = table.get(key) else { break };
            at = item.at;
            let Value::Table(inner) = &item.value else { break };
            table = inner;
        }
        at
    }

    fn refuse_unknown(&self, walk: &mut Walk, known: Keys) {
        for name in self.names().filter(|name| !known.contains(name)) {
            let at = self.get(name).map_or(self.at, |item| item.key_at);
            walk.wrong(at, &self.path_of(name), unknown_key(name, known));
        }
    }
}

fn unknown_key(name: &str, known: Keys) -> String {
    match nearest(name, known.iter().copied()) {
        Some(near) => format!("unknown key; did you mean {near:?}?"),
        None => format!("unknown key; expected one of {}", known.join(", ")),
    }
}

/// The one of `known` that `word` probably stands for.
pub(super) fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance * 2 <= candidate.chars().count().max(2))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}
