//! The program from outside.

mod command;
mod events_file;
mod harness;
mod python;
mod signals;
mod terminal;
