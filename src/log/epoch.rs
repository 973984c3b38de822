//! The leader epoch that appends are made under: the last one of `leader-epoch-checkpoint`.
//!
//! A log that has none (a new one, or one whose file was lost) begins with epoch 0, written and synced
//! before the first batch of it.

use crate::error::{Error, Result};
use crate::format::Offset;
use crate::format::checkpoint::{EpochStart, parse_epochs, render_epochs};
use crate::format::names::LEADER_EPOCH_CHECKPOINT;
use crate::log::state::{read_state_file, write_state_file};
use crate::sys::Dir;

/// Largest checkpoint that is read: 10 000 epochs of two numbers.
const CHECKPOINT_BYTES_MAX: usize = 1 << 20;

/// The epoch histories of a partition, oldest first; empty without a file.
///
/// # Errors
/// `Data` if the file is malformed; else what the system answers.
pub fn read(dir: &dyn Dir) -> Result<Vec<EpochStart>> {
    let place = || dir.path().join(LEADER_EPOCH_CHECKPOINT);
    let bytes = read_state_file(dir, LEADER_EPOCH_CHECKPOINT, CHECKPOINT_BYTES_MAX)
        .map_err(|e| Error::io("cannot read", e).at_path(place()))?;
    parse_epochs(&bytes.unwrap_or_default()).map_err(|d| {
        Error::data(d.reason)
            .at_path(place())
            .at_position(d.at as u64)
    })
}

/// The epoch to append under, at `log_end`. An empty history becomes `0 log_end`, durably.
///
/// # Errors
/// As [`read`], and what writing may meet.
pub fn current(dir: &dyn Dir, log_end: Offset) -> Result<i32> {
    if let Some(last) = read(dir)?.last() {
        return Ok(last.epoch);
    }
    let first = EpochStart {
        epoch: 0,
        start: log_end,
    };
    write(dir, &[first])?;
    Ok(first.epoch)
}

/// Makes this the history, durably. Nothing is written if it is.
///
/// # Errors
/// What the system answers.
pub fn write(dir: &dyn Dir, epochs: &[EpochStart]) -> Result<()> {
    // One that cannot be read is replaced.
    let known = dir.stat(LEADER_EPOCH_CHECKPOINT).is_ok_and(|m| m.is_some());
    if known && read(dir).is_ok_and(|there| there == epochs) {
        return Ok(());
    }
    let text = render_epochs(epochs);
    write_state_file(dir, LEADER_EPOCH_CHECKPOINT, text.as_bytes()).map_err(|e| {
        Error::io(format!("cannot write {LEADER_EPOCH_CHECKPOINT}"), e).at_path(dir.path())
    })
}

/// Removes the epochs that begin above `end`: the log was cut there. One that begins at `end` goes on:
/// a promotion writes it before there is a batch of it.
///
/// # Errors
/// As [`read`], and what writing may meet.
pub fn truncate(dir: &dyn Dir, end: Offset) -> Result<()> {
    let all = read(dir)?;
    let kept: Vec<EpochStart> = all.iter().filter(|e| e.start <= end).copied().collect();
    if kept.len() == all.len() || kept.is_empty() {
        return Ok(());
    }
    write(dir, &kept)
}
