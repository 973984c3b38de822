//! Look-up indexes: from the value of a field to the batches of one sealed segment that may hold it.
//!
//! Owns the bytes of one file in `.logd/keys`, written once and never changed: what it covers, a
//! *table* of hashes with the batches they occur in, and a *filter* for text
//! ([`lookup_filter`](super::lookup_filter)); either part may be absent. A hash leads to candidates
//! only: whoever asks compares the record itself, so 32 bits suffice, and a clash costs one read.
//!
//! The file is a row of blocks of [`BLOCK_BYTES`], each with a checksum of its own, so that a look-up
//! of two blocks checks two blocks and damage elsewhere costs nothing. The checksum begins with the
//! header's and the block's number: a block of another file, or of another place, is no block here.
//! All integers are big-endian.
//!
//! | at | size | of a block |
//! |---|---|---|
//! | 0 | 4092 | payload |
//! | 4092 | 4 | CRC-32 of: checksum of block 0 (0 in block 0 itself), block number as u64, payload |
//!
//! | at | size | block 0 | |
//! |---|---|---|---|
//! | 0 | 8 | `logdkeys` | |
//! | 8 | 4 | version | 2 |
//! | 12 | 4 | parts | bit 0: table, bit 1: filters |
//! | 16 | 8 | base offset | in the segment's name |
//! | 24 | 8 | file bytes | length of the segment's `.log` |
//! | 32 | 8 | end | position behind its last batch |
//! | 40 | 8 | last position | of its last batch |
//! | 48 | 8 | last offset | of its last batch |
//! | 56 | 4 | last CRC | of its last batch, as stored there |
//! | 60 | 4 | directory bits | 0 to 24 |
//! | 64 | 8 | values | records that have the field |
//! | 72 | 8 | entries | of the table, below 2^32 |
//! | 80 | 4 | gram blocks | 0 or a power of two |
//! | 84 | 4 | token blocks | the same |
//! | 88 | 4 | field bytes | |
//! | 92 | n | field | the word of `--by` |
//!
//! Then come the blocks of the directory, of the table, and of the filters, tokens first. Where bit 1
//! says that there are filters, both may still have no blocks: then there was too much to keep. Of
//! version 1 the table is the same; it had one filter of another form, of as many blocks as the eight
//! bytes at 80 say, which is not asked ([`Header::is_outdated`]).
//!
//! * **Directory**: 2^bits + 1 numbers of 4 bytes, 1023 a block. Number *i* counts the table entries
//!   whose hash has its top *bits* below *i*.
//! * **Table**: entries of 8 bytes, 511 a block, in order: the hash (the top half of XXH64 with seed
//!   0 over the value), then the position of the batch with all bits flipped, so that of equal hashes
//!   the newest batch comes first. A batch is listed once for each hash.
//!
//! Why this and not another structure: a sorted table is built by sorting 8-byte integers, which can
//! be spilled and merged, and keeps all versions of a key side by side, newest first. The directory
//! spares the bisection, so that a look-up touches one block of each.

use std::borrow::Cow;

use twox_hash::XxHash64;

use super::batch::BatchHeader;
use super::lookup_filter::{Blocks, Filter};
use super::{Defect, Offset, Position};

/// Bytes of a block: a page, the unit in which the file is read and checked.
pub const BLOCK_BYTES: usize = 4096;
/// Bytes of a block that are not its checksum.
pub const PAYLOAD_BYTES: usize = BLOCK_BYTES - 4;
/// Most bytes of a field's word.
pub const FIELD_BYTES_MAX: usize = 1024;
/// Largest position that an entry can hold.
pub const POSITION_MAX: u64 = u32::MAX as u64;

const MAGIC: &[u8; 8] = b"logdkeys";
const VERSION: u32 = 2;
/// The version whose filters were of another form.
const VERSION_OLD_FILTER: u32 = 1;
/// Most blocks of a file's filters together, by far.
const FILTER_BLOCKS_MAX: u64 = 1 << 32;
const PART_TABLE: u32 = 1;
const PART_FILTER: u32 = 2;
const FIELD_AT: usize = 92;
const NUMBERS_PER_BLOCK: u64 = PAYLOAD_BYTES as u64 / 4;
const ENTRIES_PER_BLOCK: u64 = PAYLOAD_BYTES as u64 / 8;
const DIRECTORY_BITS_MAX: u32 = 24;
/// Entries that one number of the directory stands for, about: half a block, so that most look-ups
/// find theirs in one.
const ENTRIES_PER_NUMBER: u64 = ENTRIES_PER_BLOCK / 2;
const _: () = assert!(FIELD_AT + FIELD_BYTES_MAX <= PAYLOAD_BYTES);

