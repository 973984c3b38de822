//! Small files and inputs that announce, or unpack to, more than any memory holds.

use crate::bounded::{Ended, run};
use crate::common::{Logs, Random, numbers, seed};
use logd::format::crc32c::crc32c;
use std::io::Write;

/// What a batch may unpack to, in KiB (durability.md 10.7).
const BODY_KIB: u64 = 256 << 10;
/// The largest batch, in KiB.
const BATCH_KIB: u64 = 128 << 10;
/// Most memory of a run that reads one: a batch, what it unpacks to, a decoder's window, the rest.
const PEAK_KIB: u64 = BODY_KIB + 2 * BATCH_KIB + (64 << 10);
const MIB: usize = 1 << 20;

const GZIP: i16 = 1;
const SNAPPY: i16 = 2;
const LZ4: i16 = 3;
const ZSTD: i16 = 4;

/// A magic 2 batch of `count` records at offset 0 with this body and a right checksum.
fn batch(attributes: i16, count: i32, body: &[u8]) -> Vec<u8> {
    let mut checked = Vec::new();
    checked.extend_from_slice(&attributes.to_be_bytes());
    checked.extend_from_slice(&(count - 1).to_be_bytes());
    checked.extend_from_slice(&1_700_000_000_000i64.to_be_bytes());
    checked.extend_from_slice(&1_700_000_000_000i64.to_be_bytes());
    checked.extend_from_slice(&(-1i64).to_be_bytes());
    checked.extend_from_slice(&(-1i16).to_be_bytes());
    checked.extend_from_slice(&(-1i32).to_be_bytes());
    checked.extend_from_slice(&count.to_be_bytes());
    checked.extend_from_slice(body);
    let mut out = 0i64.to_be_bytes().to_vec();
    out.extend_from_slice(&(checked.len() as i32 + 9).to_be_bytes());
    out.extend_from_slice(&0i32.to_be_bytes());
    out.push(2);
    out.extend_from_slice(&crc32c(&checked).to_be_bytes());
    out.extend_from_slice(&checked);
    out
}

/// A magic 1 message at `offset`.
fn message(offset: i64, attributes: u8, value: &[u8]) -> Vec<u8> {
    let mut checked = vec![1, attributes];
    checked.extend_from_slice(&1_700_000_000_000i64.to_be_bytes());
    checked.extend_from_slice(&(-1i32).to_be_bytes());
    checked.extend_from_slice(&(value.len() as i32).to_be_bytes());
    checked.extend_from_slice(value);
    let mut out = offset.to_be_bytes().to_vec();
    out.extend_from_slice(&(checked.len() as i32 + 4).to_be_bytes());
    out.extend_from_slice(&crc32fast::hash(&checked).to_be_bytes());
    out.extend_from_slice(&checked);
    out
}

fn gzip(mib: usize, block: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    (0..mib).for_each(|_| out.write_all(block).unwrap());
    out.finish().unwrap()
}

/// Frames one after the other, as each decoder reads them.
fn zstd(mib: usize, block: &[u8]) -> Vec<u8> {
    zstd::encode_all(block, 1).unwrap().repeat(mib)
}

/// A frame of independent blocks without checksums.
fn lz4(mib: usize, block: &[u8]) -> Vec<u8> {
    const VERSION_1_INDEPENDENT: u8 = 0x60;
    const BLOCKS_OF_1_MIB: u8 = 0x60;
    let descriptor = [VERSION_1_INDEPENDENT, BLOCKS_OF_1_MIB];
    let check = twox_hash::XxHash32::oneshot(0, &descriptor).to_be_bytes()[2];
    let mut out = b"\x04\x22\x4d\x18".to_vec();
    out.extend_from_slice(&descriptor);
    out.push(check);
    let block = lz4_flex::block::compress(block);
    for _ in 0..mib {
        out.extend_from_slice(&(block.len() as u32).to_le_bytes());
        out.extend_from_slice(&block);
    }
    out.extend_from_slice(&[0; 4]);
    out
}

/// Snappy as Java writes it: chunks, each with its length.
fn xerial(mib: usize, block: &[u8]) -> Vec<u8> {
    let mut out = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01".to_vec();
    let chunk = snap::raw::Encoder::new().compress_vec(block).unwrap();
    for _ in 0..mib {
        out.extend_from_slice(&(chunk.len() as u32).to_be_bytes());
        out.extend_from_slice(&chunk);
    }
    out
}

