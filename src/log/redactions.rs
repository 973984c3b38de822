//! `.logd/redactions`: who had content removed, when and why; never the content itself.
//!
//! One JSON object a line, oldest first, replaced whole and durably. An entry is there, without
//! `finished`, before the first change of a redaction, and gets `finished` when a search has shown
//! that nothing is left: an unfinished one says that content may still be there, until the same
//! command is run again.
//!
//! | field | |
//! |---|---|
//! | `id` | 16 hexadecimal digits; what the header `redacted` of a record names |
//! | `user`, `uid` | who |
//! | `reason` | why, in the user's words |
//! | `keys`, `match` | the criteria as digests, salted with `id`: a guess can be confirmed, nothing be read |
//! | `in` | the field that `match` is looked for in |
//! | `ranges` | the ranges as they were given |
//! | `offsets` | the same as pairs of offsets, end exclusive; null is the end |
//! | `action` | `null`, `only` or `drop` |
//! | `only` | the fields that went, if not the whole value |
//! | `records` | how many records |
//! | `outside` | records in which the content is still found, but outside the fields in `only` |
//! | `started`, `finished` | milliseconds since 1970; null is not yet |

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::log::files;
use crate::log::state::{read_state_file, write_state_file};
use crate::sys::Dir;

/// Largest file that is read or written: some 100 000 redactions.
const FILE_BYTES_MAX: usize = 64 << 20;

/// What was to go, without saying it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Criteria {
    /// Digest of each key, in order.
    pub keys: Vec<String>,
    /// Digest of the pattern.
    pub pattern: Option<String>,
    /// The field that the pattern is looked for in.
    pub within: Option<String>,
    /// Ranges of offsets, as they were given.
    pub ranges: Vec<String>,
    /// `null`, `only` or `drop`.
    pub action: String,
    /// Fields that go, where not all of the value does.
    pub only: Vec<String>,
}

/// One redaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redaction {
    /// Its name, in the header of each record it changed.
    pub id: String,
    /// Who: the name of the user that the process ran as, empty if unknown.
    pub user: String,
    /// Who: the number.
    pub uid: u32,
    /// Why.
    pub reason: String,
    /// What was to go.
    pub criteria: Criteria,
    /// The ranges as offsets; `None` is the end of the log.
    pub offsets: Vec<(i64, Option<i64>)>,
    /// How many records.
    pub records: u64,
    /// Records that the content is still found in, outside the fields that were to go.
    pub outside: u64,
    /// When it was begun, milliseconds since 1970.
    pub started_ms: i64,
    /// When nothing was left; `None` while that is not shown.
    pub finished_ms: Option<i64>,
}

/// Every redaction on record, oldest first; none without a file.
///
/// # Errors
/// `Data` for a malformed file; else what the system answers.
pub fn read(logd_dir: &dyn Dir) -> Result<Vec<Redaction>> {
    let place = || logd_dir.path().join(files::REDACTIONS);
    let bytes = read_state_file(logd_dir, files::REDACTIONS, FILE_BYTES_MAX);
    let bytes = bytes.map_err(|e| Error::io("cannot read", e).at_path(place()))?;
    let mut all = Vec::new();
    let text = bytes.unwrap_or_default();
    for (n, line) in text.split(|b| *b == b'\n').enumerate() {
        if line.is_empty() {
            continue;
        }
        let entry = serde_json::from_slice(line).ok().as_ref().and_then(parse);
        let why = || Error::data(format!("line {} is no redaction", n + 1)).at_path(place());
        all.push(entry.ok_or_else(why)?);
    }
    Ok(all)
}

/// Those that were begun and not finished: content that was to go may still be there.
///
/// # Errors
/// As [`read`].
pub fn unfinished(logd_dir: &dyn Dir) -> Result<Vec<Redaction>> {
    let mut all = read(logd_dir)?;
    all.retain(|r| r.finished_ms.is_none());
    Ok(all)
}

/// Adds an entry, or replaces the one of the same id, durably.
///
/// # Errors
/// As [`read`], and what writing may meet.
pub fn put(logd_dir: &dyn Dir, entry: &Redaction) -> Result<()> {
    let place = || logd_dir.path().join(files::REDACTIONS);
    let mut all = read(logd_dir)?;
    match all.iter_mut().find(|r| r.id == entry.id) {
        Some(old) => *old = entry.clone(),
        None => all.push(entry.clone()),
    }
    let lines = all.iter().map(|r| format!("{}\n", render(r)));
    let text: String = lines.collect();
    if text.len() > FILE_BYTES_MAX {
        return Err(Error::data("too many redactions for one file").at_path(place()));
    }
    let written = write_state_file(logd_dir, files::REDACTIONS, text.as_bytes());
    written.map_err(|e| {
        let error = Error::io("cannot write", e).at_path(place());
        error.with_kind(crate::error::ErrorKind::Io)
    })
}

