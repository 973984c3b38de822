//! gzip, RFC 1952. One member is written; any number of members is read, as Kafka's reader does.

use std::io::Read;

use flate2::bufread::MultiGzDecoder;
use flate2::{Compress, Compression, FlushCompress, Status};

use super::Sink;
use crate::format::Defect;

/// Window of 2^15 bytes, the largest there is and what every gzip writer uses.
const WINDOW_BITS: u8 = 15;

/// Compressor state, some 270 KB.
pub(super) struct Writer(Compress);

impl Writer {
    pub(super) fn new(level: i32) -> Writer {
        let level = Compression::new(level.unsigned_abs());
        Writer(Compress::new_gzip(level, WINDOW_BITS))
    }

    /// Appends one member holding `input` to `out`.
    pub(super) fn compress(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(), Defect> {
        self.0.reset();
        let mut rest = input;
        loop {
            // Half the input is a fair first guess; what does not fit comes with the next turn.
            out.reserve((rest.len() / 2).max(256));
            let before = self.0.total_in();
            let status = self
                .0
                .compress_vec(rest, out, FlushCompress::Finish)
                .map_err(|e| Defect::new(0, format!("gzip: {e}")))?;
            if status == Status::StreamEnd {
                return Ok(());
            }
            let used = usize::try_from(self.0.total_in().saturating_sub(before));
            rest = used.ok().and_then(|n| rest.get(n..)).unwrap_or_default();
        }
    }
}

/// Appends what all members of `input` hold to `sink`.
pub(super) fn decompress(input: &[u8], sink: &mut Sink<'_>) -> Result<(), Defect> {
    // One byte more than fits, so that a body of exactly the limit is told from a larger one.
    let most = sink.room().saturating_add(1);
    let mut members = MultiGzDecoder::new(input);
    let read = members
        .by_ref()
        .take(u64::try_from(most).unwrap_or(u64::MAX))
        .read_to_end(sink.out);
    let at = input.len().saturating_sub(members.get_ref().len());
    match read {
        Ok(n) if n == most => Err(sink.too_big(at)),
        Ok(_) => Ok(()),
        Err(e) => Err(Defect::new(at, format!("gzip: {e}"))),
    }
}
