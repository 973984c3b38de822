//! What recovery must not do: take what is lawful for damage, or believe what only looks right.

use std::path::Path;
use std::sync::Arc;

use crate::error::{ErrorKind, Result};
use crate::format::builder::{BatchBuilder, Chunk, Seal};
use crate::format::names::{Kind, State, file_name};
use crate::format::record::NewRecord;
use crate::format::snapshot;
use crate::format::{Offset, Position, TimestampMs};
use crate::log::end;
use crate::log::testing::TestLog;
use crate::log::writer::{Writer, WriterOptions};
use crate::segment::active::RollLimits;
use crate::sys::sim::{Policy, SimHost};
use crate::sys::{Access, Host};

const LOG: &str = "/d/x-0";

fn writer(host: &SimHost) -> Writer {
    let host: Arc<dyn Host> = Arc::new(host.process());
    let options = WriterOptions {
        wait: None,
        allow_network_fs: false,
        zero_fill: false,
        roll: RollLimits {
            segment_bytes: 1 << 20,
            segment_age_ms: None,
        },
        command: "test".to_string(),
    };
    Writer::open(&host, Path::new(LOG), options).expect("opens")
}

fn chunk(value: &[u8]) -> Chunk {
    let mut b = BatchBuilder::begin(Vec::new());
    b.push(
        TimestampMs(1000),
        &NewRecord {
            key: None,
            value: Some(value),
            headers: &[],
        },
    );
    let (bytes, sealed) = b.seal(&Seal::default());
    Chunk {
        bytes,
        batches: vec![sealed],
    }
}

fn append(writer: &mut Writer, value: &[u8]) -> Offset {
    let mut hold = writer.hold().expect("the lock");
    let appended = hold.append(&mut chunk(value), false);
    assert!(appended.error.is_none(), "{:?}", appended.error);
    hold.release().expect("released");
    appended.next
}

/// Where the log ends for a process that sees it for the first time.
fn reopened(host: &SimHost) -> Result<Offset> {
    let mut writer = writer(host);
    let next = writer.hold().map(|h| h.next_offset())?;
    assert_eq!(writer.take_lost(), [], "nothing is taken out");
    Ok(next)
}

fn machine() -> SimHost {
    let host = SimHost::new();
    host.make_dir(Path::new("/d")).expect("made");
    host.make_dir(Path::new(LOG)).expect("made");
    host
}

fn log_file(base: i64) -> String {
    file_name(Offset(base), Kind::Log)
}

fn put(host: &SimHost, name: &str, bytes: &[u8]) {
    let dir = host.open_dir(Path::new(LOG)).expect("opens");
    let file = dir.create(name).expect("made");
    file.write_all_at(bytes, 0).expect("written");
    file.sync().and_then(|()| dir.sync()).expect("synced");
}

#[test]
fn gaps_of_a_compacted_log_are_no_lost_tails() {
    let (log, host) = (TestLog::new("x-0"), machine());
    put(&host, &log_file(0), &log.segment(0).batch(0, "a b").bytes);
    put(
        &host,
        &log_file(10),
        &log.segment(10).batch(10, "c d").bytes,
    );
    put(
        &host,
        &log_file(20),
        &log.segment(20).batch(20, "e f").bytes,
    );
    assert_eq!(append(&mut writer(&host), b"ours"), Offset(23));
    for policy in [Policy::KeepAll, Policy::KeepNothing] {
        let next = reopened(&host.power_cut(1, policy)).expect("opens");
        assert!(next == Offset(23) || next == Offset(22), "{next}");
    }
}

/// We wrote up to offset 3, all durable; then a broker had the log until its time, flushed up to 21, and
/// left a gap between our segment and each of two of its own.
fn after_a_broker(cleaned_ms: i64) -> SimHost {
    let (log, host) = (TestLog::new("x-0"), machine());
    let mut w = writer(&host);
    for _ in 0..3 {
        append(&mut w, b"value");
    }
    w.syncer().sync_to(Offset(3)).expect("synced");
    drop(w);
    put(&host, &log_file(10), &log.segment(10).batch(10, "b").bytes);
    put(&host, &log_file(20), &log.segment(20).batch(20, "c").bytes);
    let parent = host.open_dir(Path::new("/d")).expect("opens");
    drop(parent.create(".lock").expect("made"));
    host.set_wall_ms(host.wall_ms() + cleaned_ms);
    let file = parent.create("recovery-point-offset-checkpoint");
    let file = file.expect("made");
    file.write_all_at(b"0\n1\nx 0 21\n", 0).expect("written");
    file.sync().and_then(|()| parent.sync()).expect("synced");
    host.power_cut(1, Policy::KeepAll)
}

