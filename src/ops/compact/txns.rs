//! How the transactions of a log ended, from batch headers and markers alone.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::survey::Source;
use crate::error::{Error, Result};
use crate::format::batch::{Batch, BatchHeader, Scratch};
use crate::format::control::{self, Control};
use crate::format::index::TxnEntry;
use crate::format::{Limits, Offset, Position};
use crate::log::listing::LogDir;
use crate::segment::scan::{HeaderWalk, Span, Walk};

/// A marker batch is 78 bytes; whatever is much larger is none.
const MARKER_BYTES_MAX: usize = 4096;

/// Aborted and open transactions.
#[derive(Default)]
pub struct Transactions {
    /// Aborted ones of each producer, in order.
    aborted: HashMap<i64, Vec<(Offset, Offset)>>,
    /// Entries of a transaction index, by the offset of the marker.
    entries: BTreeMap<Offset, TxnEntry>,
    open: HashMap<i64, Offset>,
}

impl Transactions {
    /// Reads the headers of `sources`, in the first from `position` on.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn of(log: &LogDir, sources: &[Source], position: u64) -> Result<Transactions> {
        let mut all = Transactions::default();
        for (i, source) in sources.iter().enumerate() {
            let place = |e: Error| e.at_path(log.path_of(&source.segment.log_name()));
            let from = Position(if i == 0 { position } else { 0 });
            let span = Span {
                from,
                ..Span::whole(source.segment.base(), source.len)
            };
            let mut walk = HeaderWalk::new(Arc::clone(&source.file), span, Limits::default());
            while let Walk::Header(header, position) = walk.next().map_err(place)? {
                if !header.is_control() {
                    if header.is_transactional() {
                        all.open
                            .entry(header.producer_id)
                            .or_insert(header.base_offset);
                    }
                    continue;
                }
                let bytes = walk
                    .entry(&header, position, MARKER_BYTES_MAX)
                    .map_err(place)?;
                if let Some(commit) = bytes.and_then(end_marker) {
                    all.end(&header, commit);
                }
            }
        }
        Ok(all)
    }

    fn end(&mut self, header: &BatchHeader, commit: bool) {
        let Some(first) = self.open.remove(&header.producer_id) else {
            return;
        };
        if commit {
            return;
        }
        let last = header.last_offset;
        self.aborted
            .entry(header.producer_id)
            .or_default()
            .push((first, last));
        let entry = TxnEntry {
            producer_id: header.producer_id,
            first_offset: first,
            last_offset: last,
            last_stable_offset: self.first_open().min(last.next()),
        };
        self.entries.insert(last, entry);
    }

    /// Offset of the first transaction that has not ended.
    pub fn first_open(&self) -> Offset {
        self.open.values().min().copied().unwrap_or(Offset::MAX)
    }

    /// Whether a data batch is of an aborted transaction.
    pub fn is_aborted(&self, header: &BatchHeader) -> bool {
        let Some(all) = self.aborted.get(&header.producer_id) else {
            return false;
        };
        let i = all.partition_point(|(_, last)| *last < header.base_offset);
        all.get(i)
            .is_some_and(|(first, _)| *first <= header.base_offset)
    }

    /// The index entry of the transaction that the marker at `offset` aborted.
    pub fn entry(&self, offset: Offset) -> Option<TxnEntry> {
        self.entries.get(&offset).copied()
    }
}

/// Whether an end marker commits; `None` for other control batches.
pub fn end_marker(bytes: &[u8]) -> Option<bool> {
    let batch = Batch::check(bytes).ok()?;
    let mut scratch = Scratch::new();
    let record = batch
        .records(&mut scratch, &Limits::default())
        .ok()?
        .next()?
        .ok()?;
    match control::decode(record.key, record.value).ok()? {
        Control::EndTxn { commit, .. } => Some(commit),
        _ => None,
    }
}
