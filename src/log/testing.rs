//! Makes partition directories for tests: one readable line per batch, and verbs to harm them.
//!
//! ```text
//! let log = TestLog::new("orders-0");
//! log.segment(0).batch(0, "a k=b c@1000").batch(5, "d").gap_batch(6, 9, "e").write();
//! log.segment(10).txn(7, 10, "x").abort(7, 11).index().write();
//! ```
//!
//! A word of a batch is `value`, `key=value` or either with `@timestamp` behind it; `-` as the value
//! is null. Offsets count up from the batch's; `gap_batch` ends at another last offset.

use std::path::{Path, PathBuf};

use crate::format::builder::{BatchBuilder, Producer, Seal, stamp};
use crate::format::index::{Entry, OffsetEntry, TimeEntry};
use crate::format::names::{FileName, Kind, State};
use crate::format::record::NewRecord;
use crate::format::{Offset, Position, TimestampMs};
use crate::log::listing::LogDir;
use crate::sys::RealHost;

/// A partition directory that is removed with this value.
pub struct TestLog {
    root: tempfile::TempDir,
    name: String,
}

impl TestLog {
    /// An empty directory called `name`, alone in a fresh parent.
    pub fn new(name: &str) -> TestLog {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join(name)).unwrap();
        let name = name.to_string();
        TestLog { root, name }
    }

    /// Its path.
    pub fn path(&self) -> PathBuf {
        self.root.path().join(&self.name)
    }

    /// The directory it lies in.
    pub fn parent(&self) -> &Path {
        self.root.path()
    }

    /// Opened for reading.
    pub fn open(&self) -> LogDir {
        LogDir::open(&RealHost, &self.path()).unwrap()
    }

    /// A segment to be filled and written.
    pub fn segment(&self, base: i64) -> Segment {
        Segment {
            dir: self.path(),
            name: FileName {
                base: Offset(base),
                kind: Kind::Log,
                state: State::Plain,
            },
            bytes: Vec::new(),
            batches: Vec::new(),
            indexed: false,
        }
    }

    /// Gives a file another name.
    pub fn rename(&self, from: &str, to: &str) {
        std::fs::rename(self.path().join(from), self.path().join(to)).unwrap();
    }

    /// Removes a file.
    pub fn remove(&self, name: &str) {
        std::fs::remove_file(self.path().join(name)).unwrap();
    }

    /// Writes a file beside the segments.
    pub fn file(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path().join(name), bytes).unwrap();
    }

    /// Writes the parent's log start checkpoint for this log.
    pub fn log_start(&self, offset: i64) {
        let (topic, partition) = self.name.rsplit_once('-').unwrap();
        let text = format!("0\n1\n{topic} {partition} {offset}\n");
        std::fs::write(self.parent().join("log-start-offset-checkpoint"), text).unwrap();
    }
}

/// What is known of a batch of a [`Segment`].
#[derive(Clone, Copy, Debug)]
pub struct Made {
    /// Where it begins.
    pub position: u64,
    /// Its size in bytes.
    pub size: usize,
    /// Its last offset.
    pub last: Offset,
    /// Its largest timestamp.
    pub max_timestamp: TimestampMs,
}

/// A segment under construction.
pub struct Segment {
    dir: PathBuf,
    name: FileName,
    /// What will be the `.log`.
    pub bytes: Vec<u8>,
    /// Its batches.
    pub batches: Vec<Made>,
    indexed: bool,
}

impl Segment {
    /// A batch at `offset`.
    pub fn batch(self, offset: i64, words: &str) -> Segment {
        self.add(offset, None, words, &Seal::default())
    }

    /// A batch from `offset` whose last offset is `last`, as compaction leaves it.
    pub fn gap_batch(self, offset: i64, last: i64, words: &str) -> Segment {
        self.add(offset, Some(last), words, &Seal::default())
    }

    /// A transactional batch of producer `id`.
    pub fn txn(self, id: i64, offset: i64, words: &str) -> Segment {
        let seal = Seal {
            producer: Some(producer(id, 0)),
            transactional: true,
            ..Seal::default()
        };
        self.add(offset, None, words, &seal)
    }

    /// A commit marker of producer `id`.
    pub fn commit(self, id: i64, offset: i64) -> Segment {
        self.marker(id, offset, 1)
    }

    /// An abort marker of producer `id`.
    pub fn abort(self, id: i64, offset: i64) -> Segment {
        self.marker(id, offset, 0)
    }

    fn marker(mut self, id: i64, offset: i64, kind: u8) -> Segment {
        let seal = Seal {
            producer: Some(producer(id, -1)),
            transactional: true,
            control: true,
            ..Seal::default()
        };
        let mut b = BatchBuilder::begin(std::mem::take(&mut self.bytes));
        let new = NewRecord {
            key: Some(&[0, 0, 0, kind]),
            value: Some(&[0; 6]),
            headers: &[],
        };
        b.push(TimestampMs(1), &new);
        self.seal(b, offset, &seal);
        self
    }

