//! The only door to the operating system: directories, files, locks, clocks, and who waits for what.
//!
//! Owns three small traits, so that a test can be the disk, and two implementations of them:
//!
//! | module      | what it is |
//! |-------------|------------|
//! | [`real`]    | the machine: every name is opened relative to a directory's descriptor |
//! | [`sim`]     | a disk in memory that fails, fills up and loses power when a test says so |
//! | [`child`]   | waiting for a child process |
//! | [`confined`] | a machine of which one directory is all there is |
//! | [`fs_kind`] | is a file system local, or can its locks and sync errors not be relied on |
//! | [`map`]     | read-only memory maps; the only unsafe code of the crate |
//! | [`net`]     | TCP connections made and taken |
//! | [`pipe`]    | what a standard stream is, how large its buffer, when it is readable |
//! | [`signals`] | INT, TERM, HUP and USR1 as flags, and a descriptor that wakes a sleeper |
//! | [`user`]    | who runs this process |
//! | [`watch`]   | sleep until a followed log changes, the reader goes away or a signal comes |
//!
//! Invariants:
//!
//! * A *name* is one path component. What holds a `/`, is `.`, `..` or empty is refused, so
//!   nothing from data or from a peer leads out of a directory.
//! * Symbolic links are never followed below a directory, only what is a regular file is opened,
//!   and a file with a second link is not opened for writing.
//! * Each verb says what is *visible* (to other processes) and what is *durable* (after a power
//!   cut) when it returns. Nothing is durable unless it says so.
//! * Descriptors are close-on-exec: an inherited lock would outlive its owner.
//!
//! Results are [`io::Result`]; the layer above knows the noun and adds the file's name. A refusal of
//! ours (a link, a fifo) is [`io::ErrorKind::PermissionDenied`] with its own words.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

pub mod child;
pub mod confined;
pub mod fs_kind;
pub mod map;
pub mod net;
pub mod pipe;
pub mod real;
pub mod signals;
pub mod sim;
#[cfg(test)]
mod twins;
pub mod user;
pub mod watch;

pub use fs_kind::FsKind;
pub use map::Bytes;
pub use real::RealHost;

/// Device and inode: two descriptors or names with equal ids are the same file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId {
    /// Device number (`st_dev`).
    pub dev: u64,
    /// Inode number (`st_ino`).
    pub ino: u64,
}

/// What `stat` tells about a file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Which file it is.
    pub id: FileId,
    /// Length in bytes.
    pub len: u64,
    /// Number of names it has.
    pub nlink: u64,
    /// Permission bits (`0o7777`), without the file type.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of the last change of content, milliseconds since 1970.
    pub mtime_ms: i64,
    /// It is a regular file.
    pub is_file: bool,
    /// It is a directory.
    pub is_dir: bool,
}

/// What an opened file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading only.
    Read,
    /// Reading and writing.
    Write,
}

/// Which lock is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// Beside other shared ones.
    Shared,
    /// Alone.
    Exclusive,
}

/// How long to wait for a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all.
    No,
    /// Until it is to be had, or a signal asked this process to end.
    Forever,
    /// As `Forever`, or until this moment has passed.
    Until(Instant),
    /// Until it is to be had, whatever signals say: for the work that is finished before a process
    /// ends, and for locks that are held for moments only.
    Firmly,
    /// As `Firmly`, or until this moment has passed.
    FirmlyUntil(Instant),
}

/// A directory held open, so that what is done in it is done to this directory, wherever its path
/// leads meanwhile.
pub trait Dir: Send + Sync {
    /// The path it was opened by: for messages, never for access.
    fn path(&self) -> &Path;

    /// Which directory it is.
    ///
    /// # Errors
    /// What fstat(2) answers.
    fn id(&self) -> io::Result<FileId> {
        Ok(self.meta()?.id)
    }

    /// What fstat(2) tells about the directory itself.
    ///
    /// # Errors
    /// What fstat(2) answers.
    fn meta(&self) -> io::Result<Meta>;

    /// Whether the path still leads to this directory: false once it was renamed or removed.
    ///
    /// # Errors
    /// What stat(2) answers, except that the path is gone.
    fn is_current(&self) -> io::Result<bool>;

