//! Promises that every [`Dir`] and [`File`](super::File) keeps, run on the machine and on the disk
//! in memory: what holds on one twin only would make every test that trusts the other worthless.

use super::{Access, Dir, Host, Lock, Wait};
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// An empty directory on a host. The last field keeps what must live as long.
struct Twin {
    name: &'static str,
    host: Box<dyn Host>,
    dir: Arc<dyn Dir>,
    _keep: Box<dyn std::any::Any>,
}

fn real() -> Twin {
    let temp = tempfile::tempdir().unwrap();
    let host = super::RealHost;
    let dir = host.open_dir(temp.path()).unwrap();
    Twin {
        name: "real",
        host: Box::new(host),
        dir,
        _keep: Box::new(temp),
    }
}

fn sim() -> Twin {
    let host = super::sim::SimHost::new();
    let dir = host.open_dir("/".as_ref()).unwrap();
    Twin {
        name: "sim",
        host: Box::new(host),
        dir,
        _keep: Box::new(()),
    }
}

fn twins() -> Vec<Twin> {
    vec![real(), sim()]
}

#[test]
fn written_bytes_are_read_back_at_their_positions() {
    for t in twins() {
        let f = t.dir.create("a").unwrap();
        f.write_all_at(b"hello", 3).unwrap();
        let mut buf = [9; 16];
        assert_eq!(f.read_full_at(&mut buf, 0).unwrap(), 8, "{}", t.name);
        assert_eq!(&buf[..8], b"\0\0\0hello");
        assert_eq!(f.read_at(&mut buf, 8).unwrap(), 0);
        assert_eq!(f.read_at(&mut buf, 1 << 40).unwrap(), 0);
        let e = f.read_exact_at(&mut buf[..6], 3).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::UnexpectedEof);
        f.read_exact_at(&mut buf[..5], 3).unwrap();
        assert_eq!(&f.map().unwrap()[3..], b"hello");
    }
}

#[test]
fn set_len_cuts_and_extends_by_zeros() {
    for t in twins() {
        let f = t.dir.create("a").unwrap();
        f.write_all_at(b"abcdef", 0).unwrap();
        f.set_len(2).unwrap();
        f.set_len(4).unwrap();
        assert_eq!(&*f.map().unwrap(), b"ab\0\0", "{}", t.name);
        f.set_len(0).unwrap();
        assert_eq!((f.len().unwrap(), f.map().unwrap().len()), (0, 0));
    }
}

#[test]
fn create_refuses_a_name_that_is_taken() {
    for t in twins() {
        t.dir.create("a").unwrap();
        let e = t.dir.create("a").err().unwrap();
        assert_eq!(e.kind(), ErrorKind::AlreadyExists, "{}", t.name);
        t.dir.make_dir("d").unwrap();
        let e = t.dir.make_dir("d").unwrap_err();
        assert_eq!(e.kind(), ErrorKind::AlreadyExists);
        t.dir.open_or_create("a").unwrap();
        t.dir.open_or_create("b").unwrap();
        let e = t.dir.open("c", Access::Write).err().unwrap();
        assert_eq!(e.kind(), ErrorKind::NotFound);
    }
}

#[test]
fn names_with_a_path_in_them_are_refused_by_every_verb() {
    for t in twins() {
        t.dir.create("a").unwrap();
        for bad in ["", ".", "..", "x/y", "/x", "x\0"] {
            let results = [
                t.dir.create(bad).map(drop),
                t.dir.open(bad, Access::Read).map(drop),
                t.dir.open_or_create(bad).map(drop),
                t.dir.open_dir(bad).map(drop),
                t.dir.stat(bad).map(drop),
                t.dir.rename("a", bad),
                t.dir.rename(bad, "a"),
                t.dir.link_to("a", &*t.dir, bad),
                t.dir.unlink(bad),
                t.dir.make_dir(bad),
                t.dir.remove_dir(bad),
            ];
            for (verb, r) in results.into_iter().enumerate() {
                let kind = r.unwrap_err().kind();
                assert_eq!(
                    kind,
                    ErrorKind::InvalidInput,
                    "{} {bad:?} verb {verb}",
                    t.name
                );
            }
        }
    }
}