/// Which segment, and which state of it, an index was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cover {
    /// Base offset in the segment's name.
    pub base: Offset,
    /// Length of the `.log` file in bytes.
    pub file_bytes: u64,
    /// Behind the last batch.
    pub end: Position,
    /// Where the last batch begins.
    pub last_position: Position,
    /// Its last offset.
    pub last_offset: Offset,
    /// Its checksum, as stored in it.
    pub last_crc: u32,
}

impl Cover {
    /// Whether a `.log` file of `file_bytes`, in which this header stands at [`Cover::last_position`],
    /// is the one that was covered.
    pub fn is_of(&self, file_bytes: u64, last: &BatchHeader) -> bool {
        self.file_bytes == file_bytes
            && self.last_crc == last.crc
            && self.last_offset == last.last_offset
            && self.last_position + last.size as u64 == self.end
    }
}

/// The first block of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// What it covers.
    pub cover: Cover,
    /// The word of the field.
    pub field: String,
    /// Whether there is a table; without one only the filter can be asked.
    pub has_table: bool,
    /// Records that have the field.
    pub values: u64,
    /// Entries of the table.
    pub entries: u64,
    /// Whether there are filters, with blocks or without.
    pub has_filter: bool,
    /// Blocks of the filters.
    pub filter: Blocks,
    /// Blocks of a filter that is not understood any more.
    old_filter: u64,
    /// Bits of a hash that choose a number of the directory.
    directory_bits: u32,
    /// Checksum of the block, with which those of all others begin.
    salt: u32,
}

impl Header {
    /// A header of a file that is to be written; `entries` is `None` without a table, `filter` without
    /// filters.
    ///
    /// # Errors
    /// A defect where the field's word, the entries or the positions are more than a file can hold.
    pub fn new(
        cover: Cover,
        field: &str,
        values: u64,
        entries: Option<u64>,
        filter: Option<Blocks>,
    ) -> Result<Header, Defect> {
        let has_table = entries.is_some();
        let entries = entries.unwrap_or(0);
        if field.len() > FIELD_BYTES_MAX {
            return Err(Defect::new(
                FIELD_AT,
                "the field's word is longer than 1024 bytes",
            ));
        }
        if cover.end.0 > POSITION_MAX || entries > u64::from(u32::MAX) {
            return Err(Defect::new(0, "the segment is larger than 4 GiB"));
        }
        let wanted = entries.div_ceil(ENTRIES_PER_NUMBER).max(1);
        let mut header = Header {
            cover,
            field: field.to_string(),
            has_table,
            values,
            entries,
            has_filter: filter.is_some(),
            filter: filter.unwrap_or_default(),
            old_filter: 0,
            directory_bits: wanted
                .next_power_of_two()
                .trailing_zeros()
                .min(DIRECTORY_BITS_MAX),
            salt: 0,
        };
        let block = header.encode();
        header.salt = read_u32(&block, PAYLOAD_BYTES).unwrap_or_default();
        Ok(header)
    }

