//! What lies beside the segments: snapshots, checkpoints, leftovers, and our own files.

use super::{Env, Finding, PAUSE, SETTLE, Severity};
use crate::error::{Error, ErrorKind, Result};
use crate::format::names::{self, FileName, Kind, State};
use crate::format::{Defect, Offset, checkpoint, snapshot};
use crate::log::files;
use crate::log::groups;
use crate::log::keys::{Found, Keys};
use crate::log::listing::read_small;
use crate::log::redactions;
use crate::log::view::View;
use crate::sys::{Access, Dir};
use std::time::Instant;

/// Largest file that is read whole, in bytes.
const WHOLE_BYTES_MAX: u64 = 64 << 20;

/// Checks everything beside the segments. `end` is the log end offset, if it is known; `epoch` the
/// largest leader epoch of a batch and where it begins.
///
/// # Errors
/// What reading may meet.
pub fn check(
    env: &Env<'_>,
    end: Option<Offset>,
    epoch: Option<(i32, Offset)>,
) -> Result<Vec<Finding>> {
    let mut out = Vec::new();
    leftovers(env, &mut out)?;
    redactions(env, &mut out)?;
    out.extend(check_files(env, end, epoch)?);
    Ok(out)
}

/// As [`check`], leftovers left out.
///
/// # Errors
/// What reading may meet.
pub fn check_files(
    env: &Env<'_>,
    end: Option<Offset>,
    epoch: Option<(i32, Offset)>,
) -> Result<Vec<Finding>> {
    let mut out = Vec::new();
    snapshots(env, end, &mut out)?;
    epochs(env, end, epoch, &mut out)?;
    metadata(env, &mut out)?;
    parent(env, &mut out)?;
    ours(env, &mut out)?;
    Ok(out)
}

/// Names of the partition directory that only work under way explains: output of a replacement, and
/// indexes without a log.
///
/// # Errors
/// The directory cannot be listed.
pub fn half_done(env: &Env<'_>) -> Result<Vec<FileName>> {
    let all = list(env)?;
    let parsed: Vec<FileName> = all.iter().filter_map(|n| names::parse(n)).collect();
    let has_log = |n: &FileName| parsed.contains(&n.sibling(Kind::Log));
    let odd = |n: &&FileName| match n.state {
        State::Cleaned | State::Swap => true,
        State::Deleted => false,
        State::Plain => !matches!(n.kind, Kind::Log | Kind::Snapshot) && !has_log(n),
    };
    let mut out: Vec<FileName> = parsed.iter().filter(odd).copied().collect();
    out.sort_unstable();
    Ok(out)
}

/// What [`half_done`] names, and if there is any, the `.deleted` files too: all that is cleared with it.
///
/// # Errors
/// The directory cannot be listed.
pub fn leftovers_now(env: &Env<'_>) -> Result<Vec<FileName>> {
    let mut out = half_done(env)?;
    if !out.is_empty() {
        let all = list(env)?;
        let parsed = all.iter().filter_map(|n| names::parse(n));
        out.extend(parsed.filter(|n| n.state == State::Deleted));
    }
    Ok(out)
}

fn list(env: &Env<'_>) -> Result<Vec<String>> {
    let listed = env.log.dir().list();
    let mut names =
        listed.map_err(|e| Error::io("cannot list", e).at_path(env.log.dir().path()))?;
    names.sort_unstable();
    Ok(names)
}

/// What stays half done for a while is nobody's work.
fn leftovers(env: &Env<'_>, out: &mut Vec<Finding>) -> Result<()> {
    let (began, mut seen) = (Instant::now(), half_done(env)?);
    while !seen.is_empty() && began.elapsed() < SETTLE {
        std::thread::sleep(PAUSE);
        let now = half_done(env)?;
        seen.retain(|n| now.contains(n));
    }
    for name in seen {
        let why = match name.state {
            State::Cleaned => "output of a replacement of segments that was never finished",
            State::Swap => "a replacement of segments that is not finished",
            _ => "an index without a log",
        };
        out.push(env.finding(&name.to_string(), 0, why));
    }
    for name in list(env)?.iter().filter(|n| names::is_foreign(n)) {
        let why = "a broker does not start where a file has such a name";
        out.push(env.warning(name, 0, why));
    }
    Ok(())
}

