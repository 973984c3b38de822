//! Each promise of the disk in memory.

use super::*;
use crate::sys::{Access, File, Wait};
use std::collections::BTreeSet;

const EIO: i32 = Errno::EIO as i32;
const SEEDS: std::ops::Range<u64> = 0..400;

fn new() -> (SimHost, Arc<dyn Dir>) {
    let host = SimHost::new();
    let dir = root(&host);
    (host, dir)
}

fn root(host: &SimHost) -> Arc<dyn Dir> {
    host.open_dir(Path::new("/")).unwrap()
}

/// A file with durable name and content.
fn durable(dir: &Arc<dyn Dir>, name: &str, content: &[u8]) -> Box<dyn File> {
    let f = dir.create(name).unwrap();
    f.write_all_at(content, 0).unwrap();
    f.sync().unwrap();
    dir.sync().unwrap();
    f
}

fn names(host: &SimHost) -> String {
    root(host).list().unwrap().concat()
}

#[test]
fn sync_of_a_file_does_not_keep_its_name() {
    let (host, dir) = new();
    let f = dir.create("a").unwrap();
    f.write_all_at(b"x", 0).unwrap();
    f.sync().unwrap();
    assert_eq!(names(&host.power_cut(0, Policy::KeepNothing)), "");
    dir.sync().unwrap();
    let after = host.power_cut(0, Policy::KeepNothing);
    assert_eq!(after.read_file("/a").unwrap(), b"x");
}

#[test]
fn sync_of_a_name_does_not_keep_the_content() {
    let (host, dir) = new();
    let f = dir.create("a").unwrap();
    f.write_all_at(b"x", 0).unwrap();
    dir.sync().unwrap();
    let nothing = host.power_cut(0, Policy::KeepNothing);
    assert_eq!(nothing.read_file("/a").unwrap(), b"");
    let all = host.power_cut(0, Policy::KeepAll);
    assert_eq!(all.read_file("/a").unwrap(), b"x");
}

#[test]
fn a_file_in_a_directory_without_durable_name_is_gone() {
    let (host, dir) = new();
    dir.make_dir("d").unwrap();
    durable(&dir.open_dir("d").unwrap(), "a", b"x");
    assert_eq!(names(&host.power_cut(0, Policy::KeepNothing)), "");
    dir.sync().unwrap();
    let after = host.power_cut(0, Policy::KeepNothing);
    assert_eq!(after.read_file("/d/a").unwrap(), b"x");
}

#[test]
fn unsynced_unlink_and_set_len_are_undone_by_a_power_cut() {
    let (host, dir) = new();
    durable(&dir, "a", b"x");
    durable(&dir, "b", b"yyy").set_len(1).unwrap();
    dir.unlink("a").unwrap();
    let after = host.power_cut(0, Policy::KeepNothing);
    assert_eq!(after.read_file("/a").unwrap(), b"x");
    assert_eq!(after.read_file("/b").unwrap(), b"yyy");
    let all = host.power_cut(0, Policy::KeepAll);
    assert_eq!(
        (names(&all).as_str(), all.read_file("/b").unwrap().len()),
        ("b", 1)
    );
}

#[test]
fn chance_keeps_sectors_old_or_new_and_any_length_between() {
    let (host, dir) = new();
    let f = durable(&dir, "a", &[1; 10_000]);
    f.write_all_at(&[2; 20_000], 0).unwrap();
    let (mut lengths, mut first_pages, mut torn) = (BTreeSet::new(), BTreeSet::new(), 0);
    for seed in SEEDS {
        let data = host
            .power_cut(seed, Policy::Random)
            .read_file("/a")
            .unwrap();
        assert!((10_000..=20_000).contains(&data.len()), "seed {seed}");
        for (i, sector) in data.chunks(512).enumerate() {
            let old = |at: usize| if at < 10_000 { 1 } else { 0 };
            let is_old = (0..sector.len()).all(|b| sector[b] == old(i * 512 + b));
            assert!(
                is_old || sector.iter().all(|b| *b == 2),
                "seed {seed} sector {i}"
            );
        }
        torn += usize::from(data[..4096].contains(&1) && data[..4096].contains(&2));
        first_pages.insert((data[0], data[4096]));
        lengths.insert(data.len());
    }
    assert!(
        lengths.len() > 50 && lengths.contains(&10_000) && lengths.contains(&20_000),
        "{lengths:?}"
    );
    assert_eq!(first_pages.len(), 4, "pages are kept one by one");
    assert!(torn > 10);
}

