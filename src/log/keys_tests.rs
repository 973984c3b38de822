//! With any look-up indexes, sound, stale or harmed, the same records are found as by reading all.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;

use crate::format::batch::Scratch;
use crate::format::builder::{BatchBuilder, Chunk, Seal, stamp};
use crate::format::codec::{Codec, Compression, Compressor};
use crate::format::names::{Kind, file_name};
use crate::format::record::{NewRecord, Record};
use crate::format::{Limits, Offset, TimestampMs};
use crate::log::files;
use crate::log::isolation::Isolation;
use crate::log::keys::{self, Found, Keys};
use crate::log::keys_build::{Builder, Built, ENTRIES_MAX, Wanted};
use crate::log::listing::LogDir;
use crate::log::reader::{Advance, ReadOptions};
use crate::log::reverse::Reverse;
use crate::log::testing::TestLog;
use crate::log::versions::{Sought, Versions};
use crate::log::view::View;
use crate::sys::sim::{After, Fault, Policy, SimHost};
use crate::sys::{Host, RealHost};

/// A record: key and value by number, none for null.
type Made = (Option<u8>, Option<u8>);
/// A batch: gap before it, codec, its records and the offsets that compaction removed after each.
type BatchPlan = (i64, usize, Vec<(Made, i32)>);

const CODECS: [Codec; 5] = [
    Codec::None,
    Codec::Gzip,
    Codec::Snappy,
    Codec::Lz4,
    Codec::Zstd,
];
const OPTIONS: ReadOptions = ReadOptions {
    limits: Limits {
        batch_bytes_max: 1 << 20,
        body_bytes_max: 1 << 20,
        zstd_window_log_max: 27,
    },
    skip_corrupt: false,
};

fn key(n: u8) -> Vec<u8> {
    match n {
        0 => Vec::new(),
        n => format!("key-{n}").into_bytes(),
    }
}

fn key_of<'r>(record: &Record<'r>) -> Option<Cow<'r, [u8]>> {
    record.key.map(Cow::Borrowed)
}

const BY_KEY: Wanted<'static> = Wanted {
    field: "key",
    value_of: &key_of,
    table: true,
    filter: false,
};

fn value_of<'r>(record: &Record<'r>) -> Option<Cow<'r, [u8]>> {
    record.value.map(Cow::Borrowed)
}

const BY_VALUE: Wanted<'static> = Wanted {
    field: "value",
    value_of: &value_of,
    table: true,
    filter: false,
};

/// Writes the segments of a plan; returns all records as (offset, key, is a tombstone).
fn write(log: &TestLog, plan: &[Vec<BatchPlan>], time: i64) -> Vec<(i64, Option<Vec<u8>>, bool)> {
    let mut next = 0;
    let mut all = Vec::new();
    for segment in plan {
        let base = next;
        let mut chunk = Chunk::default();
        for (gap, codec, records) in segment {
            next += gap;
            let start = chunk.bytes.len();
            let mut builder = BatchBuilder::begin(Vec::new());
            let mut delta = 0;
            for ((k, v), removed) in records {
                let k = k.map(key);
                let v = v.map(|v| vec![v; 3]);
                let record = NewRecord {
                    key: k.as_deref(),
                    value: v.as_deref(),
                    headers: &[],
                };
                builder.push_at(delta, TimestampMs(time), &record);
                all.push((next + i64::from(delta), k, v.is_none()));
                delta += 1 + removed;
            }
            let compression = Compression {
                codec: CODECS[*codec],
                level: None,
            };
            let mut compressor = Compressor::new(&compression);
            builder.seal_compressed(&Seal::default(), &mut compressor, &mut chunk);
            stamp(&mut chunk.bytes[start..], Offset(next), 0);
            let sealed = chunk.batches.last().unwrap();
            next += i64::from(sealed.last_offset_delta) + 1;
        }
        log.file(&file_name(Offset(base), Kind::Log), &chunk.bytes);
        next = next.max(base + 1);
    }
    all
}

fn plans() -> impl Strategy<Value = Vec<Vec<BatchPlan>>> {
    let record = (
        (
            prop::option::weighted(0.9, 0u8..6),
            prop::option::weighted(0.8, any::<u8>()),
        ),
        prop_oneof![4 => Just(0i32), 1 => 1i32..9],
    );
    let batch = (
        prop_oneof![3 => Just(0i64), 1 => 1i64..20],
        0usize..5,
        prop::collection::vec(record, 1..6),
    );
    prop::collection::vec(prop::collection::vec(batch, 0..5), 1..5)
}

