//! Every mutating call of a copy's life crashed and failed once, on the test disk.
//!
//! Whatever happened: what is there is a prefix of the source, byte for byte; what was acknowledged is
//! in it; D is not beyond it; the mark is there before the first batch; and going on ends in the whole
//! source, with transaction indexes that say what the log says.

use std::path::Path;
use std::sync::Arc;

use super::super::{Copy, CopyState};
use super::{EPOCHS, Kind, Plan, Segments, batches, build, cuts, of, options, plain};
use crate::error::Result;
use crate::format::names::{Kind as FileKind, State, parse};
use crate::format::{Limits, Offset};
use crate::log::listing::LogDir;
use crate::log::{epoch, txns};
use crate::sys::Host;
use crate::sys::sim::{After, Fault, Policy, SimHost};

const LOG: &str = "/d/x-0";

/// Three segments, a gap, two transactions, one of them aborted in the second segment.
fn source() -> Segments {
    let plan = |kind, gap, roll| Plan {
        kind,
        roll,
        ..plain(2, gap)
    };
    build(
        &[
            plain(2, 0),
            plan(Kind::Txn(3), 0, None),
            plan(Kind::Idempotent(1), 0, None),
            plan(Kind::Txn(4), 0, Some(0)),
            plan(Kind::End(3, false), 0, None),
            plan(Kind::End(4, true), 2, None),
            plain(2, 0),
            plan(Kind::Plain(0), 5, Some(1)),
            plain(2, 0),
        ],
        0,
    )
}

struct Done {
    /// Everything below was acknowledged.
    acked: Offset,
    /// Segments below may be gone.
    forgotten: Offset,
}

fn machine() -> SimHost {
    let host = SimHost::new();
    host.make_dir(Path::new("/d")).unwrap();
    host
}

fn open(host: &SimHost) -> Result<Copy> {
    let process: Arc<dyn Host> = Arc::new(host.process());
    let mut copy = Copy::open(&process, Path::new(LOG), options())?;
    copy.adopt(&of())?;
    copy.set_epochs(&EPOCHS)?;
    Ok(copy)
}

/// Puts everything from the copy's end up to `upto`, syncing every third batch.
fn put(copy: &mut Copy, all: &Segments, upto: Offset, done: &mut Done) -> Result<()> {
    let mut n = 0;
    for (base, bytes) in all {
        for pair in cuts(*base, bytes).windows(2) {
            let piece = &bytes[pair[0]..pair[1]];
            let checked = Copy::check(piece, &Limits::default())?;
            let first = checked.first().unwrap();
            if first < copy.end() || first >= upto {
                continue;
            }
            copy.put(Offset(*base), piece, &checked)?;
            n += 1;
            if n % 3 == 0 {
                done.acked = copy.sync()?;
            }
        }
    }
    Ok(())
}

fn workload(host: &SimHost, all: &Segments, done: &mut Done) -> Result<()> {
    let starts = batches(all);
    let mut copy = open(host)?;
    put(&mut copy, all, starts[7].0, done)?;
    done.acked = copy.sync()?;
    // Into the middle of the first segment, and over the end of another.
    let cut = starts[2].0;
    done.acked = cut;
    copy.truncate(cut, "diverged")?;
    copy.set_epochs(&EPOCHS)?;
    put(&mut copy, all, Offset::MAX, done)?;
    done.acked = copy.sync()?;
    done.forgotten = Offset(all[1].0);
    copy.forget_before(done.forgotten)?;
    copy.close()
}

/// What is before the zeros that a power cut may leave behind the data.
fn data(mut bytes: Vec<u8>) -> Vec<u8> {
    let mut at = 0;
    while let Some(length) = bytes.get(at + 8..at + 12) {
        match i32::from_be_bytes(length.try_into().unwrap()) {
            0 => break,
            n => at += 12 + n as usize,
        }
    }
    assert!(bytes[at.min(bytes.len())..].iter().all(|b| *b == 0));
    bytes.truncate(at);
    bytes
}

fn segment_files(host: &SimHost) -> Vec<(i64, Vec<u8>)> {
    let dir = host.open_dir(Path::new(LOG)).unwrap();
    let names = dir.list().unwrap();
    let mut out: Vec<(i64, Vec<u8>)> = names
        .iter()
        .filter_map(|n| parse(n).filter(|f| f.kind == FileKind::Log && f.state == State::Plain))
        .map(|f| {
            (
                f.base.0,
                data(host.read_file(format!("{LOG}/{f}")).unwrap()),
            )
        })
        .collect();
    out.sort();
    out
}

