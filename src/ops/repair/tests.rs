//! A table of damage, and what must hold after each: every batch that is intact anywhere in the files
//! is kept bit by bit, every record that is gone is listed, verify is content, a second repair changes
//! nothing, a dry run told it all and changed nothing, and the log takes appends at an offset that it
//! never gave before.

use super::*;
use crate::corpus;
use crate::format::batch::Batch;
use crate::format::builder::{BatchBuilder, Chunk, Seal};
use crate::format::frame::{Frame, frame};
use crate::format::names::{self, Kind, State};
use crate::format::record::NewRecord;
use crate::format::{Position, TimestampMs};
use crate::log::testing::TestLog;
use crate::log::writer::{Writer, WriterOptions};
use crate::ops::verify::tests::findings;
use crate::segment::active::RollLimits;
use crate::sys::RealHost;
use std::collections::BTreeMap;
use std::path::Path;

fn host() -> Arc<dyn Host> {
    Arc::new(RealHost)
}

fn writer(path: &Path, segment_bytes: u64) -> Writer {
    let options = WriterOptions {
        wait: None,
        allow_network_fs: true,
        zero_fill: false,
        roll: RollLimits {
            segment_bytes,
            segment_age_ms: None,
        },
        command: "test".to_string(),
    };
    Writer::open(&host(), path, options).unwrap()
}

fn append(writer: &mut Writer, from: i64, records: i64) -> Offset {
    let mut builder = BatchBuilder::begin(Vec::new());
    for i in from..from + records {
        let value = format!("value of offset {i}");
        let record = NewRecord {
            key: Some(b"key"),
            value: Some(value.as_bytes()),
            headers: &[],
        };
        builder.push(TimestampMs(1_700_000_000_000 + i), &record);
    }
    let (bytes, sealed) = builder.seal(&Seal::default());
    let batches = vec![sealed];
    let mut hold = writer.hold().unwrap();
    let appended = hold.append(&mut Chunk { bytes, batches }, true);
    assert!(appended.error.is_none(), "{:?}", appended.error);
    hold.release().unwrap();
    appended.next
}

/// 16 batches of two records, four to a segment: bases 0, 8, 16, 24. Everything is durable.
fn log() -> TestLog {
    let log = TestLog::new("x-0");
    let mut writer = writer(&log.path(), 4 * 136);
    for i in 0..16 {
        append(&mut writer, 2 * i, 2);
    }
    writer.syncer().sync_to(Offset(32)).unwrap();
    writer.close().unwrap();
    assert_eq!(bases(&log.path()), [0, 8, 16, 24]);
    log
}

fn bases(path: &Path) -> Vec<i64> {
    let log = LogDir::open(&RealHost, path).unwrap();
    log.segments().unwrap().iter().map(|s| s.base().0).collect()
}

/// Every file below a directory but lock files, whose notes come and go.
fn tree(path: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = corpus::files(path).into_iter();
    let files = files.filter(|f| !corpus::name(f).ends_with(".lock"));
    files
        .map(|f| (f.clone(), std::fs::read(&f).unwrap()))
        .collect()
}

/// Every whole batch of the segments, as readers see them: base offset, bytes.
fn batches(path: &Path) -> Vec<(i64, Vec<u8>)> {
    let log = LogDir::open(&RealHost, path).unwrap();
    let mut out = Vec::new();
    for segment in log.segments().unwrap() {
        let bytes = std::fs::read(path.join(segment.log_name())).unwrap();
        let mut rest = bytes.as_slice();
        while let Frame::Entry(size) = frame(rest, &Limits::default()) {
            let (batch, after) = rest.split_at(size);
            let Ok(batch) = Batch::check(batch) else {
                break;
            };
            out.push((batch.header().base_offset.0, batch.bytes().to_vec()));
            rest = after;
        }
    }
    out
}

/// Offsets of records that can be read.
fn offsets(path: &Path) -> Vec<i64> {
    let batches = batches(path);
    records(batches.iter().map(|(_, bytes)| bytes.as_slice()))
}