#[test]
fn rename_replaces_and_open_files_keep_their_content() {
    for t in twins() {
        let old = t.dir.create("old").unwrap();
        old.write_all_at(b"old", 0).unwrap();
        let new = t.dir.create("new").unwrap();
        new.write_all_at(b"new", 0).unwrap();
        t.dir.rename("new", "old").unwrap();
        let now = t.dir.open("old", Access::Read).unwrap();
        assert_eq!(&*now.map().unwrap(), b"new", "{}", t.name);
        assert_eq!(&*old.map().unwrap(), b"old");
        assert_eq!(old.meta().unwrap().nlink, 0);
        assert_eq!(now.meta().unwrap().id, new.meta().unwrap().id);
        assert!(t.dir.stat("new").unwrap().is_none());
        let e = t.dir.rename("new", "x").unwrap_err();
        assert_eq!(e.kind(), ErrorKind::NotFound);
    }
}

#[test]
fn unlink_removes_the_name_only() {
    for t in twins() {
        let f = t.dir.create("a").unwrap();
        f.write_all_at(b"x", 0).unwrap();
        t.dir.unlink("a").unwrap();
        assert_eq!(f.len().unwrap(), 1, "{}", t.name);
        assert!(t.dir.list().unwrap().is_empty());
        let e = t.dir.unlink("a").unwrap_err();
        assert_eq!(e.kind(), ErrorKind::NotFound);
    }
}

#[test]
fn rename_to_moves_between_directories() {
    for t in twins() {
        t.dir.make_dir("d").unwrap();
        let d = t.dir.open_dir("d").unwrap();
        t.dir.create("a").unwrap().write_all_at(b"x", 0).unwrap();
        t.dir.rename_to("a", &*d, "b").unwrap();
        assert_eq!(d.list().unwrap(), ["b"], "{}", t.name);
        assert_eq!(t.dir.list().unwrap(), ["d"]);
        let e = t.dir.remove_dir("d").unwrap_err();
        assert_eq!(e.kind(), ErrorKind::DirectoryNotEmpty);
        d.unlink("b").unwrap();
        t.dir.remove_dir("d").unwrap();
    }
}

#[test]
fn a_file_with_two_links_opens_for_reading_only() {
    for t in twins() {
        t.dir.create("a").unwrap();
        t.dir.link_to("a", &*t.dir, "b").unwrap();
        let e = t.dir.open("b", Access::Write).err().unwrap();
        assert_eq!(e.kind(), ErrorKind::PermissionDenied, "{}", t.name);
        let b = t.dir.open("b", Access::Read).unwrap();
        assert_eq!(b.meta().unwrap().nlink, 2);
        t.dir.unlink("a").unwrap();
        t.dir.open("b", Access::Write).unwrap();
    }
}

#[test]
fn a_directory_is_no_file_and_a_file_no_directory() {
    for t in twins() {
        t.dir.make_dir("d").unwrap();
        t.dir.create("f").unwrap();
        for access in [Access::Read, Access::Write] {
            let e = t.dir.open("d", access).err().unwrap();
            assert_eq!(e.kind(), ErrorKind::PermissionDenied, "{}", t.name);
        }
        let e = t.dir.open_dir("f").err().unwrap();
        assert_eq!(e.kind(), ErrorKind::NotADirectory);
        let d = t.dir.stat("d").unwrap().unwrap();
        let f = t.dir.stat("f").unwrap().unwrap();
        assert!(d.is_dir && !d.is_file && f.is_file && !f.is_dir);
    }
}

#[test]
fn a_directory_knows_when_its_path_leads_elsewhere() {
    for t in twins() {
        t.dir.make_dir("d").unwrap();
        let d = t.dir.open_dir("d").unwrap();
        assert!(d.is_current().unwrap(), "{}", t.name);
        t.dir.rename("d", "e").unwrap();
        assert!(!d.is_current().unwrap());
        t.dir.make_dir("d").unwrap();
        assert!(!d.is_current().unwrap());
        d.create("still-here").unwrap();
        let e = t.dir.open_dir("e").unwrap();
        assert_eq!(e.list().unwrap(), ["still-here"]);
        assert_eq!(e.id().unwrap(), d.id().unwrap());
    }
}

