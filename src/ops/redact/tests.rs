//! Redaction against a model of its own, and crashed and failed at every mutating call.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{Action, RedactOptions, Report, redact, survey};
use crate::error::{ErrorKind, Result};
use crate::format::batch::{Batch, Scratch};
use crate::format::builder::{BatchBuilder, Chunk, Producer, Seal, stamp};
use crate::format::codec::{Compression, Compressor};
use crate::format::plain::Plain;
use crate::format::record::{Header, NewRecord};
use crate::format::{Limits, Offset, TimestampMs};
use crate::log::listing::LogDir;
use crate::log::maintenance::MaintenanceOptions;
use crate::log::redactions;
use crate::log::rewritten;
use crate::log::testing::fix_crc;
use crate::ops::words::{self, Field, Now};
use crate::segment::scan::{Scan, Scanner, Span};
use crate::sys::sim::{After, Fault, Policy, SimHost};
use crate::sys::user::Who;
use crate::sys::{Access, Dir, Host};

const LOG: &str = "/d/x-0";
const SECRET: &str = "TOP-SECRET";
const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];

/// A record as a reader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    offset: i64,
    timestamp: i64,
    sequence: i32,
    key: Option<String>,
    value: Option<String>,
    headers: Vec<(String, Option<String>)>,
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn records(batch: &Batch<'_>) -> Vec<Seen> {
    let mut scratch = Scratch::new();
    let all = batch.records(&mut scratch, &Limits::default()).unwrap();
    all.map(|r| {
        let r = r.unwrap();
        Seen {
            offset: r.offset.0,
            timestamp: r.timestamp.0,
            sequence: r.sequence,
            key: r.key.map(text),
            value: r.value.map(text),
            headers: r
                .headers
                .iter()
                .map(|(n, v)| (text(n), v.map(text)))
                .collect(),
        }
    })
    .collect()
}

/// Every batch of the log, as bytes.
fn batches(host: &dyn Host) -> Vec<Vec<u8>> {
    let log = LogDir::open(host, Path::new(LOG)).unwrap();
    let mut out = Vec::new();
    for segment in log.segments().unwrap() {
        let file = log.open_file(&segment.log_name()).unwrap();
        let span = Span::whole(segment.base(), file.len().unwrap());
        let mut scanner = Scanner::new(file, span, Limits::default());
        while let Scan::Batch(batch, _) = scanner.next().unwrap() {
            out.push(batch.bytes().to_vec());
        }
    }
    out
}

fn read(host: &dyn Host) -> Vec<Seen> {
    let all = batches(host);
    let all = all.iter().map(|b| Batch::check(b).unwrap());
    let data = all.filter(|b| !b.header().is_control());
    data.flat_map(|b| records(&b)).collect()
}

/// Every file below the log, with its path.
fn files(host: &SimHost) -> BTreeMap<String, Vec<u8>> {
    fn walk(host: &SimHost, dir: &dyn Dir, at: &str, out: &mut BTreeMap<String, Vec<u8>>) {
        for name in dir.list().unwrap() {
            let path = format!("{at}/{name}");
            match dir.open_dir(&name) {
                Ok(sub) => walk(host, sub.as_ref(), &path, out),
                Err(_) => drop(out.insert(path.clone(), host.read_file(&path).unwrap())),
            }
        }
    }
    let mut out = BTreeMap::new();
    let dir = host.open_dir(Path::new(LOG)).unwrap();
    walk(host, dir.as_ref(), LOG, &mut out);
    out
}