fn records<'a>(batches: impl Iterator<Item = &'a [u8]>) -> Vec<i64> {
    let mut scratch = crate::format::batch::Scratch::new();
    let mut out = Vec::new();
    for bytes in batches {
        let batch = Batch::check(bytes).unwrap();
        let Ok(records) = batch.records(&mut scratch, &Limits::default()) else {
            continue;
        };
        out.extend(records.map_while(|r| r.ok()).map(|r| r.offset.0));
    }
    out
}

fn run(path: &Path, dry_run: bool) -> Result<Report> {
    let options = Options {
        dry_run,
        allow_network_fs: true,
        ..Options::default()
    };
    repair(&host(), &Partition::at(path), &options)
}

/// Repairs a log that held `before` and checks all that must hold.
fn check(what: &str, path: &Path, before: &[(i64, Vec<u8>)]) -> Report {
    let harmed = tree(path);
    let logs: Vec<&Vec<u8>> = harmed
        .iter()
        .filter(|(p, _)| corpus::name(p).contains(".log") && !p.ends_with("list.ndjson"))
        .filter(|(p, _)| names::parse(&corpus::name(p)).is_some_and(|n| n.kind == Kind::Log))
        .map(|(_, bytes)| bytes)
        .collect();
    let told_before = findings(path);
    let mut scratch = crate::format::batch::Scratch::new();
    let mut decodes = |batch: &[u8]| {
        let batch = Batch::check(batch).unwrap();
        batch
            .check_records(&mut scratch, &Limits::default())
            .is_ok()
    };
    let anywhere = |batch: &[u8]| {
        logs.iter()
            .any(|l| memchr::memmem::find(l, batch).is_some())
    };
    let dry = run(path, true).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(harmed, tree(path), "{what}: a dry run changes nothing");
    let report = run(path, false).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(dry, report, "{what}: a dry run tells all");
    let told = format!("{what}: {report:#?}");
    let after = batches(path);
    let mut next = 0;
    for (base, batch) in before {
        // One that goes back is at the wrong place: its offsets are those of another.
        let in_order = *base >= next;
        next = next.max(Batch::check(batch).unwrap().header().last_offset.0 + 1);
        if in_order && anywhere(batch) && decodes(batch) {
            assert!(
                after.contains(&(*base, batch.clone())),
                "batch {base} is lost\n{told}"
            );
        }
    }
    let there = offsets(path);
    assert!(
        there.windows(2).all(|w| w[0] < w[1]),
        "offsets rise\n{told}"
    );
    // A base offset is outside the checksum: what fits between its neighbours cannot be seen.
    let unseen = told_before.is_empty() && what.starts_with("base offset");
    let torn = report.steps.iter().any(|s| s.what == "cut the torn tail");
    let lost = records(before.iter().map(|(_, bytes)| bytes.as_slice()));
    for offset in lost.into_iter().filter(|o| !there.contains(o)) {
        let mut ranges = report.lost.iter().map(|l| &l.offsets);
        let listed = ranges.any(|r| r.contains(&Offset(offset)));
        assert!(
            listed || torn || unseen,
            "offset {offset} is lost without a word\n{told}"
        );
    }
    let found = findings(path);
    assert!(found.is_empty(), "{found:#?}\n{told}");
    let once = tree(path);
    let second = run(path, false).unwrap();
    assert!(second == Report::default(), "{second:#?}\n{told}");
    assert_eq!(once, tree(path), "a second run changes nothing\n{told}");
    report
}

/// As [`check`], and the log takes appends afterwards, above all offsets it gave.
fn check_and_append(what: &str, path: &Path, before: &[(i64, Vec<u8>)]) -> Report {
    let report = check(what, path, before);
    let mut writer = writer(path, 4 * 136);
    let next = append(&mut writer, 100, 1);
    writer.close().unwrap();
    let torn = report.steps.iter().any(|s| s.what == "cut the torn tail");
    assert!(
        next.0 > 32 || torn,
        "{what}: offset {next} was given before"
    );
    let found = findings(path);
    assert!(found.is_empty(), "{what}: {found:#?}");
    report
}

