//! Making a log: `init` and `append --create`.
//!
//! For each partition, in this order:
//!
//! 1. the directory `TOPIC-N`; the parent synced
//! 2. `.logd/`, and in it a lock that keeps two makers apart; the partition synced
//! 3. `.logd/id`, `.logd/config.toml`, `leader-epoch-checkpoint` (epoch 0 from offset 0), each whole
//!    and synced
//! 4. the first segment's `.index` and `.timeindex`, then its `.log`; the partition synced
//!
//! So a directory with a `.log` is finished, and one without is a maker's that was killed: making it
//! again goes on where that one stopped, as long as nothing else is in there. The number of
//! partitions is in the settings of each, so a topic that was only half made is told from a smaller
//! one and finished too.

use super::settings::{self, Document, Words};
use super::topic::{self, Partition, find, open_if_there};
use crate::error::{Error, ErrorKind, Result};
use crate::format::Offset;
use crate::format::checkpoint::{EpochStart, render_epochs};
use crate::format::names::{self, Kind, file_name, parse_partition, partition_name, valid_topic};
use crate::log::files;
use crate::log::lock::LockFile;
use crate::log::state::write_state_file;
use crate::sys::{Access, Dir, File, FsKind, Host, Wait};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long to wait for another maker of the same partition, or for an appender: they need
/// milliseconds.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// What to make.
pub struct NewLog<'a> {
    /// The path of a topic, or of one partition if it ends in `-N`.
    pub path: &'a Path,
    /// The settings to write down in it. `partitions` is for a topic only.
    pub words: &'a Words,
    /// How many partitions, if `words` does not say.
    pub partitions: u32,
    /// Make it on a network file system too.
    pub allow_network_fs: bool,
}

/// Makes a log. Everything is durable on return.
///
/// Returns its partitions.
///
/// # Errors
/// `CannotCreate` if it exists or something else is in its place, `Usage` for a name that no log
/// can have, `Config` on a network file system, else what the system answers.
pub fn create(host: &dyn Host, new: &NewLog<'_>) -> Result<Vec<Partition>> {
    let wanted = plan(new)?;
    let there = find(host, new.path)?;
    let parent = open_parent(host, &topic::parent(new.path))?;
    refuse_network_fs(&*parent, new.allow_network_fs)?;
    let _broker = hold_broker_lock(&*parent)?;
    let words = own_words(new, wanted.len());
    for p in unfinished(&*parent, &wanted, &there, new, &words)? {
        make_partition(host, &*parent, &p, &words)?;
    }
    Ok(wanted)
}

/// Changes settings of a log that exists, durably, in each of its `partitions`. More partitions
/// than there are are made; keys may then go elsewhere than before.
///
/// Returns its partitions.
///
/// # Errors
/// `Usage` for fewer partitions than there are, `Locked` if another process changes them too, else
/// what the system answers. Partitions before the one that failed are changed.
pub fn change(host: &dyn Host, partitions: &[Partition], words: &Words) -> Result<Vec<Partition>> {
    let mut all = partitions.to_vec();
    let (Some(first), Some(last)) = (partitions.first(), partitions.last()) else {
        return Ok(all);
    };
    let parent = open_parent(host, &topic::parent(&first.path))?;
    let _broker = hold_broker_lock(&*parent)?;
    if let Some(count) = words.get("partitions").and_then(|n| n.parse::<i32>().ok()) {
        if count <= last.number {
            let why = format!(
                "--partitions {count}: there are {}",
                last.number.saturating_add(1)
            );
            return Err(Error::usage(why).hint("a log never gets fewer partitions; see logd split"));
        }
        let dir = open_partition(&*parent, first)?;
        let mut new = settings::read(&*dir)?.words;
        new.update(words);
        for n in last.number.saturating_add(1)..count {
            let path = first.path.with_file_name(partition_name(&first.topic, n));
            let p = partition(&path, &first.topic, n);
            make_partition(host, &*parent, &p, &new)?;
            all.push(p);
        }
    }
    for p in partitions {
        change_one(host, p, words)?;
    }
    Ok(all)
}