/// Reads a small file of the partition; `None` if it is not there.
fn read(
    env: &Env<'_>,
    dir: &dyn Dir,
    name: &str,
    out: &mut Vec<Finding>,
) -> Result<Option<Vec<u8>>> {
    let place = |e: Error| e.at_path(dir.path().join(name));
    let file = match dir.open(name, Access::Read) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(place(Error::io("cannot open", e))),
    };
    match read_small(&*file, WHOLE_BYTES_MAX) {
        Err(e) if e.kind() == ErrorKind::Data => {
            out.push(at(env, dir, name, Defect::new(0, e.what())));
            Ok(None)
        }
        read => read.map(Some).map_err(place),
    }
}

fn at(env: &Env<'_>, dir: &dyn Dir, name: &str, defect: Defect) -> Finding {
    Finding {
        path: dir.path().join(name),
        ..env.finding(name, defect.at as u64, defect.reason)
    }
}

/// Redactions that were begun: what was to go may still be there. Only the same command ends one.
fn redactions(env: &Env<'_>, out: &mut Vec<Finding>) -> Result<()> {
    let Ok(dir) = env.log.dir().open_dir(files::LOGD_DIR) else {
        return Ok(());
    };
    let mut tell = |why: String| {
        out.push(at(
            env,
            dir.as_ref(),
            files::REDACTIONS,
            Defect::new(0, why),
        ));
    };
    match redactions::unfinished(dir.as_ref()) {
        Err(e) if e.kind() == ErrorKind::Data => tell(e.what().to_string()),
        Err(e) => return Err(e),
        Ok(open) => open.iter().for_each(|r| {
            let (id, user) = (&r.id, &r.user);
            tell(format!(
                "redaction {id} by {user:?} is not finished; the same command goes on with it"
            ));
        }),
    }
    Ok(())
}

fn snapshots(env: &Env<'_>, end: Option<Offset>, out: &mut Vec<Finding>) -> Result<()> {
    let dir = env.log.dir().as_ref();
    for name in list(env)? {
        let Some(parsed) = names::parse(&name) else {
            continue;
        };
        if parsed.kind != Kind::Snapshot || parsed.state != State::Plain {
            continue;
        }
        let Some(bytes) = read(env, dir, &name, out)? else {
            continue;
        };
        match snapshot::decode(&bytes) {
            Err(defect) => out.push(at(env, dir, &name, defect)),
            Ok(entries) => {
                let late = entries.iter().find(|e| e.last_offset >= parsed.base);
                if let Some(e) = late {
                    let why = format!(
                        "producer {} at offset {}, which it does not cover",
                        e.producer_id, e.last_offset
                    );
                    out.push(env.finding(&name, 0, why));
                }
            }
        }
        // A roll since the start may have made it.
        if end.is_some_and(|e| parsed.base > e) && parsed.base > now_end(env)? {
            out.push(env.finding(
                &name,
                0,
                "a snapshot of an offset behind the end of the log",
            ));
        }
    }
    Ok(())
}

fn now_end(env: &Env<'_>) -> Result<Offset> {
    View::of(env.log.clone())?.end(env.limits)
}

fn epochs(
    env: &Env<'_>,
    end: Option<Offset>,
    epoch: Option<(i32, Offset)>,
    out: &mut Vec<Finding>,
) -> Result<()> {
    let (dir, name) = (env.log.dir().as_ref(), names::LEADER_EPOCH_CHECKPOINT);
    let Some(bytes) = read(env, dir, name, out)? else {
        return Ok(());
    };
    let starts = match checkpoint::parse_epochs(&bytes) {
        Ok(starts) => starts,
        Err(defect) => {
            out.push(at(env, dir, name, defect));
            return Ok(());
        }
    };
    let Some(last) = starts.last() else {
        return Ok(());
    };
    if end.is_some_and(|e| last.start > e) && last.start > now_end(env)? {
        let why = format!(
            "epoch {} begins at offset {}, behind the end of the log",
            last.epoch, last.start
        );
        out.push(env.finding(name, 0, why));
    }
    if let Some((epoch, offset)) = epoch.filter(|(e, _)| *e > last.epoch) {
        let why = format!("epoch {epoch} of the batch at offset {offset} is not listed");
        out.push(env.finding(name, 0, why));
    }
    Ok(())
}

fn metadata(env: &Env<'_>, out: &mut Vec<Finding>) -> Result<()> {
    let (dir, name) = (env.log.dir().as_ref(), names::PARTITION_METADATA);
    if let Some(bytes) = read(env, dir, name, out)?
        && let Err(defect) = checkpoint::parse_metadata(&bytes)
    {
        out.push(at(env, dir, name, defect));
    }
    Ok(())
}

