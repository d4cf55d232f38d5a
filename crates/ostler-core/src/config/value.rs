//! A parsed table, whatever it was written in: TOML with places, or anything that serde reads.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{self, Serialize, Serializer};

/// A table, by its keys.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Table(BTreeMap<String, Item>);

/// What a table has for a key, and where.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// The byte where the key begins; 0 without a text.
    pub key_at: usize,
    /// The byte where the value begins; 0 without a text.
    pub at: usize,
    /// The value.
    pub value: Value,
}

/// A value of a table.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A string.
    String(String),
    /// An integer.
    Integer(i128),
    /// A number with a fraction.
    Float(f64),
    /// True or false.
    Boolean(bool),
    /// A list.
    Array(Vec<Value>),
    /// A table.
    Table(Table),
    /// What no key takes, such as a date or null: its name for a message.
    Other(String),
}

impl Table {
    /// The names of its keys, in their order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// What it has for `key`.
    pub fn get(&self, key: &str) -> Option<&Item> {
        self.0.get(key)
    }

    /// Its keys with their values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(key, item)| (key.as_str(), &item.value))
    }
}

impl FromIterator<(String, Item)> for Table {
    fn from_iter<I: IntoIterator<Item = (String, Item)>>(items: I) -> Self {
        Self(items.into_iter().collect())
    }
}

impl<K: Into<String>> FromIterator<(K, Value)> for Table {
    fn from_iter<I: IntoIterator<Item = (K, Value)>>(values: I) -> Self {
        let items = values.into_iter().map(|(key, value)| (key.into(), value.into()));
        Self(items.collect())
    }
}

impl From<Value> for Item {
    /// A value without a text.
    fn from(value: Value) -> Self {
        let (key_at, at) = (0, 0);
        Self { key_at, at, value }
    }
}

impl Value {
    /// What it is, for people.
    pub fn found(&self) -> String {
        match self {
            Self::String(text) => format!("the string {:?}", shortened(text)),
            Self::Integer(number) => format!("the integer {number}"),
            Self::Float(number) => format!("the float {number:?}"),
            Self::Boolean(boolean) => format!("the boolean {boolean}"),
            Self::Array(_) => "an array".to_owned(),
            Self::Table(_) => "a table".to_owned(),
            Self::Other(name) => name.clone(),
        }
    }
}

/// The beginning of a long text.
pub(super) fn shortened(text: &str) -> String {
    const MOST: usize = 60;
    if text.chars().count() <= MOST {
        return text.to_owned();
    }
    text.chars().take(MOST).chain(['…']).collect()
}

impl<'de> Deserialize<'de> for Table {
    /// Reads a map; anything else is an error that says what was found.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Table(table) => Ok(table),
            other => Err(de::Error::custom(format_args!(
                "expected a table, found {}",
                other.found()
            ))),
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    /// Reads whatever a self-describing format has.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

/// How the crate toml passes a date to serde: a table with this one key.
const TOML_DATE: &str = "$__toml_private_datetime";

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value of a configuration")
    }

    fn visit_bool<E>(self, boolean: bool) -> Result<Value, E> {
        Ok(Value::Boolean(boolean))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Integer(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Integer(number.into()))
    }

    fn visit_i128<E>(self, number: i128) -> Result<Value, E> {
        Ok(Value::Integer(number))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(Value::Float(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::String(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::String(text))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Other("null".to_owned()))
    }

    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        self.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(item) = items.next_element()? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut table = BTreeMap::new();
        while let Some((key, value)) = entries.next_entry::<String, Value>()? {
            if let (TOML_DATE, Value::String(date)) = (key.as_str(), &value) {
                return Ok(Value::Other(format!("the date {date}")));
            }
            if table.contains_key(&key) {
                return Err(de::Error::custom(format_args!("duplicate key {key:?}")));
            }
            table.insert(key, value.into());
        }
        Ok(Value::Table(Table(table)))
    }
}

impl Serialize for Table {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::String(text) => serializer.serialize_str(text),
            // Few formats have integers of 128 bits.
            Self::Integer(number) => match (i64::try_from(*number), u64::try_from(*number)) {
                (Ok(number), _) => serializer.serialize_i64(number),
                (_, Ok(number)) => serializer.serialize_u64(number),
                _ => serializer.serialize_i128(*number),
            },
            Self::Float(number) => serializer.serialize_f64(*number),
            Self::Boolean(boolean) => serializer.serialize_bool(*boolean),
            Self::Array(items) => serializer.collect_seq(items),
            Self::Table(table) => table.serialize(serializer),
            Self::Other(name) => Err(ser::Error::custom(format_args!("can't write {name}"))),
        }
    }
}

macro_rules! from {
    ($($type:ty: $name:ident => $value:expr;)*) => {
        $(impl From<$type> for Value {
            fn from($name: $type) -> Self {
                $value
            }
        })*
    };
}

from! {
    &str: text => Self::String(text.to_owned());
    String: text => Self::String(text);
    bool: boolean => Self::Boolean(boolean);
    f64: number => Self::Float(number);
    u16: number => Self::Integer(number.into());
    u32: number => Self::Integer(number.into());
    u64: number => Self::Integer(number.into());
    usize: number => Self::from(number as u64);
    Table: table => Self::Table(table);
    &[String]: strings => Self::Array(strings.iter().map(|text| text.as_str().into()).collect());
    &BTreeMap<String, String>: strings => {
        Self::Table(strings.iter().map(|(name, text)| (name.as_str(), Value::from(text.as_str()))).collect())
    };
}
