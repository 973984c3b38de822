//! Every mutating call of append, roll, sync and recovery crashed and failed once, on the test disk.
//!
//! The invariants, whatever happened: the log opens again; what it then holds is a prefix of what was
//! appended (whole batches, in order, nothing twice); everything acknowledged is in it; it takes
//! appends again. After a failed sync it refuses instead, and says so.

use std::path::Path;
use std::sync::Arc;

use crate::error::{ErrorKind, Result};
use crate::format::batch::Scratch;
use crate::format::builder::{BatchBuilder, Chunk, Seal};
use crate::format::record::NewRecord;
use crate::format::{Limits, Offset, TimestampMs};
use crate::log::listing::LogDir;
use crate::log::writer::{Writer, WriterOptions};
use crate::segment::active::RollLimits;
use crate::segment::scan::{Scan, Scanner, Span};
use crate::sys::Host;
use crate::sys::sim::{After, Fault, Policy, SimHost};

const LOG: &str = "/d/x-0";

fn options(zero_fill: bool) -> WriterOptions {
    WriterOptions {
        wait: None,
        allow_network_fs: false,
        zero_fill,
        roll: RollLimits {
            segment_bytes: 400,
            segment_age_ms: None,
        },
        command: "test".to_string(),
    }
}

fn chunk(values: &[String], batches: usize) -> Chunk {
    let mut chunk = Chunk::default();
    for part in values.chunks(values.len().div_ceil(batches)) {
        let mut b = BatchBuilder::begin(std::mem::take(&mut chunk.bytes));
        for v in part {
            let record = NewRecord {
                key: None,
                value: Some(v.as_bytes()),
                headers: &[],
            };
            b.push(TimestampMs(1000), &record);
        }
        let (bytes, sealed) = b.seal(&Seal::default());
        chunk.bytes = bytes;
        chunk.batches.push(sealed);
    }
    chunk
}

/// What a workload did: values in order of their offsets, and how many were acknowledged.
#[derive(Default)]
struct Done {
    appended: Vec<String>,
    acked: usize,
}

/// Appends 10 chunks of two batches of two records each, syncing after every other one.
fn workload(machine: &SimHost, zero_fill: bool, done: &mut Done) -> Result<()> {
    let host: Arc<dyn Host> = Arc::new(machine.process());
    let mut writer = Writer::open(&host, Path::new(LOG), options(zero_fill))?;
    for round in 0..10 {
        let values: Vec<String> = (0..4).map(|i| format!("round {round} value {i}")).collect();
        let mut hold = writer.hold()?;
        let mut chunk = chunk(&values, 2);
        // Before the call: a crash inside it may leave any of them.
        done.appended.extend(values);
        let appended = hold.append(&mut chunk, round % 3 == 0);
        if let Some(e) = appended.error {
            if !machine.crashed() {
                let kept = usize::try_from(appended.next.0).expect("an offset");
                done.appended.truncate(kept);
            }
            return Err(e);
        }
        assert_eq!(appended.next.0, done.appended.len() as i64);
        hold.release()?;
        if round % 2 == 1 {
            let d = writer.syncer().sync_to(appended.next)?;
            done.acked = usize::try_from(d.0).expect("an offset");
        }
    }
    writer.close()
}

fn machine() -> SimHost {
    let host = SimHost::new();
    host.make_dir(Path::new("/d")).expect("made");
    host.make_dir(Path::new(LOG)).expect("made");
    host
}

fn read_all(host: &dyn Host) -> Vec<String> {
    let log = LogDir::open(host, Path::new(LOG)).expect("opens");
    let mut values = Vec::new();
    let mut scratch = Scratch::new();
    for segment in log.segments().expect("lists") {
        let file = log.open_file(&segment.log_name()).expect("opens");
        let len = file.len().expect("length");
        let span = Span::whole(segment.base(), len);
        let mut scanner = Scanner::new(file, span, Limits::default());
        while let Scan::Batch(batch, _) = scanner.next().expect("reads") {
            for record in batch
                .records(&mut scratch, &Limits::default())
                .expect("records")
            {
                let record = record.expect("record");
                assert_eq!(
                    record.offset.0,
                    values.len() as i64,
                    "offsets without gap or repeat"
                );
                values
                    .push(String::from_utf8(record.value.expect("value").to_vec()).expect("text"));
            }
        }
    }
    values
}

/// Opens the log after a crash and checks every invariant.
fn check(host: &SimHost, done: &Done, what: &str) {
    let process: Arc<dyn Host> = Arc::new(host.process());
    let mut writer = Writer::open(&process, Path::new(LOG), options(false)).expect(what);
    let mut hold = match writer.hold() {
        Ok(hold) => hold,
        Err(e) if e.kind() == ErrorKind::Io && e.to_string().contains("an earlier sync failed") => {
            return;
        }
        Err(e) => panic!("{what}: {e}\n{}", host.trace().join("\n")),
    };
    let next = hold.next_offset();
    let kept = read_all(process.as_ref());
    assert_eq!(next.0, kept.len() as i64, "{what}");
    assert!(
        kept.len() >= done.acked,
        "{what}: {} kept, {} acked",
        kept.len(),
        done.acked
    );
    assert!(
        kept.len() <= done.appended.len(),
        "{what}: more than was appended"
    );
    assert_eq!(kept, done.appended[..kept.len()], "{what}: a prefix");
    assert_eq!(kept.len() % 2, 0, "{what}: whole batches");
    let appended = hold.append(&mut chunk(&["after".to_string()], 1), false);
    assert!(appended.error.is_none(), "{what}: {:?}", appended.error);
    hold.release().expect(what);
    let d = writer.syncer().sync_to(appended.next).expect(what);
    assert!(d >= appended.next);
    assert_eq!(
        read_all(process.as_ref()).last().map(String::as_str),
        Some("after"),
        "{what}"
    );
}

