//! Fills the window of `--unique` from the tail of the log, so that a run that was restarted drops
//! what it would have dropped.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::unique::Window;
use crate::error::{Error, Result};
use crate::format::batch::Scratch;
use crate::format::record::Record;
use crate::format::{Limits, Offset, TimestampMs};
use crate::log::listing::LogDir;
use crate::log::reader::{Event, Piece, ReadOptions, Reader};
use crate::log::view::View;
use crate::ops::words::Field;
use crate::sys::Host;

/// Takes the IDs of a partition's records that are at most `span` older than now, or than the last
/// record if that is older still. `id` says where an ID is (`None`: it is the key).
///
/// # Errors
/// The log cannot be read, or is damaged there.
pub fn seed(
    host: &Arc<dyn Host>,
    path: &Path,
    span: Duration,
    id: Option<&Field>,
    window: &mut Window,
) -> Result<()> {
    let limits = Limits::default();
    let mut view = View::of(LogDir::open(host.as_ref(), path)?)?;
    let end = view.end(limits)?;
    let newest = newest(host, &view, end, limits)?.unwrap_or(TimestampMs(i64::MAX));
    let span_ms = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
    let since = newest.0.min(host.wall_ms()).saturating_sub(span_ms);
    let Some(from) = view.first_at(TimestampMs(since), limits)? else {
        return Ok(());
    };
    each(host, view, from..end, limits, |record| {
        let found = match id {
            None => record.key.map(std::borrow::Cow::Borrowed),
            Some(field) => field.of(record.key, record.value, |n| record.headers.get(n)?),
        };
        if let Some(id) = found {
            window.take(&id, record.timestamp);
        }
    })
}

/// The largest timestamp of the last batch.
fn newest(
    host: &Arc<dyn Host>,
    view: &View,
    end: Offset,
    limits: Limits,
) -> Result<Option<TimestampMs>> {
    let mut newest = None;
    let last = (end + -1).max(view.start());
    each(host, view.clone(), last..end, limits, |r| {
        newest = newest.max(Some(r.timestamp))
    })?;
    Ok(newest)
}

/// Shows every record of these offsets to `take`.
fn each(
    host: &Arc<dyn Host>,
    view: View,
    wanted: Range<Offset>,
    limits: Limits,
    mut take: impl FnMut(&Record<'_>),
) -> Result<()> {
    let options = ReadOptions {
        limits,
        skip_corrupt: false,
    };
    let mut reader = Reader::new(host.clone(), view, wanted, options);
    let mut scratch = Scratch::new();
    loop {
        match reader.next()? {
            Event::Batch(piece) => records(&piece, &mut scratch, limits, &mut take)?,
            Event::Gone(_) => {}
            Event::Damage(damage) => return Err(damage.error()),
            Event::End => return Ok(()),
        }
    }
}

fn records(
    piece: &Piece<'_>,
    scratch: &mut Scratch,
    limits: Limits,
    take: &mut impl FnMut(&Record<'_>),
) -> Result<()> {
    let header = piece.batch.header();
    if header.is_control() {
        return Ok(());
    }
    let bad = |d: crate::format::Defect| Error::data(d.reason).at_offset(header.base_offset.0);
    for record in piece.batch.records(scratch, &limits).map_err(bad)? {
        let record = record.map_err(bad)?;
        if piece.wanted.contains(&record.offset) {
            take(&record);
        }
    }
    Ok(())
}