    /// Whether a privileged process may trust what is in here: false for root where others may
    /// write, true for everyone else. A writing command asks once, before anything else.
    ///
    /// # Errors
    /// What fstat(2) answers.
    fn is_safe_for_root(&self) -> io::Result<bool>;

    /// The names in it, in no order. A name that is not UTF-8 is nobody's here and is left out.
    ///
    /// # Errors
    /// What open(2) and getdents(2) answer.
    fn list(&self) -> io::Result<Vec<String>>;

    /// What a name stands for, a symbolic link not followed; `None` if there is no such name.
    ///
    /// # Errors
    /// What fstatat(2) answers, except that the name is absent.
    fn stat(&self, name: &str) -> io::Result<Option<Meta>>;

    /// Which file a name stands for, a symbolic link not followed; `None` if there is no such name.
    /// Asks for no times, and so, as [`File::len`], costs the next sync nothing.
    ///
    /// # Errors
    /// What statx(2) answers, except that the name is absent.
    fn id_of(&self, name: &str) -> io::Result<Option<FileId>> {
        Ok(self.stat(name)?.map(|m| m.id))
    }

    /// Opens an existing regular file.
    ///
    /// # Errors
    /// `PermissionDenied` for anything but a regular file and, for writing, for a file that has
    /// more than one name; else what openat(2) answers.
    fn open(&self, name: &str, access: Access) -> io::Result<Box<dyn File>>;

    /// Makes a file and opens it for reading and writing. Its mode is 0600 plus the group bits of
    /// the directory, whatever the umask; made by root it gets the directory's owner and group.
    ///
    /// Visible on return; the name is durable after [`Dir::sync`] only.
    ///
    /// # Errors
    /// `AlreadyExists`; else what openat(2), fchown(2) and fchmod(2) answer.
    fn create(&self, name: &str) -> io::Result<Box<dyn File>>;

    /// Opens a file for reading and writing, making it by the rules of [`Dir::create`] if it is
    /// absent: for lock files and others that are never renamed.
    ///
    /// # Errors
    /// As [`Dir::open`] and [`Dir::create`].
    fn open_or_create(&self, name: &str) -> io::Result<Box<dyn File>> {
        // Each round somebody else made or removed the name between our two calls; a name that
        // flickers that often is not a file of ours.
        for _ in 0..16 {
            match self.open(name, Access::Write) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                other => return other,
            }
            match self.create(name) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                other => return other,
            }
        }
        self.create(name)
    }

    /// Gives a file another name in this directory, replacing what had it. Readers see the one or
    /// the other, never neither. Durable after [`Dir::sync`] only.
    ///
    /// # Errors
    /// What renameat(2) answers.
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.rename_to(from, self.as_dyn(), to)
    }

    /// As [`Dir::rename`], into another directory of the same file system. Durable after both
    /// directories were synced; a crash between may leave both names or, if only this one was
    /// synced, none: sync `other` first.
    ///
    /// # Errors
    /// What renameat(2) answers.
    fn rename_to(&self, from: &str, other: &dyn Dir, to: &str) -> io::Result<()>;

    /// Gives a regular file a second name, in `other`. Durable after `other` was synced.
    ///
    /// # Errors
    /// What linkat(2) answers.
    fn link_to(&self, from: &str, other: &dyn Dir, to: &str) -> io::Result<()>;

    /// Removes a file's name. Who has it open keeps it. Durable after [`Dir::sync`] only.
    ///
    /// # Errors
    /// What unlinkat(2) answers.
    fn unlink(&self, name: &str) -> io::Result<()>;

    /// Makes a directory, mode 0700 plus this one's group bits and setgid bit; made by root it gets
    /// this one's owner and group. Durable after [`Dir::sync`] of this one only.
    ///
    /// # Errors
    /// What mkdirat(2), fchown(2) and fchmod(2) answer.
    fn make_dir(&self, name: &str) -> io::Result<()>;

    /// Removes an empty directory. Durable after [`Dir::sync`] only.
    ///
    /// # Errors
    /// What unlinkat(2) answers.
    fn remove_dir(&self, name: &str) -> io::Result<()>;

    /// Opens a directory in this one.
    ///
    /// # Errors
    /// `NotADirectory` for a symbolic link too; else what openat(2) answers.
    fn open_dir(&self, name: &str) -> io::Result<Arc<dyn Dir>>;

    /// Makes durable every name made, renamed or removed in this directory before. The content of
    /// the files is not meant.
    ///
    /// # Errors
    /// What fsync(2) answers; it must not be retried.
    fn sync(&self) -> io::Result<()>;

    /// Makes durable everything in the whole file system, content and names, whoever wrote it.
    ///
    /// # Errors
    /// What syncfs(2) answers; it must not be retried.
    fn sync_filesystem(&self) -> io::Result<()>;

    /// Whether locks and sync errors can be relied on here.
    ///
    /// # Errors
    /// What fstatfs(2) answers.
    fn kind_of_fs(&self) -> io::Result<FsKind>;

    /// The descriptor, where there is one: for [`Dir::rename_to`] and for watching.
    fn fd(&self) -> Option<BorrowedFd<'_>>;

    /// This, as a trait object.
    fn as_dyn(&self) -> &dyn Dir;
}

