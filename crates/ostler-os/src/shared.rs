//! Bytes in shared memory: sealed memfds, which the kernel frees with their last descriptor and
//! mapping (ADR 0031).

use std::io::{self, Write as _};
use std::ops::Deref;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::ptr::NonNull;

use nix::libc;
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use serde::{Deserialize, Serialize};

/// What makes a segment safe to map: its sender can neither change nor truncate it any more.
const SEALS: SealFlags = SealFlags::WRITE
    .union(SealFlags::SHRINK)
    .union(SealFlags::GROW)
    .union(SealFlags::SEAL);

/// What travels in place of the bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// `/proc/PID/fd/N` of the sender.
    pub path: String,
    /// The device of the memfd.
    pub dev: u64,
    /// Its inode number.
    pub ino: u64,
    /// Its size in bytes.
    pub size: u64,
}

/// A segment that this process lends to another one, until it is dropped. A mapping that the other
/// process has made lives on.
#[derive(Debug)]
pub struct Segment {
    _fd: OwnedFd,
    reference: Reference,
}

impl Segment {
    /// Copies `data` into a new, sealed segment.
    ///
    /// # Errors
    /// The kernel refuses: no memory, no free descriptor, or memfds are forbidden here.
    pub fn new(data: &[u8]) -> io::Result<Self> {
        let fd = rustix::fs::memfd_create("ostler", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        let mut file = std::fs::File::from(fd);
        file.write_all(data)?;
        let fd = OwnedFd::from(file);
        rustix::fs::fcntl_add_seals(&fd, SEALS)?;
        let status = rustix::fs::fstat(&fd)?;
        let reference = Reference {
            path: format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd()),
            dev: status.st_dev,
            ino: status.st_ino,
            size: data.len() as u64,
        };
        Ok(Self { _fd: fd, reference })
    }

    /// What the other process opens it by.
    pub fn reference(&self) -> &Reference {
        &self.reference
    }
}

/// The bytes of another process's segment, read-only and without a copy.
#[derive(Debug)]
pub struct Mapping {
    address: NonNull<u8>,
    size: usize,
}

// SAFETY: the mapping is read-only and sealed, so nothing writes to it from any thread.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the segment that this reference names.
    ///
    /// # Errors
    /// It is gone, which means that its sender is, as a rule; or it is another file, or not sealed.
    pub fn open(reference: &Reference) -> io::Result<Self> {
        let fd = rustix::fs::open(
            &reference.path,
            OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK,
            Mode::empty(),
        )?;
        let status = rustix::fs::fstat(&fd)?;
        let found = (status.st_dev, status.st_ino, u64::try_from(status.st_size).unwrap_or(0));
        if found != (reference.dev, reference.ino, reference.size) {
            return Err(invalid(format!(
                "{} is no longer the segment that was sent",
                reference.path
            )));
        }
        // Without its seals, a truncation by the sender would be a SIGBUS here.
        if !rustix::fs::fcntl_get_seals(&fd).is_ok_and(|seals| seals.contains(SEALS)) {
            return Err(invalid(format!("{} is not a sealed memfd", reference.path)));
        }
        let size = usize::try_from(reference.size).map_err(|_| invalid("the segment is too large".to_owned()))?;
        if size == 0 {
            let address = NonNull::dangling();
            return Ok(Self { address, size });
        }
        // SAFETY: a new mapping of an open file, which replaces none.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size,
                libc::PROT_READ,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        match NonNull::new(address.cast::<u8>()) {
            Some(address) if address.as_ptr().cast() != libc::MAP_FAILED => Ok(Self { address, size }),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping has this size, lives as long as `self`, and its seals keep its
        // content and its size as they are.
        unsafe { std::slice::from_raw_parts(self.address.as_ptr(), self.size) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.size > 0 {
            // SAFETY: this value made the mapping, and no reference to it outlives the value.
            unsafe { libc::munmap(self.address.as_ptr().cast(), self.size) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_read_as_it_was_written_and_outlives_its_sender() {
        let data: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
        let segment = Segment::new(&data).expect("a segment");
        let mapping = Mapping::open(segment.reference()).expect("it is there");
        let reference = segment.reference().clone();
        drop(segment);
        assert!(mapping[..] == data[..], "the mapping lives on");
        Mapping::open(&reference).expect_err("the sender has released it");
        let empty = Segment::new(&[]).expect("a segment");
        assert_eq!(Mapping::open(empty.reference()).expect("it is there").len(), 0);
    }

    #[test]
    fn another_file_or_an_unsealed_memfd_is_refused() {
        let segment = Segment::new(b"content").expect("a segment");
        let other = Reference {
            ino: segment.reference().ino + 1,
            ..segment.reference().clone()
        };
        let why = Mapping::open(&other).expect_err("another inode").to_string();
        assert!(why.contains("no longer the segment"), "{why}");

        let fd = rustix::fs::memfd_create("ostler", MemfdFlags::ALLOW_SEALING).expect("a memfd");
        let status = rustix::fs::fstat(&fd).expect("its status");
        let unsealed = Reference {
            path: format!("/proc/self/fd/{}", fd.as_raw_fd()),
            dev: status.st_dev,
            ino: status.st_ino,
            size: 0,
        };
        let why = Mapping::open(&unsealed).expect_err("it is not sealed").to_string();
        assert!(why.contains("not a sealed memfd"), "{why}");
    }
}