/// Whether the files are a prefix of the source that may begin behind what was forgotten.
fn check_prefix(host: &SimHost, all: &Segments, done: &Done, what: &str) {
    let there = segment_files(host);
    let begin = all
        .iter()
        .position(|s| Some(s.0) == there.first().map(|t| t.0));
    let begin = begin.unwrap_or_else(|| panic!("{what}: {:?}", there.first().map(|t| t.0)));
    assert!(begin == 0 || all[begin].0 <= done.forgotten.0, "{what}");
    for (i, (base, bytes)) in there.iter().enumerate() {
        let (wanted_base, wanted) = &all[begin + i];
        assert_eq!(base, wanted_base, "{what}");
        let end = bytes.len().min(wanted.len());
        assert!(bytes[..end] == wanted[..end], "{what}: segment {base}");
        let is_last = i + 1 == there.len();
        assert!(
            bytes.len() == wanted.len() || (is_last && bytes.len() < wanted.len()),
            "{what}"
        );
    }
}

fn check(host: &SimHost, all: &Segments, done: &Done, what: &str) {
    let marked = host.read_file(format!("{LOG}/.logd/replica")).is_ok();
    let names = host.open_dir(Path::new(LOG)).and_then(|d| d.list());
    let batches_there = names.unwrap_or_default().iter().any(|n| {
        n.ends_with(".log")
            && host
                .read_file(format!("{LOG}/{n}"))
                .is_ok_and(|b| !b.is_empty())
    });
    assert!(marked || !batches_there, "{what}: batches without a mark");
    let mut copy = match open(host) {
        Err(e) if e.to_string().contains("an earlier sync failed") => return,
        other => other.unwrap_or_else(|e| panic!("{what}: {e}\n{}", host.trace().join("\n"))),
    };
    let state: CopyState = copy.state().unwrap();
    check_prefix(host, all, done, what);
    assert!(
        state.end >= done.acked,
        "{what}: {} of {}",
        state.end,
        done.acked
    );
    assert!(
        state.durable.is_none_or(|d| d <= state.end),
        "{what}: D {:?}",
        state.durable
    );
    let mut rest = Done {
        acked: Offset::ZERO,
        forgotten: done.forgotten,
    };
    put(&mut copy, all, Offset::MAX, &mut rest).unwrap_or_else(|e| panic!("{what}: {e}"));
    let end = batches(all).last().unwrap().1.next();
    assert_eq!(copy.sync().unwrap(), end, "{what}");
    copy.close().unwrap();
    check_prefix(host, all, done, what);
    let last = segment_files(host).pop().unwrap();
    assert!(last.1 == all.last().unwrap().1, "{what}: not all of it");
    let log = LogDir::open(host, Path::new(LOG)).unwrap();
    assert_eq!(epoch::read(log.dir().as_ref()).unwrap(), EPOCHS, "{what}");
    let calls = host.calls();
    txns::mend(&log, Offset::ZERO, &Limits::default()).unwrap();
    assert_eq!(
        host.calls(),
        calls,
        "{what}: a transaction index says something else"
    );
}

fn sweep(fault: impl Fn() -> Fault) {
    let all = source();
    let fresh = || Done {
        acked: Offset::ZERO,
        forgotten: Offset::ZERO,
    };
    let clean = machine();
    workload(&clean, &all, &mut fresh()).unwrap();
    for n in 1..=clean.calls() {
        let host = machine();
        host.fail_at(n, fault());
        let mut done = fresh();
        let failed = workload(&host, &all, &mut done).is_err();
        let what = format!("{:?} at call {n}: {:?}", fault(), host.trace().last());
        host.free();
        for policy in [Policy::KeepNothing, Policy::KeepAll] {
            check(
                &host.power_cut(n, policy),
                &all,
                &done,
                &format!("{what}, then {policy:?}"),
            );
        }
        for seed in 0..4 {
            let cut = host.power_cut(n * 1000 + seed, Policy::Random);
            check(&cut, &all, &done, &format!("{what}, then cut {seed}"));
        }
        // A fault that was not met would otherwise hit the check itself.
        if failed {
            check(&host.kill(), &all, &done, &format!("{what}, then killed"));
        }
    }
}

#[test]
fn a_copy_survives_a_crash_at_every_call() {
    sweep(|| Fault::Crash);
}

#[test]
fn a_copy_survives_a_torn_write_at_every_call() {
    sweep(|| Fault::ShortWrite(20, After::Crash));
}

#[test]
fn a_copy_survives_an_error_at_every_call() {
    sweep(|| Fault::Errno(nix::libc::EIO));
}

#[test]
fn a_copy_survives_a_full_disk_at_every_call() {
    sweep(|| Fault::Full);
    sweep(|| Fault::ShortWrite(100, After::Errno(nix::libc::ENOSPC)));
}