#[test]
fn gaps_that_a_broker_left_above_d_are_no_lost_tails() {
    let host = after_a_broker(60_000);
    assert_eq!(reopened(&host).expect("opens"), Offset(21));
    // What we append makes its checkpoint the older one, and the gaps stay lawful.
    host.set_wall_ms(host.wall_ms() + 60_000);
    let host = host.power_cut(1, Policy::KeepNothing);
    for (calls, policy) in [(1, Policy::KeepAll), (2, Policy::KeepNothing)]
        .into_iter()
        .chain((3..40).map(|n| (n, Policy::Random)))
    {
        let host = host.power_cut(1, Policy::KeepAll);
        append(&mut writer(&host), b"ours");
        let mut w = writer(&host.power_cut(calls, policy));
        let next = w.hold().map(|h| h.next_offset()).expect("opens");
        assert!(next == Offset(22) || next == Offset(21), "{next}");
        let taken = w.take_lost();
        assert!(taken.iter().all(|l| l.offset >= Offset(21)), "{taken:?}");
    }
}

#[test]
fn a_brokers_checkpoint_from_before_our_last_append_vouches_for_nothing() {
    let host = after_a_broker(-60_000);
    let mut w = writer(&host);
    assert_eq!(w.hold().expect("opens").next_offset(), Offset(3));
    assert_eq!(w.take_lost().len(), 2);
}

#[test]
fn damage_in_what_a_broker_had_flushed_is_not_cut() {
    let host = after_a_broker(60_000);
    host.edit(format!("{LOG}/{}", log_file(10)), |b| b[60] ^= 1)
        .expect("edited");
    let refused = reopened(&host).expect_err("refused");
    assert_eq!(refused.kind(), ErrorKind::Data);
    let dir = host.open_dir(Path::new(LOG)).expect("opens");
    assert!(dir.list().expect("lists").contains(&log_file(20)));
}

#[test]
fn an_unfinished_swap_is_no_gap() {
    let (log, host) = (TestLog::new("x-0"), machine());
    put(
        &host,
        &log_file(0),
        &log.segment(0).gap_batch(0, 9, "a").bytes,
    );
    put(
        &host,
        &log_file(10),
        &log.segment(10).gap_batch(10, 19, "b").bytes,
    );
    put(
        &host,
        &log_file(20),
        &log.segment(20).batch(20, "acked").bytes,
    );
    writer(&host)
        .hold()
        .expect("the lock")
        .release()
        .expect("released");
    // An older D, as the disk still has it: D is published without a sync.
    let logd = host.open_dir(Path::new("/d/x-0/.logd")).expect("opens");
    let file = logd.open("end", Access::Write).expect("opens");
    end::write_durable(file.as_ref(), 5, host.boot_id(), Offset(5)).expect("written");
    let dir = host.open_dir(Path::new(LOG)).expect("opens");
    let swap = format!("{}{}", log_file(10), State::Swap.suffix());
    dir.rename(&log_file(10), &swap)
        .and_then(|()| dir.sync())
        .expect("renamed");
    let next = reopened(&host.power_cut(1, Policy::KeepAll)).expect("opens");
    assert_eq!(next, Offset(21));
}

#[test]
fn a_hint_that_leads_nowhere_is_not_believed() {
    let host = machine();
    let mut w = writer(&host);
    for _ in 0..3 {
        append(&mut w, b"value");
    }
    assert_eq!(w.syncer().sync_to(Offset(3)).expect("synced"), Offset(3));
    let logd = host.open_dir(Path::new("/d/x-0/.logd")).expect("opens");
    let file = logd.open("end", Access::Write).expect("opens");
    let good = end::read_from(file.as_ref())
        .expect("reads")
        .hint
        .expect("a hint");
    for (position, claimed) in [
        (1, 3),
        (0, 3),
        (good.position.0, 2),
        (good.position.0 / 3, 3),
    ] {
        let hint = end::EndHint {
            sequence: good.sequence + 1,
            position: Position(position),
            end: Offset(claimed),
            ..good
        };
        end::write_hint(file.as_ref(), &hint).expect("written");
        assert_eq!(
            reopened(&host).expect("opens"),
            Offset(3),
            "{position} {claimed}"
        );
        end::write_hint(file.as_ref(), &good).expect("written");
    }
}

#[test]
fn a_batch_inside_a_torn_record_is_no_valid_data() {
    let host = machine();
    let mut w = writer(&host);
    append(&mut w, b"value");
    let mut inner = chunk(b"inner").bytes;
    inner[..8].copy_from_slice(&1000i64.to_be_bytes());
    inner.extend_from_slice(&[7; 5000]);
    let mut outer = chunk(&inner).bytes;
    outer[..8].copy_from_slice(&1i64.to_be_bytes());
    outer.truncate(4096);
    host.edit(format!("{LOG}/{}", log_file(0)), |b| {
        b.extend_from_slice(&outer)
    })
    .expect("edited");
    assert_eq!(w.hold().expect("opens").next_offset(), Offset(1));
    assert_eq!(w.take_lost().len(), 1);
}

