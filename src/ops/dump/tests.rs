use super::*;
use crate::corpus;
use crate::format::builder::{BatchBuilder, Seal, stamp};
use crate::format::record::NewRecord;
use crate::ops::words::Now;
use crate::sys::RealHost;
use proptest::prelude::*;

/// A batch of two records from offset `base` on.
fn batch(base: i64) -> Vec<u8> {
    let mut builder = BatchBuilder::begin(Vec::new());
    for value in ["one", "two"] {
        let record = NewRecord {
            value: Some(value.as_bytes()),
            ..NewRecord::default()
        };
        builder.push(TimestampMs(1_700_000_000_000), &record);
    }
    let (mut bytes, _) = builder.seal(&Seal::default());
    stamp(&mut bytes, Offset(base), 0);
    bytes
}

/// Four batches: offsets 0 to 7.
fn four() -> (Vec<u8>, usize) {
    let bytes: Vec<u8> = [0, 2, 4, 6].into_iter().flat_map(batch).collect();
    let size = bytes.len() / 4;
    (bytes, size)
}

/// What a `.log` of `bytes` dumps to, in short.
fn shown(bytes: &[u8], options: &Options) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("00000000000000000000.log");
    std::fs::write(&path, bytes).unwrap();
    let mut out = Vec::new();
    let summary = dump(&RealHost, &path, options, &mut |item| {
        out.push(match item {
            Item::Batch { header, valid, .. } => {
                format!("batch {} {valid}", header.base_offset)
            }
            Item::Record(r) => format!("record {}", r.record.offset),
            Item::Tail {
                position,
                bytes,
                zeros,
            } => format!("tail {position} {bytes} {zeros}"),
            Item::Damage {
                position, skipped, ..
            } => format!("damage {position} {skipped}"),
            _ => return Ok(()),
        });
        Ok(())
    });
    let damages = out.iter().filter(|l| l.starts_with("damage")).count();
    assert_eq!(summary.unwrap().damages, damages as u64);
    out
}

fn batches_only() -> Options {
    Options {
        records: false,
        ..Options::default()
    }
}

#[test]
fn dump_goes_past_a_flipped_bit() {
    let (mut bytes, size) = four();
    bytes[size + 70] ^= 1;
    let want = [
        "batch 0 true".to_string(),
        "batch 2 false".to_string(),
        format!("damage {} 0", size + 17),
        "batch 4 true".to_string(),
        "batch 6 true".to_string(),
    ];
    assert_eq!(shown(&bytes, &batches_only()), want);
    let all = shown(&bytes, &Options::default());
    let records: Vec<_> = all.iter().filter(|l| l.starts_with("record")).collect();
    assert_eq!(
        records.len(),
        6,
        "records of a wrong checksum are not shown"
    );
}

#[test]
fn dump_goes_past_two_flipped_bits_in_a_row() {
    let (mut bytes, size) = four();
    bytes[size + 70] ^= 1;
    bytes[2 * size + 70] ^= 1;
    let lines = shown(&bytes, &batches_only());
    let batches: Vec<_> = lines.iter().filter(|l| l.starts_with("batch")).collect();
    assert_eq!(
        batches,
        [
            "batch 0 true",
            "batch 2 false",
            "batch 4 false",
            "batch 6 true"
        ]
    );
}

#[test]
fn dump_goes_past_lengths_that_lead_nowhere() {
    for length in [0i32, -1, 13, 48, 60, i32::MAX, 90] {
        let (mut bytes, size) = four();
        bytes[size + 8..size + 12].copy_from_slice(&length.to_be_bytes());
        let lines = shown(&bytes, &batches_only());
        assert_eq!(lines[0], "batch 0 true", "{length}");
        assert_eq!(
            lines[lines.len() - 2..],
            ["batch 4 true", "batch 6 true"],
            "{length}"
        );
        assert!(lines.iter().any(|l| l.starts_with("damage")), "{length}");
    }
}

#[test]
fn zeros_and_a_batch_cut_short_at_the_end_are_no_damage() {
    let (mut bytes, size) = four();
    let len = bytes.len();
    bytes.extend([0; 5000]);
    assert_eq!(
        shown(&bytes, &batches_only())[4],
        format!("tail {len} 5000 true")
    );
    for cut in 1..size {
        let lines = shown(&bytes[..len - cut], &batches_only());
        // Offset 6 begins with seven bytes of zero.
        let (left, zeros) = (size - cut, size - cut <= 7);
        let want = format!("tail {} {left} {zeros}", 3 * size);
        assert_eq!(lines[3..], [want], "{cut}");
    }
}

#[test]
fn offsets_that_go_back_are_damage_and_shown() {
    let bytes: Vec<u8> = [0, 2, 1].into_iter().flat_map(batch).collect();
    let lines = shown(&bytes, &batches_only());
    let at = 2 * bytes.len() / 3;
    assert_eq!(
        lines[2..],
        ["batch 1 true".to_string(), format!("damage {at} 0")]
    );
}