fn sweep(zero_fill: bool, fault: impl Fn() -> Fault) {
    let clean = machine();
    workload(&clean, zero_fill, &mut Done::default()).expect("runs through");
    for n in 1..=clean.calls() {
        let host = machine();
        host.fail_at(n, fault());
        let mut done = Done::default();
        let failed = workload(&host, zero_fill, &mut done).is_err();
        let what = format!("fault at call {n}: {:?}", host.trace().last());
        if !failed {
            assert_eq!(done.acked, done.appended.len(), "{what}");
        }
        for policy in [Policy::KeepNothing, Policy::KeepAll] {
            check(
                &host.power_cut(n, policy),
                &done,
                &format!("{what}, then {policy:?}"),
            );
        }
        for seed in 0..8 {
            let what = format!("{what}, then random cut {seed}");
            check(
                &host.power_cut(n * 1000 + seed, Policy::Random),
                &done,
                &what,
            );
        }
        host.free();
        // A fault that was not met would otherwise hit the check itself.
        if failed {
            check(&host.kill(), &done, &format!("{what}, then killed"));
        }
    }
}

#[test]
fn append_and_roll_survive_a_crash_at_every_call() {
    sweep(false, || Fault::Crash);
}

#[test]
fn append_with_zeros_ahead_survives_a_crash_at_every_call() {
    sweep(true, || Fault::Crash);
}

#[test]
fn append_survives_a_torn_write_at_every_call() {
    sweep(false, || Fault::ShortWrite(70, After::Crash));
    sweep(true, || Fault::ShortWrite(7, After::Crash));
}

#[test]
fn append_survives_an_io_error_at_every_call() {
    sweep(false, || Fault::Errno(nix::libc::EIO));
    sweep(true, || Fault::Errno(nix::libc::EIO));
}

#[test]
fn append_survives_a_full_disk_at_every_call() {
    sweep(false, || Fault::Full);
    sweep(false, || {
        Fault::ShortWrite(100, After::Errno(nix::libc::ENOSPC))
    });
}

/// Rule 3.7: recovery killed at any call leaves a directory from which recovery succeeds.
#[test]
fn recovery_survives_a_crash_at_every_call() {
    let clean = machine();
    workload(&clean, false, &mut Done::default()).expect("runs through");
    for n in (1..=clean.calls()).step_by(3) {
        let host = machine();
        host.fail_at(n, Fault::Crash);
        let mut done = Done::default();
        let _ = workload(&host, false, &mut done);
        for seed in 0..3 {
            let after = host.power_cut(n * 77 + seed, Policy::Random);
            for m in 1.. {
                let again = after.power_cut(0, Policy::KeepAll);
                // The cut above made a new boot with nothing lost; faults count from its start.
                again.fail_at(m, Fault::Crash);
                let process: Arc<dyn Host> = Arc::new(again.process());
                let recovered = Writer::open(&process, Path::new(LOG), options(false))
                    .and_then(|mut w| w.hold().map(|_| ()))
                    .is_ok();
                let what = format!("crash at {n}, cut {seed}, recovery crashed at {m}");
                check(&again.power_cut(m, Policy::Random), &done, &what);
                if recovered {
                    break;
                }
                check(&again.kill(), &done, &what);
            }
        }
    }
}

/// A bit flipped below D, or above it with valid data behind it in the same boot, is corruption:
/// nothing is changed and appends are refused.
#[test]
fn corruption_is_refused_and_left_alone() {
    let host = machine();
    let mut done = Done::default();
    workload(&host, false, &mut done).expect("runs through");
    let after = host.power_cut(1, Policy::KeepAll);
    let names: Vec<String> = {
        let log = LogDir::open(&after, Path::new(LOG)).expect("opens");
        log.segments()
            .expect("lists")
            .iter()
            .map(|s| s.log_name())
            .collect()
    };
    let last = format!("{LOG}/{}", names.last().expect("a segment"));
    let before = after.read_file(&last).expect("reads");
    after.edit(&last, |bytes| bytes[70] ^= 4).expect("edits");
    let process: Arc<dyn Host> = Arc::new(after.process());
    let mut writer = Writer::open(&process, Path::new(LOG), options(false)).expect("opens");
    let refused = writer.hold().map(|_| ()).expect_err("refused");
    assert_eq!(refused.kind(), ErrorKind::Data);
    assert!(refused.to_string().contains("CRC-32C"), "{refused}");
    assert!(refused.position().is_some() && refused.offset().is_some());
    assert_eq!(after.read_file(&last).expect("reads").len(), before.len());
    assert_eq!(
        Offset(done.acked as i64),
        Offset(done.appended.len() as i64)
    );
}