/// Makes the indexes of all sealed segments.
fn build(host: &dyn Host, path: &Path, wanted: &[Wanted<'_>]) -> crate::error::Result<()> {
    build_within(host, path, wanted, ENTRIES_MAX)
}

/// The same, with so many entries in memory at once.
fn build_within(
    host: &dyn Host,
    path: &Path,
    wanted: &[Wanted<'_>],
    entries_max: usize,
) -> crate::error::Result<()> {
    let log = LogDir::open(host, path)?;
    let own = crate::log::writer::open_logd_dir(log.dir().as_ref())?;
    let dir = keys::make_dir(&*own, files::KEYS)?;
    let tmp = keys::make_dir(&*own, files::TMP)?;
    let builder = Builder {
        log: &log,
        keys: &*dir,
        tmp: &*tmp,
        limits: OPTIONS.limits,
        progress: &|_, _| {},
        entries_max,
    };
    let segments = log.segments()?;
    for pair in segments.windows(2) {
        match builder.build(&pair[0], pair[1].base(), wanted)? {
            Built::Made(_) | Built::Unfit => {}
            Built::Damaged(e) => return Err(e),
        }
    }
    Ok(())
}

/// Offsets of the records with a key, newest first, and whether each is a tombstone.
fn found(path: &Path, value: &[u8], end: i64) -> Vec<(i64, bool)> {
    let view = View::of(LogDir::open(&RealHost, path).unwrap()).unwrap();
    let wanted = view.start()..Offset(end);
    let sought = Sought {
        field: "key",
        values: &[value],
    };
    let host: Arc<dyn Host> = Arc::new(RealHost);
    let mut versions =
        Versions::new(host, view, sought, wanted, Isolation::Committed, OPTIONS).unwrap();
    let mut out = Vec::new();
    loop {
        match versions.advance().unwrap() {
            Advance::Batch => {
                let piece = versions.piece().unwrap();
                let mut scratch = Scratch::new();
                let records = piece.batch.records(&mut scratch, &OPTIONS.limits).unwrap();
                let mut of_batch: Vec<_> = records
                    .map(|r| r.unwrap())
                    .filter(|r| r.key == Some(value) && piece.wanted.contains(&r.offset))
                    .map(|r| (r.offset.0, r.value.is_none()))
                    .collect();
                of_batch.reverse();
                out.extend(of_batch);
            }
            Advance::End => return out,
            other => panic!("{other:?}"),
        }
    }
}

/// Offset of the newest record of each key, found in one pass that forgets what it found.
fn newest(path: &Path, values: &[Vec<u8>], end: i64) -> BTreeMap<Vec<u8>, i64> {
    let view = View::of(LogDir::open(&RealHost, path).unwrap()).unwrap();
    let wanted = view.start()..Offset(end);
    let values: Vec<&[u8]> = values.iter().map(|v| &v[..]).collect();
    let sought = Sought {
        field: "key",
        values: &values,
    };
    let host: Arc<dyn Host> = Arc::new(RealHost);
    let mut versions =
        Versions::new(host, view, sought, wanted, Isolation::Committed, OPTIONS).unwrap();
    let (mut out, mut before) = (BTreeMap::new(), Offset::MAX);
    while let Advance::Batch = versions.advance().unwrap() {
        let piece = versions.piece().unwrap();
        let base = piece.batch.header().base_offset;
        assert!(base < before, "each batch once, going back");
        before = base;
        let mut scratch = Scratch::new();
        let records = piece.batch.records(&mut scratch, &OPTIONS.limits).unwrap();
        let records: Vec<_> = records.map(|r| r.unwrap()).collect();
        let mut here = BTreeMap::new();
        for r in records.iter().filter(|r| piece.wanted.contains(&r.offset)) {
            if let Some(k) = r
                .key
                .filter(|k| values.contains(k) && !out.contains_key(*k))
            {
                here.insert(k.to_vec(), r.offset.0);
            }
        }
        here.keys().for_each(|k| versions.forget(k));
        out.extend(here);
    }
    out
}

fn newest_expected(
    all: &[(i64, Option<Vec<u8>>, bool)],
    values: &[Vec<u8>],
    end: i64,
) -> BTreeMap<Vec<u8>, i64> {
    let newest = |v: &Vec<u8>| Some((v.clone(), expected(all, v, end).first()?.0));
    values.iter().filter_map(newest).collect()
}

/// What is done to one of the index files.
#[derive(Clone, Debug)]
enum Harm {
    None,
    Remove,
    Empty,
    Cut(prop::sample::Index),
    Flip(prop::sample::Index, u8),
    OfAnother,
    /// The segments are written anew, each as long as before, with other keys.
    Stale,
}

fn harms() -> impl Strategy<Value = Harm> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        Just(Harm::None),
        Just(Harm::Remove),
        Just(Harm::Empty),
        index().prop_map(Harm::Cut),
        (index(), 0u8..8).prop_map(|(i, bit)| Harm::Flip(i, bit)),
        Just(Harm::OfAnother),
        Just(Harm::Stale),
    ]
}

