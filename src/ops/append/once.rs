//! `--once NAME`: each record of the input is stored once, however often the same input is run.
//!
//! Records are numbered per partition, in the order of the input, from 0. Their batches carry the
//! number as the sequence of an idempotent producer whose id follows from NAME alone, so the log
//! itself knows how many of NAME's records it holds: the next run asks it and skips that many.
//!
//! A sequence has 31 bits. The rest of the count is in `.logd/once/NAME`:
//!
//! ```text
//! 1                  version
//! COUNT OFFSET       records of NAME in this partition, and the last offset among them
//! ```
//!
//! It is written after a sync, so it never counts what a power cut may take. It may be older than
//! the log: the count then goes on to the next number with the log's sequence. With an offset beyond
//! the log's end it speaks of a log that is gone, and is void. Without it, in a log of 2^31 offsets or
//! more, the batches are counted, if the log still has its first. What cannot be told is an error, never
//! a silent duplicate.
//!
//! NAME.lock is held for the whole run, in every partition.

use std::io;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::error::{Error, ErrorKind, Result};
use crate::format::Offset;
use crate::format::snapshot::ProducerEntry;
use crate::log::files;
use crate::log::state::{read_state_file, write_state_file};
use crate::log::writer::Writer;
use crate::sys::{Dir, File, Lock, Wait};

/// Where numbers wrap as sequences.
const SEQUENCES: u64 = 1 << 31;
/// A state file is two short lines.
const STATE_BYTES_MAX: usize = 256;

/// The claim of one run on NAME, in every partition.
pub struct Once {
    name: String,
    partitions: Vec<Partition>,
}

struct Partition {
    dir: Arc<dyn Dir>,
    /// Records of NAME that the log held when the run began.
    count: u64,
    /// Holds NAME.lock until it is dropped.
    _lock: Box<dyn File>,
}

impl Once {
    /// Claims `name` and asks each partition how many of its records it holds.
    ///
    /// # Errors
    /// `Usage` for a name that cannot be one, `Locked` while another run has it, `Data` if a count
    /// cannot be told; else what the system answers.
    pub fn claim(name: &str, writers: &mut [Writer]) -> Result<Once> {
        check_name(name)?;
        let partitions = writers.iter_mut().map(|w| Partition::claim(name, w));
        Ok(Once {
            name: name.to_string(),
            partitions: partitions.collect::<Result<_>>()?,
        })
    }

    /// Records of NAME that each partition held when the run began.
    pub fn counts(&self) -> Vec<u64> {
        self.partitions.iter().map(|p| p.count).collect()
    }

    /// Writes down that a partition now holds `added` more of NAME's records, the last at `last`,
    /// all of them durable.
    ///
    /// # Errors
    /// What the system answers. Nothing is lost by it: the log knows.
    pub fn save(&self, lane: usize, added: u64, last: Offset) -> Result<()> {
        let Some(p) = self.partitions.get(lane).filter(|_| added > 0) else {
            return Ok(());
        };
        let text = format!("1\n{} {last}\n", p.count.saturating_add(added));
        write_state_file(p.dir.as_ref(), &self.name, text.as_bytes())
            .map_err(|e| Error::io(format!("cannot write once/{}", self.name), e))
    }
}

impl Partition {
    fn claim(name: &str, writer: &mut Writer) -> Result<Partition> {
        let path = writer.path().to_path_buf();
        let fail = |e| Error::io(format!("cannot open once/{name}"), e).at_path(&path);
        let dir = once_dir(writer.logd_dir().as_ref()).map_err(fail)?;
        let lock = dir.open_or_create(&format!("{name}.lock")).map_err(fail)?;
        if !lock.lock(Lock::Exclusive, Wait::No).map_err(fail)? {
            let why = format!("another run has --once {name}");
            return Err(Error::new(ErrorKind::Locked, why).at_path(&path));
        }
        let state = read_state_file(dir.as_ref(), name, STATE_BYTES_MAX).map_err(fail)?;
        let state = state.as_deref().and_then(parse);
        let mut hold = writer.hold()?;
        let entry = hold.producer(producer_id(name))?;
        let end = hold.next_offset();
        let count = match count(state, entry.as_ref(), end) {
            // Sequences have wrapped, or may have, and the file is lost; the log may still be whole.
            None => hold.count_records(producer_id(name))?,
            told => told,
        };
        hold.release()?;
        let Some(count) = count else {
            let why = format!("how many records of --once {name} it holds cannot be told");
            return Err(Error::data(why)
                .at_path(&path)
                .hint("a new NAME starts from the first record of the input"));
        };
        Ok(Partition {
            dir,
            count,
            _lock: lock,
        })
    }
}

fn once_dir(logd_dir: &dyn Dir) -> io::Result<Arc<dyn Dir>> {
    match logd_dir.make_dir(files::ONCE) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        made => made.and_then(|()| logd_dir.sync())?,
    }
    logd_dir.open_dir(files::ONCE)
}