/// A regular file held open. All its methods may be called from several threads.
#[allow(clippy::len_without_is_empty)] // a length that other processes change is no property
pub trait File: Send + Sync {
    /// Reads at a position, one call of the system; 0 at the end of the file only (or for an empty
    /// `buf`).
    ///
    /// # Errors
    /// What pread(2) answers; an interrupted call is repeated.
    fn read_at(&self, buf: &mut [u8], pos: u64) -> io::Result<usize>;

    /// Writes at a position, one call of the system; may be short. Visible on return, durable after
    /// [`File::sync`] only.
    ///
    /// # Errors
    /// What pwrite(2) answers; an interrupted call is repeated.
    fn write_at(&self, buf: &[u8], pos: u64) -> io::Result<usize>;

    /// Writes all of `buf`, continuing short writes. After an error an unknown part of it is in the
    /// file. Durability as [`File::write_at`].
    ///
    /// # Errors
    /// As [`File::write_at`]; `WriteZero` if the system takes nothing.
    fn write_all_at(&self, mut buf: &[u8], mut pos: u64) -> io::Result<()> {
        while !buf.is_empty() {
            let n = self.write_at(buf, pos)?;
            match buf.get(n..) {
                Some(rest) if n > 0 => buf = rest,
                _ => return Err(io::ErrorKind::WriteZero.into()),
            }
            pos = pos.saturating_add(n as u64);
        }
        Ok(())
    }

    /// Reads until `buf` is full or the file ends; returns the number of bytes read.
    ///
    /// # Errors
    /// As [`File::read_at`].
    fn read_full_at(&self, buf: &mut [u8], pos: u64) -> io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|r| !r.is_empty()) {
            match self.read_at(rest, pos.saturating_add(done as u64))? {
                0 => break,
                n => done += n,
            }
        }
        Ok(done)
    }

    /// Fills `buf`.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file ends before; else as [`File::read_at`].
    fn read_exact_at(&self, buf: &mut [u8], pos: u64) -> io::Result<()> {
        if self.read_full_at(buf, pos)? < buf.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    /// Cuts or extends (by zeros) the file to `len` bytes. Visible on return, durable after
    /// [`File::sync`] only.
    ///
    /// # Errors
    /// What ftruncate(2) answers.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Makes content and length durable (fdatasync), whoever wrote them; not the file's name.
    ///
    /// # Errors
    /// What fdatasync(2) answers. It must never be retried: the kernel has given up the pages and a
    /// second call succeeds without them.
    fn sync(&self) -> io::Result<()>;

    /// What fstat(2) tells.
    ///
    /// # Errors
    /// What fstat(2) answers.
    fn meta(&self) -> io::Result<Meta>;

    /// Which file it is. Costs nothing after the first time.
    ///
    /// # Errors
    /// What fstat(2) answers.
    fn id(&self) -> io::Result<FileId> {
        Ok(self.meta()?.id)
    }

    /// Length in bytes now. Unlike [`File::meta`] it asks for no times: whoever asks for those makes
    /// the kernel give the next write a time of its own, and with it the next sync an inode to write
    /// (measured: 60 us more an fdatasync).
    ///
    /// # Errors
    /// What lseek(2) answers.
    fn len(&self) -> io::Result<u64> {
        Ok(self.meta()?.len)
    }

    /// Takes the file's lock (flock), for this open file: another one of the same file competes,
    /// in this process too. Returns false if another holds it and the wait is over. Closing the
    /// file, or the end of the process, frees it.
    ///
    /// # Errors
    /// `Interrupted` if a signal asked the process to end while it waited: the lock is then not held,
    /// and this file may be locked again. Else what flock(2) answers.
    fn lock(&self, how: Lock, wait: Wait) -> io::Result<bool>;

    /// Frees the file's lock.
    ///
    /// # Errors
    /// What flock(2) answers.
    fn unlock(&self) -> io::Result<()>;

    /// Takes a shared record lock on the whole file (F_OFD_SETLK): the kind that a broker's lock
    /// conflicts with, which flock does not. Returns false if another holds it.
    ///
    /// # Errors
    /// What fcntl(2) answers.
    fn lock_ofd_shared(&self) -> io::Result<bool>;

    /// Asks the system to forget clean cached pages from `pos` to the end, so that the next read
    /// shows what the device holds. Advice: errors do not matter.
    fn drop_cache(&self, pos: u64);

    /// Tells that the file will be read front to back. Advice: errors do not matter.
    fn advise_sequential(&self);

    /// The first position from `pos` on that may hold anything but zeros; `None` if there is none up
    /// to the end. It looks at no content: what the file system keeps no blocks for reads as zeros,
    /// and a file can be made longer by far than anybody could read.
    ///
    /// # Errors
    /// What lseek(2) answers.
    fn next_data(&self, pos: u64) -> io::Result<Option<u64>> {
        Ok(Some(pos))
    }

    /// The whole file as it is now, mapped read-only. Only for files that nobody shortens: index
    /// and lookup files, and sealed segments below the durable offset.
    ///
    /// # Errors
    /// What mmap(2) answers.
    fn map(&self) -> io::Result<Bytes>;

    /// Sets the time of the last change of content, milliseconds since 1970. Durable after
    /// [`File::sync`] at the earliest, and it does not matter when it is not.
    ///
    /// # Errors
    /// What futimens(2) answers.
    fn set_mtime_ms(&self, ms: i64) -> io::Result<()>;

    /// The descriptor, where there is one.
    fn fd(&self) -> Option<BorrowedFd<'_>>;
}

