use super::*;
use crate::log::testing::{Segment, TestLog};
use crate::sys::{Access, Host, RealHost};

fn open(log: &TestLog, base: i64) -> Arc<dyn File> {
    let dir = RealHost.open_dir(&log.path()).unwrap();
    Arc::from(dir.open(&format!("{base:020}.log"), Access::Read).unwrap())
}

fn scanner(log: &TestLog, base: i64) -> Scanner {
    let file = open(log, base);
    let span = Span::whole(Offset(base), file.len().unwrap());
    Scanner::new(file, span, Limits::default())
}

/// Last offsets of the batches, and how the scan ended.
fn scan(s: &mut Scanner) -> (Vec<i64>, String) {
    let mut last = Vec::new();
    loop {
        match s.next().unwrap() {
            Scan::Batch(b, _) => last.push(b.header().last_offset.0),
            Scan::End(e) => return (last, format!("{:?} at {}", e.tail, e.position)),
            Scan::Bad(b) => return (last, format!("at {}: {}", b.position, b.defect)),
        }
    }
}

fn walk(s: &Scanner) -> (Vec<i64>, bool) {
    let mut w = HeaderWalk::new(Arc::clone(&s.file), s.span, Limits::default());
    let mut last = Vec::new();
    loop {
        match w.next().unwrap() {
            Walk::Header(h, _) => last.push(h.last_offset.0),
            Walk::End(e) => return (last, e.tail == Tail::Clean),
            Walk::Bad(_) => return (last, false),
        }
    }
}

#[test]
fn batches_come_in_order_with_gaps_and_an_end() {
    let log = TestLog::new("t-0");
    let s = log
        .segment(5)
        .batch(5, "a b")
        .gap_batch(9, 20, "c")
        .batch(30, "d")
        .write();
    let mut scanner = scanner(&log, 5);
    let (last, end) = scan(&mut scanner);
    assert_eq!(
        (last, end),
        (vec![6, 20, 30], format!("Clean at {}", s.bytes.len()))
    );
    assert_eq!(scanner.next_offset(), Offset(31));
}

#[test]
fn every_prefix_yields_exactly_the_batches_that_ended_before_the_cut() {
    let log = TestLog::new("t-0");
    let whole = log
        .segment(0)
        .batch(0, "a b")
        .batch(2, "c")
        .batch(3, "d e f");
    let ends: Vec<usize> = whole
        .batches
        .iter()
        .map(|b| b.position as usize + b.size)
        .collect();
    for cut in 0..=whole.bytes.len() {
        log.file("00000000000000000000.log", &whole.bytes[..cut]);
        let mut s = scanner(&log, 0);
        let headers = walk(&s);
        let (last, end) = scan(&mut s);
        let complete = ends.iter().filter(|e| **e <= cut).count();
        assert_eq!(last, [1, 2, 5][..complete], "cut at {cut}");
        let clean = cut == 0 || ends.contains(&cut);
        let tail = if clean { "Clean" } else { "Partial" };
        // The first bytes of an offset may be zeros, like those of a preallocated tail.
        let zeros = end.starts_with("Zeros") && !clean;
        assert!(end.starts_with(tail) || zeros, "cut at {cut}: {end}");
        assert_eq!(headers, (last, clean), "cut at {cut}");
    }
}

#[test]
fn zeros_end_the_data() {
    let log = TestLog::new("t-0");
    for n in [1, 8, 12, 16, 17, 61, 5000] {
        let s = log.segment(0).batch(0, "a").raw(&vec![0; n]).write();
        let at = s.batches[0].size;
        let (last, end) = scan(&mut scanner(&log, 0));
        assert_eq!(
            (last, end),
            (vec![0], format!("Zeros at {at}")),
            "{n} zeros"
        );
        let file = open(&log, 0);
        let (from, end) = (Position(at as u64), Position(at as u64 + n as u64));
        assert!(is_zero(&*file, from, end).unwrap());
        assert!(!is_zero(&*file, Position(from.0 - 2), end).unwrap());
    }
}

#[test]
fn holes_of_any_size_are_passed_over() {
    const HOLE: u64 = 1 << 40;
    let log = TestLog::new("t-0");
    let s = log.segment(0).batch(0, "a").batch(5, "b").write();
    let path = log.path().join(format!("{:020}.log", 0));
    let batch = &std::fs::read(&path).unwrap()[s.batches[1].position as usize..];
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_len(HOLE).unwrap();
    let (read, first) = (open(&log, 0), Position(s.batches[1].position));
    let behind = first + batch.len() as u64;
    assert!(is_zero(&*read, behind, Position(HOLE)).unwrap());
    let mut span = Span::whole(Offset(0), HOLE);
    (span.next, span.from) = (Offset(1), behind);
    let found = |end, span| {
        let span = Span { end, ..span };
        resync(&*read, &span, &Limits::default()).unwrap()
    };
    assert_eq!(found(Position(HOLE), span), Resync::None);
    // Its base offset begins with zeros, of which the first may lie in the hole.
    for at in [HOLE, HOLE - 3, HOLE - 4096] {
        file.set_len(behind.0).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, batch, at).unwrap();
        let end = Position(at + batch.len() as u64);
        assert!(!is_zero(&*read, behind, end).unwrap());
        assert_eq!(found(end, span), Resync::Found(Position(at), Offset(5)));
    }
}

