//! What a hostile hand does to a partition directory.

use crate::common::Random;
use logd::format::Limits;
use logd::format::crc32c;
use logd::format::frame::{Frame, frame};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Where things lie: `root/logs/NAME-0` is the partition, `root/outside` must stay as it is.
pub struct Place<'a> {
    pub partition: &'a Path,
    pub outside: &'a Path,
}

type Mutation = fn(&Place<'_>, &mut Random) -> Option<()>;

const MUTATIONS: &[(&str, Mutation)] = &[
    ("flip", flip),
    ("flip", flip),
    ("cut", cut),
    ("extend", extend),
    ("hole", hole),
    ("sparse", sparse),
    ("swap two files", swap_files),
    ("huge number", huge_number),
    ("huge number", huge_number),
    ("batch with a right checksum", recheck),
    ("batch with a right checksum", recheck),
    ("batch with a right checksum", recheck),
    ("lying index", lying_index),
    ("lying end", lying_end),
    ("lying end", lying_end),
    ("settings", settings),
    ("text file", text_file),
    ("name", name),
    ("state of a swap", swap_state),
    ("link", link),
    ("special file", special),
    ("second name", second_name),
    ("delete", delete),
    ("own file", own_file),
];

/// Does something to it; says what.
pub fn mutate(place: &Place<'_>, random: &mut Random) -> &'static str {
    loop {
        let (name, mutation) = random.pick(MUTATIONS);
        if mutation(place, random).is_some() {
            return name;
        }
    }
}

/// Regular files below the partition.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    let mut left = vec![dir.to_path_buf()];
    while let Some(dir) = left.pop() {
        let Ok(entries) = fs::read_dir(&dir) else {
            continue;
        };
        for path in entries.map(|e| e.unwrap().path()) {
            match fs::symlink_metadata(&path) {
                Ok(m) if m.is_dir() => left.push(path),
                Ok(m) if m.is_file() => out.push(path),
                _ => {}
            }
        }
    }
    out.sort();
    out
}

fn pick_file(place: &Place<'_>, random: &mut Random) -> Option<PathBuf> {
    let mut all = files(place.partition);
    if random.below(3) > 0 {
        let logs: Vec<PathBuf> = all.iter().filter(|p| is_log(p)).cloned().collect();
        if !logs.is_empty() {
            all = logs;
        }
    }
    (!all.is_empty()).then(|| random.pick(&all).clone())
}

fn is_log(path: &Path) -> bool {
    path.extension() == Some(OsStr::new("log"))
}

/// Writes content in place, so that a second name of the file is not what is changed.
fn put(path: &Path, content: &[u8]) -> Option<()> {
    let _ = fs::remove_file(path);
    fs::write(path, content).ok()
}

fn small(path: &Path) -> Option<Vec<u8>> {
    let small = fs::symlink_metadata(path).ok()?.len() <= 4 << 20;
    small.then(|| fs::read(path).ok()).flatten()
}

fn bytes(random: &mut Random, n: usize) -> Vec<u8> {
    (0..n).map(|_| random.next() as u8).collect()
}

fn flip(place: &Place<'_>, random: &mut Random) -> Option<()> {
    let path = pick_file(place, random)?;
    let mut content = small(&path)?;
    if content.is_empty() {
        return None;
    }
    for _ in 0..1 + random.below(6) {
        let at = random.below(content.len());
        content[at] ^= 1 << random.below(8);
    }
    put(&path, &content)
}

fn cut(place: &Place<'_>, random: &mut Random) -> Option<()> {
    let path = pick_file(place, random)?;
    let content = small(&path)?;
    put(&path, &content[..random.below(content.len() + 1)])
}

fn extend(place: &Place<'_>, random: &mut Random) -> Option<()> {
    let path = pick_file(place, random)?;
    let mut content = small(&path)?;
    let n = 1 + random.below(3000);
    let more = match random.below(3) {
        0 => vec![0; n],
        1 => bytes(random, n),
        _ => content.clone(),
    };
    content.extend_from_slice(&more);
    put(&path, &content)
}

fn hole(place: &Place<'_>, random: &mut Random) -> Option<()> {
    let path = pick_file(place, random)?;
    let mut content = small(&path)?;
    let from = random.below(content.len());
    let to = (from + 1 + random.below(5000)).min(content.len());
    content.get_mut(from..to)?.fill(0);
    put(&path, &content)
}

/// A file that says it is far longer than the disk.
fn sparse(place: &Place<'_>, random: &mut Random) -> Option<()> {
    let path = pick_file(place, random)?;
    let content = small(&path)?;
    put(&path, &content)?;
    let file = File::options().write(true).open(&path).ok()?;
    let len = content.len() as u64 + *random.pick(&[1 << 20, (1 << 31) - 1, 1 << 33, 1 << 40]);
    file.set_len(len).ok()?;
    if random.below(3) == 0 {
        use std::os::unix::fs::FileExt;
        file.write_all_at(&bytes(random, 100), len - 100).ok()?;
    }
    Some(())
}

fn swap_files(place: &Place<'_>, random: &mut Random) -> Option<()> {
    let (a, b) = (pick_file(place, random)?, pick_file(place, random)?);
    let (a_is, b_is) = (small(&a)?, small(&b)?);
    put(&a, &b_is)?;
    put(&b, &a_is)
}

const HUGE: [u64; 8] = [
    0,
    1,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX,
];

/// A number where numbers are, or anywhere.
fn huge_number(place: &Place<'_>, random: &mut Random) -> Option<()> {
    let path = pick_file(place, random)?;
    let mut content = small(&path)?;
    let at = match entries(&content) {
        all if all.is_empty() || random.below(3) == 0 => random.below(content.len()),
        // Offset, length, magic, last offset delta, timestamps, producer, sequence, count.
        all => random.pick(&all).0 + random.pick(&[0, 8, 16, 23, 27, 35, 43, 51, 53, 57]),
    };
    let number = random.pick(&HUGE).to_be_bytes();
    let number = &number[random.below(5)..];
    let place = content.get_mut(at..at + number.len())?;
    place.copy_from_slice(number);
    put(&path, &content)
}

/// Position and size of each entry of a log.
fn entries(log: &[u8]) -> Vec<(usize, usize)> {
    let mut out = Vec::new();
    let mut at = 0;
    while let Frame::Entry(size) = frame(&log[at..], &Limits::default()) {
        out.push((at, size));
        at += size;
    }
    out
}

/// Damage behind the checksum: the batch is changed, then its checksum is made to fit.
fn recheck(place: &Place<'_>, random: &mut Random) -> Option<()> {
    const MAGIC_AT: usize = 16;
    const CRC_AT: usize = 17;
    const ATTRIBUTES_AT: usize = 21;
    const V2_HEADER: usize = 61;
    let path = pick_file(place, random)?;
    let mut content = small(&path)?;
    let mut all = entries(&content);
    all.retain(|(at, size)| content[at + MAGIC_AT] == 2 && *size >= V2_HEADER);
    if all.is_empty() {
        return None;
    }
    for _ in 0..1 + random.below(3) {
        let (at, size) = *random.pick(&all);
        let batch = &mut content[at..at + size];
        for _ in 0..1 + random.below(3) {
            let header = random.below(2) == 0 || size == V2_HEADER;
            let at = match header {
                true => ATTRIBUTES_AT + random.below(V2_HEADER - ATTRIBUTES_AT),
                false => V2_HEADER + random.below(size - V2_HEADER),
            };
            match random.below(3) {
                0 => batch[at] = *random.pick(&[0, 0x7f, 0x80, 0xff]),
                1 => batch[at] = random.next() as u8,
                _ => batch[at] ^= 1 << random.below(8),
            }
        }
        let crc = crc32c::crc32c(&batch[ATTRIBUTES_AT..]);
        batch[CRC_AT..ATTRIBUTES_AT].copy_from_slice(&crc.to_be_bytes());
    }
    put(&path, &content)
}

fn lying_index(place: &Place<'_>, random: &mut Random) -> Option<()> {
    let all = files(place.partition);
    let logs: Vec<&PathBuf> = all.iter().filter(|p| is_log(p)).collect();
    if logs.is_empty() {
        return None;
    }
    let suffix = *random.pick(&["index", "timeindex", "txnindex", "snapshot"]);
    let path = random.pick(&logs).with_extension(suffix);
    let content = match random.below(4) {
        0 => {
            let n = random.below(5000);
            bytes(random, n)
        }
        1 => vec![0xff; 12 * random.below(5000)],
        2 => vec![0; 8 * random.below(500_000)],
        // Entries that rise as they should, and lead anywhere.
        _ => {
            let (mut time, mut offset, mut position) = (0u64, 0u32, 0u32);
            let mut out = Vec::new();
            for _ in 0..random.below(2000) {
                time = time.wrapping_add(random.next() >> 32);
                offset = offset.wrapping_add(random.below(100) as u32);
                position = position.wrapping_add(random.below(1000) as u32);
                if suffix == "timeindex" {
                    out.extend_from_slice(&time.to_be_bytes());
                    out.extend_from_slice(&offset.to_be_bytes());
                } else {
                    out.extend_from_slice(&offset.to_be_bytes());
                    out.extend_from_slice(&position.to_be_bytes());
                }
            }
            out
        }
    };
    put(&path, &content)
}

/// `.logd/end` with right checksums and any numbers.
fn lying_end(place: &Place<'_>, random: &mut Random) -> Option<()> {
    const SLOT: usize = 128;
    let own = place.partition.join(".logd");
    let _ = fs::create_dir(&own);
    let path = own.join("end");
    let mut content = small(&path).unwrap_or_default();
    content.resize(4 * SLOT, 0);
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let boot: Vec<u8> = boot.bytes().filter(u8::is_ascii_hexdigit).collect();
    let digit = |b: u8| char::from(b).to_digit(16).unwrap_or(0) as u8;
    let boot: Vec<u8> = boot
        .chunks_exact(2)
        .map(|p| digit(p[0]) << 4 | digit(p[1]))
        .collect();
    for _ in 0..1 + random.below(4) {
        let n = random.below(4);
        let slot = content[n * SLOT..].get_mut(..SLOT)?;
        slot[..4].copy_from_slice(if n < 2 { b"LGDE" } else { b"LGDD" });
        let sequence = *random.pick(&[1, 2, 1000, u64::MAX]);
        slot[8..16].copy_from_slice(&sequence.to_be_bytes());
        if random.below(2) == 0 && boot.len() == 16 {
            slot[16..32].copy_from_slice(&boot);
        }
        for _ in 0..1 + random.below(6) {
            let at = 32 + 4 * random.below(23);
            let number = match random.below(2) {
                0 => *random.pick(&HUGE),
                _ => random.next() % 3000,
            };
            slot[at..at + 8].copy_from_slice(&number.to_be_bytes());
        }
        let crc = crc32fast::hash(&slot[8..]);
        slot[4..8].copy_from_slice(&crc.to_be_bytes());
    }
    put(&path, &content)
}

fn settings(place: &Place<'_>, random: &mut Random) -> Option<()> {
    let own = place.partition.join(".logd");
    let _ = fs::create_dir(&own);
    let deep = |open: &str| format!("x = {}", open.repeat(100_000));
    let content = match random.below(9) {
        0 => "segment-size = \"0\"\n".to_string(),
        1 => "segment-size = -1\npartitions = 99999999999\n".to_string(),
        2 => deep("["),
        3 => deep("{a="),
        4 => format!("compress = \"{}\"\n", "zstd:".repeat(1000)),
        5 => "\"\\u001b[31m\" = \"\\u001b[0m\\u0007\"\ncleanup = \"\\u001b[2J\"".to_string(),
        6 => "a.".repeat(50_000) + "a = 1\n",
        7 => "segment-size = 1\nsegment-age = \"0s\"\n".to_string(),
        _ => "\0".repeat(random.below(2 << 20)),
    };
    put(&own.join("config.toml"), content.as_bytes())
}

fn text_file(place: &Place<'_>, random: &mut Random) -> Option<()> {
    let own = ["leader-epoch-checkpoint", "partition.metadata"];
    let beside = [
        "log-start-offset-checkpoint",
        "recovery-point-offset-checkpoint",
        "replication-offset-checkpoint",
        "meta.properties",
        ".kafka_cleanshutdown",
        ".lock",
    ];
    let parent = place.partition.parent()?;
    let path = match random.below(2) {
        0 => place.partition.join(random.pick(&own)),
        _ => parent.join(random.pick(&beside)),
    };
    let name = place.partition.file_name()?.to_str()?;
    let (topic, partition) = name.rsplit_once('-').unwrap_or((name, "0"));
    let number = *random.pick(&HUGE) as i64;
    let content = match random.below(7) {
        0 => format!("0\n999999999\n0 {number}\n").into_bytes(),
        1 => format!("0\n1\n{topic} {partition} {number}\n").into_bytes(),
        2 => format!("0\n2\n{number} 0\n0 {number}\n").into_bytes(),
        3 => {
            let lines: String = (0..100_000).map(|n| format!("{n} {n}\n")).collect();
            format!("0\n100000\n{lines}").into_bytes()
        }
        4 => "version: 0\ntopic_id: \u{1b}[31m\n".into(),
        5 => bytes(random, 500),
        _ => vec![b'9'; 1 << 20],
    };
    put(&path, &content)
}

/// Names that are numbers and none, and such as steer a terminal.
fn name(place: &Place<'_>, random: &mut Random) -> Option<()> {
    let names: [&[u8]; 13] = [
        b"99999999999999999999.log",
        b"09223372036854775807.log",
        b"09223372036854775807.log.swap",
        b"-0000000000000000001.log",
        b"00000000000000000000.log.cleaned",
        b"00000000000000000001.log",
        b"00000000000000000003.log.deleted",
        b"\x1b[31m.log",
        b"\xff\xfe.index",
        b"new\nline.log",
        b"0.log",
        b"00000000000000000002.snapshot",
        b".logd.tmp",
    ];
    let path = place
        .partition
        .join(OsStr::from_bytes(random.pick::<&[u8]>(&names)));
    let content = match random.below(3) {
        0 => Vec::new(),
        1 => bytes(random, 300),
        _ => small(&pick_file(place, random)?)?,
    };
    put(&path, &content)
}

fn swap_state(place: &Place<'_>, random: &mut Random) -> Option<()> {
    let all = files(place.partition);
    let ours: Vec<&PathBuf> = all
        .iter()
        .filter(|p| p.parent() == Some(place.partition))
        .collect();
    if ours.is_empty() {
        return None;
    }
    let from = *random.pick(&ours);
    let suffix = *random.pick(&["swap", "cleaned", "deleted", "tmp"]);
    let mut to = from.as_os_str().to_owned();
    to.push(".");
    to.push(suffix);
    match random.below(2) {
        0 => fs::rename(from, to).ok(),
        _ => put(Path::new(&to), &small(from)?),
    }
}

/// One of the files, or of the directories in `.logd`.
fn victim(place: &Place<'_>, random: &mut Random) -> Option<PathBuf> {
    let own = [
        ".logd",
        "append.lock",
        "sync.lock",
        "maintenance.lock",
        "end",
        "failed",
        "once",
        "lost+found",
        "tmp",
        "groups",
        "keys",
        "config.toml",
        "rewritten",
        "id",
        "replica",
    ];
    match random.below(2) {
        0 => pick_file(place, random),
        _ => Some(match *random.pick(&own) {
            ".logd" => place.partition.join(".logd"),
            name => {
                let _ = fs::create_dir(place.partition.join(".logd"));
                place.partition.join(".logd").join(name)
            }
        }),
    }
}

fn clear(path: &Path) {
    match fs::symlink_metadata(path) {
        Ok(m) if m.is_dir() => drop(fs::remove_dir_all(path)),
        _ => drop(fs::remove_file(path)),
    }
}

fn link(place: &Place<'_>, random: &mut Random) -> Option<()> {
    let path = victim(place, random)?;
    clear(&path);
    let to = match random.below(6) {
        0 => path.clone(),
        1 => PathBuf::from("/dev/zero"),
        2 => place.outside.join("dir"),
        3 => place.outside.join("absent"),
        4 => PathBuf::from("../../outside/file"),
        _ => place.outside.join("file"),
    };
    symlink(to, &path).ok()
}

fn special(place: &Place<'_>, random: &mut Random) -> Option<()> {
    let path = victim(place, random)?;
    clear(&path);
    match random.below(3) {
        0 => fs::create_dir(&path).ok(),
        1 => std::os::unix::net::UnixListener::bind(&path).ok().map(drop),
        _ => nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).ok(),
    }
}

