//! From a LOG operand to partition directories.
//!
//! A LOG is one partition directory or a topic, which is every `TOPIC-N` beside each other. A
//! directory of exactly that name wins if it is a partition: named `TOPIC-N`, or holding segments or
//! our own files. Nothing is made here and nothing is opened for writing.

use super::site;
use super::words::{LogName, Partitions};
use crate::error::{Error, Result};
use crate::format::names::{self, parse_partition, partition_name};
use crate::log::files;
use crate::sys::{Dir, Host};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// One partition of a log, looked up but not opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its directory.
    pub path: PathBuf,
    /// Name of the topic; the directory's name where that is no `TOPIC-N`.
    pub topic: String,
    /// Number of the partition; 0 where the directory has none.
    pub number: i32,
}

impl Partition {
    /// The partition at `path`, named after its directory.
    pub fn at(path: &Path) -> Partition {
        // "." and the like have a name only once the working directory is put before them.
        let full = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
        let name = full.file_name().unwrap_or(OsStr::new("log"));
        let name = name.to_string_lossy();
        let (topic, number) = parse_partition(&name).unwrap_or((&name, 0));
        Partition {
            path: path.to_path_buf(),
            topic: topic.to_string(),
            number,
        }
    }

    /// `TOPIC-N`, for messages.
    pub fn name(&self) -> String {
        partition_name(&self.topic, self.number)
    }
}

/// The local path that a LOG operand names, relative ones below `base` (`$LOGD_DIR`).
///
/// # Errors
/// Usage, for a word that is no LOG, or that names a log which is not on this machine or a stream
/// where a directory is needed.
pub fn local_path(word: &OsStr, base: Option<&Path>) -> Result<PathBuf> {
    let shown = word.to_string_lossy().into_owned();
    match LogName::parse(word)? {
        LogName::Local(name) => Ok(base.unwrap_or(Path::new("")).join(name)),
        LogName::Stdio => Err(Error::usage("-: a log on this machine is needed here")),
        LogName::Remote { .. } => {
            let why = format!("{shown}: a log on this machine is needed here");
            Err(Error::usage(why).hint(format!("./{shown}            (a local name with a colon)")))
        }
        LogName::Tcp { .. } => {
            let why = format!("{shown}: tcp:// is for replicate only");
            Err(Error::usage(why).hint("HOST:LOG            (through ssh)"))
        }
    }
}

/// The partitions that a LOG operand means, in order of their numbers; at least one.
///
/// `word` is the operand, `base` is `$LOGD_DIR`, `select` the list of `-p`.
///
/// # Errors
/// `NotFound`, when there is no such log or partition; usage as [`local_path`]; else what the
/// system answers.
pub fn resolve(
    host: &dyn Host,
    base: Option<&Path>,
    word: &OsStr,
    select: Option<&Partitions>,
) -> Result<Vec<Partition>> {
    let path = local_path(word, base)?;
    let all = find(host, &path)?;
    if all.is_empty() {
        return Err(no_such_log(host, word, &path));
    }
    let Some(select) = select else {
        return Ok(all);
    };
    let there: Vec<i32> = all.iter().map(|p| p.number).collect();
    if let Some(missing) = select.missing(&there).first() {
        let why = format!("no partition {missing}");
        return Err(Error::not_found(why).at_path(word));
    }
    let chosen: Vec<Partition> = all
        .into_iter()
        .filter(|p| select.contains(p.number))
        .collect();
    if chosen.is_empty() {
        return Err(Error::not_found("no such partition").at_path(word));
    }
    Ok(chosen)
}

/// The partitions at `path`: itself, or those of the topic of that name; none if there is nothing.
///
/// # Errors
/// What the system answers, except that something is not there.
pub fn find(host: &dyn Host, path: &Path) -> Result<Vec<Partition>> {
    if let Some(dir) = open_if_there(host, path)? {
        let partition = Partition::at(path);
        let named = path
            .file_name()
            .and_then(|n| n.to_str())
            .and_then(parse_partition);
        if named.is_some() || is_partition(&*dir)? {
            return Ok(vec![partition]);
        }
    }
    let Some(topic) = path.file_name().and_then(|n| n.to_str()) else {
        return Ok(Vec::new());
    };
    let parent = parent(path);
    let Some(dir) = open_if_there(host, &parent)? else {
        return Ok(Vec::new());
    };
    let of_topic = |(t, n): (String, i32)| (t == topic).then_some(n);
    let all = partitions_in(&*dir)?;
    site::refuse_half_made(&*dir, &all, topic)?;
    let mut numbers: Vec<i32> = all.into_iter().filter_map(of_topic).collect();
    numbers.sort_unstable();
    Ok(numbers
        .into_iter()
        .map(|number| Partition {
            path: path.with_file_name(partition_name(topic, number)),
            topic: topic.to_string(),
            number,
        })
        .collect())
}

