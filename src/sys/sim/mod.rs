//! A disk in memory that fails, fills up and loses power when a test says so.
//!
//! A [`SimHost`] is one process on a machine. [`SimHost::process`] starts another one there, which
//! sees the same files and competes for the same locks. The mutating calls of all of them (create,
//! write, set_len, set_mtime, rename, link, unlink, make_dir, remove_dir, and each sync) are
//! counted from 1; [`SimHost::fail_at`] plants a [`Fault`] at one of them. The usual sweep:
//!
//! 1. run the operation once and ask [`SimHost::calls`] how many there were;
//! 2. for each `n` run it on a fresh host with `fail_at(n, Fault::Crash)`;
//! 3. go on with [`SimHost::kill`] (the process died) and with [`SimHost::power_cut`] under each
//!    [`Policy`] (the machine did), and check what must hold.
//!
//! Crashing before call `n + 1` is crashing after call `n`, so no more cases are needed; a write
//! that was done in part is [`Fault::ShortWrite`].
//!
//! What survives a power cut is told in `disk.rs`. Clocks stand still unless [`SimHost::advance`]
//! moves them, and ids come from a counter: a test that fails once fails always.

mod chance;
mod disk;

use super::{Access, Bytes, Dir, File, FileId, FsKind, Host, Lock, Meta, Wait};
use super::{check_name, refused};
use chance::Chance;
use disk::{Body, Content, Disk, Names, Outcome};
use nix::errno::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a planted fault does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// This call and all later ones, reads too, fail and do nothing: everything has stopped.
    Crash,
    /// This call fails with an errno and does nothing; the next ones succeed. A sync that fails
    /// loses the data for good.
    Errno(i32),
    /// The first write from this call on takes only so many bytes (at least 1), and the call after
    /// it meets the other fault.
    ShortWrite(usize, After),
    /// From this call on nothing that needs room succeeds (ENOSPC), until [`SimHost::free`].
    Full,
}

/// What follows a short write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// [`Fault::Crash`].
    Crash,
    /// [`Fault::Errno`].
    Errno(i32),
}

/// What of the unsynced survives a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Only what was synced.
    KeepNothing,
    /// Everything.
    KeepAll,
    /// By chance: each page of each file, some torn between sectors; a length anywhere between the
    /// durable one and the one seen; the first few changes of each directory. Files and
    /// directories do not know of each other.
    Random,
}

/// A process on a machine whose disk is in memory.
#[derive(Debug)]
pub struct SimHost {
    machine: Arc<Mutex<Machine>>,
    pid: u32,
}

#[derive(Debug)]
struct Machine {
    disk: Disk,
    wall_ms: i64,
    boot_ms: i64,
    boot_id: [u8; 16],
    chance: Chance,
    calls: u64,
    trace: Vec<String>,
    faults: BTreeMap<u64, Fault>,
    crashed: bool,
    full: bool,
    read_only: bool,
    dead: BTreeSet<u32>,
    /// Last number given to a process or an open file.
    last_id: u32,
    locks: Vec<Held>,
    /// Shared record locks of open files, and files with the exclusive one of a broker.
    shared_ofd: Vec<Held>,
    broker: BTreeSet<u64>,
}

/// A lock of one open file.
#[derive(Clone, Copy, Debug)]
struct Held {
    node: u64,
    handle: u32,
    pid: u32,
    how: Lock,
}

/// Wall clock of the first boot: 2023-11-14 22:13:20 UTC.
const FIRST_WALL_MS: i64 = 1_700_000_000_000;
/// Boot clock when the first command runs after a boot.
const FIRST_BOOT_MS: i64 = 5_000;
/// How long a machine is off.
const OFF_MS: i64 = 60_000;

impl Default for SimHost {
    fn default() -> SimHost {
        SimHost::new()
    }
}

impl SimHost {
    /// A machine with an empty root directory `/`.
    pub fn new() -> SimHost {
        SimHost::seeded(0)
    }

    /// As [`SimHost::new`]; machines of different seeds make different ids.
    pub fn seeded(seed: u64) -> SimHost {
        let chance = Chance::new(seed);
        SimHost::boot(Disk::new(FIRST_WALL_MS), FIRST_WALL_MS, chance)
    }

    fn boot(disk: Disk, wall_ms: i64, mut chance: Chance) -> SimHost {
        let machine = Machine {
            disk,
            wall_ms,
            boot_ms: FIRST_BOOT_MS,
            boot_id: chance.id(),
            chance,
            calls: 0,
            trace: Vec::new(),
            faults: BTreeMap::new(),
            crashed: false,
            full: false,
            read_only: false,
            dead: BTreeSet::new(),
            last_id: 100,
            locks: Vec::new(),
            shared_ofd: Vec::new(),
            broker: BTreeSet::new(),
        };
        SimHost {
            machine: Arc::new(Mutex::new(machine)),
            pid: 100,
        }
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        lock(&self.machine)
    }

