//! A table of the file with its place, and the walk that collects the mistakes.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::Keys;
use super::mistake::{Mistakes, nearest, place_of};

/// One reading of a file: its text, and the mistakes found so far.
pub(super) struct Walk<'t> {
    text: &'t str,
    mistakes: Mistakes,
    /// The file is not valid TOML: what could be read is checked, but nothing is reported as
    /// missing.
    partial: bool,
}

impl<'t> Walk<'t> {
    pub(super) fn new(file: &str, text: &'t str) -> Self {
        Self {
            text,
            mistakes: Mistakes::new(file),
            partial: false,
        }
    }

    /// The text is not valid TOML at this byte.
    pub(super) fn syntax(&mut self, at: usize, message: &str) {
        self.partial = true;
        self.mistakes.push(place_of(self.text, at), "", one_line(message));
    }

    /// The value at this byte is invalid. One mistake is enough for a line that is not valid TOML.
    pub(super) fn wrong(&mut self, at: usize, key: &str, message: impl Into<String>) {
        let place = place_of(self.text, at);
        if !(self.partial && self.mistakes.has_line(place.0)) {
            self.mistakes.push(place, key, message);
        }
    }

    /// Something required is not there.
    pub(super) fn missing(&mut self, at: usize, key: &str, message: &str) {
        if !self.partial {
            self.wrong(at, key, message);
        }
    }

    /// Whether this key has a mistake already.
    pub(super) fn has_mistake(&self, key: &str) -> bool {
        self.mistakes.has_key(key)
    }

    /// Whether only a part of the file could be read.
    pub(super) fn is_partial(&self) -> bool {
        self.partial
    }

    /// `value`, if nothing is wrong.
    pub(super) fn finish<T>(self, value: T) -> Result<T, Mistakes> {
        if self.mistakes.is_empty() {
            Ok(value)
        } else {
            Err(self.mistakes.sorted())
        }
    }
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What came of reading a key.
pub(super) enum Field<T> {
    /// It is not there.
    Absent,
    /// It is there and wrong; that has been reported.
    Wrong,
    /// Its value.
    Is(T),
}

impl<T> Field<T> {
    /// The value, if it is there and right.
    pub(super) fn ok(self) -> Option<T> {
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
    pub(super) fn or(self, default: T) -> T {
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

/// A table of the file.
pub(super) struct Section<'t> {
    /// Its key in full, such as `pool.embed`; empty for the file itself.
    pub(super) path: String,
    /// The byte where it begins.
    pub(super) at: usize,
    table: &'t DeTable<'t>,
}

impl<'t> Section<'t> {
    /// The file's top, whose keys have to be among `known`.
    pub(super) fn root(walk: &mut Walk<'_>, table: &'t DeTable<'t>, known: Keys) -> Self {
        let section = Self {
            path: String::new(),
            at: 0,
            table,
        };
        section.refuse_unknown(walk, known);
        section
    }

    /// The names of what it holds.
    pub(super) fn names(&self) -> impl Iterator<Item = &'t str> + use<'t> {
        self.table.keys().map(|key| &**key.get_ref())
    }

    /// The value of `key`.
    pub(super) fn get(&self, key: &str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.table.get(key)
    }

    /// `key` in full.
    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// Reads `key` with `read`, whose error says what was found and what is expected.
    pub(super) fn read<T>(
        &self,
        walk: &mut Walk<'_>,
        key: &str,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, String>,
    ) -> Field<T> {
        let Some(value) = self.get(key) else {
            return Field::Absent;
        };
        match read(value.get_ref()) {
            Ok(read) => Field::Is(read),
            Err(message) => {
                walk.wrong(value.span().start, &self.path_of(key), message);
                Field::Wrong
            }
        }
    }

    /// The table `key`, whose keys have to be among `known`.
    pub(super) fn table(&self, walk: &mut Walk<'_>, key: &str, known: Keys) -> Field<Section<'t>> {
        let table = self.any_table(walk, key);
        if let Field::Is(section) = &table {
            section.refuse_unknown(walk, known);
        }
        table
    }

    /// The table `key`, whose keys are names that people choose.
    pub(super) fn any_table(&self, walk: &mut Walk<'_>, key: &str) -> Field<Section<'t>> {
        let Some(value) = self.get(key) else {
            return Field::Absent;
        };
        let path = self.path_of(key);
        match value.get_ref() {
            DeValue::Table(table) => Field::Is(Section {
                path,
                at: self.key_at(key).unwrap_or(value.span().start),
                table,
            }),
            other => {
                let found = super::values::found(other);
                walk.wrong(value.span().start, &path, format!("expected a table, found {found}"));
                Field::Wrong
            }
        }
    }

    /// The byte where the value of a dotted key begins, or of its longest part that exists.
    pub(super) fn locate(&self, dotted: &str) -> usize {
        let mut at = self.at;
        let mut table = self.table;
        for key in dotted.split('.') {
            let Some(value) = table.get(key) else { break };
            at = value.span().start;
            let DeValue::Table(inner) = value.get_ref() else { break };
            table = inner;
        }
        at
    }

    fn key_at(&self, key: &str) -> Option<usize> {
        self.table.get_key_value(key).map(|(key, _)| key.span().start)
    }

    fn refuse_unknown(&self, walk: &mut Walk<'_>, known: Keys) {
        for name in self.names() {
            let at = self.key_at(name).unwrap_or(self.at);
            let path = self.path_of(name);
            if !known.contains(&name) {
                walk.wrong(at, &path, unknown_key(name, known));
            }
        }
    }
}

fn unknown_key(name: &str, known: Keys) -> String {
    match nearest(name, known.iter().copied()) {
        Some(near) => format!("unknown key; did you mean {near:?}?"),
        None => format!("unknown key; expected one of {}", known.join(", ")),
    }
}
