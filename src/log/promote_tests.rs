use super::*;
use crate::format::Limits;
use crate::log::copy::tests::{Kind, Plan, build, of, options};
use crate::log::copy::{Copy, ReplicaOf};
use crate::log::writer::Hold;
use crate::sys::sim::{Fault, Policy, SimHost};

const LOG: &str = "/d/x-0";

fn machine() -> SimHost {
    let host = SimHost::new();
    host.make_dir(Path::new("/d")).unwrap();
    host
}

fn promote_options() -> PromoteOptions {
    PromoteOptions {
        wait: Duration::ZERO,
        allow_network_fs: false,
        command: "logd promote".to_string(),
    }
}

fn process(host: &SimHost) -> Arc<dyn Host> {
    Arc::new(host.process())
}

fn plan(records: usize) -> Plan {
    Plan {
        kind: Kind::Plain(0),
        records,
        gap: 0,
        roll: None,
        time: 1_000,
    }
}

/// A copy of ten records, five of them in epoch 3; synced to the middle.
fn copied(host: &SimHost) {
    let process = process(host);
    let mut copy = Copy::open(&process, Path::new(LOG), options()).unwrap();
    copy.adopt(&of()).unwrap();
    let epochs = [(1, 0), (3, 5)].map(|(epoch, start)| EpochStart {
        epoch,
        start: Offset(start),
    });
    copy.set_epochs(&epochs).unwrap();
    for first in [0, 5] {
        let bytes = &build(&[plan(5)], first)[0].1;
        let checked = Copy::check(bytes, &Limits::default()).unwrap();
        copy.put(Offset(0), bytes, &checked).unwrap();
        if first == 0 {
            copy.sync().unwrap();
        }
    }
    copy.close().unwrap();
}

fn writer(host: &SimHost) -> Writer {
    let options = WriterOptions {
        wait: Some(Duration::ZERO),
        allow_network_fs: false,
        zero_fill: false,
        roll: RollLimits {
            segment_bytes: 1 << 20,
            segment_age_ms: None,
        },
        command: "test".to_string(),
    };
    Writer::open(&process(host), Path::new(LOG), options).unwrap()
}

/// The epoch that an append is made under; its offset.
fn append(host: &SimHost) -> Result<(i32, Offset)> {
    let mut writer = writer(host);
    let mut hold: Hold<'_> = writer.hold()?;
    let bytes = build(&[plan(1)], 0)[0].1.clone();
    let sealed = crate::format::builder::SealedBatch {
        start: 0,
        size: bytes.len(),
        count: 1,
        last_offset_delta: 0,
        max_timestamp: crate::format::TimestampMs(1),
        has_producer: false,
    };
    let mut chunk = crate::format::builder::Chunk {
        bytes,
        batches: vec![sealed],
    };
    let at = hold.next_offset();
    let appended = hold.append(&mut chunk, false);
    assert!(appended.error.is_none());
    hold.release()?;
    let header = crate::format::batch::BatchHeader::parse(&chunk.bytes).unwrap();
    Ok((header.leader_epoch, at))
}

fn epochs(host: &SimHost) -> Vec<(i32, i64)> {
    let dir = host.open_dir(Path::new(LOG)).unwrap();
    let all = epoch::read(dir.as_ref()).unwrap();
    all.iter().map(|e| (e.epoch, e.start.0)).collect()
}

#[test]
fn a_promoted_copy_takes_appends_in_an_epoch_of_its_own() {
    let host = machine();
    copied(&host);
    assert_eq!(append(&host).unwrap_err().kind(), ErrorKind::Permission);
    let done = promote(&process(&host), Path::new(LOG), &promote_options()).unwrap();
    assert_eq!((done.epoch, done.offset), (4, Offset(10)));
    assert_eq!(epochs(&host), [(1, 0), (3, 5), (4, 10)]);
    assert_eq!(append(&host).unwrap(), (4, Offset(10)));
    let e = promote(&process(&host), Path::new(LOG), &promote_options()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::No);
    // It may become a copy again, of another.
    let mut copy = Copy::open(&process(&host), Path::new(LOG), options()).unwrap();
    copy.state().unwrap();
    let source = ReplicaOf {
        id: [9; 16],
        source: "other".to_string(),
    };
    copy.adopt(&source).unwrap();
    assert_eq!(copy.state().unwrap().replica_of, Some(source));
    let e = promote(&process(&host), Path::new(LOG), &promote_options()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Locked, "something is received");
}