fn index_files(log: &TestLog) -> BTreeMap<String, Vec<u8>> {
    let dir = log.path().join(".logd/keys");
    let names = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap());
    names
        .map(|e| {
            let name = e.file_name().into_string().unwrap();
            (name, std::fs::read(e.path()).unwrap())
        })
        .collect()
}

fn harm(log: &TestLog, harms: &[Harm]) -> bool {
    let files = index_files(log);
    let mut stale = false;
    for (i, (name, bytes)) in files.iter().enumerate() {
        let path = log.path().join(".logd/keys").join(name);
        let mut bytes = bytes.clone();
        match &harms[i % harms.len()] {
            Harm::None => {}
            Harm::Remove => {
                std::fs::remove_file(&path).unwrap();
                continue;
            }
            Harm::Empty => bytes.clear(),
            Harm::Cut(at) => bytes.truncate(at.index(bytes.len())),
            Harm::Flip(at, bit) => {
                let at = at.index(bytes.len());
                bytes[at] ^= 1 << bit;
            }
            Harm::OfAnother => bytes = files.values().nth((i + 1) % files.len()).unwrap().clone(),
            Harm::Stale => stale = true,
        }
        std::fs::write(path, bytes).unwrap();
    }
    stale
}

fn expected(all: &[(i64, Option<Vec<u8>>, bool)], value: &[u8], end: i64) -> Vec<(i64, bool)> {
    let of = |r: &&(i64, Option<Vec<u8>>, bool)| r.1.as_deref() == Some(value) && r.0 < end;
    all.iter().filter(of).map(|r| (r.0, r.2)).rev().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn every_version_of_a_key_is_found_with_any_index(
        plan in plans(),
        harms in prop::collection::vec(harms(), 1..5),
        entries_max in prop_oneof![1usize..9, Just(ENTRIES_MAX)],
        unindexed in prop::option::weighted(0.2, Just(())),
        end in prop_oneof![2 => Just(i64::MAX), 1 => 0i64..60],
    ) {
        let log = TestLog::new("t-0");
        let mut all = write(&log, &plan, 1000);
        if unindexed.is_none() {
            build_within(&RealHost, &log.path(), &[BY_KEY], entries_max).unwrap();
            if harm(&log, &harms) {
                // Every batch once more with other keys: offsets and lengths stay.
                let mut other = plan.clone();
                for record in other.iter_mut().flatten().flat_map(|b| &mut b.2) {
                    record.0.0 = record.0.0.map(|k| match k { 0 => 0, k => k % 5 + 1 });
                }
                all = write(&log, &other, 1001);
            }
        }
        for value in (0..7).map(key) {
            prop_assert_eq!(found(&log.path(), &value, end), expected(&all, &value, end));
        }
        let values: Vec<Vec<u8>> = (0..7).map(key).collect();
        prop_assert_eq!(newest(&log.path(), &values, end), newest_expected(&all, &values, end));
    }
}