/// The files in which `needle` is, as they are or once what is compressed in them is not.
fn holders(host: &SimHost, needle: &str) -> Vec<String> {
    let has = |bytes: &[u8]| memchr::memmem::find(bytes, needle.as_bytes()).is_some();
    let (mut scratch, mut open) = (Scratch::new(), Vec::new());
    let mut out = Vec::new();
    for (path, bytes) in files(host) {
        let mut held = has(&bytes);
        // From every byte on: batches may lie anywhere.
        for at in 0..bytes.len().saturating_sub(26) {
            let Some(size) = bytes.get(at + 8..at + 12) else {
                break;
            };
            let size = u32::from_be_bytes(size.try_into().unwrap()) as usize + 12;
            let Some(entry) = bytes.get(at..at.saturating_add(size)) else {
                continue;
            };
            let Ok(batch) = Batch::check(entry) else {
                continue;
            };
            let plain = Plain::open(&batch, &mut scratch, &Limits::default(), &mut open);
            held |= plain.is_ok_and(|p| has(p.body()));
        }
        if held {
            out.push(path);
        }
    }
    out
}

fn new_record(b: &mut BatchBuilder, delta: i32, r: &Seen) {
    let headers: Vec<Header<'_>> = r
        .headers
        .iter()
        .map(|(n, v)| (n.as_bytes(), v.as_ref().map(String::as_bytes)))
        .collect();
    let new = NewRecord {
        key: r.key.as_ref().map(String::as_bytes),
        value: r.value.as_ref().map(String::as_bytes),
        headers: &headers,
    };
    b.push_at(delta, TimestampMs(r.timestamp), &new);
}

/// A batch of these records in some codec, of some producer, that ends at `last`.
fn batch(random: &mut Random, base: i64, last: i64, all: &[Seen]) -> Vec<u8> {
    let mut b = BatchBuilder::begin(Vec::new());
    for r in all {
        new_record(&mut b, (r.offset - base) as i32, r);
    }
    let producer = Producer {
        id: 7,
        epoch: 1,
        base_sequence: i32::MAX - 3,
    };
    let seal = Seal {
        append_time: (random.below(5) == 0).then_some(TimestampMs(9_000)),
        producer: (random.below(2) == 0).then_some(producer),
        transactional: random.below(3) == 0,
        control: false,
    };
    let codec = match all.is_empty() {
        true => "none",
        false => CODECS[random.below(5) as usize],
    };
    let codec: Compression = codec.parse().unwrap();
    let mut chunk = Chunk::default();
    b.seal_compressed(&seal, &mut Compressor::new(&codec), &mut chunk);
    let mut bytes = chunk.bytes;
    stamp(&mut bytes, Offset(base), 4);
    bytes[23..27].copy_from_slice(&((last - base) as i32).to_be_bytes());
    fix_crc(&mut bytes);
    bytes
}

/// A message of magic 0 or 1.
fn message(magic: u8, r: &Seen) -> Vec<u8> {
    let mut body = vec![magic, 0];
    if magic == 1 {
        body.extend(r.timestamp.to_be_bytes());
    }
    for field in [&r.key, &r.value] {
        let len = field.as_ref().map_or(-1, |f| f.len() as i32);
        body.extend(len.to_be_bytes());
        body.extend(field.as_ref().map_or(&b""[..], |f| f.as_bytes()));
    }
    let mut out = r.offset.to_be_bytes().to_vec();
    out.extend((body.len() as u32 + 4).to_be_bytes());
    out.extend(crc32fast::hash(&body).to_be_bytes());
    out.extend(body);
    out
}

/// A commit marker of the producer.
fn marker(offset: i64) -> Vec<u8> {
    let mut b = BatchBuilder::begin(Vec::new());
    let key = [0, 0, 0, 1];
    let new = NewRecord {
        key: Some(&key),
        value: Some(&[0; 6]),
        headers: &[],
    };
    b.push(TimestampMs(1), &new);
    let seal = Seal {
        producer: Some(Producer {
            id: 7,
            epoch: 1,
            base_sequence: -1,
        }),
        transactional: true,
        control: true,
        ..Seal::default()
    };
    let (mut bytes, _) = b.seal(&seal);
    stamp(&mut bytes, Offset(offset), 4);
    bytes
}

