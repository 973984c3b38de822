//! The sync queue: one sync serves everybody who waits for it.
//!
//! Whoever needs the log durable up to an offset queues on `sync.lock`, after having released the
//! append lock. Then, holding it:
//!
//! 1. D is past the wanted offset already (somebody else's sync covered it): done.
//! 2. The segments from D's to the active one are opened. An error up to here is only that.
//! 3. A note is left in the lock file: a sync is under way. Without it there is no sync.
//! 4. The segments are synced in ascending order, then, if one of them is new, the directory, so that
//!    D moves in order only.
//! 5. D is published in `.logd/end`, and the note cleared.
//!
//! If a sync fails, `.logd/failed` is left while the lock is still held, and nothing is ever
//! acknowledged again until `repair`; it is never retried. If a note is found that is not ours, its
//! writer died in the middle of a sync whose error, if there was one, the kernel will not report
//! again: after our own sync the cached pages are dropped and the batches are read back before D is
//! published.
//!
//! With no D on record (a directory that a broker wrote) the first sync is of the whole file system,
//! since nothing is known of any file here. Only the names that were listed before it are durable then.
//!
//! Whoever asks for a sync has something to acknowledge, so nobody stops waiting for one on a signal.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Error, ErrorKind, Result};
use crate::format::names::{self, Kind, State, file_name};
use crate::format::{Limits, Offset};
use crate::log::end::{self, End, EndHint};
use crate::log::lock::LockFile;
use crate::log::vigil::Vigil;
use crate::log::{failed, files};
use crate::segment::scan::{Scanner, Span, Step, Tail};
use crate::sys::{Access, Dir, File, Host, Wait};

/// What one sync has to do.
struct Todo {
    /// Sync the whole file system instead of the gathered segments.
    everything: bool,
    /// The newest segment, if its name is to become durable.
    name: Option<Offset>,
    /// A holder died in the middle of a sync: read back what is there.
    heir: bool,
}

/// Makes a log durable; shared by the threads of a process.
pub struct Syncer {
    host: Arc<dyn Host>,
    dir: Arc<dyn Dir>,
    logd_dir: Arc<dyn Dir>,
    state: Mutex<SyncState>,
}

struct SyncState {
    lock: LockFile,
    end_file: Box<dyn File>,
    /// Segments that may need a sync, ascending: the one that holds D and all after it.
    segments: Vec<(Offset, Arc<dyn File>)>,
    /// The largest base offset whose name is known to be durable.
    named_through: Option<Offset>,
    /// This process's own sync failed, whatever the mark says.
    poisoned: bool,
    names: Vigil,
    /// Whether names must be looked at during this sync.
    must_look: bool,
}

impl Syncer {
    /// A syncer for the partition `dir`, whose `end` file exists.
    ///
    /// # Errors
    /// What the system answers.
    pub fn open(host: Arc<dyn Host>, dir: Arc<dyn Dir>, logd_dir: Arc<dyn Dir>) -> Result<Syncer> {
        let lock = LockFile::open(logd_dir.as_ref(), files::SYNC_LOCK)?;
        let end_file = logd_dir
            .open(files::END, Access::Write)
            .map_err(|e| Error::io("cannot open .logd/end", e).at_path(dir.path()))?;
        let state = SyncState {
            lock,
            end_file,
            segments: Vec::new(),
            named_through: None,
            poisoned: false,
            names: Vigil::default(),
            must_look: true,
        };
        Ok(Syncer {
            host,
            dir,
            logd_dir,
            state: Mutex::new(state),
        })
    }

