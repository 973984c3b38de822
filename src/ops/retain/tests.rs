//! Retention against a plain list of records, on the test disk and on real directories.

use super::*;
use crate::error::ErrorKind;
use crate::log::testing::TestLog;
use crate::log::writer::{Writer, WriterOptions};
use crate::ops::verify::tests::findings;
use crate::segment::active::RollLimits;
use crate::sys::RealHost;
use crate::sys::sim::{Fault, Policy, SimHost};
use std::time::Duration;

fn options() -> MaintenanceOptions {
    MaintenanceOptions {
        command: "test".to_string(),
        wait: Duration::ZERO,
        allow_network_fs: true,
    }
}

fn host() -> Arc<dyn Host> {
    Arc::new(RealHost)
}

fn retain(log: &TestLog, bounds: &Bounds) -> Option<Report> {
    let before = preview(&RealHost, &log.path(), bounds).unwrap();
    let done = run(&host(), &log.path(), bounds, &options()).unwrap();
    if let Some(done) = &done {
        assert_eq!(before.gone, done.gone, "a preview says what will be done");
    }
    done
}

/// Offset and value of every record, and the log start.
fn left(log: &TestLog) -> (i64, Vec<String>) {
    let dir = log.open();
    let segments = dir.segments().unwrap();
    let mut scratch = Scratch::new();
    let mut out = Vec::new();
    for s in &segments {
        let file = dir.open_file(&s.log_name()).unwrap();
        let span = Span::whole(s.base(), file.len().unwrap());
        let mut scanner = Scanner::new(file, span, Limits::default());
        loop {
            match scanner.next().unwrap() {
                Scan::Batch(b, _) => {
                    for r in b.records(&mut scratch, &Limits::default()).unwrap() {
                        let r = r.unwrap();
                        let value = String::from_utf8_lossy(r.value.unwrap_or_default());
                        out.push(format!("{}{value}", r.offset));
                    }
                }
                Scan::End(_) => break,
                Scan::Bad(bad) => panic!("{bad:?}"),
            }
        }
    }
    (dir.start_offset(&segments).unwrap().0, out)
}

fn words(list: &str) -> Vec<String> {
    list.split_whitespace().map(str::to_string).collect()
}

/// Three segments of four records: two batches of two. The last one is active.
fn log() -> TestLog {
    let log = TestLog::new("t-0");
    for base in [0, 4, 8] {
        log.segment(base)
            .batch(base, "a@1000 b@2000")
            .batch(base + 2, "c@3000 d@4000")
            .index()
            .write();
    }
    log
}

#[test]
fn whole_segments_go_and_the_one_in_between_stays() {
    let before = |n| Bounds {
        before: Some(Pos::Offset(n)),
        ..Bounds::default()
    };
    for (at, start) in [(0, 0), (3, 0), (4, 4), (7, 4), (8, 8), (9, 8), (12, 12)] {
        let log = log();
        let done = retain(&log, &before(at));
        assert_eq!(left(&log).0, start, "before {at}");
        // The active one is sealed when the place lies in it.
        assert_eq!(done.is_some(), at > 8 || start > 0, "before {at}");
        assert!(retain(&log, &before(at)).is_none(), "again");
    }
    let log = log();
    let e = run(&host(), &log.path(), &before(13), &options()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NotFound);
}

#[test]
fn exact_retention_begins_at_the_very_record() {
    for at in 0..=12 {
        let log = log();
        let bounds = Bounds {
            before: Some(Pos::Offset(at)),
            exact: true,
            ..Bounds::default()
        };
        retain(&log, &bounds);
        let all = words("0a 1b 2c 3d 4a 5b 6c 7d 8a 9b 10c 11d");
        let want = all.get(usize::try_from(at).unwrap()..).unwrap();
        assert_eq!(left(&log), (at, want.to_vec()), "before {at}");
        assert!(retain(&log, &bounds).is_none(), "again at {at}");
        // What was taken for the new segments is gone.
        let tmp = log.path().join(".logd/tmp");
        assert!(!tmp.exists() || tmp.read_dir().unwrap().next().is_none());
    }
}