    /// Reads the first block of a file of `len` bytes.
    ///
    /// # Errors
    /// What is wrong with it, or with the file's length.
    pub fn parse(bytes: &[u8], len: u64) -> Result<Header, Defect> {
        let block = checked(bytes, 0, 0)?;
        let bad = |at, why: &str| Defect::new(at, why);
        let u32_at = |at| read_u32(block, at).ok_or_else(|| bad(at, "cut short"));
        let u64_at = |at| read_u64(block, at).ok_or_else(|| bad(at, "cut short"));
        if !block.starts_with(MAGIC) {
            return Err(bad(0, "not a look-up index"));
        }
        let version = u32_at(8)?;
        if !(VERSION_OLD_FILTER..=VERSION).contains(&version) {
            return Err(Defect::new(8, format!("version {version} is not known")));
        }
        let parts = u32_at(12)?;
        let field_bytes = usize::try_from(u32_at(88)?).unwrap_or(usize::MAX);
        let field = field_bytes
            .checked_add(FIELD_AT)
            .and_then(|end| block.get(FIELD_AT..end))
            .and_then(|f| std::str::from_utf8(f).ok())
            .ok_or_else(|| bad(88, "the field's word does not fit"))?;
        let offset = |at| u64_at(at).map(|n| Offset(n.cast_signed()));
        let is_new = u64::from(version == VERSION);
        let header = Header {
            cover: Cover {
                base: offset(16)?,
                file_bytes: u64_at(24)?,
                end: Position(u64_at(32)?),
                last_position: Position(u64_at(40)?),
                last_offset: offset(48)?,
                last_crc: u32_at(56)?,
            },
            field: field.to_string(),
            has_table: parts & PART_TABLE != 0,
            values: u64_at(64)?,
            entries: u64_at(72)?,
            has_filter: parts & PART_FILTER != 0,
            filter: Blocks {
                grams: is_new * u64::from(u32_at(80)?),
                tokens: is_new * u64::from(u32_at(84)?),
            },
            old_filter: (1 - is_new) * u64_at(80)?,
            directory_bits: u32_at(60)?,
            salt: read_u32(bytes, PAYLOAD_BYTES).unwrap_or_default(),
        };
        let is_size = |blocks: u64| blocks == 0 || (header.has_filter && blocks.is_power_of_two());
        let sound = header.entries <= u64::from(u32::MAX)
            && header.directory_bits <= DIRECTORY_BITS_MAX
            && header.filter_blocks() < FILTER_BLOCKS_MAX
            && is_size(header.filter.grams)
            && is_size(header.filter.tokens)
            && (header.has_table || header.entries == 0)
            && header.cover.last_position < header.cover.end
            && header.cover.end.0 <= header.cover.file_bytes.min(POSITION_MAX);
        match sound && header.file_bytes() == len {
            true => Ok(header),
            false => Err(bad(60, "counts that do not go with the file's length")),
        }
    }

    /// Block 0.
    pub fn encode(&self) -> Vec<u8> {
        let parts = match self.has_table {
            true => PART_TABLE,
            false => 0,
        } | match self.has_filter {
            true => PART_FILTER,
            false => 0,
        };
        let blocks = |n| u32::try_from(n).unwrap_or(u32::MAX).to_be_bytes();
        let cover = &self.cover;
        let mut out = Vec::with_capacity(BLOCK_BYTES);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_be_bytes());
        out.extend_from_slice(&parts.to_be_bytes());
        out.extend_from_slice(&cover.base.0.to_be_bytes());
        out.extend_from_slice(&cover.file_bytes.to_be_bytes());
        out.extend_from_slice(&cover.end.0.to_be_bytes());
        out.extend_from_slice(&cover.last_position.0.to_be_bytes());
        out.extend_from_slice(&cover.last_offset.0.to_be_bytes());
        out.extend_from_slice(&cover.last_crc.to_be_bytes());
        out.extend_from_slice(&self.directory_bits.to_be_bytes());
        out.extend_from_slice(&self.values.to_be_bytes());
        out.extend_from_slice(&self.entries.to_be_bytes());
        out.extend_from_slice(&blocks(self.filter.grams));
        out.extend_from_slice(&blocks(self.filter.tokens));
        out.extend_from_slice(
            &u32::try_from(self.field.len())
                .unwrap_or(u32::MAX)
                .to_be_bytes(),
        );
        out.extend_from_slice(self.field.as_bytes());
        seal(&mut out, 0, 0, 0);
        out
    }

    fn numbers(&self) -> u64 {
        match self.has_table {
            true => (1 << self.directory_bits) + 1,
            false => 0,
        }
    }

    /// Number of the first block of the directory.
    fn directory_at(&self) -> u64 {
        1
    }

    /// Number of the first block of the table.
    fn table_at(&self) -> u64 {
        self.directory_at() + self.numbers().div_ceil(NUMBERS_PER_BLOCK)
    }

    /// Number of the first block of the filter.
    fn filter_at(&self) -> u64 {
        self.table_at() + self.entries.div_ceil(ENTRIES_PER_BLOCK)
    }

    /// Position of the table's first block in the file.
    pub fn table_position(&self) -> u64 {
        self.table_at() * BLOCK_BYTES as u64
    }

    /// Position of the filter's first block in the file.
    pub fn filter_position(&self) -> u64 {
        self.filter_at() * BLOCK_BYTES as u64
    }

    /// Length of the whole file in bytes.
    pub fn file_bytes(&self) -> u64 {
        (self.filter_at() + self.filter_blocks()) * BLOCK_BYTES as u64
    }

    fn filter_blocks(&self) -> u64 {
        let Blocks { tokens, grams } = self.filter;
        tokens.saturating_add(grams).saturating_add(self.old_filter)
    }

    /// Whether it is to be made anew for the filter that it has, which is of an older form and not
    /// asked.
    pub fn is_outdated(&self) -> bool {
        self.old_filter > 0
    }
}

