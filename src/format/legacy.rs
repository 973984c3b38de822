//! Magic 0 and 1. (Interim: refused; the decoder follows.)

use super::batch::BatchHeader;
use super::codec::Decompressor;
use super::record::Record;
use super::{Defect, Limits};

/// Reads the header of a magic 0 or 1 entry, without decompressing: of a wrapper only the last
/// offset is known.
pub(super) fn parse_header(_bytes: &[u8]) -> Result<BatchHeader, Defect> {
    Err(Defect::new(16, "magic 0 and 1 are not read yet"))
}

/// Checks the CRC-32 of one whole entry.
pub(super) fn check_crc(_bytes: &[u8], _header: &BatchHeader) -> Result<(), Defect> {
    Err(Defect::new(16, "magic 0 and 1 are not read yet"))
}

/// The messages of an entry: itself, or those inside a wrapper.
pub(super) struct Messages<'a>(std::marker::PhantomData<&'a ()>);

impl<'a> Messages<'a> {
    /// Opens an entry; a wrapper is decompressed into `body`.
    pub(super) fn open(
        _header: &BatchHeader,
        _bytes: &'a [u8],
        _decompressor: &mut Decompressor,
        _body: &'a mut Vec<u8>,
        _limits: &Limits,
    ) -> Result<Messages<'a>, Defect> {
        Err(Defect::new(16, "magic 0 and 1 are not read yet"))
    }

    /// The next message.
    pub(super) fn next(&mut self) -> Option<Result<Record<'a>, Defect>> {
        None
    }
}