#[test]
fn size_and_count_keep_at_least_the_limit_and_exactly_it_when_told() {
    let size = std::fs::metadata(log().path().join("00000000000000000000.log"))
        .unwrap()
        .len();
    let by = |bytes, records, exact| Bounds {
        bytes,
        records,
        exact,
        ..Bounds::default()
    };
    let start = |bounds: &Bounds| {
        let log = log();
        retain(&log, bounds);
        left(&log).0
    };
    for (bytes, whole, exact) in [
        (0, 12, 12),
        (1, 8, 12),
        (size / 2, 8, 10),
        (size, 8, 8),
        (size + 1, 4, 8),
        (2 * size, 4, 4),
        (3 * size, 0, 0),
        (u64::MAX, 0, 0),
    ] {
        assert_eq!(start(&by(Some(bytes), None, false)), whole, "{bytes} bytes");
        assert_eq!(
            start(&by(Some(bytes), None, true)),
            exact,
            "{bytes} bytes, exact"
        );
    }
    for n in 0..=12 {
        let whole = (12 - n) / 4 * 4;
        let limit = Some(u64::try_from(n).unwrap());
        assert_eq!(start(&by(None, limit, false)), whole, "{n} records");
        assert_eq!(start(&by(None, limit, true)), 12 - n, "{n} records, exact");
    }
}

#[test]
fn age_is_told_by_headers_and_the_future_by_the_file() {
    let now = RealHost.wall_ms();
    let log = TestLog::new("t-0");
    let (old, young, far) = (now - 500_000, now - 1000, now + 90_000_000);
    log.segment(0)
        .batch(0, &format!("a@{old} b@{old}"))
        .index()
        .write();
    log.segment(2)
        .batch(2, &format!("a@{far} b@{old}"))
        .index()
        .write();
    log.segment(4)
        .batch(4, &format!("a@{old} b@{young}"))
        .index()
        .write();
    log.segment(6)
        .batch(6, &format!("a@{young}"))
        .index()
        .write();
    let bounds = Bounds {
        age_ms: Some(100_000),
        ..Bounds::default()
    };
    // Its file is young.
    let done = retain(&log, &bounds).unwrap();
    assert_eq!(done.future, [(Offset(2), TimestampMs(far))]);
    assert_eq!(left(&log).0, 2);
    let file = std::fs::File::options()
        .write(true)
        .open(log.path().join("00000000000000000002.log"));
    let when = std::time::SystemTime::now() - Duration::from_secs(3600);
    file.unwrap().set_modified(when).unwrap();
    retain(&log, &bounds).unwrap();
    assert_eq!(left(&log).0, 4);
    assert!(retain(&log, &bounds).is_none());
    let exact = Bounds {
        exact: true,
        ..bounds
    };
    retain(&log, &exact).unwrap();
    assert_eq!(left(&log), (5, words("5b 6a")));
}

#[test]
fn an_index_that_lies_about_time_is_not_believed() {
    let now = RealHost.wall_ms();
    let log = TestLog::new("t-0");
    let long = "x".repeat(70_000);
    log.segment(0)
        .batch(0, &format!("{long}@1000"))
        .batch(1, &format!("b@{now}"))
        .write();
    log.segment(2).batch(2, "c@1000").write();
    let mut entry = Vec::new();
    use crate::format::index::{Entry, TimeEntry};
    // As if the end of the index had been lost, and as if made up.
    for (timestamp, offset) in [(1000, 0), (5000, 1), (1000, 1)] {
        entry.clear();
        TimeEntry::new(Offset(0), TimestampMs(timestamp), Offset(offset))
            .unwrap()
            .encode(&mut entry);
        let blank = [vec![0; 12], entry.clone()].concat();
        for bytes in [entry.clone(), blank] {
            log.file("00000000000000000000.timeindex", &bytes);
            let bounds = Bounds {
                age_ms: Some(100_000),
                ..Bounds::default()
            };
            assert!(
                preview(&RealHost, &log.path(), &bounds)
                    .unwrap()
                    .gone
                    .is_empty()
            );
        }
    }
}

