//! What a copy promises: bytes as stored, whole batches, sound files beside them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use crate::error::{ErrorKind, Result};
use crate::format::builder::{BatchBuilder, Chunk, Producer, Seal, stamp};
use crate::format::checkpoint::{EpochStart, render_epochs};
use crate::format::codec::{Compression, Compressor};
use crate::format::record::NewRecord;
use crate::format::{Limits, Offset, TimestampMs};
use crate::log::copy::{Checked, Copy, CopyOptions, ReplicaOf};
use crate::log::listing::LogDir;
use crate::log::testing::{TestLog, fix_crc};
use crate::log::writer::{Writer, WriterOptions};
use crate::log::{files, txns};
use crate::segment::active::RollLimits;
use crate::segment::scan::{HeaderWalk, Span, Walk};
use crate::sys::{Host, RealHost};

/// One batch of a log that is made up.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Records under a codec.
    Plain(u8),
    /// Records of an idempotent producer.
    Idempotent(i64),
    /// Records of a transaction.
    Txn(i64),
    /// The end of the transaction that this producer has open, if it has one.
    End(i64, bool),
    /// What compaction leaves of a batch: no records, but its offsets.
    Empty,
    /// Magic 0 or 1, on its own or compressed.
    Legacy(u8, bool),
}

/// A batch, what is before it, and whether a segment begins with it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What it is.
    pub kind: Kind,
    /// Records in it.
    pub records: usize,
    /// Offsets left out before it.
    pub gap: i64,
    /// Begins a segment, named so many offsets below its first one (within the gap).
    pub roll: Option<i64>,
    /// Its timestamp.
    pub time: i64,
}

/// Logs of every kind of batch, rolls and gaps.
pub fn plans(max: usize) -> impl Strategy<Value = Vec<Plan>> {
    let kind = prop_oneof![
        4 => (0u8..5).prop_map(Kind::Plain),
        2 => (1i64..3).prop_map(Kind::Idempotent),
        3 => (3i64..6).prop_map(Kind::Txn),
        3 => (3i64..6, any::<bool>()).prop_map(|(id, commit)| Kind::End(id, commit)),
        1 => Just(Kind::Empty),
        1 => (0u8..2, any::<bool>()).prop_map(|(magic, wrap)| Kind::Legacy(magic, wrap)),
    ];
    let gap = prop_oneof![6 => Just(0i64), 1 => 1i64..50];
    let roll = prop::option::weighted(0.15, 0i64..3);
    let plan = (kind, 1usize..40, gap, roll, 1_000i64..100_000);
    let plan = plan.prop_map(|(kind, records, gap, roll, time)| Plan {
        kind,
        records,
        gap,
        roll,
        time,
    });
    prop::collection::vec(plan, 1..max)
}

/// A segment: its base offset and its bytes.
pub type Segments = Vec<(i64, Vec<u8>)>;

/// The bytes of a log that begins at `start`, segment by segment.
pub fn build(plans: &[Plan], start: i64) -> Segments {
    let mut segments = vec![(start, Vec::new())];
    let (mut next, mut open, mut sequences) = (start, BTreeSet::new(), BTreeMap::new());
    for plan in plans {
        let first = next + plan.gap;
        let mut bytes = Vec::new();
        match plan.kind {
            Kind::End(id, _) if !open.remove(&id) => continue,
            Kind::Legacy(magic, wrap) => bytes = legacy(magic, wrap, first, plan),
            _ => v2(&mut bytes, first, plan, &mut sequences),
        }
        if let Kind::Txn(id) = plan.kind {
            open.insert(id);
        }
        if let Some(below) = plan.roll
            && segments.last().is_some_and(|s| !s.1.is_empty())
        {
            segments.push((first - below.min(plan.gap), Vec::new()));
        }
        next = match plan.kind {
            Kind::End(..) => first + 1,
            Kind::Legacy(_, false) => first + 1,
            _ => first + plan.records as i64,
        };
        segments.last_mut().unwrap().1.extend(bytes);
    }
    segments
}

