//! What is on record of a group is what was stored, or told to be damaged; a crash at any call leaves
//! the old position or the new, and never one beyond what is durable.

use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::format::TimestampMs;
use crate::format::builder::{BatchBuilder, Chunk, Seal};
use crate::format::record::NewRecord;
use crate::sys::sim::{After, Fault, Policy, SimHost};

const LOG: &str = "/d/x-0";

fn machine() -> SimHost {
    let host = SimHost::new();
    host.make_dir(Path::new("/d")).unwrap();
    host.make_dir(Path::new(LOG)).unwrap();
    host
}

fn process(machine: &SimHost) -> Arc<dyn Host> {
    Arc::new(machine.process())
}

fn open(host: &Arc<dyn Host>) -> Result<Group> {
    let mut group = Group::open(host, Path::new(LOG), "g", false)?;
    group.claim(Wait::No, "logd test")?;
    Ok(group)
}

fn writer(host: &Arc<dyn Host>) -> Result<Writer> {
    let options = WriterOptions {
        wait: None,
        allow_network_fs: false,
        zero_fill: false,
        roll: RollLimits {
            segment_bytes: 200,
            segment_age_ms: None,
        },
        command: "test".to_string(),
    };
    Writer::open(host, Path::new(LOG), options)
}

/// Appends a batch of two records, and syncs nothing. Returns the log end.
fn append(writer: &mut Writer) -> Result<Offset> {
    let mut b = BatchBuilder::begin(Vec::new());
    for value in ["one", "two"] {
        let record = NewRecord {
            key: None,
            value: Some(value.as_bytes()),
            headers: &[],
        };
        b.push(TimestampMs(1000), &record);
    }
    let (bytes, sealed) = b.seal(&Seal::default());
    let mut chunk = Chunk {
        bytes,
        batches: vec![sealed],
    };
    let mut hold = writer.hold()?;
    let appended = hold.append(&mut chunk, false);
    match appended.error {
        Some(e) => return Err(e),
        None => hold.release()?,
    }
    Ok(appended.next)
}

fn logd_dir(host: &dyn Host) -> Arc<dyn Dir> {
    let dir = host.open_dir(Path::new(LOG)).unwrap();
    dir.open_dir(files::LOGD_DIR).unwrap()
}

/// Position and mark, if the group is there.
fn on_record(host: &dyn Host) -> Option<(i64, Option<i64>)> {
    let dir = host.open_dir(Path::new(LOG)).unwrap();
    let logd_dir = dir.open_dir(files::LOGD_DIR).ok()?;
    let p = read(logd_dir.as_ref(), "g").expect("sound")?;
    Some((p.next.0, p.marked.map(|m| m.0)))
}

fn position(next: i64, marked: Option<i64>) -> Position {
    Position {
        next: Offset(next),
        marked: marked.map(Offset),
        kept: String::new(),
    }
}

#[test]
fn a_position_is_pinned_and_read_back() {
    let text = "1\nposition 4096\nmarked 5000\ncrc32 46973038\n";
    let bytes = position(4096, Some(5000)).encode();
    assert_eq!(String::from_utf8(bytes).unwrap(), text);
    for p in [position(0, None), position(i64::MAX, Some(i64::MAX))] {
        assert_eq!(Position::decode(&p.encode()), Ok(p));
    }
}

/// A file with these lines and the checksum they should have.
fn sealed(body: &str) -> Vec<u8> {
    format!("{body}crc32 {:08x}\n", crc32fast::hash(body.as_bytes())).into_bytes()
}

#[test]
fn hostile_positions_are_refused() {
    for body in [
        "",
        "1\n",
        "2\nposition 1\n",
        "1\nposition\n",
        "1\nposition -1\n",
        "1\nposition +1\n",
        "1\nposition 1 \n",
        "1\nposition 0x1\n",
        "1\nposition 9223372036854775808\n",
        "1\nposition 1\nposition 1\n",
        "1\nposition 5\nmarked 4\n",
        "1\nposition 5\nmarked 6\nmarked 6\n",
        "1\nmarked 6\n",
        "\nposition 1\n",
    ] {
        assert!(Position::decode(&sealed(body)).is_err(), "{body:?}");
    }
    assert!(Position::decode(&sealed("1\nposition 1\n")).is_ok());
    for bytes in [&b"1\nposition 1\n"[..], b"1\nposition 1", b"\xff\n", b"\n"] {
        assert!(Position::decode(bytes).is_err(), "{bytes:?}");
    }
}

