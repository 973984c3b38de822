//! Repair crashed, failed and starved of room at every mutating call, on the test disk: the next repair
//! succeeds, every intact batch is still there, verify is content.

use super::*;
use crate::format::TimestampMs;
use crate::format::batch::Batch;
use crate::format::builder::{BatchBuilder, Chunk, Seal};
use crate::format::frame::{Frame, frame};
use crate::format::names::{Kind, file_name};
use crate::format::record::NewRecord;
use crate::log::writer::{Writer, WriterOptions};
use crate::ops::throttle::Throttle;
use crate::ops::verify::{self, Severity, verify};
use crate::segment::active::RollLimits;
use crate::sys::sim::{Fault, Policy, SimHost};
use std::path::Path;

const LOG: &str = "/d/x-0";

/// Twelve batches of two records, four to a segment: bases 0, 8, 16. Everything is durable.
fn machine() -> SimHost {
    let machine = SimHost::new();
    machine.make_dir(Path::new("/d")).unwrap();
    machine.make_dir(Path::new(LOG)).unwrap();
    let host: Arc<dyn Host> = Arc::new(machine.process());
    let options = WriterOptions {
        wait: None,
        allow_network_fs: false,
        zero_fill: false,
        roll: RollLimits {
            segment_bytes: 480,
            segment_age_ms: None,
        },
        command: "test".to_string(),
    };
    let mut writer = Writer::open(&host, Path::new(LOG), options).unwrap();
    for i in 0..12 {
        let mut builder = BatchBuilder::begin(Vec::new());
        for n in [2 * i, 2 * i + 1] {
            let value = format!("value of offset {n:02}");
            let record = NewRecord {
                key: None,
                value: Some(value.as_bytes()),
                headers: &[],
            };
            builder.push(TimestampMs(1_700_000_000_000 + n), &record);
        }
        let (bytes, sealed) = builder.seal(&Seal::default());
        let batches = vec![sealed];
        let mut hold = writer.hold().unwrap();
        assert!(
            hold.append(&mut Chunk { bytes, batches }, true)
                .error
                .is_none()
        );
        hold.release().unwrap();
    }
    writer.syncer().sync_to(Offset(24)).unwrap();
    writer.close().unwrap();
    machine
}

fn path(base: i64) -> String {
    format!("{LOG}/{}", file_name(Offset(base), Kind::Log))
}

fn flip(machine: &SimHost, base: i64, at: usize) {
    machine.edit(path(base), |b| b[at] ^= 4).unwrap();
}