/// A file of somebody else under one of our names: whoever writes it writes theirs.
fn second_name(place: &Place<'_>, random: &mut Random) -> Option<()> {
    let path = victim(place, random)?;
    let theirs = place.outside.join(format!("second-{:x}", random.next()));
    match small(&path) {
        Some(content) => fs::write(&theirs, content).ok()?,
        None => fs::write(&theirs, b"theirs").ok()?,
    }
    clear(&path);
    fs::hard_link(&theirs, &path).ok()
}

fn delete(place: &Place<'_>, random: &mut Random) -> Option<()> {
    fs::remove_file(pick_file(place, random)?).ok()
}

/// Junk in one of the files that only logd has.
fn own_file(place: &Place<'_>, random: &mut Random) -> Option<()> {
    let own = place.partition.join(".logd");
    for dir in ["once", "groups", "lost+found", "tmp", "keys"] {
        let _ = fs::create_dir_all(own.join(dir));
    }
    let names = [
        "failed",
        "once/x",
        "groups/g",
        "groups/g.lock",
        "lost+found/list",
        "tmp/x.log",
        "keys/x",
        "rewritten",
        "redactions",
        "replica",
        "fenced",
        "id",
        "sync.lock",
    ];
    let content = match random.below(5) {
        0 => Vec::new(),
        1 => format!("1\n{} {}\n", random.pick(&HUGE), random.pick(&HUGE)).into_bytes(),
        2 => bytes(random, 400),
        3 => b"1 1 \x1b[31msync\n".to_vec(),
        _ => vec![b'1'; 1 << 20],
    };
    put(&own.join(random.pick(&names)), &content)
}
