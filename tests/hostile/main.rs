//! Whole partition directories made by a hostile hand, read and written by the binary.
//!
//! Whatever is in a directory: no command panics, hangs or takes more memory than the limits allow;
//! readers write nothing, writers nothing outside the directory; the status is one of the contract's.
//!
//! `$LOGD_HOSTILE_SECONDS` (default 20) says how long directories are mutated, `$LOGD_SEED` where to
//! begin: a failure prints the seed of its round, which as `$LOGD_SEED` is the first round again.

mod bombs;
mod bounded;
#[path = "../common/mod.rs"]
mod common;
mod mutate;

use bounded::{difference, list, run};
use common::{Logs, Random, numbers, seed};
use mutate::{Place, mutate};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Peak of a run over small files: the program, its buffers and threads, and what small files hold.
const PEAK_KIB: u64 = 160 << 10;
/// The largest directory that is mutated, in bytes.
const DIR_BYTES_MAX: u64 = 400 << 10;

/// Commands that read, with `LOG` and a `FILE` of it.
const READING: &[&str] = &[
    "cat -F json LOG",
    "cat -F json --isolation uncommitted --skip-corrupt LOG",
    "cat -r --skip-corrupt LOG",
    "cat -F batch --skip-corrupt --isolation uncommitted LOG",
    "cat -o @1500000000.. --nest -F json LOG",
    "cat -o 7 --clamp --durable LOG",
    "cat -o end-5.. -k a -F csv LOG",
    "tail -n 3 -F json LOG",
    "tail -n 20 --isolation uncommitted LOG",
    "tail -f --idle 20ms -o earliest LOG",
    "info LOG",
    "info --segments --json LOG",
    "info --settings LOG",
    "ls --json .",
    "grep -c [a-z0-9] LOG",
    "grep -r --in json:/a -C 2 1 LOG",
    "get -k a LOG",
    "get -k b --all LOG",
    "get -F json LOG 3 5..9",
    "groups ls LOG",
    "groups lag LOG g",
    "info --groups LOG",
    "index --list LOG",
    "verify LOG",
    "verify --quick --json LOG",
    "verify --digest=records LOG",
    "repair --dry-run LOG",
    "compact --dry-run LOG",
    "retain --max-records 5 --dry-run LOG",
    "redact -k a --reason r --dry-run LOG",
    "dump LOG",
    "dump --batches LOG",
    "dump --records LOG",
    "dump --indexes LOG",
    "dump --kafka LOG",
    "dump FILE",
];

/// Commands that write, with what they read.
const WRITING: &[(&str, &[u8])] = &[
    ("append LOG", b"one\ntwo\nthree\n"),
    (
        "append --sync batch --batch-records 1 LOG",
        b"one\ntwo\nthree\n",
    ),
    ("append --once x --wait 0s LOG", b"one\ntwo\nthree\n"),
    ("append --unique 1h -K : LOG", b"a:one\nb:two\na:three\n"),
    ("append --create -z zstd LOG", b"one\ntwo\n"),
    (
        "append --keep-offsets -F json LOG",
        b"{\"offset\":99999,\"value\":\"x\"}\n",
    ),
    ("append --expect-offset 3 LOG", b"one\n"),
    ("init --set --max-age 3d LOG", b""),
    ("cat -g g -n 3 LOG", b""),
    ("groups seek LOG g earliest", b""),
    ("index --by key --bloom LOG", b""),
    ("compact LOG", b""),
    ("retain --max-records 5 LOG", b""),
    ("retain --max-records 7 --exact LOG", b""),
    ("repair LOG", b""),
    ("redact -k a --reason r --yes LOG", b""),
];

/// Directories to begin with: those of the corpus, and our own in all their forms.
fn beginnings(own: &Logs) -> Vec<PathBuf> {
    let mut out = Vec::new();
    let corpus = std::env::var_os("LOGD_CORPUS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpus/kafka"),
        PathBuf::from,
    );
    if corpus.is_dir() {
        find_partitions(&corpus, &mut out);
    } else {
        let corpus = corpus.display();
        eprintln!("skipped: no corpus at {corpus}; only logs of our own are mutated");
    }
    out.sort();
    for (i, codec) in ["none", "gzip", "snappy", "lz4", "zstd"].iter().enumerate() {
        let log = format!("own-{i}");
        own.init(&log, &["--segment-size", "4KiB", "-z", codec]);
        own.append(&log, &["--batch-records", "7", "-k", "a"], &numbers(0..150));
        own.append(&log, &["--once", "x"], &numbers(0..300));
        own.append(&log, &["--sync", "never", "-Z", "-k", "b"], "\nx\n\n");
        // As often as the others together.
        out.extend((0..30).map(|_| own.path(&log)));
    }
    out
}

fn find_partitions(dir: &Path, found: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(dir).unwrap().map(|e| e.unwrap());
    let (mut bytes, mut has_log) = (0, false);
    for entry in entries {
        let meta = entry.metadata().unwrap();
        let name = entry.file_name().into_string().unwrap();
        if meta.is_dir() {
            find_partitions(&entry.path(), found);
        } else if !is_ours(&name) {
            bytes += meta.len();
            has_log |= name.ends_with(".log");
        }
    }
    if has_log && bytes <= DIR_BYTES_MAX {
        found.push(dir.to_path_buf());
    }
}

