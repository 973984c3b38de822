//! Repeatable chance: the same seed gives the same disk, so a failing seed can be kept as a case.

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
#[derive(Clone, Debug)]
pub(super) struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Chance {
        Chance(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0..=most`.
    pub fn up_to(&mut self, most: u64) -> u64 {
        match most.checked_add(1) {
            Some(n) => self.next() % n,
            None => self.next(),
        }
    }

    /// A number in `a..=b`, whichever is the larger.
    pub fn between(&mut self, a: u64, b: u64) -> u64 {
        a.min(b) + self.up_to(a.abs_diff(b))
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.up_to(n.saturating_sub(1)) == 0
    }

    pub fn id(&mut self) -> [u8; 16] {
        let halves = u128::from(self.next()) << 64 | u128::from(self.next());
        halves.to_be_bytes()
    }
}
