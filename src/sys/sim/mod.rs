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
mod handles;

use super::{Dir, FileId, Host, Lock, Meta};
use chance::Chance;
use disk::{Body, Disk, Outcome};
use handles::SimDir;
use nix::errno::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path};
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

#[cfg(test)]
mod tests;