#[test]
fn bytes_behind_an_unsynced_cut_come_back_only_if_the_cut_was_lost() {
    let (host, dir) = new();
    let f = durable(&dir, "a", &[1; 8192]);
    f.set_len(4096).unwrap();
    f.set_len(16_384).unwrap();
    f.write_all_at(&[2; 512], 0).unwrap();
    f.write_all_at(&[2; 4096], 8192).unwrap();
    let mut seen = BTreeSet::new();
    for seed in SEEDS {
        let data = host
            .power_cut(seed, Policy::Random)
            .read_file("/a")
            .unwrap();
        let old = data[4096..].contains(&1);
        assert!(
            !old || data[512..] == [1; 8192 - 512],
            "seed {seed}: old bytes after the cut"
        );
        seen.insert((old, data[0], data[4096..].contains(&2)));
    }
    // The cut was lost, a page in front of it not; else all four.
    let lost = [(true, 1, false), (true, 2, false)];
    let kept = [1, 2].map(|page| [(false, page, false), (false, page, true)]);
    assert_eq!(seen, lost.into_iter().chain(kept.concat()).collect());
    f.sync().unwrap();
    let kept = host
        .power_cut(0, Policy::KeepNothing)
        .read_file("/a")
        .unwrap();
    assert_eq!(kept, host.read_file("/a").unwrap());
}

#[test]
fn changes_of_a_directory_survive_in_their_order() {
    let (host, dir) = new();
    for name in ["a", "b", "c"] {
        dir.create(name).unwrap();
    }
    let seen: BTreeSet<_> = SEEDS
        .map(|s| names(&host.power_cut(s, Policy::Random)))
        .collect();
    assert_eq!(seen, ["", "a", "ab", "abc"].map(String::from).into());
}

#[test]
fn rename_in_a_directory_is_atomic_and_between_two_is_not() {
    let (host, dir) = new();
    durable(&dir, "a", b"new");
    durable(&dir, "b", b"old");
    dir.make_dir("d").unwrap();
    dir.sync().unwrap();
    dir.rename("a", "b").unwrap();
    let seen: BTreeSet<_> = SEEDS
        .map(|s| {
            let h = host.power_cut(s, Policy::Random);
            (names(&h), h.read_file("/b").unwrap())
        })
        .collect();
    let both = [
        ("abd".to_string(), b"old".to_vec()),
        ("bd".into(), b"new".to_vec()),
    ];
    assert_eq!(seen, both.into());
    dir.sync().unwrap();
    let d = dir.open_dir("d").unwrap();
    dir.rename_to("b", &*d, "x").unwrap();
    let seen: BTreeSet<_> = SEEDS
        .map(|s| {
            let h = host.power_cut(s, Policy::Random);
            (h.read_file("/b").is_ok(), h.read_file("/d/x").is_ok())
        })
        .collect();
    assert_eq!(seen.len(), 4);
}

#[test]
fn files_and_directories_survive_independently() {
    let (host, dir) = new();
    let f = dir.create("a").unwrap();
    f.write_all_at(b"x", 0).unwrap();
    let seen: BTreeSet<_> = SEEDS
        .map(|s| {
            host.power_cut(s, Policy::Random)
                .read_file("/a")
                .unwrap_or(vec![9])
        })
        .collect();
    // No name; a name without content; a length without content; all of it.
    assert_eq!(seen, [vec![9], vec![], vec![0], vec![b'x']].into());
}

#[test]
fn the_same_seed_cuts_in_the_same_way_and_leaves_the_original_alone() {
    let (host, dir) = new();
    durable(&dir, "a", &[1; 9000])
        .write_all_at(&[2; 9000], 50)
        .unwrap();
    for seed in 0..20 {
        let once = host
            .power_cut(seed, Policy::Random)
            .read_file("/a")
            .unwrap();
        let again = host
            .power_cut(seed, Policy::Random)
            .read_file("/a")
            .unwrap();
        assert_eq!(once, again);
    }
    assert_eq!(&host.read_file("/a").unwrap()[50..], [2; 9000]);
    dir.create("b").unwrap();
}

#[test]
fn a_failed_sync_loses_the_data_though_later_ones_succeed() {
    let (host, dir) = new();
    let f = durable(&dir, "a", &[1; 4096]);
    f.write_all_at(&[2; 8192], 0).unwrap();
    host.fail_next(Fault::Errno(EIO));
    assert_eq!(f.sync().unwrap_err().raw_os_error(), Some(EIO));
    f.sync().unwrap();
    assert_eq!(
        host.read_file("/a").unwrap(),
        [2; 8192],
        "the cache still shows it"
    );
    let after = host.power_cut(0, Policy::KeepAll).read_file("/a").unwrap();
    assert_eq!(
        (&after[..4096], &after[4096..]),
        (&[1; 4096][..], &[0; 4096][..])
    );
    f.drop_cache(4096);
    assert_eq!(f.map().unwrap()[4095..4097], [2, 0]);
    f.drop_cache(0);
    assert_eq!(&f.map().unwrap()[..], after);
    f.write_all_at(&[3], 0).unwrap();
    f.drop_cache(0);
    assert_eq!(
        f.map().unwrap()[..2],
        [3, 1],
        "a page not yet written stays"
    );
}