    /// The durable offset as published; `None` if none ever was.
    ///
    /// # Errors
    /// What the system answers.
    pub fn durable(&self) -> Result<Option<Offset>> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(self.read_end(&state)?.durable)
    }

    /// Makes everything below `end` durable, where `end` is at most the log end, and everything else
    /// that is in the log by now with it. Returns D, which is `end` or more.
    ///
    /// # Errors
    /// `Io` if the sync failed, now or earlier; D stays where it was. `NotFound` if the path leads to
    /// another directory by now. Else what the system answers. `Locked` is not possible: it waits as
    /// long as others sync.
    pub fn sync_to(&self, end: Offset) -> Result<Offset> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.poisoned {
            return Err(self.poisoned());
        }
        self.lock(&mut state)?;
        let result = self.sync_locked(&mut state, end);
        let _ = state.lock.release();
        result
    }

    /// Takes back what was promised: D becomes `to`, durably, if it is more. Before a cut of what it
    /// speaks of.
    ///
    /// # Errors
    /// `Io` after a failed sync; else what the system answers.
    pub fn lower(&self, to: Offset) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.lock(&mut state)?;
        let mut lower = || -> Result<()> {
            failed::refuse_if_failed(self.logd_dir.as_ref())?;
            self.refresh_end_file(&mut state)?;
            let published = self.read_end(&state)?;
            if published.durable.is_none_or(|d| d <= to) {
                return Ok(());
            }
            let (sequence, boot_id) = (published.durable_sequence + 1, self.host.boot_id());
            // The slot that this does not write says more, but less than it counts.
            end::write_durable(state.end_file.as_ref(), sequence, boot_id, to)
                .and_then(|()| state.end_file.sync())
                .map_err(|e| self.error("cannot write .logd/end", e))
        };
        let result = lower();
        let _ = state.lock.release();
        result
    }

    fn lock(&self, state: &mut SyncState) -> Result<()> {
        let dir = self.logd_dir.as_ref();
        let SyncState {
            lock,
            names,
            must_look,
            ..
        } = state;
        let look = || {
            *must_look = names.must_look(dir);
            *must_look
        };
        if lock.acquire_checked(dir, Wait::Firmly, look)? {
            return Ok(());
        }
        // Somebody replaced the lock file, or the directory: the one is mended by opening it anew.
        state.lock = LockFile::open(self.logd_dir.as_ref(), files::SYNC_LOCK)?;
        if state.lock.acquire(self.logd_dir.as_ref(), Wait::Firmly)? {
            return Ok(());
        }
        let why = "the log was replaced by another directory";
        Err(Error::new(ErrorKind::NotFound, why).at_path(self.dir.path()))
    }

    fn sync_locked(&self, state: &mut SyncState, end: Offset) -> Result<Offset> {
        if state.must_look {
            failed::refuse_if_failed(self.logd_dir.as_ref())?;
            self.refresh_end_file(state)?;
            state.names.settle();
        }
        let published = self.read_end(state)?;
        if let Some(d) = published.durable.filter(|d| *d >= end) {
            return Ok(d);
        }
        // What others appended and released before our sync begins is covered by it as well.
        let target = published.hint.filter(|h| h.is_of(self.host.boot_id()));
        let target = target.map_or(end, |h| h.end.max(end));
        let heir = !state.lock.read_note().is_empty();
        let todo = self.plan(state, &published, heir)?;
        state
            .lock
            .leave_note(self.host.as_ref(), "sync")
            .map_err(|e| self.error("cannot note in sync.lock that a sync begins", e))?;
        if let Err(e) = self.sync_files(state, &todo, target) {
            state.poisoned = true;
            let (host, logd_dir) = (self.host.as_ref(), self.logd_dir.as_ref());
            failed::mark(host, logd_dir, published.durable, &e);
            return Err(self.sync_failed(published.durable, e));
        }
        let (sequence, boot_id) = (published.durable_sequence + 1, self.host.boot_id());
        end::write_durable(state.end_file.as_ref(), sequence, boot_id, target)
            .map_err(|e| self.error("cannot write .logd/end", e))?;
        state.lock.clear_note();
        Ok(target)
    }

    /// Finds out what is to be synced. Nothing that fails here has lost anything.
    fn plan(&self, state: &mut SyncState, published: &End, heir: bool) -> Result<Todo> {
        let fail = |e| self.error("cannot open what is to be synced", e);
        let Some(durable) = published.durable else {
            // Listed before the sync, so that every name here is durable after it.
            let newest = self.bases().map_err(fail)?.last().copied();
            if heir {
                self.gather_segments(state, None, Offset::ZERO)
                    .map_err(fail)?;
            }
            return Ok(Todo {
                everything: true,
                name: newest,
                heir,
            });
        };
        self.gather_segments(state, published.hint.as_ref(), durable)
            .map_err(fail)?;
        // A segment that begins at or above D was made after the last sync; until the directory is
        // synced its name is not durable, and everything in it could vanish with the name.
        let newest = state.segments.last().map(|s| s.0);
        let new = |base: &Offset| *base >= durable && Some(*base) > state.named_through;
        Ok(Todo {
            everything: false,
            name: newest.filter(new),
            heir,
        })
    }

    /// The sync itself. Whatever fails here may have lost what others wrote.
    fn sync_files(&self, state: &mut SyncState, todo: &Todo, target: Offset) -> io::Result<()> {
        if todo.everything {
            self.dir.sync_filesystem()?;
        } else {
            for (_, file) in &state.segments {
                file.sync()?;
            }
            if todo.name.is_some() {
                self.dir.sync()?;
            }
        }
        state.named_through = state.named_through.max(todo.name);
        if todo.heir {
            read_back(&state.segments, target)?;
        }
        Ok(())
    }

    /// Opens the segments from the one that holds D on, keeping what is open already: the descriptor
    /// that was open when an error happened is the one that is told of it.
    fn gather_segments(
        &self,
        state: &mut SyncState,
        hint: Option<&EndHint>,
        durable: Offset,
    ) -> io::Result<()> {
        // The common case, told without reading the directory: one segment, and no newer one.
        if let [(base, file)] = state.segments.as_slice()
            && let Some(hint) = hint
            && hint.base == *base
            && file.id()?.ino == hint.inode
        {
            return Ok(());
        }
        let bases = self.bases()?;
        let first = bases.partition_point(|b| *b <= durable).saturating_sub(1);
        let wanted = bases.get(first..).unwrap_or_default();
        let mut gathered = Vec::new();
        for base in wanted {
            let name = file_name(*base, Kind::Log);
            let kept = state.segments.iter().find(|(b, _)| b == base);
            let file = match kept.map(|(_, file)| file.clone()) {
                Some(file) if self.still_there(&name, file.as_ref())? => file,
                _ => match self.dir.open(&name, Access::Read) {
                    Ok(file) => Arc::from(file),
                    // Retention removed it: what is gone needs no sync.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                    Err(e) => return Err(e),
                },
            };
            gathered.push((*base, file));
        }
        state.segments = gathered;
        Ok(())
    }

    fn still_there(&self, name: &str, file: &dyn File) -> io::Result<bool> {
        let id = file.id()?;
        Ok(self.dir.id_of(name)? == Some(id))
    }

    fn bases(&self) -> io::Result<Vec<Offset>> {
        let plain_log = |n: &String| {
            let f = names::parse(n)?;
            (f.kind == Kind::Log && f.state == State::Plain).then_some(f.base)
        };
        let mut bases: Vec<Offset> = self.dir.list()?.iter().filter_map(plain_log).collect();
        bases.sort_unstable();
        Ok(bases)
    }

    /// Opens `.logd/end` anew if somebody removed or replaced it. In a new one no D is on record.
    fn refresh_end_file(&self, state: &mut SyncState) -> Result<()> {
        let refresh = || -> io::Result<Option<Box<dyn File>>> {
            let held = state.end_file.id()?;
            match self.logd_dir.id_of(files::END)? {
                Some(there) if there == held => Ok(None),
                _ => self.logd_dir.open_or_create(files::END).map(Some),
            }
        };
        let fail = |e| self.error("cannot open .logd/end", e);
        if let Some(file) = refresh().map_err(fail)? {
            state.end_file = file;
        }
        Ok(())
    }

    fn read_end(&self, state: &SyncState) -> Result<End> {
        end::read_from(state.end_file.as_ref()).map_err(|e| self.error("cannot read .logd/end", e))
    }

    fn error(&self, what: &str, e: io::Error) -> Error {
        Error::io(what, e).at_path(self.dir.path())
    }

    fn sync_failed(&self, durable: Option<Offset>, e: io::Error) -> Error {
        let d = durable.map_or_else(|| "unknown".to_string(), |d| d.to_string());
        let what = format!("sync failed; only offsets below {d} are known to be on disk");
        Error::io(what, e)
            .with_kind(ErrorKind::Io)
            .at_path(self.dir.path())
            .hint(format!("logd repair {}", self.dir.path().display()))
    }

    fn poisoned(&self) -> Error {
        Error::new(
            ErrorKind::Io,
            "a sync of this process failed; nothing further is acknowledged",
        )
        .at_path(self.dir.path())
        .hint(format!("logd repair {}", self.dir.path().display()))
    }
}