/// Topic and number of every partition directory in `dir`, in no order.
///
/// # Errors
/// What the system answers.
pub fn partitions_in(dir: &dyn Dir) -> Result<Vec<(String, i32)>> {
    let cannot = |e| Error::io("cannot list", e).at_path(dir.path());
    let mut out = Vec::new();
    for name in dir.list().map_err(cannot)? {
        if let Some((topic, number)) = parse_partition(&name)
            // A link to a directory counts: its target is the user's own affair.
            && dir.stat(&name).map_err(cannot)?.is_some_and(|m| !m.is_file)
        {
            out.push((topic.to_string(), number));
        }
    }
    Ok(out)
}

/// Whether a directory holds segments or our own files.
///
/// # Errors
/// What the system answers.
pub fn is_partition(dir: &dyn Dir) -> Result<bool> {
    let all = dir.list();
    let all = all.map_err(|e| Error::io("cannot list", e).at_path(dir.path()))?;
    let ours = |n: &String| n == files::LOGD_DIR || names::parse(n).is_some();
    Ok(all.iter().any(ours))
}

/// The directory that `path` lies in.
pub fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

/// Opens a directory that may be absent, or be something else.
///
/// # Errors
/// What the system answers, except that.
pub fn open_if_there(host: &dyn Host, path: &Path) -> Result<Option<std::sync::Arc<dyn Dir>>> {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    match host.open_dir(path) {
        Ok(dir) => Ok(Some(dir)),
        Err(e) if matches!(e.kind(), NotFound | NotADirectory) => Ok(None),
        Err(e) => Err(Error::io("cannot open", e).at_path(path)),
    }
}

fn no_such_log(host: &dyn Host, word: &OsStr, path: &Path) -> Error {
    let error = Error::not_found("no such log").at_path(word);
    let inside = open_if_there(host, path).ok().flatten();
    let holds = inside
        .and_then(|d| partitions_in(&*d).ok())
        .unwrap_or_default();
    let shown = word.to_string_lossy();
    match holds.is_empty() {
        false => error.hint(format!(
            "logd ls {shown}            (it holds {} logs)",
            holds.len()
        )),
        true => error.hint(format!(
            "logd init {shown}            (or: logd append --create {shown})"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::sys::RealHost;
    use std::fs;

    fn scratch(dirs: &[&str]) -> tempfile::TempDir {
        let temp = tempfile::tempdir().unwrap();
        for d in dirs {
            fs::create_dir_all(temp.path().join(d)).unwrap();
        }
        temp
    }

    fn names(r: Result<Vec<Partition>>) -> Vec<String> {
        r.unwrap().iter().map(Partition::name).collect()
    }

    #[test]
    fn topic_is_every_partition_beside_in_order_of_number() {
        let t = scratch(&["a-10", "a-2", "a-b-1", "a-02", "a", "ab-0"]);
        let get = |w: &str, p: Option<&str>| {
            let list = p.map(|p| Partitions::parse(p).unwrap());
            resolve(&RealHost, Some(t.path()), OsStr::new(w), list.as_ref())
        };
        assert_eq!(names(get("a", None)), ["a-2", "a-10"]);
        assert_eq!(names(get("a-2", None)), ["a-2"]);
        assert_eq!(names(get("a-b", None)), ["a-b-1"]);
        assert_eq!(names(get("a", Some("3.."))), ["a-10"]);
        let e = get("a", Some("2,3")).unwrap_err();
        assert_eq!(
            (e.to_string().as_str(), e.kind()),
            ("a: no partition 3", ErrorKind::NotFound)
        );
    }

    #[test]
    fn directory_of_that_name_wins_if_it_is_a_partition() {
        let t = scratch(&["copy", "copy-0", "logs-0", "logs/x-0"]);
        fs::write(t.path().join("copy/00000000000000000000.log"), b"").unwrap();
        let get = |w: &str| find(&RealHost, &t.path().join(w)).unwrap();
        let copy = &get("copy")[..];
        assert_eq!(
            (copy.len(), copy[0].topic.as_str(), copy[0].number),
            (1, "copy", 0)
        );
        assert_eq!(get("logs/")[0].path, t.path().join("logs-0"));
    }

    #[test]
    fn missing_log_is_told_with_the_way_to_make_it() {
        let t = scratch(&["logs/x-0"]);
        let get = |w: &str| resolve(&RealHost, Some(t.path()), OsStr::new(w), None).unwrap_err();
        let e = get("orders");
        assert_eq!(e.to_string(), "orders: no such log");
        assert_eq!(
            e.hint_text(),
            Some("logd init orders            (or: logd append --create orders)")
        );
        assert!(
            get("logs")
                .hint_text()
                .unwrap()
                .starts_with("logd ls logs ")
        );
        assert!(
            get("web1:orders")
                .to_string()
                .contains("a log on this machine is needed")
        );
    }
}
