//! A machine of which one directory is all there is.
//!
//! Owns the way from a path to a directory where the path comes from somebody who may see that directory
//! and nothing else. Paths are relative to it. openat2(2) resolves them *beneath* it: a symbolic link, or
//! `..`, that leads out is an error, whoever put it there and whenever. On a kernel without that call
//! (before 5.6), or in a sandbox that forbids it, each component is opened by itself and no link is
//! followed at all.
//!
//! What is opened below a directory goes by single names and follows no link anyway
//! ([`Dir`](super::Dir)), so there is no other way out.
//!
//! Paths are kept as they were given; the process is expected to work in that directory.

use super::real::RealDir;
use super::{Dir, Host, RealHost, refused};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path};
use std::sync::Arc;

/// How often a path is tried again while somebody renames what is on it.
const TRIES: usize = 16;

/// This machine, as far as it lies in one directory.
#[derive(Debug)]
pub struct ConfinedHost {
    root: OwnedFd,
}

impl ConfinedHost {
    /// The directory that this process works in.
    ///
    /// # Errors
    /// What open(2) answers.
    pub fn here() -> io::Result<ConfinedHost> {
        let root = rustix::fs::open(".", flags(false), Mode::empty())?;
        Ok(ConfinedHost { root })
    }

    fn open(&self, path: &Path, search: bool) -> io::Result<OwnedFd> {
        let path = match path.as_os_str().is_empty() {
            true => Path::new("."),
            false => path,
        };
        for _ in 0..TRIES {
            let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
            match rustix::fs::openat2(&self.root, path, flags(search), Mode::empty(), beneath) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(Errno::XDEV) => return Err(outside()),
                Err(Errno::NOSYS | Errno::PERM) => return self.step_by_step(path, search),
                other => return Ok(other?),
            }
        }
        Err(Errno::AGAIN.into())
    }

    fn step_by_step(&self, path: &Path, search: bool) -> io::Result<OwnedFd> {
        let mut at = rustix::fs::openat(&self.root, ".", flags(search), Mode::empty())?;
        for component in path.components() {
            match component {
                Component::CurDir => {}
                Component::Normal(name) => {
                    let flags = flags(search) | OFlags::NOFOLLOW;
                    at = rustix::fs::openat(&at, name, flags, Mode::empty())?;
                }
                _ => return Err(outside()),
            }
        }
        Ok(at)
    }
}

fn flags(search: bool) -> OFlags {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    if search { flags | OFlags::PATH } else { flags }
}

fn outside() -> io::Error {
    refused("leads out of the directory that may be seen")
}

impl Host for ConfinedHost {
    fn open_dir(&self, path: &Path) -> io::Result<Arc<dyn Dir>> {
        let fd = self.open(path, false)?;
        Ok(Arc::new(RealDir::new(fd, path.to_path_buf())))
    }

    fn open_dir_to_search(&self, path: &Path) -> io::Result<Arc<dyn Dir>> {
        let fd = self.open(path, true)?;
        Ok(Arc::new(RealDir::new(fd, path.to_path_buf())))
    }

    fn real_name(&self, path: &Path) -> io::Result<Option<String>> {
        let fd = self.open(path, true)?;
        let real = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))?;
        let name = real.file_name().and_then(|n| n.to_str());
        Ok(name.map(str::to_string))
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        let name = path.file_name().and_then(|n| n.to_str());
        let name = name.ok_or(io::ErrorKind::InvalidInput)?;
        let parent = self.open_dir(path.parent().unwrap_or(Path::new("")))?;
        parent.make_dir(name)?;
        parent.sync()
    }

    fn wall_ms(&self) -> i64 {
        RealHost.wall_ms()
    }

    fn boot_ms(&self) -> i64 {
        RealHost.boot_ms()
    }

    fn boot_id(&self) -> [u8; 16] {
        RealHost.boot_id()
    }

    fn random_id(&self) -> io::Result<[u8; 16]> {
        RealHost.random_id()
    }

    fn pid(&self) -> u32 {
        RealHost.pid()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    type Open = fn(&ConfinedHost, &Path) -> io::Result<OwnedFd>;

    /// Both ways to open a path.
    const WAYS: [Open; 2] = [
        |host, path| host.open(path, false),
        |host, path| host.step_by_step(path, false),
    ];

    #[test]
    fn no_path_leads_out() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("root");
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::create_dir(temp.path().join("out-0")).unwrap();
        let link = |to: &str, name: &str| symlink(to, root.join(name)).unwrap();
        link("..", "up");
        link("../out-0", "side");
        link("/etc", "etc");
        link("/proc/self/root", "proc");
        link("a/../../out-0", "winding");
        link("etc", "twice");
        let fd = rustix::fs::open(&root, flags(false), Mode::empty()).unwrap();
        let host = ConfinedHost { root: fd };
        let absolute = temp.path().join("out-0");
        for open in WAYS {
            for path in ["", ".", "a", "a/b", "./a/./b", "a//b/"] {
                assert!(open(&host, Path::new(path)).is_ok(), "{path}");
            }
            for path in [
                "..",
                "../out-0",
                "a/../..",
                "a/../../out-0",
                "/",
                "/etc",
                "up",
                "up/out-0",
                "side",
                "etc",
                "proc",
                "proc/etc",
                "winding",
                "twice",
                absolute.to_str().unwrap(),
            ] {
                assert!(open(&host, Path::new(path)).is_err(), "{path}");
            }
        }
        // A link that stays inside is the owner's own affair.
        link("a", "inside");
        assert!(host.open_dir(Path::new("inside/b")).is_ok());
        assert_eq!(host.real_name(Path::new("inside")).unwrap().unwrap(), "a");
        assert!(host.real_name(Path::new("etc")).is_err());
        assert!(host.make_dir(Path::new("up/x-0")).is_err());
        assert!(host.make_dir(Path::new("new-0")).is_ok() && root.join("new-0").is_dir());
    }
}
