//! What the disk in memory holds: for each file and directory what processes see, what would
//! survive a power cut, and what lies between.
//!
//! | thing     | seen by processes | durable      | between                                      |
//! |-----------|-------------------|--------------|----------------------------------------------|
//! | file      | `seen`            | `kept`       | `dirty` pages, `low` (shortest length since) |
//! | directory | `seen`            | `kept`       | `log`: operations in their order             |
//!
//! A sync moves what lies between into `kept`. A failed one forgets it, as Linux does: the pages
//! count as clean, stay visible until the cache drops them, and the next sync succeeds without
//! them. Only the length still follows, so that such a file ends in zeros after a power cut.
//!
//! Nodes are numbered and never freed before a power cut, since durable names may still lead to
//! them.

use super::Policy;
use super::chance::Chance;
use nix::errno::Errno;
use std::collections::{BTreeMap, BTreeSet};

/// What the page cache writes or loses as a whole.
const PAGE: u64 = 4096;

/// What a device writes or loses as a whole.
const SECTOR: u64 = 512;

/// Number of the root directory.
pub(super) const ROOT: u64 = 2;

/// A directory, and a name in it.
type Place = (u64, String);

pub(super) type Outcome<T> = Result<T, Errno>;

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub body: Body,
    /// Names that processes see.
    pub nlink: u64,
    pub mode: u32,
    pub mtime_ms: i64,
}

#[derive(Clone, Debug)]
pub(super) enum Body {
    File(Content),
    Dir(Names),
}

#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    pub seen: Vec<u8>,
    kept: Vec<u8>,
    /// Pages that the next sync writes.
    dirty: BTreeSet<u64>,
    /// Shortest length since the last sync: what `kept` has beyond it may go.
    low: u64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    pub seen: BTreeMap<String, u64>,
    kept: BTreeMap<String, u64>,
    log: Vec<Change>,
}

/// One change of a directory; atomic.
#[derive(Clone, Debug)]
enum Change {
    Set(String, u64),
    Remove(String),
    Move(String, String),
}

impl Names {
    fn change(&mut self, change: Change) {
        apply(&mut self.seen, &change);
        self.log.push(change);
    }

    fn sync(&mut self) {
        for change in self.log.drain(..) {
            apply(&mut self.kept, &change);
        }
    }

    fn after_power_cut(&mut self, policy: Policy, chance: &mut Chance) {
        let most = self.log.len() as u64;
        let survive = match policy {
            Policy::KeepNothing => 0,
            Policy::KeepAll => most,
            Policy::Random => chance.up_to(most),
        };
        let survive = usize::try_from(survive).unwrap_or(0);
        self.log.truncate(survive);
        self.sync();
        self.seen = self.kept.clone();
    }
}

fn apply(names: &mut BTreeMap<String, u64>, change: &Change) {
    match change {
        Change::Set(name, node) => {
            names.insert(name.clone(), *node);
        }
        Change::Remove(name) => {
            names.remove(name);
        }
        Change::Move(from, to) => {
            // After a failed sync the durable directory may never have heard of `from`.
            if let Some(node) = names.remove(from) {
                names.insert(to.clone(), node);
            }
        }
    }
}

impl Content {
    pub fn len(&self) -> u64 {
        self.seen.len() as u64
    }

    pub fn write(&mut self, pos: u64, buf: &[u8]) -> Outcome<()> {
        let start = usize::try_from(pos).map_err(|_| Errno::EFBIG)?;
        let end = start.checked_add(buf.len()).ok_or(Errno::EFBIG)?;
        if end as u64 > self.len() {
            self.set_len(end as u64)?;
        }
        if let Some(place) = self.seen.get_mut(start..end) {
            place.copy_from_slice(buf);
        }
        self.touch(pos, end as u64);
        Ok(())
    }

    pub fn set_len(&mut self, len: u64) -> Outcome<()> {
        /// A test disk that is asked for more has met a bug: an unchecked length.
        const LEN_MAX: u64 = 1 << 30;
        if len > LEN_MAX {
            return Err(Errno::EFBIG);
        }
        self.seen
            .resize(usize::try_from(len).map_err(|_| Errno::EFBIG)?, 0);
        self.low = self.low.min(len);
        self.dirty.retain(|page| page * PAGE < len);
        // New zeros need no page: what lies beyond `low` is zero after a sync anyway.
        Ok(())
    }