#[test]
fn groups_hold_back_what_they_have_not_read() {
    let log = log();
    std::fs::create_dir_all(log.path().join(".logd")).unwrap();
    let mut w = Writer::open(&host(), &log.path(), writer_options(1 << 20)).unwrap();
    w.hold().unwrap().release().unwrap();
    let mut group = groups::Group::open(&host(), &log.path(), "slow", true).unwrap();
    group.claim(crate::sys::Wait::No, "test").unwrap();
    group.seek(Offset(5)).unwrap();
    for (exact, start) in [(false, 4), (true, 5)] {
        let bounds = Bounds {
            before: Some(Pos::Latest(0)),
            respect_groups: true,
            exact,
            ..Bounds::default()
        };
        retain(&log, &bounds);
        assert_eq!(left(&log).0, start);
    }
}

fn writer_options(segment_bytes: u64) -> WriterOptions {
    WriterOptions {
        wait: None,
        allow_network_fs: true,
        zero_fill: false,
        roll: RollLimits {
            segment_bytes,
            segment_age_ms: None,
        },
        command: "test".to_string(),
    }
}

const LOG: &str = "/d/x-0";

fn machine() -> SimHost {
    use crate::format::builder::{BatchBuilder, Chunk, Seal};
    use crate::format::record::NewRecord;
    let machine = SimHost::new();
    machine.make_dir(Path::new("/d")).unwrap();
    machine.make_dir(Path::new(LOG)).unwrap();
    let host: Arc<dyn Host> = Arc::new(machine.process());
    let mut writer = Writer::open(&host, Path::new(LOG), writer_options(400)).unwrap();
    let mut hold = writer.hold().unwrap();
    for i in 0..10 {
        let mut b = BatchBuilder::begin(Vec::new());
        for _ in 0..3 {
            let record = NewRecord {
                value: Some(b"a value of some length"),
                ..NewRecord::default()
            };
            b.push(TimestampMs(1000 + i), &record);
        }
        let (bytes, sealed) = b.seal(&Seal::default());
        let batches = vec![sealed];
        assert!(
            hold.append(&mut Chunk { bytes, batches }, false)
                .error
                .is_none()
        );
    }
    let end = hold.next_offset();
    hold.release().unwrap();
    writer.syncer().sync_to(end).unwrap();
    machine.open_dir(Path::new(LOG)).unwrap().sync().unwrap();
    machine
}

/// Offsets of the records, which have no gap.
fn offsets(host: &dyn Host, what: &str) -> (i64, i64) {
    let dir = LogDir::open(host, Path::new(LOG)).unwrap();
    let mut scratch = Scratch::new();
    let mut all = Vec::new();
    for s in dir.segments().unwrap() {
        let file = dir.open_file(&s.log_name()).unwrap();
        let span = Span::whole(s.base(), file.len().unwrap());
        let mut scanner = Scanner::new(file, span, Limits::default());
        while let Scan::Batch(b, _) = scanner.next().unwrap() {
            for r in b.records(&mut scratch, &Limits::default()).unwrap() {
                all.push(r.unwrap().offset.0);
            }
        }
    }
    let first = all.first().copied().unwrap_or(30);
    let n = i64::try_from(all.len()).unwrap();
    assert_eq!(all, (first..first + n).collect::<Vec<_>>(), "{what}");
    (first, first + n)
}

fn sweep(fault: Fault, bounds: &Bounds, start: i64) {
    let work = |machine: &SimHost| {
        let host: Arc<dyn Host> = Arc::new(machine.process());
        run(&host, Path::new(LOG), bounds, &options())
    };
    let check = |machine: &SimHost, what: &str| {
        let (first, end) = offsets(machine, what);
        assert!(end == 30 && first <= start, "{what}: {first}..{end}");
        work(machine).expect(what);
        assert_eq!(offsets(machine, what), (start, 30), "{what}: again");
        let names = machine.open_dir(Path::new(LOG)).unwrap().list().unwrap();
        assert!(
            names.iter().all(|n| !n.ends_with(".deleted")),
            "{what}: {names:?}"
        );
    };
    let clean = machine();
    let setup = clean.calls();
    work(&clean).unwrap();
    for n in setup + 1..=clean.calls() {
        let host = machine();
        host.fail_at(n, fault);
        let failed = work(&host).is_err();
        let what = format!("{fault:?} at {n}: {:?}", host.trace().last());
        for seed in 0..6 {
            let policy = [Policy::KeepNothing, Policy::KeepAll, Policy::Random][seed.min(2)];
            let cut = host.power_cut(n * 100 + seed as u64, policy);
            check(&cut, &format!("{what}, {policy:?} {seed}"));
        }
        host.free();
        if failed {
            check(&host.kill(), &format!("{what}, killed"));
        }
    }
}

