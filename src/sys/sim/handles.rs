//! Directories and files of the disk in memory, held open by a process.
//!
//! Owns the order of things in each call: is the process alive, is the call counted and does it meet
//! a fault, is there room, and then what the disk makes of it.

use super::disk::{Body, Content, Names, Outcome};
use super::{Held, Machine, SimHost};
use crate::sys::{Access, Bytes, Dir, File, FsKind, Lock, Meta, Wait, check_name, refused};
use nix::errno::Errno;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) struct SimDir {
    pub process: SimHost,
    pub node: u64,
    pub path: PathBuf,
}

impl SimDir {
    /// A mutating call: counted, and then done.
    fn mutate<T>(
        &self,
        verb: &str,
        name: &str,
        act: impl FnOnce(&mut Machine) -> Outcome<T>,
    ) -> io::Result<T> {
        let mut m = self.process.machine();
        let what = self.path.join(name);
        m.count(self.process.pid, verb, &what.to_string_lossy())?;
        Ok(act(&mut m)?)
    }

    fn look<T>(&self, act: impl FnOnce(&Machine) -> Outcome<T>) -> io::Result<T> {
        let m = self.process.machine();
        m.alive(self.process.pid)?;
        Ok(act(&m)?)
    }

    fn handle(&self, node: u64, name: &str, access: Access) -> Box<dyn File> {
        Box::new(SimFile {
            process: self.process.same(),
            node,
            handle: self.process.machine().new_id(),
            access,
            path: self.path.join(name),
        })
    }

    /// The node of another directory of this machine.
    fn node_of(other: &dyn Dir) -> io::Result<u64> {
        match other.fd() {
            Some(_) => Err(Errno::EXDEV.into()),
            None => Ok(other.id()?.ino),
        }
    }
}

impl Dir for SimDir {
    fn path(&self) -> &Path {
        &self.path
    }

    fn meta(&self) -> io::Result<Meta> {
        self.look(|m| m.meta(self.node))
    }

    fn is_current(&self) -> io::Result<bool> {
        self.look(|m| Ok(m.resolve(&self.path) == Ok(self.node)))
    }

    fn is_safe_for_root(&self) -> io::Result<bool> {
        Ok(self.meta()?.mode & 0o002 == 0)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.look(|m| Ok(m.disk.names(self.node)?.seen.keys().cloned().collect()))
    }