/// The checkpoints of the directory above, which many partitions share.
fn parent(env: &Env<'_>, out: &mut Vec<Finding>) -> Result<()> {
    let Some(dir) = env.log.parent() else {
        return Ok(());
    };
    for name in names::DIR_CHECKPOINTS {
        let bytes = match read(env, dir.as_ref(), name, out) {
            // Another user's directory may hide them.
            Err(e) if e.kind() == ErrorKind::Permission => continue,
            read => read?,
        };
        if let Some(Err(defect)) = bytes.map(|b| checkpoint::parse_offsets(&b)) {
            out.push(at(env, dir.as_ref(), name, defect));
        }
    }
    Ok(())
}

/// What is ours: the mark of a failed sync, the state of `append --once`.
fn ours(env: &Env<'_>, out: &mut Vec<Finding>) -> Result<()> {
    let Ok(dir) = env.log.dir().open_dir(files::LOGD_DIR) else {
        return Ok(()); // a broker's directory, or one that hides it from us
    };
    let fail = |e| Error::io("cannot look into .logd", e).at_path(dir.path());
    if dir.stat(files::FAILED).map_err(fail)?.is_some() {
        let defect = Defect::new(
            0,
            "a sync failed; nothing is acknowledged until it is repaired",
        );
        out.push(at(env, dir.as_ref(), files::FAILED, defect));
    }
    for name in groups::names(dir.as_ref())? {
        match groups::read(dir.as_ref(), &name) {
            Err(e) if e.kind() == ErrorKind::Data => {
                let path = e.path().unwrap_or(dir.path()).to_path_buf();
                let finding = env.finding(&name, 0, e.what());
                out.push(Finding { path, ..finding });
            }
            read => drop(read?),
        }
    }
    let Ok(once) = dir.open_dir(files::ONCE) else {
        return Ok(());
    };
    for name in once.list().map_err(fail)? {
        if name.ends_with(".lock") || name.ends_with(".tmp") {
            continue;
        }
        let Some(bytes) = read(env, once.as_ref(), &name, out)? else {
            continue;
        };
        if !is_once_state(&bytes) {
            out.push(at(
                env,
                once.as_ref(),
                &name,
                Defect::new(0, "not a count and an offset"),
            ));
        }
    }
    out.sort_by_key(|f| f.severity == Severity::Warning);
    Ok(())
}

/// Look-up indexes that are damaged; of those, only headers with `quick`. One of a segment that has
/// been replaced since is void, and no problem.
///
/// # Errors
/// What reading may meet.
pub fn lookups(env: &Env<'_>, quick: bool) -> Result<Vec<Finding>> {
    let keys = Keys::of(env.log)?;
    let Some(dir) = keys.dir() else {
        return Ok(Vec::new());
    };
    let segments = env.log.segments()?;
    let mut out = Vec::new();
    for (name, base, _) in keys.names()? {
        let checked = keys.header(&name).and_then(|found| {
            let segment = segments.iter().find(|s| s.base() == base);
            let (Some((header, bytes)), Some(segment), false) = (found, segment, quick) else {
                return Ok(());
            };
            env.throttle.spend(bytes);
            match keys.find(env.log, segment, &header.field)? {
                Found::Sound(open) => open.check(),
                Found::Damaged(e) => Err(e),
                Found::Nothing => Ok(()),
            }
        });
        match checked {
            Err(e) if e.kind() == ErrorKind::Data => {
                let at = usize::try_from(e.position().unwrap_or(0)).unwrap_or(usize::MAX);
                out.push(self::at(
                    env,
                    dir.as_ref(),
                    &name,
                    Defect::new(at, e.what()),
                ));
            }
            // Its segment went meanwhile, or it may not be read by us.
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Permission) => {}
            checked => checked?,
        }
    }
    Ok(out)
}

/// `1`, then `COUNT OFFSET`.
fn is_once_state(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return false;
    };
    let mut words = text.split_ascii_whitespace();
    let version = words.next() == Some("1");
    let count = words.next().is_some_and(|w| w.parse::<u64>().is_ok());
    let offset = words.next().is_some_and(|w| w.parse::<i64>().is_ok());
    version && count && offset && words.next().is_none()
}
