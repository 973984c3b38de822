//! Logs of every kind of batch, split in every mode and put together again.

use super::*;
use crate::log::copy::tests::{Kind, Plan, build, plans, source};
use crate::log::isolation::Isolation;
use crate::log::testing::TestLog;
use crate::ops::merge::{ToOptions, write};
use crate::ops::settings::{Document, Words};
use crate::ops::throttle::Throttle;
use crate::ops::verify::{self, Severity, verify};
use crate::ops::words::Range as Wanted;
use crate::sys::RealHost;
use proptest::prelude::*;

/// All of a record: offset, time, key, value, headers.
type Whole = (
    i64,
    i64,
    Option<Vec<u8>>,
    Option<Vec<u8>>,
    Vec<(Vec<u8>, Option<Vec<u8>>)>,
);

fn host() -> Arc<dyn Host> {
    Arc::new(RealHost)
}

fn read_all() -> CatOptions {
    CatOptions {
        range: Wanted::ALL,
        clamp: false,
        isolation: Isolation::Committed,
        durable: false,
        skip_corrupt: false,
        reverse: false,
        limits: Limits::default(),
    }
}

fn roll() -> RollLimits {
    RollLimits {
        segment_bytes: 30_000,
        segment_age_ms: None,
    }
}

/// What `cat` shows of a partition.
fn records(partition: &Path) -> Vec<Whole> {
    let view = View::of(LogDir::open(&RealHost, partition).unwrap()).unwrap();
    let options = ReadOptions {
        limits: Limits::default(),
        skip_corrupt: false,
    };
    let all = Offset::ZERO..Offset::MAX;
    let mut feed = Feed::new(host(), view, all, Isolation::Committed, options).unwrap();
    let (mut scratch, mut open, mut out) = (Scratch::new(), Vec::new(), Vec::new());
    loop {
        match feed.advance().unwrap() {
            Advance::Batch => {}
            Advance::Gone(_) => continue, // what lies before the log start
            Advance::End | Advance::Damage(_) => return out,
        }
        let piece = feed.piece().unwrap();
        let limits = Limits::default();
        let plain = Plain::open(&piece.batch, &mut scratch, &limits, &mut open).unwrap();
        for record in plain.records() {
            let r = record.unwrap();
            let bytes = |b: Option<&[u8]>| b.map(<[u8]>::to_vec);
            let headers = r.headers.iter().map(|(n, v)| (n.to_vec(), bytes(v)));
            let (key, value) = (bytes(r.key), bytes(r.value));
            out.push((r.offset.0, r.timestamp.0, key, value, headers.collect()));
        }
    }
}

/// The log of `plans`, with a producer snapshot if there are producers, as every writer leaves it.
fn log_of(plans: &[Plan], start: i64) -> TestLog {
    let segments = build(plans, start);
    let log = source(&segments);
    let plain = |p: &Plan| matches!(p.kind, Kind::Plain(_) | Kind::Empty | Kind::Legacy(..));
    if let Some((base, _)) = segments.last().filter(|_| !plans.iter().all(plain)) {
        log.file(&format!("{base:020}.snapshot"), b"");
    }
    log
}

fn split_into(parent: &Path, mode: Mode, renumber: bool) -> Vec<PathBuf> {
    let options = SplitOptions {
        mode,
        read: read_all(),
        renumber,
        max_parts: 100_000,
        durable: false,
        allow_network_fs: true,
    };
    let settings = |_: &Partition| {
        Ok(Settings {
            roll: roll(),
            config: Document::from(Words::default()).render(),
        })
    };
    let mut hooks = Hooks {
        stop: &|| false,
        note: &mut |_| (),
    };
    let partitions = [Partition::at(&parent.join("src-0"))];
    let dest = parent.join("out");
    let made = split(&host(), &partitions, &dest, &options, &settings, &mut hooks);
    made.unwrap().unwrap().into_iter().map(|m| m.path).collect()
}

fn merge_into(dest: &Path, parts: &[PathBuf]) {
    let partitions: Vec<Partition> = parts.iter().map(|p| Partition::at(p)).collect();
    let to = ToOptions {
        dest,
        roll: roll(),
        config: Document::from(Words::default()).render(),
        durable: false,
        allow_network_fs: true,
    };
    let (read, by) = (read_all(), Order::Offset);
    let made = write(&host(), &partitions, by, &read, &to, &|| false, &mut |_| ());
    made.unwrap().unwrap();
}

