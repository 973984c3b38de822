//! Several logs in one order, printed or written as a new log.
//!
//! A new log by offset keeps the offsets, so that parts that [`super::split`] made become the original
//! again; two records with one offset are refused. By time it is numbered anew. Whole batches move as
//! they are stored where no other log has its turn in between.

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cat::{self, CatOptions, Note};
use super::emit::{Emitter, Pick, Sink};
use super::mix::{Due, Following, Laid, Mixer, Order, Run};
use super::part::{Coder, Numbers, Part};
use super::site::{Makes, Site};
use super::topic::Partition;
use crate::error::{Error, ErrorKind, Result};
use crate::format::Offset;
use crate::format::names::parse_partition;
use crate::log::fresh::Fresh;
use crate::log::reader::Piece;
use crate::segment::active::RollLimits;
use crate::sys::Host;
use crate::sys::watch::{Wake, Watch};

/// Which log is made, and how.
pub struct ToOptions<'a> {
    /// Its path: a topic, which gets one partition, or a partition.
    pub dest: &'a Path,
    /// When a segment is full.
    pub roll: RollLimits,
    /// Its settings, as they are written down.
    pub config: String,
    /// Everything is durable before the log gets its name.
    pub durable: bool,
    /// Write on a network file system too.
    pub allow_network_fs: bool,
}

/// What was written.
#[derive(Debug)]
pub struct Merged {
    /// Where it is.
    pub path: PathBuf,
    /// Records in it.
    pub records: u64,
}

/// Prints the records of `partitions` in one order.
///
/// # Errors
/// As [`super::cat::cat`].
pub fn print(
    host: &Arc<dyn Host>,
    partitions: &[Partition],
    order: Order,
    read: &CatOptions,
    printer: &mut Printer<'_>,
) -> Result<()> {
    let mut mixer = Mixer::open(host, partitions, order, read, printer.note)?;
    printer.all_due(&mut mixer, &mut Vec::new()).map(drop)
}

/// Prints the records of `partitions` in one order, and goes on as they grow, until everything in the
/// range was shown. What is to be had is handed on before each wait. `out` is the descriptor whose
/// reader may go away.
///
/// # Errors
/// `ClosedPipe` when the reader is gone; else as [`print`].
pub fn follow(
    host: &Arc<dyn Host>,
    partitions: &[Partition],
    order: Order,
    following: Following,
    printer: &mut Printer<'_>,
    out: Option<BorrowedFd<'_>>,
) -> Result<()> {
    let mut mixer = Mixer::open(host, partitions, order, &following.read, printer.note)?;
    let mut watch = Watch::new();
    mixer.follow(host, following, &mut watch)?;
    let mut picks = Vec::new();
    let mut was_woken = false;
    loop {
        was_woken |= mixer.watch(&mut watch);
        // The first look finds what was written before it was watched.
        loop {
            let look = (std::mem::take(&mut was_woken), Instant::now());
            if !mixer.refresh(host, &mut watch, look, printer.note)? {
                break;
            }
            was_woken = mixer.watch(&mut watch);
            printer.all_due(&mut mixer, &mut picks)?;
        }
        let until = match printer.all_due(&mut mixer, &mut picks)? {
            _ if mixer.is_at_end() => return Ok(()),
            until => until,
        };
        printer.emitter.flush(printer.sink)?;
        printer.sink.pause(Duration::ZERO)?;
        let left = until.map(|u| u.saturating_duration_since(Instant::now()));
        let wake = watch.wait(left, out);
        match wake.map_err(|e| Error::io("cannot wait", e))? {
            Wake::ReaderGone => {
                return Err(Error::new(ErrorKind::ClosedPipe, "the reader is gone"));
            }
            Wake::Changed | Wake::Timeout | Wake::Interrupted => was_woken = true,
        }
    }
}

/// Where records go that are printed.
pub struct Printer<'a> {
    /// Gives them their form.
    pub emitter: &'a mut Emitter,
    /// Takes them.
    pub sink: &'a mut dyn Sink,
    /// Hears what a person should know.
    pub note: &'a mut dyn FnMut(Note),
}

impl Printer<'_> {
    /// Shows all records whose turn it is. Tells until when it is nobody's.
    fn all_due(&mut self, mixer: &mut Mixer, picks: &mut Vec<Pick>) -> Result<Option<Instant>> {
        loop {
            if let Due::At(until) = mixer.due(Instant::now()) {
                return Ok(until);
            }
            let Some(run) = mixer.next_run() else {
                return Ok(None);
            };
            show(mixer, &run, picks, self.emitter, self.sink)?;
            mixer.took(&run, self.note)?;
        }
    }
}