#[test]
fn an_index_is_used_where_it_covers_and_only_there() {
    let log = TestLog::new("t-0");
    log.segment(0).batch(0, "a=1 b=2").batch(2, "c=3").write();
    log.segment(3).batch(3, "a=4").write();
    log.segment(4).batch(4, "b=5").write();
    build(&RealHost, &log.path(), &[BY_KEY]).unwrap();
    let is_sound = |base: i64| {
        let dir = log.open();
        let keys = Keys::of(&dir).unwrap();
        let segments = dir.segments().unwrap();
        let segment = segments.iter().find(|s| s.base() == Offset(base)).unwrap();
        matches!(keys.find(&dir, segment, "key").unwrap(), Found::Sound(_))
    };
    assert!(
        is_sound(0) && is_sound(3) && !is_sound(4),
        "the active segment has none"
    );
    // A batch without the key is not even read: that it is damaged stays hidden.
    log.segment(0)
        .batch(0, "a=1 b=2")
        .batch(2, "c=3")
        .flip(0, 70)
        .write();
    assert!(is_sound(0));
    assert_eq!(found(&log.path(), b"c", i64::MAX), [(2, false)]);
    log.segment(0).batch(0, "a=1 b=2").batch(2, "x=3").write();
    assert!(!is_sound(0));
    assert_eq!(found(&log.path(), b"x", i64::MAX), [(2, false)]);
}

#[test]
fn a_damaged_segment_gets_no_index_so_that_readers_meet_the_damage() {
    let log = TestLog::new("t-0");
    log.segment(0)
        .batch(0, "a=1")
        .batch(1, "b=2")
        .batch(2, "c=3")
        .flip(1, 65)
        .write();
    log.segment(3).batch(3, "a=4").write();
    let e = build(&RealHost, &log.path(), &[BY_KEY]).unwrap_err();
    assert_eq!(
        (e.offset(), e.kind()),
        (Some(1), crate::error::ErrorKind::Data)
    );
    assert!(index_files(&log).is_empty());
}

#[test]
fn transactions_show_the_same_with_an_index_as_read_in_order() {
    let log = TestLog::new("t-0");
    log.segment(0)
        .txn(1, 0, "a=1")
        .batch(1, "a=2")
        .txn(2, 2, "a=3 b=3")
        .commit(1, 4)
        .write();
    log.segment(5)
        .abort(2, 5)
        .txn(3, 6, "a=4")
        .batch(7, "b=5")
        .txn(1, 8, "b=9")
        .write();
    log.segment(9)
        .commit(3, 9)
        .batch(10, "a=6")
        .txn(2, 11, "a=7")
        .write();
    let read = |isolation, indexed: bool, value: &[u8]| {
        let host: Arc<dyn Host> = Arc::new(RealHost);
        let view = View::of(log.open()).unwrap();
        let all = Offset(0)..Offset::MAX;
        let mut out = Vec::new();
        let mut take = |piece: crate::log::reader::Piece<'_>| {
            let mut scratch = Scratch::new();
            let records = piece.batch.records(&mut scratch, &OPTIONS.limits).unwrap();
            let hits = records.map(|r| r.unwrap()).filter(|r| r.key == Some(value));
            out.extend(hits.map(|r| r.offset.0));
        };
        if indexed {
            let sought = Sought {
                field: "key",
                values: &[value],
            };
            let mut v = Versions::new(host, view, sought, all, isolation, OPTIONS).unwrap();
            while let Advance::Batch = v.advance().unwrap() {
                take(v.piece().unwrap());
            }
        } else {
            let mut r = Reverse::new(host, view, all, isolation, OPTIONS);
            while let Advance::Batch = r.advance().unwrap() {
                take(r.piece().unwrap());
            }
        }
        out
    };
    build(&RealHost, &log.path(), &[BY_KEY]).unwrap();
    for isolation in [Isolation::Committed, Isolation::Uncommitted] {
        for value in [b"a", b"b"] {
            let expected = read(isolation, false, value);
            assert!(!expected.is_empty());
            assert_eq!(read(isolation, true, value), expected, "{isolation:?}");
        }
    }
    assert_eq!(read(Isolation::Committed, true, b"a"), [6, 1, 0]);
}

