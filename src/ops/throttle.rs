//! `--rate`: a ceiling on bytes per second, shared by the threads of a command.
//!
//! Who has moved so many bytes asks to be let go on; it sleeps until the bytes so far are what the
//! rate allows in the time so far. A pause of the work itself earns at most [`BURST`] of credit.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::sys::signals;

/// Longest time whose unused allowance may be made up for.
const BURST: Duration = Duration::from_millis(100);

/// Longest sleep before a look whether a signal came.
const SLICE: Duration = Duration::from_millis(100);

/// A ceiling; none lets everything pass.
pub struct Throttle {
    bytes_per_second: Option<f64>,
    /// When what was spent so far is paid for.
    paid: Mutex<Instant>,
}

impl Throttle {
    /// A ceiling of so many bytes per second.
    pub fn new(bytes_per_second: Option<u64>) -> Throttle {
        Throttle {
            bytes_per_second: bytes_per_second.map(|b| (b.max(1)) as f64),
            paid: Mutex::new(Instant::now()),
        }
    }

    /// Accounts for `bytes`, sleeping until they are allowed, or until a signal tells to stop.
    pub fn spend(&self, bytes: u64) {
        let Some(until) = self.account(bytes) else {
            return;
        };
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || signals::stop_requested().is_some() {
                return;
            }
            std::thread::sleep(left.min(SLICE));
        }
    }

    /// Accounts for `bytes`: when they are allowed; `None` without a ceiling.
    pub fn account(&self, bytes: u64) -> Option<Instant> {
        let rate = self.bytes_per_second?;
        let cost = Duration::from_secs_f64((bytes as f64 / rate).min(3600.0));
        let now = Instant::now();
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        *paid = (*paid).max(earliest) + cost;
        Some(*paid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_take_the_time_that_the_rate_gives_them() {
        let throttle = Throttle::new(Some(1_000_000));
        let began = Instant::now();
        for _ in 0..30 {
            throttle.spend(10_000);
        }
        let took = began.elapsed();
        // 300 ms of bytes, of which one burst is free.
        assert!(took >= Duration::from_millis(190), "{took:?}");
        let began = Instant::now();
        Throttle::new(None).spend(u64::MAX);
        assert!(began.elapsed() < Duration::from_secs(1));
    }
}
