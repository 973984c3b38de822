//! Mixing against a model: whatever the logs hold and however their writers take turns.

use super::*;
use crate::format::builder::{BatchBuilder, Chunk, Seal};
use crate::format::record::NewRecord;
use crate::log::isolation::Isolation;
use crate::log::writer::{Writer, WriterOptions};
use crate::ops::words::Range as Wanted;
use crate::segment::active::RollLimits;
use crate::sys::sim::SimHost;
use crate::sys::watch::Watch;
use proptest::prelude::*;
use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

const LOGS: usize = 3;

/// Time, partition, offset: what a record is known by.
type Id = (i64, i32, i64);

/// Three partitions, empty, each with its writer.
struct Bench {
    host: Arc<dyn Host>,
    writers: Vec<Writer>,
    ends: [i64; LOGS],
}

fn path(log: usize) -> String {
    format!("/x-{log}")
}

impl Bench {
    fn new() -> Bench {
        let machine = SimHost::new();
        let host: Arc<dyn Host> = Arc::new(machine.process());
        let open = |log| {
            machine.make_dir(Path::new(&path(log))).unwrap();
            let options = WriterOptions {
                wait: None,
                allow_network_fs: false,
                zero_fill: false,
                roll: RollLimits {
                    segment_bytes: 400,
                    segment_age_ms: None,
                },
                command: "test".to_string(),
            };
            Writer::open(&host, Path::new(&path(log)), options).unwrap()
        };
        let writers = (0..LOGS).map(open).collect();
        Bench {
            host,
            writers,
            ends: [0; LOGS],
        }
    }

    /// Appends a batch of records with these times.
    fn append(&mut self, log: usize, times: &[i64]) -> Vec<Id> {
        let mut builder = BatchBuilder::begin(Vec::new());
        let mut ids = Vec::new();
        for time in times {
            let record = NewRecord {
                key: None,
                value: Some(b"v"),
                headers: &[],
            };
            builder.push(TimestampMs(*time), &record);
            ids.push((*time, log as i32, self.ends[log]));
            self.ends[log] += 1;
        }
        let (bytes, sealed) = builder.seal(&Seal::default());
        let batches = vec![sealed];
        let mut hold = self.writers[log].hold().unwrap();
        let done = hold.append(&mut Chunk { bytes, batches }, true);
        assert!(done.error.is_none());
        hold.release().unwrap();
        ids
    }