#[test]
fn spilled_entries_are_all_found_and_leave_nothing_behind() {
    let log = TestLog::new("t-0");
    let mut segment = log.segment(0);
    for i in 0..60 {
        segment = segment.batch(3 * i, &format!("k{}=v a{i}=v k{}=v", i % 7, i % 11));
    }
    segment.write();
    log.segment(180).batch(180, "x=1").write();
    let both = Wanted {
        filter: true,
        ..BY_KEY
    };
    let make = |entries_max| {
        build_within(&RealHost, &log.path(), &[both, BY_VALUE], entries_max).unwrap();
        index_files(&log)
    };
    let whole = make(ENTRIES_MAX);
    assert_eq!(whole.len(), 2);
    for entries_max in [2, 3, 4, 10, 64, 250] {
        let spilled = make(entries_max);
        assert_eq!(
            spilled.keys().collect::<Vec<_>>(),
            whole.keys().collect::<Vec<_>>()
        );
        for i in 0..60 {
            let key = format!("a{i}").into_bytes();
            assert_eq!(found(&log.path(), &key, 180), [(3 * i + 1, false)]);
        }
        let k: Vec<_> = found(&log.path(), b"k3", 180).iter().map(|f| f.0).collect();
        let of = |o: &i64| (o % 3 == 0 && o / 3 % 7 == 3) || (o % 3 == 2 && o / 3 % 11 == 3);
        assert_eq!(
            k,
            (0..180).rev().filter(of).collect::<Vec<_>>(),
            "{entries_max}"
        );
        let tmp = std::fs::read_dir(log.path().join(".logd/tmp")).unwrap();
        assert_eq!(tmp.count(), 0, "nothing is left of {entries_max}");
    }
}

#[test]
fn a_full_disk_while_spilling_keeps_nothing_of_what_was_spilled() {
    let host = machine();
    let before = host.calls();
    build_spilling(&host.process()).unwrap();
    for n in before + 1..=host.calls() {
        let host = machine();
        host.fail_at(n, Fault::Errno(28));
        let built = build_spilling(&host.process());
        let dir = host.open_dir(Path::new("/t-0/.logd/tmp"));
        let left = dir.map(|d| d.list().unwrap()).unwrap_or_default();
        let runs = left.iter().filter(|n| n.ends_with(".run")).count();
        assert_eq!(runs, 0, "call {n}: {built:?}, {left:?}");
        check_answers(host.process(), &format!("call {n}"));
    }
}

/// A test disk with a log of two sealed segments and an active one, and an index of the first.
fn machine() -> SimHost {
    let log = TestLog::new("t-0");
    let a = log.segment(0).batch(0, "a=1 b=2").batch(2, "c=3").bytes;
    let b = log.segment(3).batch(3, "a=4").batch(4, "d=-").bytes;
    let c = log.segment(5).batch(5, "b=5").bytes;
    let host = SimHost::new();
    host.make_dir(Path::new("/t-0")).unwrap();
    let dir = host.open_dir(Path::new("/t-0")).unwrap();
    for (base, bytes) in [(0, &a), (3, &b), (5, &c)] {
        let file = dir.create(&file_name(Offset(base), Kind::Log)).unwrap();
        file.write_all_at(bytes, 0).unwrap();
        file.sync().unwrap();
    }
    dir.sync().unwrap();
    host
}

/// Builds on `host`, with a field whose entries fill both parts.
fn build_both(host: &dyn Host) -> crate::error::Result<()> {
    let both = Wanted {
        filter: true,
        ..BY_KEY
    };
    build(host, Path::new("/t-0"), &[both])
}

/// The same of two fields, with next to no memory.
fn build_spilling(host: &dyn Host) -> crate::error::Result<()> {
    build_within(host, Path::new("/t-0"), &[BY_KEY, BY_VALUE], 2)
}

/// Every answer of the log in `/t-0` is right, whatever is in its `.logd/keys`.
fn check_answers(host: SimHost, at: &str) {
    let host: Arc<dyn Host> = Arc::new(host);
    let all = [
        ("a", "3 0"),
        ("b", "5 1"),
        ("c", "2"),
        ("d", "4"),
        ("e", ""),
    ];
    for (value, expected) in all {
        let view = View::of(LogDir::open(&*host, Path::new("/t-0")).unwrap()).unwrap();
        let value = value.as_bytes();
        let sought = Sought {
            field: "key",
            values: &[value],
        };
        let range = Offset(0)..Offset::MAX;
        let (host, isolation) = (Arc::clone(&host), Isolation::Committed);
        let mut v = Versions::new(host, view, sought, range, isolation, OPTIONS).unwrap();
        let mut found = Vec::new();
        while let Advance::Batch = v.advance().unwrap() {
            let piece = v.piece().unwrap();
            let mut scratch = Scratch::new();
            let records = piece.batch.records(&mut scratch, &OPTIONS.limits).unwrap();
            let hits = records.map(|r| r.unwrap()).filter(|r| r.key == Some(value));
            found.extend(hits.map(|r| r.offset.0.to_string()));
        }
        assert!(
            v.take_damaged().is_empty(),
            "{at}: a half-written index was believed to be one"
        );
        assert_eq!(found.join(" "), expected, "{at}: {value:?}");
    }
}