/// Runs a case; what it panics with.
fn tried(case: impl FnOnce()) -> Option<String> {
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(case));
    let panic = result.err()?;
    let text = panic.downcast_ref::<String>().cloned();
    Some(
        text.or(panic.downcast_ref::<&str>().map(|s| s.to_string()))
            .unwrap_or_default(),
    )
}

fn assert_none(failed: Vec<String>) {
    assert!(
        failed.is_empty(),
        "{} cases failed\n{}",
        failed.len(),
        failed.join("\n-----\n")
    );
}

/// Without our own files a log is a broker's.
fn make_brokers(path: &Path) {
    std::fs::remove_dir_all(path.join(".logd")).unwrap();
}

fn segment(path: &Path, base: i64) -> PathBuf {
    path.join(names::file_name(Offset(base), Kind::Log))
}

fn edit(file: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(file).unwrap();
    change(&mut bytes);
    std::fs::write(file, bytes).unwrap();
}

/// Where batch `i` of a segment begins and ends.
fn place(path: &Path, base: i64, i: usize) -> std::ops::Range<usize> {
    let bytes = std::fs::read(segment(path, base)).unwrap();
    let mut at = 0;
    for n in 0.. {
        let Frame::Entry(size) = frame(&bytes[at..], &Limits::default()) else {
            panic!("no batch {i}")
        };
        if n == i {
            return at..at + size;
        }
        at += size;
    }
    unreachable!()
}

/// Every field of a batch's header, and its body.
const FIELDS: [(&str, usize); 20] = [
    ("base offset, high", 0),
    ("base offset, low", 7),
    ("length, high", 8),
    ("length, low", 11),
    ("leader epoch, high", 12),
    ("leader epoch, low", 15),
    ("magic", 16),
    ("crc", 17),
    ("attributes, high", 21),
    ("attributes, low", 22),
    ("last offset delta, high", 23),
    ("last offset delta, low", 26),
    ("base timestamp", 34),
    ("max timestamp", 42),
    ("producer id", 43),
    ("producer epoch", 51),
    ("base sequence", 53),
    ("count", 60),
    ("first record's length", 61),
    ("body", 80),
];

fn flip(field: &str, at: usize, bit: u8, base: i64, batch: usize, brokers: bool) {
    let log = log();
    let path = log.path();
    let before = batches(&path);
    if brokers {
        make_brokers(&path);
    }
    let place = place(&path, base, batch);
    edit(&segment(&path, base), |bytes| {
        bytes[place.start + at] ^= bit
    });
    let what = format!("{field} ^ {bit}, batch {batch} of {base}, brokers {brokers}");
    let report = check_and_append(&what, &path, &before);
    let lost = report.lost.iter();
    let lost: i64 = lost.map(|l| (l.offsets.end - l.offsets.start).min(2)).sum();
    assert!(lost <= 2, "{what}: {report:#?}");
}

#[test]
fn a_flipped_bit_costs_the_batch_it_is_in_and_no_other() {
    let places = [(0, 0), (8, 2), (16, 3), (24, 1), (24, 3)];
    let mut failed = Vec::new();
    for (f, (field, at)) in FIELDS.into_iter().enumerate() {
        for (i, (base, batch)) in places.into_iter().enumerate() {
            let bit = [1, 2, 0x10, 0x80][(f + i) % 4];
            let brokers = (f + i) % 3 == 0;
            failed.extend(tried(|| flip(field, at, bit, base, batch, brokers)));
        }
    }
    assert_none(failed);
}

/// What is done to a log, given its directory.
type Harm = fn(&Path);

