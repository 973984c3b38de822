use super::*;
use crate::corpus;
use crate::format::batch::Scratch;
use crate::format::names::State;
use crate::log::listing::LogDir;
use crate::log::testing::TestLog;
use crate::sys::RealHost;
use std::path::Path;

fn reader(path: &Path, wanted: Range<i64>, skip_corrupt: bool) -> Reader {
    let view = View::of(LogDir::open(&RealHost, path).unwrap()).unwrap();
    let options = ReadOptions {
        limits: Limits::default(),
        skip_corrupt,
    };
    let wanted = Offset(wanted.start)..Offset(wanted.end);
    Reader::new(Arc::new(RealHost), view, wanted, options)
}

/// Everything the reader yields, in words.
fn drain(r: &mut Reader) -> String {
    let mut out = Vec::new();
    let mut scratch = Scratch::new();
    loop {
        match r.next() {
            Ok(Event::Batch(piece)) => {
                let wanted = piece.wanted.clone();
                for record in piece
                    .batch
                    .records(&mut scratch, &Limits::default())
                    .unwrap()
                {
                    let record = record.unwrap();
                    if wanted.contains(&record.offset) {
                        let value =
                            String::from_utf8_lossy(record.value.unwrap_or(b"-")).into_owned();
                        out.push(format!("{}={value}", record.offset));
                    }
                }
            }
            Ok(Event::End) => return out.join(" "),
            Ok(Event::Gone(r)) => out.push(format!("gone {}..{}", r.start, r.end)),
            Ok(Event::Damage(d)) => out.push(format!("lost {}..{}", d.lost.start, d.lost.end)),
            Err(e) => {
                out.push(format!("{:?}: {e}", e.kind()));
                return out.join(" ");
            }
        }
    }
}

fn read(log: &TestLog, wanted: Range<i64>) -> String {
    drain(&mut reader(&log.path(), wanted, false))
}

fn read_past_damage(log: &TestLog) -> String {
    drain(&mut reader(&log.path(), 0..i64::MAX, true))
}

const ALL: Range<i64> = 0..i64::MAX;

#[test]
fn batches_come_across_segments_gaps_and_empty_files() {
    let log = TestLog::new("t-0");
    log.segment(0)
        .batch(0, "a b c")
        .gap_batch(5, 9, "d")
        .index()
        .write();
    log.segment(10).write();
    log.segment(20)
        .batch(25, "e")
        .batch(26, "f g")
        .index()
        .write();
    assert_eq!(read(&log, ALL), "0=a 1=b 2=c 5=d 25=e 26=f 27=g");
    assert_eq!(read(&log, 1..6), "1=b 2=c 5=d");
    assert_eq!(read(&log, 6..26), "25=e");
    assert_eq!(read(&log, 27..28), "27=g");
    assert_eq!(read(&log, 28..100), "");
    assert_eq!(read(&log, 12..12), "");
}

#[test]
fn an_empty_directory_reads_as_an_empty_log() {
    assert_eq!(read(&TestLog::new("t-0"), ALL), "");
}

#[test]
fn an_unfinished_batch_at_the_end_is_not_there_yet() {
    let log = TestLog::new("t-0");
    for cut in [1, 20, 60] {
        log.segment(0)
            .batch(0, "a")
            .batch(1, "bbbb")
            .cut(cut)
            .write();
        assert_eq!(read(&log, ALL), "0=a", "cut {cut}");
    }
    log.segment(0)
        .batch(0, "a")
        .batch(1, "b")
        .flip(1, 62)
        .write();
    assert_eq!(read(&log, ALL), "0=a");
    log.segment(0).batch(0, "a").raw(&[0; 4096]).write();
    assert_eq!(read(&log, ALL), "0=a");
}

#[test]
fn damage_before_a_valid_batch_stops_the_read_and_names_what_is_lost() {
    let log = TestLog::new("t-0");
    log.segment(0)
        .batch(0, "a")
        .batch(1, "b c")
        .batch(3, "d")
        .flip(1, 62)
        .write();
    let said = read(&log, ALL);
    assert!(said.starts_with("0=a Data: "), "{said}");
    assert!(
        said.contains("00000000000000000000.log: offset 1, byte 8"),
        "{said}"
    );
    assert!(
        said.contains("batch CRC-32C is") && said.ends_with("offsets 1..3 are lost"),
        "{said}"
    );
    assert_eq!(read_past_damage(&log), "0=a lost 1..3 3=d");
    assert_eq!(read(&log, 3..9), "3=d");
}