fn record(random: &mut Random, offset: i64) -> Seen {
    let n = random.below(1000);
    let secret = random.below(4) == 0;
    let card = if secret {
        format!("{SECRET}-{n}")
    } else {
        "none".to_string()
    };
    let value = format!(
        "{{\"n\":{n}, \"card\" : \"{card}\",\"fill\":\"{}\"}}",
        "x".repeat(9)
    );
    let header = || {
        (
            "h".to_string(),
            random.0.is_multiple_of(2).then(|| "v".to_string()),
        )
    };
    Seen {
        offset,
        timestamp: 1_000 + n as i64,
        sequence: -1,
        // A secret never comes under another key, so that -k finds all of them.
        key: match (secret, random.0 % 3) {
            (true, _) => Some("ann".to_string()),
            (false, 0) => None,
            (false, k) => Some(format!("k{k}")),
        },
        headers: if n.is_multiple_of(3) {
            vec![header()]
        } else {
            Vec::new()
        },
        value: (secret || !n.is_multiple_of(7)).then_some(value),
    }
}

/// A log of several segments with gaps, every codec, producers, markers and old magics.
fn random_log(seed: u64) -> SimHost {
    let mut random = Random(seed * 2 + 1);
    let machine = SimHost::new();
    machine.make_dir(Path::new("/d")).unwrap();
    machine.make_dir(Path::new(LOG)).unwrap();
    let dir = machine.open_dir(Path::new(LOG)).unwrap();
    let mut next = 0;
    for n in 0..2 + random.below(4) {
        let base = next;
        let mut bytes = Vec::new();
        for _ in 0..random.below(6) {
            next += random.below(3) as i64 * random.below(5) as i64;
            let kind = random.below(8);
            if kind == 0 {
                bytes.extend(marker(next));
                next += 1;
                continue;
            }
            if kind == 1 && n < 2 {
                let mut r = record(&mut random, next);
                r.headers.clear();
                bytes.extend(message(random.below(2) as u8, &r));
                next += 1;
                continue;
            }
            let start = next;
            let mut all = Vec::new();
            for _ in 0..random.below(6) {
                all.push(record(&mut random, next));
                next += 1 + random.below(3) as i64;
            }
            next += random.below(2) as i64 + i64::from(all.is_empty());
            bytes.extend(batch(&mut random, start, next - 1, &all));
        }
        let file = dir.create(&format!("{base:020}.log")).unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        file.sync().unwrap();
        next += i64::from(next == base);
    }
    dir.sync().unwrap();
    machine
}

fn options(words: &[&str], action: Action) -> RedactOptions {
    let mut options = RedactOptions {
        keys: Vec::new(),
        pattern: None,
        ranges: Vec::new(),
        clamp: true,
        action,
        reason: "request 881".to_string(),
        who: Who {
            uid: 1000,
            name: "ann".to_string(),
        },
    };
    for pair in words.chunks(2) {
        match pair {
            ["key", key] => options.keys.push(key.as_bytes().to_vec()),
            ["range", word] => {
                let range = words::Range::parse(word, &Now::new(TimestampMs(0))).unwrap();
                options.ranges.push((word.to_string(), range));
            }
            [field, pattern] => {
                let field = Field::parse(field).unwrap();
                options.pattern = Some((pattern.as_bytes().to_vec(), field));
            }
            _ => unreachable!(),
        }
    }
    options
}

fn fields(all: &[&str]) -> Action {
    Action::Only(all.iter().map(|f| Field::parse(f).unwrap()).collect())
}

fn maintenance() -> MaintenanceOptions {
    MaintenanceOptions {
        command: "logd redact".to_string(),
        wait: Duration::ZERO,
        allow_network_fs: false,
    }
}

fn run(machine: &SimHost, options: &RedactOptions) -> Result<Report> {
    let host: Arc<dyn Host> = Arc::new(machine.process());
    let mut moved = 0;
    let mut pace = |bytes| {
        moved += bytes;
        Ok(())
    };
    let report = redact(&host, Path::new(LOG), options, &maintenance(), &mut pace);
    assert!(moved > 0 || report.is_err() || batches(machine).is_empty());
    report
}

fn logd_dir(machine: &SimHost) -> Arc<dyn Dir> {
    machine.open_dir(&Path::new(LOG).join(".logd")).unwrap()
}

