//! A log as a stream that is carried by hand: one direction, no answers.
//!
//! HELLO, then partition after partition SOURCE, START, EPOCHS, DATA, DONE. Whoever reads it compares
//! what overlaps with what it has and appends the rest; at the end of the input every partition must
//! have had its DONE. Frames are read and written whole; memory is one frame.

use std::io::{Read, Write};
use std::time::Instant;

use super::copy::{Copy, CopyOptions};
use super::local::{Report, Watcher, decoded};
use super::log_copy::LogCopy;
use super::log_source::LogSource;
use super::outbox::Outbox;
use super::refusal::{refused, unexpected};
use super::source::{Sent, Source, SourceOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::format::wire::{self, Framed, HEAD_BYTES, Hello, Message, PARTITION_MAX, Role, SESSION};
use crate::ops::throttle::Throttle;
use crate::sys::signals;

/// Bytes that a reader's buffer grows by at a time: memory follows what came.
const READ_BYTES: usize = 256 << 10;

/// Writes the greeting of a stream of `partitions` of the log `name`.
///
/// # Errors
/// What writing meets; usage for a partition that has no channel.
pub fn greet(out: &mut dyn Write, name: &str, partitions: &[u32]) -> Result<()> {
    if let Some(n) = partitions.iter().find(|n| **n > u32::from(PARTITION_MAX)) {
        return Err(Error::usage(format!(
            "partition {n} is above {PARTITION_MAX}"
        )));
    }
    let hello = Hello {
        version: wire::VERSION,
        lowest: wire::VERSION_LOWEST,
        role: Role::OneWay,
        options: 0,
        idle_ms: 0,
        name: name.to_string(),
        range: String::new(),
        group: String::new(),
        partitions: partitions.to_vec(),
    };
    let mut frame = Vec::new();
    wire::encode(SESSION, &Message::Hello(hello), &mut frame);
    out.write_all(&frame).map_err(cannot_write)
}

/// Writes one partition.
///
/// # Errors
/// The log cannot be read, or the stream not be written.
pub fn send(
    out: &mut dyn Write,
    channel: u16,
    log: LogSource,
    options: &SourceOptions,
    throttle: &Throttle,
    watcher: &dyn Watcher,
) -> Result<Report> {
    let options = SourceOptions {
        one_way: true,
        follow: false,
        ..options.clone()
    };
    let mut outbox = Outbox::new();
    let mut source = Source::new(channel, log, options, &mut outbox)?;
    let mut report = Report {
        from: source.position(),
        ..Report::default()
    };
    watcher.begins(source.log().bytes_from(source.position()));
    loop {
        out.write_all(outbox.pending()).map_err(cannot_write)?;
        outbox.clear(usize::MAX);
        if signals::stop_requested().is_some() {
            report.stopped = true;
            break;
        }
        let before = source.bytes();
        let sent = source.send(&mut outbox)?;
        source
            .take_notes()
            .into_iter()
            .for_each(|n| watcher.note(n));
        let bytes = source.bytes() - before;
        throttle.spend(bytes);
        watcher.stored(bytes);
        if sent == Sent::Nothing {
            break;
        }
    }
    report.bytes = source.bytes();
    (report.end, report.durable) = (source.position(), source.position());
    Ok(report)
}

/// Reads a stream. `open` gives the copy for each partition of the greeting.
///
/// # Errors
/// The stream is damaged, ends early, or does not fit what is there; or that cannot be written.
pub fn receive(
    input: &mut dyn Read,
    options: &CopyOptions,
    open: &mut dyn FnMut(&Hello, u32) -> Result<LogCopy>,
    watcher: &dyn Watcher,
) -> Result<Vec<(u32, Report)>> {
    let mut frames = Frames::new(input);
    let first = frames.next()?;
    let hello = match first.map(decoded).transpose()?.map(|f| f.message) {
        Some(Message::Hello(hello)) if hello.role == Role::OneWay => hello,
        None => return Err(ends_early()),
        _ => return Err(unexpected("no stream of logd replicate")),
    };
    let options = CopyOptions {
        one_way: true,
        ..options.clone()
    };
    let mut reports = Vec::new();
    for number in &hello.partitions {
        let channel = u16::try_from(*number).map_err(|_| unexpected("a partition too large"))?;
        let copy = Copy::new(channel, open(&hello, *number)?, options.clone());
        reports.push((*number, one(&mut frames, channel, copy, watcher)?));
    }
    Ok(reports)
}

/// Reads one partition's frames.
fn one(
    frames: &mut Frames<'_>,
    channel: u16,
    mut copy: Copy<LogCopy>,
    watcher: &dyn Watcher,
) -> Result<Report> {
    let mut out = Outbox::new();
    let mut report = Report::default();
    let mut met = false;
    let taken = loop {
        if signals::stop_requested().is_some() {
            report.stopped = true;
            break Ok(());
        }
        let frame = match frames.next() {
            Ok(Some(bytes)) => match decoded(bytes) {
                Ok(frame) => frame,
                Err(e) => break Err(e),
            },
            Ok(None) => break Err(ends_early()),
            Err(e) => break Err(e),
        };
        if frame.channel != channel {
            break Err(match frame.message {
                Message::Refuse(r) => refused(&r),
                _ => unexpected(format!("channel {} where {channel} is due", frame.channel)),
            });
        }
        let before = copy.bytes();
        let taken = copy.receive(&frame.message, None, Instant::now(), &mut out);
        out.clear(0);
        watcher.stored(copy.bytes() - before);
        if !std::mem::replace(&mut met, true) {
            report.from = copy.written();
        }
        if taken.is_err() || copy.is_done() {
            break taken;
        }
    };
    report.bytes = copy.bytes();
    let stopped = copy.stop(&mut out);
    (report.end, report.durable) = (copy.written(), copy.durable());
    let closed = copy.into_log().close();
    taken.and(stopped).and(closed).map(|()| report)
}

/// Whole frames from a reader.
struct Frames<'a> {
    input: &'a mut dyn Read,
    buf: Vec<u8>,
    at: usize,
    filled: usize,
}