fn read_all(logs: &Logs, log: &str) -> Vec<Ended> {
    let words: [&[&str]; 8] = [
        &["cat", log],
        &["cat", "--skip-corrupt", "-F", "json", "--nest", log],
        &["cat", "-r", "--skip-corrupt", log],
        &["tail", "-n", "5", log],
        &["cat", "-o", "@2026-01-01", log],
        &["info", log],
        &["dump", "--records", log],
        &["append", log],
    ];
    words
        .iter()
        .map(|w| run(logs.root(), w, b"one\n"))
        .collect()
}

/// A log whose only segment has these bytes. Each command must end as it may, and say 65 where it has
/// to unpack them.
fn check(name: &str, bytes: &[u8], damaged: bool) {
    let logs = Logs::with("l-0", &[]);
    std::fs::write(logs.path("l-0/00000000000000000000.log"), bytes).unwrap();
    for (n, ended) in read_all(&logs, "l-0").iter().enumerate() {
        if let Some(why) = ended.complaint(PEAK_KIB) {
            panic!("{name}: {why}");
        }
        let unpacks = n < 2;
        if unpacks && damaged {
            assert_eq!(ended.code, Some(65), "{name}: {ended:?}");
        }
    }
}

#[test]
fn bombs_are_stopped_in_mid_stream() {
    let zeros = vec![0; MIB];
    let (gzip, zstd) = (gzip(400, &zeros), zstd(8000, &zeros));
    let (lz4, xerial) = (lz4(400, &zeros), xerial(400, &zeros));
    for (name, codec, body) in [
        ("gzip", GZIP, &gzip),
        ("zstd", ZSTD, &zstd),
        ("lz4", LZ4, &lz4),
        ("xerial", SNAPPY, &xerial),
    ] {
        check(name, &batch(codec, 1, body), true);
        check(name, &message(0, codec as u8, body), true);
    }
}

#[test]
fn announced_sizes_allocate_nothing() {
    let huge_varint = [0xfe, 0xff, 0xff, 0xff, 0x0f];
    let snappy_of_4g = [0xff, 0xff, 0xff, 0xff, 0x0f, 0x00];
    let mut xerial_chunk = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01".to_vec();
    xerial_chunk.extend_from_slice(&[0x7f, 0xff, 0xff, 0xff, 1, 2, 3]);
    // A frame of one segment that says it holds 2^60 bytes, and one with a window of 2^31.
    let zstd_of_2_60 = b"\x28\xb5\x2f\xfd\xe0\0\0\0\0\0\0\0\x10\x01\0\0";
    let zstd_window = b"\x28\xb5\x2f\xfd\0\xa8\x01\0\0";
    let lz4_of_2_60 = b"\x04\x22\x4d\x18\x6c\x70\0\0\0\0\0\0\0\x10\x50\0\0\0\0";
    let bodies: [(&str, i16, &[u8]); 8] = [
        ("count", 0, b"\x0e\0\0\0\x01\x02a\0"),
        ("record length", 0, &huge_varint),
        ("snappy", SNAPPY, &snappy_of_4g),
        ("xerial", SNAPPY, &xerial_chunk),
        ("zstd size", ZSTD, zstd_of_2_60),
        ("zstd window", ZSTD, zstd_window),
        ("lz4 size", LZ4, lz4_of_2_60),
        ("empty", GZIP, b""),
    ];
    for (name, codec, body) in bodies {
        check(name, &batch(codec, i32::MAX, body), true);
        check(name, &batch(codec, 1, body), name != "count");
        if codec != 0 {
            check(name, &message(0, codec as u8, body), true);
        }
    }
    // Headers of a record: as many as two bytes each allow, and more than any.
    let mut record = vec![0, 0, 0, 1, 1];
    record.extend_from_slice(&huge_varint);
    let mut body = vec![record.len() as u8 * 2];
    body.extend_from_slice(&record);
    check("header count", &batch(0, 1, &body), true);
}

#[test]
fn wrappers_in_wrappers_are_refused_at_the_first() {
    let mut inner = message(0, 0, b"value");
    for _ in 0..2000 {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
        out.write_all(&inner).unwrap();
        inner = message(0, GZIP as u8, &out.finish().unwrap());
    }
    check("nested", &inner, true);
}

