//! What the append path promises, on this machine's own disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::error::ErrorKind;
use crate::format::batch::Scratch;
use crate::format::builder::{BatchBuilder, Chunk, Producer, Seal};
use crate::format::index::{self, OffsetEntry, TimeEntry};
use crate::format::names::{Kind, file_name};
use crate::format::record::NewRecord;
use crate::format::{Limits, Offset, TimestampMs};
use crate::log::listing::LogDir;
use crate::log::writer::{Writer, WriterOptions};
use crate::segment::active::RollLimits;
use crate::segment::scan::{Scan, Scanner, Span};
use crate::sys::{Host, RealHost};

fn host() -> Arc<dyn Host> {
    Arc::new(RealHost)
}

fn options(segment_bytes: u64) -> WriterOptions {
    WriterOptions {
        wait: Some(Duration::from_secs(60)),
        allow_network_fs: false,
        zero_fill: false,
        roll: RollLimits {
            segment_bytes,
            segment_age_ms: None,
        },
        command: "test".to_string(),
    }
}

fn new_log(dir: &tempfile::TempDir) -> PathBuf {
    let path = dir.path().join("x-0");
    std::fs::create_dir(&path).expect("made");
    path
}

fn chunk(values: &[&str], timestamp: i64) -> Chunk {
    let mut b = BatchBuilder::begin(Vec::new());
    for v in values {
        let record = NewRecord {
            key: None,
            value: Some(v.as_bytes()),
            headers: &[],
        };
        b.push(TimestampMs(timestamp), &record);
    }
    let (bytes, sealed) = b.seal(&Seal::default());
    Chunk {
        bytes,
        batches: vec![sealed],
    }
}

fn append(writer: &mut Writer, values: &[&str], timestamp: i64) -> Offset {
    let mut hold = writer.hold().expect("the lock");
    let done = hold.append(&mut chunk(values, timestamp), false);
    assert!(done.error.is_none(), "{:?}", done.error);
    hold.release().expect("released");
    done.next
}

/// Offset and value of every record, segment by segment, up to the first byte that is no batch.
fn read_all(path: &Path) -> Vec<(i64, String)> {
    let log = LogDir::open(host().as_ref(), path).expect("opens");
    let mut records = Vec::new();
    let mut scratch = Scratch::new();
    for segment in log.segments().expect("lists") {
        let file = log.open_file(&segment.log_name()).expect("opens");
        let span = Span::whole(segment.base(), file.len().expect("length"));
        let mut scanner = Scanner::new(file, span, Limits::default());
        while let Scan::Batch(batch, _) = scanner.next().expect("reads") {
            for record in batch
                .records(&mut scratch, &Limits::default())
                .expect("records")
            {
                let record = record.expect("record");
                let value = String::from_utf8_lossy(record.value.unwrap_or_default()).into_owned();
                records.push((record.offset.0, value));
            }
        }
    }
    records
}

#[test]
fn every_prefix_opens_and_holds_the_whole_batches_before_the_cut() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = new_log(&dir);
    let mut ends = vec![0];
    let mut writer = Writer::open(&host(), &path, options(1 << 20)).expect("opens");
    let log = path.join(file_name(Offset(0), Kind::Log));
    for i in 0..5 {
        append(&mut writer, &[&format!("value {i}"), "x"], i);
        ends.push(std::fs::metadata(&log).expect("there").len());
    }
    drop(writer);
    let whole = std::fs::read(&log).expect("reads");
    for cut in 0..=whole.len() {
        let copy = tempfile::tempdir().expect("a directory");
        let path = new_log(&copy);
        std::fs::write(path.join(file_name(Offset(0), Kind::Log)), &whole[..cut]).expect("written");
        let kept = ends.iter().filter(|e| **e > 0 && **e <= cut as u64).count();
        assert_eq!(read_all(&path).len(), kept * 2, "before, cut at {cut}");
        let mut writer = Writer::open(&host(), &path, options(1 << 20)).expect("opens");
        let next = append(&mut writer, &["after"], 9);
        assert_eq!(next.0, kept as i64 * 2 + 1, "cut at {cut}");
        let lost: u64 = writer.take_lost().iter().map(|l| l.bytes).sum();
        // A few zero bytes of a base offset are no data: nothing is lost with them.
        let torn = &whole[ends[kept] as usize..cut];
        let zeros = torn.len() < 17 && torn.iter().all(|b| *b == 0);
        assert_eq!(
            lost,
            if zeros { 0 } else { torn.len() as u64 },
            "cut at {cut}"
        );
        let records = read_all(&path);
        assert_eq!(records.len(), kept * 2 + 1, "cut at {cut}");
        assert_eq!(
            records.last(),
            Some(&(kept as i64 * 2, "after".to_string()))
        );
    }
}