#[test]
fn an_appender_that_was_there_before_goes_on_in_the_new_epoch() {
    let host = machine();
    let mut old = {
        let process = process(&host);
        let settings = CopyOptions {
            create: Some(String::new()),
            ..options()
        };
        drop(Copy::open(&process, Path::new(LOG), settings).unwrap());
        writer(&host)
    };
    old.hold().unwrap().release().unwrap();
    copied(&host);
    promote(&process(&host), Path::new(LOG), &promote_options()).unwrap();
    let hold = old.hold().unwrap();
    assert_eq!((hold.next_offset(), hold.epoch()), (Offset(10), 4));
}

#[test]
fn a_fenced_log_takes_no_appends_and_comes_back_as_a_copy() {
    let host = machine();
    copied(&host);
    promote(&process(&host), Path::new(LOG), &promote_options()).unwrap();
    append(&host).unwrap();
    let by = FencedBy {
        epoch: 7,
        successor: "dr1:x".to_string(),
    };
    let process: Arc<dyn Host> = process(&host);
    fence(process.as_ref(), Path::new(LOG), &by).unwrap();
    let e = append(&host).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Data);
    assert!(
        e.to_string().contains("dr1:x was promoted (epoch 7)"),
        "{e}"
    );
    assert!(e.hint_text().unwrap().contains("--truncate-divergent"));
    let mut copy = Copy::open(&process, Path::new(LOG), options()).unwrap();
    assert!(copy.state().unwrap().is_fenced);
    copy.adopt(&of()).unwrap();
    assert!(!copy.state().unwrap().is_fenced);
    drop(copy);
    assert_eq!(append(&host).unwrap_err().kind(), ErrorKind::Permission);
}

/// Every call crashed and failed: it is a copy still, or it takes appends in a higher epoch; and running
/// it again always ends in the latter.
#[test]
fn a_promotion_that_was_stopped_anywhere_is_finished_by_another() {
    let clean = machine();
    copied(&clean);
    let before = clean.calls();
    promote(&process(&clean), Path::new(LOG), &promote_options()).unwrap();
    let calls = clean.calls() - before;
    assert!(calls > 8, "{calls}");
    for fault in [
        Fault::Crash,
        Fault::Errno(nix::libc::EIO),
        Fault::ShortWrite(3, crate::sys::sim::After::Crash),
        Fault::Full,
    ] {
        for n in 1..=calls {
            let host = machine();
            copied(&host);
            host.fail_at(host.calls() + n, fault);
            let done = promote(&process(&host), Path::new(LOG), &promote_options());
            let what = format!("{fault:?} at {n}: {:?}", host.trace().last());
            host.free();
            let mut after = vec![host.power_cut(n, Policy::KeepNothing)];
            after.extend((0..6).map(|seed| host.power_cut(n * 100 + seed, Policy::Random)));
            // A fault that was not met would hit the check itself.
            after.extend(done.is_err().then(|| host.kill()));
            for host in after {
                finish(&host, done.is_ok(), &what);
            }
        }
    }
}

fn finish(host: &SimHost, was_done: bool, what: &str) {
    let end = match append(host) {
        Ok((epoch, end)) => {
            assert!(epoch >= 4, "{what}: appended in epoch {epoch}");
            end
        }
        Err(e) if e.to_string().contains("an earlier sync failed") => return,
        Err(e) => {
            assert_eq!(e.kind(), ErrorKind::Permission, "{what}: {e}");
            assert!(!was_done, "{what}");
            let done = promote(&process(host), Path::new(LOG), &promote_options());
            let done = done.unwrap_or_else(|e| panic!("{what}: {e}"));
            let (epoch, end) = append(host).unwrap();
            assert_eq!((epoch, end), (done.epoch, done.offset), "{what}");
            end
        }
    };
    assert!(end >= Offset(5), "{what}: what was durable is there");
    let all = epochs(host);
    assert_eq!(all[0], (1, 0), "{what}");
    assert!(
        all.last().unwrap().0 >= 4 && all.last().unwrap().1 == end.0,
        "{what}: {all:?}"
    );
}