/// What the model makes of a record: `None` if it goes, else it and whether it was changed.
fn model(r: &Seen, way: &str, id: &str) -> Option<Seen> {
    let mut r = r.clone();
    let holds = r.value.as_ref().is_some_and(|v| v.contains(SECRET));
    let changed = match way {
        "key" => r.key.as_deref() == Some("ann") && r.value.take().is_some(),
        "value" => holds && r.value.take().is_some(),
        "json" => {
            let cut = |v: String| {
                let at = v.find(" : \"").unwrap() + 3;
                let end = at + 1 + v[at + 1..].find('"').unwrap() + 1;
                format!("{}null{}", &v[..at], &v[end..])
            };
            r.value = if holds { r.value.map(cut) } else { r.value };
            holds
        }
        "only key" => r.key.take_if(|k| k == "ann").is_some(),
        "drop" if holds => return None,
        "drop" => false,
        "range" => (3..=9).contains(&r.offset) && r.value.take().is_some(),
        _ => unreachable!(),
    };
    if changed {
        r.headers
            .push(("redacted".to_string(), Some(id.to_string())));
    }
    Some(r)
}

fn way_of(way: &str) -> RedactOptions {
    match way {
        "key" => options(&["key", "ann", "key", "nobody"], Action::Null),
        "value" => options(&["value", "TOP-SE[A-Z]+-[0-9]"], Action::Null),
        "json" => options(&["json:/card", "^TOP"], fields(&["json:/card"])),
        "only key" => options(&["key", "ann"], fields(&["key"])),
        "drop" => options(&["value", "TOP-SECRET"], Action::Drop),
        "range" => options(&["range", "3..10"], Action::Null),
        _ => unreachable!(),
    }
}

const WAYS: [&str; 6] = ["key", "value", "json", "only key", "drop", "range"];

#[test]
fn redaction_equals_a_model_and_changes_nothing_else() {
    for seed in 0..120 {
        for way in WAYS {
            let machine = random_log(seed);
            let what = format!("seed {seed}, {way}");
            let options = way_of(way);
            let (before, stored) = (read(&machine), batches(&machine));
            let host: Arc<dyn Host> = Arc::new(machine.process());
            let calls = machine.calls();
            let found = survey(&host, Path::new(LOG), &options, &mut |_| Ok(())).expect(&what);
            assert_eq!(machine.calls(), calls, "{what}: a survey writes nothing");
            let report = run(&machine, &options).expect(&what);
            let wanted: Vec<Seen> = before
                .iter()
                .filter_map(|r| model(r, way, &report.id))
                .collect();
            assert_eq!(read(&machine), wanted, "{what}");
            assert_eq!(report.records(), found.records(), "{what}");
            assert_eq!((report.left, report.outside), (0, 0), "{what}");
            if matches!(way, "key" | "value" | "json" | "drop") {
                assert!(holders(&machine, SECRET).is_empty(), "{what}");
            }
            check_batches(&stored, &batches(&machine), way, &what);
            let entries = redactions::read(logd_dir(&machine).as_ref()).unwrap();
            match report.records() {
                0 => assert!(entries.is_empty() && report.id.is_empty(), "{what}"),
                n => assert!(entries[0].records == n && entries[0].finished_ms.is_some()),
            }
            let again = run(&machine, &options).expect(&what);
            assert_eq!(again, Report::default(), "{what}: nothing is left to do");
        }
    }
}

