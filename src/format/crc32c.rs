//! CRC-32C (Castagnoli, reflected, init and xorout all ones): the checksum of magic 2 batches and of
//! producer snapshots.
//!
//! Not to be confused with CRC-32 (IEEE), which magic 0 and 1 and logd's own state files use
//! (`crc32fast`). The check value below pins the polynomial.

/// CRC-32C of `bytes`.
#[inline]
pub fn crc32c(bytes: &[u8]) -> u32 {
    // The crate returns every width as u64; a 32-bit algorithm fills the low half.
    (crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) & 0xffff_ffff) as u32
}

/// CRC-32C of bytes that are given piece by piece.
#[derive(Clone, Debug)]
pub struct Crc32c(crc_fast::Digest);

impl Default for Crc32c {
    fn default() -> Crc32c {
        Crc32c(crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi))
    }
}

impl Crc32c {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The checksum of all bytes so far.
    pub fn value(&self) -> u32 {
        (self.0.finalize() & 0xffff_ffff) as u32
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn crc32c_has_the_castagnoli_check_value() {
        assert_eq!(super::crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(super::crc32c(b""), 0);
        let mut pieces = super::Crc32c::default();
        assert_eq!(pieces.value(), 0);
        pieces.update(b"1234");
        pieces.update(b"56789");
        assert_eq!(pieces.value(), 0xe306_9283);
    }
}