#[test]
fn a_build_that_stops_anywhere_leaves_every_answer_right() {
    let host = machine();
    let before = host.calls();
    build_both(&host.process()).unwrap();
    let calls = host.calls();
    assert!(calls - before > 20, "{before}..{calls}");
    for n in before + 1..=calls {
        for fault in [
            Fault::Crash,
            Fault::Errno(28),
            Fault::Errno(5),
            Fault::ShortWrite(100, After::Crash),
            Fault::Full,
        ] {
            let host = machine();
            host.fail_at(n, fault);
            let _ = build_both(&host.process());
            let at = format!("call {n}, {fault:?}");
            if !host.crashed() {
                host.free();
                check_answers(host.process(), &at);
            }
            for policy in [Policy::KeepNothing, Policy::KeepAll, Policy::Random] {
                let after = host.power_cut(n, policy);
                check_answers(after.process(), &at);
                build_both(&after.process()).unwrap();
                check_answers(after.process(), &at);
            }
            if host.crashed() {
                check_answers(host.kill(), &at);
            }
        }
    }
}

#[test]
fn an_index_of_another_length_field_or_base_is_not_believed() {
    let log = TestLog::new("t-0");
    let first = log.segment(0).batch(3, "a=1").batch(4, "b=2");
    let first = first.write();
    log.segment(9).batch(9, "a=4").write();
    build(&RealHost, &log.path(), &[BY_KEY]).unwrap();
    let is_sound = |base: i64, field: &str| {
        let dir = log.open();
        let segments = dir.segments().unwrap();
        let segment = segments.iter().find(|s| s.base() == Offset(base)).unwrap();
        let found = Keys::of(&dir).unwrap().find(&dir, segment, field).unwrap();
        matches!(found, Found::Sound(_))
    };
    assert!(is_sound(0, "key"));
    let keys = log.path().join(".logd/keys");
    let copy = |to: String| {
        std::fs::copy(keys.join(keys::file_name(Offset(0), "key")), keys.join(to)).unwrap();
    };
    copy(keys::file_name(Offset(0), "value"));
    assert!(!is_sound(0, "value"), "of another field");
    // More batches behind the last one that was there.
    let longer = log
        .segment(0)
        .batch(3, "a=1")
        .batch(4, "b=2")
        .batch(5, "x=3");
    assert!(longer.bytes.starts_with(&first.bytes));
    longer.write();
    assert!(!is_sound(0, "key"), "of another length");
    assert_eq!(found(&log.path(), b"x", i64::MAX), [(5, false)]);
    first.write();
    assert!(is_sound(0, "key"));
    log.rename(
        &file_name(Offset(0), Kind::Log),
        &file_name(Offset(2), Kind::Log),
    );
    copy(keys::file_name(Offset(2), "key"));
    assert!(!is_sound(2, "key"), "of another base");
}

#[test]
fn a_segment_that_ends_inside_a_batch_gets_no_index() {
    let log = TestLog::new("t-0");
    log.segment(0)
        .batch(0, "a=1")
        .batch(1, "b=2")
        .cut(3)
        .write();
    log.segment(2).batch(2, "a=4").write();
    let e = build(&RealHost, &log.path(), &[BY_KEY]).unwrap_err();
    assert_eq!(e.kind(), crate::error::ErrorKind::Data);
    assert!(index_files(&log).is_empty());
}

/// Zeros before the place where two cores share a segment out are lost batches, not its end.
#[test]
fn zeros_before_the_end_of_a_chunk_are_damage() {
    let log = TestLog::new("t-0");
    let value = "v".repeat(900_000);
    let mut segment = log.segment(0);
    for offset in 0..20 {
        segment = segment.batch(offset, &format!("k{offset}={value}"));
    }
    let (from, to) = (segment.position(9), segment.position(10));
    let mut segment = segment.index();
    log.segment(20).batch(20, "a=4").write();
    segment.bytes[from..to].fill(0);
    segment.write();
    let e = build(&RealHost, &log.path(), &[BY_KEY]).unwrap_err();
    assert_eq!(
        (e.kind(), e.offset()),
        (crate::error::ErrorKind::Data, Some(9))
    );
    assert!(index_files(&log).is_empty());
}
