//! Both halves of a channel in one process: a log replicated into another directory here.
//!
//! Two threads. One runs the source: it reads frames into buffers and checks their batches, so that
//! reading and checking overlap with writing. The other runs the copy. Buffers go round; there are
//! [`DEPTH`] of them, which is what bounds memory and holds the faster side back. The frames are those
//! of the protocol, so that nothing is different from a connection but the way.

use std::sync::Arc;
use std::sync::mpsc::{
    Receiver, RecvTimeoutError, SyncSender, TryRecvError, channel, sync_channel,
};
use std::time::{Duration, Instant};

use super::copy::{Copy, CopyOptions};
use super::ends::CopyLog;
use super::log_copy::LogCopy;
use super::log_source::LogSource;
use super::outbox::Outbox;
use super::refusal::unexpected;
use super::source::{Note, Sent, Source, SourceOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::format::wire::{self, Bad, FLAG_PART, FLAG_ZSTD, Frame, Framed, Message};
use crate::format::{Limits, Offset, TimestampMs};
use crate::log::lost::Lost;
use crate::ops::throttle::Throttle;
use crate::sys::watch::{Wake, Watch};
use crate::sys::{Host, signals};

/// Frames between the two threads.
const DEPTH: usize = 4;
/// Longest sleep of a follower that nobody wakes: how soon it sees that the other thread has ended.
const NAP: Duration = Duration::from_millis(500);
/// Memory that a buffer keeps for its next frame.
const BUFFER_KEPT: usize = 2 << 20;

/// What is told while it runs.
pub trait Watcher: Sync {
    /// So many bytes of batches are to be sent, about.
    fn begins(&self, _bytes: u64) {}
    /// So many more were stored.
    fn stored(&self, _bytes: u64) {}
    /// Something that people should know of.
    fn note(&self, _note: Note) {}
}

/// What came of one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Where the copy ended before.
    pub from: Offset,
    /// Where it ends now.
    pub end: Offset,
    /// How much of it is durable.
    pub durable: Offset,
    /// Bytes of batches that were sent.
    pub bytes: u64,
    /// A signal ended it.
    pub stopped: bool,
}

/// A frame on its way to the copy, and what checking it found.
struct Parcel<C> {
    frames: Outbox,
    checked: Option<C>,
}

/// Replicates `source` into `copy`.
///
/// What recovery of the copy took out is told at the end.
///
/// # Errors
/// The first thing that went wrong on either side.
#[allow(clippy::too_many_arguments)] // each is another thing
pub fn replicate(
    host: &Arc<dyn Host>,
    source: LogSource,
    copy: LogCopy,
    options: &SourceOptions,
    copy_options: &CopyOptions,
    throttle: &Throttle,
    watcher: &dyn Watcher,
    told: &mut dyn FnMut(Vec<Lost>),
) -> Result<Report> {
    let (to_copy, parcels) = sync_channel(DEPTH);
    let (to_source, replies) = channel();
    let (give_back, spare) = channel();
    let limits = copy_options.limits;
    let options = SourceOptions {
        window: usize::MAX, // the buffers are the window
        ..options.clone()
    };
    let mut copy = Copy::new(0, copy, copy_options.clone());
    let (sent, received) = std::thread::scope(|scope| {
        let sender = scope.spawn(move || {
            let mut sender = Sender {
                host: host.as_ref(),
                to_copy,
                replies,
                spare,
                throttle,
                watcher,
                limits,
                began: false,
            };
            sender.run(source, options)
        });
        let received = receive(&mut copy, &parcels, &to_source, &give_back, watcher);
        drop((parcels, to_source, give_back));
        signals::wake();
        (sender.join(), received)
    });
    let sent =
        sent.unwrap_or_else(|_| Err(Error::new(ErrorKind::Bug, "the source's thread ended")));
    let mut end = (copy.written(), copy.durable());
    let stopped = copy.stop(&mut Outbox::new());
    end.1 = copy.durable().max(end.1);
    let mut copy = copy.into_log();
    told(copy.take_lost());
    let closed = copy.close();
    // The side that failed first knows why; the other only that nobody is there any more.
    let report = match (sent, received) {
        (Ok(report), Ok(())) => report,
        (Err(e), Ok(())) => return Err(e),
        (Err(e), Err(gone)) if is_gone(&gone) => return Err(e),
        (_, Err(e)) => return Err(e),
    };
    stopped?;
    closed?;
    Ok(Report {
        end: end.0,
        durable: end.1,
        ..report
    })
}

