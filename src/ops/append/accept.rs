//! Which partition a record goes to, and whether it goes there at all.

use std::num::NonZeroU32;

use super::unique::Window;
use crate::format::{TimestampMs, partitioner};
use crate::log::config::Partitioner;
use crate::ops::input::InputRecord;

/// What is to become of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes to this lane.
    Take(usize),
    /// The log holds it already, from an earlier run of `--once`.
    Skip,
    /// `--unique` saw its ID.
    Repeat,
}

/// Decides for each record in turn.
#[derive(Debug)]
pub struct Gatekeeper {
    lanes: NonZeroU32,
    partitioner: Partitioner,
    once: Option<Numbers>,
    /// `--unique`.
    pub unique: Option<Window>,
    /// Records that earlier runs of `--once` stored.
    pub skipped: u64,
    /// Records that `--unique` dropped.
    pub repeated: u64,
}

/// The numbering of `--once`.
#[derive(Debug)]
struct Numbers {
    /// Records accepted so far, skipped ones included.
    accepted: u64,
    /// Of each lane, how many are still to be skipped.
    to_skip: Vec<u64>,
}

impl Gatekeeper {
    /// One for so many lanes. `counts`: what each lane holds of the input already (`--once`).
    pub fn new(
        lanes: usize,
        partitioner: Partitioner,
        counts: Option<Vec<u64>>,
        unique: Option<Window>,
    ) -> Gatekeeper {
        let lanes = u32::try_from(lanes).ok().and_then(NonZeroU32::new);
        Gatekeeper {
            lanes: lanes.unwrap_or(NonZeroU32::MIN),
            partitioner,
            once: counts.map(|to_skip| Numbers {
                accepted: 0,
                to_skip,
            }),
            unique,
            skipped: 0,
            repeated: 0,
        }
    }

    /// Whether every record goes to lane 0, unasked.
    pub fn is_open(&self) -> bool {
        self.lanes == NonZeroU32::MIN && self.once.is_none() && self.unique.is_none()
    }

    /// The lane of a record that is to be taken; `turn` is the lane that takes records without a key.
    pub fn admit(
        &mut self,
        record: &InputRecord<'_>,
        now: TimestampMs,
        turn: usize,
    ) -> Option<usize> {
        match self.decide(record, now, turn) {
            Verdict::Take(lane) => Some(lane),
            Verdict::Skip | Verdict::Repeat => None,
        }
    }

    /// Decides about a record; `turn` is the lane that takes records without a key now.
    pub fn decide(&mut self, record: &InputRecord<'_>, now: TimestampMs, turn: usize) -> Verdict {
        if let (Some(window), Some(id)) = (&mut self.unique, record.id.or(record.key))
            && !window.take(id, record.timestamp.map_or(now, TimestampMs))
        {
            self.repeated += 1;
            return Verdict::Repeat;
        }
        let lane = self.lane(record.key, turn);
        let Some(once) = &mut self.once else {
            return Verdict::Take(lane);
        };
        once.accepted += 1;
        match once.to_skip.get_mut(lane) {
            Some(left) if *left > 0 => {
                *left -= 1;
                self.skipped += 1;
                Verdict::Skip
            }
            _ => Verdict::Take(lane),
        }
    }

    fn lane(&self, key: Option<&[u8]>, turn: usize) -> usize {
        let n = self.lanes;
        let by_key = match (key, self.partitioner) {
            (Some(key), Partitioner::Murmur2) => Some(partitioner::java(key, n)),
            (Some(key), Partitioner::Crc32) => Some(partitioner::crc32(key, n)),
            _ => None,
        };
        match (by_key, &self.once) {
            (Some(lane), _) => lane as usize,
            // Record by record, so that a rerun finds the same place for each.
            (None, Some(once)) => (once.accepted % u64::from(n.get())) as usize,
            (None, None) => turn,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: Option<&'static [u8]>) -> InputRecord<'static> {
        InputRecord {
            key,
            ..InputRecord::default()
        }
    }

    #[test]
    fn once_skips_the_same_records_that_were_numbered() {
        let keys: [Option<&[u8]>; 7] = [None, Some(b"a"), None, Some(b"b"), None, None, Some(b"a")];
        let now = TimestampMs(0);
        // Whose turn it is differs from run to run; a number does not.
        let run = |counts: Vec<u64>, turn: usize| {
            let mut g = Gatekeeper::new(3, Partitioner::Murmur2, Some(counts), None);
            let each = keys.iter().enumerate();
            each.map(|(i, k)| g.decide(&record(*k), now, (i * turn) % 3))
                .collect::<Vec<_>>()
        };
        let all = run(vec![0; 3], 1);
        for cut in 0..=keys.len() {
            let mut counts = vec![0; 3];
            for v in &all[..cut] {
                let Verdict::Take(lane) = v else { panic!() };
                counts[*lane] += 1;
            }
            let again = run(counts, 2);
            assert!(again[..cut].iter().all(|v| *v == Verdict::Skip));
            assert_eq!(again[cut..], all[cut..]);
        }
    }

    #[test]
    fn keys_go_where_the_partitioner_says_and_others_in_turn() {
        let mut g = Gatekeeper::new(10, Partitioner::Murmur2, None, None);
        let now = TimestampMs(0);
        assert_eq!(g.decide(&record(Some(b"foobar")), now, 3), Verdict::Take(6));
        assert_eq!(g.decide(&record(None), now, 3), Verdict::Take(3));
        let mut g = Gatekeeper::new(10, Partitioner::RoundRobin, None, None);
        assert_eq!(g.decide(&record(Some(b"foobar")), now, 4), Verdict::Take(4));
    }
}