    /// Another process on this machine.
    pub fn process(&self) -> SimHost {
        SimHost {
            machine: Arc::clone(&self.machine),
            pid: self.machine().new_id(),
        }
    }

    /// Ends this process as SIGKILL does (also after [`Fault::Crash`]) and starts another: what was
    /// written stays visible, its locks are free, its open files are of no use any more, the boot
    /// is the same. Faults that were not met stay planted.
    #[must_use]
    pub fn kill(&self) -> SimHost {
        let mut m = self.machine();
        m.dead.insert(self.pid);
        m.locks.retain(|l| l.pid != self.pid);
        m.shared_ofd.retain(|l| l.pid != self.pid);
        m.crashed = false;
        drop(m);
        self.process()
    }

    /// The machine after a power cut and the next boot, without faults: a copy. The original stays
    /// as it is, to be cut in other ways.
    #[must_use]
    pub fn power_cut(&self, seed: u64, policy: Policy) -> SimHost {
        let m = self.machine();
        let mut disk = m.disk.clone();
        disk.power_cut(policy, &mut Chance::new(seed));
        // From the old machine's chance, so that no boot has the id of an earlier one.
        let mut chance = m.chance.clone();
        let chance = Chance::new(chance.next());
        SimHost::boot(disk, m.wall_ms + OFF_MS, chance)
    }

    /// Number of mutating calls on this machine since its boot, failed ones included.
    pub fn calls(&self) -> u64 {
        self.machine().calls
    }

    /// Those calls in words, for the message of a failing test.
    pub fn trace(&self) -> Vec<String> {
        self.machine().trace.clone()
    }

    /// Plants a fault at mutating call `n`, counted as in [`SimHost::calls`]; it replaces one that
    /// was planted there.
    pub fn fail_at(&self, n: u64, fault: Fault) {
        self.machine().faults.insert(n, fault);
    }

    /// Plants a fault at the next mutating call.
    pub fn fail_next(&self, fault: Fault) {
        let n = self.calls() + 1;
        self.fail_at(n, fault);
    }

    /// Whether [`Fault::Crash`] was met.
    pub fn crashed(&self) -> bool {
        self.machine().crashed
    }

    /// Makes room again after [`Fault::Full`].
    pub fn free(&self) {
        self.machine().full = false;
    }

    /// Mounts the disk read-only, or writable again: mutating calls fail with EROFS, uncounted.
    pub fn set_read_only(&self, on: bool) {
        self.machine().read_only = on;
    }

    /// Moves both clocks.
    pub fn advance(&self, ms: i64) {
        let mut m = self.machine();
        m.wall_ms += ms;
        m.boot_ms += ms;
    }

    /// Sets the wall clock alone, as an operator or a time server does.
    pub fn set_wall_ms(&self, ms: i64) {
        self.machine().wall_ms = ms;
    }

    /// Sets the mode of a file or directory (durable at once).
    ///
    /// # Errors
    /// `NotFound`.
    pub fn set_mode(&self, path: impl AsRef<Path>, mode: u32) -> io::Result<()> {
        let mut m = self.machine();
        let node = m.resolve(path.as_ref())?;
        m.disk.node_mut(node)?.mode = mode;
        Ok(())
    }

    /// Content of a file as processes see it.
    ///
    /// # Errors
    /// `NotFound`; `IsADirectory`.
    pub fn read_file(&self, path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
        let m = self.machine();
        let node = m.resolve(path.as_ref())?;
        Ok(m.disk.content(node)?.seen.clone())
    }

    /// Changes a file's bytes behind everybody's back, durable at once: damage.
    ///
    /// # Errors
    /// `NotFound`; `IsADirectory`.
    pub fn edit(
        &self,
        path: impl AsRef<Path>,
        change: impl FnOnce(&mut Vec<u8>),
    ) -> io::Result<()> {
        let mut m = self.machine();
        let node = m.resolve(path.as_ref())?;
        m.disk.content_mut(node)?.edit(change);
        Ok(())
    }

    /// Takes or frees the exclusive record lock by which a running broker owns a file; false if
    /// somebody holds a shared one.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn set_broker_lock(&self, path: impl AsRef<Path>, on: bool) -> io::Result<bool> {
        let mut m = self.machine();
        let node = m.resolve(path.as_ref())?;
        if !on {
            m.broker.remove(&node);
        } else if m.shared_ofd.iter().any(|l| l.node == node) {
            return Ok(false);
        } else {
            m.broker.insert(node);
        }
        Ok(true)
    }
}

fn lock(machine: &Mutex<Machine>) -> MutexGuard<'_, Machine> {
    machine.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The error of every call after a crash.
fn crash() -> io::Error {
    io::Error::other("crashed")
}

impl Machine {
    fn new_id(&mut self) -> u32 {
        self.last_id += 1;
        self.last_id
    }

