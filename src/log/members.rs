//! Who reads what: members of a group share a topic's partitions, by locks alone.
//!
//! A member holds the smallest free `NAME.member-K` of the topic's lowest partition for as long as it
//! runs; the number of those that are held is n. It keeps at most ceil(partitions / n) partitions, each
//! by its `NAME.lock` ([`super::groups`]). So all of them find a member, whoever starts and dies when.
//! Who holds more than that gives up the rest at its next commit; who holds less takes what is free.
//!
//! Nobody looks at a clock to find out that another is gone: as long as it holds too few, a member has a
//! thread blocked in flock(2) on each partition that it does not hold, and always one on each other
//! member's file. The kernel frees the locks of the dead, and so wakes them at once. A thread that gets
//! a lock hands it over and wakes the reader ([`signals::wake`]); if it is not wanted any more it frees
//! it. Such a thread cannot be called back from the kernel; it holds nothing and ends with its lock or
//! with the process. Locks are by open file, and every thread has its own.
//!
//! A reader that was told which partitions to read (`-p`, or one partition as the operand) takes those
//! and is no member: it would be counted on for others.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, PoisonError, RwLock};

use crate::error::{Error, ErrorKind, Result};
use crate::log::groups::{self, Group};
use crate::log::lock::LockFile;
use crate::log::writer::open_logd_dir;
use crate::sys::{Dir, Host, Wait, signals};

/// More members of one group than this are refused.
const MEMBERS_MAX: u64 = 9999;
/// Stack of a thread that waits for a lock.
const STACK_BYTES: usize = 256 << 10;

/// In whose name to read.
#[derive(Clone, Debug)]
pub struct Name {
    /// The group.
    pub group: String,
    /// What others are told of who reads: the command.
    pub command: String,
    /// Store positions on a network file system all the same.
    pub allow_network_fs: bool,
}

/// Partitions that are read in the name of a group, as far as this reader holds them.
pub struct Share {
    host: Arc<dyn Host>,
    name: Name,
    slots: Vec<Slot>,
    member: Option<Member>,
    /// Who holds a partition that was asked for last.
    refusal: Option<Error>,
    news: Receiver<News>,
    /// What was seen of them but not taken in.
    seen: Option<News>,
    sender: Sender<News>,
    /// Whether what a waiting thread gets is wanted. Read-locked while a lock is handed over.
    wanted: Arc<RwLock<bool>>,
}

struct Slot {
    path: PathBuf,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not ours, and nobody waits for it.
    Left,
    /// A thread waits for its lock.
    Awaited,
    /// Ours.
    Held,
}

/// What a waiting thread has to tell.
enum News {
    /// It has the lock of a partition.
    Got(PathBuf, Box<Group>),
    /// It has it no more, or could not get it.
    Left(PathBuf, Option<Error>),
    /// The member with this number is gone.
    Gone(u64),
}

impl Share {
    /// Begins to read `partitions`, in order of their numbers, of which nothing is held yet. With
    /// `as_member` they are shared with the other members.
    ///
    /// # Errors
    /// As [`Group::open`].
    pub fn join(
        host: &Arc<dyn Host>,
        partitions: &[PathBuf],
        name: Name,
        as_member: bool,
    ) -> Result<Share> {
        groups::check_name(&name.group)?;
        let member = match partitions.first().filter(|_| as_member) {
            Some(lowest) => Some(Member::join(host, lowest, &name)?),
            None => None,
        };
        let (sender, news) = channel();
        let mut share = Share {
            host: Arc::clone(host),
            name,
            slots: Vec::new(),
            member,
            refusal: None,
            news,
            seen: None,
            sender,
            wanted: Arc::new(RwLock::new(false)),
        };
        for path in partitions {
            share.add(path);
        }
        Ok(share)
    }

    /// Adds a partition that was made meanwhile.
    pub fn add(&mut self, path: &Path) {
        if !self.slots.iter().any(|s| s.path == path) {
            self.slots.push(Slot {
                path: path.to_path_buf(),
                state: State::Left,
            });
        }
    }

    /// How many partitions this reader may keep, by the members there are now.
    ///
    /// # Errors
    /// The members' directory cannot be read.
    pub fn quota(&mut self) -> Result<usize> {
        let n = match &mut self.member {
            Some(member) => member.count(&self.sender)?,
            None => 1,
        };
        Ok(self.slots.len().div_ceil(n))
    }