#[test]
fn appenders_of_one_log_interleave_batches_and_lose_none() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = new_log(&dir);
    let (writers, rounds) = (8, 60);
    std::thread::scope(|s| {
        for w in 0..writers {
            let path = &path;
            s.spawn(move || {
                let mut writer = Writer::open(&host(), path, options(3000)).expect("opens");
                for i in 0..rounds {
                    let value = format!("{w} {i}");
                    let next = append(&mut writer, &[&value, &value], i);
                    if i % 20 == 7 {
                        assert!(writer.syncer().sync_to(next).expect("synced") >= next);
                    }
                }
                writer.close().expect("closed");
            });
        }
    });
    let records = read_all(&path);
    assert_eq!(records.len(), (writers * rounds * 2) as usize);
    let mut last = vec![-1; writers as usize];
    for (i, pair) in records.chunks(2).enumerate() {
        assert_eq!((pair[0].0, pair[1].0), (i as i64 * 2, i as i64 * 2 + 1));
        assert_eq!(pair[0].1, pair[1].1, "a batch is whole");
        let (w, n) = pair[0].1.split_once(' ').expect("two numbers");
        let (w, n): (usize, i64) = (w.parse().expect("writer"), n.parse().expect("round"));
        assert_eq!(n, last[w] + 1, "each writer's order");
        last[w] = n;
    }
}

/// Kafka's rule for both indexes, computed from the log alone.
fn expected_indexes(path: &Path, base: Offset, sealed: bool) -> (Vec<OffsetEntry>, Vec<TimeEntry>) {
    let log = LogDir::open(host().as_ref(), path).expect("opens");
    let file = log.open_file(&file_name(base, Kind::Log)).expect("opens");
    let mut scanner = Scanner::new(
        file.clone(),
        Span::whole(base, file.len().expect("length")),
        Limits::default(),
    );
    let (mut offsets, mut times) = (Vec::new(), Vec::<TimeEntry>::new());
    let (mut since, mut max) = (0, (TimestampMs(-1), base));
    let mut add_time = |max: (TimestampMs, Offset)| {
        if max.0 > times.last().map_or(TimestampMs(-1), |t| t.timestamp) {
            times.extend(TimeEntry::new(base, max.0, max.1));
        }
    };
    while let Scan::Batch(batch, position) = scanner.next().expect("reads") {
        let h = batch.header();
        if h.max_timestamp > max.0 {
            max = (h.max_timestamp, h.last_offset);
        }
        if since > 4096 {
            offsets.extend(OffsetEntry::new(base, h.last_offset, position));
            add_time(max);
            since = 0;
        }
        since += h.size;
    }
    if sealed {
        add_time(max);
    }
    (offsets, times)
}

#[test]
fn indexes_are_those_that_kafka_would_write() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = new_log(&dir);
    let filler = "f".repeat(700);
    for i in 0..120i64 {
        // A new process each time: the numbers pass through `.logd/end` and through recovery.
        let mut writer = Writer::open(&host(), &path, options(40_000)).expect("opens");
        append(
            &mut writer,
            &[&filler, &i.to_string()],
            1_000_000 + (i * 37) % 100,
        );
        if i % 31 == 5 {
            std::fs::remove_file(path.join(".logd/end")).expect("removed");
        }
        writer.close().expect("closed");
    }
    let log = LogDir::open(host().as_ref(), &path).expect("opens");
    let segments = log.segments().expect("lists");
    assert!(segments.len() > 2);
    for (i, segment) in segments.iter().enumerate() {
        let base = segment.base();
        let (offsets, times) = expected_indexes(&path, base, i + 1 < segments.len());
        let read = |kind| std::fs::read(path.join(file_name(base, kind))).expect("an index");
        let got: Vec<OffsetEntry> = index::entries(&read(Kind::OffsetIndex)).collect();
        assert_eq!(got, offsets, "segment {base}");
        let got: Vec<TimeEntry> = index::entries(&read(Kind::TimeIndex)).collect();
        assert_eq!(got, times, "segment {base}");
    }
}

#[test]
fn a_lock_that_is_held_is_refused_by_name_when_the_wait_is_over() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = new_log(&dir);
    let mut first = Writer::open(&host(), &path, options(1000)).expect("opens");
    let hold = first.hold().expect("the lock");
    let waiting = WriterOptions {
        wait: Some(Duration::from_millis(20)),
        ..options(1000)
    };
    let mut second = Writer::open(&host(), &path, waiting).expect("opens");
    let refused = second.hold().map(|_| ()).expect_err("taken");
    assert_eq!(refused.kind(), ErrorKind::Locked);
    assert!(
        refused.to_string().contains("locked by 'test' (pid"),
        "{refused}"
    );
    drop(hold);
    second.hold().map(|_| ()).expect("free again");
}