/// Reads from the device what a dead process may have failed to sync. `segments` are ascending, and
/// the last is or was the active one.
fn read_back(segments: &[(Offset, Arc<dyn File>)], target: Offset) -> io::Result<()> {
    let mut reached = Offset::ZERO;
    for (i, (base, file)) in segments.iter().enumerate() {
        file.drop_cache(0);
        let above = segments.get(i + 1).map(|s| s.0);
        reached = read_segment_back(file, *base, above, target)?;
    }
    if reached < target {
        let why = format!("the log reads back to offset {reached} only, not {target}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    Ok(())
}

/// Checks the batches of a segment: all, if another begins at `above`, else those below `target`.
/// Returns the offset behind the last.
///
/// A page that was lost reads as zeros, which look like the end of the data. In a sealed segment they
/// are that only if nothing is missing before the next one (zeros that ran ahead and were cut may
/// come back with a power cut).
fn read_segment_back(
    file: &Arc<dyn File>,
    base: Offset,
    above: Option<Offset>,
    target: Offset,
) -> io::Result<Offset> {
    let span = Span::whole(base, file.len()?);
    let mut scanner = Scanner::new(file.clone(), span, Limits::default());
    while above.is_some() || scanner.next_offset() < target {
        let why = match scanner.step().map_err(io::Error::other)? {
            Step::Batch(_) => continue,
            Step::End(end) if above.is_none() || end.tail == Tail::Clean => break,
            Step::End(end) if end.tail == Tail::Zeros && above == Some(scanner.next_offset()) => {
                break;
            }
            Step::End(_) => "the data ends before the file".to_string(),
            Step::Bad(bad) => bad.defect.reason,
        };
        let why = format!("segment {base}, byte {}: {why}", scanner.position());
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    Ok(scanner.next_offset())
}

#[cfg(test)]
#[path = "sync_tests.rs"]
mod tests;