impl Redaction {
    /// The entry as one line of JSON.
    pub fn to_json(&self) -> String {
        render(self).to_string()
    }

    /// An entry from its JSON; `None` for anything else.
    pub fn from_json(line: &[u8]) -> Option<Redaction> {
        parse(&serde_json::from_slice(line).ok()?)
    }
}

fn render(r: &Redaction) -> Value {
    let c = &r.criteria;
    json!({
        "id": r.id, "user": r.user, "uid": r.uid, "reason": r.reason,
        "keys": c.keys, "match": c.pattern, "in": c.within, "ranges": c.ranges,
        "offsets": r.offsets, "action": c.action, "only": c.only,
        "records": r.records, "outside": r.outside,
        "started": r.started_ms, "finished": r.finished_ms,
    })
}

fn parse(line: &Value) -> Option<Redaction> {
    let line = line.as_object()?;
    let pair = |p: &Value| match p.as_array()?.as_slice() {
        [from, to] => Some((from.as_i64()?, optional(to, Value::as_i64)?)),
        _ => None,
    };
    let offsets = line.get("offsets")?.as_array()?.iter().map(pair);
    Some(Redaction {
        id: text(line, "id")?,
        user: text(line, "user")?,
        uid: u32::try_from(line.get("uid")?.as_u64()?).ok()?,
        reason: text(line, "reason")?,
        criteria: Criteria {
            keys: texts(line, "keys")?,
            pattern: optional(line.get("match")?, owned)?,
            within: optional(line.get("in")?, owned)?,
            ranges: texts(line, "ranges")?,
            action: text(line, "action")?,
            only: texts(line, "only")?,
        },
        offsets: offsets.collect::<Option<_>>()?,
        records: line.get("records")?.as_u64()?,
        outside: line.get("outside")?.as_u64()?,
        started_ms: line.get("started")?.as_i64()?,
        finished_ms: optional(line.get("finished")?, Value::as_i64)?,
    })
}

fn owned(value: &Value) -> Option<String> {
    value.as_str().map(str::to_string)
}

fn text(line: &Map<String, Value>, name: &str) -> Option<String> {
    owned(line.get(name)?)
}

fn texts(line: &Map<String, Value>, name: &str) -> Option<Vec<String>> {
    line.get(name)?.as_array()?.iter().map(owned).collect()
}

/// Null, or what `read` makes of it; outer `None` where it makes nothing of it.
fn optional<T>(value: &Value, read: impl Fn(&Value) -> Option<T>) -> Option<Option<T>> {
    match value {
        Value::Null => Some(None),
        value => read(value).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Host;
    use crate::sys::sim::SimHost;
    use std::path::Path;

    fn sample(id: &str) -> Redaction {
        Redaction {
            id: id.to_string(),
            user: "ann\n\"".to_string(),
            uid: u32::MAX,
            reason: "erasure request 881".to_string(),
            criteria: Criteria {
                keys: vec!["ab".to_string()],
                pattern: None,
                within: Some("json:/a".to_string()),
                ranges: vec!["..9".to_string()],
                action: "only".to_string(),
                only: vec!["key".to_string()],
            },
            offsets: vec![(0, Some(9)), (i64::MAX, None)],
            records: u64::MAX,
            outside: 0,
            started_ms: 5,
            finished_ms: None,
        }
    }

    #[test]
    fn an_entry_is_unfinished_until_it_is_put_again_finished() {
        let host = SimHost::new();
        host.make_dir(Path::new("/d")).unwrap();
        let dir = host.open_dir(Path::new("/d")).unwrap();
        assert!(read(dir.as_ref()).unwrap().is_empty());
        put(dir.as_ref(), &sample("1")).unwrap();
        put(dir.as_ref(), &sample("2")).unwrap();
        assert_eq!(read(dir.as_ref()).unwrap(), [sample("1"), sample("2")]);
        let finished = Redaction {
            finished_ms: Some(7),
            ..sample("1")
        };
        put(dir.as_ref(), &finished).unwrap();
        assert_eq!(unfinished(dir.as_ref()).unwrap(), [sample("2")]);
        assert_eq!(read(dir.as_ref()).unwrap(), [finished, sample("2")]);
    }

    #[test]
    fn a_malformed_file_is_damage_not_an_empty_list() {
        let host = SimHost::new();
        host.make_dir(Path::new("/d")).unwrap();
        let dir = host.open_dir(Path::new("/d")).unwrap();
        put(dir.as_ref(), &sample("1")).unwrap();
        host.edit("/d/redactions", |b| b[5] ^= 0x40).unwrap();
        let e = read(dir.as_ref()).unwrap_err();
        assert_eq!(e.kind(), crate::error::ErrorKind::Data);
        assert!(e.to_string().ends_with("line 1 is no redaction"), "{e}");
    }
}
