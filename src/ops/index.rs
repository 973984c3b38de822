//! Look-up indexes of a partition: made, brought up to date, listed, dropped.
//!
//! Which ones are wanted is written nowhere: a field that some segment has an index of is wanted for
//! all sealed ones. So a run without words makes what is missing, and nothing else is done twice. What
//! covers no segment any more is removed, after its successor is there; the last file of a field is
//! kept, though it covers nothing, so that the field stays wanted.
//!
//! Where nothing is asked for by name, the offset and time indexes beside the segments are looked at
//! too ([`beside`]).

mod beside;

use std::borrow::Cow;
use std::collections::BTreeMap;

use self::beside::Beside;
use super::topic::Partition;
use super::words::Field;
use crate::error::{Error, Result};
use crate::format::record::Record;
use crate::format::{Limits, Offset};
use crate::log::files;
use crate::log::keys::{self, Found, Keys};
use crate::log::keys_build::{Builder, Built, ENTRIES_MAX, Wanted};
use crate::log::listing::{LogDir, SegmentRef, end_of};
use crate::log::maintenance::Maintenance;
use crate::sys::Host;

/// An active segment of this size is sealed when an index is asked for by name, so that it covers what
/// is there now; reading less costs a look-up a fraction of a millisecond.
const ROLL_BYTES: u64 = 1 << 20;

/// Fields that are gathered in one pass, and with a filter, which takes up to 64 MiB while it is filled.
const FIELDS_PER_PASS: usize = 3;
const FILTERS_PER_PASS: usize = 1;

/// What to make.
#[derive(Clone, Debug, Default)]
pub struct IndexOptions {
    /// Indexes of these fields, beside those that are there.
    pub by: Vec<Field>,
    /// With filters for text: of these fields or, without any, of the value alone.
    pub bloom: bool,
    /// Make all anew.
    pub rebuild: bool,
}

/// What a run did.
#[derive(Debug, Default)]
pub struct Report {
    /// Index files made.
    pub made: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Index files that were up to date.
    pub kept: u64,
    /// Segments whose offset and time index were made anew.
    pub rebuilt: u64,
    /// Files removed that covered nothing any more, or that were dropped.
    pub removed: u64,
    /// Segments without an index, as they are damaged.
    pub damaged: Vec<Error>,
}

/// What an index file is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It covers its segment.
    Sound,
    /// Its segment is gone, or is another one now, or its filter is of an older form.
    Void,
    /// It cannot be read.
    Damaged,
}

/// One index file.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The word of its field; none if that cannot be told.
    pub field: Option<String>,
    /// Base offset of its segment.
    pub base: Offset,
    /// What it is worth.
    pub state: State,
    /// Whether it finds exact values.
    pub table: bool,
    /// Whether it has a filter for text.
    pub filter: bool,
    /// Records that have the field.
    pub values: u64,
    /// Length in bytes.
    pub bytes: u64,
}

/// The parts of an index that are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Parts {
    table: bool,
    filter: bool,
}

/// Refuses a field that no index can be of.
///
/// # Errors
/// Usage, for a column: its row's header is not in the log.
pub fn check_field(field: &Field) -> Result<()> {
    match field {
        Field::Column(_) => {
            let why = format!("{field}: columns have names in the input only, not in the log");
            Err(Error::usage(why).hint("--by json:/POINTER, or --by key"))
        }
        _ => Ok(()),
    }
}

/// The index files of a partition and what each is worth. Takes no lock.
///
/// # Errors
/// The directory cannot be read.
pub fn list(host: &dyn Host, partition: &Partition) -> Result<(Vec<Row>, usize)> {
    let log = LogDir::open(host, &partition.path)?;
    let segments = log.segments()?;
    let sealed = segments.split_last().map_or(&[][..], |(_, s)| s);
    let rows = rows(&log, &Keys::of(&log)?, sealed)?;
    Ok((rows.into_iter().map(|(_, row)| row).collect(), sealed.len()))
}

/// Each index file by name.
fn rows(log: &LogDir, keys: &Keys, sealed: &[SegmentRef]) -> Result<Vec<(String, Row)>> {
    let mut out = Vec::new();
    for (name, base, word) in keys.names()? {
        let mut row = Row {
            field: word,
            base,
            state: State::Damaged,
            table: false,
            filter: false,
            values: 0,
            bytes: 0,
        };
        if let Ok(Some((header, bytes))) = keys.header(&name) {
            let segment = sealed.iter().find(|s| s.base() == base);
            let found = segment.map(|s| keys.find(log, s, &header.field));
            let is_named = keys::file_name(header.cover.base, &header.field) == name;
            row.state = match found {
                // Every byte: a look-up meets damage only where it happens to look.
                Some(Ok(Found::Sound(open))) if is_named && !header.is_outdated() => {
                    match open.check() {
                        Ok(()) => State::Sound,
                        Err(_) => State::Damaged,
                    }
                }
                _ => State::Void,
            };
            (row.table, row.filter) = (header.has_table, header.has_filter);
            (row.values, row.bytes) = (header.values, bytes);
            row.field = Some(header.field);
        }
        out.push((name, row));
    }
    Ok(out)
}

