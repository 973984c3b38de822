//! `--unique DURATION`: a record is dropped whose ID was taken within that time before it.
//!
//! Time is the records' own timestamps, since that is what the log remembers: the window is filled
//! from its tail when a run begins. A dropped record does not prolong the window of the one it
//! repeats; so a run that was restarted decides as one that was not.
//!
//! IDs are held as 128-bit hashes under keys of this run: two IDs meeting by chance, or on purpose, is
//! not to be expected. Memory is bounded by [`IDS_MAX`]; past that the oldest are forgotten, and the
//! caller tells.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use crate::format::TimestampMs;

/// Most IDs remembered: about 400 MB.
const IDS_MAX: usize = 4 << 20;

/// The IDs taken lately.
#[derive(Debug)]
pub struct Window {
    span_ms: i64,
    ids_max: usize,
    keys: [RandomState; 2],
    taken: HashMap<u128, i64>,
    /// In the order they were taken, for forgetting.
    order: VecDeque<(i64, u128)>,
    forgot: bool,
}

impl Window {
    /// A window of this length.
    pub fn new(span: Duration) -> Window {
        Window {
            span_ms: i64::try_from(span.as_millis()).unwrap_or(i64::MAX),
            ids_max: IDS_MAX,
            keys: [RandomState::new(), RandomState::new()],
            taken: HashMap::new(),
            order: VecDeque::new(),
            forgot: false,
        }
    }

    /// Whether a record with this ID and time is to be kept; if so, the ID is taken.
    pub fn take(&mut self, id: &[u8], timestamp: TimestampMs) -> bool {
        let now = timestamp.0;
        self.forget_before(now.saturating_sub(self.span_ms));
        let [a, b] = [0, 1].map(|i| self.keys.get(i).map_or(0, |k| k.hash_one(id)));
        let hash = u128::from(a) << 64 | u128::from(b);
        if let Some(then) = self.taken.get(&hash)
            && now.saturating_sub(*then).saturating_abs() <= self.span_ms
        {
            return false;
        }
        self.taken.insert(hash, now);
        self.order.push_back((now, hash));
        if self.order.len() > self.ids_max {
            self.forgot = true;
            self.forget_oldest();
        }
        true
    }

    /// Whether IDs had to be forgotten before their time.
    pub fn forgot(&self) -> bool {
        self.forgot
    }

    fn forget_before(&mut self, limit: i64) {
        while self.order.front().is_some_and(|(then, _)| *then < limit) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some((then, hash)) = self.order.pop_front() else {
            return;
        };
        // Taken again since: the later entry will do it.
        if self.taken.get(&hash) == Some(&then) {
            self.taken.remove(&hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(ms: u64) -> Window {
        Window::new(Duration::from_millis(ms))
    }

    #[test]
    fn an_id_is_taken_once_within_the_window() {
        let mut w = window(100);
        let mut take = |id: &str, t| w.take(id.as_bytes(), TimestampMs(t));
        assert!(take("a", 1000));
        assert!(take("b", 1001));
        assert!(!take("b", 950), "order of time does not matter");
        assert!(!take("a", 1100));
        assert!(
            take("a", 1101),
            "a dropped record does not prolong the window"
        );
        assert!(!take("a", 1200));
    }

    #[test]
    fn memory_is_bounded_and_forgetting_is_told() {
        let mut w = window(1_000_000);
        w.ids_max = 10;
        for i in 0..10 {
            assert!(w.take(&[i], TimestampMs(i64::from(i))));
        }
        assert!(!w.forgot() && !w.take(&[0], TimestampMs(10)));
        assert!(w.take(&[99], TimestampMs(11)) && w.forgot());
        assert!(w.take(&[0], TimestampMs(12)));
        assert!(w.taken.len() <= 10);
    }

    #[test]
    fn ids_past_the_window_cost_no_memory() {
        let mut w = window(10);
        for i in 0..10_000i64 {
            assert!(w.take(&i.to_be_bytes(), TimestampMs(i)));
        }
        assert!(w.taken.len() < 20 && w.order.len() < 20 && !w.forgot());
    }
}