/// What verify has against a partition.
fn problems(path: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut tell = |f: &verify::Finding| {
        found.extend((f.severity == Severity::Problem).then(|| format!("{f:?}")));
        Ok(())
    };
    let (partition, throttle) = (Partition::at(path), Throttle::new(None));
    let options = verify::Options::default();
    let done = verify(
        &RealHost,
        &partition,
        &options,
        &throttle,
        &mut tell,
        &mut |_, _| (),
    );
    done.unwrap();
    found
}

fn modes() -> impl Strategy<Value = Mode> {
    prop_oneof![
        (1..60u64).prop_map(Mode::Records),
        (1..40_000u64).prop_map(Mode::Size),
        Just(Mode::At(Vec::new())), // places are taken from the records
        (1..50_000i64).prop_map(Mode::Every),
        Just(Mode::By(Field::parse("key").unwrap())),
        Just(Mode::By(Field::parse("value").unwrap())),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn parts_are_sound_and_together_the_original(
        plans in plans(25), start in 0i64..50, mode in modes(), renumber: bool,
    ) {
        let log = log_of(&plans, start);
        let (original, parent) = (records(&log.path()), log.parent());
        // A part must not begin outside the log, nor have the name of another.
        let mode = match mode {
            Mode::At(_) => Mode::At(original.iter().step_by(9).map(|r| Pos::Offset(r.0)).collect()),
            Mode::By(Field::Value) => Mode::By(Field::parse("header:h").unwrap()),
            mode => mode,
        };
        let parts = split_into(parent, mode.clone(), renumber);
        let mut together: Vec<Whole> = Vec::new();
        for part in &parts {
            prop_assert_eq!(problems(part), Vec::<String>::new(), "{:?}", part);
            let own = records(part);
            if renumber {
                prop_assert!(own.iter().map(|r| r.0).eq(0..own.len() as i64));
            }
            match &mode {
                Mode::Records(n) => prop_assert!(own.len() as u64 <= *n),
                Mode::Every(ms) => {
                    let period = |r: &Whole| r.1.div_euclid(*ms);
                    prop_assert!(own.windows(2).all(|w| period(&w[0]) == period(&w[1])));
                }
                Mode::By(Field::Key) => prop_assert!(own.windows(2).all(|w| w[0].2 == w[1].2)),
                _ => {}
            }
            together.extend(own);
        }
        if renumber {
            // Who was where is gone; the records are not, and each part has them in the old order.
            let bare = |all: &[Whole]| {
                let mut bare: Vec<_> = all.iter().map(|r| (r.1, r.2.clone(), r.3.clone())).collect();
                bare.sort();
                bare
            };
            prop_assert_eq!(bare(&together), bare(&original));
        } else {
            together.sort_by_key(|r| r.0);
            prop_assert_eq!(&together, &original);
            let again = parent.join("again-0");
            merge_into(&again, &parts);
            prop_assert_eq!(problems(&again), Vec::<String>::new());
            prop_assert_eq!(records(&again), original);
        }
    }

    #[test]
    fn keys_land_where_they_belong_in_their_order(plans in plans(25), n in 1u32..9) {
        let log = log_of(&plans, 0);
        let n = NonZeroU32::new(n).unwrap();
        let original = records(&log.path());
        let parts = split_into(log.parent(), Mode::Partitions(n), false);
        prop_assert_eq!(parts.len(), n.get() as usize);
        let mut count = 0;
        for (number, part) in parts.iter().enumerate() {
            prop_assert_eq!(problems(part), Vec::<String>::new());
            let own = records(part);
            count += own.len();
            prop_assert!(own.iter().map(|r| r.0).eq(0..own.len() as i64));
            let keyed = |r: &&Whole| r.2.is_some();
            let place = |r: &Whole| partitioner::java(r.2.as_deref().unwrap_or_default(), n);
            prop_assert!(own.iter().filter(keyed).all(|r| place(r) as usize == number));
            // One source: the order of its records is kept, whatever their times.
            let values = |all: &[Whole]| -> Vec<_> {
                let here = all.iter().filter(keyed).filter(|r| place(r) as usize == number);
                here.map(|r| (r.1, r.3.clone())).collect()
            };
            prop_assert_eq!(values(&own), values(&original));
        }
        prop_assert_eq!(count, original.len());
    }
}
