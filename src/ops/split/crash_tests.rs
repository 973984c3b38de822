//! Splits and merges crashed, failed and starved of room at every mutating call, on the test disk: the
//! source stays as it is, no half-made log can be taken for a whole one, and the next run comes to an
//! end.

use super::*;
use crate::format::builder::{BatchBuilder, Chunk, Seal};
use crate::format::record::NewRecord;
use crate::log::isolation::Isolation;
use crate::log::writer::{Writer, WriterOptions};
use crate::ops::merge::{ToOptions, write};
use crate::ops::settings::{Document, Words};
use crate::ops::topic;
use crate::ops::words::Range as Wanted;
use crate::sys::sim::{Fault, Policy, SimHost};

const ROLL: RollLimits = RollLimits {
    segment_bytes: 330,
    segment_age_ms: None,
};
const SOURCE: [&str; 2] = ["/d/in-0", "/d/in-1"];

/// Two partitions of nine records in batches of three, several segments each; a broker was there and
/// closed cleanly. All is durable.
fn machine() -> SimHost {
    let machine = SimHost::new();
    machine.make_dir(Path::new("/d")).unwrap();
    let host: Arc<dyn Host> = Arc::new(machine.process());
    let parent = host.open_dir(Path::new("/d")).unwrap();
    for (number, log) in SOURCE.into_iter().enumerate() {
        machine.make_dir(Path::new(log)).unwrap();
        let options = WriterOptions {
            wait: None,
            allow_network_fs: false,
            zero_fill: false,
            roll: ROLL,
            command: "test".to_string(),
        };
        let mut writer = Writer::open(&host, Path::new(log), options).unwrap();
        for batch in 0..3 {
            let mut builder = BatchBuilder::begin(Vec::new());
            for n in 3 * batch..3 * batch + 3 {
                let (key, value) = (format!("k{}", n % 4), format!("{number}: value {n}"));
                let record = NewRecord {
                    key: Some(key.as_bytes()),
                    value: Some(value.as_bytes()),
                    headers: &[],
                };
                builder.push(TimestampMs(1_700_000_000_000 + n), &record);
            }
            let (bytes, sealed) = builder.seal(&Seal::default());
            let batches = vec![sealed];
            let mut hold = writer.hold().unwrap();
            let done = hold.append(&mut Chunk { bytes, batches }, true);
            assert!(done.error.is_none());
            hold.release().unwrap();
        }
        writer.syncer().sync_to(Offset(9)).unwrap();
        writer.close().unwrap();
    }
    parent.create(".kafka_cleanshutdown").unwrap();
    parent.sync().unwrap();
    machine.power_cut(0, Policy::KeepAll)
}

/// Path and bytes of every file below a directory.
fn tree(machine: &SimHost, path: &str) -> Vec<(String, Vec<u8>)> {
    let dir = machine.process().open_dir(Path::new(path)).unwrap();
    let mut out = Vec::new();
    for name in dir.list().unwrap() {
        let inner = format!("{path}/{name}");
        match dir.stat(&name).unwrap() {
            Some(m) if m.is_dir => out.extend(tree(machine, &inner)),
            _ => out.push((inner.clone(), machine.read_file(&inner).unwrap())),
        }
    }
    out.sort();
    out
}