fn v2(out: &mut Vec<u8>, first: i64, plan: &Plan, sequences: &mut BTreeMap<i64, i32>) {
    let mut b = BatchBuilder::begin(Vec::new());
    let is_end = matches!(plan.kind, Kind::End(..));
    let key = [0, 0, 0, u8::from(matches!(plan.kind, Kind::End(_, true)))];
    let records = match plan.kind {
        Kind::Empty => 0,
        Kind::End(..) => 1,
        _ => plan.records,
    };
    let long = "x".repeat(400);
    for i in 0..records {
        let value = format!("{first}+{i} {long}");
        let record = match is_end {
            true => NewRecord {
                key: Some(&key),
                value: Some(&[0; 6]),
                headers: &[],
            },
            false => NewRecord {
                key: (i % 3 == 0).then_some(b"key"),
                value: Some(value.as_bytes()),
                headers: &[(b"h", Some(b"v")), (b"n", None)],
            },
        };
        b.push(TimestampMs(plan.time + i as i64 % 7), &record);
    }
    let producer = match plan.kind {
        Kind::Idempotent(id) | Kind::Txn(id) => {
            let sequence = sequences.entry(id).or_insert(0);
            let base_sequence = *sequence;
            *sequence += plan.records as i32;
            Some((id, base_sequence))
        }
        Kind::End(id, _) => Some((id, -1)),
        _ => None,
    };
    let seal = Seal {
        append_time: None,
        producer: producer.map(|(id, base_sequence)| Producer {
            id,
            epoch: 0,
            base_sequence,
        }),
        transactional: matches!(plan.kind, Kind::Txn(_) | Kind::End(..)),
        control: is_end,
    };
    let codec = match plan.kind {
        Kind::Plain(codec) => ["none", "gzip", "snappy", "lz4", "zstd"][codec as usize],
        _ => "none",
    };
    let compression: Compression = codec.parse().unwrap();
    let mut chunk = Chunk::default();
    if codec == "none" {
        (chunk.bytes, _) = b.seal(&seal);
    } else {
        b.seal_compressed(&seal, &mut Compressor::new(&compression), &mut chunk);
    }
    stamp(&mut chunk.bytes, Offset(first), 3);
    if matches!(plan.kind, Kind::Empty) {
        let delta = plan.records as i32 - 1;
        chunk.bytes[23..27].copy_from_slice(&delta.to_be_bytes());
        fix_crc(&mut chunk.bytes);
    }
    out.extend(chunk.bytes);
}

/// A message of magic 0 or 1; with `wrap` as many as planned, compressed into one.
fn legacy(magic: u8, wrap: bool, first: i64, plan: &Plan) -> Vec<u8> {
    if !wrap {
        return message(magic, 0, first, plan.time, b"old");
    }
    let inner: Vec<u8> = (0..plan.records as i64)
        .flat_map(|i| {
            let offset = if magic == 0 { first + i } else { i };
            message(magic, 0, offset, plan.time, b"inner")
        })
        .collect();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&inner).unwrap();
    let last = first + plan.records as i64 - 1;
    // A magic 1 wrapper at offset 0 would count from 0 for real.
    message(magic, 1, last, plan.time, &gzip.finish().unwrap())
}

fn message(magic: u8, attributes: u8, offset: i64, time: i64, value: &[u8]) -> Vec<u8> {
    let mut rest = vec![magic, attributes];
    if magic == 1 {
        rest.extend(time.to_be_bytes());
    }
    rest.extend((-1i32).to_be_bytes());
    rest.extend((value.len() as i32).to_be_bytes());
    rest.extend(value);
    let mut out = offset.to_be_bytes().to_vec();
    out.extend((rest.len() as i32 + 4).to_be_bytes());
    out.extend(crc32fast::hash(&rest).to_be_bytes());
    out.extend(rest);
    out
}

/// Where the batches of a segment begin and end.
pub fn cuts(base: i64, bytes: &[u8]) -> Vec<usize> {
    let (mut at, mut out) = (0, vec![0]);
    while at < bytes.len() {
        let length = i32::from_be_bytes(bytes[at + 8..at + 12].try_into().unwrap());
        at += 12 + length as usize;
        out.push(at);
    }
    assert_eq!(at, bytes.len(), "segment {base}");
    out
}

/// Writes the segments as a partition of its own.
pub fn source(segments: &Segments) -> TestLog {
    let log = TestLog::new("src-0");
    for (base, bytes) in segments {
        log.segment(*base).raw(bytes).write();
    }
    log
}

