//! The machine itself: the traits of [`super`] over system calls.
//!
//! Owns the flags and modes that every open and every new file gets (durability.md 10.1, 10.2):
//!
//! * `O_CLOEXEC` always, `O_NOFOLLOW` below a directory, `O_NONBLOCK` so that opening a fifo that
//!   somebody put in the way returns at once, to be refused.
//! * A new file is made with mode 0600 and only then opened up to the directory's group, so it is
//!   never more accessible than the directory says. A group that is not the directory's (no setgid
//!   bit, and we are no member) gets nothing.
//!
//! Leaves to others: what to sync when, which lock guards what, and the words around an errno.

use super::fs_kind::{self, FsKind};
use super::signals;
use rustix::fs::StatxFlags;

use super::{Access, Bytes, Dir, File, FileId, Host, Lock, Meta, Wait, check_name, refused};
use nix::dir::Dir as Listing;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, FcntlArg, OFlag, PosixFadviseAdvice, fcntl, openat, posix_fadvise};
use nix::libc;
use nix::sys::stat::{FileStat, Mode, fchmod, fstat, fstatat, mkdirat};
use nix::unistd::{
    Gid, Uid, UnlinkatFlags, Whence, fchown, fsync, geteuid, linkat, lseek, syncfs, unlinkat,
};
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// This machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealHost;

impl Host for RealHost {
    fn open_dir(&self, path: &Path) -> io::Result<Arc<dyn Dir>> {
        let fd = nix::fcntl::open(path, DIR_FLAGS, Mode::empty())?;
        Ok(Arc::new(RealDir::new(fd, path.to_path_buf())))
    }

    fn open_dir_to_search(&self, path: &Path) -> io::Result<Arc<dyn Dir>> {
        let fd = nix::fcntl::open(path, DIR_FLAGS | OFlag::O_PATH, Mode::empty())?;
        Ok(Arc::new(RealDir::new(fd, path.to_path_buf())))
    }

    fn real_name(&self, path: &Path) -> io::Result<Option<String>> {
        let real = fs::canonicalize(path)?;
        let name = real.file_name().and_then(|n| n.to_str());
        Ok(name.map(str::to_string))
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        let name = path.file_name().and_then(|n| n.to_str());
        let name = name.ok_or(io::ErrorKind::InvalidInput)?;
        let parent = match path.parent() {
            Some(p) if !p.as_os_str().is_empty() => p,
            _ => Path::new("."),
        };
        let parent = self.open_dir(parent)?;
        parent.make_dir(name)?;
        parent.sync()
    }

    fn wall_ms(&self) -> i64 {
        let ms = |d: Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(after) => ms(after),
            Err(before) => -ms(before.duration()),
        }
    }

    fn boot_ms(&self) -> i64 {
        // The clock exists since Linux 2.6.39 and has no other way to fail.
        match nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME) {
            Ok(t) => millis(t.tv_sec(), t.tv_nsec()),
            Err(_) => 0,
        }
    }

    fn boot_id(&self) -> [u8; 16] {
        static ID: OnceLock<[u8; 16]> = OnceLock::new();
        *ID.get_or_init(|| {
            let text = fs::read_to_string("/proc/sys/kernel/random/boot_id");
            text.ok().and_then(|t| parse_uuid(&t)).unwrap_or_default()
        })
    }

    fn random_id(&self) -> io::Result<[u8; 16]> {
        let mut id = [0; 16];
        fs::File::open("/dev/urandom")?.read_exact(&mut id)?;
        Ok(id)
    }

    fn pid(&self) -> u32 {
        static PID: OnceLock<u32> = OnceLock::new();
        *PID.get_or_init(std::process::id) // this program does not fork without exec
    }
}

/// The 16 bytes of a UUID in its usual form.
fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let hex: String = text.trim().split('-').collect();
    match hex.len() {
        32 => Some(u128::from_str_radix(&hex, 16).ok()?.to_be_bytes()),
        _ => None,
    }
}

/// How directories are opened: for listing, for sync, and as the base of everything in them.
const DIR_FLAGS: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_CLOEXEC);