fn copy(path: &Path, from: i64, to: i64) {
    for kind in Kind::ALL {
        let (from, to) = (
            names::file_name(Offset(from), kind),
            names::file_name(Offset(to), kind),
        );
        if path.join(&from).exists() {
            std::fs::copy(path.join(&from), path.join(&to)).unwrap();
        }
    }
}

fn swap(path: &Path, a: i64, b: i64) {
    let (a, b) = (segment(path, a), segment(path, b));
    let (x, y) = (std::fs::read(&a).unwrap(), std::fs::read(&b).unwrap());
    std::fs::write(a, y).unwrap();
    std::fs::write(b, x).unwrap();
}

fn remove(path: &Path, base: i64) {
    for kind in Kind::ALL {
        let _ = std::fs::remove_file(path.join(names::file_name(Offset(base), kind)));
    }
}

fn index(path: &Path, base: i64, kind: Kind) -> PathBuf {
    path.join(names::file_name(Offset(base), kind))
}

fn in_state(path: &Path, base: i64, kind: Kind, state: State) -> PathBuf {
    let base = Offset(base);
    path.join(names::FileName { base, kind, state }.to_string())
}

fn zero(path: &Path, base: i64, bytes: std::ops::Range<usize>) {
    edit(&segment(path, base), |b| b[bytes].fill(0));
}

fn cut(path: &Path, base: i64, keep: impl FnOnce(usize) -> usize) {
    edit(&segment(path, base), |b| b.truncate(keep(b.len())));
}