/// Every batch is lawful and as large as it may be.
#[test]
fn many_large_batches_take_the_memory_of_one() {
    let mut value = vec![b'x'; 200 * MIB];
    // One record: length, attributes, time, offset, no key, the value, no headers.
    let mut body = Vec::new();
    let varint = |mut n: u64, out: &mut Vec<u8>| {
        while n > 127 {
            out.push(n as u8 | 128);
            n >>= 7;
        }
        out.push(n as u8);
    };
    let mut inner = vec![0, 0, 0, 1];
    varint(value.len() as u64 * 2, &mut inner);
    inner.append(&mut value);
    inner.push(0);
    varint(inner.len() as u64 * 2, &mut body);
    body.append(&mut inner);
    let body = zstd::encode_all(&body[..], 1).unwrap();
    let mut log = Vec::new();
    for offset in 0..4i64 {
        let mut batch = batch(ZSTD, 1, &body);
        batch[..8].copy_from_slice(&offset.to_be_bytes());
        log.extend_from_slice(&batch);
    }
    let logs = Logs::with("l-0", &[]);
    std::fs::write(logs.path("l-0/00000000000000000000.log"), log).unwrap();
    for words in [["cat", "-r", "l-0"], ["cat", "-F%S\\n", "l-0"]] {
        let ended = run(logs.root(), &words, b"");
        assert_eq!(ended.complaint(PEAK_KIB), None);
        assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
    }
}

#[test]
fn deep_json_is_read_and_written_without_deep_stacks() {
    let logs = Logs::empty();
    let deep = |open: &str, close: &str| {
        let n = 500_000;
        format!("{}1{}", open.repeat(n), close.repeat(n))
    };
    let inputs = [deep("[", "]"), deep("{\"a\":", "}"), "[".repeat(1_000_000)];
    for (n, input) in inputs.iter().enumerate() {
        let object = format!("{{\"value\":{input},\"key\":\"k\"}}\n");
        for words in [
            &["append", "--create", "-F", "json", "l-0"][..],
            &["append", "--create", "--key-from", "json:/a/a/a", "l-0"],
            &["append", "--create", "--value-from", "json:/0/0", "l-0"],
            &["append", "--create", "l-0"],
        ] {
            for text in [input, &object] {
                let ended = run(logs.root(), words, text.as_bytes());
                assert_eq!(ended.complaint(64 << 10), None, "{n}");
            }
        }
    }
    for words in [
        &["cat", "-F", "json", "--nest", "l-0"][..],
        &["cat", "-F", "csv", "l-0"],
        &["grep", "-c", "--in", "json:/a/a", "1", "l-0"],
    ] {
        let ended = run(logs.root(), words, b"");
        assert_eq!(ended.complaint(64 << 10), None);
        assert!(matches!(ended.code, Some(0 | 1)), "{ended:?}");
        assert!(!ended.out.is_empty());
    }
}

/// Input of every format with a few bytes changed: 0, or 65 and the place.
#[test]
fn hostile_input_is_refused_with_its_place() {
    let logs = Logs::with("from-0", &[]);
    logs.append(
        "from-0",
        &["-k", "a", "-H", "h=1", "-z", "lz4"],
        &numbers(0..50),
    );
    logs.append("from-0", &["-k", "b"], &numbers(50..60));
    logs.init("l-0", &["--segment-size", "16KiB"]);
    let mut random = Random(seed());
    for format in [
        "lines", "nul", "json", "csv", "tsv", "hex", "base64", "frames", "batch",
    ] {
        let read = run(logs.root(), &["cat", "-F", format, "from-0"], b"");
        assert_eq!((read.code, read.err.as_str()), (Some(0), ""), "{format}");
        for _ in 0..12 {
            let mut input = read.out.clone();
            for _ in 0..1 + random.below(4) {
                let at = random.below(input.len());
                match random.below(4) {
                    0 => input[at] ^= 1 << random.below(8),
                    1 => input[at] = *random.pick(&[0, 0x7f, 0x80, 0xff, b'"', b'\n', b'{']),
                    2 => input.truncate(at.max(1)),
                    _ => {
                        let tail = input[at..].to_vec();
                        input.extend_from_slice(&tail);
                    }
                }
            }
            let ended = run(logs.root(), &["append", "-F", format, "l-0"], &input);
            assert_eq!(ended.complaint(PEAK_KIB), None, "{format}");
            assert!(matches!(ended.code, Some(0 | 65)), "{format}: {ended:?}");
            let named = ended.err.contains("stdin:") || ended.err.contains("byte");
            assert!(ended.code == Some(0) || named, "{format}: {ended:?}");
        }
    }
    let whole = run(logs.root(), &["cat", "l-0"], b"");
    assert_eq!((whole.code, whole.err.contains("byte")), (Some(0), false));
}
