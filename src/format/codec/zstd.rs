//! Zstandard, RFC 8878. One frame that states its content size is written; any number of frames,
//! sized or not, is read, as Kafka's reader does.

use zstd::zstd_safe::{
    CCtx, CParameter, DCtx, DParameter, InBuffer, OutBuffer, ResetDirective, compress_bound,
    get_error_name, get_frame_content_size, zstd_sys::ZSTD_EndDirective,
};

use super::Sink;
use crate::format::Defect;

/// What a frame header may announce as content size and get reserved at once, per byte of input:
/// text seldom shrinks more. A better ratio is read all the same, growing as it comes.
const RATIO_TRUSTED: usize = 64;
/// The least to make room for at a time: one zstd block.
const STEP_BYTES: usize = 128 << 10;
/// A context that grew past this, for a large window, is not kept. Usual ones stay below 1 MiB.
const KEEP_BYTES: usize = 8 << 20;

/// Compression context, kept between frames with its tables.
pub(super) struct Writer {
    context: CCtx<'static>,
    level: i32,
}

impl Writer {
    pub(super) fn new(level: i32) -> Writer {
        Writer {
            context: CCtx::create(),
            level,
        }
    }

    /// Appends one frame holding `input` to `out`.
    pub(super) fn compress(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(), Defect> {
        self.context
            .reset(ResetDirective::SessionOnly)
            .and_then(|_| {
                let level = CParameter::CompressionLevel(self.level);
                self.context.set_parameter(level)
            })
            .map_err(|code| defect(0, code))?;
        // With room for the worst case zstd compresses in one pass straight into `out`.
        out.reserve(compress_bound(input.len()));
        let start = out.len();
        let mut from = InBuffer::around(input);
        let mut to = OutBuffer::around_pos(out, start);
        let left = self
            .context
            .compress_stream2(&mut to, &mut from, ZSTD_EndDirective::ZSTD_e_end)
            .map_err(|code| defect(0, code))?;
        if left != 0 {
            return Err(Defect::new(0, "zstd: output outgrew its bound"));
        }
        Ok(())
    }
}

/// Decompression context, kept between frames.
#[derive(Default)]
pub(super) struct Reader(Option<DCtx<'static>>);

impl Reader {
    /// Appends what all frames of `input` hold to `sink`.
    pub(super) fn decompress(
        &mut self,
        input: &[u8],
        window_log_max: u32,
        sink: &mut Sink<'_>,
    ) -> Result<(), Defect> {
        if input.is_empty() {
            return Err(Defect::new(0, "zstd: no frame"));
        }
        // What zstd itself knows how to bound.
        let window_log_max = window_log_max.clamp(10, 31);
        let context = match &mut self.0 {
            Some(context) => context,
            none => none.insert(DCtx::try_create().ok_or_else(no_memory)?),
        };
        // Whatever the last frame left behind, an error included.
        context
            .reset(ResetDirective::SessionOnly)
            .and_then(|_| context.set_parameter(DParameter::WindowLogMax(window_log_max)))
            .map_err(|code| defect(0, code))?;
        let mut from = InBuffer::around(input);
        let mut done = Ok(());
        while done.is_ok() && from.pos() < input.len() {
            done = frame(context, input, &mut from, window_log_max, sink);
        }
        if context.sizeof() > KEEP_BYTES {
            self.0 = None;
        }
        done
    }
}

/// Decompresses the frame at the position of `from`, which is all of `input`.
fn frame(
    context: &mut DCtx<'static>,
    input: &[u8],
    from: &mut InBuffer<'_>,
    window_log_max: u32,
    sink: &mut Sink<'_>,
) -> Result<(), Defect> {
    let rest = input.get(from.pos()..).unwrap_or_default();
    check_window(rest, from.pos(), window_log_max)?;
    let mut reserve = first_reservation(rest);
    loop {
        // One byte more than fits, so that a body of exactly the limit is told from a larger one.
        sink.out.reserve(reserve.min(sink.room().saturating_add(1)));
        let (at, produced) = (from.pos(), sink.produced());
        let start = sink.out.len();
        let hint = context
            .decompress_stream(&mut OutBuffer::around_pos(sink.out, start), from)
            .map_err(|code| defect(from.pos(), code))?;
        if sink.produced() > sink.max {
            return Err(sink.too_big(from.pos()));
        }
        if hint == 0 {
            return Ok(());
        }
        if from.pos() == at && sink.produced() == produced {
            return Err(Defect::new(at, "zstd: frame is cut short"));
        }
        reserve = sink.produced().max(STEP_BYTES);
    }
}

/// Room for a frame's announced content, as far as its compressed bytes make it believable: zstd
/// works in one pass, without a window of its own, when all of the content has room.
fn first_reservation(rest: &[u8]) -> usize {
    match get_frame_content_size(rest) {
        Ok(Some(announced)) => usize::try_from(announced)
            .unwrap_or(usize::MAX)
            .min(rest.len().saturating_mul(RATIO_TRUSTED))
            .max(1),
        _ => STEP_BYTES,
    }
}

/// Refuses a frame whose window is too large, before anything is done with it. zstd checks the same
/// when it streams, but not when it takes the whole frame in one pass; which of the two it does must
/// not decide what can be read.
fn check_window(rest: &[u8], at: usize, window_log_max: u32) -> Result<(), Defect> {
    const MAGIC: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];
    const SINGLE_SEGMENT: u8 = 0x20;
    let Some([descriptor, window, ..]) = rest.strip_prefix(&MAGIC) else {
        return Ok(()); // A skippable frame has no window; zstd tells what else it may be.
    };
    if descriptor & SINGLE_SEGMENT != 0 {
        return Ok(()); // The window is the content, which has a limit of its own.
    }
    let base = 1_u64 << (10 + u32::from(window >> 3));
    let bytes = base.saturating_add((base >> 3).saturating_mul(u64::from(window & 7)));
    let most = 1_u64.checked_shl(window_log_max).unwrap_or(u64::MAX);
    if bytes > most {
        return Err(Defect::new(
            at,
            format!("zstd: window of {bytes} bytes, at most {most} allowed"),
        ));
    }
    Ok(())
}

fn defect(at: usize, code: usize) -> Defect {
    let reason = get_error_name(code).to_ascii_lowercase();
    Defect::new(at, format!("zstd: {reason}"))
}

fn no_memory() -> Defect {
    Defect::new(0, "zstd: out of memory")
}
