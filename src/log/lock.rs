//! Lock files in `.logd/`: flock(2), so a lock vanishes with its process, however that ends.
//!
//! A lock file is never unlinked and never renamed; should somebody have replaced it or the whole
//! directory all the same, the lock that was taken protects nothing, so [`LockFile::acquire`] compares
//! what it holds with what the path leads to, and gives it back if they differ. No lock is ever broken
//! by age or pid.
//!
//! The holder writes a note for messages: `pid SPACE start-ms SPACE command`. It is written without a
//! sync and never trusted. For most it is a courtesy; whoever relies on leaving one
//! ([`LockFile::leave_note`]) finds room for it on a full disk too, since a lock file is made as long
//! as a note can be.

use std::io;

use crate::error::{Error, ErrorKind, Result};
use crate::sys::{Dir, File, Host, Lock, Wait};

/// Most bytes of a holder's note.
const NOTE_BYTES_MAX: usize = 256;

/// A lock file, open for as long as its process may want the lock.
pub struct LockFile {
    file: Box<dyn File>,
    name: String,
}

impl LockFile {
    /// Opens `name` in the `.logd` directory, making it if it is absent. Takes no lock.
    ///
    /// # Errors
    /// What the system answers.
    pub fn open(logd_dir: &dyn Dir, name: &str) -> Result<LockFile> {
        let file = logd_dir
            .open_or_create(name)
            .map_err(|e| Error::io(format!("cannot open {name}"), e).at_path(logd_dir.path()))?;
        // Its last byte allocates the block, and touches no note that somebody left by now. Without
        // room for it a lock is a lock all the same.
        if file.len().is_ok_and(|len| len < NOTE_BYTES_MAX as u64) {
            let _ = file.write_all_at(&[0], NOTE_BYTES_MAX as u64 - 1);
        }
        let name = name.to_string();
        Ok(LockFile { file, name })
    }

    /// Takes the lock alone, waiting as told.
    ///
    /// Returns false if the file or its directory is no longer the one that was opened: the lock is
    /// free again and the caller opens the log anew.
    ///
    /// # Errors
    /// `Locked`, naming the holder, if the wait is over; else what the system answers.
    pub fn acquire(&self, logd_dir: &dyn Dir, wait: Wait) -> Result<bool> {
        self.acquire_checked(logd_dir, wait, || true)
    }

    /// As [`LockFile::acquire`]; `must_look`, asked when the lock is held, may say that no name in the
    /// directory changed since this last answered true.
    ///
    /// # Errors
    /// As [`LockFile::acquire`].
    pub fn acquire_checked(
        &self,
        logd_dir: &dyn Dir,
        wait: Wait,
        must_look: impl FnOnce() -> bool,
    ) -> Result<bool> {
        let io = |e| Error::io(format!("cannot lock {}", self.name), e).at_path(logd_dir.path());
        if !self.file.lock(Lock::Exclusive, wait).map_err(io)? {
            return Err(self.refusal(logd_dir));
        }
        let current = match must_look() {
            true => self.is_current(logd_dir),
            false => logd_dir.is_current(),
        };
        if !matches!(current, Ok(true)) {
            self.file.unlock().map_err(io)?;
        }
        current.map_err(io)
    }

    /// Whether nobody holds it alone, now or, with `Wait::Firmly`, after having waited for that. Beside
    /// others who ask it takes nothing; one that tries to take the lock at that very moment is refused.
    ///
    /// # Errors
    /// What the system answers.
    pub fn is_free(&self, wait: Wait) -> io::Result<bool> {
        let free = self.file.lock(Lock::Shared, wait)?;
        if free {
            self.file.unlock()?;
        }
        Ok(free)
    }

    /// Frees the lock.
    ///
    /// # Errors
    /// What the system answers.
    pub fn release(&self) -> io::Result<()> {
        self.file.unlock()
    }

    fn is_current(&self, logd_dir: &dyn Dir) -> io::Result<bool> {
        let held = self.file.id()?;
        Ok(logd_dir.id_of(&self.name)? == Some(held) && logd_dir.is_current()?)
    }

    /// Writes the holder's note; errors do not matter.
    pub fn write_note(&self, host: &dyn Host, command: &str) {
        let _ = self.leave_note(host, command);
    }

    /// Writes a note that others must find if this process dies.
    ///
    /// # Errors
    /// What the system answers.
    pub fn leave_note(&self, host: &dyn Host, command: &str) -> io::Result<()> {
        let mut note = format!("{} {} {command}", host.pid(), host.wall_ms()).into_bytes();
        note.truncate(NOTE_BYTES_MAX - 1);
        note.push(b'\n');
        // One write: a reader sees this note or, for an instant, the end of a longer one behind it.
        self.file.write_all_at(&note, 0)
    }

    /// The holder's note up to the first line end; empty without one.
    pub fn read_note(&self) -> String {
        let mut bytes = [0; NOTE_BYTES_MAX];
        let n = self.file.read_full_at(&mut bytes, 0).unwrap_or(0);
        let text = String::from_utf8_lossy(bytes.get(..n).unwrap_or_default()).into_owned();
        text.split(['\n', '\0'])
            .next()
            .unwrap_or_default()
            .to_string()
    }

    /// Clears the note; errors do not matter.
    pub fn clear_note(&self) {
        let _ = self.file.write_all_at(b"\n", 0);
    }

    fn refusal(&self, logd_dir: &dyn Dir) -> Error {
        let note = self.read_note();
        let mut parts = note.splitn(3, ' ');
        let holder = match (parts.next(), parts.next(), parts.next()) {
            (Some(pid), Some(_), Some(command)) if !pid.is_empty() => {
                format!("locked by '{command}' (pid {pid})")
            }
            _ => format!("{} is held by another process", self.name),
        };
        let log = logd_dir.path().parent().unwrap_or(logd_dir.path());
        Error::new(ErrorKind::Locked, holder).at_path(log)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::sim::{Fault, SimHost};
    use crate::sys::{Access, RealHost};
    use std::path::Path;

    #[test]
    fn a_lock_is_free_again_when_its_place_cannot_be_checked() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("log");
        std::fs::create_dir(&path).unwrap();
        let dir = RealHost.open_dir(&path).unwrap();
        let (a, b) = (
            LockFile::open(dir.as_ref(), "lock").unwrap(),
            LockFile::open(dir.as_ref(), "lock").unwrap(),
        );
        std::fs::rename(&path, temp.path().join("moved")).unwrap();
        std::os::unix::fs::symlink("log", &path).unwrap(); // to itself: stat(2) fails
        assert!(a.acquire(dir.as_ref(), Wait::No).is_err());
        assert!(b.file.lock(Lock::Exclusive, Wait::No).unwrap());
    }

    #[test]
    fn a_note_finds_room_on_a_full_disk_and_none_is_lost_to_who_opens_the_file() {
        let host = SimHost::new();
        host.make_dir(Path::new("/d")).unwrap();
        let dir = host.open_dir(Path::new("/d")).unwrap();
        let lock = LockFile::open(dir.as_ref(), "lock").unwrap();
        assert_eq!(lock.file.len().unwrap(), NOTE_BYTES_MAX as u64);
        assert_eq!(lock.read_note(), "");
        host.fail_next(Fault::Full);
        lock.leave_note(&host, "sync").unwrap();
        host.free();
        // As an older version made it.
        let file = dir.open("lock", Access::Write).unwrap();
        file.set_len(40).unwrap();
        let again = LockFile::open(dir.as_ref(), "lock").unwrap();
        assert!(again.read_note().ends_with(" sync"));
    }
}
