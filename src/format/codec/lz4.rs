//! LZ4 frames. The blocks are `lz4_flex`'s; the frame around them is read and written here, because
//! Kafka has rules of its own about it.
//!
//! | at | size | field (little-endian) |
//! |---|---|---|
//! | 0 | 4 | `04 22 4D 18` |
//! | 4 | 1 | FLG: version 01, then independent, block checksums, content size, content checksum, 0, dictionary |
//! | 5 | 1 | BD: bits 4 to 6 the largest block, 4 to 7 for 64 KiB to 4 MiB |
//! | 6 | 0 or 8 | content size |
//! | … | 1 | header checksum: second byte of XXH32 of FLG up to here |
//!
//! Then blocks: 4 bytes length (top bit: stored as it is), the bytes, 4 bytes XXH32 of them if FLG
//! says so. A length of 0 ends the frame; 4 bytes XXH32 of the content follow if FLG says so.
//!
//! * Exactly one frame is read: Kafka reads no second one.
//! * In magic 0 writers took the header checksum over the 4 magic bytes too; Kafka does not check it
//!   there, and neither does this.
//! * Content size and content checksum are skipped, as Kafka does: what Kafka reads must be readable,
//!   and the batch's own checksum covers the same bytes.
//! * Linked blocks are read, though Kafka does not.
//! * A frame is written with FLG 0x60 and BD 0x40: independent blocks of 64 KiB, nothing optional.

use lz4_flex::block::{compress_into, decompress_into_with_dict, get_maximum_output_size};
use twox_hash::XxHash32;

use super::Sink;
use crate::format::Defect;

const MAGIC: [u8; 4] = [0x04, 0x22, 0x4D, 0x18];
const FLG_VERSION_MASK: u8 = 0xC0;
const FLG_VERSION: u8 = 0x40;
const FLG_INDEPENDENT: u8 = 0x20;
const FLG_BLOCK_CHECKSUM: u8 = 0x10;
const FLG_CONTENT_SIZE: u8 = 0x08;
const FLG_CONTENT_CHECKSUM: u8 = 0x04;
/// Bit 1 must be 0; bit 0 calls for a dictionary, which nobody has.
const FLG_UNKNOWN: u8 = 0x03;
/// BD 4, the smallest block there is and the one Java clients write.
const BLOCK_BYTES: usize = 64 << 10;
const BD_SHIFT: u32 = 4;
const BD_UNKNOWN: u8 = 0x8F;
/// Frame header as written: magic, FLG, BD, XXH32([0x60, 0x40]) >> 8.
const HEADER: [u8; 7] = [
    MAGIC[0],
    MAGIC[1],
    MAGIC[2],
    MAGIC[3],
    FLG_VERSION | FLG_INDEPENDENT,
    4 << BD_SHIFT,
    0x82,
];
const STORED: u32 = 1 << 31;
const END_MARK: [u8; 4] = [0; 4];
/// How far back a match can reach, hence what a linked block needs of the ones before.
const WINDOW_BYTES: usize = 64 << 10;
/// One byte of a block makes at most 255 of a match; a few more go with the token before it.
const RATIO_MAX: usize = 255;

/// Appends one frame holding `input` to `out`.
pub(super) fn compress(input: &[u8], out: &mut Vec<u8>) -> Result<(), Defect> {
    out.extend_from_slice(&HEADER);
    for block in input.chunks(BLOCK_BYTES) {
        let length_at = out.len();
        let block_at = length_at.saturating_add(4);
        out.resize(
            block_at.saturating_add(get_maximum_output_size(block.len())),
            0,
        );
        let room = out.get_mut(block_at..).unwrap_or_default();
        let len = compress_into(block, room).map_err(|e| Defect::new(0, format!("lz4: {e}")))?;
        out.truncate(block_at.saturating_add(len));
        let mut length = u32::try_from(len).unwrap_or(u32::MAX);
        if len >= block.len() {
            out.truncate(block_at);
            out.extend_from_slice(block);
            length = STORED | u32::try_from(block.len()).unwrap_or(u32::MAX);
        }
        if let Some(at) = out.get_mut(length_at..block_at) {
            at.copy_from_slice(&length.to_le_bytes());
        }
    }
    out.extend_from_slice(&END_MARK);
    Ok(())
}

/// Appends what the one frame in `input` holds to `sink`.
pub(super) fn decompress(input: &[u8], magic: u8, sink: &mut Sink<'_>) -> Result<(), Defect> {
    let mut from = Cursor { all: input, at: 0 };
    let frame = Frame::read(&mut from, magic)?;
    while frame.block(&mut from, sink)? {}
    if frame.content_checksum {
        from.take(4, "content checksum")?;
    }
    match input.len().saturating_sub(from.at) {
        0 => Ok(()),
        n => Err(Defect::new(
            from.at,
            format!("lz4: {n} bytes after the end of the frame"),
        )),
    }
}