proptest! {
    #[test]
    fn fuzzed_positions_are_what_was_written_or_damage(
        (next, more) in (0i64..i64::MAX / 2, prop::option::of(0i64..1000)),
        at in any::<prop::sample::Index>(),
        harm in prop::collection::vec(any::<u8>(), 0..8),
    ) {
        let p = position(next, more.map(|m| next + m));
        let good = p.encode();
        let at = at.index(good.len());
        let mut replaced = good.clone();
        for (old, new) in replaced.iter_mut().skip(at).zip(&harm) {
            *old = *new;
        }
        let mut inserted = good.clone();
        inserted.splice(at..at, harm.iter().copied());
        for bytes in [&good[..at], &replaced, &inserted, &harm] {
            match Position::decode(bytes) {
                Ok(read) => prop_assert!(bytes == good && read == p),
                Err(_) => prop_assert!(bytes != good),
            }
        }
    }
}

#[test]
fn names_that_could_be_other_files_are_refused() {
    let long = "x".repeat(250);
    for bad in ["", ".", "..", "a/b", "a b", "a\n", "ä", &long] {
        assert_eq!(check_name(bad).unwrap_err().kind(), ErrorKind::Usage);
    }
    for bad in ["x.lock", "x.tmp", "x.member-0", "x.member-12", ".lock"] {
        let e = check_name(bad).unwrap_err().to_string();
        assert!(e.ends_with("ends in .lock, .tmp or .member-N"), "{e}");
    }
    for good in ["a", "...", "x.member-", "x.member-1a", "lock", &long[..249]] {
        check_name(good).unwrap();
        let member = format!("{}.member-9999999", member_stem(good));
        assert!(member.len() <= 255 && check_name(&member).is_err());
    }
    let (a, b) = (format!("{}a", &long[..248]), format!("{}b", &long[..248]));
    assert_ne!(member_stem(&a), member_stem(&b));
}

#[test]
fn groups_are_listed_and_what_lies_beside_them_is_not() {
    let host = machine();
    let host = process(&host);
    assert!(
        names(open(&host).unwrap().logd_dir.as_ref())
            .unwrap()
            .is_empty()
    );
    let dir = logd_dir(host.as_ref());
    for (name, next) in [("b", 7), ("a.b", 0)] {
        let mut group = Group::open(&host, Path::new(LOG), name, false).unwrap();
        group.claim(Wait::No, "test").unwrap();
        group.store(&position(next, None)).unwrap();
    }
    let groups = dir.open_dir(files::GROUPS).unwrap();
    for beside in ["b.member-3", "b.tmp", "no name"] {
        groups.create(beside).unwrap();
    }
    groups.make_dir("c").unwrap();
    assert_eq!(names(dir.as_ref()).unwrap(), ["a.b", "b"]);
    let all = positions(dir.as_ref()).unwrap();
    assert_eq!(all, [("a.b".into(), Offset(0)), ("b".into(), Offset(7))]);
    groups.create("d").unwrap();
    assert_eq!(positions(dir.as_ref()).unwrap_err().kind(), ErrorKind::Data);
}

#[test]
fn one_reader_at_a_time_and_others_are_told_who() {
    let machine = machine();
    let (a, b) = (process(&machine), process(&machine));
    let held = open(&a).unwrap();
    let e = open(&b).err().unwrap();
    assert_eq!(e.kind(), ErrorKind::Locked);
    let who = format!("{LOG}: group g: locked by 'logd test' (pid {})", a.pid());
    assert_eq!(e.to_string(), who);
    let mut other = Group::open(&b, Path::new(LOG), "h", false).unwrap();
    other.claim(Wait::No, "test").unwrap();
    drop(held);
    open(&b).unwrap();
}

#[test]
fn where_nothing_can_be_stored_permission_is_denied() {
    let machine = machine();
    open(&process(&machine)).unwrap();
    machine.set_read_only(true);
    let host = process(&machine);
    for name in ["g", "new"] {
        let e = Group::open(&host, Path::new(LOG), name, false);
        let e = e.and_then(|mut g| g.claim(Wait::No, "x").and_then(|()| g.commit(Offset(0))));
        assert_eq!(e.unwrap_err().kind(), ErrorKind::Permission, "{name}");
    }
    assert!(names(logd_dir(host.as_ref()).as_ref()).unwrap().is_empty());
}