#[test]
fn damage_in_a_sealed_segment_is_never_an_end() {
    let log = TestLog::new("t-0");
    log.segment(10).batch(10, "z").write();
    log.segment(0).batch(0, "a").batch(1, "b").cut(3).write();
    assert_eq!(read_past_damage(&log), "0=a lost 1..10 10=z");
    let said = read(&log, ALL);
    assert!(
        said.contains("the file ends inside a batch; offsets 1..10 are lost"),
        "{said}"
    );
    log.segment(0).batch(0, "a").raw(&[0; 100]).write();
    assert_eq!(read(&log, ALL), "0=a 10=z");
    log.segment(0)
        .batch(0, "a")
        .raw(&[0; 100])
        .raw(&[1])
        .write();
    assert!(read(&log, ALL).contains("batch length 0 before more data"));
}

#[test]
fn a_log_that_ends_below_the_durable_offset_is_damaged() {
    let log = TestLog::new("t-0");
    log.segment(0).batch(0, "a").batch(1, "b").cut(5).write();
    std::fs::create_dir(log.path().join(".logd")).unwrap();
    let dir = log.open().dir().open_dir(".logd").unwrap();
    let file = dir.create("end").unwrap();
    end::write_durable(&*file, 1, [1; 16], Offset(2)).unwrap();
    assert_eq!(read_past_damage(&log), "0=a lost 1..2");
    end::write_durable(&*file, 2, [1; 16], Offset(1)).unwrap();
    assert_eq!(read(&log, ALL), "0=a");
}

#[test]
fn segments_that_overlap_are_damage() {
    let log = TestLog::new("t-0");
    log.segment(0).batch(0, "a b c").write();
    log.segment(2).batch(2, "x y").write();
    let said = read(&log, ALL);
    assert!(said.contains("0000000002.log: offset 3"), "{said}");
    assert!(
        said.contains("its base offset lies below 3, the end of"),
        "{said}"
    );
    assert_eq!(read_past_damage(&log), "0=a 1=b 2=c lost 3..3 3=y");
}

#[test]
fn what_retention_removed_is_named() {
    let log = TestLog::new("t-0");
    for base in [0, 10, 20, 30] {
        log.segment(base).batch(base, "a").write();
    }
    let mut r = reader(&log.path(), ALL, false);
    assert!(matches!(r.next().unwrap(), Event::Batch(_)));
    log.remove("00000000000000000000.log");
    log.remove("00000000000000000010.log");
    assert_eq!(drain(&mut r), "gone 10..20 20=a 30=a");
    log.log_start(25);
    assert_eq!(read(&log, 0..100), "gone 0..25 30=a");
}

#[test]
fn a_swap_while_reading_repeats_and_loses_nothing() {
    let log = TestLog::new("t-0");
    for base in [0, 10, 20] {
        log.segment(base)
            .batch(base, "a b")
            .batch(base + 2, "c")
            .write();
    }
    log.segment(30).batch(30, "z").write();
    let mut r = reader(&log.path(), ALL, false);
    assert!(matches!(r.next().unwrap(), Event::Batch(_)));
    let compacted = |s: State| {
        log.segment(0)
            .batch(1, "b")
            .batch(12, "c")
            .batch(20, "a b")
            .gap_batch(22, 29, "")
            .state(s)
    };
    compacted(State::Swap).write();
    log.remove("00000000000000000010.log");
    assert_eq!(drain(&mut r), "2=c 12=c 20=a 21=b 30=z");
    let mut r = reader(&log.path(), 0..i64::MAX, false);
    assert!(matches!(r.next().unwrap(), Event::Batch(_)));
    log.remove("00000000000000000020.log");
    log.rename("00000000000000000000.log.swap", "00000000000000000000.log");
    assert_eq!(drain(&mut r), "12=c 20=a 21=b 30=z");
}

#[test]
fn a_read_ends_where_the_log_ended_when_it_began() {
    let log = TestLog::new("t-0");
    let s = log.segment(0).batch(0, "a").write();
    let mut r = reader(&log.path(), ALL, false);
    let s = s.batch(1, "b").write();
    log.segment(5).batch(5, "c").write();
    assert_eq!(drain(&mut r), "0=a");
    // Rolled and merged into what was before it: the file held open bounds the read.
    let mut r = reader(&log.path(), 0..3, false);
    s.batch(2, "x").write();
    assert_eq!(drain(&mut r), "0=a 1=b 2=x");
}

#[test]
fn a_follower_reads_the_old_segment_to_its_end_before_the_new_one() {
    let log = TestLog::new("t-0");
    let s = log.segment(0).batch(0, "a").write();
    let mut r = reader(&log.path(), ALL, false);
    assert_eq!(drain(&mut r), "0=a");
    assert_eq!(r.refresh(false).unwrap(), Refresh::Nothing);
    let s = s.batch(1, "b").write();
    assert_eq!(r.refresh(false).unwrap(), Refresh::More);
    assert_eq!(drain(&mut r), "1=b");
    s.batch(2, "c").write();
    log.segment(3).batch(3, "d").write();
    let mut all = String::new();
    while r.refresh(false).unwrap() != Refresh::Nothing {
        all = format!("{all} {}", drain(&mut r));
    }
    assert_eq!(all.trim(), "2=c 3=d");
}