/// The machine: its directories, clocks and chance.
pub trait Host: Send + Sync {
    /// Opens a directory by path, following symbolic links: the path is the user's own.
    ///
    /// # Errors
    /// What open(2) answers.
    fn open_dir(&self, path: &Path) -> io::Result<Arc<dyn Dir>>;

    /// As [`Host::open_dir`], for a directory that may be searched though not read: names in it can be
    /// looked up, opened and removed, but neither listed nor synced.
    ///
    /// # Errors
    /// What open(2) answers.
    fn open_dir_to_search(&self, path: &Path) -> io::Result<Arc<dyn Dir>> {
        self.open_dir(path)
    }

    /// The last component of the path without symbolic links; `None` for the root.
    ///
    /// # Errors
    /// What realpath(3) answers.
    fn real_name(&self, path: &Path) -> io::Result<Option<String>> {
        let name = path.file_name().and_then(|n| n.to_str());
        Ok(name.map(str::to_string))
    }

    /// Makes a directory by path, by the rules of [`Dir::make_dir`]; its parent must exist. Durable
    /// on return.
    ///
    /// # Errors
    /// `AlreadyExists`; else as [`Dir::make_dir`] and [`Dir::sync`].
    fn make_dir(&self, path: &Path) -> io::Result<()>;

    /// Wall clock, milliseconds since 1970. It may jump.
    fn wall_ms(&self) -> i64;

    /// Milliseconds since this boot, time asleep included. It never goes back within a boot.
    fn boot_ms(&self) -> i64;

    /// Which boot this is. All zeros if the system does not tell: then equal to no other boot.
    fn boot_id(&self) -> [u8; 16];

    /// 16 bytes that nobody has had before.
    ///
    /// # Errors
    /// The system has no source of randomness.
    fn random_id(&self) -> io::Result<[u8; 16]>;

    /// Number of this process, for messages.
    fn pid(&self) -> u32;
}

/// Checks that `name` is one path component.
///
/// # Errors
/// `InvalidInput` if it is empty, `.`, `..`, or holds a slash or a NUL.
fn check_name(name: &str) -> io::Result<()> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a name of a file in a directory",
        ));
    }
    Ok(())
}

/// A refusal of our own, where the system would have obeyed.
fn refused(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why)
}