    /// Marks the pages of a range as written, as far as the file has them.
    fn touch(&mut self, from: u64, to: u64) {
        let to = to.min(self.len());
        if from < to {
            self.dirty.extend(from / PAGE..to.div_ceil(PAGE));
        }
    }

    pub fn sync(&mut self) {
        let low = usize::try_from(self.low).unwrap_or(usize::MAX);
        self.kept.truncate(low);
        self.kept.resize(self.seen.len(), 0);
        for page in std::mem::take(&mut self.dirty) {
            let (from, to) = (page * PAGE, (page + 1) * PAGE);
            overlay(&mut self.kept, &self.seen, from, to);
        }
        self.low = self.len();
    }

    /// A sync that failed: the pages will not be written any more.
    fn give_up(&mut self) {
        self.dirty.clear();
    }

    /// Shows, from `pos` on, what the device holds of all pages that count as clean.
    pub fn drop_cache(&mut self, pos: u64) {
        let mut device = self.kept.clone();
        device.truncate(usize::try_from(self.low).unwrap_or(usize::MAX));
        device.resize(self.seen.len(), 0);
        for page in pos.div_ceil(PAGE)..self.len().div_ceil(PAGE) {
            if !self.dirty.contains(&page) {
                overlay(&mut self.seen, &device, page * PAGE, (page + 1) * PAGE);
            }
        }
    }

    fn after_power_cut(&mut self, policy: Policy, chance: &mut Chance) {
        match policy {
            Policy::KeepNothing => {}
            Policy::KeepAll => self.sync(),
            Policy::Random => match chance.up_to(3) {
                0 => {}
                1 => self.sync(),
                _ => self.keep_some(chance),
            },
        }
        self.settle();
    }

    /// Keeps a random part of what was not synced: a length between the durable one and the one
    /// seen, and any of the dirty pages, whole or in sectors.
    fn keep_some(&mut self, chance: &mut Chance) {
        let cut = self.low < self.kept.len() as u64;
        let mut kept = self.kept.clone();
        if !cut || chance.one_in(2) {
            // The cut (if any) reached the disk, and growth after it up to some length.
            kept.truncate(usize::try_from(self.low).unwrap_or(usize::MAX));
            let len = match chance.up_to(3) {
                0 => kept.len() as u64,
                1 => self.len(),
                _ => chance.between(kept.len() as u64, self.len()),
            };
            kept.resize(usize::try_from(len).unwrap_or(0), 0);
        }
        for &page in &self.dirty {
            let (from, to) = (page * PAGE, (page + 1) * PAGE);
            match chance.up_to(3) {
                0 => {}
                1 => {
                    for sector in (from..to).step_by(SECTOR as usize) {
                        if chance.one_in(2) {
                            overlay(&mut kept, &self.seen, sector, sector + SECTOR);
                        }
                    }
                }
                _ => overlay(&mut kept, &self.seen, from, to),
            }
        }
        self.kept = kept;
    }

    /// Takes what is durable for what is seen: a machine that starts has no cache.
    fn settle(&mut self) {
        self.seen = self.kept.clone();
        self.dirty.clear();
        self.low = self.len();
    }

    /// Changes the bytes under everybody: durable at once, as damage is.
    pub fn edit(&mut self, change: impl FnOnce(&mut Vec<u8>)) {
        change(&mut self.seen);
        self.kept = self.seen.clone();
        self.settle();
    }
}

/// Copies bytes `from..to`, as far as both have them.
fn overlay(into: &mut [u8], out_of: &[u8], from: u64, to: u64) {
    let end = to.min(into.len() as u64).min(out_of.len() as u64);
    if let (Ok(from), Ok(end)) = (usize::try_from(from), usize::try_from(end))
        && let (Some(into), Some(bytes)) = (into.get_mut(from..end), out_of.get(from..end))
    {
        into.copy_from_slice(bytes);
    }
}

/// All nodes. Every call but [`Disk::power_cut`] is what a process sees.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    nodes: BTreeMap<u64, Node>,
    next: u64,
}