#[test]
fn a_follower_survives_retention_truncation_and_replacement() {
    let log = TestLog::new("t-0");
    log.segment(0).batch(0, "a").batch(1, "b").write();
    let mut r = reader(&log.path(), ALL, false);
    assert_eq!(drain(&mut r), "0=a 1=b");
    log.remove("00000000000000000000.log");
    log.segment(7).batch(9, "c").write();
    assert_eq!(r.refresh(false).unwrap(), Refresh::More);
    assert_eq!(drain(&mut r), "gone 2..7 9=c");
    log.segment(7).write();
    assert_eq!(r.refresh(false).unwrap(), Refresh::CutBack);
    assert_eq!(drain(&mut r), "");
    log.segment(7).batch(9, "d").batch(10, "e").write();
    assert_eq!(r.refresh(false).unwrap(), Refresh::More);
    assert_eq!(drain(&mut r), "10=e");
    std::fs::remove_dir_all(log.path()).unwrap();
    assert_eq!(r.refresh(false).unwrap_err().kind(), ErrorKind::NotFound);
}

/// Whether the reader is to read this corpus directory as a whole, up to an end that is clean.
fn corpus_logs(root: &Path) -> Vec<PathBuf> {
    let logs = corpus::files(root)
        .into_iter()
        .filter(|p| corpus::name(p).ends_with(".log"));
    let mut dirs: Vec<PathBuf> = logs.map(|p| p.parent().unwrap().to_path_buf()).collect();
    dirs.dedup();
    dirs
}

#[test]
fn corpus_directories_read_as_their_brokers_wrote_them() {
    let Some(root) = corpus::root() else { return };
    for part in ["broker", "unclean"] {
        for dir in corpus_logs(&root.join(part)) {
            let swap = corpus::files(&dir)
                .iter()
                .any(|p| corpus::name(p).ends_with(".swap"));
            assert!(!swap);
            let mut values = Vec::new();
            let mut scratch = Scratch::new();
            let mut r = reader(&dir, ALL, false);
            let start = r.view().start();
            loop {
                match r
                    .next()
                    .unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
                {
                    Event::Batch(p) if p.batch.header().is_control() => {}
                    Event::Batch(p) => {
                        let wanted = p.wanted.clone();
                        let records = p.batch.records(&mut scratch, &Limits::default()).unwrap();
                        let records = records
                            .map(|r| r.unwrap())
                            .filter(|r| wanted.contains(&r.offset));
                        values.extend(
                            records
                                .map(|r| (r.key.map(<[u8]>::to_vec), r.value.map(<[u8]>::to_vec))),
                        );
                    }
                    Event::End => break,
                    Event::Gone(range) => assert_eq!(range, Offset(0)..start),
                    Event::Damage(d) => panic!("{}: {d:?}", dir.display()),
                }
            }
            let expected = corpus::records(&dir).filter(|e| !e.is_control);
            let expected: Vec<_> = expected.map(|e| (e.key, e.value)).collect();
            if start == Offset(0) || start == r.view().segments()[0].base() {
                assert_eq!(values.len(), expected.len(), "{}", dir.display());
            }
            assert!(expected.ends_with(&values), "{}", dir.display());
        }
    }
}

#[test]
fn a_batch_that_became_whole_and_durable_meanwhile_is_still_to_come() {
    let log = TestLog::new("t-0");
    let s = log.segment(0).batch(0, "a").batch(1, "b");
    let whole = s.bytes.clone();
    drop(s.cut(7).write());
    let host: Arc<dyn Host> = Arc::new(crate::sys::RealHost);
    let view = View::of(log.open()).unwrap();
    let options = ReadOptions {
        limits: Limits::default(),
        skip_corrupt: false,
    };
    let wanted = Offset(0)..Offset::MAX;
    let mut reader = Reader::new(Arc::clone(&host), view, wanted, options);
    log.file("00000000000000000000.log", &whole);
    let group = crate::log::groups::Group::open(&host, &log.path(), "g", true);
    assert_eq!(group.unwrap().commit(Offset(2)).unwrap(), Offset(2));
    assert!(matches!(reader.advance().unwrap(), Advance::Batch));
    assert!(matches!(reader.advance().unwrap(), Advance::End));
    assert_ne!(reader.refresh(true).unwrap(), Refresh::Nothing);
    assert!(matches!(reader.advance().unwrap(), Advance::Batch));
    assert_eq!(reader.next_offset(), Offset(2));
}