pub fn options() -> CopyOptions {
    CopyOptions {
        create: Some(String::new()),
        wait: Duration::ZERO,
        allow_network_fs: false,
        zero_fill: false,
        limits: Limits::default(),
        command: "test".to_string(),
    }
}

pub fn of() -> ReplicaOf {
    ReplicaOf {
        id: [5; 16],
        source: "src".to_string(),
    }
}

const EPOCHS: [EpochStart; 1] = [EpochStart {
    epoch: 3,
    start: Offset(0),
}];

fn host() -> Arc<dyn Host> {
    Arc::new(RealHost)
}

fn open(path: &Path) -> Copy {
    let mut copy = Copy::open(&host(), path, options()).unwrap();
    copy.adopt(&of()).unwrap();
    copy.set_epochs(&EPOCHS).unwrap();
    copy
}

fn put(copy: &mut Copy, segment: i64, bytes: &[u8]) -> Result<Offset> {
    let checked = Copy::check(bytes, &Limits::default())?;
    copy.put(Offset(segment), bytes, &checked)
}

/// The names and bytes of the `.log` files of a directory.
fn logs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(path).unwrap().map(|e| e.unwrap().path());
    let log = |p: &PathBuf| p.extension().is_some_and(|e| e == "log");
    entries
        .filter(log)
        .map(|p| {
            let name = p.file_name().unwrap().to_str().unwrap().to_string();
            (name, std::fs::read(p).unwrap())
        })
        .collect()
}

fn file(path: &Path, name: &str) -> Option<Vec<u8>> {
    std::fs::read(path.join(name)).ok()
}

/// Checks everything beside the logs of a whole, closed copy.
fn check_beside(source: &TestLog, path: &Path) {
    let found = crate::ops::verify::tests::findings(path);
    assert!(found.is_empty(), "{found:#?}");
    let log = LogDir::open(&RealHost, path).unwrap();
    let limits = Limits::default();
    // What a roll leaves beside a segment with producers, and what an aborted transaction adds.
    txns::mend(&source.open(), Offset::ZERO, &limits).unwrap();
    let segments = log.segments().unwrap();
    for (i, segment) in segments.iter().enumerate() {
        let base = segment.base();
        let file_at = |log: &LogDir| {
            let name = segment.index_name(crate::format::names::Kind::TxnIndex);
            file(log.dir().path(), &name).unwrap_or_default()
        };
        assert_eq!(file_at(&log), file_at(&source.open()), "txnindex of {base}");
        let Some(before) = i.checked_sub(1).map(|i| segments[i]) else {
            continue;
        };
        let name = format!("{:020}.snapshot", base.0);
        if has_producers(&log, &before) {
            let state = crate::log::producers::Producers::load_whole(&source.open(), base, &limits);
            state.unwrap().write_snapshot(&source.open(), base).unwrap();
            assert_eq!(file(path, &name), file(&source.path(), &name), "{name}");
        } else {
            assert_eq!(file(path, &name), None, "{name}");
        }
    }
    let epochs = file(path, "leader-epoch-checkpoint").unwrap();
    assert_eq!(epochs, render_epochs(&EPOCHS).as_bytes());
}

fn has_producers(log: &LogDir, segment: &crate::log::listing::SegmentRef) -> bool {
    let file = log.open_file(&segment.log_name()).unwrap();
    let span = Span::whole(segment.base(), file.len().unwrap());
    let mut walk = HeaderWalk::new(file, span, Limits::default());
    let mut any = false;
    while let Walk::Header(h, _) = walk.next().unwrap() {
        any |= h.has_producer();
    }
    any
}

/// What happens between two pieces.
#[derive(Clone, Debug)]
enum Between {
    Nothing,
    Sync,
    /// Ended and opened again.
    Close,
    /// The process died: the locks are free, the hint is what the last release left.
    Die,
    /// An earlier piece comes again.
    Again,
}