#[test]
fn a_failed_sync_of_a_directory_loses_its_changes() {
    let (host, dir) = new();
    dir.create("a").unwrap();
    host.fail_next(Fault::Errno(EIO));
    dir.sync().unwrap_err();
    dir.rename("a", "c").unwrap();
    dir.create("b").unwrap();
    dir.sync().unwrap();
    assert_eq!(names(&host), "bc");
    assert_eq!(names(&host.power_cut(0, Policy::KeepAll)), "b");
}

#[test]
fn sync_filesystem_keeps_everything() {
    let (host, dir) = new();
    dir.make_dir("d").unwrap();
    let d = dir.open_dir("d").unwrap();
    d.create("a").unwrap().write_all_at(b"x", 0).unwrap();
    d.sync_filesystem().unwrap();
    let after = host.power_cut(0, Policy::KeepNothing);
    assert_eq!(after.read_file("/d/a").unwrap(), b"x");
}

#[test]
fn after_a_crash_every_call_fails_and_nothing_is_done() {
    let (host, dir) = new();
    let f = dir.create("a").unwrap();
    f.write_all_at(b"1", 0).unwrap();
    host.fail_next(Fault::Crash);
    assert!(!host.crashed());
    assert!(f.write_at(b"2", 0).is_err() && host.crashed());
    let failures = [
        f.read_at(&mut [0], 0).map(drop),
        f.sync(),
        f.lock(Lock::Shared, Wait::No).map(drop),
        f.meta().map(drop),
        dir.list().map(drop),
        dir.stat("a").map(drop),
        dir.create("b").map(drop),
        host.open_dir(Path::new("/")).map(drop),
    ];
    assert!(failures.iter().all(Result::is_err));
    let all = host.power_cut(0, Policy::KeepAll);
    assert_eq!(
        (names(&all).as_str(), all.read_file("/a").unwrap()),
        ("a", b"1".to_vec())
    );
    root(&all).create("b").unwrap();
}

#[test]
fn kill_keeps_the_cache_and_the_boot_and_frees_the_locks() {
    let (host, dir) = new();
    let other = host.process();
    let f = dir.create("a").unwrap();
    f.write_all_at(b"x", 0).unwrap();
    assert!(f.lock(Lock::Exclusive, Wait::No).unwrap() && f.lock_ofd_shared().unwrap());
    let g = root(&other).open("a", Access::Read).unwrap();
    assert!(!g.lock(Lock::Shared, Wait::No).unwrap());
    assert!(!host.set_broker_lock("/a", true).unwrap());
    host.fail_next(Fault::Crash);
    f.sync().unwrap_err();
    let next = host.kill();
    assert!(g.lock(Lock::Shared, Wait::No).unwrap());
    assert!(host.set_broker_lock("/a", true).unwrap());
    assert!(f.unlock().is_err() && dir.list().is_err(), "dead");
    assert_eq!(next.read_file("/a").unwrap(), b"x");
    assert_eq!(next.boot_id(), other.boot_id());
    assert_ne!(next.pid(), host.pid());
    drop(f);
    assert!(!g.lock_ofd_shared().unwrap(), "the broker has it");
}

#[test]
fn a_wait_that_could_not_end_is_an_error() {
    let (host, dir) = new();
    let f = dir.create("a").unwrap();
    assert!(f.lock(Lock::Exclusive, Wait::Forever).unwrap());
    let g = root(&host.process()).open("a", Access::Write).unwrap();
    let e = g.lock(Lock::Exclusive, Wait::Forever).unwrap_err();
    assert_eq!(e.kind(), io::ErrorKind::Deadlock);
}

#[test]
fn a_short_write_waits_for_a_write_and_brings_the_next_fault() {
    let (host, dir) = new();
    host.fail_next(Fault::ShortWrite(3, After::Errno(EIO)));
    let f = dir.create("a").unwrap();
    let e = f.write_all_at(b"abcdef", 0).unwrap_err();
    assert_eq!(e.raw_os_error(), Some(EIO));
    assert_eq!(host.read_file("/a").unwrap(), b"abc");
    f.write_all_at(b"abcdef", 0).unwrap();
    host.fail_next(Fault::ShortWrite(1, After::Crash));
    f.write_all_at(b"xyz", 0).unwrap_err();
    let next = host.kill();
    assert_eq!(next.read_file("/a").unwrap(), b"xbcdef");
}