fn gone() -> Error {
    Error::new(ErrorKind::ClosedPipe, "the other side has ended")
}

fn is_gone(e: &Error) -> bool {
    e.kind() == ErrorKind::ClosedPipe
}

/// The copy's thread: takes parcels until the source has ended.
fn receive<L: CopyLog>(
    copy: &mut Copy<L>,
    parcels: &Receiver<Parcel<L::Checked>>,
    to_source: &std::sync::mpsc::Sender<Outbox>,
    give_back: &std::sync::mpsc::Sender<Outbox>,
    watcher: &dyn Watcher,
) -> Result<()> {
    let mut out = Outbox::new();
    loop {
        let parcel = match parcels.try_recv() {
            Ok(parcel) => parcel,
            Err(TryRecvError::Disconnected) => return Ok(()),
            Err(TryRecvError::Empty) => {
                let due = copy.idle(Instant::now(), &mut out)?;
                reply(&mut out, to_source);
                let waited = match due {
                    Some(due) => {
                        parcels.recv_timeout(due.saturating_duration_since(Instant::now()))
                    }
                    None => parcels.recv().map_err(|_| RecvTimeoutError::Disconnected),
                };
                match waited {
                    Ok(parcel) => parcel,
                    Err(RecvTimeoutError::Timeout) => continue,
                    Err(RecvTimeoutError::Disconnected) => return Ok(()),
                }
            }
        };
        let (before, mut checked) = (copy.bytes(), parcel.checked);
        let now = Instant::now();
        let taken = each_frame(parcel.frames.pending(), |frame| {
            let checked = match frame.message {
                Message::Data(_) => checked.take(),
                _ => None,
            };
            copy.receive(&frame.message, checked, now, &mut out)
        });
        let bytes = copy.bytes() - before;
        if bytes > 0 {
            watcher.stored(bytes);
        }
        reply(&mut out, to_source);
        taken?;
        let mut frames = parcel.frames;
        frames.clear(BUFFER_KEPT);
        let _ = give_back.send(frames); // the source may have sent its last
    }
}

/// Sends what there is to say. A source that has ended needs no answer.
fn reply(out: &mut Outbox, to_source: &std::sync::mpsc::Sender<Outbox>) {
    if !out.is_empty() {
        let _ = to_source.send(std::mem::take(out));
    }
}

/// Hands over every frame in `bytes`, which holds whole ones.
pub(super) fn each_frame(
    mut bytes: &[u8],
    mut take: impl FnMut(Frame<'_>) -> Result<()>,
) -> Result<()> {
    while !bytes.is_empty() {
        let Framed::Whole(size) = wire::frame(bytes) else {
            return Err(unexpected("a frame cut short"));
        };
        let (frame, rest) = bytes.split_at(size);
        take(decoded(frame)?)?;
        bytes = rest;
    }
    Ok(())
}

/// Decodes a frame, in our own error.
pub(super) fn decoded(bytes: &[u8]) -> Result<Frame<'_>> {
    wire::decode(bytes).map_err(|bad| match bad {
        Bad::Version { version, lowest } => {
            let ours = wire::VERSION;
            let why = format!(
                "the other side speaks versions {lowest} to {version} of the protocol, this one {ours}"
            );
            Error::new(ErrorKind::Version, why)
        }
        Bad::Defect(d) => unexpected(d.to_string()),
    })
}

/// The source's thread.
struct Sender<'a> {
    host: &'a dyn Host,
    to_copy: SyncSender<Parcel<<LogCopy as CopyLog>::Checked>>,
    replies: Receiver<Outbox>,
    spare: Receiver<Outbox>,
    throttle: &'a Throttle,
    watcher: &'a dyn Watcher,
    limits: Limits,
    began: bool,
}