#[test]
fn a_failed_sync_on_record_refuses_appends_and_acknowledgements() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = new_log(&dir);
    let mut writer = Writer::open(&host(), &path, options(1000)).expect("opens");
    let next = append(&mut writer, &["a"], 1);
    std::fs::write(path.join(".logd/failed"), "durable offset 0\n").expect("marked");
    let refused = writer.hold().map(|_| ()).expect_err("refused");
    assert_eq!(refused.kind(), ErrorKind::Io);
    assert!(
        refused
            .hint_text()
            .is_some_and(|h| h.starts_with("logd repair"))
    );
    assert_eq!(
        writer.syncer().sync_to(next).expect_err("refused").kind(),
        ErrorKind::Io
    );
}

#[test]
fn copies_and_fenced_logs_take_no_appends() {
    for (mark, kind) in [
        ("replica", ErrorKind::Permission),
        ("fenced", ErrorKind::Data),
    ] {
        let dir = tempfile::tempdir().expect("a directory");
        let path = new_log(&dir);
        let mut writer = Writer::open(&host(), &path, options(1000)).expect("opens");
        std::fs::write(path.join(".logd").join(mark), "").expect("marked");
        assert_eq!(writer.hold().map(|_| ()).expect_err("refused").kind(), kind);
    }
}

#[test]
fn zeros_ahead_are_no_data_and_go_at_close() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = new_log(&dir);
    let log = path.join(file_name(Offset(0), Kind::Log));
    let ahead = WriterOptions {
        zero_fill: true,
        ..options(1 << 30)
    };
    let mut writer = Writer::open(&host(), &path, ahead.clone()).expect("opens");
    append(&mut writer, &["a"], 1);
    assert!(std::fs::metadata(&log).expect("there").len() > 1 << 20);
    assert_eq!(read_all(&path).len(), 1);
    // As after kill -9: never closed; another one goes on, also without zeros of its own.
    let mut other = Writer::open(&host(), &path, options(1 << 30)).expect("opens");
    append(&mut other, &["b"], 2);
    append(&mut writer, &["c"], 3);
    assert!(other.take_lost().is_empty() && writer.take_lost().is_empty());
    other.close().expect("closed");
    append(&mut writer, &["d"], 4);
    writer.close().expect("closed");
    let values: Vec<String> = read_all(&path).into_iter().map(|r| r.1).collect();
    assert_eq!(values, ["a", "b", "c", "d"]);
    let len = std::fs::metadata(&log).expect("there").len();
    assert_eq!(len, 4 * chunk(&["a"], 1).bytes.len() as u64);
}

#[test]
fn what_a_killed_holder_wrote_into_the_zeros_is_kept() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = new_log(&dir);
    let ahead = WriterOptions {
        zero_fill: true,
        ..options(1 << 30)
    };
    let mut writer = Writer::open(&host(), &path, ahead).expect("opens");
    append(&mut writer, &["a"], 1);
    // Killed between its write and its release: the batch is there, `.logd/end` says nothing of it.
    let end = std::fs::read(path.join(".logd/end")).expect("reads");
    append(
        &mut Writer::open(&host(), &path, options(1 << 30)).expect("opens"),
        &["b"],
        2,
    );
    std::fs::write(path.join(".logd/end"), end).expect("put back");
    assert_eq!(append(&mut writer, &["c"], 3), Offset(3));
    let values: Vec<String> = read_all(&path).into_iter().map(|r| r.1).collect();
    assert_eq!(values, ["a", "b", "c"]);
}

#[test]
fn batches_of_another_log_come_without_its_producers_and_transactions() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = new_log(&dir);
    let mut b = BatchBuilder::begin(Vec::new());
    b.push(
        TimestampMs(7),
        &NewRecord {
            key: None,
            value: Some(b"v"),
            headers: &[],
        },
    );
    let producer = Some(Producer {
        id: 5,
        epoch: 1,
        base_sequence: 9,
    });
    let (mut bytes, _) = b.seal(&Seal {
        producer,
        transactional: true,
        ..Seal::default()
    });
    let mut control = bytes.clone();
    let mut writer = Writer::open(&host(), &path, options(1 << 20)).expect("opens");
    let mut hold = writer.hold().expect("the lock");
    assert!(hold.append_stored(&mut bytes, false).error.is_none());
    control[22] |= 0x20;
    let crc = crate::format::crc32c::crc32c(&control[21..]).to_be_bytes();
    control[17..21].copy_from_slice(&crc);
    let refused = hold
        .append_stored(&mut control, false)
        .error
        .expect("refused");
    assert!(refused.to_string().contains("control batch"), "{refused}");
    hold.release().expect("released");
    let stored = log_bytes(&path);
    let batch = crate::format::batch::Batch::check(&stored).expect("sound");
    assert!(!batch.header().is_transactional() && !batch.header().has_producer());
    assert_eq!(read_all(&path), [(0, "v".to_string())]);
}