#[test]
fn retention_survives_every_fault_at_every_call() {
    let before = |n, exact| Bounds {
        before: Some(Pos::Offset(n)),
        exact,
        ..Bounds::default()
    };
    for fault in [Fault::Crash, Fault::Errno(nix::libc::EIO), Fault::Full] {
        sweep(fault, &before(19, true), 19);
        sweep(fault, &before(30, false), 30);
    }
}

#[test]
fn after_a_jump_of_the_clock_ages_are_refused_and_forced() {
    let machine = machine();
    let mut bounds = Bounds {
        age_ms: Some(1),
        ..Bounds::default()
    };
    machine.set_wall_ms(machine.wall_ms() + 3_600_000);
    preview(&machine, Path::new(LOG), &bounds).unwrap();
    machine.set_wall_ms(machine.wall_ms() + 1);
    let e = preview(&machine, Path::new(LOG), &bounds).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Config);
    bounds.force = true;
    assert!(
        !preview(&machine, Path::new(LOG), &bounds)
            .unwrap()
            .gone
            .is_empty()
    );
}

#[test]
fn a_log_with_nothing_to_do_is_not_written_to() {
    let machine = machine();
    let host: Arc<dyn Host> = Arc::new(machine.process());
    let calls = machine.calls();
    let bounds = Bounds {
        before: Some(Pos::Offset(1)),
        ..Bounds::default()
    };
    assert!(
        run(&host, Path::new(LOG), &bounds, &options())
            .unwrap()
            .is_none()
    );
    assert_eq!(machine.calls(), calls);
}

#[test]
fn looking_after_a_log_does_not_hide_a_jump_of_the_clock() {
    let machine = machine();
    machine.set_wall_ms(machine.wall_ms() + 2 * CLOCK_JUMP_MS);
    let host: Arc<dyn Host> = Arc::new(machine.process());
    let mut m = Maintenance::open(&host, Path::new(LOG), &options()).unwrap();
    m.settle().unwrap();
    m.roll().unwrap();
    drop(m);
    let bounds = Bounds {
        age_ms: Some(1),
        ..Bounds::default()
    };
    let e = run(&host, Path::new(LOG), &bounds, &options()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Config);
}

#[test]
fn exact_retention_in_a_gap_begins_behind_it() {
    let log = TestLog::new("t-0");
    log.segment(0).batch(0, "a@1 b@2").index().write();
    log.segment(10).batch(10, "c@3").index().write();
    let bounds = Bounds {
        before: Some(Pos::Offset(7)),
        exact: true,
        ..Bounds::default()
    };
    retain(&log, &bounds).unwrap();
    assert_eq!(left(&log), (10, words("10c")));
    assert!(retain(&log, &bounds).is_none(), "again");
}

/// Of the transaction index only what the cut segment still has a marker of stays.
#[test]
fn exact_retention_forgets_aborted_transactions_with_their_markers() {
    use crate::format::index::Entry;
    let log = TestLog::new("t-0");
    let first = log.segment(0).txn(7, 0, "x").abort(7, 1).batch(2, "a");
    first.txn(7, 3, "y").abort(7, 4).write();
    log.segment(5).batch(5, "b").write();
    let mut bytes = Vec::new();
    for (first, last) in [(0, 1), (3, 4)] {
        let entry = TxnEntry {
            producer_id: 7,
            first_offset: Offset(first),
            last_offset: Offset(last),
            last_stable_offset: Offset(last + 1),
        };
        entry.encode(&mut bytes);
    }
    log.file("00000000000000000000.txnindex", &bytes);
    let bounds = Bounds {
        before: Some(Pos::Offset(2)),
        exact: true,
        ..Bounds::default()
    };
    retain(&log, &bounds).unwrap();
    assert_eq!(findings(&log.path()), words(""));
    let kept = std::fs::read(log.path().join("00000000000000000002.txnindex")).unwrap();
    assert_eq!(kept, bytes[TxnEntry::BYTES..]);
}

