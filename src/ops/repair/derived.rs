//! What is derived from a log, made anew from it: indexes, aborted transactions, leader epochs.

use super::plan::Looked;
use super::scan::Strand;
use crate::error::{Error, Result};
use crate::format::batch::{Batch, Scratch};
use crate::format::checkpoint::{EpochStart, parse_epochs};
use crate::format::control::{self, Control};
use crate::format::index::TxnEntry;
use crate::format::names::LEADER_EPOCH_CHECKPOINT;
use crate::format::{Limits, Offset, Position};
use crate::log::listing::{LogDir, read_small};
use crate::log::producers::Producers;
use crate::ops::verify::Env;
use crate::segment::scan::{Scanner, Span, Step};
use std::collections::BTreeMap;

/// Largest marker batch that is looked into.
const EPOCHS_BYTES_MAX: u64 = 1 << 20;

/// Calls `each` with every batch of the strands of a segment, in the order of the file.
///
/// # Errors
/// The file cannot be read; those of `each`.
pub fn batches(
    log: &LogDir,
    looked: &Looked,
    limits: Limits,
    mut each: impl FnMut(&Batch<'_>, Position) -> Result<()>,
) -> Result<()> {
    let file = looked.open(log)?;
    let strands = std::iter::once(&looked.scan.home).chain(&looked.scan.strays);
    for piece in strands.flat_map(|s: &Strand| &s.pieces) {
        let span = Span {
            base: looked.segment.base().min(piece.offsets.start),
            next: piece.offsets.start,
            from: piece.bytes.start,
            end: piece.bytes.end,
        };
        let mut scanner = Scanner::new(file.clone(), span, limits);
        while let Step::Batch(at) = scanner.step()? {
            if let Some(batch) = scanner.batch() {
                each(&batch, at)?;
            }
        }
    }
    Ok(())
}

/// The aborted transactions of every segment that has any, by its base offset.
///
/// # Errors
/// A file cannot be read.
pub fn transactions(
    log: &LogDir,
    segments: &[Looked],
    limits: Limits,
) -> Result<BTreeMap<Offset, Vec<TxnEntry>>> {
    let start = segments.first().map_or(Offset::ZERO, |s| s.segment.base());
    let mut open: BTreeMap<i64, Offset> = match start > Offset::ZERO {
        true => Producers::load(log, start, &limits)?
            .open_transactions()
            .collect(),
        false => BTreeMap::new(),
    };
    let (mut out, mut scratch) = (BTreeMap::new(), Scratch::new());
    for looked in segments {
        let mut mine = Vec::new();
        batches(log, looked, limits, |batch, _| {
            let header = batch.header();
            if header.is_transactional() {
                mine.extend(aborted(&mut open, batch, &mut scratch, &limits));
            }
            Ok(())
        })?;
        if !mine.is_empty() {
            out.insert(looked.segment.base(), mine);
        }
    }
    Ok(out)
}

/// Takes in a transactional batch; the transaction that it aborts.
fn aborted(
    open: &mut BTreeMap<i64, Offset>,
    batch: &Batch<'_>,
    scratch: &mut Scratch,
    limits: &Limits,
) -> Option<TxnEntry> {
    let header = batch.header();
    let (producer_id, last_offset) = (header.producer_id, header.base_offset);
    if !header.is_control() {
        if header.count > 0 {
            open.entry(producer_id).or_insert(header.base_offset);
        }
        return None;
    }
    let record = batch.records(scratch, limits).ok()?.next()?.ok()?;
    let Control::EndTxn { commit, .. } = control::decode(record.key, record.value).ok()? else {
        return None;
    };
    let first_offset = open.remove(&producer_id)?;
    let stable = open.values().min().copied().unwrap_or(last_offset.next());
    (!commit).then_some(TxnEntry {
        producer_id,
        first_offset,
        last_offset,
        last_stable_offset: stable,
    })
}

/// The leader epochs as they should be: those on record as far as they are in the log, and those of
/// batches that are not on record; all from the batches where the record cannot be read.
///
/// # Errors
/// A file cannot be read.
pub fn epochs(env: &Env<'_>, segments: &[Looked], end: Offset) -> Result<Vec<EpochStart>> {
    let file = env.log.open_optional(LEADER_EPOCH_CHECKPOINT)?;
    let bytes = file.map(|f| read_small(&*f, EPOCHS_BYTES_MAX)).transpose();
    let known = bytes.ok().flatten().and_then(|b| parse_epochs(&b).ok());
    let mut out: Vec<EpochStart> = known.unwrap_or_default();
    out.retain(|e| e.start <= end);
    for looked in segments {
        let place = |e: Error| e.at_path(env.log.path_of(&looked.segment.log_name()));
        batches(env.log, looked, env.limits, |batch, _| {
            let (epoch, start) = (batch.header().leader_epoch, batch.header().base_offset);
            if epoch >= 0 && out.last().is_none_or(|l| epoch > l.epoch) {
                // As a broker does: a higher epoch from here on leaves no room for others.
                out.retain(|e| e.start < start);
                out.push(EpochStart { epoch, start });
            }
            Ok(())
        })
        .map_err(place)?;
    }
    Ok(out)
}
