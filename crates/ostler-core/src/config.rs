//! A pool's table in a configuration: the one reader and the one writer of `[pool.NAME]` (feature
//! `config`).
//!
//! The program's file and an app's own configuration come together in a [`Table`]. The file's has
//! places: the byte of every key and value. An app's comes from serde and has none.
//! [`pool::read`] reads a table into a [`PoolSpec`](crate::spec::PoolSpec), and a [`Walk`] collects
//! every mistake on the way. [`entries`] is the way back.
//!
//! Apps need [`PoolSpecs`] alone, and `PoolSpec`'s own [`Deserialize`](serde::Deserialize) and
//! [`Serialize`](serde::Serialize). The rest is for the program, whose file has other tables, too.

pub mod keys;
mod paths;
pub mod pool;
mod probe;
mod section;
mod serve;
mod specs;
mod value;
pub mod values;
mod write;

pub use paths::join;
pub use section::{Field, Mistake, Section, Walk};
pub use specs::PoolSpecs;
pub use value::{Item, Table, Value};
pub use write::entries;

#[cfg(all(test, feature = "probe-http", feature = "probe-grpc", feature = "ready-line"))]
mod tests;