#[test]
fn a_length_that_lies_does_not_make_what_follows_a_torn_tail() {
    let host = machine();
    let mut w = writer(&host);
    for _ in 0..3 {
        append(&mut w, b"value");
    }
    let size = chunk(b"value").bytes.len();
    // Nothing is durable, the same boot: the second batch claims to run past the end of the file.
    host.edit(format!("{LOG}/{}", log_file(0)), |b| b[size + 9] = 1)
        .expect("edited");
    let logd = host.open_dir(Path::new("/d/x-0/.logd")).expect("opens");
    logd.unlink("end").expect("removed");
    let refused = reopened(&host).expect_err("refused");
    assert_eq!(refused.kind(), ErrorKind::Data);
    assert_eq!(refused.position(), Some(size as u64));
}

#[test]
fn a_refusal_changes_nothing() {
    let host = machine();
    let mut w = writer(&host);
    for _ in 0..9 {
        append(&mut w, &[9; 3000]);
    }
    w.syncer().sync_to(Offset(9)).expect("synced");
    let host = host.power_cut(1, Policy::KeepAll);
    let files = |host: &SimHost| -> Vec<Vec<u8>> {
        let kinds = [Kind::Log, Kind::OffsetIndex, Kind::TimeIndex];
        let read = |k| {
            host.read_file(format!("{LOG}/{}", file_name(Offset(0), k)))
                .expect("reads")
        };
        kinds.map(read).to_vec()
    };
    host.edit(format!("{LOG}/{}", log_file(0)), |b| {
        let n = b.len();
        (b[70], b[n - 10]) = (b[70] ^ 1, b[n - 10] ^ 1);
    })
    .expect("edited");
    let before = files(&host);
    assert!(!before[1].is_empty());
    assert_eq!(
        reopened(&host).expect_err("refused").kind(),
        ErrorKind::Data
    );
    assert!(files(&host) == before);
}

#[test]
fn a_cut_takes_what_speaks_of_later_offsets_with_it() {
    let host = machine();
    let mut w = writer(&host);
    append(&mut w, b"one");
    append(&mut w, b"two");
    put(
        &host,
        &file_name(Offset(2), Kind::Snapshot),
        &snapshot::encode(&[]),
    );
    put(
        &host,
        &file_name(Offset(1), Kind::Snapshot),
        &snapshot::encode(&[]),
    );
    let dir = host.open_dir(Path::new(LOG)).expect("opens");
    // One that begins at the new end goes on: a promotion writes it before its first batch.
    let epochs = "0\n3\n0 0\n4 1\n5 2\n";
    crate::log::state::write_state_file(dir.as_ref(), "leader-epoch-checkpoint", epochs.as_bytes())
        .expect("written");
    host.edit(format!("{LOG}/{}", log_file(0)), |b| {
        b.truncate(b.len() - 3)
    })
    .expect("edited");
    host.open_dir(Path::new("/d/x-0/.logd"))
        .expect("opens")
        .unlink("end")
        .expect("removed");
    assert_eq!(
        writer(&host).hold().expect("opens").next_offset(),
        Offset(1)
    );
    let names = dir.list().expect("lists");
    assert!(!names.contains(&file_name(Offset(2), Kind::Snapshot)));
    assert!(names.contains(&file_name(Offset(1), Kind::Snapshot)));
    let left = host
        .read_file(format!("{LOG}/leader-epoch-checkpoint"))
        .expect("reads");
    assert_eq!(left, b"0\n2\n0 0\n4 1\n");
}

#[test]
fn maintenance_at_work_keeps_recovery_from_moving_segments() {
    let host = machine();
    let mut w = writer(&host);
    append(&mut w, b"one");
    drop(w);
    let log = TestLog::new("x-0");
    put(&host, &log_file(7), &log.segment(7).batch(7, "later").bytes);
    let after = host.power_cut(1, Policy::KeepAll);
    let logd = after.open_dir(Path::new("/d/x-0/.logd")).expect("opens");
    let lock = logd.open_or_create("maintenance.lock").expect("opens");
    assert!(
        lock.lock(crate::sys::Lock::Exclusive, crate::sys::Wait::No)
            .expect("locks")
    );
    assert_eq!(
        reopened(&after).expect_err("busy").kind(),
        ErrorKind::Locked
    );
    lock.unlock().expect("free");
    let mut w = writer(&after);
    assert_eq!(w.hold().expect("opens").next_offset(), Offset(1));
    assert_eq!(w.take_lost().len(), 1);
}