fn betweens() -> impl Strategy<Value = Vec<(Between, usize)>> {
    let between = prop_oneof![
        6 => Just(Between::Nothing),
        1 => Just(Between::Sync),
        1 => Just(Between::Close),
        1 => Just(Between::Die),
        1 => Just(Between::Again),
    ];
    prop::collection::vec((between, 1usize..9), 1..20)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn a_copy_has_the_bytes_of_its_source_and_sound_files_beside_them(
        plans in plans(60),
        start in prop_oneof![Just(0i64), 1i64..1000],
        betweens in betweens(),
    ) {
        let segments = build(&plans, start);
        let source = source(&segments);
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("x-0");
        let mut copy = open(&path);
        let mut steps = betweens.iter().cycle();
        for (base, bytes) in &segments {
            let cuts = cuts(*base, bytes);
            let mut at = 0;
            while at + 1 < cuts.len() {
                let (between, batches) = steps.next().unwrap();
                let to = (at + batches).min(cuts.len() - 1);
                let piece = &bytes[cuts[at]..cuts[to]];
                let end = put(&mut copy, *base, piece).unwrap();
                prop_assert_eq!(end, copy.end());
                match between {
                    Between::Nothing => {}
                    Between::Sync => prop_assert_eq!(copy.sync().unwrap(), end),
                    Between::Close => {
                        copy.close().unwrap();
                        copy = open(&path);
                    }
                    Between::Die => {
                        drop(copy);
                        copy = open(&path);
                    }
                    Between::Again => {
                        let e = put(&mut copy, *base, piece).unwrap_err();
                        prop_assert_eq!(e.kind(), ErrorKind::Data);
                    }
                }
                prop_assert_eq!(copy.state().unwrap().end, end);
                at = to;
            }
        }
        prop_assert_eq!(copy.sync().unwrap(), copy.end());
        copy.close().unwrap();
        let mut wanted = logs(&source.path());
        // A segment without batches is not told of.
        wanted.retain(|_, bytes| !bytes.is_empty());
        let mut there = logs(&path);
        if wanted.is_empty() {
            there.clear();
        }
        prop_assert_eq!(there, wanted);
        if segments.iter().any(|(_, bytes)| !bytes.is_empty()) {
            check_beside(&source, &path);
        }
    }
}

#[test]
fn what_is_not_sound_is_refused_before_a_byte_is_written() {
    let segments = build(&[plain(5, 0), plain(5, 0)], 0);
    let bytes = &segments[0].1;
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("x-0");
    let mut copy = open(&path);
    let second = cuts(0, bytes)[1];
    for i in (0..bytes.len()).step_by(11) {
        let mut bad = bytes.clone();
        bad[i] ^= 0x20;
        // What no checksum covers is seen only where offsets stop to rise, or the length is off.
        match Copy::check(&bad, &Limits::default()) {
            Err(e) => assert_eq!(e.kind(), ErrorKind::Data, "byte {i}"),
            Ok(_) => assert!(i < 17 || (second..second + 17).contains(&i), "byte {i}"),
        }
    }
    for cut in [1, 60, second - 1, second + 1, bytes.len() - 1] {
        assert!(Copy::check(&bytes[..cut], &Limits::default()).is_err());
    }
    let backward = [&bytes[second..], &bytes[..second]].concat();
    assert!(Copy::check(&backward, &Limits::default()).is_err());
    assert!(
        put(&mut copy, 1, bytes).is_err(),
        "a segment above its batch"
    );
    assert!(put(&mut copy, -1, bytes).is_err());
    let nothing: Checked = Copy::check(&[], &Limits::default()).unwrap();
    assert_eq!(copy.put(Offset(0), &[], &nothing).unwrap(), Offset(0));
    assert_eq!(logs(&path).values().map(Vec::len).sum::<usize>(), 0);
    assert_eq!(put(&mut copy, 0, bytes).unwrap(), Offset(10));
}

fn plain(records: usize, gap: i64) -> Plan {
    Plan {
        kind: Kind::Plain(0),
        records,
        gap,
        roll: None,
        time: 1_000,
    }
}

