//! What a sync promises when files, disks and processes fail around it.

use super::*;
use crate::format::TimestampMs;
use crate::format::builder::{BatchBuilder, Chunk, Seal};
use crate::format::record::NewRecord;
use crate::log::testing::TestLog;
use crate::log::writer::{Writer, WriterOptions};
use crate::segment::active::RollLimits;
use crate::sys::RealHost;
use crate::sys::sim::{Fault, Policy, SimHost};
use std::path::Path;
use std::time::Duration;

const LOG: &str = "/d/x-0";
const LOGD: &str = "/d/x-0/.logd";

fn machine() -> SimHost {
    let host = SimHost::new();
    host.make_dir(Path::new("/d")).unwrap();
    host.make_dir(Path::new(LOG)).unwrap();
    host
}

/// As a broker left it: three segments, no D.
fn broker_machine() -> SimHost {
    let host = machine();
    let dir = host.open_dir(Path::new(LOG)).unwrap();
    let made = TestLog::new("x-0");
    for (base, words) in [(0, "a b"), (2, "c d"), (4, "e f")] {
        let file = dir.create(&log_name(base)).unwrap();
        let bytes = made.segment(base).batch(base, words).bytes;
        file.write_all_at(&bytes, 0).unwrap();
        file.sync().unwrap();
    }
    dir.sync().unwrap();
    host
}

fn log_name(base: i64) -> String {
    file_name(Offset(base), Kind::Log)
}

fn path_of(base: i64) -> String {
    format!("{LOG}/{}", log_name(base))
}

/// A process whose segments hold one batch each, if `small`.
fn open(host: &SimHost, small: bool) -> Writer {
    let options = WriterOptions {
        wait: None,
        allow_network_fs: false,
        zero_fill: false,
        roll: RollLimits {
            segment_bytes: if small { 1 } else { 1 << 20 },
            segment_age_ms: None,
        },
        command: "test".to_string(),
    };
    let host: Arc<dyn Host> = Arc::new(host.process());
    Writer::open(&host, Path::new(LOG), options).unwrap()
}

fn append(writer: &mut Writer) -> Offset {
    let mut b = BatchBuilder::begin(Vec::new());
    let record = NewRecord {
        key: None,
        value: Some(b"value"),
        headers: &[],
    };
    b.push(TimestampMs(1000), &record);
    let (bytes, sealed) = b.seal(&Seal::default());
    let batches = vec![sealed];
    let mut hold = writer.hold().unwrap();
    let done = hold.append(&mut Chunk { bytes, batches }, false);
    hold.release().unwrap();
    assert!(done.error.is_none(), "{:?}", done.error);
    done.next
}

fn is_marked(host: &SimHost) -> bool {
    let dir = host.open_dir(Path::new(LOGD)).unwrap();
    dir.stat(files::FAILED).unwrap().is_some()
}

/// What a process leaves that is killed in the middle of its sync.
fn leave_note_of_the_dead(host: &SimHost) {
    let note = |b: &mut Vec<u8>| *b = b"999 1 sync\n".to_vec();
    host.edit(format!("{LOGD}/sync.lock"), note).unwrap();
}

#[test]
fn an_error_before_the_sync_leaves_no_mark_and_the_next_one_succeeds() {
    let host = machine();
    let mut writer = open(&host, false);
    let next = append(&mut writer);
    let dir = host.open_dir(Path::new(LOG)).unwrap();
    dir.make_dir(&log_name(50)).unwrap(); // cannot be opened as a file
    writer.syncer().sync_to(next).unwrap_err();
    assert!(!is_marked(&host));
    dir.remove_dir(&log_name(50)).unwrap();
    assert_eq!(writer.syncer().sync_to(next).unwrap(), next);
}