/// What producers did in segments that go is in a snapshot that decodes, and that the log reaches even
/// if the machine is cut off at once.
#[test]
fn producers_of_deleted_segments_are_kept() {
    producers_are_kept(true);
    // What is not durable stays: the snapshot is behind it.
    producers_are_kept(false);
}

fn producers_are_kept(all_go: bool) {
    use crate::format::names::file_name;
    use crate::format::snapshot::{self, ProducerEntry};
    use crate::log::producers::Producers;
    let machine = machine();
    let dir = machine.open_dir(Path::new(LOG)).unwrap();
    let segments = LogDir::open(&machine, Path::new(LOG)).unwrap();
    let segments = segments.segments().unwrap();
    let entry = ProducerEntry {
        producer_id: 7,
        epoch: 0,
        last_sequence: 4,
        last_offset: Offset(1),
        offset_delta: 0,
        timestamp: TimestampMs(1),
        coordinator_epoch: -1,
        open_txn: None,
    };
    let put = |i: usize, bytes: &[u8]| {
        let name = file_name(segments[i].base(), Kind::Snapshot);
        let file = dir.create(&name).unwrap();
        file.write_all_at(bytes, 0).unwrap();
        file.sync().unwrap();
    };
    put(1, &snapshot::encode(&[entry]));
    put(segments.len() - 1, b"damaged");
    dir.sync().unwrap();
    // What is appended now is not synced.
    let host: Arc<dyn Host> = Arc::new(machine.process());
    let mut writer = Writer::open(&host, Path::new(LOG), writer_options(400)).unwrap();
    let mut hold = writer.hold().unwrap();
    let mut b = crate::format::builder::BatchBuilder::begin(Vec::new());
    b.push(TimestampMs(1), &crate::format::record::NewRecord::default());
    let (bytes, sealed) = b.seal(&crate::format::builder::Seal::default());
    let batches = vec![sealed];
    let mut chunk = crate::format::builder::Chunk { bytes, batches };
    assert!(hold.append(&mut chunk, false).error.is_none());
    let base = hold.roll().unwrap();
    hold.release().unwrap();
    let last = segments.last().unwrap().base();
    let before = if all_go { base } else { last };
    let bounds = Bounds {
        before: Some(Pos::Offset(before.0)),
        ..Bounds::default()
    };
    run(&host, Path::new(LOG), &bounds, &options()).unwrap();
    for policy in [Policy::KeepAll, Policy::KeepNothing] {
        let cut = machine.power_cut(1, policy);
        let log = LogDir::open(&cut, Path::new(LOG)).unwrap();
        let host: Arc<dyn Host> = Arc::new(cut.process());
        let mut m = Maintenance::open(&host, Path::new(LOG), &options()).unwrap();
        let end = m.settle().unwrap();
        let all = Producers::load(&log, end, &Limits::default()).unwrap();
        assert_eq!(all.get(7), Some(&entry), "{policy:?} {all_go}");
    }
}

#[test]
fn a_wrapper_that_lies_about_its_offsets_is_damage() {
    let mut inner = Vec::new();
    for offset in 0..9i64 {
        inner.extend_from_slice(&message(offset, 0, b"v"));
    }
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, &inner).unwrap();
    let log = TestLog::new("t-0");
    log.segment(0)
        .raw(&message(0, 1, &gzip.finish().unwrap()))
        .write();
    let bounds = Bounds {
        records: Some(3),
        exact: true,
        ..Bounds::default()
    };
    let e = run(&host(), &log.path(), &bounds, &options()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Data, "{e}");
}

/// A magic 0 message.
fn message(offset: i64, attributes: u8, value: &[u8]) -> Vec<u8> {
    let mut checked = vec![0, attributes];
    checked.extend_from_slice(&(-1i32).to_be_bytes());
    checked.extend_from_slice(&i32::try_from(value.len()).unwrap().to_be_bytes());
    checked.extend_from_slice(value);
    let mut out = offset.to_be_bytes().to_vec();
    let size = i32::try_from(checked.len() + 4).unwrap();
    out.extend_from_slice(&size.to_be_bytes());
    out.extend_from_slice(&crc32fast::hash(&checked).to_be_bytes());
    out.extend_from_slice(&checked);
    out
}