/// Batches are the same ones with the same offsets; those without a hit are the same bytes.
fn check_batches(before: &[Vec<u8>], after: &[Vec<u8>], way: &str, what: &str) {
    assert_eq!(before.len(), after.len(), "{what}");
    for (old, new) in before.iter().zip(after) {
        let (b, a) = (Batch::check(old).unwrap(), Batch::check(new).unwrap());
        let (h, was) = (a.header(), b.header());
        let all = records(&b);
        let same = was.is_control() || all.iter().all(|r| model(r, way, "").as_ref() == Some(r));
        if same {
            assert_eq!(old, new, "{what}");
            continue;
        }
        assert_eq!(
            (h.base_offset, h.last_offset),
            (was.base_offset, was.last_offset),
            "{what}"
        );
        assert_eq!(
            h.timestamp_type(),
            if was.magic == 0 {
                h.timestamp_type()
            } else {
                was.timestamp_type()
            }
        );
        if was.magic < 2 {
            assert_eq!(h.magic, 2, "{what}");
            continue;
        }
        let kept = |h: &crate::format::batch::BatchHeader| {
            (
                h.producer_id,
                h.producer_epoch,
                h.base_sequence,
                h.leader_epoch,
                h.is_transactional(),
            )
        };
        assert_eq!(kept(h), kept(was), "{what}");
        if h.count > 0 {
            assert_eq!(
                (h.attributes, h.codec()),
                (was.attributes, was.codec()),
                "{what}"
            );
        }
    }
}

/// A log with secrets in two segments and the active one, a look-up index and lost bytes.
fn machine() -> SimHost {
    let machine = SimHost::new();
    machine.make_dir(Path::new("/d")).unwrap();
    machine.make_dir(Path::new(LOG)).unwrap();
    let dir = machine.open_dir(Path::new(LOG)).unwrap();
    let put = |dir: &dyn Dir, name: &str, bytes: &[u8]| {
        let file = dir.create(name).unwrap();
        file.write_all_at(bytes, 0).unwrap();
        file.sync().unwrap();
        dir.sync().unwrap();
    };
    let mut random = Random(77);
    for base in [0, 10, 20] {
        let mut bytes = Vec::new();
        for n in 0..2 {
            let from = base + 5 * n;
            let mut all: Vec<Seen> = (from..from + 5).map(|o| record(&mut random, o)).collect();
            for (i, r) in all.iter_mut().enumerate() {
                let secret = base != 10 && i == 2;
                r.key = Some(if secret { "ann" } else { "bob" }.to_string());
                r.value = Some(if secret {
                    format!("{SECRET}-{from}")
                } else {
                    "v".repeat(9)
                });
            }
            bytes.extend(batch(&mut random, from, from + 4, &all));
        }
        put(dir.as_ref(), &format!("{base:020}.log"), &bytes);
    }
    dir.make_dir(".logd").unwrap();
    dir.sync().unwrap();
    let own = dir.open_dir(".logd").unwrap();
    own.make_dir("keys").unwrap();
    own.make_dir("lost+found").unwrap();
    own.sync().unwrap();
    let keys = own.open_dir("keys").unwrap();
    for base in [0, 10, 20] {
        put(
            keys.as_ref(),
            &format!("{base:020}-key.lookup"),
            SECRET.as_bytes(),
        );
    }
    let lost = own.open_dir("lost+found").unwrap();
    let sound = record(&mut random, 3);
    let secret = Seen {
        key: Some("ann".to_string()),
        value: Some(format!("{SECRET}-1")),
        ..sound.clone()
    };
    let free = Seen {
        key: None,
        value: None,
        ..sound
    };
    put(
        lost.as_ref(),
        "00000000000000000000.log.5.1",
        &batch(&mut random, 3, 3, &[secret]),
    );
    put(
        lost.as_ref(),
        "00000000000000000000.log.6.1",
        &batch(&mut random, 3, 3, &[free]),
    );
    put(
        lost.as_ref(),
        "00000000000000000000.log.7.1",
        b"half a batch",
    );
    put(
        lost.as_ref(),
        "list.ndjson",
        b"{\"file\":\"00000000000000000000.log.5.1\",\"offset\":3}\n",
    );
    machine
}

fn lost_names(machine: &SimHost) -> Vec<String> {
    let all = files(machine).into_keys();
    let lost = all.filter(|p| p.contains("/lost+found/"));
    lost.map(|p| p.rsplit('/').next().unwrap().to_string())
        .collect()
}

