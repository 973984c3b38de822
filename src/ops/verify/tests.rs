use super::*;
use crate::corpus;
use crate::format::names;
use crate::log::testing::TestLog;
use crate::sys::RealHost;
use std::path::Path;

/// Every finding of a partition, as `FILE:BYTE: reason`.
pub fn findings(path: &Path) -> Vec<String> {
    let mut out = Vec::new();
    let partition = Partition::at(path);
    let throttle = Throttle::new(None);
    let told = verify(
        &RealHost,
        &partition,
        &Options::default(),
        &throttle,
        &mut |f| {
            if f.severity == Severity::Problem {
                let name = corpus::name(&f.path);
                out.push(format!("{name}:{}: {}", f.position, f.reason));
            }
            Ok(())
        },
        &mut |_, _| (),
    );
    told.unwrap();
    out
}

/// Directories below `dir` that hold a log.
fn logs(dir: &Path) -> Vec<PathBuf> {
    let is_log = |p: &PathBuf| corpus::name(p).ends_with(".log");
    let files = corpus::files(dir).into_iter().filter(is_log);
    let mut dirs: Vec<PathBuf> = files.map(|p| p.parent().unwrap().to_path_buf()).collect();
    dirs.dedup();
    dirs
}

#[test]
fn an_abort_without_an_entry_is_told_wherever_its_transaction_began() {
    let log = TestLog::new("t-0");
    log.segment(0).txn(7, 0, "x").write();
    log.segment(1).abort(7, 1).batch(2, "a").write();
    log.segment(3).batch(3, "b").write();
    let told = findings(&log.path());
    let why = "00000000000000000001.txnindex:0: the transaction of producer 7 aborted at 1 is not indexed";
    assert!(told.iter().any(|line| line == why), "{told:?}");
}

