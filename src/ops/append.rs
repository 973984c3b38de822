//! `append`: input to records, records to batches, batches to the log, and an honest account of it.
//!
//! ```text
//! source -> input -> accept -> pack -> pipeline -> stage -> log
//!                                         |          \-> ledger <- sync
//!                                         \-> squeeze
//! ```
//!
//! | module | owns |
//! |---|---|
//! | [`source`] | stdin or files as one run of bytes; is more ready |
//! | [`run`] | the reading loop: input to records to lanes, and every way it ends |
//! | [`accept`], [`once`], [`unique`], `seed` | which partition, and whether at all |
//! | [`pack`] | records into batches, batches into parcels |
//! | [`pipeline`] | inline or over a queue to a thread; the background sync |
//! | [`squeeze`] | compression on all cores |
//! | [`stage`] | the append lock, writing, the full disk |
//! | [`ledger`] | what is written, acknowledged, lost |
//! | [`origin`], [`kept`], [`rejects`] | which input bytes records came from; `-T`, `--spill`; `--rejects` |
//!
//! The rules that hold it together:
//!
//! * Nothing is held back: when no more input is ready, what is there is written.
//! * What is acknowledged (counted, printed, copied to stdout) is durable, or under `--sync never`
//!   written. Any other end than a silent success says exactly how far that goes.
//! * Memory is a few buffers of fixed size, whatever the input.

pub mod accept;
pub mod kept;
pub mod ledger;
pub mod once;
pub mod origin;
pub mod pack;
pub mod pipeline;
pub mod rejects;
mod run;
mod seed;
pub mod source;
pub mod squeeze;
pub mod stage;
#[cfg(test)]
mod tests;
pub mod unique;

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use self::accept::Gatekeeper;
use self::kept::Kept;
use self::ledger::{Ledger, Tally, merge};
use self::once::{Once, producer_id};
use self::origin::Span;
use self::pack::{Packer, Shape};
use self::pipeline::{Background, Pipeline};
use self::rejects::Rejects;
use self::run::{After, Conditions, Reading, Run};
use self::source::Source;
use self::squeeze::Squeezer;
use self::stage::{Stage, StageOptions, sync_all};
use self::unique::Window;
use crate::error::{Error, Result};
use crate::format::Offset;
use crate::format::codec::{Codec, Compression};
use crate::log::config::Partitioner;
use crate::log::writer::Writer;
use crate::ops::input::{Input, InputOptions};
use crate::ops::output::Format;
use crate::sys::Host;

/// When what is written reaches the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncWhen {
    /// Before it is acknowledged; everything that was ready together with one sync.
    Batch,
    /// At least that often.
    Every(Duration),
    /// Once, at the end.
    Exit,
    /// Not at all: acknowledged when written.
    Never,
}

/// What to do on a full disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFull {
    /// Stop.
    Fail,
    /// Hold the input until there is room.
    Wait,
}

/// How to append.
#[derive(Clone, Debug)]
pub struct Options {
    /// How input becomes records.
    pub input: InputOptions,
    /// `--sync`.
    pub sync: SyncWhen,
    /// `--batch-size`, bytes before compression.
    pub batch_bytes: usize,
    /// `--batch-records`.
    pub batch_records: Option<i32>,
    /// `--linger`.
    pub linger: Duration,
    /// `-z`, or the log's.
    pub compression: Compression,
    /// The log stamps records with the time of the append.
    pub append_time: bool,
    /// Where records with a key go.
    pub partitioner: Partitioner,
    /// `--on-full`.
    pub on_full: OnFull,
    /// `--exclusive`.
    pub exclusive: bool,
    /// `--expect-offset`.
    pub expect: Option<Offset>,
    /// `--once`.
    pub once: Option<String>,
    /// `--unique`.
    pub unique: Option<Duration>,
    /// `--skip-bytes`.
    pub skip_bytes: u64,
    /// `--timeout`.
    pub deadline: Option<Instant>,
}

/// Is told the bytes read and the records acknowledged by now; the answer is when to tell again.
pub type Look<'s> = dyn FnMut(u64, u64) -> Option<Duration> + 's;

/// What input comes from, and what goes elsewhere than to the log.
pub struct Streams<'s> {
    /// The input.
    pub source: &'s mut Source,
    /// `--on-error skip`: where what cannot be taken goes. `None` is to stop.
    pub rejects: Option<&'s mut Rejects>,
    /// `-T`: where input goes once it is acknowledged.
    pub tee: Option<Box<dyn Write + Send>>,
    /// `--spill`: where input goes that was not acknowledged.
    pub spill: Option<&'s mut dyn Write>,
    /// Who wants to know how far it is.
    pub progress: Option<&'s mut Look<'s>>,
}

/// How a run ended.
#[derive(Debug)]
pub enum End {
    /// The input was read to its end.
    Input,
    /// A record was malformed; everything before it is in the log.
    BadInput(Error),
    /// A signal asked to stop.
    Signal(i32),
    /// `--timeout` passed.
    Timeout,
    /// Something failed.
    Failed(Error),
}

