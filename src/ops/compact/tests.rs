//! Compaction against a model that knows no batches, indexes or memory: a list of records, and for each
//! key what of them stays. On the test disk.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::format::batch::{Batch, TimestampType};
use crate::format::builder::{BatchBuilder, Chunk, Producer, Seal, stamp};
use crate::format::codec::{Compression, Compressor};
use crate::format::index::{Entry, OffsetEntry, TimeEntry, TxnEntry, entries};
use crate::format::names::{Kind, file_name};
use crate::format::record::NewRecord;
use crate::log::producers::Producers;
use crate::sys::sim::{Fault, Policy, SimHost};
use proptest::prelude::*;

const LOG: &str = "/d/x-0";
const HOUR: u64 = 3_600_000;

/// One step of a random log.
#[derive(Clone, Debug)]
enum Step {
    /// Records: (key, value or tombstone), codec.
    Data(Vec<(Option<u8>, bool)>, usize),
    /// The same of an idempotent producer; transactional or not.
    Of(i64, bool, Vec<(Option<u8>, bool)>),
    /// The end of a producer's transaction.
    End(i64, bool),
    /// A message of magic 0 or 1.
    Old(u8, Option<u8>, bool),
    /// Offsets without records.
    Gap(i64),
    /// A new segment.
    Roll,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    offset: i64,
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
}

/// A log as bytes, and what is in it.
#[derive(Default)]
struct Made {
    segments: Vec<(i64, Vec<u8>)>,
    /// Rows with the producer of their transaction, if there is one.
    rows: Vec<(Row, Option<i64>)>,
    /// Ends of transactions: offset, producer, committed.
    ends: Vec<(i64, i64, bool)>,
    next: i64,
    sequences: BTreeMap<i64, i32>,
    open: BTreeMap<i64, i64>,
}

const NOW: i64 = 1_700_000_000_000;

impl Made {
    fn of(steps: &[Step]) -> Made {
        let mut made = Made::default();
        made.segments.push((0, Vec::new()));
        for step in steps {
            match step {
                // Two segments cannot have one name.
                Step::Roll if made.segments.last().unwrap().0 == made.next => {}
                Step::Roll => made.segments.push((made.next, Vec::new())),
                Step::Gap(n) => made.next += n,
                Step::Data(records, codec) => made.batch(records, *codec, &Seal::default(), None),
                Step::Of(id, transactional, records) => {
                    made.of_producer(*id, *transactional, records)
                }
                Step::End(id, commit) => made.end(*id, *commit),
                Step::Old(magic, key, value) => made.old(*magic, *key, *value),
            }
        }
        made
    }

    fn row(&mut self, key: Option<u8>, value: bool, timestamp: i64, txn: Option<i64>) -> Row {
        let offset = self.next;
        self.next += 1;
        let row = Row {
            offset,
            timestamp,
            key: key.map(|k| vec![b'k'; usize::from(k) * 3]),
            value: value.then(|| format!("value {offset}").into_bytes()),
        };
        self.rows.push((row.clone(), txn));
        row
    }

    fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.segments.last_mut().unwrap().1
    }

    fn batch(
        &mut self,
        records: &[(Option<u8>, bool)],
        codec: usize,
        seal: &Seal,
        txn: Option<i64>,
    ) {
        let base = self.next;
        let mut b = BatchBuilder::begin(Vec::new());
        for (i, (key, value)) in records.iter().enumerate() {
            let row = self.row(*key, *value, NOW - 1000 + i as i64, txn);
            let new = NewRecord {
                key: row.key.as_deref(),
                value: row.value.as_deref(),
                headers: &[],
            };
            b.push(TimestampMs(row.timestamp), &new);
        }
        let names = ["none", "gzip", "snappy", "lz4", "zstd"];
        let compression: Compression = names[codec % 5].parse().unwrap();
        let mut chunk = Chunk::default();
        b.seal_compressed(seal, &mut Compressor::new(&compression), &mut chunk);
        stamp(&mut chunk.bytes, Offset(base), 4);
        self.bytes().extend_from_slice(&chunk.bytes);
    }

    fn of_producer(&mut self, id: i64, transactional: bool, records: &[(Option<u8>, bool)]) {
        // One with a transaction under way writes nothing else.
        let transactional = transactional || self.open.contains_key(&id);
        let sequence = self.sequences.entry(id).or_insert(0);
        let producer = Producer {
            id,
            epoch: 0,
            base_sequence: *sequence,
        };
        *sequence += i32::try_from(records.len()).unwrap();
        let seal = Seal {
            producer: Some(producer),
            transactional,
            ..Seal::default()
        };
        if transactional {
            self.open.entry(id).or_insert(self.next);
        }
        self.batch(records, 0, &seal, transactional.then_some(id));
    }

    fn end(&mut self, id: i64, commit: bool) {
        if self.open.remove(&id).is_none() {
            return;
        }
        self.ends.push((self.next, id, commit));
        let seal = Seal {
            producer: Some(Producer {
                id,
                epoch: 0,
                base_sequence: -1,
            }),
            transactional: true,
            control: true,
            ..Seal::default()
        };
        let mut b = BatchBuilder::begin(Vec::new());
        let new = NewRecord {
            key: Some(&crate::format::control::end_marker_key(commit)),
            value: Some(&crate::format::control::end_marker_value(0)),
            headers: &[],
        };
        b.push(TimestampMs(NOW), &new);
        let (mut bytes, _) = b.seal(&seal);
        stamp(&mut bytes, Offset(self.next), 4);
        self.next += 1;
        self.bytes().extend_from_slice(&bytes);
    }

    fn old(&mut self, magic: u8, key: Option<u8>, value: bool) {
        let timestamp = if magic == 1 { NOW - 500 } else { -1 };
        let row = self.row(key, value, timestamp, None);
        let mut body = vec![magic, 0];
        if magic == 1 {
            body.extend_from_slice(&timestamp.to_be_bytes());
        }
        for part in [&row.key, &row.value] {
            let len = part
                .as_ref()
                .map_or(-1, |p| i32::try_from(p.len()).unwrap());
            body.extend_from_slice(&len.to_be_bytes());
            body.extend_from_slice(part.as_deref().unwrap_or_default());
        }
        let crc = crc32fast::hash(&body);
        let size = i32::try_from(body.len() + 4).unwrap();
        let out = self.bytes();
        out.extend_from_slice(&row.offset.to_be_bytes());
        out.extend_from_slice(&size.to_be_bytes());
        out.extend_from_slice(&crc.to_be_bytes());
        out.extend_from_slice(&body);
    }

    /// What must be left, by the words of the manual.
    fn expected(&self, plan: &Plan) -> Vec<Row> {
        let expired = plan.tombstone_age_ms == 0;
        let first_open = self.open.values().min().copied().unwrap_or(i64::MAX);
        let aborted = |row: &Row, txn: &Option<i64>| {
            let Some(id) = txn else { return false };
            let end = self.ends.iter().find(|e| e.1 == *id && e.0 > row.offset);
            end.is_some_and(|e| !e.2)
        };
        let mut left: BTreeMap<i64, Row> = BTreeMap::new();
        let mut versions: BTreeMap<Vec<u8>, Vec<i64>> = BTreeMap::new();
        for (row, txn) in &self.rows {
            if row.offset < first_open && aborted(row, txn) {
                continue;
            }
            left.insert(row.offset, row.clone());
            let Some(key) = row.key.clone().filter(|_| row.offset < first_open) else {
                continue;
            };
            let of_key = versions.entry(key).or_default();
            of_key.push(row.offset);
            let gone = match row.value.is_none() && expired {
                true => of_key.len(),
                false => of_key.len().saturating_sub(plan.keep),
            };
            for offset in of_key.drain(..gone) {
                left.remove(&offset);
            }
        }
        left.into_values().collect()
    }

    fn write(&self) -> SimHost {
        let machine = SimHost::new();
        machine.make_dir(Path::new("/d")).unwrap();
        machine.make_dir(Path::new(LOG)).unwrap();
        let dir = machine.open_dir(Path::new(LOG)).unwrap();
        for (base, bytes) in &self.segments {
            let file = dir.create(&file_name(Offset(*base), Kind::Log)).unwrap();
            file.write_all_at(bytes, 0).unwrap();
            file.sync().unwrap();
        }
        dir.sync().unwrap();
        machine
    }
}

fn plan() -> Plan {
    Plan {
        min_age_ms: 0,
        tombstone_age_ms: 24 * HOUR,
        min_dirty: 0.0,
        keep: 1,
        memory: 64 << 20,
        segment_bytes: 2000,
    }
}

fn options() -> MaintenanceOptions {
    MaintenanceOptions {
        command: "test".to_string(),
        wait: Duration::ZERO,
        allow_network_fs: false,
    }
}