fn change_one(host: &dyn Host, p: &Partition, words: &Words) -> Result<()> {
    let cannot = |e| Error::io("cannot change the settings", e).at_path(&p.path);
    let dir = host.open_dir(&p.path).map_err(cannot)?;
    let own = own_dir(&*dir).map_err(cannot)?;
    // Every appender reads the settings, and whoever changes them holds this for a moment only.
    let lock = lock_own(host, &*own, files::APPEND_LOCK, &p.path)?;
    let mut document = settings::read(&*dir)?;
    document.words.update(words);
    let written = settings::write(&*own, &document);
    lock.clear_note();
    written
}

/// The partitions that the log will have.
fn plan(new: &NewLog<'_>) -> Result<Vec<Partition>> {
    let shown = new.path.display();
    let name = new
        .path
        .file_name()
        .and_then(|n| n.to_str())
        .unwrap_or_default();
    if let Some((topic, number)) = parse_partition(name) {
        if new.words.get("partitions").is_some_and(|n| n != "1") {
            let topic = new.path.with_file_name(topic);
            let why = format!("{shown}: this name is one partition");
            return Err(
                Error::usage(why).hint(format!("logd init --partitions 8 {}", topic.display()))
            );
        }
        return Ok(vec![partition(new.path, topic, number)]);
    }
    if !valid_topic(name) {
        let why = "a log's name has 1 to 249 of the characters A-Z a-z 0-9 . _ -";
        return Err(Error::usage(format!("{shown}: {why}")));
    }
    if let Some((topic, digits)) = name.rsplit_once('-')
        && !digits.is_empty()
        && digits.bytes().all(|b| b.is_ascii_digit())
    {
        let why = format!("{shown}: {digits} is no partition number");
        let number = digits.trim_start_matches('0');
        return Err(Error::usage(why).hint(format!("{topic}-{number}")));
    }
    let count = match new.words.get("partitions") {
        Some(n) => n.parse().unwrap_or(new.partitions),
        None => new.partitions,
    };
    let count = i32::try_from(count).unwrap_or(i32::MAX);
    let path = |n| new.path.with_file_name(partition_name(name, n));
    Ok((0..count).map(|n| partition(&path(n), name, n)).collect())
}

fn partition(path: &Path, topic: &str, number: i32) -> Partition {
    Partition {
        path: path.to_path_buf(),
        topic: topic.to_string(),
        number,
    }
}

/// Those of the wanted partitions that are still to be made or finished.
fn unfinished(
    parent: &dyn Dir,
    wanted: &[Partition],
    there: &[Partition],
    new: &NewLog<'_>,
    words: &Words,
) -> Result<Vec<Partition>> {
    let exists = || {
        let shown = new.path.display();
        Error::new(ErrorKind::CannotCreate, "exists already")
            .at_path(new.path)
            .hint(format!(
                "logd info {shown}            (to change settings: logd init --set)"
            ))
    };
    let mut finished = 0;
    for p in there {
        if !wanted.contains(p) {
            return Err(exists());
        }
        let dir = open_partition(parent, p)?;
        if is_finished(&*dir)? {
            // A topic that was to have this many partitions and these settings is ours to finish.
            let mut as_asked = settings::read(&*dir)?.words;
            as_asked.sort();
            if as_asked != *words {
                return Err(exists());
            }
            finished += 1;
        }
    }
    if finished == wanted.len() {
        return Err(exists());
    }
    let mut out = Vec::new();
    for p in wanted {
        let done = there.contains(p) && is_finished(&*open_partition(parent, p)?)?;
        if !done {
            out.push(p.clone());
        }
    }
    Ok(out)
}