/// The account of a run.
#[derive(Debug)]
pub struct Report {
    /// What was acknowledged, partition by partition.
    pub tallies: Vec<Tally>,
    /// Input bytes read and neither acknowledged nor rejected, skipped or dropped.
    pub unacknowledged: u64,
    /// Input position below which everything is settled: for `--skip-bytes`.
    pub frontier: u64,
    /// Records that earlier runs of `--once` had stored.
    pub skipped: u64,
    /// Records that `--unique` dropped.
    pub repeated: u64,
    /// `--unique` had to forget IDs before their time.
    pub forgot: bool,
    /// Records rejected.
    pub rejected: u64,
    /// How it ended.
    pub end: End,
    /// What else failed, after that.
    pub further: Vec<Error>,
}

impl Report {
    /// Records acknowledged in all partitions.
    pub fn records(&self) -> u64 {
        self.tallies.iter().map(|t| t.records).sum()
    }

    /// Input bytes they came from.
    pub fn bytes(&self) -> u64 {
        self.tallies.iter().map(|t| t.bytes).sum()
    }
}

/// Appends the input to the partitions of one log, in the order of `writers`.
///
/// On return everything the report counts is durable (`--sync never`: written). The writers are
/// still open.
///
/// # Errors
/// What keeps the run from beginning; nothing was written. How a run ended is in the report.
pub fn append(
    host: &Arc<dyn Host>,
    writers: &mut [Writer],
    streams: Streams<'_>,
    options: &Options,
) -> Result<Report> {
    let input = Input::new(&options.input)?;
    let once = match &options.once {
        Some(name) => Some(Once::claim(name, writers)?),
        None => None,
    };
    let mut next_offsets = Vec::new();
    if options.input.keep_offsets {
        for w in writers.iter_mut() {
            let hold = w.hold()?;
            next_offsets.push(hold.next_offset());
            hold.release()?;
        }
    }
    let counts = once.as_ref().map(Once::counts);
    let unique = match options.unique {
        Some(span) => Some(window(host, writers, span, &options.input)?),
        None => None,
    };
    let gate = Gatekeeper::new(writers.len(), options.partitioner, counts.clone(), unique);
    let state = Reading::new(next_offsets);
    let setup = Setup {
        host,
        options,
        input,
        gate,
        counts,
        state,
    };
    setup.run(writers, streams, once.as_ref())
}

/// The window of `--unique` as an earlier run left it. IDs in columns of a table are not found in
/// what is stored, unless they are the keys.
fn window(
    host: &Arc<dyn Host>,
    writers: &mut [Writer],
    span: Duration,
    input: &InputOptions,
) -> Result<Window> {
    let id = input
        .id_from
        .as_ref()
        .filter(|id| Some(*id) != input.key_from.as_ref());
    let mut window = Window::new(span);
    for w in writers.iter_mut() {
        // Recovers what has to be recovered, so that the tail can be read.
        w.hold()?.release()?;
        seed::seed(host, w.path(), span, id, &mut window)?;
    }
    Ok(window)
}

/// Everything a run needs that is ready before it begins.
struct Setup<'r> {
    host: &'r Arc<dyn Host>,
    options: &'r Options,
    input: Input,
    gate: Gatekeeper,
    counts: Option<Vec<u64>>,
    state: Reading,
}

