//! A replacement of segments crashed and failed at every mutating call, on the test disk.
//!
//! Whatever happened, a reader, the start-up rules of a broker (written down here once more, on their
//! own) and the next holder of the maintenance lock see the same log: the old one or the new one.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Result;
use crate::format::batch::Batch;
use crate::format::builder::{BatchBuilder, Chunk, Seal, stamp};
use crate::format::index::{self, Entry, OffsetEntry, TxnEntry};
use crate::format::record::NewRecord;
use crate::format::{Limits, Offset, TimestampMs};
use crate::log::listing::{LogDir, SegmentRef};
use crate::log::maintenance::{Maintenance, MaintenanceOptions};
use crate::log::swap::{Output, delete_oldest, replace};
use crate::log::testing::fix_crc;
use crate::log::writer::{Writer, WriterOptions};
use crate::segment::active::RollLimits;
use crate::segment::scan::{Scan, Scanner, Span};
use crate::sys::Host;
use crate::sys::sim::{After, Fault, Policy, SimHost};

const LOG: &str = "/d/x-0";

/// Base offset, last offset and checksum of a batch.
type Seen = Vec<(i64, i64, u32)>;

fn options() -> MaintenanceOptions {
    MaintenanceOptions {
        command: "test".to_string(),
        wait: Duration::ZERO,
        allow_network_fs: false,
    }
}

fn writer(host: &Arc<dyn Host>) -> Result<Writer> {
    let options = WriterOptions {
        wait: None,
        allow_network_fs: false,
        zero_fill: false,
        roll: RollLimits {
            segment_bytes: 400,
            segment_age_ms: None,
        },
        command: "test".to_string(),
    };
    Writer::open(host, Path::new(LOG), options)
}