#[test]
fn everything_derived_goes_and_what_does_not_hold_it_stays() {
    let machine = machine();
    let report = run(&machine, &way_of("key")).unwrap();
    let held: Vec<(&str, Option<u64>)> = report
        .files
        .iter()
        .map(|f| (f.file.trim_start_matches('0'), f.records))
        .collect();
    let lost = ".logd/lost+found/00000000000000000000.log.";
    let (hit, torn) = (format!("{lost}5.1"), format!("{lost}7.1"));
    let expected = [
        (".log", Some(2)),
        ("20.log", Some(2)),
        (&hit, Some(1)),
        (&torn, None),
    ];
    assert_eq!(held, expected);
    assert_eq!(
        lost_names(&machine),
        ["00000000000000000000.log.6.1", "list.ndjson"]
    );
    let list = machine
        .read_file(format!("{LOG}/.logd/lost+found/list.ndjson"))
        .unwrap();
    let marked = format!("\"offset\":3,\"redacted\":\"{}\"}}\n", report.id);
    assert!(text(&list).ends_with(&marked), "{}", text(&list));
    // What was in place of an index of the segment without a hit was none.
    assert_eq!(holders(&machine, SECRET), [""; 0]);
    let ranges = rewritten::read(logd_dir(&machine).as_ref()).unwrap();
    let ranges: Vec<_> = ranges
        .iter()
        .map(|r| (r.offsets.start.0, r.offsets.end.0))
        .collect();
    assert_eq!(ranges, [(0, 10), (20, 30)]);
    let entry = redactions::read(logd_dir(&machine).as_ref())
        .unwrap()
        .remove(0);
    assert_eq!(
        (entry.user.as_str(), entry.uid, entry.reason.as_str()),
        ("ann", 1000, "request 881")
    );
    let file = machine
        .read_file(format!("{LOG}/.logd/redactions"))
        .unwrap();
    assert!(
        !text(&file).contains("nobody"),
        "the content of a criterion"
    );
}

#[test]
fn content_outside_the_named_fields_is_told() {
    let machine = machine();
    let report = run(
        &machine,
        &options(&["value", SECRET], fields(&["json:/card"])),
    )
    .unwrap();
    // No record there is JSON: nothing can be taken out of them.
    assert_eq!(
        (report.records(), report.outside, report.first_left),
        (1, 4, Some(Offset(2)))
    );
}

/// A log of these values, one segment, and whatever is said of each record's headers.
fn log_of(values: &[&str], headers: &[(&str, &str)]) -> SimHost {
    let machine = SimHost::new();
    machine.make_dir(Path::new("/d")).unwrap();
    machine.make_dir(Path::new(LOG)).unwrap();
    let dir = machine.open_dir(Path::new(LOG)).unwrap();
    let headers = headers
        .iter()
        .map(|(n, v)| (n.to_string(), Some(v.to_string())));
    let headers: Vec<_> = headers.collect();
    let record = |(offset, value): (i64, &&str)| Seen {
        offset,
        timestamp: 1,
        sequence: -1,
        key: Some("ann".to_string()),
        value: Some(value.to_string()),
        headers: headers.clone(),
    };
    let all: Vec<Seen> = (0..).zip(values).map(record).collect();
    let bytes = batch(&mut Random(3), 0, all.len() as i64 - 1, &all);
    let file = dir.create("00000000000000000000.log").unwrap();
    file.write_all_at(&bytes, 0).unwrap();
    file.sync().unwrap();
    dir.sync().unwrap();
    machine
}

#[test]
fn repeated_names_and_escapes_hide_nothing() {
    let hidden = [
        r#"{"card":"TOP-SECRET","card":"none"}"#,
        r#"{"card":"TOP\u002dSECRET"}"#,
        r#"{"c\u0061rd":"TOP-SECRET"}"#,
        r#"{"card":{"n":["TOP\u002dSE\u0043RET"]}}"#,
        r#"{"card":{"TOP-SECRET":1},"card":null}"#,
    ];
    let machine = log_of(&hidden, &[]);
    let json = options(&["json:/card", SECRET], fields(&["json:/card"]));
    let report = run(&machine, &json).unwrap();
    assert_eq!((report.records(), report.left, report.outside), (5, 0, 0));
    assert!(holders(&machine, "SECRET").is_empty());
    assert!(holders(&machine, "RET").is_empty());

    let machine = log_of(&["v"], &[("h", "none"), ("h", SECRET)]);
    let header = options(&["header:h", SECRET], fields(&["header:h"]));
    assert_eq!(run(&machine, &header).unwrap().records(), 1);
    assert!(holders(&machine, SECRET).is_empty());
}