impl Disk {
    /// An empty root directory.
    pub fn new(now_ms: i64) -> Disk {
        let root = Node {
            body: Body::Dir(Names::default()),
            nlink: 1,
            mode: 0o700,
            mtime_ms: now_ms,
        };
        Disk {
            nodes: BTreeMap::from([(ROOT, root)]),
            next: ROOT + 1,
        }
    }

    pub fn node(&self, n: u64) -> Outcome<&Node> {
        self.nodes.get(&n).ok_or(Errno::ESTALE)
    }

    pub fn node_mut(&mut self, n: u64) -> Outcome<&mut Node> {
        self.nodes.get_mut(&n).ok_or(Errno::ESTALE)
    }

    pub fn names(&self, dir: u64) -> Outcome<&Names> {
        match &self.node(dir)?.body {
            Body::Dir(names) => Ok(names),
            Body::File(_) => Err(Errno::ENOTDIR),
        }
    }

    fn names_mut(&mut self, dir: u64) -> Outcome<&mut Names> {
        match &mut self.node_mut(dir)?.body {
            Body::Dir(names) => Ok(names),
            Body::File(_) => Err(Errno::ENOTDIR),
        }
    }

    pub fn content(&self, file: u64) -> Outcome<&Content> {
        match &self.node(file)?.body {
            Body::File(content) => Ok(content),
            Body::Dir(_) => Err(Errno::EISDIR),
        }
    }

    pub fn content_mut(&mut self, file: u64) -> Outcome<&mut Content> {
        match &mut self.node_mut(file)?.body {
            Body::File(content) => Ok(content),
            Body::Dir(_) => Err(Errno::EISDIR),
        }
    }

    pub fn lookup(&self, dir: u64, name: &str) -> Outcome<u64> {
        let node = self.names(dir)?.seen.get(name);
        node.copied().ok_or(Errno::ENOENT)
    }

    fn is_dir(&self, n: u64) -> bool {
        self.names(n).is_ok()
    }

    /// Makes a file or directory of `body` under a free name.
    pub fn make(&mut self, dir: u64, name: &str, body: Body, now_ms: i64) -> Outcome<u64> {
        let parent = self.node(dir)?;
        if parent.nlink == 0 {
            return Err(Errno::ENOENT); // removed, and only held open
        }
        let mode = match body {
            Body::File(_) => 0o600 | parent.mode & 0o060,
            Body::Dir(_) => 0o700 | parent.mode & 0o2070,
        };
        if self.lookup(dir, name).is_ok() {
            return Err(Errno::EEXIST);
        }
        let n = self.next;
        self.next += 1;
        let node = Node {
            body,
            nlink: 1,
            mode,
            mtime_ms: now_ms,
        };
        self.nodes.insert(n, node);
        self.names_mut(dir)?.change(Change::Set(name.into(), n));
        Ok(n)
    }

    pub fn link(&mut self, from: (u64, &str), to: (u64, &str)) -> Outcome<()> {
        let n = self.lookup(from.0, from.1)?;
        if self.is_dir(n) {
            return Err(Errno::EPERM);
        }
        if self.lookup(to.0, to.1).is_ok() {
            return Err(Errno::EEXIST);
        }
        self.names_mut(to.0)?.change(Change::Set(to.1.into(), n));
        self.node_mut(n)?.nlink += 1;
        Ok(())
    }

    pub fn unlink(&mut self, dir: u64, name: &str) -> Outcome<()> {
        let n = self.lookup(dir, name)?;
        if self.is_dir(n) {
            return Err(Errno::EISDIR);
        }
        self.remove(dir, name, n)
    }

    pub fn remove_dir(&mut self, dir: u64, name: &str) -> Outcome<()> {
        let n = self.lookup(dir, name)?;
        if !self.names(n)?.seen.is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        self.remove(dir, name, n)
    }

    fn remove(&mut self, dir: u64, name: &str, n: u64) -> Outcome<()> {
        self.names_mut(dir)?.change(Change::Remove(name.into()));
        self.unname(n)
    }

    fn unname(&mut self, n: u64) -> Outcome<()> {
        let node = self.node_mut(n)?;
        node.nlink = node.nlink.saturating_sub(1);
        Ok(())
    }