/// What every file below a directory is opened with.
const FILE_FLAGS: OFlag = OFlag::O_NOFOLLOW
    .union(OFlag::O_CLOEXEC)
    .union(OFlag::O_NONBLOCK)
    .union(OFlag::O_NOCTTY);

pub(super) struct RealDir {
    fd: OwnedFd,
    path: PathBuf,
    /// Asked for once.
    id: OnceLock<FileId>,
}

/// What never changes while a descriptor is open.
fn remembered(
    id: &OnceLock<FileId>,
    ask: impl FnOnce() -> io::Result<FileId>,
) -> io::Result<FileId> {
    match id.get() {
        Some(id) => Ok(*id),
        None => ask().map(|new| *id.get_or_init(|| new)),
    }
}

impl RealDir {
    pub(super) fn new(fd: OwnedFd, path: PathBuf) -> RealDir {
        let id = OnceLock::new();
        RealDir { fd, path, id }
    }

    /// Gives what was just made in this directory its owner, group and mode (durability.md 10.1).
    /// `bits` are those that come from the directory.
    fn adopt(&self, made: BorrowedFd<'_>, own: u32, bits: u32) -> io::Result<()> {
        let parent = fstat(&self.fd)?;
        let child = fstat(made)?;
        let (uid, gid) = (Uid::from_raw(parent.st_uid), Gid::from_raw(parent.st_gid));
        let mut mode = own | (parent.st_mode & bits);
        if geteuid().is_root() {
            if (child.st_uid, child.st_gid) != (parent.st_uid, parent.st_gid) {
                fchown(made, Some(uid), Some(gid))?;
            }
        } else if child.st_gid != parent.st_gid && fchown(made, None, Some(gid)).is_err() {
            mode = own;
        }
        if child.st_mode & 0o7777 != mode {
            fchmod(made, Mode::from_bits_truncate(mode))?;
        }
        Ok(())
    }

    /// The descriptor of `other`, which must be a directory of this machine.
    fn fd_of(other: &dyn Dir) -> io::Result<BorrowedFd<'_>> {
        other
            .fd()
            .ok_or_else(|| io::Error::from(io::ErrorKind::CrossesDevices))
    }
}

impl Dir for RealDir {
    fn path(&self) -> &Path {
        &self.path
    }

    fn meta(&self) -> io::Result<Meta> {
        Ok(meta_of(&fstat(&self.fd)?))
    }

    fn id(&self) -> io::Result<FileId> {
        remembered(&self.id, || Ok(self.meta()?.id))
    }

