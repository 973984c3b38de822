//! Where one batch ends and the next begins, in every magic.
//!
//! A segment is a plain concatenation of entries: no file header, footer or padding. Every entry
//! starts alike, whatever its magic:
//!
//! | at | size | field |
//! |---|---|---|
//! | 0 | 8 | offset (magic 2: base offset; 0 and 1: of the last message) |
//! | 8 | 4 | length: bytes after this field |
//! | 12 | 4 | leader epoch (magic 2) or CRC-32 (0 and 1) |
//! | 16 | 1 | magic |
//!
//! This module only frames; checksums and fields are [`super::batch`]'s. A length of 0 is the end of
//! data (a preallocated tail), whatever follows it. Whether an entry that is cut short is "not yet
//! written", torn or damaged depends on what is known of the file, so that is left to the caller.

use super::{Defect, Limits};

/// Bytes before the length counts: offset and length themselves.
pub const LOG_OVERHEAD: usize = 12;
/// Bytes up to and including the magic byte, the least that tells entries apart.
pub const HEADER_UP_TO_MAGIC: usize = 17;
/// Bytes of a magic 2 batch before its records.
pub const BATCH_HEADER_BYTES: usize = 61;
/// Smallest length field of magic 0 (CRC, magic, attributes, two null lengths).
pub const LENGTH_MIN_V0: i32 = 14;
/// Smallest length field of magic 1 (as magic 0, and a timestamp).
pub const LENGTH_MIN_V1: i32 = 22;
/// Smallest length field of magic 2: a header without records.
pub const LENGTH_MIN_V2: i32 = (BATCH_HEADER_BYTES - LOG_OVERHEAD) as i32;

/// What stands at the start of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// An entry of this many bytes, all of them in the slice.
    Entry(usize),
    /// The entry needs this many bytes from its start; the slice has fewer.
    NeedMore(usize),
    /// A length of 0: the end of the data.
    Zero,
    /// The bytes cannot be an entry.
    Bad(Defect),
}

/// Frames the entry at the start of `buf`.
pub fn frame(buf: &[u8], limits: &Limits) -> Frame {
    let (Some(length), Some(&magic)) = (read_i32(buf, 8), buf.get(16)) else {
        return match read_i32(buf, 8) {
            Some(0) => Frame::Zero,
            _ => Frame::NeedMore(HEADER_UP_TO_MAGIC),
        };
    };
    if length == 0 {
        return Frame::Zero;
    }
    let least = match magic {
        0 => LENGTH_MIN_V0,
        1 => LENGTH_MIN_V1,
        _ => LENGTH_MIN_V2,
    };
    let size = match usize::try_from(length) {
        Ok(n) if length >= least => n + LOG_OVERHEAD,
        _ => {
            let why =
                format!("batch length {length} is below the minimum of {least} (magic {magic})");
            return Frame::Bad(Defect::new(8, why));
        }
    };
    if size > limits.batch_bytes_max {
        let why = format!(
            "batch of {size} bytes is over the limit of {}",
            limits.batch_bytes_max
        );
        return Frame::Bad(Defect::new(8, why));
    }
    if buf.len() < size {
        Frame::NeedMore(size)
    } else {
        Frame::Entry(size)
    }
}

/// Big-endian integers at a place of a slice; `None` if they do not fit.
macro_rules! readers {
    ($($name:ident: $t:ty, $doc:literal;)*) => {$(
        #[doc = $doc]
        #[inline(always)]
        pub fn $name(buf: &[u8], at: usize) -> Option<$t> {
            let bytes = buf.get(at..at.checked_add(size_of::<$t>())?)?;
            Some(<$t>::from_be_bytes(bytes.try_into().ok()?))
        }
    )*};
}
readers! {
    read_i16: i16, "Big-endian int16 at byte `at`.";
    read_i32: i32, "Big-endian int32 at byte `at`.";
    read_u32: u32, "Big-endian uint32 at byte `at`.";
    read_i64: i64, "Big-endian int64 at byte `at`.";
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(length: i32, magic: u8) -> Vec<u8> {
        let mut b = vec![0; 17];
        b[8..12].copy_from_slice(&length.to_be_bytes());
        b[16] = magic;
        b
    }

    #[test]
    fn lengths_are_checked_before_they_are_used() {
        let limits = Limits {
            batch_bytes_max: 1000,
            ..Limits::default()
        };
        for bad in [-1, 1, 13, i32::MIN] {
            assert!(
                matches!(frame(&head(bad, 0), &limits), Frame::Bad(_)),
                "{bad}"
            );
        }
        assert!(matches!(frame(&head(48, 2), &limits), Frame::Bad(_)));
        assert!(matches!(frame(&head(i32::MAX, 2), &limits), Frame::Bad(_)));
        assert_eq!(frame(&head(49, 2), &limits), Frame::NeedMore(61));
        assert_eq!(frame(&head(0, 2), &limits), Frame::Zero);
        assert_eq!(frame(&[0; 16], &limits), Frame::Zero);
        assert_eq!(frame(&[0; 11], &limits), Frame::NeedMore(17));
        assert_eq!(frame(&[], &limits), Frame::NeedMore(17));
    }
}