/// What else can happen to files. The word after a name: what verify says of it.
fn harms() -> Vec<(&'static str, &'static str, Harm)> {
    vec![
        ("sealed segment cut in a batch", "inside a batch", |p| {
            cut(p, 8, |n| n - 10)
        }),
        ("sealed segment cut in a header", "inside a batch", |p| {
            cut(p, 8, |n| n - 100)
        }),
        ("sealed segment cut between batches", "missing", |p| {
            let at = place(p, 8, 2).end;
            cut(p, 8, |_| at);
        }),
        ("sealed segment emptied", "missing", |p| cut(p, 8, |_| 0)),
        ("first segment emptied", "missing", |p| cut(p, 0, |_| 0)),
        ("active segment cut in a batch", "inside a batch", |p| {
            cut(p, 24, |n| n - 10)
        }),
        ("active segment cut between batches", "was durable", |p| {
            let at = place(p, 24, 2).end;
            cut(p, 24, |_| at);
        }),
        ("active segment emptied", "was durable", |p| {
            cut(p, 24, |_| 0)
        }),
        (
            "zeros over a batch of a sealed segment",
            "batch length 0",
            |p| zero(p, 8, place(p, 8, 1)),
        ),
        (
            "zeros over the last batch of a sealed segment",
            "are zeros",
            |p| zero(p, 8, place(p, 8, 3)),
        ),
        ("zeros over a sealed segment", "are zeros", |p| {
            zero(p, 8, 0..place(p, 8, 3).end)
        }),
        ("zeros over a header", "batch length", |p| {
            let at = place(p, 8, 1).start;
            zero(p, 8, at..at + 61);
        }),
        (
            "zeros over a batch of the active segment",
            "batch length 0",
            |p| zero(p, 24, place(p, 24, 1)),
        ),
        (
            "zeros over the end of the active segment",
            "was durable",
            |p| zero(p, 24, place(p, 24, 3)),
        ),
        ("zeros in the middle of a record", "CRC-32C", |p| {
            let at = place(p, 16, 1).start;
            zero(p, 16, at + 90..at + 100);
        }),
        ("a foreign block", "batch", |p| {
            edit(&segment(p, 8), |b| {
                (100..300).for_each(|i| b[i] = (i * 7 % 251) as u8);
            })
        }),
        ("a foreign block at the start", "batch", |p| {
            edit(&segment(p, 8), |b| {
                (0..200).for_each(|i| b[i] = (i * 13 % 241 + 1) as u8);
            })
        }),
        ("a batch over another", "base offset", |p| {
            let (from, to) = (place(p, 8, 0), place(p, 8, 2));
            edit(&segment(p, 8), |b| {
                let copy = b[from].to_vec();
                b[to.start..to.start + copy.len()].copy_from_slice(&copy);
            });
        }),
        ("two batches change places", "base offset", |p| {
            let (a, c) = (place(p, 8, 1), place(p, 8, 2));
            edit(&segment(p, 8), |b| {
                let mut both = b[c.clone()].to_vec();
                both.extend_from_slice(&b[a.clone()]);
                b[a.start..c.end].copy_from_slice(&both);
            });
        }),
        ("a batch twice", "base offset", |p| {
            let at = place(p, 8, 1);
            edit(&segment(p, 8), |b| {
                let copy = b[at.clone()].to_vec();
                b.splice(at.start..at.start, copy);
            });
        }),
        ("a batch of another log", "base offset", |p| {
            let at = place(p, 16, 1);
            let mut foreign = std::fs::read(segment(p, 16)).unwrap()[at.clone()].to_vec();
            foreign[..8].copy_from_slice(&3i64.to_be_bytes());
            edit(&segment(p, 16), |b| b[at].copy_from_slice(&foreign));
        }),
        ("bytes between batches", "batch", |p| {
            let at = place(p, 8, 2).start;
            edit(&segment(p, 8), |b| {
                b.splice(at..at, *b"not a batch at all, and of no round length");
            });
        }),
        ("bytes taken out of a batch", "batch", |p| {
            let at = place(p, 8, 1).start;
            edit(&segment(p, 8), |b| {
                b.drain(at + 70..at + 90);
            });
        }),
        ("garbage behind a sealed segment", "batch", |p| {
            edit(&segment(p, 8), |b| b.extend([0xA5; 77]))
        }),
        ("garbage behind the active segment", "batch", |p| {
            edit(&segment(p, 24), |b| b.extend([0xA5; 77]))
        }),
        ("two segments swapped", "base offset", |p| swap(p, 0, 8)),
        (
            "segments swapped that are not neighbours",
            "base offset",
            |p| swap(p, 0, 16),
        ),
        (
            "a sealed and the active segment swapped",
            "base offset",
            |p| swap(p, 16, 24),
        ),
        ("a segment twice", "base offset", |p| copy(p, 8, 12)),
        ("the first segment twice", "base offset", |p| copy(p, 0, 20)),
        ("the active segment twice", "base offset", |p| {
            copy(p, 24, 30)
        }),
        ("a segment missing", "missing", |p| remove(p, 8)),
        ("two segments missing", "missing", |p| {
            remove(p, 8);
            remove(p, 16);
        }),
        ("the active segment missing", "was durable", |p| {
            remove(p, 24)
        }),
        ("an offset index of random bytes", "index:", |p| {
            std::fs::write(index(p, 8, Kind::OffsetIndex), [0x5B; 45]).unwrap();
        }),
        ("an offset index of another segment", "index:", |p| {
            std::fs::write(index(p, 8, Kind::OffsetIndex), [0, 0, 0, 1, 0, 0, 0, 9]).unwrap();
        }),
        (
            "an offset index that leads into a batch",
            "no batch begins",
            |p| {
                std::fs::write(index(p, 8, Kind::OffsetIndex), [0, 0, 0, 3, 0, 0, 0, 140]).unwrap();
            },
        ),
        ("an offset index with the wrong offset", "ends at", |p| {
            let at = u32::try_from(place(p, 8, 1).start).unwrap().to_be_bytes();
            std::fs::write(
                index(p, 8, Kind::OffsetIndex),
                [&[0, 0, 0, 2], at.as_slice()].concat(),
            )
            .unwrap();
        }),
        ("an offset index that is missing", "missing", |p| {
            std::fs::remove_file(index(p, 8, Kind::OffsetIndex)).unwrap();
        }),
        ("a time index that is missing", "missing", |p| {
            std::fs::remove_file(index(p, 8, Kind::TimeIndex)).unwrap();
        }),
        ("a time index that is empty", "is not indexed", |p| {
            std::fs::write(index(p, 8, Kind::TimeIndex), []).unwrap();
        }),
        ("a time index of zeros", "is not indexed", |p| {
            std::fs::write(index(p, 8, Kind::TimeIndex), [0; 48]).unwrap();
        }),
        ("a time index from the future", "indexed at offset", |p| {
            edit(&index(p, 8, Kind::TimeIndex), |b| b[0] = 0x70);
        }),
        ("a transaction index out of nowhere", "abort marker", |p| {
            let mut entry = vec![0; 34];
            entry[25] = 9;
            std::fs::write(index(p, 8, Kind::TxnIndex), entry).unwrap();
        }),
        (
            "the active segment's index of random bytes",
            "index:",
            |p| {
                std::fs::write(index(p, 24, Kind::OffsetIndex), [0x5B; 45]).unwrap();
            },
        ),
        (
            "the active segment's time index from the future",
            "timeindex:",
            |p| {
                std::fs::write(index(p, 24, Kind::TimeIndex), [0x70; 12]).unwrap();
            },
        ),
        ("an index without a log", "without a log", |p| {
            std::fs::write(index(p, 4, Kind::OffsetIndex), [1, 2, 3]).unwrap();
        }),
        (
            "an index without a log behind the end",
            "without a log",
            |p| {
                std::fs::write(index(p, 777, Kind::TimeIndex), [1, 2, 3]).unwrap();
            },
        ),
        ("a snapshot of random bytes", "snapshot", |p| {
            std::fs::write(index(p, 8, Kind::Snapshot), [7; 99]).unwrap();
        }),
        ("a snapshot behind the end", "behind the end", |p| {
            let empty = crate::format::snapshot::encode(&[]);
            std::fs::write(index(p, 777, Kind::Snapshot), empty).unwrap();
        }),
        ("leader epochs of random bytes", "checkpoint version", |p| {
            std::fs::write(p.join(names::LEADER_EPOCH_CHECKPOINT), "what").unwrap();
        }),
        ("a leader epoch behind the end", "behind the end", |p| {
            std::fs::write(p.join(names::LEADER_EPOCH_CHECKPOINT), "0\n2\n0 0\n5 999\n").unwrap();
        }),
        ("a cleaned file", "never finished", |p| {
            std::fs::copy(segment(p, 8), in_state(p, 8, Kind::Log, State::Cleaned)).unwrap();
        }),
        ("a swap file with its old segment", "not finished", |p| {
            std::fs::copy(segment(p, 8), in_state(p, 8, Kind::Log, State::Swap)).unwrap();
        }),
        (
            "a swap file in place of its old segment",
            "not finished",
            |p| {
                std::fs::rename(segment(p, 8), in_state(p, 8, Kind::Log, State::Swap)).unwrap();
            },
        ),
        ("swap files of an index only", "not finished", |p| {
            let plain = index(p, 8, Kind::OffsetIndex);
            std::fs::rename(plain, in_state(p, 8, Kind::OffsetIndex, State::Swap)).unwrap();
        }),
        (
            "a merged swap and some of what it replaces",
            "not finished",
            |p| {
                let merged = [8, 16]
                    .map(|b| std::fs::read(segment(p, b)).unwrap())
                    .concat();
                std::fs::write(in_state(p, 8, Kind::Log, State::Swap), merged).unwrap();
                remove(p, 8);
            },
        ),
        ("a swap and a cleaned file", "never finished", |p| {
            std::fs::copy(segment(p, 8), in_state(p, 8, Kind::Log, State::Swap)).unwrap();
            std::fs::write(in_state(p, 8, Kind::OffsetIndex, State::Cleaned), []).unwrap();
        }),
        (
            "a damaged swap file in place of its old segment",
            "not finished",
            |p| {
                std::fs::rename(segment(p, 8), in_state(p, 8, Kind::Log, State::Swap)).unwrap();
                edit(&in_state(p, 8, Kind::Log, State::Swap), |b| b[200] ^= 1);
            },
        ),
        ("damage in every segment", "CRC-32C", |p| {
            for (base, i) in [(0, 3), (8, 0), (16, 1), (24, 2)] {
                let at = place(p, base, i).start;
                edit(&segment(p, base), |b| b[at + 90] ^= 1);
            }
        }),
        (
            "damage at the end of a segment and the start of the next",
            "CRC-32C",
            |p| {
                for (base, i) in [(8, 3), (16, 0)] {
                    let at = place(p, base, i).start;
                    edit(&segment(p, base), |b| b[at + 90] ^= 1);
                }
            },
        ),
        ("a failed sync", "a sync failed", |p| {
            std::fs::create_dir_all(p.join(".logd")).unwrap();
            std::fs::write(p.join(".logd/failed"), "durable offset 20\n").unwrap();
        }),
        ("a failed sync and a hole", "CRC-32C", |p| {
            std::fs::create_dir_all(p.join(".logd")).unwrap();
            std::fs::write(p.join(".logd/failed"), "durable offset 20\n").unwrap();
            let at = place(p, 24, 1).start;
            edit(&segment(p, 24), |b| b[at + 90] ^= 1);
        }),
    ]
}