/// The hash of a field's value.
#[inline]
pub fn hash_of(value: &[u8]) -> u32 {
    (XxHash64::oneshot(0, value) >> 32) as u32
}

/// The table entry of a value with this hash in the batch at `position`, as the integer by which
/// entries are sorted. The position must be at most [`POSITION_MAX`].
#[inline]
pub fn entry_of(hash: u32, position: Position) -> u64 {
    u64::from(hash) << 32 | u64::from(!(position.0 as u32))
}

/// A file's bytes, whose header was read before.
#[derive(Clone, Copy)]
pub struct Lookup<'a> {
    header: &'a Header,
    bytes: &'a [u8],
}

/// Where a search for one hash stands.
#[derive(Clone, Debug)]
pub struct Candidates {
    hash: u32,
    /// The entry that is looked at next.
    next: u64,
    /// Behind the last entry that can have the hash.
    end: u64,
    /// What was yielded last.
    before: Option<Position>,
}

impl<'a> Lookup<'a> {
    /// The file that begins with `header` and is all of `bytes`.
    pub fn new(header: &'a Header, bytes: &'a [u8]) -> Lookup<'a> {
        Lookup { header, bytes }
    }

    /// Begins a search for the batches that may hold `value`. Without a table there is none:
    /// that is what [`Header::has_table`] tells.
    ///
    /// # Errors
    /// A damaged block.
    pub fn candidates(&self, value: &[u8]) -> Result<Candidates, Defect> {
        let hash = hash_of(value);
        let slot = u64::from(hash) >> (32 - self.header.directory_bits);
        let (low, end) = (self.number(slot)?, self.number(slot + 1)?);
        if low > end || end > self.header.entries {
            return Err(Defect::new(
                BLOCK_BYTES,
                "numbers of the directory that fall",
            ));
        }
        let next = self.first_at(u64::from(hash) << 32, low, end)?;
        Ok(Candidates {
            hash,
            next,
            end,
            before: None,
        })
    }

    /// The next batch that may hold the value, going back in the segment.
    ///
    /// # Errors
    /// A damaged block.
    pub fn next(&self, search: &mut Candidates) -> Result<Option<Position>, Defect> {
        while search.next < search.end {
            let entry = self.entry(search.next)?;
            if entry >> 32 != u64::from(search.hash) {
                break;
            }
            search.next += 1;
            let position = Position(u64::from(!(entry as u32)));
            if search.before.is_none_or(|b| position < b) {
                search.before = Some(position);
                return Ok(Some(position));
            }
        }
        Ok(None)
    }

    /// Whether a record of the segment may have exactly this value in the field. False is certain.
    ///
    /// # Errors
    /// A damaged block.
    pub fn may_contain(&self, value: &[u8]) -> Result<bool, Defect> {
        if self.header.has_table {
            let mut search = self.candidates(value)?;
            return Ok(self.next(&mut search)?.is_some());
        }
        match self.filter() {
            Some(filter) => filter.may_be(value),
            None => Ok(true),
        }
    }

    /// Whether the field of a record of the segment may contain this text. False is certain.
    ///
    /// # Errors
    /// A damaged block.
    pub fn may_contain_text(&self, text: &[u8], ignore_case: bool) -> Result<bool, Defect> {
        match self.filter() {
            Some(filter) => filter.may_contain(text, ignore_case),
            None => Ok(true),
        }
    }

    /// Checks every block: checksums, a directory whose numbers rise up to the entries, entries in
    /// order that lead to no place behind the last batch.
    ///
    /// # Errors
    /// What is wrong, at which byte.
    pub fn check(&self) -> Result<(), Defect> {
        for number in self.header.directory_at()..self.header.file_bytes() / BLOCK_BYTES as u64 {
            self.block(number)?;
        }
        let mut before = 0;
        for i in 0..self.header.numbers() {
            let number = self.number(i)?;
            if number < before || number > self.header.entries {
                let why = "numbers of the directory that fall";
                return Err(Defect::new(BLOCK_BYTES, why));
            }
            before = number;
        }
        let mut before = 0;
        for i in 0..self.header.entries {
            let entry = self.entry(i)?;
            let position = Position(u64::from(!(entry as u32)));
            if entry < before || position > self.header.cover.last_position {
                let at = self.header.table_position() + i / ENTRIES_PER_BLOCK * BLOCK_BYTES as u64;
                let why = format!("entry {i} of the table is none of this segment");
                return Err(Defect::new(usize::try_from(at).unwrap_or(usize::MAX), why));
            }
            before = entry;
        }
        Ok(())
    }

    fn filter(&self) -> Option<Filter<'a>> {
        let lookup = *self;
        let at = self.header.filter_at();
        let blocks = self.header.filter;
        let block = move |n| lookup.block(at + n);
        (blocks != Blocks::default()).then(|| Filter::new(blocks, Box::new(block)))
    }

    fn block(&self, number: u64) -> Result<&'a [u8], Defect> {
        let at = usize::try_from(number.saturating_mul(BLOCK_BYTES as u64)).unwrap_or(usize::MAX);
        let bytes = self.bytes.get(at..).unwrap_or_default();
        checked(bytes, number, self.header.salt).map_err(|d| d.shifted(at))
    }

    /// Number `i` of the directory.
    fn number(&self, i: u64) -> Result<u64, Defect> {
        let block = self.block(self.header.directory_at() + i / NUMBERS_PER_BLOCK)?;
        let at = (i % NUMBERS_PER_BLOCK) as usize * 4;
        Ok(u64::from(read_u32(block, at).unwrap_or_default()))
    }

    fn entry(&self, i: u64) -> Result<u64, Defect> {
        let block = self.block(self.header.table_at() + i / ENTRIES_PER_BLOCK)?;
        let at = (i % ENTRIES_PER_BLOCK) as usize * 8;
        Ok(read_u64(block, at).unwrap_or_default())
    }

    /// The first of the entries `low..end` that is `entry` or more.
    fn first_at(&self, entry: u64, low: u64, end: u64) -> Result<u64, Defect> {
        let (mut low, mut high) = (low, end);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.entry(middle)? < entry {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        Ok(low)
    }
}

