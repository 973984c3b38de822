//! Snappy, in the framing of xerial's snappy-java or as one raw block.
//!
//! | at | size | field of the xerial header (big-endian) |
//! |---|---|---|
//! | 0 | 8 | `82 53 4E 41 50 50 59 00` |
//! | 8 | 4 | version; 1 is written, any is read |
//! | 12 | 4 | oldest compatible version; 1 is written, any is read |
//!
//! Then, to the end: 4 bytes block length, one raw snappy block. A header may come again where a
//! block could begin (two streams put together); snappy-java skips it and so does this.
//!
//! Java, the broker and the Python clients frame; librdkafka writes a raw block in magic 2. The first
//! eight bytes tell them apart: a raw block beginning with them would announce 10,626 bytes and then
//! copy from before its own start, which no block can.

use super::Sink;
use crate::format::Defect;

const MAGIC: [u8; 8] = *b"\x82SNAPPY\0";
const HEADER_LEN: usize = MAGIC.len() + 4 + 4;
const LENGTH_LEN: usize = 4;
/// Input bytes in a block written here: snappy-java's default, hence every Java client's.
const BLOCK_BYTES: usize = 32 << 10;
/// No snappy element makes more than 64 bytes from 3, so no block grows more than 22 times.
const RATIO_MAX: usize = 22;

/// Compressor state: the hash table of a block.
pub(super) struct Writer(snap::raw::Encoder);

impl Default for Writer {
    fn default() -> Writer {
        Writer(snap::raw::Encoder::new())
    }
}

impl Writer {
    /// Appends the xerial framing of `input` to `out`.
    pub(super) fn compress(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(), Defect> {
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&1_i32.to_be_bytes());
        out.extend_from_slice(&1_i32.to_be_bytes());
        for block in input.chunks(BLOCK_BYTES) {
            let length_at = out.len();
            let block_at = length_at.saturating_add(LENGTH_LEN);
            out.resize(
                block_at.saturating_add(snap::raw::max_compress_len(block.len())),
                0,
            );
            let room = out.get_mut(block_at..).unwrap_or_default();
            let len = self
                .0
                .compress(block, room)
                .map_err(|e| Defect::new(0, format!("snappy: {e}")))?;
            out.truncate(block_at.saturating_add(len));
            let len = u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes();
            if let Some(at) = out.get_mut(length_at..block_at) {
                at.copy_from_slice(&len);
            }
        }
        Ok(())
    }
}

/// Appends what `input` holds, in either framing, to `sink`.
pub(super) fn decompress(input: &[u8], sink: &mut Sink<'_>) -> Result<(), Defect> {
    if !input.starts_with(&MAGIC) {
        return block(input, 0, sink);
    }
    let mut rest = input;
    while !rest.is_empty() {
        let at = input.len().saturating_sub(rest.len());
        rest = if rest.starts_with(&MAGIC) {
            rest.get(HEADER_LEN..)
                .ok_or_else(|| Defect::new(at, "snappy header is cut short"))?
        } else {
            framed_block(rest, at, sink)?
        };
    }
    Ok(())
}

/// Decompresses the block that `rest` begins with, length first; returns what follows it.
fn framed_block<'a>(rest: &'a [u8], at: usize, sink: &mut Sink<'_>) -> Result<&'a [u8], Defect> {
    let (length, rest) = rest
        .split_first_chunk::<LENGTH_LEN>()
        .ok_or_else(|| Defect::new(at, "snappy block length is cut short"))?;
    let length = i32::from_be_bytes(*length);
    let (bytes, rest) = usize::try_from(length)
        .ok()
        .and_then(|n| rest.split_at_checked(n))
        .ok_or_else(|| {
            let left = rest.len();
            Defect::new(
                at,
                format!("snappy block length {length}, {left} bytes left"),
            )
        })?;
    block(bytes, at.saturating_add(LENGTH_LEN), sink)?;
    Ok(rest)
}

/// Decompresses one raw block that begins at byte `at` of the input.
fn block(bytes: &[u8], at: usize, sink: &mut Sink<'_>) -> Result<(), Defect> {
    let defect = |e: snap::Error| Defect::new(at, format!("snappy: {e}"));
    let len = snap::raw::decompress_len(bytes).map_err(defect)?;
    if len > bytes.len().saturating_mul(RATIO_MAX) {
        let have = bytes.len();
        return Err(Defect::new(
            at,
            format!("snappy block of {have} bytes announces {len}, more than it can hold"),
        ));
    }
    if len > sink.room() {
        return Err(sink.too_big(at));
    }
    sink.fill(len, |_, space| {
        snap::raw::Decoder::new().decompress(bytes, space)
    })
    .map_err(defect)
}