    fn add(mut self, offset: i64, last: Option<i64>, words: &str, seal: &Seal) -> Segment {
        let mut b = BatchBuilder::begin(std::mem::take(&mut self.bytes));
        for word in words.split_whitespace() {
            let (word, ts) = word.split_once('@').unwrap_or((word, "1000"));
            let (key, value) = match word.split_once('=') {
                Some((key, value)) => (Some(key.as_bytes()), value),
                None => (None, word),
            };
            let new = NewRecord {
                key,
                value: (value != "-").then_some(value.as_bytes()),
                headers: &[],
            };
            b.push(TimestampMs(ts.parse().unwrap()), &new);
        }
        let at = self.seal(b, offset, seal);
        if let Some(last) = last {
            let delta = i32::try_from(last - offset).unwrap();
            self.bytes[at + 23..at + 27].copy_from_slice(&delta.to_be_bytes());
            fix_crc(&mut self.bytes[at..]);
            self.batches.last_mut().unwrap().last = Offset(last);
        }
        self
    }

    fn seal(&mut self, b: BatchBuilder, offset: i64, seal: &Seal) -> usize {
        let (bytes, sealed) = b.seal(seal);
        self.bytes = bytes;
        stamp(&mut self.bytes[sealed.start..], Offset(offset), 0);
        self.batches.push(Made {
            position: sealed.start as u64,
            size: sealed.size,
            last: Offset(offset + i64::from(sealed.last_offset_delta)),
            max_timestamp: sealed.max_timestamp,
        });
        sealed.start
    }

    /// Where batch `i` begins.
    pub fn position(&self, i: usize) -> usize {
        usize::try_from(self.batches[i].position).unwrap()
    }

    /// Flips a bit `at` bytes into batch `i`.
    pub fn flip(mut self, i: usize, at: usize) -> Segment {
        let place = self.position(i) + at;
        self.bytes[place] ^= 1;
        self
    }

    /// Cuts `n` bytes off the end.
    pub fn cut(mut self, n: usize) -> Segment {
        let len = self.bytes.len() - n;
        self.bytes.truncate(len);
        self
    }

    /// Adds bytes that are no batch.
    pub fn raw(mut self, bytes: &[u8]) -> Segment {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// Overwrites bytes of batch `i` and makes its checksum right again.
    pub fn patch(mut self, i: usize, at: usize, bytes: &[u8]) -> Segment {
        let place = self.position(i) + at;
        self.bytes[place..place + bytes.len()].copy_from_slice(bytes);
        let end = self.position(i) + self.batches[i].size;
        let start = self.position(i);
        fix_crc(&mut self.bytes[start..end]);
        self
    }

    /// Writes an offset and a time index too, with an entry for every batch but the first.
    pub fn index(mut self) -> Segment {
        self.indexed = true;
        self
    }

    /// The same segment in another state of its life.
    pub fn state(mut self, state: State) -> Segment {
        self.name.state = state;
        self
    }

    /// The bytes of its offset and time index.
    pub fn indexes(&self) -> (Vec<u8>, Vec<u8>) {
        let (mut offsets, mut times) = (Vec::new(), Vec::new());
        let mut max = (TimestampMs::NONE, Offset::ZERO);
        for (i, b) in self.batches.iter().enumerate() {
            let rises = b.max_timestamp > max.0;
            if rises {
                max = (b.max_timestamp, b.last);
            }
            if i > 0 {
                let entry = OffsetEntry::new(self.name.base, b.last, Position(b.position));
                entry.unwrap().encode(&mut offsets);
            }
            if i > 0 && rises {
                let entry = TimeEntry::new(self.name.base, max.0, max.1);
                entry.unwrap().encode(&mut times);
            }
        }
        (offsets, times)
    }

    /// Puts its files into the directory.
    pub fn write(self) -> Segment {
        std::fs::write(self.dir.join(self.name.to_string()), &self.bytes).unwrap();
        if self.indexed {
            let (offsets, times) = self.indexes();
            let path = |kind| self.dir.join(self.name.sibling(kind).to_string());
            std::fs::write(path(Kind::OffsetIndex), offsets).unwrap();
            std::fs::write(path(Kind::TimeIndex), times).unwrap();
        }
        self
    }
}

fn producer(id: i64, base_sequence: i32) -> Producer {
    Producer {
        id,
        epoch: 0,
        base_sequence,
    }
}

/// Makes the checksum of the batch that is all of `batch` right.
pub fn fix_crc(batch: &mut [u8]) {
    let crc = crate::format::crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
}