impl Setup<'_> {
    fn run(
        self,
        writers: &mut [Writer],
        streams: Streams<'_>,
        once: Option<&Once>,
    ) -> Result<Report> {
        let Streams {
            source,
            mut rejects,
            tee,
            spill,
            progress,
        } = streams;
        let options = self.options;
        let seekable = source.is_seekable();
        let keep = tee.is_some() || (spill.is_some() && !seekable);
        let kept = keep.then(|| Arc::new(Kept::new(source.position(), tee)));
        let ledger = Ledger::new(
            writers.len(),
            source.position(),
            spill.is_some(),
            kept.clone(),
        );
        let stage = Stage::new(writers, &ledger, self.stage_options(), options.exclusive)?;
        let syncers = stage.syncers();
        let stage = Mutex::new(stage);
        let (result, mut after) =
            self.drive(source, rejects.as_deref_mut(), progress, &stage, &ledger);
        if options.sync != SyncWhen::Never {
            sync_all(&ledger, &syncers);
        }
        ledger.settle();
        let stage = stage.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut further: Vec<Error> = stage.close().err().into_iter().collect();
        further.extend(rejects.as_ref().and_then(|r| r.sync().err()));
        if let Some(once) = once.filter(|_| options.sync != SyncWhen::Never) {
            further.extend(save_counts(once, &ledger.tallies()));
        }
        if let Some(out) = spill {
            let mut spans = ledger.unacknowledged();
            spans.append(&mut after.unsent);
            merge(&mut spans);
            let kept = kept.as_deref().filter(|_| !seekable);
            further.extend(spill_to(out, &spans, &after.header, source, kept).err());
        }
        let end = match (ledger.take_failure(), result) {
            (None, Ok(end)) => end,
            (Some(e), _) | (None, Err(e)) => End::Failed(e),
        };
        let rejected = rejects.as_ref().map_or(0, |r| r.count());
        let read = source.position().saturating_sub(options.skip_bytes);
        Ok(report(&ledger, &after, read, rejected, end, further))
    }

    /// Reads and writes until the input ends, one way or another.
    fn drive(
        self,
        source: &mut Source,
        rejects: Option<&mut Rejects>,
        progress: Option<&mut Look<'_>>,
        stage: &Mutex<Stage<'_>>,
        ledger: &Ledger,
    ) -> (Result<End>, After) {
        let options = self.options;
        let lock = || stage.lock().unwrap_or_else(PoisonError::into_inner);
        let background = match options.sync {
            SyncWhen::Every(every) => Some(Background::new(every, lock().syncers())),
            _ => None,
        };
        let shape = self.shape(ledger.exact());
        let squeezer = shape
            .compressed
            .then(|| Arc::new(Squeezer::new(options.compression)));
        let mut packer = Packer::new(shape, lock().lanes());
        if let (Some(counts), Some(name)) = (&self.counts, &options.once) {
            for (lane, count) in counts.iter().enumerate() {
                packer.set_producer(lane, producer_id(name), *count);
            }
        }
        std::thread::scope(|scope| {
            let background = background.as_ref();
            let step = self.step();
            let mut run = Run {
                with: self.conditions(ledger),
                source,
                input: self.input,
                gate: self.gate,
                rejects,
                progress,
                packer,
                pipeline: Pipeline::new(scope, stage, ledger, squeezer, background, step),
                state: self.state,
            };
            let result = run.run();
            let after = run.finish();
            if let Some(background) = background {
                background.stop();
            }
            (result, after)
        })
    }

    /// Each record is written and synced by itself.
    fn step(&self) -> bool {
        self.options.batch_records == Some(1) && self.options.sync == SyncWhen::Batch
    }

    fn stage_options(&self) -> StageOptions {
        StageOptions {
            sync: self.options.sync,
            on_full: self.options.on_full,
            write_each: self.options.batch_records == Some(1),
            expect: self.options.expect,
            deadline: self.options.deadline,
        }
    }

    fn shape(&self, exact: bool) -> Shape {
        let o = self.options;
        Shape {
            batch_bytes: o.batch_bytes,
            batch_records: o.batch_records.unwrap_or(i32::MAX),
            alone: self.step(),
            // Batches as stored stay as they are.
            compressed: o.compression.codec != Codec::None && o.input.format != Format::Batch,
            append_time: o.append_time,
            exact,
        }
    }

    fn conditions<'r>(&self, ledger: &'r Ledger) -> Conditions<'r>
    where
        Self: 'r,
    {
        let o = self.options;
        let table = matches!(o.input.format, Format::Csv | Format::Tsv);
        Conditions {
            host: self.host,
            ledger,
            sync: o.sync,
            linger: o.linger,
            keep_offsets: o.input.keep_offsets,
            deadline: o.deadline,
            table_header: table && o.input.header_row && !o.input.whole,
            skip: o.skip_bytes,
        }
    }
}

/// Writes down what each partition holds of `--once` now.
fn save_counts(once: &Once, tallies: &[Tally]) -> Vec<Error> {
    let save = |(lane, t): (usize, &Tally)| {
        let last = t.offsets.map_or(Offset::ZERO, |(_, next)| next + -1);
        once.save(lane, t.records, last).err()
    };
    tallies.iter().enumerate().filter_map(save).collect()
}

fn report(
    ledger: &Ledger,
    after: &After,
    read: u64,
    rejected: u64,
    end: End,
    further: Vec<Error>,
) -> Report {
    let tallies = ledger.tallies();
    let acknowledged: u64 = tallies.iter().map(|t| t.bytes).sum();
    Report {
        tallies,
        unacknowledged: read.saturating_sub(acknowledged + after.settled_bytes),
        frontier: ledger.frontier(),
        skipped: after.skipped,
        repeated: after.repeated,
        forgot: after.forgot,
        rejected,
        end,
        further,
    }
}

/// Writes exactly the bytes of these spans, after the table's header row if they come from below it,
/// so that the spill file is input as it stands.
fn spill_to(
    out: &mut dyn Write,
    spans: &[Span],
    header: &[u8],
    source: &Source,
    kept: Option<&Kept>,
) -> Result<()> {
    let failed = |e| Error::io("cannot write the spill file", e);
    if spans
        .first()
        .is_some_and(|s| s.start >= header.len() as u64)
    {
        out.write_all(header).map_err(failed)?;
    }
    match kept {
        Some(kept) => kept.write_spans(spans, out),
        None => source.read_again(spans, out),
    }
    .map_err(failed)
}