#[test]
fn a_record_in_which_the_field_cannot_be_told_is_told() {
    let torn = [r#"{"card":"TOP-SECRET""#, r#"{"card":"none"}"#, "plain"];
    let machine = log_of(&torn, &[]);
    let by_key = options(&["key", "ann"], fields(&["json:/card"]));
    let report = run(&machine, &by_key).unwrap();
    let told = (report.records(), report.left, report.outside);
    assert_eq!((told, report.first_left), ((1, 0, 2), Some(Offset(0))));

    let rows = ["a,TOP-SECRET,b\n", "a,none,b\nc,TOP-SECRET,d\n", "a\tb"];
    let machine = log_of(&rows, &[]);
    let by_key = options(&["key", "ann"], fields(&["column:2"]));
    let report = run(&machine, &by_key).unwrap();
    let told = (report.records(), report.left, report.outside);
    assert_eq!((told, report.first_left), ((3, 0, 1), Some(Offset(1))));
    assert!(!holders(&machine, "c,TOP-SECRET").is_empty());
    assert!(holders(&machine, "a,TOP-SECRET").is_empty());
}

#[test]
fn criteria_that_are_none_or_damage_change_nothing() {
    let machine = machine();
    let e = run(&machine, &options(&[], Action::Null)).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Usage);
    let path = format!("{LOG}/00000000000000000010.log");
    machine.edit(&path, |b| b[70] ^= 1).unwrap();
    let mut before = files(&machine);
    before.retain(|path, _| !path.ends_with(".lock") && !path.ends_with("/end"));
    let e = run(&machine, &way_of("key")).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Data);
    assert!(
        e.to_string().contains("CRC-32C") && e.position().is_some(),
        "{e}"
    );
    let after = files(&machine);
    for (path, bytes) in before {
        assert_eq!(after.get(&path), Some(&bytes), "{path}");
    }
    assert!(!after.contains_key(&format!("{LOG}/.logd/redactions")));
}

/// Whatever happened, the log is readable, says that it is not finished while it holds anything, and
/// is finished by the same command.
fn check(machine: &SimHost, before: &[Seen], way: &str, what: &str) {
    let held = holders(machine, SECRET)
        .iter()
        .any(|p| !p.contains("/keys/"));
    let own = logd_dir(machine);
    let begun = redactions::read(own.as_ref()).expect(what);
    let seen = read(machine);
    let untouched = seen == before;
    assert!(begun.len() <= 1, "{what}");
    let is_open = begun.iter().any(|r| r.finished_ms.is_none());
    assert!(
        !held || is_open || (untouched && begun.is_empty()),
        "{what}: {begun:?}"
    );
    if way != "drop" {
        assert_eq!(seen.len(), before.len(), "{what}");
    }
    if own.stat("failed").expect(what).is_some() {
        // As everything that writes: not before repair.
        let e = run(machine, &way_of(way)).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Io, "{what}");
        return;
    }
    let options = way_of(way);
    run(machine, &options).unwrap_or_else(|e| panic!("{what}: {e}"));
    let entries = redactions::read(own.as_ref()).expect(what);
    let [entry] = &entries[..] else {
        panic!("{what}: {entries:?}")
    };
    assert!(entry.finished_ms.is_some(), "{what}");
    let wanted: Vec<Seen> = before
        .iter()
        .filter_map(|r| model(r, way, &entry.id))
        .collect();
    assert_eq!(read(machine), wanted, "{what}");
    assert_eq!(entry.records, 4, "{what}");
    let left = holders(machine, SECRET);
    assert_eq!(left, [""; 0], "{what}");
    let temporary = files(machine)
        .into_keys()
        .find(|p| p.contains("/tmp/") || p.ends_with(".swap"));
    assert_eq!(temporary, None, "{what}");
}