    pub fn rename(&mut self, from: (u64, &str), to: (u64, &str)) -> Outcome<()> {
        let n = self.lookup(from.0, from.1)?;
        if let Ok(old) = self.lookup(to.0, to.1) {
            if old == n {
                return Ok(()); // rename(2): two names of one file stay as they are
            }
            match (self.is_dir(n), self.is_dir(old)) {
                (false, true) => return Err(Errno::EISDIR),
                (true, false) => return Err(Errno::ENOTDIR),
                (true, true) if !self.names(old)?.seen.is_empty() => return Err(Errno::ENOTEMPTY),
                _ => self.unname(old)?,
            }
        }
        if from.0 == to.0 {
            let change = Change::Move(from.1.into(), to.1.into());
            self.names_mut(from.0)?.change(change);
        } else {
            // Two changes, since nothing promises that both directories reach the disk at once.
            self.names_mut(to.0)?.change(Change::Set(to.1.into(), n));
            self.names_mut(from.0)?
                .change(Change::Remove(from.1.into()));
        }
        Ok(())
    }

    /// Makes a file's content, or a directory's names, durable.
    pub fn sync(&mut self, n: u64) -> Outcome<()> {
        match &mut self.node_mut(n)?.body {
            Body::File(content) => content.sync(),
            Body::Dir(names) => names.sync(),
        }
        Ok(())
    }

    /// A sync of `n` that failed.
    pub fn give_up(&mut self, n: u64) -> Outcome<()> {
        match &mut self.node_mut(n)?.body {
            Body::File(content) => content.give_up(),
            Body::Dir(names) => names.log.clear(),
        }
        Ok(())
    }

    pub fn all(&self) -> Vec<u64> {
        self.nodes.keys().copied().collect()
    }

    /// The disk as the next boot finds it.
    pub fn power_cut(&mut self, policy: Policy, chance: &mut Chance) {
        let moved = self.moved_dirs();
        for node in self.nodes.values_mut() {
            node.nlink = 0;
            match &mut node.body {
                Body::File(content) => content.after_power_cut(policy, chance),
                Body::Dir(names) => names.after_power_cut(policy, chance),
            }
        }
        for (n, old, new) in moved {
            self.settle_move(n, &old, &new);
        }
        let mut found = vec![ROOT];
        while let Some(n) = found.pop() {
            let Some(node) = self.nodes.get_mut(&n) else {
                continue;
            };
            node.nlink += 1;
            if let (Body::Dir(names), 1) = (&node.body, node.nlink) {
                found.extend(names.seen.values());
            }
        }
        self.nodes.retain(|_, node| node.nlink > 0);
    }

    /// Directories that have another place than the durable one: which, from where, to where.
    fn moved_dirs(&self) -> Vec<(u64, Place, Place)> {
        let mut out = Vec::new();
        for (dir, node) in &self.nodes {
            let Body::Dir(names) = &node.body else {
                continue;
            };
            for (name, n) in names.seen.iter().filter(|(_, n)| self.is_dir(**n)) {
                let (new, mut all) = ((*dir, name.clone()), self.nodes.iter());
                let old = all.find_map(|(d, node)| match &node.body {
                    Body::Dir(names) => {
                        let kept = names.kept.iter().filter(|(_, i)| *i == n);
                        let mut places = kept.map(|(name, _)| (*d, name.clone()));
                        places.find(|place| *place != new)
                    }
                    Body::File(_) => None,
                });
                out.extend(old.map(|old| (*n, old, new)));
            }
        }
        out
    }

    /// Unlike a file, a directory moves in one step: its `..` names the one directory that it lies in,
    /// and file systems with a journal write both sides in one transaction.
    fn settle_move(&mut self, n: u64, old: &Place, new: &Place) {
        let has = |disk: &Disk, place: &Place| {
            let names = disk.names(place.0).ok();
            names.is_some_and(|names| names.seen.get(&place.1) == Some(&n))
        };
        let (at_old, at_new) = (has(self, old), has(self, new));
        if let Ok(names) = self.names_mut(old.0)
            && at_old
            && at_new
        {
            names.seen.remove(&old.1);
            names.kept.remove(&old.1);
        }
        if let Ok(names) = self.names_mut(new.0)
            && !at_old
            && !at_new
        {
            names.seen.insert(new.1.clone(), n);
            names.kept.insert(new.1.clone(), n);
        }
    }
}