#[test]
fn no_sync_begins_without_its_note() {
    let host = machine();
    let mut writer = open(&host, false);
    let next = append(&mut writer);
    let calls = host.calls();
    host.fail_next(Fault::Errno(nix::libc::ENOSPC));
    writer.syncer().sync_to(next).unwrap_err();
    assert_eq!(host.calls(), calls + 1, "{:?}", host.trace().last());
    assert!(!is_marked(&host));
    assert_eq!(writer.syncer().sync_to(next).unwrap(), next);
}

#[test]
fn a_failed_sync_is_marked_whole_or_not_yet_on_every_disk() {
    let run = |fault: Option<u64>| {
        let host = machine();
        let mut writer = open(&host, false);
        let next = append(&mut writer);
        let note = host.calls() + 1;
        host.fail_at(note + 1, Fault::Errno(nix::libc::EIO));
        if let Some(n) = fault {
            host.fail_at(note + 1 + n, Fault::Errno(nix::libc::EIO));
        }
        let e = writer.syncer().sync_to(next).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Io);
        host
    };
    // In a power cut at any moment of the marking: the whole mark or none.
    let after = run(None).power_cut(1, Policy::KeepNothing);
    let said = after.read_file(format!("{LOGD}/failed")).unwrap();
    assert!(said.starts_with(b"durable offset 0\n"));
    for n in 1..=5 {
        let host = run(Some(n));
        assert!(is_marked(&host), "fault {n} after the failed sync");
        let after = host.power_cut(1, Policy::KeepNothing);
        assert!(is_marked(&after) || n == 5, "fault {n}, power cut");
    }
}

#[test]
fn a_hole_that_a_dead_holder_left_is_found_in_every_segment() {
    for base in 0..4 {
        let host = machine();
        let mut writer = open(&host, true);
        for _ in 0..4 {
            append(&mut writer);
        }
        let hole = |b: &mut Vec<u8>| {
            let half = b.len() / 2;
            b[half..].fill(0)
        };
        host.edit(path_of(base), hole).unwrap();
        leave_note_of_the_dead(&host);
        let e = writer.syncer().sync_to(Offset(4)).unwrap_err();
        assert!(is_marked(&host), "segment {base}: {e}");
        // Or the whole of it, which looks like a segment that nothing was written to.
        let host = machine();
        let mut writer = open(&host, true);
        for _ in 0..4 {
            append(&mut writer);
        }
        host.edit(path_of(base), |b| b.fill(0)).unwrap();
        leave_note_of_the_dead(&host);
        writer.syncer().sync_to(Offset(4)).unwrap_err();
    }
}

#[test]
fn what_a_dead_holder_synced_is_accepted_when_it_reads_back() {
    let host = machine();
    let mut writer = open(&host, true);
    for _ in 0..4 {
        append(&mut writer);
    }
    leave_note_of_the_dead(&host);
    assert_eq!(writer.syncer().sync_to(Offset(3)).unwrap(), Offset(4));
}

#[test]
fn a_dead_holder_of_the_first_sync_is_inherited_too() {
    for base in [0, 2, 4] {
        let host = broker_machine();
        let mut writer = open(&host, false);
        let next = append(&mut writer);
        host.edit(path_of(base), |b| b[70] ^= 1).unwrap();
        leave_note_of_the_dead(&host);
        writer.syncer().sync_to(next).unwrap_err();
        assert!(is_marked(&host), "segment {base}");
    }
    let host = broker_machine();
    let mut writer = open(&host, false);
    let next = append(&mut writer);
    leave_note_of_the_dead(&host);
    assert_eq!(writer.syncer().sync_to(next).unwrap(), next);
}

#[test]
fn a_segment_made_during_the_first_sync_gets_its_name_synced_by_the_next() {
    let host = broker_machine();
    let mut writer = open(&host, true);
    append(&mut writer);
    let syncer = writer.syncer();
    let mut state = syncer.state.lock().unwrap();
    let published = syncer.read_end(&state).unwrap();
    let todo = syncer.plan(&mut state, &published, false).unwrap();
    let next = append(&mut writer); // in a segment that the list does not have
    syncer.sync_files(&mut state, &todo, next).unwrap();
    let (listed, newest) = (state.named_through, syncer.bases().unwrap().pop());
    assert!(listed < newest, "{listed:?} {newest:?}");
}

