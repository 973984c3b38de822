//! Prints what is in a partition, then stops: at the end as it was at the start, however fast others
//! write.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use super::emit::{Emitter, Flow, Sink};
use super::output::Meta;
use super::span;
use super::topic::Partition;
use super::words;
use crate::error::{Error, Result};
use crate::format::{Defect, Limits, Offset, Position};
use crate::log::isolation::{Feed, Isolation, OpenTransaction};
use crate::log::listing::LogDir;
use crate::log::reader::{Advance, Damage, Piece, ReadOptions, read_end};
use crate::log::reverse::Reverse;
use crate::log::view::View;
use crate::sys::Host;

/// What to read of each partition.
#[derive(Clone, Debug)]
pub struct CatOptions {
    /// From where to where.
    pub range: words::Range,
    /// Offsets outside the log, and what retention removes meanwhile, are no error.
    pub clamp: bool,
    /// What is shown of transactions.
    pub isolation: Isolation,
    /// Stop at the durable offset.
    pub durable: bool,
    /// Go on behind damage.
    pub skip_corrupt: bool,
    /// Newest first.
    pub reverse: bool,
    /// Bounds of what is read.
    pub limits: Limits,
}

/// Something a person should know, while reading goes on.
#[derive(Debug)]
pub enum Note {
    /// Damage was skipped.
    Damage(Damage),
    /// Retention removed these offsets before they could be read.
    Gone(PathBuf, Range<Offset>),
    /// What follows waits for this transaction to end.
    Open(PathBuf, OpenTransaction),
    /// The host rebooted since the last append, and the file ends in something that is no batch.
    TornTail(PathBuf, Position),
    /// The log was cut back; what comes next has this offset or more.
    CutBack(PathBuf, Offset),
    /// Nothing is known to be durable in this log.
    NothingDurable(PathBuf),
}

/// Reads one partition into `emitter`.
///
/// # Errors
/// `NotFound` for offsets outside the log, `Data` for damage, `ClosedPipe` when the reader is gone;
/// else what reading and writing may meet.
pub fn cat(
    host: &Arc<dyn Host>,
    partition: &Partition,
    options: &CatOptions,
    emitter: &mut Emitter,
    sink: &mut dyn Sink,
    note: &mut dyn FnMut(Note),
) -> Result<Flow> {
    let mut view = View::of(LogDir::open(host.as_ref(), &partition.path)?)?;
    let mut wanted = span::resolve(&mut view, &options.range, options.clamp, options.limits)?;
    if options.durable {
        let durable = read_end(&view)?.durable;
        if durable.is_none() {
            note(Note::NothingDurable(partition.path.clone()));
        }
        wanted.end = wanted
            .end
            .min(durable.unwrap_or(wanted.start))
            .max(wanted.start);
    }
    let read = ReadOptions {
        limits: options.limits,
        skip_corrupt: options.skip_corrupt,
    };
    let mut source = Source::new(host, view, wanted, options, read)?;
    let meta = Meta {
        topic: &partition.topic,
        partition: partition.number,
    };
    loop {
        match source.advance()? {
            Advance::Batch => {
                let Some(piece) = source.piece() else {
                    continue;
                };
                let shown = emitter.piece(&meta, &piece, sink)?;
                match shown {
                    Ok(Flow::More) => {}
                    Ok(Flow::Full) => return Ok(Flow::Full),
                    Err(defect) => {
                        let damage = source.condemn(defect);
                        if !options.skip_corrupt {
                            return Err(damage.error());
                        }
                        note(Note::Damage(damage));
                    }
                }
            }
            Advance::Gone(range) if options.clamp => {
                note(Note::Gone(partition.path.clone(), range))
            }
            Advance::Gone(range) => return Err(gone(partition, &range)),
            Advance::Damage(damage) => note(Note::Damage(damage)),
            Advance::End => break,
        }
    }
    if let Some(open) = source.open() {
        note(Note::Open(partition.path.clone(), open));
    } else if let Source::Forward(feed) = &mut source
        && let Some((path, position)) = feed.reader_mut().torn_tail()?
    {
        note(Note::TornTail(path, position));
    }
    Ok(Flow::More)
}

/// A partition read in one direction or the other.
enum Source {
    Forward(Box<Feed>),
    Backward(Box<Reverse>),
}

impl Source {
    fn new(
        host: &Arc<dyn Host>,
        view: View,
        wanted: Range<Offset>,
        options: &CatOptions,
        read: ReadOptions,
    ) -> Result<Source> {
        let (host, isolation) = (host.clone(), options.isolation);
        if options.reverse {
            let reverse = Reverse::new(host, view, wanted, isolation, read);
            return Ok(Source::Backward(Box::new(reverse)));
        }
        let feed = Feed::new(host, view, wanted, isolation, read)?;
        Ok(Source::Forward(Box::new(feed)))
    }

    fn advance(&mut self) -> Result<Advance> {
        match self {
            Source::Forward(feed) => feed.advance(),
            Source::Backward(reverse) => reverse.advance(),
        }
    }

    fn piece(&self) -> Option<Piece<'_>> {
        match self {
            Source::Forward(feed) => feed.piece(),
            Source::Backward(reverse) => reverse.piece(),
        }
    }

    fn condemn(&self, defect: Defect) -> Damage {
        match self {
            Source::Forward(feed) => feed.reader().condemn(defect),
            Source::Backward(reverse) => reverse.condemn(defect),
        }
    }

    fn open(&self) -> Option<OpenTransaction> {
        match self {
            Source::Forward(feed) => feed.open(),
            Source::Backward(reverse) => reverse.open(),
        }
    }
}

/// The error of a reader that retention has overtaken.
pub fn gone(partition: &Partition, range: &Range<Offset>) -> Error {
    let Range { start, end } = range;
    Error::not_found(format!(
        "offsets {start}..{end} were removed by retention while reading"
    ))
    .at_path(&partition.path)
    .hint(format!("--clamp goes on at {end}"))
}