    fn is_current(&self) -> io::Result<bool> {
        match nix::sys::stat::stat(&self.path) {
            Ok(s) => Ok(meta_of(&s).id == self.id()?),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    fn is_safe_for_root(&self) -> io::Result<bool> {
        Ok(!geteuid().is_root() || self.meta()?.mode & 0o002 == 0)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        // A descriptor of its own, since the place in a listing belongs to the open directory.
        let mut names = Vec::new();
        for entry in Listing::openat(&self.fd, ".", DIR_FLAGS, Mode::empty())?.iter() {
            match entry?.file_name().to_str() {
                Ok("." | "..") | Err(_) => {}
                Ok(name) => names.push(name.to_string()),
            }
        }
        Ok(names)
    }

    fn stat(&self, name: &str) -> io::Result<Option<Meta>> {
        check_name(name)?;
        match fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(s) => Ok(Some(meta_of(&s))),
            Err(Errno::ENOENT) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    fn id_of(&self, name: &str) -> io::Result<Option<FileId>> {
        check_name(name)?;
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        match rustix::fs::statx(&self.fd, name, flags, StatxFlags::INO) {
            Ok(s) => Ok(Some(FileId {
                dev: rustix::fs::makedev(s.stx_dev_major, s.stx_dev_minor),
                ino: s.stx_ino,
            })),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            // Filtered away in some containers.
            Err(rustix::io::Errno::NOSYS) => Ok(self.stat(name)?.map(|m| m.id)),
            Err(e) => Err(e.into()),
        }
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Box<dyn File>> {
        check_name(name)?;
        let mode = match access {
            Access::Read => OFlag::O_RDONLY,
            Access::Write => OFlag::O_RDWR,
        };
        let fd = openat(&self.fd, name, mode | FILE_FLAGS, Mode::empty()).map_err(open_error)?;
        let meta = meta_of(&fstat(&fd)?);
        if !meta.is_file {
            return Err(refused("not a regular file"));
        }
        if access == Access::Write && meta.nlink > 1 {
            return Err(refused("has more than one link"));
        }
        Ok(Box::new(RealFile::from(fs::File::from(fd))))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn File>> {
        check_name(name)?;
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | FILE_FLAGS;
        let fd = openat(&self.fd, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
        if let Err(e) = self.adopt(fd.as_fd(), 0o600, 0o060) {
            let _ = self.unlink(name); // no half-made file; the first error is the one to tell
            return Err(e);
        }
        Ok(Box::new(RealFile::from(fs::File::from(fd))))
    }

    fn rename_to(&self, from: &str, other: &dyn Dir, to: &str) -> io::Result<()> {
        check_name(from)?;
        check_name(to)?;
        Ok(nix::fcntl::renameat(
            &self.fd,
            from,
            RealDir::fd_of(other)?,
            to,
        )?)
    }

    fn link_to(&self, from: &str, other: &dyn Dir, to: &str) -> io::Result<()> {
        check_name(from)?;
        check_name(to)?;
        let other = RealDir::fd_of(other)?;
        Ok(linkat(&self.fd, from, other, to, AtFlags::empty())?)
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        Ok(unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir)?)
    }

    fn make_dir(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        mkdirat(&self.fd, name, Mode::S_IRWXU)?;
        let made = || {
            let flags = DIR_FLAGS | OFlag::O_NOFOLLOW;
            let fd = openat(&self.fd, name, flags, Mode::empty())?;
            self.adopt(fd.as_fd(), 0o700, 0o2070)
        };
        made().inspect_err(|_| {
            let _ = self.remove_dir(name);
        })
    }

    fn remove_dir(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        Ok(unlinkat(&self.fd, name, UnlinkatFlags::RemoveDir)?)
    }

    fn open_dir(&self, name: &str) -> io::Result<Arc<dyn Dir>> {
        check_name(name)?;
        let flags = DIR_FLAGS | OFlag::O_NOFOLLOW;
        let fd = openat(&self.fd, name, flags, Mode::empty())?;
        Ok(Arc::new(RealDir::new(fd, self.path.join(name))))
    }

    fn sync(&self) -> io::Result<()> {
        Ok(fsync(&self.fd)?)
    }

    fn sync_filesystem(&self) -> io::Result<()> {
        Ok(syncfs(&self.fd)?)
    }

    fn kind_of_fs(&self) -> io::Result<FsKind> {
        let magic = nix::sys::statfs::fstatfs(&self.fd)?.filesystem_type().0;
        let device = self.meta()?.id.dev;
        let fuse_type = || {
            let text = fs::read_to_string("/proc/self/mountinfo").ok()?;
            let (major, minor) = (libc::major(device), libc::minor(device));
            fs_kind::type_in_mountinfo(&text, major.into(), minor.into())
        };
        // The type is 32 bits wide; a signed one carries its sign further.
        Ok(fs_kind::of_magic(magic as u64 & 0xffff_ffff, fuse_type))
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.fd.as_fd())
    }

    fn as_dyn(&self) -> &dyn Dir {
        self
    }
}

/// An errno of open as a refusal, where it says that the name is no regular file.
fn open_error(e: Errno) -> io::Error {
    match e {
        Errno::ELOOP => refused("is a symbolic link"),
        Errno::EISDIR | Errno::ENXIO => refused("not a regular file"),
        _ => e.into(),
    }
}

pub(super) struct RealFile {
    file: fs::File,
    /// Another open file of the same one, which holds the lock because it was the one that waited.
    locked: Mutex<Option<fs::File>>,
    /// Asked for once.
    id: OnceLock<FileId>,
}

impl From<fs::File> for RealFile {
    fn from(file: fs::File) -> RealFile {
        RealFile {
            file,
            locked: Mutex::new(None),
            id: OnceLock::new(),
        }
    }
}

impl File for RealFile {
    fn read_at(&self, buf: &mut [u8], pos: u64) -> io::Result<usize> {
        loop {
            match self.file.read_at(buf, pos) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    fn write_at(&self, buf: &[u8], pos: u64) -> io::Result<usize> {
        loop {
            match self.file.write_at(buf, pos) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(nix::unistd::fdatasync(&self.file)?)
    }

    fn meta(&self) -> io::Result<Meta> {
        Ok(meta_of(&fstat(&self.file)?))
    }

    fn id(&self) -> io::Result<FileId> {
        remembered(&self.id, || Ok(self.meta()?.id))
    }

    fn len(&self) -> io::Result<u64> {
        let end = nix::unistd::lseek(&self.file, 0, nix::unistd::Whence::SeekEnd)?;
        u64::try_from(end).map_err(io::Error::other)
    }

    fn lock(&self, how: Lock, wait: Wait) -> io::Result<bool> {
        let end = match wait {
            Wait::Until(end) | Wait::FirmlyUntil(end) => Some(end),
            Wait::No => Some(Instant::now()),
            Wait::Forever | Wait::Firmly => None,
        };
        let firm = matches!(wait, Wait::Firmly | Wait::FirmlyUntil(_)) || !signals::installed();
        let mut held = self.locked();
        let file = held.as_ref().unwrap_or(&self.file);
        if try_lock(file, how)? {
            return Ok(true);
        }
        match end {
            Some(end) => poll_lock(file, how, Some(end), firm),
            None if firm => block_in_kernel(file, how).map(|()| true),
            None => match wait_aside(file, how)? {
                Some(waited) => {
                    *held = Some(waited);
                    Ok(true)
                }
                None => poll_lock(file, how, None, firm),
            },
        }
    }

    fn unlock(&self) -> io::Result<()> {
        let mut held = self.locked();
        match held.take() {
            Some(other) => other.unlock(),
            None => self.file.unlock(),
        }
    }

    fn lock_ofd_shared(&self) -> io::Result<bool> {
        // A length of 0 means to the end, however far that moves.
        let whole = libc::flock {
            l_type: libc::F_RDLCK as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: 0,
            l_len: 0,
            l_pid: 0,
        };
        match fcntl(&self.file, FcntlArg::F_OFD_SETLK(&whole)) {
            Ok(_) => Ok(true),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    fn drop_cache(&self, pos: u64) {
        self.advise(pos, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    }

    fn advise_sequential(&self) {
        self.advise(0, PosixFadviseAdvice::POSIX_FADV_SEQUENTIAL);
    }

    fn next_data(&self, pos: u64) -> io::Result<Option<u64>> {
        let Ok(from) = i64::try_from(pos) else {
            return Ok(None);
        };
        // Everything here reads and writes at positions, so that of the descriptor is nobody's.
        match lseek(&self.file, from, Whence::SeekData) {
            Ok(at) => Ok(u64::try_from(at).ok()),
            Err(Errno::ENXIO) => Ok(None),
            Err(Errno::EINVAL) => Ok(Some(pos)), // a file system that keeps no account of holes
            Err(e) => Err(e.into()),
        }
    }

    fn map(&self) -> io::Result<Bytes> {
        Bytes::map(&self.file, self.meta()?.len)
    }

    fn set_mtime_ms(&self, ms: i64) -> io::Result<()> {
        let distance = Duration::from_millis(ms.unsigned_abs());
        let time = match ms < 0 {
            true => UNIX_EPOCH.checked_sub(distance),
            false => UNIX_EPOCH.checked_add(distance),
        };
        self.file
            .set_modified(time.ok_or(io::ErrorKind::InvalidInput)?)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }
}

/// First and longest pause between two tries for a lock with a time limit. Appenders hold theirs for
/// microseconds to 2 ms; 500 tries a second cost about a thousandth of a core.
const LOCK_PAUSE_MIN: Duration = Duration::from_micros(100);
const LOCK_PAUSE_MAX: Duration = Duration::from_millis(2);

/// How soon a wait without limit notices a signal.
const STOP_PAUSE: Duration = Duration::from_millis(20);

impl RealFile {
    fn locked(&self) -> MutexGuard<'_, Option<fs::File>> {
        self.locked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn advise(&self, pos: u64, advice: PosixFadviseAdvice) {
        if let Ok(pos) = libc::off_t::try_from(pos) {
            let _ = posix_fadvise(&self.file, pos, 0, advice); // advice only
        }
    }
}

fn try_lock(file: &fs::File, how: Lock) -> io::Result<bool> {
    let taken = match how {
        Lock::Shared => file.try_lock_shared(),
        Lock::Exclusive => file.try_lock(),
    };
    match taken {
        Ok(()) => Ok(true),
        Err(fs::TryLockError::WouldBlock) => Ok(false),
        Err(fs::TryLockError::Error(e)) => Err(e),
    }
}

/// Tries again and again until `end`, with pauses.
fn poll_lock(file: &fs::File, how: Lock, end: Option<Instant>, firm: bool) -> io::Result<bool> {
    let mut pause = LOCK_PAUSE_MIN;
    loop {
        let left = end.map(|e| e.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            return Ok(false);
        }
        if !firm {
            not_stopped()?;
        }
        sleep(left.map_or(pause, |l| pause.min(l)));
        pause = (pause * 2).min(LOCK_PAUSE_MAX);
        if try_lock(file, how)? {
            return Ok(true);
        }
    }
}

/// Waits in the kernel, which wakes us the moment the lock is free, and notices signals meanwhile.
/// Since the kernel resumes flock(2) after a signal, a thread waits in our place. It waits through an
/// open file of its own, which is handed over with the lock: a thread that we gave up may get the lock
/// long after, and can then free nothing but its own.
///
/// `None` if no second open file or no thread is to be had.
fn wait_aside(file: &fs::File, how: Lock) -> io::Result<Option<fs::File>> {
    let Ok(own) = fs::File::open(format!("/proc/self/fd/{}", file.as_raw_fd())) else {
        return Ok(None);
    };
    let (sender, receiver) = mpsc::sync_channel(0);
    let wait = move || {
        let taken = block_in_kernel(&own, how).map(|()| own);
        drop(sender.send(taken)); // closed, and so freed, if nobody waits any more
    };
    let thread = std::thread::Builder::new().name("lock".into());
    if thread.stack_size(64 << 10).spawn(wait).is_err() {
        return Ok(None);
    }
    loop {
        match receiver.recv_timeout(STOP_PAUSE) {
            Ok(taken) => return taken.map(Some),
            Err(mpsc::RecvTimeoutError::Timeout) => not_stopped()?,
            Err(e) => return Err(io::Error::other(e)),
        }
    }
}

fn block_in_kernel(file: &fs::File, how: Lock) -> io::Result<()> {
    loop {
        let taken = match how {
            Lock::Shared => file.lock_shared(),
            Lock::Exclusive => file.lock(),
        };
        match taken {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// `Interrupted` once a signal has asked this process to end.
fn not_stopped() -> io::Result<()> {
    match signals::stop_requested() {
        Some(_) => Err(io::ErrorKind::Interrupted.into()),
        None => Ok(()),
    }
}

fn meta_of(s: &FileStat) -> Meta {
    let kind = s.st_mode & libc::S_IFMT;
    Meta {
        id: FileId {
            dev: s.st_dev,
            ino: s.st_ino,
        },
        len: u64::try_from(s.st_size).unwrap_or(0),
        nlink: s.st_nlink,
        mode: s.st_mode & 0o7777,
        uid: s.st_uid,
        gid: s.st_gid,
        mtime_ms: millis(s.st_mtime, s.st_mtime_nsec),
        is_file: kind == libc::S_IFREG,
        is_dir: kind == libc::S_IFDIR,
    }
}

/// Seconds and nanoseconds of the kernel as milliseconds.
fn millis(sec: i64, nsec: i64) -> i64 {
    sec.saturating_mul(1000).saturating_add(nsec / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::mkfifo;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn temp() -> (tempfile::TempDir, Arc<dyn Dir>) {
        let temp = tempfile::tempdir().unwrap();
        let dir = RealHost.open_dir(temp.path()).unwrap();
        (temp, dir)
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn open_refuses_links_and_fifos_without_waiting() {
        let (temp, dir) = temp();
        fs::write(temp.path().join("target"), b"x").unwrap();
        symlink("target", temp.path().join("link")).unwrap();
        symlink(temp.path(), temp.path().join("dirlink")).unwrap();
        mkfifo(&temp.path().join("fifo"), Mode::S_IRWXU).unwrap();
        for name in ["link", "fifo"] {
            for access in [Access::Read, Access::Write] {
                let e = dir.open(name, access).err().unwrap();
                assert_eq!(e.kind(), io::ErrorKind::PermissionDenied, "{name}");
            }
        }
        let e = dir.open_dir("dirlink").err().unwrap();
        assert_eq!(e.kind(), io::ErrorKind::NotADirectory);
        assert!(!dir.stat("link").unwrap().unwrap().is_file);
        let e = dir.create("link").err().unwrap();
        assert_eq!(e.kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn group_bits_and_setgid_come_from_the_directory() {
        let (temp, dir) = temp();
        for (mode, file, sub) in [
            (0o700, 0o600, 0o700),
            (0o750, 0o640, 0o750),
            (0o2775, 0o660, 0o2770),
        ] {
            set_mode(temp.path(), mode);
            let f = dir.create(&format!("f{mode}")).unwrap();
            assert_eq!(f.meta().unwrap().mode, file);
            dir.make_dir(&format!("d{mode}")).unwrap();
            let d = dir.stat(&format!("d{mode}")).unwrap().unwrap();
            assert_eq!(d.mode, sub);
        }
    }

    #[test]
    fn root_gives_new_files_the_owner_of_the_directory() {
        if !geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let (temp, dir) = temp();
        std::os::unix::fs::chown(temp.path(), Some(1234), Some(4321)).unwrap();
        let f = dir.create("f").unwrap().meta().unwrap();
        assert_eq!((f.uid, f.gid), (1234, 4321));
        dir.make_dir("d").unwrap();
        let d = dir.stat("d").unwrap().unwrap();
        assert_eq!((d.uid, d.gid), (1234, 4321));
    }

    #[test]
    fn root_does_not_trust_a_directory_that_others_write() {
        let (temp, dir) = temp();
        set_mode(temp.path(), 0o757);
        assert_eq!(dir.is_safe_for_root().unwrap(), !geteuid().is_root());
        set_mode(temp.path(), 0o775);
        assert!(dir.is_safe_for_root().unwrap());
    }

    #[test]
    fn list_leaves_out_names_that_are_not_utf8() {
        use std::os::unix::ffi::OsStrExt;
        let (temp, dir) = temp();
        let bad = std::ffi::OsStr::from_bytes(b"\xff.log");
        fs::write(temp.path().join(bad), b"").unwrap();
        fs::write(temp.path().join(".hidden"), b"").unwrap();
        assert_eq!(dir.list().unwrap(), [".hidden"]);
        assert_eq!(dir.list().unwrap(), [".hidden"]); // from the start each time
    }

    #[test]
    fn a_blocked_lock_is_granted_when_the_holder_lets_go() {
        let (_temp, dir) = temp();
        let a = dir.open_or_create("lock").unwrap();
        assert!(a.lock(Lock::Exclusive, Wait::No).unwrap());
        let b = dir.open_or_create("lock").unwrap();
        std::thread::scope(|s| {
            let waiter = s.spawn(|| b.lock(Lock::Exclusive, Wait::Forever));
            sleep(Duration::from_millis(20));
            a.unlock().unwrap();
            assert!(waiter.join().unwrap().unwrap());
        });
        assert!(!a.lock(Lock::Shared, Wait::No).unwrap());
    }

    #[test]
    fn uuid_is_parsed_or_refused() {
        let id = parse_uuid("01020304-0506-0708-090a-0b0c0d0e0f10\n").unwrap();
        assert_eq!(id, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
        assert_eq!(parse_uuid("01020304"), None);
        assert_eq!(parse_uuid(&"z".repeat(32)), None);
    }
}