/// The files beside those of Kafka that tell what is expected.
fn is_ours(name: &str) -> bool {
    name.contains(".expected") || name == "dump-log.txt"
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(|e| e.unwrap()) {
        let name = entry.file_name();
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to.join(name));
        } else if !is_ours(&name.to_string_lossy()) {
            fs::copy(entry.path(), to.join(name)).unwrap();
        }
    }
}

#[test]
fn hostile_directories_neither_crash_nor_lead_out() {
    let seconds = std::env::var("LOGD_HOSTILE_SECONDS").map_or(20, |s| s.parse().unwrap());
    let began = Instant::now();
    let own = Logs::empty();
    let beginnings = beginnings(&own);
    let first = seed();
    let (mut rounds, mut peak, mut failed) = (0, 0, Vec::new());
    while began.elapsed() < Duration::from_secs(seconds) && failed.len() < 5 {
        let seed = first.wrapping_add(rounds);
        match round(&beginnings, seed) {
            Ok(most) => peak = peak.max(most),
            Err(why) => failed.push(format!("LOGD_SEED={seed}: {why}")),
        }
        rounds += 1;
    }
    println!("{rounds} rounds, peak memory {peak} KiB");
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}

/// Mutates one directory and runs some commands on it. The most memory one of them had, in KiB.
fn round(beginnings: &[PathBuf], seed: u64) -> Result<u64, String> {
    let mut random = Random(seed);
    let root = tempfile::tempdir().unwrap();
    let outside = root.path().join("outside");
    fs::create_dir_all(outside.join("dir")).unwrap();
    fs::write(outside.join("file"), b"somebody else's").unwrap();
    let logs = root.path().join("logs");
    let from = random.pick(beginnings);
    let name = match from.file_name().unwrap().to_str().unwrap() {
        name if name.ends_with("-0") || name.starts_with("own-") => name.to_string(),
        _ => "t-0".to_string(),
    };
    let partition = logs.join(&name);
    copy(from, &partition);
    let place = Place {
        partition: &partition,
        outside: &outside,
    };
    let mut done = Vec::new();
    for _ in 0..random.below(4) + 1 {
        done.push(mutate(&place, &mut random));
    }
    let said = |why: String| format!("{} after {}: {why}", from.display(), done.join(", "));
    let mut peak = 0;
    for write in [false, true, false] {
        for _ in 0..2 {
            let ended = match write {
                false => read_once(root.path(), &logs, &partition, &mut random),
                true => write_once(root.path(), &logs, &partition, &mut random),
            };
            peak = peak.max(ended.map_err(&said)?);
        }
    }
    Ok(peak)
}

fn words<'a>(command: &'a str, log: &'a str, file: &'a str) -> Vec<&'a str> {
    let word = |w| match w {
        "LOG" => log,
        "FILE" => file,
        w => w,
    };
    command.split(' ').map(word).collect()
}

/// A reading command, which must leave everything as it is.
fn read_once(
    root: &Path,
    logs: &Path,
    partition: &Path,
    random: &mut Random,
) -> Result<u64, String> {
    let log = partition.file_name().unwrap().to_str().unwrap();
    let names = fs::read_dir(partition).unwrap().map(|e| e.unwrap().path());
    let mut names: Vec<String> = names
        .filter_map(|p| Some(format!("{log}/{}", p.file_name()?.to_str()?)))
        .collect();
    names.sort();
    let file = match names.is_empty() {
        true => log.to_string(),
        false => random.pick(&names).clone(),
    };
    let command = random.pick::<&str>(READING);
    let before = list(root);
    let ended = run(logs, &words(command, log, &file), b"");
    // Not each file of a directory is one of a log.
    let no_log_file = ended.code == Some(2) && ended.err.ends_with("not a file of a log\n");
    if let Some(why) = ended.complaint(PEAK_KIB).filter(|_| !no_log_file) {
        return Err(why);
    }
    match difference(&before, &list(root), |_| true) {
        Some(what) => Err(format!("logd {} wrote: {what}", ended.words.join(" "))),
        None => Ok(ended.peak_kib),
    }
}

/// A writing command, which may change its partition, and beside it only take away the mark of a
/// broker's clean end.
fn write_once(
    root: &Path,
    logs: &Path,
    partition: &Path,
    random: &mut Random,
) -> Result<u64, String> {
    let log = partition.file_name().unwrap().to_str().unwrap();
    let (command, input) = *random.pick(WRITING);
    let before = list(root);
    let ended = run(logs, &words(command, log, ""), input);
    if let Some(why) = ended.complaint(PEAK_KIB) {
        return Err(why);
    }
    let mark = logs.join(".kafka_cleanshutdown");
    let counts = |p: &Path| !p.starts_with(partition) && p != mark && p != logs;
    match difference(&before, &list(root), counts) {
        Some(what) => Err(format!("logd {} wrote: {what}", ended.words.join(" "))),
        None => Ok(ended.peak_kib),
    }
}