#[test]
fn one_receives_and_nobody_appends_until_it_is_promoted() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("x-0");
    let mut copy = open(&path);
    let second = Copy::open(&host(), &path, options()).map(drop).unwrap_err();
    assert_eq!(second.kind(), ErrorKind::Locked);
    assert!(second.to_string().contains("locked by 'test'"), "{second}");
    put(&mut copy, 0, &build(&[plain(3, 0)], 0)[0].1).unwrap();
    copy.close().unwrap();
    let writer_options = WriterOptions {
        wait: None,
        allow_network_fs: false,
        zero_fill: false,
        roll: RollLimits {
            segment_bytes: 1 << 20,
            segment_age_ms: None,
        },
        command: "test".to_string(),
    };
    let mut writer = Writer::open(&host(), &path, writer_options).unwrap();
    let refused = writer.hold().map(drop).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Permission);
    // Its mark gone behind our back, nothing more is written.
    let mut copy = open(&path);
    std::fs::remove_file(path.join(".logd").join(files::REPLICA)).unwrap();
    let e = put(&mut copy, 0, &build(&[plain(3, 0)], 3)[0].1).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Permission);
}

#[test]
fn a_copy_that_was_appended_to_meanwhile_is_not_taken() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("x-0");
    drop(open(&path));
    std::fs::remove_file(path.join(".logd").join(files::REPLICA)).unwrap();
    let mut copy = Copy::open(&host(), &path, options()).unwrap();
    assert_eq!(copy.state().unwrap().replica_of, None);
    let other = build(&[plain(3, 0)], 0);
    std::fs::write(path.join("00000000000000000000.log"), &other[0].1).unwrap();
    let e = copy.adopt(&of()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Locked, "{e}");
    assert!(!path.join(".logd").join(files::REPLICA).exists());
    copy.state().unwrap();
    copy.adopt(&of()).unwrap();
    let state = copy.state().unwrap();
    assert_eq!((state.replica_of, state.id), (Some(of()), Some([5; 16])));
    assert_eq!((state.end, state.last.len()), (Offset(3), 1));
}

/// Maintenance may roll a copy; batches then go on in its segment until the source's next.
#[test]
fn a_copy_that_was_rolled_goes_on_until_the_sources_next_segment() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("x-0");
    let mut copy = open(&path);
    put(&mut copy, 0, &build(&[plain(3, 0)], 0)[0].1).unwrap();
    let mut other = Writer::open_to_roll(
        &host(),
        &path,
        WriterOptions {
            wait: None,
            allow_network_fs: false,
            zero_fill: false,
            roll: RollLimits {
                segment_bytes: 1 << 20,
                segment_age_ms: None,
            },
            command: "test".to_string(),
        },
    )
    .unwrap();
    let mut hold = other.hold().unwrap();
    hold.roll().unwrap();
    hold.release().unwrap();
    put(&mut copy, 0, &build(&[plain(3, 0)], 3)[0].1).unwrap();
    put(&mut copy, 6, &build(&[plain(3, 0)], 6)[0].1).unwrap();
    put(&mut copy, 12, &build(&[plain(3, 0)], 12)[0].1).unwrap();
    copy.sync().unwrap();
    copy.close().unwrap();
    let names: Vec<String> = logs(&path).into_keys().collect();
    let wanted = [0, 3, 6, 12].map(|b| format!("{b:020}.log"));
    assert_eq!(names, wanted);
    let found = crate::ops::verify::tests::findings(&path);
    assert!(found.is_empty(), "{found:#?}");
}

/// Puts everything from offset `from` on.
fn put_all(copy: &mut Copy, segments: &Segments, from: Offset) {
    for (base, bytes) in segments {
        for pair in cuts(*base, bytes).windows(2) {
            let piece = &bytes[pair[0]..pair[1]];
            let checked = Copy::check(piece, &Limits::default()).unwrap();
            if checked.first().unwrap() >= from {
                copy.put(Offset(*base), piece, &checked).unwrap();
            }
        }
    }
}