/// How many records the log holds, by its state file (count, last offset), the producer's entry and
/// the log's end; `None` if these do not tell.
fn count(state: Option<(u64, Offset)>, entry: Option<&ProducerEntry>, end: Offset) -> Option<u64> {
    let state = state.filter(|(_, last)| *last < end);
    let sequence = entry.and_then(|e| u64::try_from(e.last_sequence).ok());
    match (state, sequence) {
        (None, None) => Some(0),
        (Some((count, _)), None) => Some(count),
        (Some((count, _)), Some(last)) => {
            // The next number from `count` on whose predecessor has that sequence.
            let ahead = (last + 1 + SEQUENCES - count % SEQUENCES) % SEQUENCES;
            Some(count + ahead)
        }
        (None, Some(last)) => (end.0.cast_unsigned() < SEQUENCES).then_some(last + 1),
    }
}

fn parse(content: &[u8]) -> Option<(u64, Offset)> {
    let text = std::str::from_utf8(content).ok()?;
    let mut lines = text.lines();
    let ("1", Some(fields)) = (lines.next()?, lines.next()) else {
        return None;
    };
    let (count, last) = fields.split_once(' ')?;
    Some((count.parse().ok()?, Offset(last.parse().ok()?)))
}

/// The producer id of NAME: 2^62 and the first 62 bits of the SHA-256 of `once:NAME`.
pub fn producer_id(name: &str) -> i64 {
    let hash = Sha256::digest(format!("once:{name}"));
    let first = hash
        .iter()
        .take(8)
        .fold(0u64, |n, b| n << 8 | u64::from(*b));
    (1i64 << 62) | (first >> 2).cast_signed()
}

fn check_name(name: &str) -> Result<()> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    // The lock and the temporary file of a name must not be another name's state.
    let ends = [".lock", ".tmp"].iter().any(|e| name.ends_with(e));
    if (1..=240).contains(&name.len())
        && name.bytes().all(plain)
        && name != "."
        && name != ".."
        && !ends
    {
        return Ok(());
    }
    let why = format!("--once {name}: a name has 1 to 240 of the characters A-Z a-z 0-9 . _ -");
    Err(Error::usage(why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::TimestampMs;

    fn entry(last_sequence: i32) -> ProducerEntry {
        ProducerEntry {
            producer_id: 1,
            epoch: 0,
            last_sequence,
            last_offset: Offset(0),
            offset_delta: 0,
            timestamp: TimestampMs(0),
            coordinator_epoch: -1,
            open_txn: None,
        }
    }

    #[test]
    fn once_count_survives_the_wrap_of_sequences() {
        let at = |c: u64| Some((c, Offset(5)));
        let far = Offset(1 << 40);
        for base in [0, 7, SEQUENCES - 1, SEQUENCES, 3 * SEQUENCES + 9] {
            for ahead in [0, 1, 1000, SEQUENCES - 1] {
                let now = base + ahead;
                let last = i32::try_from((now + SEQUENCES - 1) % SEQUENCES).unwrap();
                let e = entry(last);
                // With nothing written at all there is no entry.
                if now > 0 {
                    assert_eq!(count(at(base), Some(&e), far), Some(now), "{base}+{ahead}");
                }
            }
        }
        assert_eq!(count(at(9), None, far), Some(9));
    }

    #[test]
    fn once_count_without_its_file_is_told_only_below_the_wrap() {
        assert_eq!(count(None, None, Offset(1 << 40)), Some(0));
        assert_eq!(count(None, Some(&entry(41)), Offset(100)), Some(42));
        assert_eq!(count(None, Some(&entry(41)), Offset(1 << 31)), None);
        // A file that speaks of offsets beyond the end is void.
        assert_eq!(
            count(Some((9, Offset(100))), Some(&entry(3)), Offset(100)),
            Some(4)
        );
        assert_eq!(count(Some((9, Offset(100))), None, Offset(50)), Some(0));
    }

    #[test]
    fn once_producer_ids_are_pinned() {
        assert_eq!(producer_id("stock"), producer_id("stock"));
        assert!(producer_id("a") >= 1 << 62 && producer_id("a") != producer_id("b"));
        let hash = Sha256::digest(b"once:a");
        let first = u64::from_be_bytes(hash[..8].try_into().unwrap());
        assert_eq!(producer_id("a").cast_unsigned(), (1 << 62) + (first >> 2));
    }

    #[test]
    fn once_names_are_no_paths() {
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "a b",
            "x.lock",
            "x.tmp",
            &"x".repeat(241),
        ] {
            assert_eq!(
                check_name(bad).unwrap_err().kind(),
                ErrorKind::Usage,
                "{bad}"
            );
        }
        check_name("stock-2026-11-20").unwrap();
    }

    #[test]
    fn once_state_is_read_back_or_not_at_all() {
        assert_eq!(parse(b"1\n12 34\n"), Some((12, Offset(34))));
        for bad in [&b""[..], b"2\n12 34\n", b"1\n12\n", b"1\nx 3\n", b"\xff"] {
            assert_eq!(parse(bad), None);
        }
    }
}