/// The settings as they are written into each partition.
fn own_words(new: &NewLog<'_>, partitions: usize) -> Words {
    let mut words = Words::default();
    for key in settings::KEYS {
        if let Some(word) = new.words.get(key.name) {
            let _ = words.set(key.name, word); // it was accepted before
        }
    }
    // Written even where it is the default: it tells a topic half made from one that is smaller.
    let one = new
        .path
        .file_name()
        .and_then(|n| n.to_str())
        .and_then(parse_partition);
    words.remove("partitions");
    if one.is_none() {
        let _ = words.set("partitions", &partitions.to_string());
    }
    words.sort();
    words
}

fn open_partition(parent: &dyn Dir, p: &Partition) -> Result<Arc<dyn Dir>> {
    let opened = parent.open_dir(&p.name());
    opened.map_err(|e| Error::io("cannot open", e).at_path(&p.path))
}

fn is_finished(dir: &dyn Dir) -> Result<bool> {
    let all = dir.list();
    let all = all.map_err(|e| Error::io("cannot list", e).at_path(dir.path()))?;
    let segment = |n: &String| names::parse(n).is_some_and(|f| f.kind == Kind::Log);
    Ok(all.iter().any(segment))
}

/// The directory that the log will lie in, made if it is absent.
fn open_parent(host: &dyn Host, path: &Path) -> Result<Arc<dyn Dir>> {
    let mut missing: Vec<PathBuf> = Vec::new();
    let mut at = path.to_path_buf();
    let there = loop {
        match open_if_there(host, &at)? {
            Some(dir) => break dir,
            None if missing.len() > 255 => {
                return Err(Error::not_found("no such directory").at_path(path));
            }
            None => {
                let above = topic::parent(&at);
                missing.push(std::mem::replace(&mut at, above));
            }
        }
    };
    if missing.is_empty() {
        return Ok(there);
    }
    // A broker refuses to start when it meets a directory that is no partition.
    let broker = [names::META_PROPERTIES, names::LOCK].map(|n| there.stat(n));
    if broker.iter().any(|s| matches!(s, Ok(Some(_)))) {
        let why = "a directory in here would keep the broker from starting";
        return Err(Error::new(ErrorKind::CannotCreate, why).at_path(&at));
    }
    for dir in missing.iter().rev() {
        match host.make_dir(dir) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.map_err(|e| Error::io("cannot make the directory", e).at_path(dir))?,
        }
    }
    let opened = host.open_dir(path);
    opened.map_err(|e| Error::io("cannot open", e).at_path(path))
}

/// The broker's lock on the directory, shared, where there is one: held while something is made.
fn hold_broker_lock(parent: &dyn Dir) -> Result<Option<Box<dyn File>>> {
    let cannot = |e| Error::io("cannot lock", e).at_path(parent.path().join(names::LOCK));
    let file = match parent.open(names::LOCK, Access::Read) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(cannot(e)),
    };
    if file.lock_ofd_shared().map_err(cannot)? {
        return Ok(Some(file));
    }
    let why = "a broker is running on this directory";
    Err(Error::new(ErrorKind::Locked, why).at_path(parent.path()))
}

/// Refuses a file system whose locks and sync errors cannot be relied on.
fn refuse_network_fs(dir: &dyn Dir, allowed: bool) -> Result<()> {
    let kind = dir.kind_of_fs();
    match kind.map_err(|e| Error::io("cannot stat", e).at_path(dir.path()))? {
        FsKind::Network(name) if !allowed => {
            let why = format!("{name} is a network file system: its locks and syncs may not hold");
            let error = Error::new(ErrorKind::Config, why).at_path(dir.path());
            Err(error.hint("--allow-network-fs"))
        }
        _ => Ok(()),
    }
}