    /// Partitions held.
    pub fn held(&self) -> usize {
        let held = |s: &&Slot| s.state == State::Held;
        self.slots.iter().filter(held).count()
    }

    /// Takes free partitions, lowest first, up to the quota and at most `most`. None is waited for.
    ///
    /// # Errors
    /// As [`Group::open`]. That others hold them all is none: [`Share::refusal`] tells.
    pub fn take(&mut self, most: usize) -> Result<Vec<Group>> {
        let room = self.quota()?.saturating_sub(self.held()).min(most);
        let mut taken = Vec::new();
        for slot in &mut self.slots {
            if taken.len() >= room {
                break;
            }
            if slot.state != State::Left {
                continue;
            }
            let mut group = open(&self.host, &slot.path, &self.name)?;
            match group.claim(Wait::No, &self.name.command) {
                Ok(()) => {
                    slot.state = State::Held;
                    taken.push(group);
                }
                Err(e) if e.kind() == ErrorKind::Locked => self.refusal = Some(e),
                Err(e) => return Err(e),
            }
        }
        Ok(taken)
    }

    /// Takes what has become free and, as long as there is room, has the rest waited for: a thread that
    /// gets a lock wakes whoever sleeps ([`signals::wake`]), and the next call returns it.
    ///
    /// # Errors
    /// As [`Share::take`].
    pub fn take_or_wait(&mut self) -> Result<Vec<Group>> {
        let mut taken = self.take_handed_over()?;
        taken.extend(self.take(usize::MAX)?);
        let room = self.quota()? > self.held();
        self.want(room);
        if room {
            for i in 0..self.slots.len() {
                self.wait_for(i);
            }
        }
        Ok(taken)
    }

    /// Whether a thread that waits has something to tell: it is time for [`Share::take_or_wait`].
    pub fn has_news(&mut self) -> bool {
        if self.seen.is_none() {
            self.seen = self.news.try_recv().ok();
        }
        self.seen.is_some()
    }

    /// Tells that this partition is given up. Its [`Group`] was dropped, and so the lock is free.
    pub fn gave_up(&mut self, path: &Path) {
        self.set(path, State::Left);
    }

    /// Who holds a partition that could not be had.
    pub fn refusal(&mut self) -> Option<Error> {
        self.refusal.take()
    }

    fn take_handed_over(&mut self) -> Result<Vec<Group>> {
        let (mut taken, mut failure) = (Vec::new(), None);
        while let Some(news) = self.seen.take().or_else(|| self.news.try_recv().ok()) {
            match news {
                News::Gone(k) => {
                    if let Some(member) = &mut self.member {
                        member.watched.remove(&k);
                    }
                }
                News::Left(path, e) => {
                    self.set(&path, State::Left);
                    failure = failure.or(e);
                }
                News::Got(path, group) => match self.quota()? > self.held() {
                    true => {
                        self.set(&path, State::Held);
                        taken.push(*group);
                    }
                    false => self.set(&path, State::Left), // and the lock is freed with the group
                },
            }
        }
        match failure {
            Some(e) => Err(e),
            None => Ok(taken),
        }
    }

    fn set(&mut self, path: &Path, state: State) {
        if let Some(slot) = self.slots.iter_mut().find(|s| s.path == path) {
            slot.state = state;
        }
    }

    fn want(&self, wanted: bool) {
        *self.wanted.write().unwrap_or_else(PoisonError::into_inner) = wanted;
    }

    /// Has a thread wait for the lock of a partition. Without a thread it is looked at again at the next
    /// commit.
    fn wait_for(&mut self, i: usize) {
        let Some(slot) = self.slots.get_mut(i).filter(|s| s.state == State::Left) else {
            return;
        };
        let (host, name, path) = (self.host.clone(), self.name.clone(), slot.path.clone());
        let (sender, wanted) = (self.sender.clone(), self.wanted.clone());
        let wait = move || {
            let opened = open(&host, &path, &name);
            let claimed = opened.and_then(|mut group| {
                group.claim(Wait::Firmly, &name.command)?;
                Ok(group)
            });
            let wanted = wanted.read().unwrap_or_else(PoisonError::into_inner);
            let news = match claimed {
                Ok(group) if *wanted => News::Got(path, Box::new(group)),
                Ok(group) => {
                    drop(group); // before it is told that it is free
                    News::Left(path, None)
                }
                Err(e) => News::Left(path, Some(e)),
            };
            drop(sender.send(news)); // nobody is there to hear it any more: freed
            signals::wake();
        };
        if spawn(wait) {
            slot.state = State::Awaited;
        }
    }
}