/// Input and how far it has been read.
struct Cursor<'a> {
    all: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// The next `n` bytes, which are `what`.
    fn take(&mut self, n: usize, what: &str) -> Result<&'a [u8], Defect> {
        let end = self.at.saturating_add(n);
        let bytes = self
            .all
            .get(self.at..end)
            .ok_or_else(|| Defect::new(self.at, format!("lz4: {what} is cut short")))?;
        self.at = end;
        Ok(bytes)
    }

    /// The next 4 bytes as a number, which is `what`.
    fn u32(&mut self, what: &str) -> Result<u32, Defect> {
        let bytes = self.take(4, what)?;
        Ok(bytes
            .first_chunk()
            .map_or(0, |bytes| u32::from_le_bytes(*bytes)))
    }
}

/// What a frame header says about the blocks after it.
struct Frame {
    independent: bool,
    block_checksum: bool,
    content_checksum: bool,
    block_bytes_max: usize,
}

impl Frame {
    fn read(from: &mut Cursor<'_>, magic: u8) -> Result<Frame, Defect> {
        if from.take(MAGIC.len(), "frame header")? != MAGIC {
            return Err(Defect::new(0, "lz4: not a frame"));
        }
        let described_at = from.at;
        let &[flg, bd] = from.take(2, "frame header")? else {
            return Err(Defect::new(described_at, "lz4: frame header is cut short"));
        };
        if flg & FLG_VERSION_MASK != FLG_VERSION || flg & FLG_UNKNOWN != 0 {
            let reason = format!("lz4: frame flags {flg:#04x} are not known");
            return Err(Defect::new(described_at, reason));
        }
        let size_id = u32::from(bd >> BD_SHIFT);
        if bd & BD_UNKNOWN != 0 || size_id < 4 {
            let reason = format!("lz4: block descriptor {bd:#04x} is not known");
            return Err(Defect::new(described_at, reason));
        }
        if flg & FLG_CONTENT_SIZE != 0 {
            from.take(8, "content size")?;
        }
        let described = from.all.get(described_at..from.at).unwrap_or_default();
        let [_, want, _, _] = XxHash32::oneshot(0, described).to_le_bytes();
        let checksum_at = from.at;
        let found = from.take(1, "frame header")?;
        if magic != 0 && found != [want] {
            return Err(Defect::new(checksum_at, "lz4: wrong frame header checksum"));
        }
        Ok(Frame {
            independent: flg & FLG_INDEPENDENT != 0,
            block_checksum: flg & FLG_BLOCK_CHECKSUM != 0,
            content_checksum: flg & FLG_CONTENT_CHECKSUM != 0,
            block_bytes_max: BLOCK_BYTES << (2 * (size_id - 4)),
        })
    }

    /// Decompresses the next block; false when it was the end mark.
    fn block(&self, from: &mut Cursor<'_>, sink: &mut Sink<'_>) -> Result<bool, Defect> {
        let at = from.at;
        let length = from.u32("block length")?;
        let len = usize::try_from(length & !STORED).unwrap_or(usize::MAX);
        if len == 0 {
            return Ok(false);
        }
        if len > self.block_bytes_max {
            let most = self.block_bytes_max;
            let reason = format!("lz4: block of {len} bytes in a frame with blocks up to {most}");
            return Err(Defect::new(at, reason));
        }
        let bytes = from.take(len, "block")?;
        if self.block_checksum && from.u32("block checksum")? != XxHash32::oneshot(0, bytes) {
            return Err(Defect::new(at, "lz4: wrong block checksum"));
        }
        if length & STORED != 0 {
            sink.extend(bytes).map_err(|e| e.shifted(at))?;
        } else {
            self.compressed(bytes, at, sink)?;
        }
        Ok(true)
    }

    /// Decompresses the bytes of a compressed block whose length stood at byte `at`.
    fn compressed(&self, bytes: &[u8], at: usize, sink: &mut Sink<'_>) -> Result<(), Defect> {
        // Room for what these bytes can become, so a tiny block does not cost a large one's memory.
        let most = bytes
            .len()
            .saturating_mul(RATIO_MAX)
            .min(self.block_bytes_max);
        let room = sink.room();
        let result = sink.fill(most.min(room), |before, space| {
            let reach = match self.independent {
                true => before.len(),
                false => before.len().saturating_sub(WINDOW_BYTES),
            };
            decompress_into_with_dict(bytes, space, before.get(reach..).unwrap_or_default())
        });
        match result {
            Ok(()) => Ok(()),
            Err(lz4_flex::block::DecompressError::OutputTooSmall { .. }) if room < most => {
                Err(sink.too_big(at))
            }
            Err(e) => Err(Defect::new(at, format!("lz4: {e}"))),
        }
    }
}
