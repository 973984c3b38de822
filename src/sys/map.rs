//! Read-only memory maps, and the only unsafe code of the crate.
//!
//! Owns [`Bytes`]: a file's content as a slice. It is either a map of the file or a copy in memory
//! (the test disk, empty files); whoever reads it need not know which.
//!
//! A map of a file that is cut afterwards kills the process with SIGBUS at the next touch. Nothing
//! here can prevent that, so the rule lies with the caller: only files that nobody shortens are
//! mapped. Those are index and lookup files, which are replaced by rename and never cut while in
//! use, and sealed segments below the durable offset, which are never cut at all.

use std::fs;
use std::io;
use std::ops::Deref;

/// The content of a file, for as long as this value lives.
#[derive(Debug)]
pub struct Bytes(Inner);

#[derive(Debug)]
enum Inner {
    Mapped(memmap2::Mmap),
    Copied(Vec<u8>),
}

impl Bytes {
    /// Maps the first `len` bytes of `file`.
    ///
    /// # Errors
    /// What mmap(2) answers; `InvalidInput` if `len` does not fit the address space.
    #[allow(unsafe_code)]
    pub(super) fn map(file: &fs::File, len: u64) -> io::Result<Bytes> {
        if len == 0 {
            return Ok(Bytes(Inner::Copied(Vec::new()))); // mmap(2) refuses length 0
        }
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut options = memmap2::MmapOptions::new();
        // SAFETY: the map is private to readers and `file` is a regular file that holds `len`
        // bytes now. The caller's duty (`File::map`) is to map only files that nobody shortens or
        // rewrites in place. A process that breaks the rule (or a disk that fails under the map)
        // ends this one by SIGBUS; one that rewrites bytes makes us read other bytes, which every
        // decoder must survive anyway, as each value is copied out before it is checked.
        let map = unsafe { options.len(len).map(file) }?;
        Ok(Bytes(Inner::Mapped(map)))
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Bytes {
        Bytes(Inner::Copied(bytes))
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Inner::Mapped(map) => map,
            Inner::Copied(vec) => vec,
        }
    }
}
