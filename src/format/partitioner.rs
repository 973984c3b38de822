//! Which partition a key belongs to.
//!
//! Two hashes are in use in the world and they disagree: Java clients take murmur2, librdkafka (and
//! kcat) by default CRC-32. `logd` takes Java's. An empty key is a key; a null key is none, and goes
//! round robin.

use std::num::NonZeroU32;

/// Kafka's murmur2 of `key`: seed 9747b28c over little-endian words.
pub fn murmur2(key: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    // Java lengths are i32; the low 32 bits are what the reference mixes in.
    let mut h = SEED ^ (key.len() as u32);
    let (words, tail) = key.as_chunks::<4>();
    for word in words {
        let k = u32::from_le_bytes(*word).wrapping_mul(M);
        h = h.wrapping_mul(M) ^ (k ^ (k >> 24)).wrapping_mul(M);
    }
    if !tail.is_empty() {
        let word = tail
            .iter()
            .rev()
            .fold(0, |w: u32, b| (w << 8) | u32::from(*b));
        h = (h ^ word).wrapping_mul(M);
    }
    h = (h ^ (h >> 13)).wrapping_mul(M);
    h ^ (h >> 15)
}

/// The partition a Java producer sends `key` to: murmur2 with its sign bit masked off (not its
/// absolute value), modulo the number of partitions.
pub fn java(key: &[u8], partitions: NonZeroU32) -> u32 {
    (murmur2(key) & 0x7fff_ffff) % partitions
}

/// The partition librdkafka's `consistent` partitioner sends `key` to: CRC-32 modulo partitions.
pub fn crc32(key: &[u8], partitions: NonZeroU32) -> u32 {
    crc32fast::hash(key) % partitions
}

/// Partitions in turn, for records without a key.
#[derive(Clone, Debug, Default)]
pub struct RoundRobin {
    next: u32,
}

impl RoundRobin {
    /// The next partition. The number of partitions may grow between calls.
    pub fn pick(&mut self, partitions: NonZeroU32) -> u32 {
        let picked = self.next % partitions;
        self.next = picked + 1;
        picked
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn n(n: u32) -> NonZeroU32 {
        NonZeroU32::new(n).unwrap()
    }

    #[test]
    fn murmur2_is_javas() {
        let vectors: [(&[u8], u32); 7] = [
            (b"", 0x106e_08d9),
            (b"a", 0xa2d0_b27c),
            (b"ab", 0x12d8_262a),
            (b"abc", 0x1c94_221b),
            (b"abcd", 0xb11a_b5f4),
            (b"21", 0xc5f2_f8ec),
            (b"foobar", 0xd0e4_7bbe),
        ];
        for (key, hash) in vectors {
            assert_eq!(murmur2(key), hash, "{key:?}");
        }
    }

    #[test]
    fn the_sign_is_masked_not_negated() {
        assert_eq!(java(b"foobar", n(10)), 6);
        // The absolute value of 0xb11ab5f4 would give 8.
        assert_eq!(java(b"abcd", n(10)), 0);
    }

    #[test]
    fn crc32_is_ieee() {
        assert_eq!(crc32(b"123456789", n(u32::MAX)), 0xcbf4_3926);
        assert_eq!(crc32(b"", n(7)), 0);
    }

    #[test]
    fn round_robin_visits_each_partition_and_follows_growth() {
        let mut r = RoundRobin::default();
        let three: Vec<u32> = (0..4).map(|_| r.pick(n(3))).collect();
        assert_eq!(three, [0, 1, 2, 0]);
        assert_eq!([r.pick(n(4)), r.pick(n(4)), r.pick(n(4))], [1, 2, 3]);
        assert_eq!(r.pick(n(2)), 0);
    }

    proptest! {
        #[test]
        fn every_key_has_a_partition(key in prop::collection::vec(any::<u8>(), 0..64), p in 1u32..1000) {
            prop_assert!(java(&key, n(p)) < p && crc32(&key, n(p)) < p);
        }
    }
}