    fn stat(&self, name: &str) -> io::Result<Option<Meta>> {
        check_name(name)?;
        self.look(|m| match m.disk.lookup(self.node, name) {
            Ok(n) => m.meta(n).map(Some),
            Err(Errno::ENOENT) => Ok(None),
            Err(e) => Err(e),
        })
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Box<dyn File>> {
        check_name(name)?;
        let meta = self.look(|m| m.meta(m.disk.lookup(self.node, name)?))?;
        if !meta.is_file {
            return Err(refused("not a regular file"));
        }
        if access == Access::Write {
            if self.look(|m| Ok(m.read_only))? {
                return Err(Errno::EROFS.into());
            }
            if meta.nlink > 1 {
                return Err(refused("has more than one link"));
            }
        }
        Ok(self.handle(meta.id.ino, name, access))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn File>> {
        check_name(name)?;
        let node = self.mutate("create", name, |m| {
            m.room()?;
            let body = Body::File(Content::default());
            m.disk.make(self.node, name, body, m.wall_ms)
        })?;
        Ok(self.handle(node, name, Access::Write))
    }

    fn rename_to(&self, from: &str, other: &dyn Dir, to: &str) -> io::Result<()> {
        check_name(from)?;
        check_name(to)?;
        let other = SimDir::node_of(other)?;
        self.mutate("rename", &format!("{from} {to}"), |m| {
            m.disk.rename((self.node, from), (other, to))
        })
    }

    fn link_to(&self, from: &str, other: &dyn Dir, to: &str) -> io::Result<()> {
        check_name(from)?;
        check_name(to)?;
        let other = SimDir::node_of(other)?;
        self.mutate("link", &format!("{from} {to}"), |m| {
            m.room()?;
            m.disk.link((self.node, from), (other, to))
        })
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        self.mutate("unlink", name, |m| m.disk.unlink(self.node, name))
    }

    fn make_dir(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        self.mutate("make_dir", name, |m| {
            m.room()?;
            let body = Body::Dir(Names::default());
            m.disk.make(self.node, name, body, m.wall_ms).map(drop)
        })
    }

    fn remove_dir(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        self.mutate("remove_dir", name, |m| m.disk.remove_dir(self.node, name))
    }

    fn open_dir(&self, name: &str) -> io::Result<Arc<dyn Dir>> {
        check_name(name)?;
        let node = self.look(|m| {
            let node = m.disk.lookup(self.node, name)?;
            m.disk.names(node).map(|_| node)
        })?;
        Ok(Arc::new(SimDir {
            process: self.process.same(),
            node,
            path: self.path.join(name),
        }))
    }

    fn sync(&self) -> io::Result<()> {
        let mut m = self.process.machine();
        m.sync(self.process.pid, &self.path, &[self.node])
    }

    fn sync_filesystem(&self) -> io::Result<()> {
        let mut m = self.process.machine();
        let all = m.disk.all();
        m.sync(self.process.pid, &self.path, &all)
    }

    fn kind_of_fs(&self) -> io::Result<FsKind> {
        Ok(FsKind::Local)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn as_dyn(&self) -> &dyn Dir {
        self
    }
}

impl Machine {
    fn sync(&mut self, pid: u32, what: &Path, nodes: &[u64]) -> io::Result<()> {
        // A read-only disk has nothing to sync, and says so by success.
        if self.read_only {
            return self.alive(pid);
        }
        let counted = self.count(pid, "sync", &what.to_string_lossy());
        let counted = counted.map(drop);
        for &n in nodes {
            match &counted {
                Ok(()) => self.disk.sync(n)?,
                Err(_) if self.crashed || self.dead.contains(&pid) => {}
                Err(_) => self.disk.give_up(n)?,
            }
        }
        counted
    }
}

struct SimFile {
    process: SimHost,
    node: u64,
    /// Which open file it is, for locks.
    handle: u32,
    access: Access,
    path: PathBuf,
}

impl SimFile {
    fn look<T>(&self, act: impl FnOnce(&Machine) -> Outcome<T>) -> io::Result<T> {
        let m = self.process.machine();
        m.alive(self.process.pid)?;
        Ok(act(&m)?)
    }

    fn writable(&self) -> Outcome<()> {
        match self.access {
            Access::Read => Err(Errno::EBADF),
            Access::Write => Ok(()),
        }
    }

    fn held(&self, how: Lock) -> Held {
        Held {
            node: self.node,
            handle: self.handle,
            pid: self.process.pid,
            how,
        }
    }

    /// A mutating call: counted, and then done with the number of bytes that a write may take.
    fn mutate<T>(
        &self,
        verb: &str,
        detail: String,
        act: impl FnOnce(&mut Machine, usize) -> Outcome<T>,
    ) -> io::Result<T> {
        let mut m = self.process.machine();
        let what = format!("{} {detail}", self.path.display());
        let limit = m.count(self.process.pid, verb, &what)?;
        Ok(act(&mut m, limit)?)
    }
}

impl File for SimFile {
    fn read_at(&self, buf: &mut [u8], pos: u64) -> io::Result<usize> {
        self.look(|m| {
            let bytes = &m.disk.content(self.node)?.seen;
            let from = usize::try_from(pos).unwrap_or(usize::MAX).min(bytes.len());
            let bytes = bytes.get(from..).unwrap_or_default();
            let n = bytes.len().min(buf.len());
            for (into, byte) in buf.iter_mut().zip(bytes) {
                *into = *byte;
            }
            Ok(n)
        })
    }

    fn write_at(&self, buf: &[u8], pos: u64) -> io::Result<usize> {
        self.writable()?;
        if buf.is_empty() {
            return Ok(0);
        }
        let detail = format!("{pos}+{}", buf.len());
        self.mutate("write", detail, |m, limit| {
            let full = m.full;
            let content = m.disk.content_mut(self.node)?;
            // A full disk still has the room at the end of a file's last block.
            let room = match full {
                true => content.len().next_multiple_of(4096).saturating_sub(pos),
                false => u64::MAX,
            };
            let room = usize::try_from(room).unwrap_or(usize::MAX);
            let n = buf.len().min(limit).min(room);
            match buf.get(..n) {
                Some(part) if n > 0 => content.write(pos, part)?,
                _ if room == 0 => return Err(Errno::ENOSPC),
                _ => {}
            }
            m.touch(self.node)?;
            Ok(n)
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.writable()?;
        self.mutate("set_len", len.to_string(), |m, _| {
            m.disk.content_mut(self.node)?.set_len(len)?;
            m.touch(self.node)
        })
    }

    fn sync(&self) -> io::Result<()> {
        let mut m = self.process.machine();
        m.sync(self.process.pid, &self.path, &[self.node])
    }

    fn meta(&self) -> io::Result<Meta> {
        self.look(|m| m.meta(self.node))
    }

    /// Nobody can free a lock while the one thread of a test waits, so it does not: `Until` is over
    /// at once and `Forever` is EDEADLK, `Firmly` or not.
    fn lock(&self, how: Lock, wait: Wait) -> io::Result<bool> {
        let mut m = self.process.machine();
        m.alive(self.process.pid)?;
        let taken = m.locks.iter().any(|l| {
            let both_shared = how == Lock::Shared && l.how == Lock::Shared;
            l.node == self.node && l.handle != self.handle && !both_shared
        });
        if taken {
            return match wait {
                Wait::Forever | Wait::Firmly => Err(Errno::EDEADLK.into()),
                Wait::No | Wait::Until(_) | Wait::FirmlyUntil(_) => Ok(false),
            };
        }
        m.locks.retain(|l| l.handle != self.handle);
        m.locks.push(self.held(how));
        Ok(true)
    }

    fn unlock(&self) -> io::Result<()> {
        let mut m = self.process.machine();
        m.alive(self.process.pid)?;
        m.locks.retain(|l| l.handle != self.handle);
        Ok(())
    }

    fn lock_ofd_shared(&self) -> io::Result<bool> {
        let mut m = self.process.machine();
        m.alive(self.process.pid)?;
        if m.broker.contains(&self.node) {
            return Ok(false);
        }
        m.shared_ofd.push(self.held(Lock::Shared));
        Ok(true)
    }

    fn drop_cache(&self, pos: u64) {
        let mut m = self.process.machine();
        if m.alive(self.process.pid).is_ok()
            && let Ok(content) = m.disk.content_mut(self.node)
        {
            content.drop_cache(pos);
        }
    }

    fn advise_sequential(&self) {}

    fn map(&self) -> io::Result<Bytes> {
        self.look(|m| Ok(m.disk.content(self.node)?.seen.clone().into()))
    }

    fn set_mtime_ms(&self, ms: i64) -> io::Result<()> {
        self.mutate("set_mtime", ms.to_string(), |m, _| {
            m.disk.node_mut(self.node)?.mtime_ms = ms;
            Ok(())
        })
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut m = self.process.machine();
        m.locks.retain(|l| l.handle != self.handle);
        m.shared_ofd.retain(|l| l.handle != self.handle);
    }
}