/// One of the ways to make logs.
#[derive(Clone, Copy, Debug)]
enum Work {
    Partitions,
    Records,
    By,
    Merge,
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

fn run(machine: &SimHost, work: Work, durable: bool) -> Result<usize> {
    let host: Arc<dyn Host> = Arc::new(machine.process());
    let partitions = SOURCE.map(|s| Partition::at(Path::new(s)));
    let config = || Document::from(Words::default()).render();
    let mode = match work {
        Work::Partitions => Mode::Partitions(NonZeroU32::new(3).unwrap()),
        Work::Records => Mode::Records(6),
        Work::By => Mode::By(Field::parse("key").unwrap()),
        Work::Merge => {
            let to = ToOptions {
                dest: Path::new("/d/out"),
                roll: ROLL,
                config: config(),
                durable,
                allow_network_fs: false,
            };
            let read = read_all();
            let made = write(
                &host,
                &partitions,
                Order::Time,
                &read,
                &to,
                &|| false,
                &mut |_| (),
            )?;
            return Ok(usize::from(made.is_some()));
        }
    };
    let options = SplitOptions {
        mode,
        read: read_all(),
        renumber: false,
        max_parts: 100,
        durable,
        allow_network_fs: false,
    };
    let settings = |_: &Partition| {
        Ok(Settings {
            roll: ROLL,
            config: config(),
        })
    };
    let mut hooks = Hooks {
        stop: &|| false,
        note: &mut |_| (),
    };
    let dest = Path::new("/d/out");
    let made = split(&host, &partitions, dest, &options, &settings, &mut hooks)?;
    Ok(made.map_or(0, |m| m.len()))
}

/// All records of a partition, as text; an error is text too.
fn records(machine: &SimHost, partition: &Partition) -> Vec<String> {
    let host: Arc<dyn Host> = Arc::new(machine.process());
    let read = || -> Result<Vec<String>> {
        let mut mixer = merge_input(&host, partition)?;
        let mut out = Vec::new();
        while let Some(run) = mixer.next_run() {
            let laid = mixer.laid(run.log).unwrap();
            let plain = laid.plain().unwrap();
            for place in &laid.places[run.from..run.to] {
                let r = plain.record_at(place.position as usize).unwrap();
                let text =
                    |b: Option<&[u8]>| String::from_utf8_lossy(b.unwrap_or(b"-")).into_owned();
                out.push(format!(
                    "{} {} {}",
                    place.offset,
                    text(r.key),
                    text(r.value)
                ));
            }
            mixer.took(&run, &mut |_| ())?;
        }
        Ok(out)
    };
    read().unwrap_or_else(|e| vec![e.to_string()])
}

fn merge_input(host: &Arc<dyn Host>, partition: &Partition) -> Result<Mixer> {
    let partitions = std::slice::from_ref(partition);
    Mixer::open(host, partitions, Order::Offset, &read_all(), &mut |_| ())
}

/// Every topic that was made, with the records of each partition. A topic that is refused as half made
/// is named, too.
type Seen = Vec<(
    String,
    std::result::Result<Vec<(i32, Vec<String>)>, ErrorKind>,
)>;

fn seen(machine: &SimHost) -> Seen {
    let host = machine.process();
    let dir = host.open_dir(Path::new("/d")).unwrap();
    let topics = topic::partitions_in(dir.as_ref()).unwrap();
    let mut topics: Vec<String> = topics.into_iter().map(|t| t.0).collect();
    topics.retain(|t| t != "in" && !t.ends_with(".unfinished"));
    topics.sort();
    topics.dedup();
    let of = |topic: String| {
        let found = topic::find(&host, &Path::new("/d").join(&topic));
        let found = found.map_err(|e| e.kind());
        let read = |p: &Partition| (p.number, records(machine, p));
        (topic, found.map(|all| all.iter().map(read).collect()))
    };
    topics.into_iter().map(of).collect()
}

struct Case {
    work: Work,
    source: Vec<(String, Vec<u8>)>,
    whole: Seen,
}

impl Case {
    fn new(work: Work) -> Case {
        let machine = machine();
        let source = SOURCE.iter().flat_map(|s| tree(&machine, s)).collect();
        assert!(run(&machine, work, true).unwrap() > 0);
        let whole = seen(&machine);
        let records = whole.iter().flat_map(|(_, found)| found.as_ref().unwrap());
        assert_eq!(records.map(|p| p.1.len()).sum::<usize>(), 18);
        assert!(!left(&machine));
        Case {
            work,
            source,
            whole,
        }
    }

