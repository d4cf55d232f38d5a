//! The text of the file as a table in which every key and value has its place, and back.

use ostler_core::config::{Item, Table, Value};
use toml::de::{DeTable, DeValue};

/// The table that this text says.
pub(super) fn table(table: &DeTable<'_>) -> Table {
    let item = |(key, value): (&toml::Spanned<_>, &toml::Spanned<DeValue<'_>>)| {
        let item = Item {
            key_at: key.span().start,
            at: value.span().start,
            value: value_of(value.get_ref()),
        };
        (std::string::ToString::to_string(key.get_ref()), item)
    };
    table.iter().map(item).collect()
}

fn value_of(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(number) => match i128::from_str_radix(number.as_str(), number.radix()) {
            Ok(value) => Value::Integer(value),
            Err(_) => Value::Other(format!("the integer {number}")),
        },
        DeValue::Float(number) => match number.as_str().parse() {
            Ok(value) => Value::Float(value),
            Err(_) => Value::Other(format!("the float {number}")),
        },
        DeValue::Boolean(boolean) => Value::Boolean(*boolean),
        DeValue::Datetime(time) => Value::Other(format!("the date {time}")),
        DeValue::Array(items) => Value::Array(items.iter().map(|item| value_of(item.get_ref())).collect()),
        DeValue::Table(inner) => Value::Table(table(inner)),
    }
}

/// The value as it is written in a file.
pub(super) fn written(value: Value) -> toml::Value {
    match value {
        Value::String(text) | Value::Other(text) => text.into(),
        // TOML's integers are signed, with 64 bits.
        Value::Integer(number) => i64::try_from(number).unwrap_or(i64::MAX).into(),
        Value::Float(number) => number.into(),
        Value::Boolean(boolean) => boolean.into(),
        Value::Array(items) => toml::Value::Array(items.into_iter().map(written).collect()),
        Value::Table(table) => {
            let entries = table
                .iter()
                .map(|(key, value)| (key.to_owned(), written(value.clone())));
            toml::Value::Table(entries.collect())
        }
    }
}