#[test]
fn a_log_that_was_renamed_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x-0");
    std::fs::create_dir(&path).unwrap();
    let host: Arc<dyn Host> = Arc::new(RealHost);
    let options = WriterOptions {
        wait: None,
        allow_network_fs: true,
        zero_fill: false,
        roll: RollLimits {
            segment_bytes: 1 << 20,
            segment_age_ms: None,
        },
        command: "test".to_string(),
    };
    let mut writer = Writer::open(&host, &path, options).unwrap();
    let next = append(&mut writer);
    std::fs::rename(&path, dir.path().join("y-0")).unwrap();
    let (syncer, (done, ended)) = (writer.syncer(), std::sync::mpsc::channel());
    std::thread::spawn(move || done.send(syncer.sync_to(next)));
    let e = ended.recv_timeout(Duration::from_secs(20)).unwrap();
    let e = e.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NotFound);
    assert!(e.to_string().contains("x-0"), "{e}");
}

#[test]
fn an_end_file_that_was_removed_is_made_anew_with_what_is_synced() {
    let host = machine();
    let mut writer = open(&host, false);
    let next = append(&mut writer);
    let logd = host.open_dir(Path::new(LOGD)).unwrap();
    logd.unlink(files::END).unwrap();
    assert_eq!(writer.syncer().sync_to(next).unwrap(), next);
    assert_eq!(end::read(logd.as_ref()).unwrap().durable, Some(next));
}

#[test]
fn an_end_file_that_was_removed_never_leads_to_a_sealed_segment() {
    let host = machine();
    let mut first = open(&host, true);
    append(&mut first);
    host.open_dir(Path::new(LOGD))
        .unwrap()
        .unlink(files::END)
        .unwrap();
    // Another process rolls; the first still has the old file, which says that nothing changed.
    let mut second = open(&host, true);
    append(&mut second);
    let sealed = host.read_file(path_of(0)).unwrap();
    assert_eq!(append(&mut first), Offset(3));
    assert_eq!(host.read_file(path_of(0)).unwrap(), sealed);
    assert_eq!(first.syncer().sync_to(Offset(3)).unwrap(), Offset(3));
    assert_eq!(second.syncer().durable().unwrap(), Some(Offset(3)));
}

#[test]
fn the_first_writer_makes_durable_what_a_killed_maker_left() {
    let host = SimHost::new();
    host.make_dir(Path::new("/d")).unwrap();
    let parent = host.open_dir(Path::new("/d")).unwrap();
    parent.make_dir("x-0").unwrap();
    parent.open_dir("x-0").unwrap().make_dir(".logd").unwrap();
    let mut writer = open(&host, false);
    let next = append(&mut writer);
    writer.syncer().sync_to(next).unwrap();
    let after = host.power_cut(1, Policy::KeepNothing);
    assert_eq!(append(&mut open(&after, false)), Offset(next.0 + 1));
}

#[test]
fn a_writer_closes_while_another_keeps_the_lock() {
    let host = machine();
    let ahead = WriterOptions {
        wait: None,
        allow_network_fs: false,
        zero_fill: true,
        roll: RollLimits {
            segment_bytes: 1 << 30,
            segment_age_ms: None,
        },
        command: "test".to_string(),
    };
    let process: Arc<dyn Host> = Arc::new(host.process());
    let mut writer = Writer::open(&process, Path::new(LOG), ahead).unwrap();
    append(&mut writer);
    let mut other = open(&host, false);
    let hold = other.hold().unwrap();
    writer.close().unwrap();
    hold.release().unwrap();
    assert_eq!(append(&mut other), Offset(2));
}