/// Makes what is missing. `progress` is told the bytes to be read in all at first, then bytes and
/// records as they are read, by several threads.
///
/// # Errors
/// `Usage` for a field that cannot be indexed; else what reading and writing may meet: `Io` on a full
/// disk. Indexes that were there are then still there.
pub fn run(
    maintenance: &mut Maintenance,
    options: &IndexOptions,
    total: &dyn Fn(u64),
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<Report> {
    options.by.iter().try_for_each(check_field)?;
    if (!options.by.is_empty() || options.bloom) && is_worth_sealing(maintenance)? {
        maintenance.roll()?;
    }
    let log = maintenance.log().clone();
    let segments = log.segments()?;
    let sealed = segments.split_last().map_or(&[][..], |(_, s)| s);
    let mut report = Report::default();
    if options.by.is_empty() && !options.bloom {
        beside_all(maintenance, sealed, options.rebuild, &mut report)?;
    }
    let existing = rows(&log, &Keys::of(&log)?, sealed)?;
    let wanted = wanted(&existing, options);
    if wanted.is_empty() {
        return Ok(report);
    }
    let own = maintenance.logd_dir();
    let dir = keys::make_dir(&**own, files::KEYS)?;
    let tmp = maintenance.tmp()?;
    let builder = Builder {
        log: &log,
        keys: &*dir,
        tmp: &*tmp,
        limits: Limits::default(),
        progress,
        entries_max: ENTRIES_MAX,
    };
    let jobs = jobs(
        &log,
        &segments,
        &existing,
        &wanted,
        options.rebuild,
        &mut report,
    )?;
    let bytes = |j: &Job| j.bytes * j.fields.len().div_ceil(j.per_pass(&wanted)) as u64;
    total(jobs.iter().map(bytes).sum());
    for job in &jobs {
        make(&builder, job, &wanted, &mut report)?;
    }
    remove_void(&log, &mut report)?;
    Ok(report)
}

/// Brings the offset and time indexes of sealed segments up to date.
fn beside_all(
    maintenance: &Maintenance,
    sealed: &[SegmentRef],
    rebuild: bool,
    report: &mut Report,
) -> Result<()> {
    for segment in sealed {
        match beside::bring_up(maintenance, segment, rebuild)? {
            Beside::Current => {}
            Beside::Made => report.rebuilt += 1,
            Beside::Damaged(e) => report.damaged.push(e),
        }
    }
    Ok(())
}

/// Whether the active segment holds so much that an index should cover it.
fn is_worth_sealing(maintenance: &Maintenance) -> Result<bool> {
    let segments = maintenance.segments()?;
    let Some(active) = segments.last() else {
        return Ok(false);
    };
    let file = maintenance.log().open_file(&active.log_name())?;
    Ok(end_of(&*file)?.0 >= ROLL_BYTES)
}

/// The fields that are to have an index, by their words.
fn wanted(existing: &[(String, Row)], options: &IndexOptions) -> BTreeMap<String, (Field, Parts)> {
    let mut out: BTreeMap<String, (Field, Parts)> = BTreeMap::new();
    let mut add = |field: Field, parts: Parts| {
        let entry = out.entry(field.to_string());
        let (_, p) = entry.or_insert((field, Parts::default()));
        p.table |= parts.table;
        p.filter |= parts.filter;
    };
    for (_, row) in existing {
        // A word that this version does not know is left to the one that does.
        let field = row.field.as_deref().and_then(|w| Field::parse(w).ok());
        if let Some(field) = field {
            // What a damaged one had cannot be told, but by others of its field.
            let is_of = |r: &Row| r.state != State::Damaged && r.field == row.field;
            let alone = !existing.iter().any(|(_, r)| is_of(r));
            let table = row.table || (row.state == State::Damaged && alone);
            let filter = row.filter;
            add(field, Parts { table, filter });
        }
    }
    for field in &options.by {
        let filter = options.bloom;
        add(
            field.clone(),
            Parts {
                table: true,
                filter,
            },
        );
    }
    if options.bloom && options.by.is_empty() {
        let (table, filter) = (false, true);
        add(Field::Value, Parts { table, filter });
    }
    out
}

/// A segment and the fields that it lacks a sound index of.
struct Job {
    segment: SegmentRef,
    next: Offset,
    fields: Vec<String>,
    bytes: u64,
}

impl Job {
    /// Fields to be gathered at once.
    fn per_pass(&self, wanted: &BTreeMap<String, (Field, Parts)>) -> usize {
        let has_filter = |word| wanted.get(word).is_some_and(|(_, parts)| parts.filter);
        match self.fields.iter().any(has_filter) {
            true => FILTERS_PER_PASS,
            false => FIELDS_PER_PASS,
        }
    }
}

fn jobs(
    log: &LogDir,
    segments: &[SegmentRef],
    existing: &[(String, Row)],
    wanted: &BTreeMap<String, (Field, Parts)>,
    rebuild: bool,
    report: &mut Report,
) -> Result<Vec<Job>> {
    let mut out = Vec::new();
    for pair in segments.windows(2) {
        let [segment, next] = pair else { continue };
        let lacks = |(word, (_, parts)): &(&String, &(Field, Parts))| {
            let is_it = |row: &Row| {
                row.state == State::Sound
                    && row.base == segment.base()
                    && row.field.as_ref() == Some(word)
                    && (row.table || !parts.table)
                    && (row.filter || !parts.filter)
            };
            rebuild || !existing.iter().any(|(_, row)| is_it(row))
        };
        let fields: Vec<String> = wanted.iter().filter(lacks).map(|w| w.0.clone()).collect();
        report.kept += (wanted.len() - fields.len()) as u64;
        if fields.is_empty() {
            continue;
        }
        let file = log.open_file(&segment.log_name())?;
        out.push(Job {
            segment: *segment,
            next: next.base(),
            fields,
            bytes: end_of(&*file)?.0,
        });
    }
    Ok(out)
}

/// Makes the indexes of one segment.
fn make(
    builder: &Builder<'_>,
    job: &Job,
    wanted: &BTreeMap<String, (Field, Parts)>,
    report: &mut Report,
) -> Result<()> {
    let finders: Vec<_> = job
        .fields
        .iter()
        .filter_map(|word| {
            let (field, parts) = wanted.get(word)?;
            Some((word, finder(field), *parts))
        })
        .collect();
    let list: Vec<Wanted<'_>> = finders
        .iter()
        .map(|(word, value_of, parts)| Wanted {
            field: word,
            value_of: &**value_of,
            table: parts.table,
            filter: parts.filter,
        })
        .collect();
    for list in list.chunks(job.per_pass(wanted)) {
        match builder.build(&job.segment, job.next, list)? {
            Built::Made(bytes) => {
                report.made += bytes.len() as u64;
                report.bytes += bytes.iter().sum::<u64>();
            }
            Built::Unfit => {}
            // Told once, also where two kinds of index met it.
            Built::Damaged(e) if report.damaged.iter().any(|d| d.path() == e.path()) => {}
            Built::Damaged(e) => report.damaged.push(e),
        }
    }
    Ok(())
}

type Finder<'a> = Box<dyn for<'r> Fn(&Record<'r>) -> Option<Cow<'r, [u8]>> + Sync + 'a>;

/// What finds a field in a record.
fn finder(field: &Field) -> Finder<'_> {
    match field {
        Field::Key => Box::new(|r| r.key.map(Cow::Borrowed)),
        Field::Value => Box::new(|r| r.value.map(Cow::Borrowed)),
        _ => Box::new(|r| field.of(r.key, r.value, |name| r.headers.get(name).flatten())),
    }
}

/// Removes what covers no segment, but for the last file of a field.
fn remove_void(log: &LogDir, report: &mut Report) -> Result<()> {
    let keys = Keys::of(log)?;
    let Some(dir) = keys.dir() else {
        return Ok(());
    };
    let segments = log.segments()?;
    let rows = rows(log, &keys, segments.split_last().map_or(&[], |s| s.1))?;
    let mut names = Vec::new();
    for (i, (name, row)) in rows.iter().enumerate() {
        if row.state == State::Sound {
            continue;
        }
        let of_field = |r: &&(String, Row)| r.1.field == row.field && r.1.field.is_some();
        let others = rows.iter().filter(of_field);
        let sound = others.clone().any(|r| r.1.state == State::Sound);
        let later = rows.iter().skip(i + 1).filter(of_field).count();
        if row.field.is_none() || sound || later > 0 {
            names.push(name.clone());
        }
    }
    report.removed += names.len() as u64;
    keys::remove(&**dir, &names)
}

/// Removes the indexes of these fields, or all.
///
/// # Errors
/// What the system answers.
pub fn drop_indexes(maintenance: &Maintenance, by: &[Field]) -> Result<Report> {
    let log = maintenance.log();
    let keys = Keys::of(log)?;
    let Some(dir) = keys.dir() else {
        return Ok(Report::default());
    };
    let words: Vec<String> = by.iter().map(Field::to_string).collect();
    let rows = rows(log, &keys, &[])?;
    let asked =
        |row: &Row| words.is_empty() || row.field.as_ref().is_some_and(|f| words.contains(f));
    let names = rows
        .into_iter()
        .filter(|(_, row)| asked(row))
        .map(|(n, _)| n);
    let names: Vec<String> = names.collect();
    keys::remove(&**dir, &names)?;
    Ok(Report {
        removed: names.len() as u64,
        ..Report::default()
    })
}