    /// Fails if the process or the machine has ended.
    fn alive(&self, pid: u32) -> io::Result<()> {
        match self.crashed || self.dead.contains(&pid) {
            true => Err(crash()),
            false => Ok(()),
        }
    }

    /// Counts a mutating call and lets it meet its fault. Returns how many bytes a write may take.
    fn count(&mut self, pid: u32, verb: &str, what: &str) -> io::Result<usize> {
        self.alive(pid)?;
        if self.read_only {
            return Err(Errno::EROFS.into());
        }
        self.calls += 1;
        let n = self.calls;
        self.trace.push(format!("{n} {verb} {what}"));
        match self.faults.remove(&n) {
            Some(fault @ Fault::ShortWrite(..)) if verb != "write" => {
                self.faults.entry(n + 1).or_insert(fault);
                Ok(usize::MAX)
            }
            Some(Fault::ShortWrite(bytes, after)) => {
                self.faults.entry(n + 1).or_insert(match after {
                    After::Crash => Fault::Crash,
                    After::Errno(e) => Fault::Errno(e),
                });
                Ok(bytes)
            }
            Some(Fault::Crash) => {
                self.crashed = true;
                Err(crash())
            }
            Some(Fault::Errno(e)) => Err(io::Error::from_raw_os_error(e)),
            Some(Fault::Full) => {
                self.full = true;
                Ok(usize::MAX)
            }
            None => Ok(usize::MAX),
        }
    }

    /// Fails on a full disk.
    fn room(&self) -> Outcome<()> {
        match self.full {
            true => Err(Errno::ENOSPC),
            false => Ok(()),
        }
    }

    /// Notes that a file changed now.
    fn touch(&mut self, node: u64) -> Outcome<()> {
        self.disk.node_mut(node)?.mtime_ms = self.wall_ms;
        Ok(())
    }

    fn resolve(&self, path: &Path) -> Outcome<u64> {
        let mut way = vec![disk::ROOT];
        for part in path.components() {
            let here = way.last().copied().unwrap_or(disk::ROOT);
            match part {
                Component::Normal(name) => {
                    let name = name.to_str().ok_or(Errno::ENOENT)?;
                    way.push(self.disk.lookup(here, name)?);
                }
                Component::ParentDir if way.len() > 1 => drop(way.pop()),
                _ => {}
            }
        }
        Ok(way.last().copied().unwrap_or(disk::ROOT))
    }

    fn meta(&self, n: u64) -> Outcome<Meta> {
        let node = self.disk.node(n)?;
        let len = match &node.body {
            Body::File(content) => content.len(),
            Body::Dir(_) => 0,
        };
        let is_dir = matches!(node.body, Body::Dir(_));
        Ok(Meta {
            id: FileId { dev: 1, ino: n },
            len,
            nlink: node.nlink,
            mode: node.mode,
            uid: 0,
            gid: 0,
            mtime_ms: node.mtime_ms,
            is_file: !is_dir,
            is_dir,
        })
    }
}

impl Host for SimHost {
    fn open_dir(&self, path: &Path) -> io::Result<Arc<dyn Dir>> {
        let m = self.machine();
        m.alive(self.pid)?;
        let node = m.resolve(path)?;
        m.disk.names(node)?;
        drop(m);
        Ok(Arc::new(SimDir {
            process: self.same(),
            node,
            path: path.to_path_buf(),
        }))
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        let name = path.file_name().and_then(|n| n.to_str());
        let name = name.ok_or(io::ErrorKind::InvalidInput)?;
        let parent = self.open_dir(path.parent().unwrap_or(Path::new("")))?;
        parent.make_dir(name)?;
        parent.sync()
    }

    fn wall_ms(&self) -> i64 {
        self.machine().wall_ms
    }

    fn boot_ms(&self) -> i64 {
        self.machine().boot_ms
    }

    fn boot_id(&self) -> [u8; 16] {
        self.machine().boot_id
    }

    fn random_id(&self) -> io::Result<[u8; 16]> {
        Ok(self.machine().chance.id())
    }

    fn pid(&self) -> u32 {
        self.pid
    }
}

impl SimHost {
    /// This very process, for what it opens.
    fn same(&self) -> SimHost {
        SimHost {
            machine: Arc::clone(&self.machine),
            pid: self.pid,
        }
    }
}

struct SimDir {
    process: SimHost,
    node: u64,
    path: PathBuf,
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
    /// at once and `Forever` is EDEADLK.
    fn lock(&self, how: Lock, wait: Wait) -> io::Result<bool> {
        let mut m = self.process.machine();
        m.alive(self.process.pid)?;
        let taken = m.locks.iter().any(|l| {
            let both_shared = how == Lock::Shared && l.how == Lock::Shared;
            l.node == self.node && l.handle != self.handle && !both_shared
        });
        if taken {
            return match wait {
                Wait::Forever => Err(Errno::EDEADLK.into()),
                Wait::No | Wait::Until(_) => Ok(false),
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

#[cfg(test)]
mod tests;