fn open(host: &Arc<dyn Host>, path: &Path, name: &Name) -> Result<Group> {
    Group::open(host, path, &name.group, name.allow_network_fs)
}

fn spawn(work: impl FnOnce() + Send + 'static) -> bool {
    let thread = std::thread::Builder::new().name("group".into());
    thread.stack_size(STACK_BYTES).spawn(work).is_ok()
}

/// This reader as one of several.
struct Member {
    dir: Arc<dyn Dir>,
    prefix: String,
    number: u64,
    /// Held for as long as this lives.
    _lock: LockFile,
    /// Others for whose end a thread waits.
    watched: BTreeSet<u64>,
    /// Ends the threads' interest in telling.
    alive: Arc<AtomicBool>,
}

impl Member {
    fn join(host: &Arc<dyn Host>, lowest: &Path, name: &Name) -> Result<Member> {
        // Everything that may be refused is asked for.
        drop(open(host, lowest, name)?);
        let at = |e: Error| e.at_path(lowest);
        let dir = host.open_dir(lowest);
        let dir = dir.map_err(|e| Error::io("cannot open", e).at_path(lowest))?;
        let dir = groups::open_groups_dir(open_logd_dir(dir.as_ref())?.as_ref())?;
        let prefix = format!("{}.member-", groups::member_stem(&name.group));
        for number in 0..MEMBERS_MAX {
            let lock = LockFile::open(dir.as_ref(), &format!("{prefix}{number}")).map_err(at)?;
            match lock.acquire(dir.as_ref(), Wait::No) {
                Ok(true) => {
                    lock.write_note(host.as_ref(), &name.command);
                    return Ok(Member {
                        dir,
                        prefix,
                        number,
                        _lock: lock,
                        watched: BTreeSet::new(),
                        alive: Arc::new(AtomicBool::new(true)),
                    });
                }
                Ok(false) => {} // replaced just now
                Err(e) if e.kind() == ErrorKind::Locked => {}
                Err(e) => return Err(at(e)),
            }
        }
        let why = format!("group {}: {MEMBERS_MAX} members are the most", name.group);
        Err(at(Error::new(ErrorKind::Locked, why)))
    }

    /// How many members there are, this one included; has the end of each other one told to `sender`.
    fn count(&mut self, sender: &Sender<News>) -> Result<usize> {
        let cannot = |e| Error::io("cannot look for members", e).at_path(self.dir.path());
        let mut n = 1;
        for name in self.dir.list().map_err(cannot)? {
            let number = name.strip_prefix(&self.prefix);
            let number = number.and_then(|k| k.parse::<u64>().ok());
            let Some(number) = number.filter(|k| *k != self.number) else {
                continue;
            };
            let lock = LockFile::open(self.dir.as_ref(), &name)?;
            if lock.is_free(Wait::No).map_err(cannot)? {
                continue;
            }
            n += 1;
            if self.watched.insert(number) && !self.watch(lock, number, sender.clone()) {
                self.watched.remove(&number);
            }
        }
        Ok(n)
    }