fn compact(machine: &SimHost, plan: &Plan) -> Result<Option<Report>> {
    let host: Arc<dyn Host> = Arc::new(machine.process());
    let mut hooks = Hooks {
        pace: &mut |_| Ok(()),
        stop: &|| false,
    };
    run(&host, Path::new(LOG), plan, &options(), &mut hooks)
}

/// Every data record, aborted ones too, and the log end.
fn rows(host: &dyn Host) -> (Vec<Row>, i64) {
    let log = LogDir::open(host, Path::new(LOG)).unwrap();
    let mut scratch = Scratch::new();
    let (mut out, mut next) = (Vec::new(), Offset(0));
    for segment in log.segments().unwrap() {
        let file = log.open_file(&segment.log_name()).unwrap();
        let mut span = Span::whole(segment.base(), file.len().unwrap());
        span.next = span.next.max(next);
        let mut scanner = Scanner::new(file, span, Limits::default());
        loop {
            match scanner.next().unwrap() {
                Scan::Batch(batch, _) if batch.header().is_control() => {}
                Scan::Batch(batch, _) => {
                    for record in batch.records(&mut scratch, &Limits::default()).unwrap() {
                        let r = record.unwrap();
                        out.push(Row {
                            offset: r.offset.0,
                            timestamp: r.timestamp.0,
                            key: r.key.map(<[u8]>::to_vec),
                            value: r.value.map(<[u8]>::to_vec),
                        });
                    }
                }
                Scan::End(_) => break,
                Scan::Bad(bad) => panic!("{bad:?}"),
            }
        }
        next = scanner.next_offset();
    }
    (out, next.0)
}

/// What is known of each producer from batches alone: epoch, last sequence, last offset, and where an
/// open transaction begins.
fn producers(machine: &SimHost, end: i64) -> Vec<(i64, i32, i64, Option<i64>)> {
    let log = LogDir::open(machine, Path::new(LOG)).unwrap();
    let dir = log.dir();
    for name in dir.list().unwrap() {
        if name.ends_with(".snapshot") {
            dir.unlink(&name).unwrap();
        }
    }
    let all = Producers::load(&log, Offset(end), &Limits::default()).unwrap();
    let of = |id: i64| {
        let e = all.get(id)?;
        let open = e.open_txn.map(|o| o.0);
        Some((id, e.last_sequence, e.last_offset.0, open))
    };
    (0..5).filter_map(of).collect()
}

/// The bytes of every segment file.
fn files(machine: &SimHost) -> BTreeMap<String, Vec<u8>> {
    let names = machine.open_dir(Path::new(LOG)).unwrap().list().unwrap();
    let ours = names.into_iter().filter(|n| n.starts_with('0'));
    ours.map(|n| (n.clone(), machine.read_file(format!("{LOG}/{n}")).unwrap()))
        .collect()
}

fn check_files(machine: &SimHost, made: &Made) {
    let files = files(machine);
    for (name, bytes) in &files {
        assert!(!name.ends_with("ed") && !name.ends_with(".swap"), "{name}");
        let base = Offset(name[..20].parse().unwrap());
        let log = files.get(&file_name(base, Kind::Log)).expect(name);
        if name.ends_with(".index") {
            for e in entries::<OffsetEntry>(bytes) {
                let rest = &log[e.position as usize..];
                let size = i32::from_be_bytes(rest[8..12].try_into().unwrap()) as usize + 12;
                let header = Batch::check(&rest[..size]).unwrap().header().clone();
                assert_eq!(header.last_offset, e.offset(base));
            }
        } else if name.ends_with(".timeindex") {
            assert!(bytes.len() % TimeEntry::BYTES == 0);
        } else if name.ends_with(".txnindex") {
            for e in entries::<TxnEntry>(bytes) {
                let is_abort = |end: &&(i64, i64, bool)| end.0 == e.last_offset.0 && !end.2;
                assert!(
                    made.ends
                        .iter()
                        .find(is_abort)
                        .is_some_and(|x| x.1 == e.producer_id)
                );
            }
        }
    }
}

fn record() -> impl Strategy<Value = (Option<u8>, bool)> {
    (
        proptest::option::weighted(0.9, 0u8..5),
        proptest::bool::weighted(0.8),
    )
}

