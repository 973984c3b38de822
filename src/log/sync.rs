//! The sync queue: one sync serves everybody who waits for it.
//!
//! Whoever needs the log durable up to an offset queues on `sync.lock`, after having released the
//! append lock. Then, holding it:
//!
//! 1. D is past the wanted offset already (somebody else's sync covered it): done.
//! 2. A note is left in the lock file: a sync is under way.
//! 3. The segments from D's to the active one are synced in ascending order, then, if one of them is
//!    new, the directory, so that D moves in order only.
//! 4. D is published in `.logd/end`, and the note cleared.
//!
//! If a sync fails, `.logd/failed` is left while the lock is still held, and nothing is ever
//! acknowledged again until `repair`; it is never retried. If a note is found that is not ours, its
//! writer died in the middle of a sync whose error, if there was one, the kernel will not report
//! again: after our own sync the cached pages are dropped and the batches are read back before D is
//! published.
//!
//! With no D on record (a directory that a broker wrote) the first sync is of the whole file system,
//! since nothing is known of any file here.

use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Error, ErrorKind, Result};
use crate::format::Offset;
use crate::format::names::{self, Kind, State, file_name};
use crate::log::end::{self, End, EndHint};
use crate::log::lock::LockFile;
use crate::log::{failed, files, recovery};
use crate::sys::{Access, Dir, File, Host, Wait};

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
    /// `Io` if the sync failed, now or earlier; D stays where it was. `Locked` is not possible: it
    /// waits as long as others sync.
    pub fn sync_to(&self, end: Offset) -> Result<Offset> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.poisoned {
            return Err(self.poisoned());
        }
        while !state.lock.acquire(self.logd_dir.as_ref(), Wait::Forever)? {
            // Somebody replaced the lock file; the log itself is checked by whoever opens it.
            state.lock = LockFile::open(self.logd_dir.as_ref(), files::SYNC_LOCK)?;
        }
        let result = self.sync_locked(&mut state, end);
        let _ = state.lock.release();
        result
    }

    fn sync_locked(&self, state: &mut SyncState, end: Offset) -> Result<Offset> {
        failed::refuse_if_failed(self.logd_dir.as_ref())?;
        let published = self.read_end(state)?;
        if let Some(d) = published.durable.filter(|d| *d >= end) {
            return Ok(d);
        }
        let heir = !state.lock.read_note().is_empty();
        state.lock.write_note(self.host.as_ref(), "sync");
        // What others appended and released before our sync begins is covered by it as well.
        let target = published.hint.filter(|h| h.boot_id == self.host.boot_id());
        let target = target.map_or(end, |h| h.end.max(end));
        if let Err(e) = self.sync_files(state, &published, target, heir) {
            state.poisoned = true;
            failed::mark(
                self.host.as_ref(),
                self.logd_dir.as_ref(),
                published.durable,
                &e,
            );
            return Err(self.sync_failed(published.durable, e));
        }
        let sequence = published.durable_sequence + 1;
        end::write_durable(
            state.end_file.as_ref(),
            sequence,
            self.host.boot_id(),
            target,
        )
        .map_err(|e| self.error("cannot write .logd/end", e))?;
        state.lock.clear_note();
        Ok(target)
    }

    fn sync_files(
        &self,
        state: &mut SyncState,
        published: &End,
        target: Offset,
        heir: bool,
    ) -> std::io::Result<()> {
        let Some(durable) = published.durable else {
            self.dir.sync_filesystem()?;
            return self.name_all(state);
        };
        self.gather_segments(state, published.hint.as_ref(), durable)?;
        for (_, file) in &state.segments {
            file.sync()?;
        }
        // A segment that begins at or above D was made after the last sync; until the directory is
        // synced its name is not durable, and everything in it could vanish with the name.
        let newest = state.segments.last().map(|s| s.0);
        if newest.is_some_and(|base| base >= durable) && newest > state.named_through {
            self.dir.sync()?;
            state.named_through = newest;
        }
        if heir {
            read_back(&state.segments, target)?;
        }
        Ok(())
    }

    /// After a sync of the whole file system every name is durable.
    fn name_all(&self, state: &mut SyncState) -> std::io::Result<()> {
        state.named_through = self.bases()?.last().copied();
        Ok(())
    }

    /// Opens the segments from the one that holds D on, keeping what is open already: the descriptor
    /// that was open when an error happened is the one that is told of it.
    fn gather_segments(
        &self,
        state: &mut SyncState,
        hint: Option<&EndHint>,
        durable: Offset,
    ) -> std::io::Result<()> {
        // The common case, told without reading the directory: one segment, and no newer one.
        if let [(base, file)] = state.segments.as_slice()
            && let Some(hint) = hint
            && hint.base == *base
            && file.meta()?.id.ino == hint.inode
        {
            return Ok(());
        }
        let bases = self.bases()?;
        let first = bases.partition_point(|b| *b <= durable).saturating_sub(1);
        let wanted = bases.get(first..).unwrap_or_default();
        let mut open = std::mem::take(&mut state.segments);
        for base in wanted {
            let name = file_name(*base, Kind::Log);
            let kept = open.iter().position(|(b, _)| b == base);
            let file = match kept.map(|i| open.swap_remove(i).1) {
                Some(file) if self.still_there(&name, file.as_ref())? => file,
                _ => match self.dir.open(&name, Access::Read) {
                    Ok(file) => Arc::from(file),
                    // Retention removed it: what is gone needs no sync.
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                    Err(e) => return Err(e),
                },
            };
            state.segments.push((*base, file));
        }
        Ok(())
    }

    fn still_there(&self, name: &str, file: &dyn File) -> std::io::Result<bool> {
        let id = file.meta()?.id;
        Ok(self.dir.stat(name)?.is_some_and(|m| m.id == id))
    }

    fn bases(&self) -> std::io::Result<Vec<Offset>> {
        let plain_log = |n: &String| {
            let f = names::parse(n)?;
            (f.kind == Kind::Log && f.state == State::Plain).then_some(f.base)
        };
        let mut bases: Vec<Offset> = self.dir.list()?.iter().filter_map(plain_log).collect();
        bases.sort_unstable();
        Ok(bases)
    }

    fn read_end(&self, state: &SyncState) -> Result<End> {
        end::read_from(state.end_file.as_ref()).map_err(|e| self.error("cannot read .logd/end", e))
    }

    fn error(&self, what: &str, e: std::io::Error) -> Error {
        Error::io(what, e).at_path(self.dir.path())
    }

    fn sync_failed(&self, durable: Option<Offset>, e: std::io::Error) -> Error {
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

/// Reads from the device what a dead process may have failed to sync.
fn read_back(segments: &[(Offset, Arc<dyn File>)], target: Offset) -> std::io::Result<()> {
    let mut reached = Offset::ZERO;
    for (base, file) in segments {
        file.drop_cache(0);
        reached = recovery::read_back(file.clone(), *base, target)?;
    }
    if reached < target {
        let why = format!("the log reads back to offset {reached} only, not {target}");
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, why));
    }
    Ok(())
}