/// Writes the table and the directory of a file, given the entries in order.
#[derive(Debug)]
pub struct TableWriter {
    salt: u32,
    table_at: u64,
    directory_at: u64,
    bits: u32,
    directory: Vec<u32>,
    written: u64,
    /// Bytes of the block in hand that hold entries.
    block: usize,
}

impl TableWriter {
    /// A writer for the file with this header.
    pub fn new(header: &Header) -> TableWriter {
        TableWriter {
            salt: header.salt,
            table_at: header.table_at(),
            directory_at: header.directory_at(),
            bits: header.directory_bits,
            directory: vec![0; usize::try_from(header.numbers()).unwrap_or(0)],
            written: 0,
            block: 0,
        }
    }

    /// Appends an entry to `out`, which takes whole blocks from [`Header::table_position`] on. It may be
    /// emptied between two calls whenever [`TableWriter::is_at_block`].
    #[inline]
    pub fn push(&mut self, entry: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(&entry.to_be_bytes());
        self.block += 8;
        let slot = entry >> (64 - self.bits).min(63);
        let slot = if self.bits == 0 { 0 } else { slot };
        if let Some(n) = self.directory.get_mut(slot as usize + 1) {
            *n = n.saturating_add(1);
        }
        self.written += 1;
        if self.written.is_multiple_of(ENTRIES_PER_BLOCK) {
            self.end_block(out);
        }
    }

