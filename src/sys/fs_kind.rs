//! Is a file system local, or may its locks hold on one host only and its sync errors come late.
//!
//! Owns the list of file systems that writing commands refuse. The kernel tells a magic number
//! (statfs(2), `linux/magic.h`); all FUSE file systems share one, so for these the type's name is
//! looked up in `/proc/self/mountinfo` (proc(5)) by device number. A type nobody listed is taken
//! for local: new local file systems appear more often than network ones.

/// What is known about a file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FsKind {
    /// Locks are seen by all who can write here, and sync tells the truth.
    Local,
    /// Shared over a network, or through a FUSE daemon that we know nothing of; its type's name.
    Network(String),
}

/// FUSE_SUPER_MAGIC, for virtiofs too.
const FUSE: u64 = 0x6573_5546;

/// Magic numbers of file systems that another host may write to, and their names.
const NETWORK: &[(u64, &str)] = &[
    (0x6969, "nfs"),
    (0x517b, "smb"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb2"),
    (0x564c, "ncp"),
    (0x0102_1997, "9p"),
    (0x00c3_6400, "ceph"),
    (0x5346_414f, "afs"), // OpenAFS and kAFS
    (0x6b41_4653, "kafs"),
    (0x7375_7245, "coda"),
    (0x0bd0_0bd0, "lustre"),
    (0x4750_4653, "gpfs"),
    (0x0116_1970, "gfs2"),
    (0x7461_636f, "ocfs2"),
    (0x786f_4256, "vboxsf"),
    (0xbacb_acbc, "vmhgfs"),
    (0x2030_528d, "orangefs"),
    (0xaad7_aaea, "panfs"),
];

/// FUSE types that keep their data on a device of this host alone.
const LOCAL_FUSE: &[&str] = &["fuseblk"];

/// The kind behind a magic number; `fuse_type` is asked for the type's name of a FUSE mount.
pub(super) fn of_magic(magic: u64, fuse_type: impl FnOnce() -> Option<String>) -> FsKind {
    if magic == FUSE {
        let name = fuse_type().unwrap_or_else(|| "fuse".to_string());
        return match LOCAL_FUSE.contains(&name.as_str()) {
            true => FsKind::Local,
            false => FsKind::Network(name),
        };
    }
    match NETWORK.iter().find(|(m, _)| *m == magic) {
        Some((_, name)) => FsKind::Network((*name).to_string()),
        None => FsKind::Local,
    }
}

/// The type of the mount with device `major:minor`, from the text of a mountinfo file: field 3 is
/// the device, the first field after `-` the type.
pub(super) fn type_in_mountinfo(text: &str, major: u64, minor: u64) -> Option<String> {
    let device = format!("{major}:{minor}");
    let line = text
        .lines()
        .find(|l| l.split(' ').nth(2) == Some(device.as_str()))?;
    let (_, after) = line.split_once(" - ")?;
    Some(after.split(' ').next()?.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_file_systems_are_named() {
        let none = || None;
        assert_eq!(of_magic(0x6969, none), FsKind::Network("nfs".into()));
        assert_eq!(of_magic(0xef53, none), FsKind::Local);
        assert_eq!(of_magic(0x9123_683e, none), FsKind::Local);
    }

    #[test]
    fn fuse_is_local_only_on_a_block_device() {
        let text = "36 35 0:51 / /mnt rw,noatime shared:1 - fuse.sshfs host: rw\n\
                    37 35 8:17 / /usb rw - fuseblk /dev/sdb1 rw\n";
        let at = |a, b| type_in_mountinfo(text, a, b);
        assert_eq!(of_magic(FUSE, || at(8, 17)), FsKind::Local);
        assert_eq!(
            of_magic(FUSE, || at(0, 51)),
            FsKind::Network("fuse.sshfs".into())
        );
        assert_eq!(of_magic(FUSE, || at(0, 5)), FsKind::Network("fuse".into()));
    }
}
