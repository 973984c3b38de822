//! Which records a reading command shows, and which part of them.

use crate::format::record::{Headers, Record};

/// What is shown of a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    #[default]
    Whole,
    /// The key: in place of the value where a format shows values only, else without the value.
    Key,
    /// The headers: as `n=v,…` in place of the value where a format shows values only, else without
    /// key and value.
    Headers,
}

/// A choice of records. Empty, it takes all.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Only records with this key.
    pub key: Option<Vec<u8>>,
    /// Only records that have each of these headers with this value.
    pub headers: Vec<(Vec<u8>, Vec<u8>)>,
    /// Leave out records without a value.
    pub no_tombstones: bool,
    /// Take about this share of all records, 0 to 1. The choice hangs on the offset alone, so it is
    /// the same in every run.
    pub sample: Option<f64>,
}

impl Selection {
    /// Whether it takes every record.
    pub fn is_all(&self) -> bool {
        self.key.is_none()
            && self.headers.is_empty()
            && !self.no_tombstones
            && self.sample.is_none()
    }

    /// Whether it takes this one.
    pub fn takes(&self, record: &Record<'_>) -> bool {
        self.key.as_deref().is_none_or(|k| record.key == Some(k))
            && !(self.no_tombstones && record.value.is_none())
            && self.headers.iter().all(|(n, v)| has(&record.headers, n, v))
            && self
                .sample
                .is_none_or(|share| unit(record.offset.0) < share)
    }
}

fn has(headers: &Headers<'_>, name: &[u8], value: &[u8]) -> bool {
    headers.iter().any(|(n, v)| n == name && v == Some(value))
}

/// A number in 0..1 that looks random and hangs on `n` alone (splitmix64).
fn unit(n: i64) -> f64 {
    let mut x = n.cast_unsigned().wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^= x >> 31;
    (x >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{Offset, TimestampMs};

    fn record<'a>(offset: i64, key: Option<&'a [u8]>, value: Option<&'a [u8]>) -> Record<'a> {
        let headers = Headers::default();
        let (offset, timestamp) = (Offset(offset), TimestampMs(0));
        Record {
            offset,
            timestamp,
            sequence: -1,
            key,
            value,
            headers,
        }
    }

    #[test]
    fn key_and_tombstones_select() {
        let s = Selection {
            key: Some(b"a".to_vec()),
            no_tombstones: true,
            ..Default::default()
        };
        assert!(s.takes(&record(0, Some(b"a"), Some(b""))));
        assert!(!s.takes(&record(0, Some(b"a"), None)));
        assert!(!s.takes(&record(0, Some(b"b"), Some(b"x"))));
        assert!(!s.takes(&record(0, None, Some(b"x"))));
    }

    #[test]
    fn a_sample_is_about_its_share_and_the_same_each_time() {
        let s = Selection {
            sample: Some(0.1),
            ..Default::default()
        };
        let taken = |s: &Selection| -> Vec<i64> {
            (0..100_000)
                .filter(|n| s.takes(&record(*n, None, None)))
                .collect()
        };
        let n = taken(&s).len();
        assert!((9_500..10_500).contains(&n), "{n}");
        assert_eq!(taken(&s), taken(&s));
    }
}