    /// Whether `out` ends in a whole block.
    pub fn is_at_block(&self) -> bool {
        self.block == 0
    }

    /// Fills the last block.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        if self.block > 0 {
            self.end_block(out);
        }
    }

    fn end_block(&mut self, out: &mut Vec<u8>) {
        let number = self.table_at + (self.written - 1) / ENTRIES_PER_BLOCK;
        let start = out.len() - self.block;
        seal(out, start, number, self.salt);
        self.block = 0;
    }

    /// The blocks of the directory, which follow block 0.
    pub fn directory(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut sum = 0u32;
        let blocks = self.directory.chunks(NUMBERS_PER_BLOCK as usize);
        for (number, block) in (self.directory_at..).zip(blocks) {
            let start = out.len();
            for n in block {
                sum = sum.saturating_add(*n);
                out.extend_from_slice(&sum.to_be_bytes());
            }
            seal(&mut out, start, number, self.salt);
        }
        out
    }
}

/// The blocks of the filters, which follow the table.
pub fn filter_blocks<'a>(
    header: &Header,
    payloads: impl Iterator<Item = Cow<'a, [u8]>>,
) -> impl Iterator<Item = Vec<u8>> {
    let salt = header.salt;
    (header.filter_at()..)
        .zip(payloads)
        .map(move |(number, payload)| {
            let mut out = Vec::with_capacity(BLOCK_BYTES);
            out.extend_from_slice(&payload);
            seal(&mut out, 0, number, salt);
            out
        })
}

/// Fills the block that begins at `start` of `out` with zeros and puts its checksum behind it.
fn seal(out: &mut Vec<u8>, start: usize, number: u64, salt: u32) {
    out.resize(start + PAYLOAD_BYTES, 0);
    let crc = checksum(out.get(start..).unwrap_or_default(), number, salt);
    out.extend_from_slice(&crc.to_be_bytes());
}

/// The payload of the block at the start of `bytes`, if its checksum holds.
fn checked(bytes: &[u8], number: u64, salt: u32) -> Result<&[u8], Defect> {
    let (Some(payload), Some(crc)) = (bytes.get(..PAYLOAD_BYTES), read_u32(bytes, PAYLOAD_BYTES))
    else {
        return Err(Defect::new(0, "a block is cut short"));
    };
    let computed = checksum(payload, number, salt);
    if computed != crc {
        let why = format!("block CRC-32 is {crc:08x}, computed {computed:08x}");
        return Err(Defect::new(PAYLOAD_BYTES, why));
    }
    Ok(payload)
}

fn checksum(payload: &[u8], number: u64, salt: u32) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt.to_be_bytes());
    hasher.update(&number.to_be_bytes());
    hasher.update(payload);
    hasher.finalize()
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    let end = at.checked_add(4)?;
    Some(u32::from_be_bytes(bytes.get(at..end)?.try_into().ok()?))
}