/// First and last offset of each batch as its header tells.
fn batches(segments: &Segments) -> Vec<(Offset, Offset)> {
    let mut out = Vec::new();
    for (base, bytes) in segments {
        for pair in cuts(*base, bytes).windows(2) {
            let piece = Copy::check(&bytes[pair[0]..pair[1]], &Limits::default()).unwrap();
            out.push((piece.first().unwrap(), piece.end().unwrap() + -1));
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn a_copy_that_was_cut_takes_the_rest_again_and_keeps_what_went(
        plans in plans(50),
        start in prop_oneof![Just(0i64), 1i64..1000],
        at in any::<prop::sample::Index>(),
        inside in any::<bool>(),
        synced in any::<bool>(),
    ) {
        let segments = build(&plans, start);
        let all = batches(&segments);
        prop_assume!(!all.is_empty());
        let source = source(&segments);
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("x-0");
        let mut copy = open(&path);
        put_all(&mut copy, &segments, Offset::ZERO);
        if synced {
            copy.sync().unwrap();
        }
        let whole: usize = logs(&path).values().map(Vec::len).sum();
        let (first, last) = all[at.index(all.len())];
        let cut = if inside { last } else { first };
        let lost = copy.truncate(cut, "diverged").unwrap();
        let state = copy.state().unwrap();
        prop_assert!(state.end <= first, "{} {first}", state.end);
        prop_assert!(state.durable.unwrap() <= state.end);
        prop_assert_eq!(state.last.last().map(|b| b.last), all.iter().rfind(|b| b.1 < cut).map(|b| b.1));
        let left: usize = logs(&path).values().map(Vec::len).sum();
        prop_assert_eq!(lost.iter().map(|l| l.bytes as usize).sum::<usize>(), whole - left);
        let kept = std::fs::read_dir(path.join(".logd/lost+found")).unwrap();
        let kept: u64 = kept
            .map(|e| e.unwrap())
            .filter(|e| e.file_name() != "list.ndjson")
            .map(|e| e.metadata().unwrap().len())
            .sum();
        prop_assert_eq!(kept as usize, whole - left);
        prop_assert!(copy.truncate(cut, "diverged").unwrap().is_empty());
        let found = crate::ops::verify::tests::findings(&path);
        prop_assert!(found.is_empty(), "{:#?}", found);
        copy.set_epochs(&EPOCHS).unwrap();
        put_all(&mut copy, &segments, first);
        prop_assert_eq!(copy.sync().unwrap(), copy.end());
        copy.close().unwrap();
        let mut wanted = logs(&source.path());
        wanted.retain(|_, bytes| !bytes.is_empty());
        prop_assert_eq!(logs(&path), wanted);
        check_beside(&source, &path);
    }

    #[test]
    fn a_copy_forgets_what_its_source_forgot_and_no_more(
        plans in plans(50),
        at in any::<prop::sample::Index>(),
        beyond in prop::option::weighted(0.2, 1i64..50),
    ) {
        let segments = build(&plans, 0);
        let all = batches(&segments);
        prop_assume!(!all.is_empty());
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("x-0");
        let mut copy = open(&path);
        put_all(&mut copy, &segments, Offset::ZERO);
        let end = copy.end();
        let start = match beyond {
            Some(n) => end + n,
            None => all[at.index(all.len())].0,
        };
        let wanted: Vec<String> = {
            let bases: Vec<i64> = segments.iter().filter(|s| !s.1.is_empty()).map(|s| s.0).collect();
            let keeps = |i: usize| bases.get(i + 1).is_none_or(|next| *next > start.0);
            let kept = bases.iter().enumerate().filter(|(i, _)| keeps(*i)).map(|(_, b)| *b);
            match beyond {
                Some(_) => vec![start.0],
                None => kept.collect(),
            }.iter().map(|b| format!("{b:020}.log")).collect()
        };
        copy.forget_before(start).unwrap();
        prop_assert_eq!(logs(&path).into_keys().collect::<Vec<_>>(), wanted);
        let calls = copy.end();
        copy.forget_before(start).unwrap();
        prop_assert_eq!(copy.end(), calls);
        prop_assert_eq!(copy.end(), end.max(start));
        // It goes on, and what is open or was written by whom is still known.
        let more = build(&[plain(3, 0)], copy.end().0);
        put_all(&mut copy, &more, Offset::ZERO);
        copy.sync().unwrap();
        copy.close().unwrap();
        let found = crate::ops::verify::tests::findings(&path);
        prop_assert!(found.is_empty(), "{:#?}", found);
    }
}

/// The batches of a segment that begin in the range.
fn in_range(segments: &Segments, range: &std::ops::Range<i64>) -> Vec<u8> {
    let mut out = Vec::new();
    for (base, bytes) in segments {
        for pair in cuts(*base, bytes).windows(2) {
            let piece = &bytes[pair[0]..pair[1]];
            let first = Copy::check(piece, &Limits::default()).unwrap().first();
            if range.contains(&first.unwrap().0) {
                out.extend_from_slice(piece);
            }
        }
    }
    out
}

/// The source changed some of its batches; the copy gets them and is what the source is.
#[test]
fn rewritten_batches_of_the_source_are_swapped_in() {
    let roll = |n: usize| Plan {
        roll: Some(0),
        ..plain(n, 0)
    };
    let kinds = [
        plain(5, 0),
        plain(5, 0),
        roll(5),
        plain(5, 0),
        roll(5),
        plain(5, 0),
    ];
    let before = build(&kinds, 0);
    let changed = kinds.clone().map(|p| Plan { time: 777, ..p });
    let changed = build(&changed, 0);
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("x-0");
    let mut copy = open(&path);
    put_all(&mut copy, &before, Offset::ZERO);
    copy.sync().unwrap();
    let entry = crate::log::redactions::Redaction {
        id: "0011223344556677".to_string(),
        user: "ann".to_string(),
        uid: 1,
        reason: "asked for".to_string(),
        criteria: crate::log::redactions::Criteria::default(),
        offsets: Vec::new(),
        records: 2,
        outside: 0,
        started_ms: 1,
        finished_ms: Some(2),
    };
    let json = entry.to_json();
    let entry_back = crate::log::redactions::Redaction::from_json(json.as_bytes());
    assert_eq!(entry_back.as_ref(), Some(&entry));
    copy.begin_redaction(&entry).unwrap();
    assert_eq!(copy.state().unwrap().redactions[0].finished_ms, None);
    // From the end of the first segment into the active one, and beyond what the copy has.
    copy.begin_rewrite(Offset(5)..Offset(1000), &entry.id)
        .unwrap();
    let bytes = in_range(&changed, &(5..1000));
    let half = cuts(0, &bytes)[2];
    copy.put_rewritten(&bytes[..half]).unwrap();
    copy.put_rewritten(&bytes[half..]).unwrap();
    copy.put_rewritten(&in_range(&build(&[plain(5, 0)], 30), &(30..31)))
        .unwrap();
    copy.end_rewrite().unwrap();
    copy.finish_redaction(&entry).unwrap();
    let state = copy.state().unwrap();
    assert_eq!((state.end, &state.redactions), (Offset(30), &vec![entry]));
    let all: Vec<u8> = logs(&path).into_values().flatten().collect();
    let wanted = [in_range(&before, &(0..5)), in_range(&changed, &(5..30))].concat();
    assert!(all == wanted);
    let noted: Vec<_> = state.rewritten.iter().map(|r| r.offsets.clone()).collect();
    assert_eq!(noted, [Offset(5)..Offset(30)]);
    // What the source has no more goes too, the last offset stays.
    copy.begin_rewrite(Offset(10)..Offset(20), "id").unwrap();
    copy.put_rewritten(&in_range(&changed, &(10..15))).unwrap();
    copy.end_rewrite().unwrap();
    let left: Vec<u8> = logs(&path).into_values().nth(1).unwrap();
    assert_eq!(
        Copy::check(&left, &Limits::default()).unwrap().end(),
        Some(Offset(20))
    );
    assert_eq!(Copy::check(&left, &Limits::default()).unwrap().batches(), 2);
    // What sticks out is refused, and nothing is changed.
    let was = logs(&path);
    copy.begin_rewrite(Offset(0)..Offset(7), "id").unwrap();
    assert!(copy.put_rewritten(&in_range(&changed, &(5..6))).is_err());
    copy.begin_rewrite(Offset(3)..Offset(10), "id").unwrap();
    copy.put_rewritten(&in_range(&changed, &(5..6))).unwrap();
    assert!(copy.end_rewrite().is_err());
    assert_eq!(logs(&path), was);
    put_all(&mut copy, &build(&[plain(5, 0)], 30), Offset::ZERO);
    copy.sync().unwrap();
    copy.close().unwrap();
    let found = crate::ops::verify::tests::findings(&path);
    assert!(found.is_empty(), "{found:#?}");
}

#[path = "copy_sweep_tests.rs"]
mod sweep;