fn step() -> impl Strategy<Value = Step> {
    let records = || proptest::collection::vec(record(), 1..5);
    prop_oneof![
        6 => (records(), 0usize..5).prop_map(|(r, c)| Step::Data(r, c)),
        4 => (1i64..4, any::<bool>(), records()).prop_map(|(id, t, r)| Step::Of(id, t, r)),
        3 => (1i64..4, any::<bool>()).prop_map(|(id, c)| Step::End(id, c)),
        1 => (0u8..2, record()).prop_map(|(m, (k, v))| Step::Old(m, k, v)),
        1 => (1i64..9).prop_map(Step::Gap),
        4 => Just(Step::Roll),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(
        std::env::var("LOGD_MODEL_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(300)
    ))]
    #[test]
    fn compaction_leaves_what_the_model_says_and_then_nothing_to_do(
        steps in proptest::collection::vec(step(), 1..30),
        keep in 1usize..4,
        old_tombstones in any::<bool>(),
        tight in any::<bool>(),
        segment_bytes in 200u64..3000,
    ) {
        let made = Made::of(&steps);
        let machine = made.write();
        let plan = Plan {
            keep,
            segment_bytes,
            tombstone_age_ms: if old_tombstones { 0 } else { 24 * HOUR },
            memory: if tight { 0 } else { 64 << 20 },
            ..plan()
        };
        let (before, end) = rows(&machine);
        let all: Vec<Row> = made.rows.iter().map(|r| r.0.clone()).collect();
        prop_assert_eq!(before, all);
        let known = producers(&machine, end);
        compact(&machine, &plan).unwrap();
        let (left, end_after) = rows(&machine);
        prop_assert_eq!(&left, &made.expected(&plan));
        prop_assert_eq!(end_after, end, "the log end");
        check_files(&machine, &made);
        let after = files(&machine);
        prop_assert!(compact(&machine, &plan).unwrap().is_none(), "twice");
        prop_assert_eq!(&files(&machine), &after, "twice");
        prop_assert_eq!(&producers(&machine, end), &known, "producers");
        // A day later deletions and markers go, and nothing else.
        machine.advance(25 * HOUR as i64);
        compact(&machine, &plan).unwrap();
        let values = |rows: &[Row]| -> Vec<Row> {
            rows.iter().filter(|r| r.key.is_none() || r.value.is_some()).cloned().collect()
        };
        let (later, end_later) = rows(&machine);
        prop_assert_eq!(end_later, end);
        if keep == 1 {
            prop_assert_eq!(values(&later), values(&left));
        }
        prop_assert_eq!(producers(&machine, end), known, "producers a day later");
        prop_assert!(compact(&machine, &plan).unwrap().is_none(), "twice a day later");
    }
}

/// Three segments in which most is superseded, with a deletion.
fn sample() -> Made {
    let data = |keys: &[u8]| Step::Data(keys.iter().map(|k| (Some(*k), true)).collect(), 0);
    Made::of(&[
        data(&[1, 2, 3]),
        data(&[1, 2]),
        Step::Roll,
        data(&[1, 4]),
        Step::Data(vec![(Some(2), false), (None, true)], 4),
        Step::Roll,
        data(&[3, 1]),
        data(&[1]),
    ])
}

fn sweep(fault: Fault) {
    let made = sample();
    let plan = Plan {
        segment_bytes: 250,
        ..plan()
    };
    let clean = made.write();
    let setup = clean.calls();
    compact(&clean, &plan).unwrap();
    let want = rows(&clean);
    assert_eq!(want.0, made.expected(&plan));
    let newest = |rows: &[Row]| -> BTreeMap<Option<Vec<u8>>, Row> {
        rows.iter().map(|r| (r.key.clone(), r.clone())).collect()
    };
    let check = |machine: &SimHost, what: &str| {
        let (seen, end) = rows(machine);
        assert_eq!(end, want.1, "{what}");
        assert_eq!(newest(&seen), newest(&want.0), "{what}: a newest value");
        let all: Vec<Row> = made.rows.iter().map(|r| r.0.clone()).collect();
        assert!(seen.iter().all(|r| all.contains(r)), "{what}: {seen:?}");
        assert!(want.0.iter().all(|r| seen.contains(r)), "{what}: {seen:?}");
        match compact(machine, &plan) {
            // Only repair goes on after a failed sync.
            Err(e) if e.to_string().contains("an earlier sync failed") => return,
            done => done.expect(what),
        };
        assert_eq!(rows(machine), want, "{what}: again");
        check_files(machine, &made);
    };
    for n in setup + 1..=clean.calls() {
        let host = made.write();
        host.fail_at(n, fault);
        let failed = compact(&host, &plan).is_err();
        let what = format!("{fault:?} at {n}: {:?}", host.trace().last());
        for seed in 0..5 {
            let policy = [Policy::KeepNothing, Policy::KeepAll, Policy::Random][seed.min(2)];
            let cut = host.power_cut(n * 100 + seed as u64, policy);
            check(&cut, &format!("{what}, {policy:?} {seed}"));
        }
        host.free();
        if failed && !matches!(fault, Fault::Errno(_)) {
            check(&host.kill(), &format!("{what}, killed"));
        }
    }
}