type Harm = (&'static str, fn(&SimHost));

fn harms() -> Vec<Harm> {
    vec![
        ("damage in a sealed segment", |m| flip(m, 8, 160)),
        ("damage in the active segment", |m| flip(m, 16, 160)),
        ("damage everywhere", |m| {
            [0, 8, 16].into_iter().for_each(|b| flip(m, b, 80))
        }),
        ("a cut below D", |m| {
            m.edit(path(16), |b| b.truncate(150)).unwrap()
        }),
        ("segments swapped", |m| {
            let (a, b) = (m.read_file(path(0)).unwrap(), m.read_file(path(8)).unwrap());
            m.edit(path(0), |f| *f = b).unwrap();
            m.edit(path(8), |f| *f = a).unwrap();
        }),
        ("an index that lies", |m| {
            let index = format!("{LOG}/{}", file_name(Offset(8), Kind::TimeIndex));
            m.edit(index, |b| b.fill(7)).unwrap();
        }),
        ("a failed sync with a hole", |m| {
            let host = m.process();
            let logd = host
                .open_dir(Path::new(LOG))
                .unwrap()
                .open_dir(".logd")
                .unwrap();
            logd.create("failed").unwrap().sync().unwrap();
            logd.sync().unwrap();
            flip(m, 16, 160);
        }),
    ]
}

/// Every whole batch, as readers see them.
fn batches(host: &dyn Host) -> Vec<Vec<u8>> {
    let log = LogDir::open(host, Path::new(LOG)).unwrap();
    let mut out = Vec::new();
    for segment in log.segments().unwrap() {
        let file = log.open_file(&segment.log_name()).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_full_at(&mut bytes, 0).unwrap();
        let mut rest = bytes.as_slice();
        while let Frame::Entry(size) = frame(rest, &Limits::default()) {
            let (batch, after) = rest.split_at(size);
            if Batch::check(batch).is_err() {
                break;
            }
            out.push(batch.to_vec());
            rest = after;
        }
    }
    out
}

fn run(machine: &SimHost) -> Result<Report> {
    let host: Arc<dyn Host> = Arc::new(machine.process());
    repair(&host, &Partition::at(Path::new(LOG)), &Options::default())
}

fn check(machine: &SimHost, intact: &[Vec<u8>], what: &str) {
    let report =
        run(machine).unwrap_or_else(|e| panic!("{what}: {e}\n{}", machine.trace().join("\n")));
    let list = format!("{LOG}/.logd/lost+found/list.ndjson");
    let list = machine.read_file(list).unwrap_or_default();
    let entries = list.split(|b| *b == b'\n').filter(|l| !l.is_empty());
    let places = entries.map(|line| {
        let entry: serde_json::Value = serde_json::from_slice(line).unwrap();
        let kept = format!("{LOG}/.logd/lost+found/{}", entry["file"].as_str().unwrap());
        let kept = machine.read_file(&kept);
        let kept = kept.unwrap_or_else(|_| panic!("{what}: listed, but not there: {entry}"));
        assert_eq!(kept.len() as u64, entry["bytes"], "{what}: {entry}");
        (entry["segment"].as_i64(), entry["position"].as_u64(), kept)
    });
    let places: Vec<_> = places.collect();
    for (i, place) in places.iter().enumerate() {
        let again = places[..i].contains(place);
        assert!(!again, "{what}: kept twice: {:?}", (place.0, place.1));
    }
    let there = batches(machine);
    for batch in intact {
        let base = Batch::check(batch).unwrap().header().base_offset;
        assert!(
            there.contains(batch),
            "{what}: batch {base} is lost\n{report:#?}"
        );
    }
    let mut found = Vec::new();
    let (partition, throttle) = (Partition::at(Path::new(LOG)), Throttle::new(None));
    let mut tell = |f: &verify::Finding| {
        found.extend((f.severity == Severity::Problem).then(|| format!("{f:?}")));
        Ok(())
    };
    verify(
        machine,
        &partition,
        &verify::Options::default(),
        &throttle,
        &mut tell,
        &mut |_, _| (),
    )
    .unwrap();
    assert!(found.is_empty(), "{what}: {found:#?}\n{report:#?}");
    assert_eq!(run(machine).unwrap(), Report::default(), "{what}: again");
}

fn sweep(fault: Fault) {
    for (harmed, harm) in harms() {
        let before = batches(&machine());
        let prepare = || {
            let machine = machine().power_cut(0, Policy::KeepAll);
            harm(&machine);
            machine
        };
        let clean = prepare();
        let files = [0, 8, 16].map(|b| clean.read_file(path(b)).unwrap());
        let anywhere = |b: &Vec<u8>| files.iter().any(|f| memchr::memmem::find(f, b).is_some());
        let intact: Vec<Vec<u8>> = before.into_iter().filter(anywhere).collect();
        let calls = clean.calls();
        run(&clean).unwrap();
        let calls = clean.calls() - calls;
        assert!(calls > 3, "{harmed}: {calls}");
        for n in 1..=calls {
            let host = prepare();
            host.fail_at(host.calls() + n, fault);
            let done = run(&host).is_ok();
            let what = format!("{harmed}, {fault:?} at call {n}: {:?}", host.trace().last());
            for seed in 0..3 {
                let policy = [Policy::KeepNothing, Policy::KeepAll, Policy::Random][seed as usize];
                let cut = host.power_cut(n * 100 + seed, policy);
                check(&cut, &intact, &format!("{what}, then {policy:?}"));
            }
            host.free();
            if !done {
                check(&host.kill(), &intact, &format!("{what}, then killed"));
            }
        }
    }
}

#[test]
fn repair_survives_a_crash_at_every_call() {
    sweep(Fault::Crash);
}

#[test]
fn repair_survives_an_io_error_at_every_call() {
    sweep(Fault::Errno(nix::libc::EIO));
}

#[test]
fn repair_survives_a_full_disk_at_every_call() {
    sweep(Fault::Full);
}