impl Sender<'_> {
    fn run(&mut self, log: LogSource, options: SourceOptions) -> Result<Report> {
        let follow = options.follow;
        let mut out = Outbox::new();
        let mut source = Source::new(0, log, options, &mut out)?;
        let mut watch = follow.then(Watch::new);
        let mut watched = None;
        self.pass(&mut out)?;
        let mut report = Report::default();
        loop {
            if signals::stop_requested().is_some() {
                report.stopped = true;
                break;
            }
            while let Ok(reply) = self.replies.try_recv() {
                self.heard(&mut source, &reply, &mut out)?;
            }
            if source.is_done() {
                break;
            }
            let before = source.bytes();
            let sent = source.send(&mut out)?;
            self.notes(&mut source, &mut report);
            self.throttle.spend(source.bytes() - before);
            self.pass(&mut out)?;
            if sent == Sent::Frame {
                continue;
            }
            match &mut watch {
                Some(watch) if self.began => {
                    self.sleep(watch, &mut watched, &mut source, &mut out)?;
                }
                _ => match self.replies.recv() {
                    Ok(reply) => self.heard(&mut source, &reply, &mut out)?,
                    Err(_) => return Err(gone()),
                },
            }
            self.pass(&mut out)?;
        }
        report.bytes = source.bytes();
        Ok(report)
    }

    fn heard(
        &mut self,
        source: &mut Source<LogSource>,
        reply: &Outbox,
        out: &mut Outbox,
    ) -> Result<()> {
        let taken = each_frame(reply.pending(), |frame| source.receive(&frame.message, out));
        self.pass(out)?; // a refusal too
        taken
    }

    fn notes(&mut self, source: &mut Source<LogSource>, report: &mut Report) {
        for note in source.take_notes() {
            self.watcher.note(note);
        }
        if !self.began && source.is_sending() {
            self.began = true;
            report.from = source.copy().end;
            self.watcher
                .begins(source.log().bytes_from(source.position()));
        }
    }

    /// Waits until the log changes. The watch is set before the last look, so nothing is missed.
    fn sleep(
        &self,
        watch: &mut Watch,
        watched: &mut Option<Offset>,
        source: &mut Source<LogSource>,
        out: &mut Outbox,
    ) -> Result<()> {
        let now = || TimestampMs(self.host.wall_ms());
        let view = source.log().view();
        let tail = view.tail().map(|t| t.segment.base());
        if *watched != Some(tail.unwrap_or(Offset(-1))) {
            if watched.is_none() {
                let _ = watch.dir(view.log().dir().as_ref());
            }
            if let Some(tail) = view.tail() {
                let _ = watch.file(&*tail.file);
            }
            *watched = Some(tail.unwrap_or(Offset(-1)));
            return source.wake(now(), out);
        }
        let woke = watch.wait(Some(NAP), None);
        match woke.map_err(|e| Error::io("cannot wait", e))? {
            Wake::Changed => source.wake(now(), out),
            // The copy's thread may have ended.
            Wake::Timeout => self.probe(),
            Wake::ReaderGone | Wake::Interrupted => self.probe(),
        }
    }

    /// Whether the copy is still there.
    fn probe(&self) -> Result<()> {
        let frames = Outbox::new();
        let checked = None;
        self.to_copy
            .send(Parcel { frames, checked })
            .map_err(|_| gone())
    }

    /// Hands what is in `out` to the copy, its batches checked.
    fn pass(&mut self, out: &mut Outbox) -> Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        let fresh = self.spare.try_recv().unwrap_or_default();
        let frames = std::mem::replace(out, fresh);
        let mut checked = None;
        each_frame(frames.pending(), |frame| {
            if let Message::Data(data) = frame.message
                && data.flags & (FLAG_PART | FLAG_ZSTD) == 0
            {
                // What is wrong with it, or that it is the end of a part, the copy finds out itself.
                checked = LogCopy::check(data.raw, &self.limits).ok();
            }
            Ok(())
        })?;
        self.to_copy
            .send(Parcel { frames, checked })
            .map_err(|_| gone())
    }
}