#[test]
fn what_happens_to_files_is_told_and_repaired() {
    let mut failed = Vec::new();
    for (what, told, harm) in harms() {
        for brokers in [false, true] {
            // Only what we made durable can be seen to be gone from behind or between.
            let unseen = ["was durable", "missing"].contains(&told) && !what.contains("index");
            if brokers && unseen {
                continue;
            }
            failed.extend(tried(|| {
                let log = log();
                let path = log.path();
                let before = batches(&path);
                if brokers {
                    make_brokers(&path);
                }
                harm(&path);
                let found = findings(&path).join("\n");
                assert!(found.contains(told), "{what}: {found}");
                check_and_append(&format!("{what}, brokers {brokers}"), &path, &before);
            }));
        }
    }
    assert_none(failed);
}

#[test]
fn a_sound_log_is_not_touched() {
    let log = log();
    let before = tree(&log.path());
    assert_eq!(run(&log.path(), false).unwrap(), Report::default());
    assert_eq!(before, tree(&log.path()));
    make_brokers(&log.path());
    let before = tree(&log.path());
    assert_eq!(run(&log.path(), false).unwrap(), Report::default());
    assert_eq!(before, tree(&log.path()));
    assert!(!log.path().join(".logd").exists());
}

#[test]
fn what_is_taken_out_is_kept_with_its_place() {
    let log = log();
    let path = log.path();
    let at = place(&path, 8, 1);
    edit(&segment(&path, 8), |b| b[at.start + 90] ^= 1);
    let harmed = std::fs::read(segment(&path, 8)).unwrap();
    let report = run(&path, false).unwrap();
    assert_eq!(report.lost.len(), 1);
    assert_eq!(report.lost[0].offsets, Offset(10)..Offset(12));
    let kept = path.join(".logd/lost+found");
    let list = std::fs::read_to_string(kept.join("list.ndjson")).unwrap();
    let line: serde_json::Value = serde_json::from_str(list.trim_end()).unwrap();
    assert_eq!((&line["segment"], &line["offset"]), (&8.into(), &10.into()));
    let file = kept.join(line["file"].as_str().unwrap());
    assert_eq!(std::fs::read(file).unwrap(), harmed[at]);
}

