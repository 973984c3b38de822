//! Zigzag varints: `(n << 1) ^ (n >> 31 or 63)`, then base-128 groups, least significant first, the
//! high bit meaning "more".
//!
//! At most 5 bytes (32 bits) or 10 bytes (64 bits). Overlong forms of a small number are read as
//! Kafka reads them; they are never written. Bits beyond the width are dropped, as Java does.

use super::Defect;

/// Most bytes a 32-bit varint takes.
pub const VARINT_BYTES_MAX: usize = 5;
/// Most bytes a 64-bit varint takes.
pub const VARLONG_BYTES_MAX: usize = 10;

/// Reads a 32-bit varint at `pos`; returns the value and the position after it.
///
/// # Errors
/// A defect at `pos` if the bytes end first or the varint is longer than 5 bytes.
#[inline(always)]
pub fn read_varint(buf: &[u8], pos: usize) -> Result<(i32, usize), Defect> {
    match buf.get(pos) {
        Some(&b) if b < 0x80 => Ok((unzigzag32(u32::from(b)), pos + 1)),
        Some(_) => {
            let (v, next) = read_groups(buf, pos, VARINT_BYTES_MAX)?;
            Ok((unzigzag32((v & 0xffff_ffff) as u32), next))
        }
        None => Err(short(pos)),
    }
}

/// Reads a 64-bit varint at `pos`; returns the value and the position after it.
///
/// # Errors
/// A defect at `pos` if the bytes end first or the varint is longer than 10 bytes.
#[inline(always)]
pub fn read_varlong(buf: &[u8], pos: usize) -> Result<(i64, usize), Defect> {
    match buf.get(pos) {
        Some(&b) if b < 0x80 => Ok((unzigzag64(u64::from(b)), pos + 1)),
        Some(_) => {
            let (v, next) = read_groups(buf, pos, VARLONG_BYTES_MAX)?;
            Ok((unzigzag64(v), next))
        }
        None => Err(short(pos)),
    }
}

#[inline]
fn read_groups(buf: &[u8], pos: usize, bytes_max: usize) -> Result<(u64, usize), Defect> {
    let mut value = 0u64;
    for i in 0..bytes_max {
        let Some(&b) = buf.get(pos + i) else {
            return Err(short(pos));
        };
        // The tenth group holds one bit of 64; what is shifted out is dropped.
        value |= u64::from(b & 0x7f).checked_shl(7 * i as u32).unwrap_or(0);
        if b < 0x80 {
            return Ok((value, pos + i + 1));
        }
    }
    Err(Defect::new(
        pos,
        format!("varint longer than {bytes_max} bytes"),
    ))
}

#[cold]
fn short(pos: usize) -> Defect {
    Defect::new(pos, "varint runs past the end")
}

#[inline(always)]
fn unzigzag32(v: u32) -> i32 {
    (v >> 1).cast_signed() ^ -((v & 1).cast_signed())
}

#[inline(always)]
fn unzigzag64(v: u64) -> i64 {
    (v >> 1).cast_signed() ^ -((v & 1).cast_signed())
}

/// Bytes that `n` takes as a varint (the same for both widths).
#[inline(always)]
pub fn varint_len(n: i64) -> usize {
    let bits = 64 - (zigzag(n) | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

#[inline(always)]
fn zigzag(n: i64) -> u64 {
    ((n << 1) ^ (n >> 63)).cast_unsigned()
}

/// A few varints and bytes gathered on the stack, so that a record's framing is one copy. Room is
/// left in front for a length that is known last.
pub struct Small {
    bytes: [u8; Small::CAPACITY],
    start: usize,
    len: usize,
}

impl Small {
    /// Room for a record's length, attributes, timestamp delta, offset delta, key length and a
    /// value length or header count: 5 + 1 + 10 + 5 + 5 + 5, and slack.
    const CAPACITY: usize = 40;

    /// An empty one.
    #[inline(always)]
    pub fn new() -> Small {
        Small {
            bytes: [0; Small::CAPACITY],
            start: VARINT_BYTES_MAX,
            len: VARINT_BYTES_MAX,
        }
    }

    /// Bytes added so far.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.len - self.start
    }

    /// Whether nothing was added.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts `n`, of at most 32 bits, as a varint in front of everything; once.
    #[inline(always)]
    pub fn put_in_front(&mut self, n: i64) {
        let end = self.len;
        self.start = VARINT_BYTES_MAX.saturating_sub(varint_len(n));
        self.len = self.start;
        self.varint(n);
        self.len = end;
    }

    /// Adds one byte. More than fits is dropped (our own callers never do that).
    #[inline(always)]
    pub fn byte(&mut self, b: u8) {
        if let Some(slot) = self.bytes.get_mut(self.len) {
            *slot = b;
            self.len += 1;
        }
    }

    /// Adds `n` as a varint.
    #[inline(always)]
    pub fn varint(&mut self, n: i64) {
        let mut v = zigzag(n);
        while v >= 0x80 {
            self.byte((v & 0x7f) as u8 | 0x80);
            v >>= 7;
        }
        self.byte((v & 0x7f) as u8);
    }

    /// What was added.
    #[inline(always)]
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(self.start..self.len).unwrap_or_default()
    }
}

impl Default for Small {
    fn default() -> Small {
        Small::new()
    }
}

/// Appends `n` as a varint.
#[inline]
pub fn write_varint(out: &mut Vec<u8>, n: i64) {
    let mut s = Small::new();
    s.varint(n);
    out.extend_from_slice(s.as_slice());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_round_trip_at_every_width() {
        for shift in 0..64 {
            for n in [
                (1i64 << shift).wrapping_sub(1),
                1 << shift,
                -(1i64 << shift).wrapping_add(1),
            ] {
                let mut out = Vec::new();
                write_varint(&mut out, n);
                assert_eq!(out.len(), varint_len(n), "{n}");
                assert_eq!(read_varlong(&out, 0), Ok((n, out.len())));
                if let Ok(small) = i32::try_from(n) {
                    assert_eq!(read_varint(&out, 0), Ok((small, out.len())));
                }
            }
        }
    }

    #[test]
    fn a_length_goes_in_front_of_what_it_counts() {
        for n in [0, 63, 64, 8191, 8192, i64::from(i32::MAX)] {
            let mut s = Small::new();
            s.byte(7);
            s.varint(300);
            assert_eq!(s.len(), 3);
            s.put_in_front(n);
            let mut want = Vec::new();
            write_varint(&mut want, n);
            want.push(7);
            write_varint(&mut want, 300);
            assert_eq!(s.as_slice(), want);
        }
    }

    #[test]
    fn overlong_forms_are_read_and_longer_ones_refused() {
        assert_eq!(read_varint(&[0x82, 0x80, 0x80, 0x80, 0x00], 0), Ok((1, 5)));
        assert!(read_varint(&[0x80; 6], 0).is_err());
        assert!(read_varlong(&[0x80; 11], 0).is_err());
        assert!(read_varint(&[0x80], 0).is_err());
        assert!(read_varint(&[], 0).is_err());
        assert!(read_varint(&[0], usize::MAX).is_err());
    }
}
