//! A directory as a source: every batch once, in order, wherever the read begins and whatever happens
//! to the files meanwhile.

use std::sync::Arc;

use proptest::prelude::*;

use super::ends::{Read, SourceLog};
use super::log_source::LogSource;
use crate::error::{ErrorKind, Result};
use crate::format::{Limits, Offset};
use crate::log::testing::TestLog;
use crate::sys::{Host, RealHost};

/// A batch: its segment, its offsets, its bytes.
type Known = (i64, i64, i64, Vec<u8>);

/// Batches with gaps before them, some of which begin a segment.
fn build(log: &TestLog, plan: &[(i64, i64, usize, bool)]) -> Vec<Known> {
    let (mut out, mut next) = (Vec::new(), 0);
    let mut segment = log.segment(0);
    let mut base = 0;
    for (gap, more, size, rolls) in plan {
        let first = next + gap;
        if *rolls && first > base && !segment.batches.is_empty() {
            segment.write();
            base = next + gap / 2;
            segment = log.segment(base);
        }
        let words = format!("{}@{first}", "x".repeat(*size));
        segment = segment.gap_batch(first, first + more, &words);
        let made = *segment.batches.last().unwrap();
        let from = made.position as usize;
        let bytes = segment.bytes[from..from + made.size].to_vec();
        out.push((base, first, first + more, bytes));
        next = first + more + 1;
    }
    segment.write();
    out
}

fn open(log: &TestLog) -> LogSource {
    let host: Arc<dyn Host> = Arc::new(RealHost);
    LogSource::open(&host, &log.path(), true, "b", Limits::default()).unwrap()
}

/// What comes from where it stands: the segment and the bytes of each chunk.
fn drain(source: &mut LogSource, room: usize, upto: i64) -> Result<Vec<(i64, Vec<u8>)>> {
    let (mut out, mut buf) = (Vec::new(), vec![0; room]);
    loop {
        match source.read(&mut buf, Offset(upto))? {
            Read::Chunk(c) => {
                out.push((c.segment.0, buf[..c.bytes].to_vec()));
                buf.truncate(room);
            }
            Read::Larger(size) => buf.resize(size, 0),
            Read::End => return Ok(out),
            Read::Gone(start) => panic!("gone to {start}"),
        }
    }
}

/// The same as what is known.
fn by_segment(chunks: &[(i64, Vec<u8>)]) -> Vec<(i64, Vec<u8>)> {
    let mut out: Vec<(i64, Vec<u8>)> = Vec::new();
    for (segment, bytes) in chunks {
        match out.last_mut() {
            Some((s, all)) if s == segment => all.extend(bytes),
            _ => out.push((*segment, bytes.clone())),
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn a_read_gives_every_batch_from_its_beginning_once(
        plan in prop::collection::vec((0i64..4, 0i64..4, 0usize..300, any::<bool>()), 1..20),
        from: prop::sample::Index, upto: prop::sample::Index, within: bool, room in 17usize..900,
    ) {
        let log = TestLog::new("a-0");
        let known = build(&log, &plan);
        let end = known.last().unwrap().2 + 1;
        let from = from.index(end as usize + 3) as i64;
        let upto = known[upto.index(known.len())].2 + 1;
        let mut source = open(&log);
        prop_assert_eq!(source.reach().unwrap().sendable, Offset(end));
        let start = source.seek(Offset(from), within).unwrap();
        let wanted = known.iter().filter(|b| b.1 < upto);
        let wanted = wanted.filter(|b| b.1 >= from || (within && b.2 >= from));
        let wanted: Vec<_> = wanted.map(|b| (b.0, b.3.clone())).collect();
        let got = drain(&mut source, room, upto).unwrap();
        prop_assert_eq!(by_segment(&got), by_segment(&wanted));
        if let Some(first) = known.iter().find(|b| b.1 >= from || (within && b.2 >= from)) {
            prop_assert!(start.0 <= first.1 && (start.0 == first.1 || start.0 >= from));
        }
    }
}

#[test]
fn a_segment_that_was_replaced_by_a_longer_one_is_gone_on_in() {
    let log = TestLog::new("a-0");
    log.segment(0).batch(0, "a@1").write();
    log.segment(1).batch(1, "b@2").batch(2, "c@3").write();
    log.segment(3).batch(3, "d@4").write();
    let mut source = open(&log);
    source.reach().unwrap();
    source.seek(Offset(0), true).unwrap();
    let first = drain(&mut source, 4096, 1).unwrap();
    assert_eq!(first.len(), 1);
    // Compaction makes one of the first two.
    let merged = log
        .segment(0)
        .batch(0, "a@1")
        .batch(1, "b@2")
        .batch(2, "c@3");
    let bytes = merged.bytes.clone();
    log.file("new", &bytes);
    log.rename("new", "00000000000000000000.log");
    log.remove("00000000000000000001.log");
    let rest = drain(&mut source, 4096, 4).unwrap();
    let all: Vec<u8> = first.into_iter().chain(rest).flat_map(|c| c.1).collect();
    let wanted = log.segment(3).batch(3, "d@4").bytes;
    assert_eq!(all, [bytes, wanted].concat());
}

#[test]
fn a_sealed_segment_that_is_cut_short_is_damage() {
    let log = TestLog::new("a-0");
    let segment = log.segment(0).batch(0, "a@1").batch(1, "b@2");
    let cut = segment.bytes[..segment.bytes.len() - 5].to_vec();
    log.file("00000000000000000000.log", &cut);
    log.segment(2).batch(2, "c@3").write();
    let mut source = open(&log);
    source.seek(Offset(0), true).unwrap();
    let e = drain(&mut source, 4096, 3).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Data);
    assert!(
        e.to_string()
            .contains("00000000000000000000.log: offset 1, byte "),
        "{e}"
    );
    assert!(e.to_string().ends_with("a batch is cut short"), "{e}");
}

#[test]
fn what_was_removed_is_told() {
    let log = TestLog::new("a-0");
    log.segment(0).batch(0, "a@1").write();
    log.segment(1).batch(1, "b@2").write();
    log.segment(2).batch(2, "c@3").write();
    let mut source = open(&log);
    source.seek(Offset(0), true).unwrap();
    assert_eq!(drain(&mut source, 4096, 1).unwrap().len(), 1);
    log.remove("00000000000000000001.log");
    log.remove("00000000000000000000.log");
    let gone = source.read(&mut [0; 4096], Offset(3)).unwrap();
    assert_eq!(gone, Read::Gone(Offset(2)));
}

#[test]
fn a_log_that_somebody_receives_into_is_its_own_destination_unless_it_is_a_copy() {
    use crate::log::files;
    use crate::log::lock::LockFile;
    use crate::sys::Wait;
    let log = TestLog::new("a-0");
    log.segment(0).batch(0, "a@0").write();
    std::fs::create_dir_all(log.path().join(".logd")).unwrap();
    let mut source = open(&log);
    assert!(!source.is_taken().unwrap());
    let own = RealHost.open_dir(&log.path().join(".logd")).unwrap();
    let lock = LockFile::open(own.as_ref(), files::RECEIVER_LOCK).unwrap();
    assert!(!source.is_taken().unwrap());
    assert!(lock.acquire(own.as_ref(), Wait::No).unwrap());
    assert!(source.is_taken().unwrap());
    own.create(files::REPLICA).unwrap();
    assert!(!source.is_taken().unwrap());
}