/// Copies a directory of the corpus, without what is ours in it.
fn copy_of(dir: &Path) -> TestLog {
    let log = TestLog::new("x-0");
    for entry in std::fs::read_dir(dir).unwrap() {
        let file = entry.unwrap().path();
        let name = corpus::name(&file);
        if file.is_file() && !name.contains("expected") && name != "dump-log.txt" {
            std::fs::copy(&file, log.path().join(name)).unwrap();
        }
    }
    log
}

/// Offsets that the corpus expects of a directory.
fn expected(dir: &Path) -> Vec<i64> {
    let files = corpus::files(dir).into_iter();
    let files = files.filter(|f| corpus::name(f).ends_with(".log.expected.ndjson"));
    let offset = |line: &str| {
        let json: serde_json::Value = serde_json::from_str(line).unwrap();
        json["offset"].as_i64().unwrap()
    };
    files
        .flat_map(|f| {
            let text = std::fs::read_to_string(f).unwrap();
            text.lines().map(offset).collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn no_less_is_kept_than_a_broker_keeps() {
    let Some(root) = corpus::root() else { return };
    let mut failed = Vec::new();
    for entry in std::fs::read_dir(root.join("crash")).unwrap() {
        let dir = entry.unwrap().path();
        failed.extend(tried(|| keeps_as_much(&dir)));
    }
    assert_none(failed);
}

fn keeps_as_much(dir: &Path) {
    let what = corpus::name(dir);
    let log = copy_of(&dir.join("before"));
    let before = batches(&log.path());
    let report = check(&what, &log.path(), &before);
    let there: std::collections::BTreeSet<i64> = offsets(&log.path()).into_iter().collect();
    for offset in expected(&dir.join("after")) {
        assert!(
            there.contains(&offset),
            "{what}: a broker keeps {offset}\n{report:#?}"
        );
    }
}

#[test]
fn what_a_kill_leaves_of_a_broker_is_sound() {
    let Some(root) = corpus::root() else { return };
    for entry in std::fs::read_dir(root.join("unclean")).unwrap() {
        let dir = entry.unwrap().path();
        if dir.is_dir() {
            let log = copy_of(&dir);
            let before = tree(&log.path());
            let report = run(&log.path(), false).unwrap();
            assert_eq!(report, Report::default(), "{}", dir.display());
            assert_eq!(before, tree(&log.path()));
        }
    }
}

#[test]
fn aborted_transactions_are_indexed_as_a_broker_does() {
    let Some(root) = corpus::root() else { return };
    let dir = root.join("crash/txn-noindex");
    let log = copy_of(&dir.join("before"));
    run(&log.path(), false).unwrap();
    let mut compared = 0;
    for file in corpus::files(&dir.join("after")) {
        let name = corpus::name(&file);
        let theirs = std::fs::read(&file).unwrap();
        if name.ends_with(".txnindex") && !theirs.is_empty() {
            assert_eq!(
                std::fs::read(log.path().join(&name)).unwrap(),
                theirs,
                "{name}"
            );
            compared += 1;
        }
    }
    assert!(compared > 1);
}

#[test]
fn a_broker_that_runs_keeps_repair_out() {
    use crate::sys::sim::SimHost;
    let machine = SimHost::new();
    machine.make_dir(Path::new("/d")).unwrap();
    machine.make_dir(Path::new("/d/x-0")).unwrap();
    let dir = machine.open_dir(Path::new("/d")).unwrap();
    dir.create(names::LOCK).unwrap();
    assert!(machine.set_broker_lock("/d/.lock", true).unwrap());
    let host: Arc<dyn Host> = Arc::new(machine.process());
    let refused = repair(
        &host,
        &Partition::at(Path::new("/d/x-0")),
        &Options::default(),
    );
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Locked);
}

#[test]
fn positions_of_what_is_cut_are_those_of_the_file() {
    let log = log();
    let path = log.path();
    let at = place(&path, 8, 1);
    edit(&segment(&path, 8), |b| b[at.start + 90] ^= 1);
    let log_dir = LogDir::open(&RealHost, &path).unwrap();
    let plan = plan::make(&RealHost, &log_dir, Limits::default()).unwrap();
    let bytes = &plan.taken_out[0].bytes;
    assert_eq!(*bytes, Position(at.start as u64)..Position(at.end as u64));
}