fn show(
    mixer: &Mixer,
    run: &Run,
    picks: &mut Vec<Pick>,
    emitter: &mut Emitter,
    sink: &mut dyn Sink,
) -> Result<()> {
    let (Some(partition), Some(laid)) = (mixer.partition(run.log), mixer.laid(run.log)) else {
        return Ok(());
    };
    let meta = cat::meta(partition);
    if let Some(batch) = laid.batch().filter(|_| run.is_batch) {
        let piece = Piece {
            batch,
            wanted: Offset::ZERO..Offset::MAX,
        };
        let shown = emitter.piece(&meta, &piece, sink)?;
        return shown
            .map(drop)
            .map_err(|d| Error::data(d.reason).at_path(&partition.path));
    }
    let Some(plain) = laid.plain() else {
        return Ok(());
    };
    picks.clear();
    let places = laid.places.get(run.from..run.to).unwrap_or_default();
    picks.extend(places.iter().map(|p| Pick {
        position: p.position,
        gap: false,
    }));
    emitter.picked(&meta, &plain, picks, sink)
}

/// Writes the records of `partitions` in one order as a new log. Nothing is left of it if that fails,
/// or if `stop` asks for the end; `None` then.
///
/// # Errors
/// `CannotCreate` if the log exists, `Data` for two records with one offset; else as
/// [`super::cat::cat`], and what writing may meet.
pub fn write(
    host: &Arc<dyn Host>,
    partitions: &[Partition],
    order: Order,
    read: &CatOptions,
    to: &ToOptions<'_>,
    stop: &dyn Fn() -> bool,
    note: &mut dyn FnMut(Note),
) -> Result<Option<Merged>> {
    let mut mixer = Mixer::open(host, partitions, order, read, note)?;
    let mut site = Site::open(host.as_ref(), to.dest, Makes::Dest, to.allow_network_fs)?;
    let name = to.dest.file_name().and_then(|n| n.to_str());
    let name = name.unwrap_or_default();
    let (topic, number) = parse_partition(name).unwrap_or((name, 0));
    let name = site.add(topic, number)?;
    let numbers = match order {
        Order::Time => Numbers::Dense,
        Order::Offset => Numbers::Keep,
    };
    let fresh = Fresh::begin(host, site.dir(), &name, to.roll);
    let (mut part, mut coder) = (Part::new(fresh, numbers, &[]), Coder::default());
    let mut last: Option<(Offset, usize)> = None;
    while let Some(run) = mixer.next_run() {
        if stop() {
            return Ok(None);
        }
        if numbers == Numbers::Keep {
            refuse_twins(&mixer, &run, &mut last)?;
        }
        if let Some(laid) = mixer.laid(run.log) {
            take(&mut part, &mut coder, laid, &run)?;
        }
        mixer.took(&run, note)?;
    }
    let records = part.records();
    part.finish(&mut coder, host.as_ref(), &to.config, to.durable)?;
    let path = site.publish(to.durable)?.pop().unwrap_or_default();
    Ok(Some(Merged { path, records }))
}

/// Adds the records of a run to a log.
///
/// # Errors
/// As [`Part::record`].
pub(super) fn take(part: &mut Part, coder: &mut Coder, laid: &Laid, run: &Run) -> Result<()> {
    if let Some(batch) = laid.batch().filter(|_| run.is_batch)
        && part.batch(coder, &batch)?
    {
        return Ok(());
    }
    let Some(plain) = laid.plain() else {
        return Ok(());
    };
    for place in laid.places.get(run.from..run.to).unwrap_or_default() {
        if let Some(record) = plain.record_at(place.position as usize) {
            part.record(coder, plain.header(), &record)?;
        }
    }
    Ok(())
}

/// Refuses an offset that two logs have. By offset, the second comes right behind the first.
fn refuse_twins(mixer: &Mixer, run: &Run, last: &mut Option<(Offset, usize)>) -> Result<()> {
    let places = mixer.laid(run.log).map(|l| l.places.as_slice());
    let run_places = places.and_then(|p| p.get(run.from..run.to));
    let (Some(first), Some(end)) = (
        run_places.and_then(<[_]>::first),
        run_places.and_then(<[_]>::last),
    ) else {
        return Ok(());
    };
    if let Some((offset, other)) = last.filter(|(offset, _)| first.offset <= *offset) {
        let path = |log| {
            let partition = mixer.partition(log);
            partition.map(|p| p.path.clone()).unwrap_or_default()
        };
        let (one, two) = (path(other), path(run.log));
        let why = format!("{} has a record with this offset too", one.display());
        return Err(Error::data(why)
            .at_path(two)
            .at_offset(offset.0)
            .hint("--order time numbers the records anew"));
    }
    *last = Some((end.offset, run.log));
    Ok(())
}
