//! The guardian as the host has it: the link that carries orders and news, and the actor that keeps
//! a guardian running.

mod keeper;
mod link;
mod orders;
mod overdue;
#[cfg(test)]
mod script;

pub(crate) use keeper::{GuardianKeeper, KeeperArguments};
pub(crate) use link::{Census, Link, LinkClosed, News, NoCensus, Route};