/// A log of several sealed segments of a few batches, all of it durable.
fn machine() -> SimHost {
    let machine = SimHost::new();
    machine.make_dir(Path::new("/d")).unwrap();
    machine.make_dir(Path::new(LOG)).unwrap();
    let host: Arc<dyn Host> = Arc::new(machine.process());
    let mut writer = writer(&host).unwrap();
    let mut hold = writer.hold().unwrap();
    for i in 0..16 {
        let mut b = BatchBuilder::begin(Vec::new());
        for part in 0..2 {
            let value = format!("record {i} {part} {}", "x".repeat(20));
            let record = NewRecord {
                value: Some(value.as_bytes()),
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
    writer.close().unwrap();
    machine.open_dir(Path::new(LOG)).unwrap().sync().unwrap();
    machine
}

/// Replaces the second to fourth segment by one with every other batch and the last.
fn work(machine: &SimHost) -> Result<()> {
    let host: Arc<dyn Host> = Arc::new(machine.process());
    let mut m = Maintenance::open(&host, Path::new(LOG), &options())?;
    m.settle()?;
    let segments = m.segments()?;
    let sources = &segments[1..4];
    let mut out = Output::begin(&m, sources[0].base())?;
    for (n, source) in sources.iter().enumerate() {
        let file = m.log().open_file(&source.log_name())?;
        let span = Span::whole(source.base(), file.len().unwrap());
        let mut scanner = Scanner::new(file, span, Limits::default());
        let mut i = 0;
        while let Scan::Batch(batch, _) = scanner.next()? {
            let end = batch.header().last_offset.next();
            let is_last = n == 2 && end == segments[4].base();
            if i % 2 == 0 || is_last {
                out.put(batch.header(), batch.bytes())?;
            }
            i += 1;
        }
    }
    out.want_txn_index();
    let built = out.finish(77_000)?;
    replace(&m, &built, sources)
}

/// What a reader of the directory sees.
fn read(host: &dyn Host) -> Seen {
    let log = LogDir::open(host, Path::new(LOG)).unwrap();
    let mut seen = Vec::new();
    for segment in log.segments().unwrap() {
        let file = log.open_file(&segment.log_name()).unwrap();
        let span = Span::whole(segment.base(), file.len().unwrap());
        let mut scanner = Scanner::new(file, span, Limits::default());
        while let Scan::Batch(batch, _) = scanner.next().unwrap() {
            let h = batch.header();
            seen.push((h.base_offset.0, h.last_offset.0, h.crc));
        }
    }
    seen
}

/// The directory as names and bytes.
fn files(host: &SimHost) -> BTreeMap<String, Vec<u8>> {
    let dir = host.open_dir(Path::new(LOG)).unwrap();
    let names = dir
        .list()
        .unwrap()
        .into_iter()
        .filter(|n| n.starts_with('0'));
    names
        .map(|n| (n.clone(), host.read_file(format!("{LOG}/{n}")).unwrap()))
        .collect()
}

fn batches(log: &[u8]) -> Seen {
    let mut seen = Vec::new();
    let mut rest = log;
    while rest.len() > 17 {
        let int = |at: usize| i32::from_be_bytes(rest[at..at + 4].try_into().unwrap());
        let base = i64::from_be_bytes(rest[..8].try_into().unwrap());
        let size = 12 + int(8) as usize;
        seen.push((base, base + i64::from(int(23)), int(17) as u32));
        rest = &rest[size..];
    }
    seen
}

/// What a broker makes of the directory when it starts (Kafka `LogLoader.load`, steps 1 to 3).
fn broker(host: &SimHost) -> Seen {
    let mut files = files(host);
    let base = |name: &str| name[..20].parse::<i64>().unwrap();
    let cleaned = files.keys().filter(|n| n.ends_with(".cleaned"));
    let undone = cleaned.map(|n| base(n)).min().unwrap_or(i64::MAX);
    files.retain(|n, _| {
        let late_swap = n.ends_with(".swap") && base(n) >= undone;
        !n.ends_with(".deleted") && !n.ends_with(".cleaned") && !late_swap
    });
    let swaps: Vec<(i64, i64)> = files
        .iter()
        .filter(|(n, _)| n.ends_with(".log.swap"))
        .map(|(n, log)| (base(n), batches(log).last().map_or(base(n), |b| b.1 + 1)))
        .collect();
    let from = swaps.iter().map(|s| s.0).min().unwrap_or(i64::MAX);
    let to = swaps.iter().map(|s| s.1).max().unwrap_or(i64::MIN);
    files.retain(|n, _| {
        n.ends_with(".swap") || n.ends_with(".snapshot") || !(from..to).contains(&base(n))
    });
    let renamed = files.into_iter();
    let files: BTreeMap<String, Vec<u8>> = renamed
        .map(|(n, bytes)| (n.strip_suffix(".swap").unwrap_or(&n).to_string(), bytes))
        .collect();
    let logs = files.iter().filter(|(n, _)| n.ends_with(".log"));
    logs.flat_map(|(_, log)| batches(log)).collect()
}

/// Every plain index entry leads to a batch that ends where it says.
fn check_indexes(host: &SimHost, what: &str) {
    let files = files(host);
    for (name, log) in files.iter().filter(|(n, _)| n.ends_with(".log")) {
        let base = Offset(name[..20].parse().unwrap());
        let Some(bytes) = files.get(&name.replace(".log", ".index")) else {
            continue;
        };
        for entry in index::entries::<OffsetEntry>(bytes) {
            let at = entry.position as usize;
            let first = batches(&log[at..])[0];
            assert_eq!(first.1, entry.offset(base).0, "{what}: {name}");
        }
    }
}

fn check(machine: &SimHost, before: &Seen, after: &Seen, what: &str) {
    let seen = read(machine);
    assert!(
        &seen == before || &seen == after,
        "{what}: a reader sees {seen:?}"
    );
    assert_eq!(broker(machine), seen, "{what}: a broker");
    let host: Arc<dyn Host> = Arc::new(machine.process());
    let mut m = Maintenance::open(&host, Path::new(LOG), &options()).expect(what);
    assert_eq!(read(machine), seen, "{what}: cleared");
    for name in files(machine).keys() {
        let temporary = [".cleaned", ".swap", ".deleted"];
        assert!(
            !temporary.iter().any(|t| name.ends_with(t)),
            "{what}: {name}"
        );
    }
    let tmp = m.tmp().unwrap().list().unwrap();
    assert!(tmp.is_empty(), "{what}: {tmp:?}");
    check_indexes(machine, what);
    let end = m.settle().expect(what);
    assert_eq!(end.0, 32, "{what}: the end");
    assert_eq!(read(machine), seen, "{what}: recovered");
    drop(m);
    work_again(machine, what, after);
}

/// Whatever was left, the work can be done, or was.
fn work_again(machine: &SimHost, what: &str, after: &Seen) {
    if &read(machine) != after {
        work(machine).expect(what);
        assert_eq!(&read(machine), after, "{what}: done again");
    }
}

fn sweep(fault: &dyn Fn() -> Fault) {
    let clean = machine();
    let before = read(&clean);
    let setup = clean.calls();
    work(&clean).unwrap();
    let after = read(&clean);
    assert_ne!(before, after);
    assert_eq!(broker(&clean), after);
    for n in setup + 1..=clean.calls() {
        let host = machine();
        assert_eq!(host.calls(), setup);
        host.fail_at(n, fault());
        let failed = work(&host).is_err();
        let what = format!("{:?} at call {n}: {:?}", fault(), host.trace().last());
        for policy in [Policy::KeepNothing, Policy::KeepAll] {
            let what = format!("{what}, then {policy:?}");
            check(&host.power_cut(n, policy), &before, &after, &what);
        }
        for seed in 0..6 {
            let cut = host.power_cut(n * 1000 + seed, Policy::Random);
            check(&cut, &before, &after, &format!("{what}, then cut {seed}"));
        }
        host.free();
        if failed {
            check(
                &host.kill(),
                &before,
                &after,
                &format!("{what}, then killed"),
            );
        }
    }
}

#[test]
fn replacement_survives_a_crash_at_every_call() {
    sweep(&|| Fault::Crash);
    sweep(&|| Fault::ShortWrite(30, After::Crash));
}

#[test]
fn replacement_survives_an_error_at_every_call() {
    sweep(&|| Fault::Errno(nix::libc::EIO));
}

#[test]
fn replacement_survives_a_full_disk_at_every_call() {
    sweep(&|| Fault::Full);
}

/// Clearing what a crash left may crash as well, at any call.
#[test]
fn clearing_leftovers_survives_a_crash_at_every_call() {
    let clean = machine();
    let before = read(&clean);
    let setup = clean.calls();
    work(&clean).unwrap();
    let after = read(&clean);
    for n in setup + 1..=clean.calls() {
        let host = machine();
        host.fail_at(n, Fault::Crash);
        let _ = work(&host);
        for m in 1.. {
            let again = host.power_cut(n, Policy::KeepAll);
            again.fail_at(m, Fault::Crash);
            let process: Arc<dyn Host> = Arc::new(again.process());
            let opened = Maintenance::open(&process, Path::new(LOG), &options()).is_ok();
            let what = format!("crash at {n}, clearing crashed at {m}");
            check(&again.power_cut(m, Policy::Random), &before, &after, &what);
            if opened {
                break;
            }
            check(&again.kill(), &before, &after, &what);
        }
    }
}

#[test]
fn a_directory_without_leftovers_is_opened_without_a_write() {
    let machine = machine();
    work(&machine).unwrap();
    let host: Arc<dyn Host> = Arc::new(machine.process());
    let (before, calls) = (files(&machine), machine.calls());
    drop(Maintenance::open(&host, Path::new(LOG), &options()).unwrap());
    assert_eq!(files(&machine), before);
    // The note of who holds the lock.
    assert!(machine.calls() - calls <= 1, "{:?}", machine.trace());
}

#[test]
fn one_holder_at_a_time_and_the_other_is_told_who() {
    let machine = machine();
    let host: Arc<dyn Host> = Arc::new(machine.process());
    let held = Maintenance::open(&host, Path::new(LOG), &options()).unwrap();
    let other: Arc<dyn Host> = Arc::new(machine.process());
    let e = Maintenance::open(&other, Path::new(LOG), &options())
        .err()
        .unwrap();
    assert_eq!(e.kind(), crate::error::ErrorKind::Locked);
    assert!(e.to_string().contains("locked by 'test' (pid "), "{e}");
    drop(held);
    Maintenance::open(&other, Path::new(LOG), &options()).unwrap();
}

#[test]
fn a_damaged_replacement_is_refused_and_left_alone() {
    let machine = machine();
    let host: Arc<dyn Host> = Arc::new(machine.process());
    let names: Vec<String> = files(&machine)
        .into_keys()
        .filter(|n| n.ends_with(".log"))
        .collect();
    let mut bytes = machine.read_file(format!("{LOG}/{}", names[1])).unwrap();
    bytes[70] ^= 1;
    let dir = machine.open_dir(Path::new(LOG)).unwrap();
    let file = dir.create(&format!("{}.swap", names[1])).unwrap();
    file.write_all_at(&bytes, 0).unwrap();
    let before = files(&machine);
    let e = Maintenance::open(&host, Path::new(LOG), &options())
        .err()
        .unwrap();
    assert_eq!(e.kind(), crate::error::ErrorKind::Data);
    assert!(e.to_string().contains(".log.swap: "), "{e}");
    assert_eq!(files(&machine), before);
}

#[test]
fn a_transaction_index_is_what_was_put_in() {
    let machine = machine();
    let host: Arc<dyn Host> = Arc::new(machine.process());
    let m = Maintenance::open(&host, Path::new(LOG), &options()).unwrap();
    let entry = TxnEntry {
        producer_id: 1,
        first_offset: Offset(0),
        last_offset: Offset(3),
        last_stable_offset: Offset(4),
    };
    let segments = m.segments().unwrap();
    let file = m.log().open_file(&segments[0].log_name()).unwrap();
    let span = Span::whole(Offset(0), file.len().unwrap());
    let mut scanner = Scanner::new(file, span, Limits::default());
    let mut out = Output::begin(&m, Offset(0)).unwrap();
    while let Scan::Batch(batch, _) = scanner.next().unwrap() {
        out.put(batch.header(), batch.bytes()).unwrap();
    }
    out.add_txn(entry);
    let built = out.finish(5_000).unwrap();
    replace(&m, &built, &segments[..1]).unwrap();
    let mut want = Vec::new();
    entry.encode(&mut want);
    let files = files(&machine);
    assert_eq!(files["00000000000000000000.txnindex"], want);
    let dir = machine.open_dir(Path::new(LOG)).unwrap();
    let meta = dir.stat("00000000000000000000.log").unwrap().unwrap();
    assert_eq!(meta.mtime_ms, 5_000);
}

#[test]
fn offsets_that_run_into_the_next_segment_are_damage() {
    let machine = machine();
    let host: Arc<dyn Host> = Arc::new(machine.process());
    let m = Maintenance::open(&host, Path::new(LOG), &options()).unwrap();
    let segments = m.segments().unwrap();
    let mut out = Output::begin(&m, Offset(0)).unwrap();
    for segment in &segments[..2] {
        let file = m.log().open_file(&segment.log_name()).unwrap();
        let span = Span::whole(segment.base(), file.len().unwrap());
        let mut scanner = Scanner::new(file, span, Limits::default());
        while let Scan::Batch(batch, _) = scanner.next().unwrap() {
            out.put(batch.header(), batch.bytes()).unwrap();
        }
    }
    let built = out.finish(5_000).unwrap();
    let before = files(&machine);
    let e = replace(&m, &built, &segments[..1]).unwrap_err();
    assert_eq!(e.kind(), crate::error::ErrorKind::Data);
    assert_eq!(files(&machine), before);
}

/// A replacement of these segments by one with all their batches.
fn all_of(m: &Maintenance, sources: &[SegmentRef]) -> Output {
    let mut out = Output::begin(m, sources[0].base()).unwrap();
    for source in sources {
        let file = m.log().open_file(&source.log_name()).unwrap();
        let span = Span::whole(source.base(), file.len().unwrap());
        let mut scanner = Scanner::new(file, span, Limits::default());
        while let Scan::Batch(batch, _) = scanner.next().unwrap() {
            out.put(batch.header(), batch.bytes()).unwrap();
        }
    }
    out
}

fn open(machine: &SimHost) -> (Maintenance, Vec<SegmentRef>) {
    let host: Arc<dyn Host> = Arc::new(machine.process());
    let mut m = Maintenance::open(&host, Path::new(LOG), &options()).unwrap();
    m.settle().unwrap();
    let segments = m.segments().unwrap();
    (m, segments)
}

#[test]
fn the_next_segments_first_offset_is_not_for_the_taking() {
    let machine = machine();
    let (m, segments) = open(&machine);
    let mut out = all_of(&m, &segments[..1]);
    let (mut bytes, _) = BatchBuilder::begin(Vec::new()).seal(&Seal::default());
    stamp(&mut bytes, segments[1].base(), 0);
    bytes[23..27].copy_from_slice(&0i32.to_be_bytes());
    fix_crc(&mut bytes);
    let batch = Batch::check(&bytes).unwrap();
    out.put(batch.header(), batch.bytes()).unwrap();
    let e = replace(&m, &out.finish(5_000).unwrap(), &segments[..1]).unwrap_err();
    assert_eq!(e.kind(), crate::error::ErrorKind::Data);
}

#[test]
fn what_does_not_read_back_replaces_nothing() {
    let machine = machine();
    let (m, segments) = open(&machine);
    let mut out = all_of(&m, &segments[..1]);
    out.mark().unwrap(); // so that it is written
    let path = format!("{LOG}/.logd/tmp/{}", segments[0].log_name());
    machine.edit(path, |b| b[70] ^= 1).unwrap();
    let e = out.finish(5_000).err().unwrap();
    assert_eq!(e.kind(), crate::error::ErrorKind::Io);
}

#[test]
fn an_index_that_the_replacement_has_none_for_goes() {
    let machine = machine();
    let (m, segments) = open(&machine);
    let name = segments[0].index_name(crate::format::names::Kind::TxnIndex);
    drop(m.log().dir().create(&name).unwrap());
    let built = all_of(&m, &segments[..1]).finish(5_000).unwrap();
    replace(&m, &built, &segments[..1]).unwrap();
    assert!(!files(&machine).contains_key(&name));
}

#[test]
fn a_broker_is_told_to_look_before_segments_are_replaced_or_deleted() {
    let machine = machine();
    let parent = machine.open_dir(Path::new("/d")).unwrap();
    drop(parent.create(".lock").unwrap());
    let (m, segments) = open(&machine);
    let is_marked = || parent.stat(".kafka_cleanshutdown").unwrap().is_some();
    drop(parent.create(".kafka_cleanshutdown").unwrap());
    let built = all_of(&m, &segments[..2]).finish(5_000).unwrap();
    replace(&m, &built, &segments[..2]).unwrap();
    assert!(!is_marked());
    drop(parent.create(".kafka_cleanshutdown").unwrap());
    delete_oldest(&m, &m.segments().unwrap()[..1]).unwrap();
    assert!(!is_marked());
}

#[test]
fn segments_are_out_of_the_log_for_good_before_they_are_removed() {
    let machine = machine();
    let (m, segments) = open(&machine);
    let before = machine.trace().len();
    delete_oldest(&m, &segments[..2]).unwrap();
    let trace = machine.trace();
    let kind = |line: &String| match line {
        l if l.contains(" rename ") => Some("rename"),
        l if l.contains(" unlink ") => Some("unlink"),
        l if l.contains("sync") && l.trim_end().ends_with(LOG) => Some("sync"),
        _ => None,
    };
    let mut steps: Vec<&str> = trace[before..].iter().filter_map(kind).collect();
    steps.dedup();
    assert_eq!(
        steps,
        ["rename", "sync", "unlink"],
        "{:#?}",
        &trace[before..]
    );
}

/// Each step is in the directory for good before the next one begins, the first one after what is
/// replaced is durable.
#[test]
fn every_step_of_a_replacement_is_synced_before_the_next() {
    let machine = machine();
    let before = machine.trace().len();
    work(&machine).unwrap();
    let trace = machine.trace();
    let step = |line: &String| {
        let (_, what) = line.split_once(' ')?;
        let (verb, rest) = what.split_once(' ')?;
        let is_here = rest.trim_end() == LOG;
        let is_segment = rest.starts_with(&format!("{LOG}/0"));
        match verb {
            "rename" if rest.ends_with(".cleaned") => Some("cleaned"),
            "rename" if rest.ends_with(".swap") => Some("swap"),
            "rename" if is_segment => Some("plain"),
            "unlink" if is_segment => Some("unlink"),
            _ if verb.contains("sync") && is_here => Some("sync"),
            _ => None,
        }
    };
    let mut steps: Vec<&str> = trace[before..].iter().filter_map(step).collect();
    steps.dedup();
    let first = steps.iter().position(|s| *s == "cleaned").unwrap();
    let want = [
        "cleaned", "sync", "swap", "sync", "unlink", "sync", "plain", "sync",
    ];
    assert_eq!(steps[first..], want, "{:#?}", &trace[before..]);
    // The log commits: last to .swap, and first to its own name.
    let renamed = |to: &str| {
        let all = trace[before..].iter().filter(|l| l.contains(" rename "));
        let mine = all.filter(|l| l.trim_end().ends_with(to));
        mine.cloned().collect::<Vec<String>>()
    };
    assert!(renamed(".swap").last().unwrap().contains(".log.cleaned"));
    let plain: Vec<String> = [".log", "index"].iter().flat_map(|t| renamed(t)).collect();
    let at = |l: &String| trace.iter().position(|t| t == l).unwrap();
    let first = plain.iter().min_by_key(|l| at(l)).unwrap();
    assert!(first.contains(".log.swap"), "{plain:?}");
}

#[test]
fn what_is_replaced_is_durable_first() {
    let machine = machine();
    let host: Arc<dyn Host> = Arc::new(machine.process());
    // As if D had not been published for a while.
    let dir = machine.open_dir(Path::new(LOG)).unwrap();
    let own = dir.open_dir(".logd").unwrap();
    let next = LogDir::open(&machine, Path::new(LOG)).unwrap();
    let next = next.segments().unwrap()[4].base();
    let file = own.open("end", crate::sys::Access::Write).unwrap();
    let known = crate::log::end::read(own.as_ref()).unwrap();
    let boot = host.boot_id();
    let sequence = known.durable_sequence + 1;
    crate::log::end::write_durable(file.as_ref(), sequence, boot, Offset(1)).unwrap();
    work(&machine).unwrap();
    let cut = machine.power_cut(1, Policy::KeepNothing);
    let own = cut.open_dir(Path::new(&format!("{LOG}/.logd"))).unwrap();
    let known = crate::log::end::read(own.as_ref()).unwrap();
    assert!(known.durable >= Some(next), "{known:?}");
}