#[test]
fn a_full_disk_takes_what_needs_no_room_until_it_is_freed() {
    let (host, dir) = new();
    let f = dir.create("a").unwrap();
    f.write_all_at(&[1; 5000], 0).unwrap();
    host.fail_next(Fault::Full);
    assert_eq!(f.write_at(&[2; 5000], 5000).unwrap(), 8192 - 5000);
    let full = |r: io::Result<()>| assert_eq!(r.unwrap_err().kind(), io::ErrorKind::StorageFull);
    full(f.write_at(&[2], 8192).map(drop));
    full(dir.create("b").map(drop));
    full(dir.make_dir("d"));
    f.write_all_at(&[3; 5000], 0).unwrap();
    f.set_len(100).unwrap();
    f.sync().unwrap();
    dir.rename("a", "c").unwrap();
    dir.unlink("c").unwrap();
    dir.sync().unwrap();
    host.free();
    dir.create("b").unwrap();
}

#[test]
fn a_read_only_disk_takes_nothing() {
    let (host, dir) = new();
    let f = dir.create("a").unwrap();
    host.set_read_only(true);
    let calls = host.calls();
    let refused = |r: io::Result<()>| {
        assert_eq!(r.unwrap_err().kind(), io::ErrorKind::ReadOnlyFilesystem);
    };
    refused(f.write_at(b"x", 0).map(drop));
    refused(dir.open("a", Access::Write).map(drop));
    refused(dir.create("b").map(drop));
    refused(dir.unlink("a"));
    f.sync().unwrap();
    dir.open("a", Access::Read).unwrap();
    assert_eq!(host.calls(), calls);
    host.set_read_only(false);
    f.write_at(b"x", 0).unwrap();
}

#[test]
fn each_mutating_call_is_counted_once_and_no_other() {
    let (host, dir) = new();
    let mut calls = 0;
    let mut counted = |verb: &str| {
        calls += 1;
        assert_eq!(host.calls(), calls, "{:?}", host.trace());
        let last = host.trace().pop().unwrap();
        assert!(last.starts_with(&format!("{calls} {verb} /")), "{last}");
    };
    let f = dir.create("a").unwrap();
    counted("create");
    f.write_at(b"xyz", 1).unwrap();
    counted("write");
    f.set_len(2).unwrap();
    counted("set_len");
    f.set_mtime_ms(5).unwrap();
    counted("set_mtime");
    f.sync().unwrap();
    counted("sync");
    dir.link_to("a", &*dir, "l").unwrap();
    counted("link");
    dir.rename("a", "b").unwrap();
    counted("rename");
    dir.unlink("b").unwrap();
    counted("unlink");
    dir.make_dir("d").unwrap();
    counted("make_dir");
    dir.remove_dir("d").unwrap();
    counted("remove_dir");
    dir.sync().unwrap();
    counted("sync");
    dir.sync_filesystem().unwrap();
    counted("sync");
    f.read_at(&mut [0], 0).unwrap();
    f.lock(Lock::Shared, Wait::No).unwrap();
    f.drop_cache(0);
    dir.open("l", Access::Write).unwrap();
    dir.list().unwrap();
    assert_eq!(host.calls(), calls);
    assert_eq!(host.trace()[1], "2 write /a 1+3");
}

#[test]
fn a_power_cut_starts_another_boot() {
    let host = SimHost::new();
    host.advance(10_000_000);
    let after = host.power_cut(1, Policy::KeepAll);
    let later = after.power_cut(1, Policy::KeepAll);
    let ids: BTreeSet<_> = [&host, &after, &later].map(|h| h.boot_id()).into();
    assert_eq!(ids.len(), 3);
    assert_eq!(after.wall_ms(), host.wall_ms() + 60_000);
    assert!(after.boot_ms() < host.boot_ms());
    after.set_wall_ms(5);
    assert_eq!((after.wall_ms(), after.boot_ms()), (5, FIRST_BOOT_MS));
    assert_ne!(SimHost::seeded(1).boot_id(), host.boot_id());
}

#[test]
fn edit_is_damage_that_a_power_cut_keeps() {
    let (host, dir) = new();
    durable(&dir, "a", b"abc");
    host.edit("/a", |bytes| bytes[1] ^= 0xff).unwrap();
    let after = host.power_cut(0, Policy::KeepNothing);
    assert_eq!(after.read_file("/a").unwrap(), [b'a', b'b' ^ 0xff, b'c']);
}

#[test]
fn modes_set_by_a_test_are_followed() {
    let (host, dir) = new();
    host.set_mode("/", 0o2772).unwrap();
    assert!(!dir.is_safe_for_root().unwrap());
    assert_eq!(dir.create("a").unwrap().meta().unwrap().mode, 0o660);
    dir.make_dir("d").unwrap();
    assert_eq!(dir.stat("d").unwrap().unwrap().mode, 0o2770);
}