/// Every partition that a broker closed cleanly takes appends at its end, and what was in it stays
/// byte for byte.
#[test]
fn directories_of_brokers_are_taken_over() {
    let Some(corpus) = crate::corpus::root() else {
        return;
    };
    let mut taken = 0;
    for entry in std::fs::read_dir(corpus.join("broker")).expect("lists") {
        let source = entry.expect("an entry").path();
        if !source.is_dir() {
            continue;
        }
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(source.file_name().expect("a name"));
        std::fs::create_dir(&path).expect("made");
        for file in std::fs::read_dir(&source).expect("lists") {
            let file = file.expect("an entry").path();
            let name = file
                .file_name()
                .expect("a name")
                .to_str()
                .expect("text")
                .to_string();
            if !name.contains("expected") && name != "dump-log.txt" {
                std::fs::write(path.join(&name), std::fs::read(&file).expect("reads"))
                    .expect("copied");
            }
        }
        let before = read_all(&path);
        let bytes = log_bytes(&path);
        let mut writer = Writer::open(&host(), &path, options(1 << 30)).expect("opens");
        let next = append(&mut writer, &["ours"], i64::MAX / 2);
        assert!(writer.take_lost().is_empty(), "{}", path.display());
        assert!(writer.syncer().sync_to(next).expect("synced") >= next);
        let after = read_all(&path);
        assert_eq!(after.len(), before.len() + 1, "{}", path.display());
        assert_eq!(after.last(), Some(&(next.0 - 1, "ours".to_string())));
        assert!(log_bytes(&path).starts_with(&bytes), "{}", path.display());
        taken += 1;
    }
    assert!(taken > 50, "{taken} directories");
}

/// All segments back to back, up to the first zero length.
fn log_bytes(path: &Path) -> Vec<u8> {
    let log = LogDir::open(host().as_ref(), path).expect("opens");
    let mut bytes = Vec::new();
    for segment in log.segments().expect("lists") {
        let file = log.open_file(&segment.log_name()).expect("opens");
        let span = Span::whole(segment.base(), file.len().expect("length"));
        let mut scanner = Scanner::new(file, span, Limits::default());
        while let Scan::Batch(batch, _) = scanner.next().expect("reads") {
            bytes.extend_from_slice(batch.bytes());
        }
    }
    bytes
}

#[test]
fn a_mark_set_beside_a_writer_of_many_batches_stops_it() {
    for (mark, refused) in [
        ("fenced", ErrorKind::Data),
        ("replica", ErrorKind::Permission),
        ("failed", ErrorKind::Io),
    ] {
        let dir = tempfile::tempdir().expect("made");
        let path = new_log(&dir);
        let mut writer = Writer::open(&host(), &path, options(1 << 20)).expect("opens");
        let mut end = Offset::ZERO;
        for i in 0..20 {
            end = append(&mut writer, &["x"], i);
            writer.syncer().sync_to(end).expect("synced");
        }
        let at = path.join(".logd").join(mark);
        std::fs::write(&at, "1\n").expect("written");
        for _ in 0..2 {
            let e = writer.hold().err().expect("refused");
            assert_eq!(e.kind(), refused, "{mark}: {e}");
        }
        if mark == "failed" {
            let e = writer.syncer().sync_to(end + 1).expect_err("refused");
            assert_eq!(e.kind(), refused, "{e}");
        }
        std::fs::remove_file(&at).expect("removed");
        assert_eq!(append(&mut writer, &["y"], 20), end + 1, "{mark}");
    }
}

#[test]
fn an_end_file_replaced_beside_a_writer_of_many_batches_is_seen() {
    let dir = tempfile::tempdir().expect("made");
    let path = new_log(&dir);
    let mut writer = Writer::open(&host(), &path, options(1 << 20)).expect("opens");
    for i in 0..20 {
        let end = append(&mut writer, &["x"], i);
        writer.syncer().sync_to(end).expect("synced");
    }
    std::fs::remove_file(path.join(".logd/end")).expect("removed");
    let end = append(&mut writer, &["y"], 20);
    writer.syncer().sync_to(end).expect("synced");
    let log = LogDir::open(host().as_ref(), &path).expect("opens");
    let own = log.dir().open_dir(".logd").expect("opens");
    let said = crate::log::end::read(own.as_ref()).expect("there");
    assert_eq!(said.durable, Some(end));
    assert_eq!(said.hint.expect("a hint").end, end);
}