#[test]
fn compaction_survives_a_crash_at_every_call() {
    sweep(Fault::Crash);
}

#[test]
fn compaction_survives_an_error_at_every_call() {
    sweep(Fault::Errno(nix::libc::EIO));
}

#[test]
fn compaction_survives_a_full_disk_at_every_call() {
    sweep(Fault::Full);
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing_behind() {
    let (mut failed, setup) = (0, sample().write().calls());
    for n in 1..150 {
        let machine = sample().write();
        machine.fail_at(setup + n, Fault::Full);
        let Err(e) = compact(&machine, &plan()) else {
            continue;
        };
        failed += 1;
        assert_eq!(e.kind(), ErrorKind::Io, "{e}");
        let tmp = machine.open_dir(Path::new(&format!("{LOG}/.logd/tmp")));
        let names = tmp.and_then(|t| t.list()).unwrap_or_default();
        assert!(names.is_empty(), "{n}: {names:?}");
    }
    assert!(failed > 20, "{failed}");
}

#[test]
fn damage_is_named_and_the_log_left_untouched() {
    let made = sample();
    // In the active segment too, below where the end is known to be.
    for (segment, at) in [(0, 70), (1, 70), (1, 10), (2, 70)] {
        let machine = made.write();
        settle(&machine);
        let name = file_name(Offset(made.segments[segment].0), Kind::Log);
        machine
            .edit(format!("{LOG}/{name}"), |bytes| bytes[at] ^= 1)
            .unwrap();
        let before = files(&machine);
        let e = compact(&machine, &plan()).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Data);
        assert!(e.path().unwrap().ends_with(&name), "{e}");
        assert_eq!(files(&machine), before);
    }
}

#[test]
fn young_records_are_spared_and_make_nothing_older_go() {
    let machine = sample().write();
    let young = Plan {
        min_age_ms: 2 * HOUR,
        ..plan()
    };
    assert!(compact(&machine, &young).unwrap().is_none());
    machine.advance(3 * HOUR as i64);
    assert!(compact(&machine, &young).unwrap().is_some());
}

#[test]
fn little_to_remove_is_left_until_it_is_enough() {
    let machine = sample().write();
    let before = files(&machine);
    // 7 of 12 records are superseded.
    for (share, done) in [(0.6, false), (0.59, false), (0.58, true)] {
        let plan = Plan {
            min_dirty: share,
            ..plan()
        };
        assert_eq!(compact(&machine, &plan).unwrap().is_some(), done, "{share}");
        assert_eq!(files(&machine) == before, !done);
    }
}

#[test]
fn a_log_where_nothing_is_superseded_is_not_written_to() {
    let data = |keys: &[u8]| Step::Data(keys.iter().map(|k| (Some(*k), true)).collect(), 0);
    let made = Made::of(&[data(&[1, 2]), Step::Roll, data(&[3, 4])]);
    let machine = made.write();
    compact(&machine, &plan()).unwrap();
    let (before, calls) = (files(&machine), machine.calls());
    assert!(compact(&machine, &plan()).unwrap().is_none());
    assert_eq!(files(&machine), before);
    // The note of who holds the lock.
    assert!(machine.calls() - calls <= 1, "{:?}", machine.trace());
    let batch = Batch::check(&made.segments[0].1).unwrap();
    assert_eq!(batch.header().timestamp_type(), TimestampType::Create);
}

fn settle(machine: &SimHost) -> Vec<crate::log::lost::Lost> {
    let host: Arc<dyn Host> = Arc::new(machine.process());
    let mut m = Maintenance::open(&host, Path::new(LOG), &options()).unwrap();
    m.settle().unwrap();
    m.take_lost()
}

