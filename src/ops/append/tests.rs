//! Whole runs against a disk that fails, fills up and loses power at every single call.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::source::Source;
use super::*;
use crate::error::ErrorKind;
use crate::format::batch::{Batch, Scratch};
use crate::format::frame::{Frame, frame};
use crate::format::{Limits, TimestampMs};
use crate::log::listing::LogDir;
use crate::log::writer::WriterOptions;
use crate::ops::create::{NewLog, create};
use crate::ops::settings::Words;
use crate::ops::words::Now;
use crate::segment::active::RollLimits;
use crate::sys::sim::{After, Fault, Policy, SimHost};

const ENOSPC: i32 = 28;
const EIO: i32 = 5;

/// A log of so many partitions on a fresh disk, and a file of input beside it.
struct Scene {
    host: SimHost,
    partitions: usize,
    dir: tempfile::TempDir,
}

/// What a run left behind.
struct Outcome {
    report: Report,
    spill: Vec<u8>,
    tee: Vec<u8>,
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, b: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(b);
        Ok(b.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn options(sync: SyncWhen) -> Options {
    let now = Now::new(TimestampMs(0));
    let mut input = InputOptions::new(Format::Lines, now);
    input.key_delimiter = Some("=".into());
    Options {
        input,
        sync,
        batch_bytes: 1 << 18,
        batch_records: Some(3),
        linger: Duration::ZERO,
        compression: Compression::NONE,
        append_time: false,
        partitioner: Partitioner::Murmur2,
        on_full: OnFull::Fail,
        exclusive: false,
        expect: None,
        once: None,
        unique: None,
        skip_bytes: 0,
        deadline: None,
    }
}

/// `k3=value 17` and the like.
fn lines(n: usize) -> Vec<u8> {
    let line = |i| format!("k{}=value {i}{}\n", i % 7, "x".repeat(i % 5));
    (0..n).map(line).collect::<String>().into_bytes()
}

impl Scene {
    fn new(partitions: usize) -> Scene {
        let host = SimHost::new();
        let new = NewLog {
            path: Path::new("/t"),
            words: &Words::default(),
            partitions: u32::try_from(partitions).unwrap(),
            allow_network_fs: false,
        };
        create(&host, &new).unwrap();
        Scene {
            host,
            partitions,
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn input(&self, bytes: &[u8]) -> Source {
        let path: PathBuf = self.dir.path().join("input");
        std::fs::write(&path, bytes).unwrap();
        Source::open(&[path]).unwrap()
    }

    fn run(&self, input: &[u8], options: &Options) -> Result<Outcome> {
        let host: Arc<dyn Host> = Arc::new(self.host.process());
        let open = |p| {
            let path = format!("/t-{p}");
            let o = WriterOptions {
                wait: Some(Duration::ZERO),
                allow_network_fs: false,
                zero_fill: options.sync == SyncWhen::Batch,
                roll: RollLimits {
                    segment_bytes: 900,
                    segment_age_ms: None,
                },
                command: "test".into(),
            };
            Writer::open(&host, Path::new(&path), o)
        };
        let mut writers: Vec<Writer> = (0..self.partitions).map(open).collect::<Result<_>>()?;
        let (mut spill, tee) = (Vec::new(), Shared::default());
        let mut source = self.input(input);
        let streams = Streams {
            source: &mut source,
            rejects: None,
            tee: Some(Box::new(tee.clone())),
            spill: Some(&mut spill),
            progress: None,
        };
        let report = append(&host, &mut writers, streams, options)?;
        for w in writers {
            let _ = w.close();
        }
        let tee = tee.0.lock().unwrap().clone();
        Ok(Outcome { report, spill, tee })
    }

    /// The records of a partition, as input lines, by offset.
    fn stored(&self, partition: usize) -> BTreeMap<i64, Vec<u8>> {
        let dir = LogDir::open(&self.host, Path::new(&format!("/t-{partition}"))).unwrap();
        let mut names: Vec<String> = dir.dir().list().unwrap();
        names.retain(|n| n.ends_with(".log"));
        names.sort();
        let mut all = BTreeMap::new();
        for name in names {
            let bytes = self
                .host
                .read_file(format!("/t-{partition}/{name}"))
                .unwrap();
            decode(&bytes, &mut all);
        }
        all
    }

    /// All records of all partitions, as input lines, sorted.
    fn all(&self) -> Vec<Vec<u8>> {
        let mut all: Vec<Vec<u8>> = (0..self.partitions)
            .flat_map(|p| self.stored(p).into_values())
            .collect();
        all.sort();
        all
    }

    /// Opens every partition for writing, which recovers it.
    fn recover(&self) {
        let host: Arc<dyn Host> = Arc::new(self.host.process());
        for p in 0..self.partitions {
            let o = WriterOptions {
                wait: Some(Duration::ZERO),
                allow_network_fs: false,
                zero_fill: false,
                roll: RollLimits {
                    segment_bytes: 900,
                    segment_age_ms: None,
                },
                command: "test".into(),
            };
            let mut w = Writer::open(&host, Path::new(&format!("/t-{p}")), o).unwrap();
            w.hold().unwrap().release().unwrap();
        }
    }

    fn cut(&self, seed: u64, policy: Policy) -> Scene {
        Scene {
            host: self.host.power_cut(seed, policy),
            partitions: self.partitions,
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn kill(&self) -> Scene {
        Scene {
            host: self.host.kill(),
            partitions: self.partitions,
            dir: tempfile::tempdir().unwrap(),
        }
    }
}

fn decode(mut bytes: &[u8], into: &mut BTreeMap<i64, Vec<u8>>) {
    let mut scratch = Scratch::new();
    while let Frame::Entry(size) = frame(bytes, &Limits::default()) {
        let Ok(batch) = Batch::check(&bytes[..size]) else {
            return;
        };
        for r in batch.records(&mut scratch, &Limits::default()).unwrap() {
            let r = r.unwrap();
            let line = [r.key.unwrap(), b"=", r.value.unwrap(), b"\n"].concat();
            assert!(into.insert(r.offset.0, line).is_none(), "an offset twice");
        }
        bytes = &bytes[size..];
    }
}

fn split(input: &[u8]) -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = input
        .split_inclusive(|b| *b == b'\n')
        .map(<[u8]>::to_vec)
        .collect();
    all.sort();
    all
}

/// The acknowledged records, as the log has them.
fn acknowledged(scene: &Scene, report: &Report) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for (p, t) in report.tallies.iter().enumerate() {
        let Some((first, next)) = t.offsets else {
            assert_eq!(t.records, 0);
            continue;
        };
        let stored: Vec<_> = scene
            .stored(p)
            .range(first.0..next.0)
            .map(|(_, l)| l.clone())
            .collect();
        assert_eq!(
            stored.len() as u64,
            t.records,
            "partition {p} has what was acknowledged"
        );
        all.extend(stored);
    }
    all.sort();
    all
}

const POLICIES: [SyncWhen; 4] = [
    SyncWhen::Batch,
    SyncWhen::Every(Duration::from_secs(3600)),
    SyncWhen::Exit,
    SyncWhen::Never,
];

/// Calls of an undisturbed run.
fn calls(partitions: usize, input: &[u8], options: &Options) -> (u64, u64) {
    let scene = Scene::new(partitions);
    let before = scene.host.calls();
    scene.run(input, options).unwrap();
    (before + 1, scene.host.calls())
}

#[test]
fn every_record_is_stored_once_in_order_of_its_key() {
    let input = lines(200);
    for partitions in [1, 3] {
        for sync in POLICIES {
            let scene = Scene::new(partitions);
            let outcome = scene.run(&input, &options(sync)).unwrap();
            assert!(matches!(outcome.report.end, End::Input) && outcome.report.further.is_empty());
            assert_eq!(scene.all(), split(&input));
            assert_eq!(outcome.tee, input);
            assert!(outcome.spill.is_empty());
            assert_eq!(outcome.report.unacknowledged, 0);
            assert_eq!(outcome.report.frontier, input.len() as u64);
            for p in 0..partitions {
                let number = |l: &Vec<u8>| {
                    let text = String::from_utf8(l.clone()).unwrap();
                    let digits: String = text
                        .split("value ")
                        .nth(1)
                        .unwrap()
                        .chars()
                        .take_while(char::is_ascii_digit)
                        .collect();
                    digits.parse::<u32>().unwrap()
                };
                let numbers: Vec<u32> = scene.stored(p).values().map(number).collect();
                assert!(numbers.is_sorted(), "partition {p} of {partitions}");
            }
        }
    }
}

#[test]
fn every_failed_call_leaves_an_honest_account() {
    let input = lines(25);
    for (partitions, by_size) in [(1, false), (3, false), (1, true)] {
        for sync in POLICIES {
            let mut o = options(sync);
            if by_size {
                (o.batch_records, o.batch_bytes) = (None, 160);
                o.exclusive = true;
            }
            let (from, to) = calls(partitions, &input, &o);
            let faults = [
                Fault::Errno(ENOSPC),
                Fault::Errno(EIO),
                Fault::ShortWrite(30, After::Errno(ENOSPC)),
                Fault::Full,
            ];
            let mut completed = 0;
            for n in from..=to {
                for fault in faults {
                    let scene = Scene::new(partitions);
                    completed += usize::from(failed_call(&scene, &input, &o, n, fault));
                }
            }
            assert!(
                completed > 20,
                "{partitions}, {sync:?}: only {completed} spills"
            );
        }
    }
}

/// A run that meets `fault` at call `n`: what it says must be so, now and after a power cut; and its
/// spill, run again, must complete the log.
fn failed_call(scene: &Scene, input: &[u8], o: &Options, n: u64, fault: Fault) -> bool {
    let context = format!(
        "{} partitions, {:?}, {fault:?} at call {n}",
        scene.partitions, o.sync
    );
    scene.host.fail_at(n, fault);
    let result = scene.run(input, o);
    scene.host.free();
    let Ok(outcome) = result else {
        assert!(scene.all().is_empty(), "{context}: refused, and wrote");
        return false;
    };
    let report = &outcome.report;
    let acked = acknowledged(scene, report);
    let mut account = [acked.clone(), split(&outcome.spill)].concat();
    account.sort();
    assert_eq!(
        account,
        split(input),
        "{context}: acknowledged and spilled are all, once"
    );
    assert_eq!(
        report.unacknowledged,
        outcome.spill.len() as u64,
        "{context}"
    );
    assert_eq!(
        report.bytes() + report.unacknowledged,
        input.len() as u64,
        "{context}"
    );
    assert_eq!(
        outcome.tee,
        input[..report.frontier as usize],
        "{context}: tee"
    );
    if matches!(report.end, End::Input) {
        assert!(
            outcome.spill.is_empty(),
            "{context}: a success left something"
        );
    }
    if o.sync != SyncWhen::Never {
        for (seed, policy) in [(0, Policy::KeepNothing), (n, Policy::Random)] {
            let after = scene.cut(seed, policy);
            // After a sync that failed the log is repair's business.
            let marked = |p| after.host.read_file(format!("/t-{p}/.logd/failed")).is_ok();
            if !(0..after.partitions).any(marked) {
                after.recover();
            }
            assert_eq!(
                acknowledged(&after, report),
                acked,
                "{context}: after a power cut"
            );
        }
    }
    // What a failed sync leaves is in the log and not acknowledged; a failed write leaves nothing.
    if !outcome.spill.is_empty() && scene.all() == acked {
        let again = scene.run(&outcome.spill, o);
        let again = again.unwrap_or_else(|e| panic!("{context}: {e}"));
        assert!(
            matches!(again.report.end, End::Input),
            "{context}: {:?}",
            again.report.end
        );
        assert_eq!(
            scene.all(),
            split(input),
            "{context}: spill completes the log"
        );
        return true;
    }
    false
}

#[test]
fn a_full_disk_is_waited_for() {
    let input = lines(40);
    for partitions in [1, 3] {
        let mut o = options(SyncWhen::Exit);
        o.on_full = OnFull::Wait;
        let (from, to) = calls(partitions, &input, &o);
        for n in (from..to).step_by(3) {
            let scene = Scene::new(partitions);
            scene.host.fail_at(n, Fault::Full);
            let host = scene.host.process();
            let over = AtomicBool::new(false);
            let outcome = std::thread::scope(|s| {
                s.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        std::thread::sleep(Duration::from_millis(3));
                        host.free();
                    }
                });
                let outcome = scene.run(&input, &o);
                over.store(true, Ordering::Relaxed);
                outcome
            });
            let Ok(outcome) = outcome else { continue };
            if matches!(&outcome.report.end, End::Input) {
                assert_eq!(scene.all(), split(&input), "call {n}");
            }
        }
    }
}

#[test]
fn once_stores_each_record_once_through_any_number_of_crashes() {
    let input = lines(30);
    let mut o = options(SyncWhen::Batch);
    o.once = Some("job-7".into());
    for partitions in [1, 3] {
        let (from, to) = calls(partitions, &input, &o);
        for n in from..=to {
            for cut in [None, Some(Policy::KeepNothing), Some(Policy::Random)] {
                let scene = Scene::new(partitions);
                scene.host.fail_at(n, Fault::Crash);
                let _ = scene.run(&input, &o);
                let scene = match cut {
                    None => scene.kill(),
                    Some(policy) => scene.cut(n, policy),
                };
                for _ in 0..2 {
                    let outcome = scene.run(&input, &o).unwrap();
                    assert!(
                        matches!(outcome.report.end, End::Input),
                        "{:?}",
                        outcome.report.end
                    );
                    assert_eq!(
                        scene.all(),
                        split(&input),
                        "{partitions} partitions, crash at {n}, {cut:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn once_is_taken_by_one_run_at_a_time() {
    let scene = Scene::new(1);
    let host: Arc<dyn Host> = Arc::new(scene.host.process());
    let writer = || {
        let o = WriterOptions {
            wait: Some(Duration::ZERO),
            allow_network_fs: false,
            zero_fill: false,
            roll: RollLimits {
                segment_bytes: 1 << 20,
                segment_age_ms: None,
            },
            command: "test".into(),
        };
        vec![Writer::open(&host, Path::new("/t-0"), o).unwrap()]
    };
    let (mut a, mut b) = (writer(), writer());
    let claim = Once::claim("x", &mut a).unwrap();
    let refused = Once::claim("x", &mut b).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Locked);
    Once::claim("y", &mut b).unwrap();
    drop(claim);
    Once::claim("x", &mut b).unwrap();
}

#[test]
fn a_failed_sync_acknowledges_nothing_further() {
    let input = lines(40);
    let o = options(SyncWhen::Batch);
    let (from, to) = calls(1, &input, &o);
    let mut seen = 0;
    for n in from..=to {
        let scene = Scene::new(1);
        scene.host.fail_at(n, Fault::Errno(EIO));
        let Ok(outcome) = scene.run(&input, &o) else {
            continue;
        };
        if scene.host.read_file("/t-0/.logd/failed").is_ok() {
            seen += 1;
            let End::Failed(e) = &outcome.report.end else {
                panic!("a failed sync passed for {:?}", outcome.report.end);
            };
            assert_eq!(e.kind(), ErrorKind::Io);
            let refused = scene.run(b"k=v\n", &o).err();
            let refused = refused.map(|e| e.kind());
            assert!(matches!(refused, Some(ErrorKind::Io) | None));
        }
    }
    assert!(seen > 0, "no sync was ever hit");
}

#[test]
fn expected_offset_is_checked_before_anything_is_written() {
    let scene = Scene::new(1);
    let mut o = options(SyncWhen::Exit);
    scene.run(b"a=1\nb=2\n", &o).unwrap();
    o.expect = Some(Offset(3));
    let outcome = scene.run(b"c=3\n", &o).unwrap();
    let End::Failed(e) = &outcome.report.end else {
        panic!()
    };
    assert_eq!(
        (e.kind(), outcome.spill.as_slice()),
        (ErrorKind::No, &b"c=3\n"[..])
    );
    assert_eq!(scene.all().len(), 2);
    o.expect = Some(Offset(2));
    assert!(matches!(
        scene.run(b"c=3\nd=4\n", &o).unwrap().report.end,
        End::Input
    ));
    assert_eq!(scene.all().len(), 4);
}