#[test]
fn damage_is_told_and_only_seek_and_reset_pass_over_it() {
    let machine = machine();
    let host = process(&machine);
    let mut group = open(&host).unwrap();
    let mut w = writer(&host).unwrap();
    append(&mut w).unwrap();
    group.commit(Offset(2)).unwrap();
    let file = format!("{LOG}/.logd/groups/g");
    for again in [true, false] {
        machine.edit(&file, |bytes| bytes[11] ^= 1).unwrap();
        assert_eq!(group.read().unwrap_err().kind(), ErrorKind::Data);
        assert_eq!(group.commit(Offset(2)).unwrap_err().kind(), ErrorKind::Data);
        assert_eq!(group.mark(Offset(2)).unwrap_err().kind(), ErrorKind::Data);
        match again {
            true => assert_eq!(group.seek(Offset(1)).unwrap(), Offset(1)),
            false => group.reset().unwrap(),
        }
        assert_eq!(on_record(host.as_ref()), again.then_some((1, None)));
    }
    machine
        .edit(&file, |bytes| bytes.resize(5000, b'x'))
        .unwrap_err();
    group.seek(Offset(1)).unwrap();
    machine
        .edit(&file, |bytes| bytes.resize(5000, b'x'))
        .unwrap();
    assert!(group.read().unwrap_err().to_string().ends_with("too large"));
}

#[test]
fn marks_are_confirmed_taken_back_and_never_move_the_position() {
    let machine = machine();
    let host = process(&machine);
    let mut w = writer(&host).unwrap();
    for _ in 0..5 {
        append(&mut w).unwrap();
    }
    let mut g = open(&host).unwrap();
    assert_eq!(g.mark(Offset(3)).unwrap_err().kind(), ErrorKind::NotFound);
    g.commit(Offset(2)).unwrap();
    assert_eq!(g.confirm().unwrap(), None);
    g.mark(Offset(6)).unwrap();
    assert_eq!(on_record(host.as_ref()), Some((2, Some(6))));
    g.unmark().unwrap();
    assert_eq!(on_record(host.as_ref()), Some((2, None)));
    g.mark(Offset(8)).unwrap();
    assert_eq!(g.confirm().unwrap(), Some((Offset(2), Offset(8))));
    assert_eq!(on_record(host.as_ref()), Some((8, None)));
    // Nothing lies behind the end.
    assert_eq!(g.commit(Offset(99)).unwrap(), Offset(10));
    assert_eq!(on_record(host.as_ref()), Some((10, None)));
}

#[test]
fn lines_of_a_later_version_are_kept_until_the_group_is_moved() {
    let machine = machine();
    let host = process(&machine);
    append(&mut writer(&host).unwrap()).unwrap();
    let mut g = open(&host).unwrap();
    g.commit(Offset(0)).unwrap();
    let later = sealed("1\nposition 0\ncount 12\nout-end 7\n");
    let file = format!("{LOG}/.logd/groups/g");
    machine.edit(&file, |bytes| *bytes = later).unwrap();
    g.mark(Offset(1)).unwrap();
    g.commit(Offset(2)).unwrap();
    assert_eq!(g.read().unwrap().unwrap().kept, "count 12\nout-end 7\n");
    g.seek(Offset(1)).unwrap();
    assert_eq!(g.read().unwrap().unwrap().kept, "");
}

#[test]
fn what_is_stored_is_durable_although_nobody_synced_it() {
    let machine = machine();
    let host = process(&machine);
    let mut w = writer(&host).unwrap();
    for _ in 0..3 {
        append(&mut w).unwrap();
    }
    open(&host).unwrap().commit(Offset(6)).unwrap();
    let after = machine.power_cut(1, Policy::KeepNothing);
    assert_eq!(on_record(&after), Some((6, None)));
    let host = process(&after);
    assert_eq!(
        writer(&host).unwrap().hold().unwrap().next_offset(),
        Offset(6)
    );
}

#[test]
fn a_copy_after_a_reboot_commits_what_was_durable_and_no_more() {
    let machine = machine();
    let host = process(&machine);
    let mut w = writer(&host).unwrap();
    append(&mut w).unwrap();
    w.syncer().sync_to(Offset(2)).unwrap();
    append(&mut w).unwrap();
    let after = machine.power_cut(1, Policy::KeepAll);
    let host = process(&after);
    logd_dir(host.as_ref()).create(files::REPLICA).unwrap();
    assert_eq!(open(&host).unwrap().commit(Offset(4)).unwrap(), Offset(2));
}