#[test]
fn a_range_shows_what_it_meets() {
    let now = Now::new(TimestampMs(0));
    let ranged = |word: &str| {
        let options = Options {
            range: Some(words::Range::parse(word, &now).unwrap()),
            ..Options::default()
        };
        shown(&four().0, &options)
    };
    let middle = ["batch 2 true", "record 3", "batch 4 true", "record 4"];
    assert_eq!(ranged("3..5"), middle);
    assert_eq!(ranged("end-5..end-3"), middle);
    assert_eq!(ranged("earliest+3..earliest+5"), middle);
    assert_eq!(ranged("7"), ["batch 6 true", "record 7"]);
    assert_eq!(ranged("@1700000000000ms").len(), 12);
    assert!(ranged("@1700000000001ms").is_empty());
}

#[test]
fn a_file_of_pretenders_ends() {
    // Headers that each announce the rest of the file, as close as they can stand.
    let len = 4 << 20;
    let mut bytes = Vec::new();
    while bytes.len() < len {
        let mut head = batch(0)[..61].to_vec();
        let claim = i32::try_from(len - bytes.len()).unwrap() - 100;
        head[8..12].copy_from_slice(&claim.max(49).to_be_bytes());
        bytes.extend(head);
    }
    let began = std::time::Instant::now();
    assert!(!shown(&bytes, &batches_only()).is_empty());
    assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
}

#[test]
fn undamaged_logs_show_no_damage() {
    let Some(root) = corpus::root() else { return };
    let mut logs = 0;
    for part in ["broker", "public", "unclean"] {
        for path in corpus::files(&root.join(part)) {
            if corpus::name(&path) != "dump-log.txt" {
                continue;
            }
            let dir = path.parent().unwrap();
            let sink = &mut |item: Item<'_>| {
                if let Item::Damage { .. } = item {
                    panic!("{}: {item:?}", dir.display());
                }
                Ok(())
            };
            dump(&RealHost, dir, &Options::default(), sink).unwrap();
            logs += 1;
        }
    }
    assert!(logs > 100, "{logs}");
}

#[test]
fn damaged_logs_show_their_damage() {
    let Some(root) = corpus::root() else { return };
    for name in [
        "badindex",
        "flip-first",
        "flip-last",
        "flip-midseg",
        "garbage",
        "len-huge",
        "len-zero",
        "offset-back",
        "count-lie",
        "trunc-16",
        "trunc-body",
        "trunc-header",
        "txn-badsnap",
        "v1-flip",
        "strays",
    ] {
        let dir = root.join("crash").join(name).join("before");
        let mut seen = Vec::new();
        let summary = dump(&RealHost, &dir, &Options::default(), &mut |item| {
            if matches!(item, Item::Damage { .. } | Item::Tail { zeros: false, .. }) {
                seen.push(format!("{item:?}"));
            }
            Ok(())
        });
        let damages = summary.unwrap().damages;
        assert!(damages > 0 || name == "trunc-body", "{name}: {seen:?}");
        assert!(!seen.is_empty(), "{name}");
    }
}

#[test]
fn topics_are_their_partitions_and_other_names_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (partition, base) in [("t-10", 8), ("t-2", 4), ("t-x-0", 0)] {
        std::fs::create_dir(dir.path().join(partition)).unwrap();
        let name = names::file_name(Offset(0), Kind::Log);
        std::fs::write(dir.path().join(partition).join(name), batch(base)).unwrap();
    }
    let mut bases = Vec::new();
    let mut run = |path: &Path| {
        dump(&RealHost, path, &batches_only(), &mut |item| {
            if let Item::Batch { header, .. } = item {
                bases.push(header.base_offset.0);
            }
            Ok(())
        })
    };
    run(&dir.path().join("t")).unwrap();
    let missing = run(&dir.path().join("u")).unwrap_err();
    std::fs::write(dir.path().join("notes.txt"), b"x").unwrap();
    let other = run(&dir.path().join("notes.txt")).unwrap_err();
    assert_eq!(bases, [4, 8]);
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert_eq!(other.what(), "not a file of a log");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_bytes_are_dumped(
        flips in prop::collection::vec((0usize..10_000, any::<u8>()), 0..6),
        tail in prop::collection::vec(any::<u8>(), 0..80),
        cut in 0usize..10_000,
    ) {
        let (mut bytes, _) = four();
        bytes.extend(&tail);
        for (at, b) in flips {
            let at = at % bytes.len();
            bytes[at] = b;
        }
        bytes.truncate(bytes.len() - cut % bytes.len());
        let as_kafka = Options { as_kafka: true, ..Options::default() };
        let _ = (shown(&bytes, &Options::default()), shown(&bytes, &as_kafka));
    }

    #[test]
    fn any_bytes_beside_a_log_are_dumped(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("00000000000000000000.log"), four().0).unwrap();
        for kind in [Kind::OffsetIndex, Kind::TimeIndex, Kind::TxnIndex, Kind::Snapshot] {
            std::fs::write(dir.path().join(names::file_name(Offset(0), kind)), &bytes).unwrap();
        }
        std::fs::write(dir.path().join(names::LEADER_EPOCH_CHECKPOINT), &bytes).unwrap();
        for as_kafka in [false, true] {
            let options = Options { as_kafka, ..Options::default() };
            dump(&RealHost, dir.path(), &options, &mut |_| Ok(())).unwrap();
        }
    }
}
