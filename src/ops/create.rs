//! Making a log: `init` and `append --create`.
//!
//! Each partition is made as [`crate::log::make`] says: one that a killed maker left is told from a
//! finished one and made to its end. The number of partitions is in the settings of each, so a topic
//! that was only half made is told from a smaller one and finished too.

use super::settings::{self, Document, Words};
use super::topic::{self, Partition, find, open_if_there};
use crate::error::{Error, ErrorKind, Result};
use crate::format::names::{self, parse_partition, partition_name, valid_topic};
use crate::log::broker::Parent;
use crate::log::files;
use crate::log::make::{is_finished, lock_own, make_partition};
use crate::log::place::open_logd_dir;
use crate::sys::{Dir, FsKind, Host};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
    let _broker = Parent::enter(host, parent.path())?;
    let words = own_words(new, wanted.len());
    for p in unfinished(&*parent, &wanted, &there, new, &words)? {
        make_partition(
            host,
            &*parent,
            &p.name(),
            &Document::from(words.clone()).render(),
        )?;
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
    let _broker = Parent::enter(host, parent.path())?;
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
            make_partition(
                host,
                &*parent,
                &p.name(),
                &Document::from(new.clone()).render(),
            )?;
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
    let own = open_logd_dir(&*dir)?;
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
            if settings::read(&*dir)?.words != *words {
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
    let mut words = new.words.clone();
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
    words
}

fn open_partition(parent: &dyn Dir, p: &Partition) -> Result<Arc<dyn Dir>> {
    let opened = parent.open_dir(&p.name());
    opened.map_err(|e| Error::io("cannot open", e).at_path(&p.path))
}

/// The directory that the log will lie in, made if it is absent.
pub(super) fn open_parent(host: &dyn Host, path: &Path) -> Result<Arc<dyn Dir>> {
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

/// Refuses a file system whose locks and sync errors cannot be relied on.
pub(super) fn refuse_network_fs(dir: &dyn Dir, allowed: bool) -> Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::sim::{Fault, Policy, SimHost};

    fn words(pairs: &[(&str, &str)]) -> Words {
        let mut w = Words::default();
        for (name, word) in pairs {
            w.set(name, word).unwrap();
        }
        w
    }

    fn make(host: &SimHost, path: &str, words: &Words) -> Result<Vec<Partition>> {
        let new = NewLog {
            path: Path::new(path),
            words,
            partitions: 1,
            allow_network_fs: false,
        };
        create(host, &new)
    }

    fn message(r: Result<Vec<Partition>>) -> (String, ErrorKind) {
        let e = r.unwrap_err();
        (e.to_string(), e.kind())
    }

    /// Everything that a finished partition holds.
    fn check(host: &SimHost, path: &str, words: &Words) {
        let read = |name: &str| host.read_file(format!("{path}/{name}"));
        for name in ["log", "index", "timeindex"] {
            assert_eq!(read(&format!("00000000000000000000.{name}")).unwrap(), b"");
        }
        assert_eq!(read("leader-epoch-checkpoint").unwrap(), b"0\n1\n0 0\n");
        assert_eq!(read(".logd/id").unwrap().len(), 37);
        let dir = host.open_dir(Path::new(path)).unwrap();
        assert_eq!(settings::read(&*dir).unwrap().words, *words);
        for name in dir.list().unwrap() {
            assert!(
                !names::is_foreign(&name) && !name.ends_with(".tmp"),
                "{name}"
            );
        }
    }

    #[test]
    fn topic_is_made_with_its_partitions_and_parents() {
        let host = SimHost::new();
        let asked = words(&[("partitions", "2"), ("max-age", "30d")]);
        let made = make(&host, "/a/b/orders", &asked).unwrap();
        assert_eq!(
            made.iter().map(Partition::name).collect::<Vec<_>>(),
            ["orders-0", "orders-1"]
        );
        for n in 0..2 {
            check(&host, &format!("/a/b/orders-{n}"), &asked);
        }
        assert_ne!(
            host.read_file("/a/b/orders-0/.logd/id").unwrap(),
            host.read_file("/a/b/orders-1/.logd/id").unwrap()
        );
        let again = message(make(&host, "/a/b/orders", &asked));
        assert_eq!(
            again,
            (
                "/a/b/orders: exists already".into(),
                ErrorKind::CannotCreate
            )
        );
    }

    #[test]
    fn name_with_a_number_is_that_one_partition() {
        let host = SimHost::new();
        let made = make(&host, "/orders-3", &words(&[])).unwrap();
        assert_eq!((made[0].name().as_str(), made.len()), ("orders-3", 1));
        check(&host, "/orders-3", &words(&[]));
        for bad in ["/orders-03", "/a b", "/", "/é"] {
            assert_eq!(
                message(make(&host, bad, &words(&[]))).1,
                ErrorKind::Usage,
                "{bad}"
            );
        }
        let many = make(&host, "/x-1", &words(&[("partitions", "2")]));
        assert_eq!(message(many).1, ErrorKind::Usage);
    }

    #[test]
    fn directory_with_other_things_in_it_is_left_alone() {
        let host = SimHost::new();
        host.make_dir(Path::new("/orders-0")).unwrap();
        let dir = host.open_dir(Path::new("/orders-0")).unwrap();
        dir.create("notes.txt").unwrap();
        let refused = message(make(&host, "/orders", &words(&[])));
        assert_eq!(refused.0, "/orders-0: not empty: it holds notes.txt");
        assert_eq!(refused.1, ErrorKind::CannotCreate);
        assert_eq!(dir.list().unwrap(), ["notes.txt"]);
    }

    #[test]
    fn running_broker_keeps_makers_out() {
        let host = crate::sys::RealHost;
        let temp = tempfile::tempdir().unwrap();
        let lock = std::fs::File::create(temp.path().join(".lock")).unwrap();
        let whole = nix::libc::flock {
            l_type: nix::libc::F_WRLCK as i16,
            l_whence: 0,
            l_start: 0,
            l_len: 0,
            l_pid: 0,
        };
        let held = nix::fcntl::FcntlArg::F_OFD_SETLK(&whole);
        nix::fcntl::fcntl(&lock, held).unwrap();
        let path = temp.path().join("orders");
        let new = NewLog {
            path: &path,
            words: &words(&[]),
            partitions: 1,
            allow_network_fs: true,
        };
        assert_eq!(create(&host, &new).unwrap_err().kind(), ErrorKind::Locked);
        assert!(!temp.path().join("orders-0").exists());
    }

    #[test]
    fn maker_killed_or_cut_off_at_any_step_is_finished_by_the_next() {
        let asked = words(&[("partitions", "2"), ("cleanup", "compact")]);
        let whole = SimHost::new();
        make(&whole, "/logs/orders", &asked).unwrap();
        for n in 1..=whole.calls() {
            let host = SimHost::new();
            host.fail_at(n, Fault::Crash);
            let _ = make(&host, "/logs/orders", &asked); // the last calls only tidy up
            let mut after = vec![host.kill()];
            for (seed, policy) in [
                (0, Policy::KeepNothing),
                (0, Policy::KeepAll),
                (n, Policy::Random),
            ] {
                after.push(host.power_cut(seed, policy));
            }
            for (i, host) in after.iter().enumerate() {
                if let Err(e) = make(host, "/logs/orders", &asked) {
                    // The crash was after the last step that matters.
                    assert!(
                        e.to_string().contains("exists already"),
                        "call {n}, way {i}: {e}"
                    );
                }
                for p in 0..2 {
                    check(host, &format!("/logs/orders-{p}"), &asked);
                }
            }
        }
    }

    #[test]
    fn finished_log_survives_a_power_cut() {
        let asked = words(&[("partitions", "2")]);
        let host = SimHost::new();
        make(&host, "/logs/orders", &asked).unwrap();
        for (seed, policy) in [
            (0, Policy::KeepNothing),
            (1, Policy::Random),
            (2, Policy::Random),
        ] {
            let host = host.power_cut(seed, policy);
            check(&host, "/logs/orders-0", &asked);
            check(&host, "/logs/orders-1", &asked);
        }
    }

    #[test]
    fn half_made_topic_is_not_finished_with_other_settings() {
        let asked = words(&[("partitions", "2")]);
        let host = SimHost::new();
        let made = make(&host, "/orders-0", &asked);
        assert!(made.is_err());
        make(&host, "/orders-0", &words(&[])).unwrap();
        assert_eq!(
            message(make(&host, "/orders", &asked)).1,
            ErrorKind::CannotCreate
        );
    }

    #[test]
    fn change_keeps_other_settings_and_adds_partitions() {
        let host = SimHost::new();
        let there = make(&host, "/orders", &words(&[("max-size", "1G")])).unwrap();
        let all = change(
            &host,
            &there,
            &words(&[("max-age", "1d"), ("partitions", "3")]),
        )
        .unwrap();
        assert_eq!(all.len(), 3);
        let want = words(&[("max-size", "1G"), ("max-age", "1d"), ("partitions", "3")]);
        for n in 0..3 {
            let path = format!("/orders-{n}");
            check(&host, &path, &want);
        }
        let fewer = change(&host, &all, &words(&[("partitions", "2")]));
        assert_eq!(message(fewer).1, ErrorKind::Usage);
    }
}
