//! A cursor over big-endian fields, for the small structures that are not worth a layout of
//! constants: snapshots, control records, the records of internal topics, and the replication
//! protocol's messages.
//!
//! Owns the bounds check of every field and of every length that precedes bytes; a field that does
//! not fit is a [`Defect`] at the byte where it should have begun. Nothing is copied. Leaves what
//! the fields mean to its callers.
//!
//! Messages come in two dressings. *Plain*: int16 or int32 lengths and counts, -1 is null.
//! *Flexible*: unsigned varints of length + 1, 0 is null, and tagged fields at the end of each
//! structure. The reader knows which ([`Reader::flexible`]), so that a decoder is written once.

use super::Defect;

/// Reads fields from the front of a slice.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    flexible: bool,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader {
            bytes,
            at: 0,
            flexible: false,
        }
    }

    /// Reads what follows in the flexible dressing, or not.
    pub fn flexible(mut self, flexible: bool) -> Reader<'a> {
        self.flexible = flexible;
        self
    }

    /// Bytes not read yet.
    pub fn left(&self) -> usize {
        self.bytes.len().saturating_sub(self.at)
    }

    /// Where the next field begins.
    pub fn at(&self) -> usize {
        self.at
    }

    /// A defect at the next field.
    pub fn defect(&self, reason: impl Into<String>) -> Defect {
        Defect::new(self.at, reason)
    }

    /// The next `n` bytes.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], Defect> {
        let end = self.at.checked_add(n);
        match end.and_then(|end| self.bytes.get(self.at..end)) {
            Some(s) => {
                self.at += n;
                Ok(s)
            }
            None => Err(self.defect(format!("{n} bytes wanted, {} left", self.left()))),
        }
    }

    /// The next N bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Defect> {
        let s = self.take(N)?;
        // `take` gave exactly N bytes.
        Ok(s.try_into().unwrap_or([0; N]))
    }

    pub fn i8(&mut self) -> Result<i8, Defect> {
        Ok(i8::from_be_bytes(self.array()?))
    }

    pub fn u8(&mut self) -> Result<u8, Defect> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    pub fn u16(&mut self) -> Result<u16, Defect> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Result<u64, Defect> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    pub fn i16(&mut self) -> Result<i16, Defect> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    pub fn i32(&mut self) -> Result<i32, Defect> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    pub fn u32(&mut self) -> Result<u32, Defect> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub fn i64(&mut self) -> Result<i64, Defect> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    /// An unsigned varint of at most 5 bytes (32 bits).
    pub fn uvarint(&mut self) -> Result<u32, Defect> {
        let start = self.at;
        let mut value = 0u64;
        for shift in [0, 7, 14, 21, 28] {
            let [b] = self.array::<1>()?;
            value |= u64::from(b & 0x7f) << shift;
            if b & 0x80 == 0 {
                return u32::try_from(value)
                    .map_err(|_| Defect::new(start, "unsigned varint exceeds 32 bits"));
            }
        }
        Err(Defect::new(start, "unsigned varint of more than 5 bytes"))
    }

    /// A byte string or null.
    pub fn nullable_bytes(&mut self) -> Result<Option<&'a [u8]>, Defect> {
        let start = self.at;
        let len = match self.flexible {
            true => i64::from(self.uvarint()?) - 1,
            false => i64::from(self.i32()?),
        };
        self.sized(start, len)
    }

    /// A byte string; null is taken as empty.
    pub fn bytes(&mut self) -> Result<&'a [u8], Defect> {
        Ok(self.nullable_bytes()?.unwrap_or_default())
    }

    /// A string or null. Bytes that are not UTF-8 become U+FFFD, as in Kafka's own readers.
    pub fn nullable_string(&mut self) -> Result<Option<String>, Defect> {
        let start = self.at;
        let len = match self.flexible {
            true => i64::from(self.uvarint()?) - 1,
            false => i64::from(self.i16()?),
        };
        let bytes = self.sized(start, len)?;
        Ok(bytes.map(|b| String::from_utf8_lossy(b).into_owned()))
    }

    /// A string that may not be null.
    pub fn string(&mut self) -> Result<String, Defect> {
        let start = self.at;
        let null = || Defect::new(start, "null where a string must be");
        self.nullable_string()?.ok_or_else(null)
    }

    /// The elements of an array (null is taken as none), each of at least `least` bytes: a count
    /// that the bytes left cannot hold is a defect before anything is sized by it.
    pub fn array_of<T>(
        &mut self,
        least: usize,
        mut element: impl FnMut(&mut Reader<'a>) -> Result<T, Defect>,
    ) -> Result<Vec<T>, Defect> {
        let start = self.at;
        let n = match self.flexible {
            true => i64::from(self.uvarint()?) - 1,
            false => i64::from(self.i32()?),
        };
        let count = self.fits(start, n, least)?;
        let mut out = Vec::with_capacity(count);
        for _ in 0..count {
            out.push(element(self)?);
        }
        Ok(out)
    }

    /// The end of a structure: in the flexible dressing its tagged fields, each given to `field`
    /// with its tag.
    pub fn tags(
        &mut self,
        mut field: impl FnMut(u32, Reader<'a>) -> Result<(), Defect>,
    ) -> Result<(), Defect> {
        if !self.flexible {
            return Ok(());
        }
        for _ in 0..self.uvarint()? {
            let (tag, size) = (self.uvarint()?, self.uvarint()?);
            let start = self.at;
            let bytes = self.sized(start, i64::from(size))?.unwrap_or_default();
            field(tag, Reader::new(bytes).flexible(true)).map_err(|d| d.shifted(start))?;
        }
        Ok(())
    }

    /// The same where no tagged field is known.
    pub fn no_tags(&mut self) -> Result<(), Defect> {
        self.tags(|_, _| Ok(()))
    }

    /// Nothing may be left.
    pub fn end(&self) -> Result<(), Defect> {
        match self.left() {
            0 => Ok(()),
            n => Err(self.defect(format!("{n} bytes left over"))),
        }
    }

    fn sized(&mut self, start: usize, len: i64) -> Result<Option<&'a [u8]>, Defect> {
        match usize::try_from(len) {
            Ok(n) => self.take(n).map(Some),
            Err(_) if len == -1 => Ok(None),
            Err(_) => Err(Defect::new(start, format!("length {len}"))),
        }
    }

    fn fits(&self, start: usize, n: i64, least: usize) -> Result<usize, Defect> {
        let most = self.left() / least.max(1);
        match usize::try_from(n.max(0)) {
            Ok(count) if n >= -1 && count <= most => Ok(count),
            _ => Err(Defect::new(
                start,
                format!("count {n}, room for at most {most}"),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_past_the_end_is_a_defect_where_it_begins() {
        let mut r = Reader::new(&[0, 1, 2]);
        assert_eq!(r.i16().unwrap(), 1);
        let d = r.i32().unwrap_err();
        assert_eq!(d.to_string(), "byte 2: 4 bytes wanted, 1 left");
        assert_eq!(r.i8().unwrap(), 2);
        r.end().unwrap();
    }

    #[test]
    fn null_and_empty_differ_and_other_negatives_are_defects() {
        let mut r = Reader::new(&[255, 255, 255, 255, 0, 0, 0, 0, 255, 255, 255, 254]);
        assert_eq!(r.nullable_bytes().unwrap(), None);
        assert_eq!(r.nullable_bytes().unwrap(), Some(&[][..]));
        assert_eq!(
            r.nullable_bytes().unwrap_err().to_string(),
            "byte 8: length -2"
        );
    }

    #[test]
    fn counts_are_bounded_by_the_bytes_left() {
        let mut r = Reader::new(&[0, 0, 0, 3, 1, 2, 3, 4, 5]);
        assert_eq!(r.clone().array_of(1, Reader::i8).unwrap(), [1, 2, 3]);
        assert!(r.array_of(2, Reader::i8).is_err());
    }

    #[test]
    fn flexible_structures_end_with_tagged_fields() {
        let mut r = Reader::new(&[2, b'x', 0, 1, 7, 2, 0, 9, 5]).flexible(true);
        assert_eq!(r.nullable_string().unwrap().as_deref(), Some("x"));
        assert_eq!(r.nullable_string().unwrap(), None);
        let mut seen = Vec::new();
        r.tags(|tag, mut field| {
            seen.push((tag, field.i16()?));
            field.end()
        })
        .unwrap();
        assert_eq!((seen, r.left()), (vec![(7, 9)], 1));
    }

    #[test]
    fn unsigned_varints_stop_at_32_bits() {
        assert_eq!(Reader::new(&[0x96, 1]).uvarint().unwrap(), 150);
        assert_eq!(
            Reader::new(&[255, 255, 255, 255, 15]).uvarint().unwrap(),
            u32::MAX
        );
        assert!(Reader::new(&[255, 255, 255, 255, 16]).uvarint().is_err());
        assert!(Reader::new(&[128; 9]).uvarint().is_err());
    }
}