fn read_u64(bytes: &[u8], at: usize) -> Option<u64> {
    let end = at.checked_add(8)?;
    Some(u64::from_be_bytes(bytes.get(at..end)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cover(end: u64) -> Cover {
        Cover {
            base: Offset(7),
            file_bytes: end,
            end: Position(end),
            last_position: Position(end - 70),
            last_offset: Offset(99),
            last_crc: 0xdead_beef,
        }
    }

    /// A file with these values and the positions of the batches they are in.
    fn file(values: &[(Vec<u8>, u64)]) -> (Header, Vec<u8>) {
        let of = |(v, p): &(Vec<u8>, u64)| entry_of(hash_of(v), Position(*p));
        let mut entries: Vec<u64> = values.iter().map(of).collect();
        entries.sort_unstable();
        entries.dedup();
        let n = entries.len() as u64;
        let header =
            Header::new(cover(1 << 30), "key", values.len() as u64, Some(n), None).unwrap();
        let mut writer = TableWriter::new(&header);
        let mut table = Vec::new();
        entries.into_iter().for_each(|e| writer.push(e, &mut table));
        writer.finish(&mut table);
        let mut out = header.encode();
        out.extend(writer.directory());
        assert_eq!(out.len() as u64, header.table_position());
        out.extend(table);
        assert_eq!(out.len() as u64, header.file_bytes());
        (header, out)
    }

    fn positions(header: &Header, bytes: &[u8], value: &[u8]) -> Result<Vec<u64>, Defect> {
        let lookup = Lookup::new(header, bytes);
        let mut search = lookup.candidates(value)?;
        let mut out = Vec::new();
        while let Some(p) = lookup.next(&mut search)? {
            out.push(p.0);
        }
        Ok(out)
    }

    #[test]
    fn header_reads_back_as_written() {
        let filter = Some(Blocks {
            tokens: 4,
            grams: 0,
        });
        let header = Header::new(cover(5000), "json:/a/b", 3, Some(70_000), filter).unwrap();
        let block = header.encode();
        assert_eq!(block.len(), BLOCK_BYTES);
        let read = Header::parse(&block, header.file_bytes()).unwrap();
        assert_eq!(read, header);
        assert!(Header::parse(&block, header.file_bytes() + 4096).is_err());
        let filter = Blocks {
            tokens: 8,
            grams: 2,
        };
        let none = Header::new(cover(5000), "value", 3, None, Some(filter)).unwrap();
        let read = Header::parse(&none.encode(), 11 * 4096).unwrap();
        assert!(!read.has_table && read.has_filter && !read.is_outdated());
        assert_eq!(read.filter, filter);
    }

    #[test]
    fn what_a_file_cannot_hold_is_refused() {
        assert!(Header::new(cover(5000), &"x".repeat(1025), 0, Some(0), None).is_err());
        assert!(Header::new(cover(1 << 33), "key", 0, Some(0), None).is_err());
        assert!(Header::new(cover(5000), "key", 0, Some(1 << 32), None).is_err());
    }

    #[test]
    fn a_cover_is_of_one_state_of_one_file() {
        let mut batch = [0; 61];
        batch[11] = 70 - 12; // bytes behind the length
        batch[16] = 2; // magic
        batch[17..21].copy_from_slice(&0xdead_beef_u32.to_be_bytes());
        batch[7] = 90; // base offset
        batch[26] = 9; // last offset delta
        let last = BatchHeader::parse(&batch).unwrap();
        let cover = cover(5000);
        assert!(cover.is_of(5000, &last));
        assert!(!cover.is_of(5001, &last));
        let change = |f: fn(&mut BatchHeader)| {
            let mut other = last.clone();
            f(&mut other);
            cover.is_of(5000, &other)
        };
        assert!(!change(|h| h.crc += 1));
        assert!(!change(|h| h.last_offset = h.last_offset.next()));
        assert!(!change(|h| h.size += 1));
    }

    #[test]
    fn a_hot_key_lists_every_batch_newest_first() {
        let mut values: Vec<_> = (0..5000).map(|p| (b"hot".to_vec(), p * 100)).collect();
        values.extend((0..5000u64).map(|i| (i.to_string().into_bytes(), i)));
        let (header, bytes) = file(&values);
        let all = positions(&header, &bytes, b"hot").unwrap();
        let expected: Vec<u64> = (0..5000).rev().map(|p| p * 100).collect();
        assert_eq!(all, expected);
        assert_eq!(positions(&header, &bytes, b"4711").unwrap(), [4711]);
    }

    fn any_values() -> impl Strategy<Value = Vec<(Vec<u8>, u64)>> {
        let value = prop::collection::vec(0u8..4, 0..4);
        prop::collection::vec((value, 0u64..1 << 32), 0..2000)
    }

    proptest! {
        #[test]
        fn every_value_is_found_where_it_is(values in any_values()) {
            let (header, bytes) = file(&values);
            let header = Header::parse(&bytes, bytes.len() as u64).unwrap_or(header);
            for (value, _) in &values {
                let mut expected: Vec<u64> = values.iter()
                    .filter(|(v, _)| v == value).map(|(_, p)| *p).collect();
                expected.sort_unstable();
                expected.dedup();
                expected.reverse();
                prop_assert_eq!(positions(&header, &bytes, value).unwrap(), expected);
            }
            prop_assert!(positions(&header, &bytes, b"absent").unwrap().is_empty());
        }

        #[test]
        fn a_harmed_file_answers_right_or_not_at_all(
            values in any_values(),
            at in any::<prop::sample::Index>(),
            bit in 0u8..8,
            cut in any::<bool>(),
        ) {
            let (_, sound) = file(&values);
            let mut bytes = sound.clone();
            let at = at.index(bytes.len());
            match cut {
                true => bytes.truncate(at),
                false => bytes[at] ^= 1 << bit,
            }
            let Ok(header) = Header::parse(&bytes, bytes.len() as u64) else { return Ok(()) };
            for (value, _) in &values {
                if let Ok(found) = positions(&header, &bytes, value) {
                    prop_assert_eq!(found, positions(&header, &sound, value).unwrap());
                }
            }
        }

        #[test]
        fn no_bytes_make_it_panic(
            mut block in prop::collection::vec(any::<u8>(), BLOCK_BYTES * 3),
            bits in 0u32..40,
            entries in 0u64..3000,
        ) {
            // Made whole again, so that the fields are reached.
            block[..8].copy_from_slice(MAGIC);
            block[8..12].copy_from_slice(&VERSION.to_be_bytes());
            block[12..16].copy_from_slice(&PART_TABLE.to_be_bytes());
            block[60..64].copy_from_slice(&bits.to_be_bytes());
            block[72..80].copy_from_slice(&entries.to_be_bytes());
            block[80..88].fill(0);
            block[88..92].fill(0);
            let mut salt = 0;
            for n in 0..3 {
                let at = n * BLOCK_BYTES;
                let crc = checksum(&block[at..at + PAYLOAD_BYTES], n as u64, salt);
                block[at + PAYLOAD_BYTES..at + BLOCK_BYTES].copy_from_slice(&crc.to_be_bytes());
                salt = read_u32(&block, PAYLOAD_BYTES).unwrap();
            }
            if let Ok(header) = Header::parse(&block, block.len() as u64) {
                let _ = positions(&header, &block, b"x");
                let _ = Lookup::new(&header, &block).may_contain(b"x");
            }
        }
    }

    #[test]
    fn a_cover_that_no_segment_can_have_is_refused() {
        for (last, end) in [
            (u64::MAX, 100),
            (100, 100),
            (30, 101),
            (30, POSITION_MAX + 1),
        ] {
            let cover = Cover {
                file_bytes: if end > 101 { end } else { 100 },
                end: Position(end),
                last_position: Position(last),
                ..cover(100)
            };
            let (mut header, _) = file(&[]);
            header.cover = cover;
            let block = header.encode();
            let mut bytes = vec![0; usize::try_from(header.file_bytes()).unwrap()];
            bytes[..BLOCK_BYTES].copy_from_slice(&block);
            assert!(
                Header::parse(&bytes, bytes.len() as u64).is_err(),
                "{last} {end}"
            );
        }
    }

    #[test]
    fn a_block_of_another_file_or_place_is_damage() {
        let values = |n: u64| -> Vec<_> {
            (0..3000)
                .map(|i| (vec![(i % 251) as u8, (i / 251) as u8], i + n))
                .collect()
        };
        let (header, mut bytes) = file(&values(0));
        let (_, other) = file(&values(1));
        let at = usize::try_from(header.table_position()).unwrap();
        let (a, b) = (at, at + BLOCK_BYTES);
        let first: Vec<u8> = bytes[a..b].to_vec();
        bytes.copy_within(b..b + BLOCK_BYTES, a);
        assert!(
            values(0)
                .iter()
                .any(|(v, _)| positions(&header, &bytes, v).is_err())
        );
        bytes[a..b].copy_from_slice(&first);
        assert!(
            values(0)
                .iter()
                .all(|(v, _)| positions(&header, &bytes, v).is_ok())
        );
        let mut foreign = Header::new(
            Cover {
                last_crc: 1,
                ..cover(1 << 30)
            },
            "key",
            3000,
            Some(3000),
            None,
        )
        .unwrap()
        .encode();
        foreign.extend_from_slice(&other[BLOCK_BYTES..]);
        let header = Header::parse(&foreign, foreign.len() as u64).unwrap();
        assert!(
            values(0)
                .iter()
                .all(|(v, _)| positions(&header, &foreign, v).is_err())
        );
    }
}