fn make_partition(host: &dyn Host, parent: &dyn Dir, p: &Partition, words: &Words) -> Result<()> {
    let cannot = |e| Error::io("cannot make the log", e).at_path(&p.path);
    make_dir_if_absent(parent, &p.name()).map_err(cannot)?;
    // Also after another maker's mkdir: it may not have come to its sync.
    parent.sync().map_err(cannot)?;
    let dir = open_partition(parent, p)?;
    refuse_foreign(&*dir)?;
    let own = own_dir(&*dir).map_err(cannot)?;
    let lock = lock_own(host, &*own, files::MAINTENANCE_LOCK, &p.path)?;
    let made = match is_finished(&*dir)? {
        true => Ok(()), // by the maker we waited for
        false => fill(host, &*dir, &*own, words).map_err(cannot),
    };
    lock.clear_note();
    made
}

fn make_dir_if_absent(dir: &dyn Dir, name: &str) -> io::Result<()> {
    match dir.make_dir(name) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// The partition's `.logd`, made if it is absent.
fn own_dir(dir: &dyn Dir) -> io::Result<Arc<dyn Dir>> {
    make_dir_if_absent(dir, files::LOGD_DIR)?;
    dir.sync()?;
    dir.open_dir(files::LOGD_DIR)
}

/// Takes one of the partition's locks, waiting for as long as its holder may reasonably need.
fn lock_own(host: &dyn Host, own: &dyn Dir, name: &'static str, log: &Path) -> Result<LockFile> {
    let lock = LockFile::open(own, name)?;
    if !lock.acquire(own, Wait::Until(Instant::now() + LOCK_WAIT))? {
        let why = "was replaced by another process meanwhile";
        return Err(Error::new(ErrorKind::Locked, why).at_path(log));
    }
    lock.write_note(host, "logd init");
    Ok(lock)
}

/// Refuses a directory that holds anything a killed maker cannot have left.
fn refuse_foreign(dir: &dyn Dir) -> Result<()> {
    let all = dir.list();
    let all = all.map_err(|e| Error::io("cannot list", e).at_path(dir.path()))?;
    let first = [Kind::Log, Kind::OffsetIndex, Kind::TimeIndex].map(|k| file_name(Offset::ZERO, k));
    let ours = |n: &&String| {
        *n == files::LOGD_DIR
            || n.trim_end_matches(".tmp") == names::LEADER_EPOCH_CHECKPOINT
            || first.contains(n)
    };
    match all.iter().find(|n| !ours(n)) {
        Some(name) => {
            let why = format!("not empty: it holds {name}");
            Err(Error::new(ErrorKind::CannotCreate, why).at_path(dir.path()))
        }
        None => Ok(()),
    }
}

/// Steps 3 and 4, with the lock held.
fn fill(host: &dyn Host, dir: &dyn Dir, own: &dyn Dir, words: &Words) -> io::Result<()> {
    if own.stat(files::ID)?.is_none() {
        let id = format!("{}\n", uuid(host.random_id()?));
        write_state_file(own, files::ID, id.as_bytes())?;
    }
    let document = Document::from(words.clone());
    write_state_file(own, files::CONFIG, document.render().as_bytes())?;
    let epochs = render_epochs(&[EpochStart {
        epoch: 0,
        start: Offset::ZERO,
    }]);
    write_state_file(dir, names::LEADER_EPOCH_CHECKPOINT, epochs.as_bytes())?;
    for kind in [Kind::OffsetIndex, Kind::TimeIndex, Kind::Log] {
        match dir.create(&file_name(Offset::ZERO, kind)) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            made => drop(made?),
        }
    }
    dir.sync()
}

/// A random (version 4) UUID in its usual form.
fn uuid(mut id: [u8; 16]) -> String {
    id[6] = id[6] & 0x0f | 0x40;
    id[8] = id[8] & 0x3f | 0x80;
    let hex: String = id.iter().map(|b| format!("{b:02x}")).collect();
    let part = |r| hex.get(r).unwrap_or_default();
    let (a, b, c, d, e) = (
        part(0..8),
        part(8..12),
        part(12..16),
        part(16..20),
        part(20..32),
    );
    format!("{a}-{b}-{c}-{d}-{e}")
}