    fn mixer(&self, order: Order) -> Mixer {
        let partitions: Vec<_> = (0..LOGS)
            .map(|log| Partition::at(Path::new(&path(log))))
            .collect();
        Mixer::open(&self.host, &partitions, order, &read_all(), &mut |_| ()).unwrap()
    }
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

fn ids(mixer: &Mixer, run: &Run) -> Vec<Id> {
    let number = mixer.partition(run.log).unwrap().number;
    let places = &mixer.laid(run.log).unwrap().places[run.from..run.to];
    let id = |p: &Place| (p.timestamp.0, number, p.offset.0);
    places.iter().map(id).collect()
}

fn take_all(mixer: &mut Mixer) -> Vec<Id> {
    let mut out = Vec::new();
    while let Some(run) = mixer.next_run() {
        out.extend(ids(mixer, &run));
        mixer.took(&run, &mut |_| ()).unwrap();
    }
    out
}

fn is_before(order: Order, a: &Id, b: &Id) -> bool {
    let key = |id: &Id| match order {
        Order::Time => (id.0, id.1, id.2),
        Order::Offset => (id.2, id.1, id.2),
    };
    key(a) < key(b)
}

/// The log whose first record comes next.
fn first(order: Order, queues: &[VecDeque<(Id, Instant)>]) -> Option<usize> {
    let heads = queues.iter().enumerate();
    let heads = heads.filter_map(|(log, q)| Some((log, q.front()?.0)));
    heads
        .reduce(|a, b| if is_before(order, &b.1, &a.1) { b } else { a })
        .map(|(log, _)| log)
}

/// What a mixer of logs that grow shows, by the rule itself.
fn model(
    order: Order,
    queues: &mut [VecDeque<(Id, Instant)>],
    lateness: Option<Duration>,
    now: Instant,
) -> Vec<Id> {
    let mut out = Vec::new();
    while let Some(log) = first(order, queues) {
        let all = queues.iter().all(|q| !q.is_empty());
        let waited = |(_, seen): &(Id, Instant)| lateness.is_some_and(|l| *seen + l <= now);
        if !all && !queues.iter().filter_map(VecDeque::front).any(waited) {
            break;
        }
        out.extend(queues[log].pop_front().map(|(id, _)| id));
    }
    out
}

/// Batches: which log, and the times of its records.
fn batches(most: usize) -> impl Strategy<Value = Vec<(usize, Vec<i64>)>> {
    let batch = (0..LOGS, prop::collection::vec(0..50i64, 1..4));
    prop::collection::vec(batch, 0..most)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_mix_is_the_stable_merge_of_its_logs(all in batches(30), by_time: bool) {
        let order = if by_time { Order::Time } else { Order::Offset };
        let mut bench = Bench::new();
        let mut queues = vec![VecDeque::new(); LOGS];
        let now = Instant::now();
        for (log, times) in &all {
            let ids = bench.append(*log, times);
            queues[*log].extend(ids.into_iter().map(|id| (id, now)));
        }
        let mut expected = Vec::new();
        while let Some(log) = first(order, &queues) {
            expected.extend(queues[log].pop_front().map(|(id, _)| id));
        }
        prop_assert_eq!(take_all(&mut bench.mixer(order)), expected);
    }

    #[test]
    fn logs_in_order_of_time_mix_to_what_sorting_makes(all in batches(30)) {
        let mut bench = Bench::new();
        let mut expected = Vec::new();
        let mut clocks = [0; LOGS];
        for (log, steps) in &all {
            let times: Vec<i64> = steps.iter().map(|step| {
                clocks[*log] += step / 20; // many ties
                clocks[*log]
            }).collect();
            expected.extend(bench.append(*log, &times));
        }
        expected.sort_unstable();
        prop_assert_eq!(take_all(&mut bench.mixer(Order::Time)), expected);
    }

    #[test]
    fn logs_that_grow_mix_as_the_model_says(
        all in batches(40),
        steps in prop::collection::vec((0..4usize, 0..5u32), 40),
        lateness in prop::option::of(0..8u32),
        by_time: bool,
    ) {
        // A step is a mark's width, so that no two looks fall into one.
        let step = Duration::from_secs(1);
        let lateness = lateness.map(|n| step * n);
        let order = if by_time { Order::Time } else { Order::Offset };
        let (mut bench, mut now) = (Bench::new(), Instant::now());
        let mut mixer = bench.mixer(order);
        let mut watch = Watch::new();
        let following = Following { lateness, topics: Vec::new(), read: read_all() };
        mixer.follow(&bench.host, following, &mut watch).unwrap();
        let mut queues = vec![VecDeque::new(); LOGS];
        let mut all = all.into_iter();
        for (count, wait) in steps {
            now += step * wait;
            for (log, times) in all.by_ref().take(count) {
                let ids = bench.append(log, &times);
                queues[log].extend(ids.into_iter().map(|id| (id, now)));
            }
            let mut look = (true, now);
            while mixer.refresh(&bench.host, &mut watch, look, &mut |_| ()).unwrap() {
                look.0 = false;
            }
            let mut shown = Vec::new();
            while let Due::Now = mixer.due(now) {
                let Some(run) = mixer.next_run() else { break };
                shown.extend(ids(&mixer, &run));
                mixer.took(&run, &mut |_| ()).unwrap();
            }
            prop_assert_eq!(shown, model(order, &mut queues, lateness, now));
        }
    }
}
