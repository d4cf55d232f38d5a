//! What differs between processors: how the kernel is called, how the program begins, and the
//! calls' numbers.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
pub(crate) use aarch64::{clone_onto, number, syscall};
#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::{clone_onto, number, syscall};