    /// What holds at any moment.
    fn check(&self, machine: &SimHost, what: &str) {
        let source: Vec<_> = SOURCE.iter().flat_map(|s| tree(machine, s)).collect();
        let changed = source.iter().zip(&self.source).find(|(a, b)| a != b);
        let is_as_it_was = source.len() == self.source.len() && changed.is_none();
        assert!(
            is_as_it_was,
            "{what}: the source: {:?}",
            changed.map(|c| &c.0.0)
        );
        for (topic, found) in seen(machine) {
            let Ok(found) = found else { continue };
            let whole = self.whole.iter().find(|w| w.0 == topic);
            let whole = whole.unwrap_or_else(|| panic!("{what}: {topic} is none of the parts"));
            assert_eq!(Ok(found), whole.1, "{what}: {topic} looks whole");
        }
    }

    /// The next run makes everything, or finds that all is there.
    fn again(&self, machine: &SimHost, what: &str) {
        match run(machine, self.work, true) {
            Ok(n) => assert!(n > 0, "{what}"),
            Err(e) => assert_eq!(e.kind(), ErrorKind::CannotCreate, "{what}: {e}"),
        }
        assert_eq!(seen(machine), self.whole, "{what}: after the next run");
        assert!(!left(machine), "{what}: after the next run");
    }
}

/// Whether the directory is there that logs are built in.
fn left(machine: &SimHost) -> bool {
    let dir = machine.process().open_dir(Path::new("/d")).unwrap();
    dir.stat("out.unfinished-0").unwrap().is_some()
}

fn sweep(fault: Fault, durable: bool) {
    for work in [Work::Partitions, Work::Records, Work::By, Work::Merge] {
        let case = Case::new(work);
        let clean = machine();
        let before = clean.calls();
        run(&clean, work, durable).unwrap();
        let calls = clean.calls() - before;
        assert!(calls > 20, "{calls}");
        for n in 1..=calls {
            let host = machine();
            host.fail_at(host.calls() + n, fault);
            let done = run(&host, work, durable);
            let what = format!("{work:?}, {fault:?} at call {n}: {:?}", host.trace().last());
            for policy in [Policy::KeepNothing, Policy::KeepAll, Policy::Random] {
                if durable || policy == Policy::KeepAll {
                    let cut = host.power_cut(n, policy);
                    let what = format!("{what}, then {policy:?}");
                    case.check(&cut, &what);
                    case.again(&cut, &what);
                }
            }
            host.free();
            let killed = host.kill();
            case.check(&killed, &what);
            if done.is_ok() {
                // Such as a lock file that could not be removed: everything has its name all the same.
                assert_eq!(seen(&killed), case.whole, "{what}");
            } else if !left(&killed) {
                let seen = seen(&killed);
                assert!(seen.is_empty() || seen == case.whole, "{what}: {seen:?}");
            }
            case.again(&killed, &what);
        }
    }
}

#[test]
fn a_crash_at_any_call_leaves_nothing_that_looks_whole() {
    sweep(Fault::Crash, true);
    sweep(Fault::Crash, false);
}

#[test]
fn an_error_at_any_call_leaves_nothing_that_looks_whole() {
    sweep(Fault::Errno(nix::libc::EIO), true);
}

#[test]
fn a_full_disk_at_any_call_leaves_nothing_that_looks_whole() {
    sweep(Fault::Full, true);
}

#[test]
fn a_broker_checks_what_was_made_beside_its_logs() {
    for work in [Work::Partitions, Work::Records, Work::Merge] {
        let machine = machine();
        let dir = machine.process().open_dir(Path::new("/d")).unwrap();
        let mark = || dir.stat(".kafka_cleanshutdown").unwrap();
        assert!(mark().is_some());
        run(&machine, work, true).unwrap();
        assert!(mark().is_none(), "{work:?}");
    }
    // What is refused changes nothing.
    let machine = machine();
    let dir = machine.process().open_dir(Path::new("/d")).unwrap();
    dir.make_dir("out-0").unwrap();
    assert!(run(&machine, Work::Merge, true).is_err());
    assert!(dir.stat(".kafka_cleanshutdown").unwrap().is_some());
    // And beside a broker that runs, nothing is made.
    dir.remove_dir("out-0").unwrap();
    dir.create(".lock").unwrap();
    assert!(machine.set_broker_lock("/d/.lock", true).unwrap());
    let refused = run(&machine, Work::Merge, true).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Locked);
    assert!(seen(&machine).is_empty() && !left(&machine));
}