#[test]
fn a_sound_directory_gives_no_alarm() {
    let Some(root) = corpus::root() else { return };
    let mut wrong = Vec::new();
    let mut count = 0;
    let after = std::fs::read_dir(root.join("crash")).unwrap();
    // A broker keeps a batch that counts its records wrong, but no reader gets past it.
    let after = after.map(|e| e.unwrap().path().join("after"));
    let after = after.filter(|p| !p.ends_with("count-lie/after"));
    let sound = ["public", "broker", "unclean"].map(|d| root.join(d));
    for dir in sound.into_iter().chain(after).flat_map(|d| logs(&d)) {
        count += 1;
        let found = findings(&dir);
        if !found.is_empty() {
            wrong.push(format!("{}: {found:#?}", dir.display()));
        }
    }
    assert!(count > 150, "{count}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What of each damaged directory of the corpus is told first; nothing where nothing is wrong with it.
const CRASHES: [(&str, &str); 25] = [
    (
        "badindex",
        "00000000000000000000.index:40: 5 bytes of an entry",
    ),
    (
        "cleaned",
        "00000000000000000288.log.cleaned:0: output of a replacement",
    ),
    (
        "count-lie",
        "00000000000000000000.log:14920: 7050 bytes after the last record",
    ),
    ("empty", ""),
    (
        "epoch-ahead",
        "leader-epoch-checkpoint:0: epoch 5 begins at offset 9999",
    ),
    (
        "epoch-nocrc",
        "leader-epoch-checkpoint:0: epoch 77 of the batch at offset 200",
    ),
    (
        "flip-first",
        "00000000000000000000.log:17: batch CRC-32C is",
    ),
    (
        "flip-last",
        "00000000000000000000.log:2111: batch CRC-32C is",
    ),
    (
        "flip-midseg",
        "00000000000000000239.log:32542: batch CRC-32C is",
    ),
    (
        "garbage",
        "00000000000000000000.log:82111: batch of 923639346 bytes",
    ),
    (
        "len-huge",
        "00000000000000000000.log:14645: batch of 2147483659 bytes",
    ),
    (
        "len-zero",
        "00000000000000000000.log:14645: batch length 0 before more data",
    ),
    ("magic9", ""),
    ("no-epochfile", ""),
    (
        "noindex",
        "00000000000000000000.index:0: the index is missing",
    ),
    (
        "offset-back",
        "00000000000000000000.log:14645: base offset 5 where 200",
    ),
    (
        "strays",
        "00000000000000000777.index:0: an index without a log",
    ),
    (
        "swap",
        "00000000000000000000.log.swap:0: a replacement of segments",
    ),
    (
        "trunc-16",
        "00000000000000000000.log:14645: the file ends inside a batch",
    ),
    (
        "trunc-body",
        "00000000000000000000.log:3225: the file ends inside a batch",
    ),
    (
        "trunc-header",
        "00000000000000000000.log:14645: the file ends inside a batch",
    ),
    (
        "txn-badsnap",
        "00000000000000000006.snapshot:2: snapshot CRC-32C is",
    ),
    (
        "txn-noindex",
        "00000000000000000000.index:0: the index is missing",
    ),
    (
        "v1-flip",
        "00000000000000000000.log:924: message CRC-32 is d77ba779",
    ),
    ("zerotail", ""),
];

#[test]
fn what_a_crash_left_is_told() {
    let Some(root) = corpus::root() else { return };
    for (name, want) in CRASHES {
        let found = findings(&root.join("crash").join(name).join("before"));
        match want {
            "" => assert!(found.is_empty(), "{name}: {found:#?}"),
            _ => assert!(
                found.first().is_some_and(|f| f.starts_with(want)),
                "{name}: {found:#?}"
            ),
        }
    }
}

fn writer(host: &Arc<dyn Host>, path: &Path, zero_fill: bool) -> crate::log::writer::Writer {
    let options = crate::log::writer::WriterOptions {
        wait: None,
        allow_network_fs: true,
        zero_fill,
        roll: crate::segment::active::RollLimits {
            segment_bytes: 60_000,
            segment_age_ms: None,
        },
        command: "test".to_string(),
    };
    crate::log::writer::Writer::open(host, path, options).unwrap()
}

fn append(writer: &mut crate::log::writer::Writer, size: usize) {
    use crate::format::builder::{BatchBuilder, Chunk, Seal};
    let mut builder = BatchBuilder::begin(Vec::new());
    let value = vec![b'x'; size];
    let record = crate::format::record::NewRecord {
        key: None,
        value: Some(&value),
        headers: &[],
    };
    builder.push(crate::format::TimestampMs(1_000), &record);
    let (bytes, sealed) = builder.seal(&Seal::default());
    let batches = vec![sealed];
    let mut hold = writer.hold().unwrap();
    assert!(
        hold.append(&mut Chunk { bytes, batches }, true)
            .error
            .is_none()
    );
    hold.release().unwrap();
}

#[test]
fn a_log_that_grows_gives_no_alarm() {
    for zero_fill in [false, true] {
        let log = TestLog::new("x-0");
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|s| {
            for size in [40, 9_000] {
                let (path, stop) = (log.path(), &stop);
                s.spawn(move || {
                    let host: Arc<dyn Host> = Arc::new(RealHost);
                    let mut writer = writer(&host, &path, zero_fill);
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        append(&mut writer, size);
                    }
                    writer.close().unwrap();
                });
            }
            let began = Instant::now();
            let mut found = Vec::new();
            while began.elapsed() < Duration::from_millis(1500) && found.is_empty() {
                found = findings(&log.path());
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(found.is_empty(), "{found:#?}");
        });
    }
}

#[test]
fn a_log_that_ends_below_what_was_durable_is_told() {
    let log = TestLog::new("x-0");
    let host: Arc<dyn Host> = Arc::new(RealHost);
    let mut writer = writer(&host, &log.path(), false);
    for _ in 0..3 {
        append(&mut writer, 10);
    }
    writer.syncer().sync_to(Offset(3)).unwrap();
    writer.close().unwrap();
    assert!(findings(&log.path()).is_empty());
    let name = log.path().join("00000000000000000000.log");
    let len = std::fs::metadata(&name).unwrap().len();
    let file = std::fs::OpenOptions::new().write(true).open(&name).unwrap();
    file.set_len(len / 3 * 2).unwrap();
    let found = findings(&log.path()).join("\n");
    assert!(
        found.contains("ends at offset 2, but everything below 3 was durable"),
        "{found}"
    );
}

#[test]
fn a_range_leaves_out_what_is_outside() {
    let log = TestLog::new("x-0");
    // The first record claims a longer value than there is.
    log.segment(0)
        .batch(0, "a")
        .patch(0, 61, &[0x40])
        .batch(1, "b")
        .batch(2, "c")
        .write();
    let count = |range: &str| {
        let now = crate::ops::words::Now::new(crate::format::TimestampMs(0));
        let options = Options {
            range: Some(words::Range::parse(range, &now).unwrap()),
            ..Options::default()
        };
        let (partition, throttle) = (Partition::at(&log.path()), Throttle::new(None));
        let told = verify(
            &RealHost,
            &partition,
            &options,
            &throttle,
            &mut |_| Ok(()),
            &mut |_, _| (),
        );
        told.unwrap().problems
    };
    assert_eq!((count("0..1"), count("1.."), count("..")), (1, 0, 1));
}

#[test]
fn digests_tell_copies_from_others() {
    use digest::{Over, digest};
    let hashes = |log: &TestLog, over| {
        let host: Arc<dyn Host> = Arc::new(RealHost);
        let partition = Partition::at(&log.path());
        let lines = digest(
            &host,
            &partition,
            over,
            &Options::default(),
            &Throttle::new(None),
        );
        lines.unwrap()
    };
    let one = TestLog::new("x-0");
    one.segment(0).batch(0, "a=b c").batch(2, "d").write();
    one.segment(3).batch(3, "e").write();
    let same = TestLog::new("x-0");
    same.segment(0)
        .batch(0, "a=b c")
        .batch(2, "d")
        .raw(&[0; 99])
        .write();
    same.segment(3).batch(3, "e").write();
    let cut = TestLog::new("x-0");
    cut.segment(0).batch(0, "a=b").batch(1, "c d e").write();
    let other = TestLog::new("x-0");
    other.segment(0).batch(0, "a=b c").batch(2, "D").write();
    other.segment(3).batch(3, "e").write();
    let batches = hashes(&one, Over::Batches);
    assert_eq!(batches, hashes(&same, Over::Batches));
    assert_eq!(batches.len(), 2);
    let theirs = hashes(&other, Over::Batches);
    assert_ne!(batches[0], theirs[0]);
    assert_eq!(batches[1], theirs[1]);
    let records = hashes(&one, Over::Records);
    assert_eq!(records, hashes(&cut, Over::Records));
    assert_ne!(records, hashes(&other, Over::Records));
}

#[test]
fn retention_that_overtakes_the_check_is_no_alarm() {
    for kept in [3, 1] {
        let log = TestLog::new("x-0");
        let host: Arc<dyn Host> = Arc::new(RealHost);
        let mut writer = writer(&host, &log.path(), false);
        for _ in 0..24 {
            append(&mut writer, 40_000);
        }
        writer.syncer().sync_to(Offset(24)).unwrap();
        writer.close().unwrap();
        let segments = log.open().segments().unwrap();
        let gone = &segments[..segments.len() - kept];
        let (mut found, mut done) = (Vec::new(), false);
        let told = verify(
            &RealHost,
            &Partition::at(&log.path()),
            &Options::default(),
            &Throttle::new(None),
            &mut |f| {
                found.push(format!("{f:?}"));
                Ok(())
            },
            &mut |_, _| {
                if !std::mem::replace(&mut done, true) {
                    for s in gone {
                        for kind in [Kind::Log, Kind::OffsetIndex, Kind::TimeIndex] {
                            std::fs::remove_file(log.path().join(s.index_name(kind))).unwrap();
                        }
                    }
                }
            },
        );
        assert!(done && told.unwrap().segments < 24);
        assert!(found.is_empty(), "{found:#?}");
    }
}

/// After a reboot a gap above D is a lost tail, unless D or a broker's recovery point has passed it.
#[test]
fn a_gap_above_what_was_durable_is_told_after_a_reboot_and_only_then() {
    use crate::format::{Position, TimestampMs};
    let log = TestLog::new("x-0");
    log.segment(0).batch(0, "a=1").index().write();
    log.segment(5).batch(5, "a=2").index().write();
    log.segment(6).batch(6, "a=3").index().write();
    let own = crate::log::writer::open_logd_dir(log.open().dir().as_ref()).unwrap();
    let file = own.create(files::END).unwrap();
    let publish = |sequence, boot_id, wall_ms, durable| {
        let hint = end::EndHint {
            sequence,
            boot_id,
            base: Offset(6),
            position: Position(0),
            end: Offset(7),
            highest: Offset(7),
            wall_ms,
            boot_ms: 0,
            inode: 0,
            max_timestamp: TimestampMs::NONE,
            first_timestamp: TimestampMs::NONE,
            max_timestamp_relative: 0,
            since_index_entry: 0,
            index_bytes: 0,
            time_index_bytes: 0,
            epoch: 0,
            has_producers: false,
        };
        end::write_hint(&*file, &hint).unwrap();
        end::write_durable(&*file, sequence, boot_id, Offset(durable)).unwrap();
    };
    let is_told = || {
        let told = findings(&log.path());
        told.iter()
            .any(|f| f.contains("offsets 1..5 before it are gone"))
    };
    let (other, this) = ([9; 16], RealHost.boot_id());
    publish(1, other, 0, 2);
    assert!(is_told());
    publish(2, this, 0, 2);
    assert!(!is_told(), "no reboot");
    publish(3, other, 0, 5);
    assert!(!is_told(), "the gap was there when D passed it");
    publish(4, other, 0, 4);
    assert!(is_told());
    let checkpoint = log.parent().join(names::RECOVERY_POINT_CHECKPOINT);
    std::fs::write(&checkpoint, "0\n1\nx 0 4\n").unwrap();
    assert!(is_told(), "a broker's point below it");
    std::fs::write(&checkpoint, "0\n1\nx 0 5\n").unwrap();
    assert!(!is_told(), "a broker has flushed past it");
    publish(5, other, i64::MAX, 4);
    assert!(is_told(), "but before our last append");
}

#[test]
fn a_gap_between_segments_is_told_unless_something_explains_it() {
    use crate::log::rewritten::{self, Reason};
    let told = |durable, explain: &dyn Fn(&TestLog)| {
        let log = TestLog::new("x-0");
        log.segment(0).batch(0, "a=1").index().write();
        log.segment(5).batch(5, "a=2").index().write();
        log.segment(6).batch(6, "a=3").index().write();
        let own = crate::log::writer::open_logd_dir(log.open().dir().as_ref()).unwrap();
        let file = own.create(files::END).unwrap();
        end::write_durable(&*file, 1, RealHost.boot_id(), Offset(durable)).unwrap();
        explain(&log);
        let told = findings(&log.path());
        told.iter()
            .any(|f| f.contains("offsets 1..5 before it are missing"))
    };
    let noted = |from, to| {
        move |log: &TestLog| {
            let own = log.open().dir().open_dir(files::LOGD_DIR).unwrap();
            rewritten::add(&*own, Reason::Gap, Offset(from)..Offset(to)).unwrap();
        }
    };
    let cleaned = |topic: &'static str| {
        move |log: &TestLog| {
            let path = log.parent().join(names::CLEANER_CHECKPOINT);
            std::fs::write(path, format!("0\n1\n{topic} 0 1\n")).unwrap();
        }
    };
    assert!(told(7, &|_| {}));
    assert!(told(5, &|_| {}));
    assert!(!told(4, &|_| {}), "not all of it was ever durable");
    assert!(!told(7, &noted(1, 5)));
    assert!(told(7, &noted(6, 7)), "another range");
    assert!(!told(7, &cleaned("x")), "a broker has compacted it");
    assert!(told(7, &cleaned("y")), "another log");
}