/// What a workload stored: what was acknowledged last, and what was on its way behind it.
#[derive(Default)]
struct Stored {
    acked: Option<(i64, Option<i64>)>,
    pending: Option<(i64, Option<i64>)>,
}

impl Stored {
    fn will(&mut self, next: Offset, marked: Option<Offset>) {
        self.pending = Some((next.0, marked.map(|m| m.0)));
    }

    fn did(&mut self) {
        self.acked = self.pending;
    }
}

/// Appends without a sync; commits, marks, confirms, seeks and resets.
fn workload(machine: &SimHost, s: &mut Stored) -> Result<()> {
    let host = process(machine);
    let mut w = writer(&host)?;
    let mut group = open(&host)?;
    s.will(Offset(0), None);
    group.commit(Offset(0))?;
    s.did();
    for _ in 0..3 {
        let end = append(&mut w)?;
        s.will(end, None);
        group.commit(end)?;
        s.did();
        let end = (append(&mut w)?, append(&mut w)?).1;
        let (next, _) = s.acked.unwrap_or_default();
        s.will(Offset(next), Some(end));
        group.mark(end)?;
        s.did();
        s.will(end, None);
        group.confirm()?;
        s.did();
    }
    append(&mut w)?;
    s.will(Offset(3), None);
    group.seek(Offset(3))?;
    s.did();
    s.pending = None;
    group.reset()?;
    s.did();
    Ok(())
}

/// The old or the new position, within the log; and the group can go on.
fn check(machine: &SimHost, s: &Stored, what: &str) {
    let seen = on_record(machine);
    assert!(seen == s.acked || seen == s.pending, "{what}: {seen:?}");
    let host = process(machine);
    // First in the new boot, before any writer recovers the log.
    let view = View::of(LogDir::open(host.as_ref(), Path::new(LOG)).unwrap()).unwrap();
    let end = view.end(Limits::default()).unwrap();
    let failed = |e: &Error| e.to_string().contains("an earlier sync failed");
    let stored = match open(&host).expect(what).commit(end) {
        Err(e) if failed(&e) => return,
        stored => stored.expect(what),
    };
    assert_eq!(on_record(machine), Some((stored.0, None)), "{what}");
    let mut w = writer(&host).expect(what);
    let end = match w.hold() {
        Ok(hold) => hold.next_offset(),
        Err(e) if failed(&e) => return,
        Err(e) => panic!("{what}: {e}"),
    };
    let (next, marked) = seen.unwrap_or_default();
    assert!(marked.unwrap_or(next) <= end.0, "{what}: {seen:?} of {end}");
    assert!(stored <= end, "{what}: {stored} of {end}");
    let durable = w.syncer().durable().expect(what).unwrap_or_default();
    assert!(stored <= durable, "{what}: {stored} beyond D {durable}");
}

fn sweep(fault: impl Fn() -> Fault) {
    let clean = machine();
    workload(&clean, &mut Stored::default()).expect("runs through");
    for n in 1..=clean.calls() {
        let host = machine();
        host.fail_at(n, fault());
        let mut stored = Stored::default();
        let failed = workload(&host, &mut stored).is_err();
        let what = format!("fault at call {n}: {:?}", host.trace().last());
        for (i, policy) in [Policy::KeepNothing, Policy::KeepAll]
            .into_iter()
            .enumerate()
        {
            check(&host.power_cut(i as u64, policy), &stored, &what);
        }
        for seed in 0..6 {
            let what = format!("{what}, random cut {seed}");
            check(
                &host.power_cut(n * 1000 + seed, Policy::Random),
                &stored,
                &what,
            );
        }
        host.free();
        if failed {
            check(&host.kill(), &stored, &format!("{what}, killed"));
        }
    }
}

#[test]
fn positions_survive_a_crash_at_every_call() {
    sweep(|| Fault::Crash);
    sweep(|| Fault::ShortWrite(9, After::Crash));
}

#[test]
fn positions_survive_an_error_at_every_call() {
    sweep(|| Fault::Errno(nix::libc::EIO));
    sweep(|| Fault::Full);
}
