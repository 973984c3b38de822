//! Prints what is in a partition, then stops: at the end as it was at the start, however fast others
//! write.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use super::consume::{Claim, GroupOptions, behind_shown};
use super::emit::{Emitter, Flow, Sink};
use super::output::Meta;
use super::span;
use super::topic::Partition;
use super::words;
use crate::error::{Error, Result};
use crate::format::{Defect, Limits, Offset, Position};
use crate::log::groups::Group;
use crate::log::isolation::{Feed, Isolation, OpenTransaction};
use crate::log::listing::LogDir;
use crate::log::lost::Lost;
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
    /// An index that could have saved work is damaged, and was not used.
    Index(Error),
    /// Recovery took this out of the log before a position could be stored.
    Lost(PathBuf, Vec<Lost>),
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
    let mut cat = Cat {
        host,
        options,
        emitter,
        sink,
        note,
    };
    cat.partition(partition)
}

/// Where records come from and go to.
pub struct Cat<'a> {
    /// The machine.
    pub host: &'a Arc<dyn Host>,
    /// What to read of each partition.
    pub options: &'a CatOptions,
    /// What to show of it, and how.
    pub emitter: &'a mut Emitter,
    /// Where it goes.
    pub sink: &'a mut dyn Sink,
    /// Hears what a person should know.
    pub note: &'a mut dyn FnMut(Note),
}