#[test]
fn host_opens_and_makes_directories_by_path() {
    for t in twins() {
        let path = t.dir.path().join("log-0");
        let e = t.host.open_dir(&path).err().unwrap();
        assert_eq!(e.kind(), ErrorKind::NotFound, "{}", t.name);
        t.host.make_dir(&path).unwrap();
        let d = t.host.open_dir(&path).unwrap();
        assert_eq!(d.path(), path);
        let e = t.host.make_dir(&path).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::AlreadyExists);
        let e = t.host.make_dir(&path.join("x/y")).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::NotFound);
    }
}

#[test]
fn modes_come_from_the_directory() {
    for t in twins() {
        let f = t.dir.create("f").unwrap().meta().unwrap();
        t.dir.make_dir("d").unwrap();
        let d = t.dir.stat("d").unwrap().unwrap();
        let parent = t.dir.meta().unwrap();
        assert_eq!(f.mode, 0o600 | parent.mode & 0o060, "{}", t.name);
        assert_eq!(d.mode, 0o700 | parent.mode & 0o2070);
        assert_eq!((f.uid, f.gid), (parent.uid, parent.gid));
        assert!(t.dir.is_safe_for_root().unwrap());
    }
}

#[test]
fn an_exclusive_lock_keeps_out_another_open_of_the_same_file() {
    for t in twins() {
        let a = t.dir.open_or_create("lock").unwrap();
        let b = t.dir.open_or_create("lock").unwrap();
        assert!(a.lock(Lock::Exclusive, Wait::No).unwrap(), "{}", t.name);
        assert!(a.lock(Lock::Exclusive, Wait::No).unwrap()); // again by its holder
        assert!(!b.lock(Lock::Exclusive, Wait::No).unwrap());
        assert!(!b.lock(Lock::Shared, Wait::No).unwrap());
        let soon = Instant::now() + Duration::from_millis(5);
        assert!(!b.lock(Lock::Shared, Wait::Until(soon)).unwrap());
        assert!(Instant::now() >= soon || t.name == "sim");
        a.unlock().unwrap();
        assert!(b.lock(Lock::Shared, Wait::Until(soon)).unwrap());
        assert!(a.lock(Lock::Shared, Wait::Forever).unwrap());
        assert!(!a.lock(Lock::Exclusive, Wait::No).unwrap());
        drop(b);
        assert!(a.lock(Lock::Exclusive, Wait::No).unwrap()); // closing frees
    }
}

#[test]
fn shared_ofd_locks_stand_beside_each_other_and_beside_flock() {
    for t in twins() {
        let a = t.dir.open_or_create("lock").unwrap();
        let b = t.dir.open_or_create("lock").unwrap();
        assert!(a.lock(Lock::Exclusive, Wait::No).unwrap());
        assert!(a.lock_ofd_shared().unwrap(), "{}", t.name);
        assert!(b.lock_ofd_shared().unwrap());
    }
}

#[test]
fn mtime_is_kept_in_milliseconds() {
    for t in twins() {
        let f = t.dir.create("f").unwrap();
        for ms in [1_700_000_000_123, 0, -1500] {
            f.set_mtime_ms(ms).unwrap();
            assert_eq!(f.meta().unwrap().mtime_ms, ms, "{}", t.name);
        }
    }
}

#[test]
fn sync_and_advice_are_accepted() {
    for t in twins() {
        let f = t.dir.create("f").unwrap();
        f.write_all_at(&[7; 10_000], 0).unwrap();
        f.sync().unwrap();
        t.dir.sync().unwrap();
        t.dir.sync_filesystem().unwrap();
        f.drop_cache(4096);
        f.advise_sequential();
        assert_eq!(&*f.map().unwrap(), [7; 10_000], "{}", t.name);
    }
}

#[test]
fn clocks_and_chance_answer() {
    for t in twins() {
        assert!(t.host.wall_ms() > 1_600_000_000_000, "{}", t.name);
        let a = t.host.boot_ms();
        assert!(a >= 0 && t.host.boot_ms() >= a);
        assert_eq!(t.host.boot_id(), t.host.boot_id());
        assert_ne!(t.host.boot_id(), [0; 16]);
        assert_ne!(t.host.random_id().unwrap(), t.host.random_id().unwrap());
    }
}