fn sweep(way: &str, fault: &dyn Fn() -> Fault) {
    let clean = machine();
    let before = read(&clean);
    let setup = clean.calls();
    run(&clean, &way_of(way)).unwrap();
    for n in setup + 1..=clean.calls() {
        let host = machine();
        host.fail_at(n, fault());
        let failed = run(&host, &way_of(way)).is_err();
        let what = format!(
            "{way}: {:?} at call {n}: {:?}",
            fault(),
            host.trace().last()
        );
        for policy in [Policy::KeepNothing, Policy::KeepAll] {
            let what = format!("{what}, then {policy:?}");
            check(&host.power_cut(n, policy), &before, way, &what);
        }
        for seed in 0..2 {
            let cut = host.power_cut(n * 1000 + seed, Policy::Random);
            check(&cut, &before, way, &format!("{what}, then cut {seed}"));
        }
        host.free();
        if failed {
            check(&host.kill(), &before, way, &format!("{what}, then killed"));
        }
    }
}

#[test]
fn redaction_survives_a_crash_at_every_call() {
    sweep("key", &|| Fault::Crash);
    sweep("drop", &|| Fault::Crash);
    sweep("value", &|| Fault::ShortWrite(30, After::Crash));
}

#[test]
fn redaction_survives_an_error_at_every_call() {
    sweep("key", &|| Fault::Errno(nix::libc::EIO));
}

#[test]
fn redaction_survives_a_full_disk_at_every_call() {
    sweep("value", &|| Fault::Full);
}

#[test]
fn a_copy_is_redacted_at_its_source() {
    let machine = log_of(&[SECRET], &[]);
    let of = crate::log::replica::ReplicaOf {
        id: [1; 16],
        source: "web1:t-0".to_string(),
    };
    machine.make_dir(Path::new("/d/x-0/.logd")).unwrap();
    crate::log::replica::write(logd_dir(&machine).as_ref(), &of).unwrap();
    let before = batches(&machine);
    let e = run(&machine, &way_of("key")).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Permission);
    assert!(e.to_string().contains("a copy of web1:t-0"), "{e}");
    assert_eq!(batches(&machine), before);
    assert!(
        redactions::read(logd_dir(&machine).as_ref())
            .unwrap()
            .is_empty()
    );
}

#[test]
fn what_turns_up_meanwhile_leaves_the_entry_unfinished_until_it_is_gone() {
    let machine = machine();
    let lost = || logd_dir(&machine).open_dir("lost+found").unwrap();
    let sound = lost().open("00000000000000000000.log.5.1", Access::Read);
    let mut late = vec![0; usize::try_from(sound.as_ref().unwrap().len().unwrap()).unwrap()];
    sound.unwrap().read_exact_at(&mut late, 0).unwrap();
    let host: Arc<dyn Host> = Arc::new(machine.process());
    let mut calls = 0;
    let mut pace = |_| {
        calls += 1;
        // The first search, of six batches, is over by then.
        if calls == 7 {
            let file = lost().create("00000000000000000000.log.9.1").unwrap();
            file.write_all_at(&late, 0).unwrap();
        }
        Ok(())
    };
    let options = way_of("key");
    let report = redact(&host, Path::new(LOG), &options, &maintenance(), &mut pace).unwrap();
    assert_eq!(report.left, 1);
    let unfinished = redactions::unfinished(logd_dir(&machine).as_ref()).unwrap();
    assert_eq!(unfinished.len(), 1);
    assert_eq!(unfinished[0].id, report.id);
    let again = run(&machine, &options).unwrap();
    assert_eq!((again.left, &again.id), (0, &report.id));
    let all = redactions::read(logd_dir(&machine).as_ref()).unwrap();
    assert!(all.len() == 1 && all[0].finished_ms.is_some(), "{all:?}");
    assert_eq!(holders(&machine, SECRET), [""; 0]);
}