/// Appends batches of one record each by a writer, and syncs if told.
fn append(machine: &SimHost, records: &[(&str, &str)], sync: bool) {
    use crate::log::writer::{Writer, WriterOptions};
    let host: Arc<dyn Host> = Arc::new(machine.process());
    let options = WriterOptions {
        wait: None,
        allow_network_fs: false,
        zero_fill: false,
        roll: crate::segment::active::RollLimits {
            segment_bytes: 180,
            segment_age_ms: None,
        },
        command: "test".to_string(),
    };
    let mut writer = Writer::open(&host, Path::new(LOG), options).unwrap();
    let mut hold = writer.hold().unwrap();
    for (key, value) in records {
        let mut b = BatchBuilder::begin(Vec::new());
        let new = NewRecord {
            key: Some(key.as_bytes()),
            value: Some(value.as_bytes()),
            headers: &[],
        };
        b.push(TimestampMs(NOW), &new);
        let (bytes, sealed) = b.seal(&Seal::default());
        let batches = vec![sealed];
        let done = hold.append(&mut Chunk { bytes, batches }, false);
        assert!(done.error.is_none());
    }
    let end = hold.next_offset();
    hold.release().unwrap();
    if sync {
        writer.syncer().sync_to(end).unwrap();
    }
    writer.close().unwrap();
}

fn empty() -> SimHost {
    let machine = SimHost::new();
    machine.make_dir(Path::new("/d")).unwrap();
    machine.make_dir(Path::new(LOG)).unwrap();
    let host = machine.open_dir(Path::new("/")).unwrap();
    host.sync().unwrap();
    machine.open_dir(Path::new("/d")).unwrap().sync().unwrap();
    machine
}

fn newest(host: &dyn Host) -> BTreeMap<String, String> {
    let text = |b: Option<Vec<u8>>| String::from_utf8(b.unwrap()).unwrap();
    let all = rows(host).0.into_iter();
    all.map(|r| (text(r.key), text(r.value))).collect()
}

#[test]
fn a_newer_value_is_durable_before_the_older_one_goes() {
    let make = || {
        let machine = empty();
        append(
            &machine,
            &[("a", "1"), ("b", "1"), ("c", "1"), ("d", "1")],
            true,
        );
        append(&machine, &[("a", "2")], false);
        machine
    };
    let clean = make();
    let setup = clean.calls();
    assert!(compact(&clean, &plan()).unwrap().is_some());
    for n in setup + 1..=clean.calls() + 1 {
        let machine = make();
        machine.fail_at(n, Fault::Crash);
        let done = compact(&machine, &plan()).is_ok();
        for seed in 0..4 {
            let policy = [Policy::KeepNothing, Policy::Random][seed.min(1)];
            let left = newest(&machine.power_cut(n + seed as u64, policy));
            assert!(left.contains_key("a"), "crash at {n}: {left:?}");
            assert!(!done || left["a"] == "2", "{left:?}");
        }
    }
}

#[test]
fn what_recovery_takes_out_supersedes_nothing() {
    let machine = empty();
    append(
        &machine,
        &[("a", "1"), ("b", "1"), ("c", "1"), ("d", "1")],
        true,
    );
    let more = ["e", "f", "g", "h", "i", "j"].map(|k| (k, "1"));
    append(&machine, &more, false);
    append(&machine, &[("a", "2"), ("b", "2"), ("e", "2")], false);
    let mut moved = 0;
    for seed in 0..200 {
        let cut = || machine.power_cut(seed, Policy::Random);
        let (settled, compacted) = (cut(), cut());
        moved += usize::from(settle(&settled).iter().any(|l| l.position.0 == 0));
        compact(&compacted, &plan()).unwrap_or_else(|e| panic!("{seed}: {e}"));
        assert_eq!(newest(&compacted), newest(&settled), "{seed}");
    }
    assert!(moved > 10, "{moved}");
}

/// Else the range of an unfinished replacement would be too short, and a removed key could return.
#[test]
fn a_replacement_ends_where_what_it_replaces_did() {
    let data = |keys: &[u8]| Step::Data(keys.iter().map(|k| (Some(*k), true)).collect(), 0);
    let (last, roll) = (data(&[1]), Step::Roll);
    let machine = Made::of(&[
        data(&[2]),
        last.clone(),
        roll.clone(),
        last.clone(),
        roll,
        last,
    ])
    .write();
    compact(&machine, &plan()).unwrap();
    let log = LogDir::open(&machine, Path::new(LOG)).unwrap();
    let segments = log.segments().unwrap();
    assert!(segments.len() > 1);
    for pair in segments.windows(2) {
        let file = log.open_file(&pair[0].log_name()).unwrap();
        let last = crate::log::swap::last_offset_checked(file, pair[0].base()).unwrap();
        assert_eq!(last.unwrap().next(), pair[1].base());
    }
}