#[test]
fn damage_is_named_and_the_next_good_batch_found() {
    let log = TestLog::new("t-0");
    let make = |harm: &dyn Fn(Segment) -> Segment| {
        harm(log.segment(0).batch(0, "a").batch(1, "b c").batch(3, "d")).write()
    };
    let flipped = make(&|s| s.flip(1, 64));
    let mut s = scanner(&log, 0);
    let (last, why) = scan(&mut s);
    assert_eq!(last, [0]);
    assert!(why.contains("batch CRC-32C is"), "{why}");
    assert_eq!(s.position(), Position(flipped.batches[1].position));
    let mut span = s.span;
    span.from = span.from + 1;
    let found = resync(&*s.file, &span, &Limits::default()).unwrap();
    let third = Position(flipped.batches[2].position);
    assert_eq!(found, Resync::Found(third, Offset(3)));
    s.seek(third, Offset(3));
    assert_eq!(scan(&mut s).0, [3]);

    make(&|s| s.flip(2, 64));
    assert_eq!(
        resync(&*s.file, &span, &Limits::default()).unwrap(),
        Resync::None
    );
}

#[test]
fn offsets_that_go_back_are_bad() {
    let log = TestLog::new("t-0");
    log.segment(5).batch(5, "a b c").batch(7, "d").write();
    let (last, why) = scan(&mut scanner(&log, 5));
    assert_eq!(last, [7]);
    assert!(
        why.contains("base offset 7 where 8 or more must be"),
        "{why}"
    );
    log.segment(5).batch(4, "a").write();
    assert!(scan(&mut scanner(&log, 5)).0.is_empty());
    log.segment(5)
        .batch(5, "a")
        .patch(0, 23, &(-1i32).to_be_bytes())
        .write();
    assert!(
        scan(&mut scanner(&log, 5))
            .1
            .contains("last offset 4 of a batch from 5")
    );
    log.segment(5).batch(5 + (1 << 31), "a").write();
    assert!(scan(&mut scanner(&log, 5)).1.contains("2^31 or more above"));
}

#[test]
fn a_scan_goes_on_where_it_ended_once_the_file_has_grown() {
    let log = TestLog::new("t-0");
    let whole = log.segment(0).batch(0, "a").batch(1, "b");
    let first = whole.batches[0].size;
    let name = "00000000000000000000.log";
    let mut torn = whole.bytes.clone();
    torn[first + 30..].fill(0);
    log.file(name, &torn);
    let mut s = scanner(&log, 0);
    assert!(scan(&mut s).1.contains("CRC"));
    std::fs::write(log.path().join(name), &whole.bytes).unwrap();
    s.extend(Position(whole.bytes.len() as u64));
    assert_eq!(scan(&mut s).0, [1]);
}

#[test]
fn batches_larger_than_the_window_are_read_whole() {
    let log = TestLog::new("t-0");
    let large = "x".repeat(3 * READ_BYTES);
    log.segment(0)
        .batch(0, "a")
        .batch(1, &large)
        .batch(2, "b")
        .write();
    let mut s = scanner(&log, 0);
    assert_eq!(walk(&s).0, [0, 1, 2]);
    assert_eq!(scan(&mut s).0, [0, 1, 2]);
}

#[test]
fn a_huge_length_allocates_nothing() {
    let log = TestLog::new("t-0");
    let length = (100i32 << 20).to_be_bytes();
    log.segment(0).batch(0, "a").patch(0, 8, &length).write();
    let mut s = scanner(&log, 0);
    assert!(scan(&mut s).1.starts_with("Partial at 0"));
    assert!(s.window.buf.len() <= READ_BYTES);
}

#[test]
fn resync_gives_up_on_bytes_that_all_pretend() {
    let log = TestLog::new("t-0");
    // A header every 64 bytes, each announcing a batch of half a megabyte.
    let mut head = [0u8; 64];
    head[8..12].copy_from_slice(&(512i32 << 10).to_be_bytes());
    head[16] = 2;
    log.file("00000000000000000000.log", &head.repeat(32 << 10));
    let s = scanner(&log, 0);
    let found = resync(&*s.file, &s.span, &Limits::default()).unwrap();
    assert!(matches!(found, Resync::GaveUp(_)), "{found:?}");
}

proptest::proptest! {
    #[test]
    fn any_bytes_scan_to_an_end(bytes in proptest::collection::vec(0u8..4, 0..300), from in 0u64..20) {
        let log = TestLog::new("t-0");
        log.file("00000000000000000000.log", &bytes);
        let mut s = scanner(&log, 0);
        scan(&mut s);
        walk(&s);
        let span = Span { from: Position(from), ..s.span };
        resync(&*s.file, &span, &Limits::default()).unwrap();
    }
}