    fn watch(&self, lock: LockFile, number: u64, sender: Sender<News>) -> bool {
        let alive = self.alive.clone();
        spawn(move || {
            let _ = lock.is_free(Wait::Firmly);
            if alive.load(Ordering::Relaxed) {
                drop(sender.send(News::Gone(number)));
                signals::wake();
            }
        })
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.alive.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::RealHost;
    use std::time::{Duration, Instant};

    struct Topic {
        temp: tempfile::TempDir,
        partitions: Vec<PathBuf>,
    }

    impl Topic {
        fn new(partitions: usize) -> Topic {
            let temp = tempfile::tempdir().unwrap();
            let paths = (0..partitions).map(|p| temp.path().join(format!("t-{p}")));
            let partitions: Vec<PathBuf> = paths.collect();
            for p in &partitions {
                std::fs::create_dir(p).unwrap();
            }
            Topic { temp, partitions }
        }

        fn share(&self, as_member: bool) -> Share {
            let host: Arc<dyn Host> = Arc::new(RealHost);
            let name = Name {
                group: "g".into(),
                command: "logd test".into(),
                allow_network_fs: true,
            };
            Share::join(&host, &self.partitions, name, as_member).unwrap()
        }

        fn reader(&self) -> Reader {
            Reader {
                share: self.share(true),
                groups: Vec::new(),
            }
        }
    }

    /// What a follower does with its share.
    struct Reader {
        share: Share,
        groups: Vec<Group>,
    }

    impl Reader {
        fn look(&mut self) -> usize {
            self.groups.extend(self.share.take_or_wait().unwrap());
            assert_eq!(self.groups.len(), self.share.held());
            self.groups.len()
        }

        fn commit(&mut self) {
            while self.groups.len() > self.share.quota().unwrap() {
                let path = self.groups.pop().unwrap().path().to_path_buf();
                self.share.gave_up(&path);
            }
            self.look();
        }

        fn comes_to(&mut self, n: usize) {
            let before = Instant::now();
            while self.look() != n {
                assert!(before.elapsed() < Duration::from_secs(10), "{n} expected");
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    #[test]
    fn one_member_has_all_and_two_have_half_each() {
        let topic = Topic::new(5);
        let mut a = topic.reader();
        assert_eq!(a.look(), 5);
        let mut b = topic.reader();
        assert_eq!(b.look(), 0);
        assert_eq!(a.look(), 5, "kept until the next commit");
        a.commit();
        assert_eq!(a.groups.len(), 3);
        b.comes_to(2);
        let mut paths: Vec<&Path> = a.groups.iter().chain(&b.groups).map(Group::path).collect();
        paths.sort();
        assert_eq!(paths, topic.partitions);
    }

    #[test]
    fn what_a_dead_member_held_goes_to_the_others_without_a_commit_of_theirs() {
        let topic = Topic::new(6);
        let mut readers: Vec<Reader> = (0..3).map(|_| topic.reader()).collect();
        for r in &mut readers {
            r.look();
        }
        readers[0].commit();
        readers[1].comes_to(2);
        readers[2].comes_to(2);
        readers.remove(0);
        readers[0].comes_to(3);
        readers[1].comes_to(3);
        readers.remove(1);
        readers[0].comes_to(6);
    }

    #[test]
    fn a_thread_that_waits_hands_over_what_becomes_free() {
        let topic = Topic::new(1);
        let mut a = topic.share(false);
        let held = a.take(9).unwrap();
        let mut b = topic.share(false);
        assert!(b.take_or_wait().unwrap().is_empty());
        assert_eq!(b.slots[0].state, State::Awaited);
        let e = b.refusal().unwrap();
        assert!(e.to_string().contains("locked by 'logd test'"), "{e}");
        drop(held);
        let news = b.news.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(matches!(news, News::Got(..)));
    }

    #[test]
    fn a_lock_that_is_not_wanted_any_more_is_freed_by_the_thread_that_got_it() {
        let topic = Topic::new(1);
        let held = topic.share(false).take(9).unwrap();
        let mut b = topic.share(false);
        assert!(b.take_or_wait().unwrap().is_empty());
        b.want(false);
        drop(held);
        let news = b.news.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(matches!(news, News::Left(_, None)));
        assert_eq!(topic.share(false).take(9).unwrap().len(), 1);
    }

    #[test]
    fn a_reader_of_named_partitions_is_not_counted_on_for_others() {
        let topic = Topic::new(4);
        let mut named = topic.share(false);
        named.slots.truncate(1);
        let _held = named.take(9).unwrap();
        let mut member = topic.reader();
        assert_eq!(member.look(), 3);
    }

    #[test]
    fn members_take_the_smallest_free_number_again() {
        let topic = Topic::new(1);
        let shares: Vec<Share> = (0..3).map(|_| topic.share(true)).collect();
        let numbers = |s: &[Share]| -> Vec<u64> {
            s.iter()
                .map(|s| s.member.as_ref().unwrap().number)
                .collect()
        };
        assert_eq!(numbers(&shares), [0, 1, 2]);
        drop(shares);
        assert_eq!(numbers(&[topic.share(true)]), [0]);
        assert!(
            topic
                .temp
                .path()
                .join("t-0/.logd/groups/g.member-2")
                .exists()
        );
    }
}