impl Cat<'_> {
    /// Reads one partition.
    ///
    /// # Errors
    /// As [`cat`].
    pub fn partition(&mut self, partition: &Partition) -> Result<Flow> {
        let mut source = self.open(partition)?;
        self.read(partition, &mut source, None)
    }

    /// Opens one partition.
    ///
    /// # Errors
    /// As [`cat`].
    pub(super) fn open(&mut self, partition: &Partition) -> Result<Source> {
        let options = self.options;
        let mut view = View::of(LogDir::open(self.host.as_ref(), &partition.path)?)?;
        let wanted = span::resolve(&mut view, &options.range, options.clamp, options.limits)?;
        self.source(partition, view, wanted)
    }

    /// Reads one partition from the position of a group on, whose lock is held. The claim knows how far
    /// it came; the emitter may still hold some of that.
    ///
    /// # Errors
    /// As [`cat`] and [`Claim::begin`].
    pub fn claimed(
        &mut self,
        partition: &Partition,
        group: Group,
        how: &GroupOptions,
    ) -> Result<(Flow, Claim)> {
        let options = self.options;
        let mut view = View::of(LogDir::open(self.host.as_ref(), &partition.path)?)?;
        let mut claim = Claim::begin(group, &mut view, how, options.clamp, self.note)?;
        let range = words::Range {
            from: None,
            ..options.range
        };
        let end = span::resolve(&mut view, &range, options.clamp, options.limits)?.end;
        let wanted = claim.next()..end.max(claim.next());
        let mut source = self.source(partition, view, wanted)?;
        let flow = self.read(partition, &mut source, Some(&mut claim))?;
        Ok((flow, claim))
    }

    fn source(
        &mut self,
        partition: &Partition,
        view: View,
        mut wanted: Range<Offset>,
    ) -> Result<Source> {
        if self.options.durable {
            let durable = read_end(&view)?.durable;
            if durable.is_none() {
                (self.note)(Note::NothingDurable(partition.path.clone()));
            }
            wanted.end = wanted
                .end
                .min(durable.unwrap_or(wanted.start))
                .max(wanted.start);
        }
        Source::new(self.host, view, wanted, self.options)
    }

    /// Reads a source to its end.
    ///
    /// # Errors
    /// As [`cat`].
    pub(super) fn read(
        &mut self,
        partition: &Partition,
        source: &mut Source,
        mut claim: Option<&mut Claim>,
    ) -> Result<Flow> {
        loop {
            match source.advance()? {
                Advance::Batch => {
                    let flow = self.piece(partition, source, claim.as_deref_mut())?;
                    if flow == Flow::Full {
                        return Ok(Flow::Full);
                    }
                }
                Advance::End => break,
                missing => self.missing(partition, missing, claim.as_deref())?,
            }
        }
        if let (Some(claim), Some(next)) = (claim, source.next_offset()) {
            claim.shown(next.max(claim.next()));
        }
        self.end(partition, source)
    }

    /// Tells what cannot be read.
    ///
    /// # Errors
    /// `NotFound` for what retention has removed, unless that is no error.
    pub(super) fn missing(
        &mut self,
        partition: &Partition,
        missing: Advance,
        claim: Option<&Claim>,
    ) -> Result<()> {
        match missing {
            Advance::Gone(range) if self.options.clamp => {
                (self.note)(Note::Gone(partition.path.clone(), range));
            }
            Advance::Gone(range) => return Err(gone(partition, &range, claim)),
            Advance::Damage(damage) => (self.note)(Note::Damage(damage)),
            Advance::Batch | Advance::End => {}
        }
        Ok(())
    }

    /// Tells at what a source ended, where that is not the end of the log.
    ///
    /// # Errors
    /// The file that tells of the last append cannot be read.
    pub(super) fn end(&mut self, partition: &Partition, source: &mut Source) -> Result<Flow> {
        if let Some(open) = source.open() {
            (self.note)(Note::Open(partition.path.clone(), open));
        } else if let Source::Forward(feed) = source
            && let Some((path, position)) = feed.reader_mut().torn_tail()?
        {
            (self.note)(Note::TornTail(path, position));
        }
        Ok(Flow::More)
    }

    /// Shows the batch that was found.
    fn piece(
        &mut self,
        partition: &Partition,
        source: &Source,
        claim: Option<&mut Claim>,
    ) -> Result<Flow> {
        let Some(piece) = source.piece() else {
            return Ok(Flow::More);
        };
        let meta = meta(partition);
        let left = self.emitter.left();
        match self.emitter.piece(&meta, &piece, self.sink)? {
            Ok(Flow::More) => {}
            Ok(Flow::Full) => {
                if let Some(claim) = claim {
                    let count = left - self.emitter.left();
                    let limits = &self.options.limits;
                    claim.shown(behind_shown(self.emitter, &piece, count, limits));
                }
                return Ok(Flow::Full);
            }
            Err(defect) => {
                let damage = source.condemn(defect);
                if !self.options.skip_corrupt {
                    return Err(damage.error());
                }
                (self.note)(Note::Damage(damage));
            }
        }
        Ok(Flow::More)
    }
}

/// What formats tell of a partition.
pub(super) fn meta(partition: &Partition) -> Meta<'_> {
    Meta {
        topic: &partition.topic,
        partition: partition.number,
    }
}

/// A partition read in one direction or the other.
pub(super) enum Source {
    Forward(Box<Feed>),
    Backward(Box<Reverse>),
}

impl Source {
    pub(super) fn new(
        host: &Arc<dyn Host>,
        view: View,
        wanted: Range<Offset>,
        options: &CatOptions,
    ) -> Result<Source> {
        let (host, isolation) = (host.clone(), options.isolation);
        let read = ReadOptions {
            limits: options.limits,
            skip_corrupt: options.skip_corrupt,
        };
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

    /// How far a read forward came.
    fn next_offset(&self) -> Option<Offset> {
        match self {
            Source::Forward(feed) => Some(feed.reader().next_offset().min(feed.reader().until())),
            Source::Backward(_) => None,
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
pub fn gone(partition: &Partition, range: &Range<Offset>, claim: Option<&Claim>) -> Error {
    if let Some(claim) = claim {
        return claim.overtaken(range);
    }
    let Range { start, end } = range;
    Error::not_found(format!(
        "offsets {start}..{end} were removed by retention while reading"
    ))
    .at_path(&partition.path)
    .hint(format!("--clamp goes on at {end}"))
}