impl<'a> Frames<'a> {
    fn new(input: &'a mut dyn Read) -> Frames<'a> {
        Frames {
            input,
            buf: Vec::new(),
            at: 0,
            filled: 0,
        }
    }

    /// The next frame; `None` at the end.
    fn next(&mut self) -> Result<Option<&[u8]>> {
        loop {
            let have = self.buf.get(self.at..self.filled).unwrap_or_default();
            let need = match wire::frame(have) {
                Framed::Whole(size) => {
                    let from = self.at;
                    self.at += size;
                    return Ok(self.buf.get(from..self.at));
                }
                Framed::NeedMore(need) => need,
                Framed::Bad(d) => return Err(unexpected(d.to_string())),
            };
            let empty = have.is_empty();
            self.room(need.max(HEAD_BYTES));
            let free = self.buf.get_mut(self.filled..).unwrap_or_default();
            match self.input.read(free) {
                Ok(0) if empty => return Ok(None),
                Ok(0) => return Err(ends_early()),
                Ok(n) => self.filled += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {
                    if signals::stop_requested().is_some() {
                        return Err(ends_early());
                    }
                }
                Err(e) => return Err(Error::io("cannot read the stream", e)),
            }
        }
    }

    /// Makes room for more of a frame of `need` bytes.
    fn room(&mut self, need: usize) {
        if self.at > 0 && (self.at == self.filled || self.buf.len() - self.at < need) {
            self.buf.copy_within(self.at..self.filled, 0);
            (self.at, self.filled) = (0, self.filled - self.at);
        }
        if self.buf.len() - self.filled < READ_BYTES {
            // Doubling, so that memory follows what came and copies stay few.
            let len = (self.filled + READ_BYTES).max(self.filled * 2);
            self.buf
                .resize(len.min(need.max(self.filled + READ_BYTES)), 0);
        }
    }
}

fn ends_early() -> Error {
    Error::data("the stream ends early; what came is kept, a whole one will complete it")
}

fn cannot_write(e: std::io::Error) -> Error {
    let error = Error::io("cannot write the stream", e);
    match error.kind() {
        ErrorKind::ClosedPipe => error.with_kind(ErrorKind::Io),
        _ => error,
    }
}
