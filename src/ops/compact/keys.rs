//! The newest versions of each key, in bounded memory.
//!
//! Keys are kept whole and compared byte by byte, so that two keys that hash alike are two keys: no
//! record is ever dropped for a stranger. What a [`Keys`] says of a record is the ordinal (its number
//! among the records of the log) of the one it supersedes.
//!
//! A table of 8-byte slots (32 bits of hash, place in the arena), probed one after the other, over an
//! arena of entries, each a multiple of eight bytes:
//!
//! | size | what |
//! |---|---|
//! | 8 × N | ordinals of the N newest versions, newest first; all ones is none |
//! | 4 | length of the key |
//! | … | the key, padded |
//!
//! If both together would outgrow the memory given, [`Keys::insert`] says so, and the caller goes on
//! with the keys of half the hashes ([`Part`]), and comes back for the other half.
//!
//! Hashes are seeded at random: who writes keys cannot make them collide on purpose.

use std::hash::{BuildHasher, Hasher};

/// No version.
const NONE: u64 = u64::MAX;
/// A slot without an entry.
const EMPTY: u32 = u32::MAX;
/// Slots of the first table.
const SLOTS_FIRST: usize = 1 << 10;
/// Of eight slots at most seven are used.
const LOAD: (usize, usize) = (7, 8);

/// The keys whose hash ends in the `bits` low bits of `value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    bits: u32,
    value: u64,
}

impl Part {
    /// All keys.
    pub const ALL: Part = Part { bits: 0, value: 0 };

    /// Whether a key of this hash is one of them.
    #[inline]
    pub fn holds(self, hash: u64) -> bool {
        hash & ((1 << self.bits) - 1) == self.value
    }

    /// Two halves; `None` when hashes have no more bits to give.
    pub fn split(self) -> Option<(Part, Part)> {
        let bits = self.bits + 1;
        let value = self.value | 1 << self.bits;
        let (first, second) = (Part { bits, ..self }, Part { bits, value });
        (bits < 32).then_some((first, second))
    }
}

/// What to do with a record's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// Nothing is superseded.
    Kept,
    /// The record of this ordinal is.
    Superseded(u64),
    /// There is no memory for another key.
    Full,
}

#[derive(Clone, Copy)]
struct Slot {
    tag: u32,
    /// Place of the entry in the arena, in words of eight bytes.
    entry: u32,
}

/// The newest versions of each key of a [`Part`].
pub struct Keys {
    hasher: foldhash::quality::FixedState,
    slots: Vec<Slot>,
    arena: Vec<u64>,
    count: usize,
    keep: usize,
    bytes_max: usize,
}

impl Keys {
    /// Keeps `keep` versions (1 or more) of each key in at most `bytes_max` bytes; room for one table
    /// of the smallest size there always is.
    pub fn new(seed: u64, keep: usize, bytes_max: usize) -> Keys {
        Keys {
            hasher: foldhash::quality::FixedState::with_seed(seed),
            slots: vec![EMPTY_SLOT; SLOTS_FIRST],
            arena: Vec::new(),
            count: 0,
            keep: keep.max(1),
            bytes_max,
        }
    }

    /// The hash of a key.
    #[inline]
    pub fn hash(&self, key: &[u8]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(key);
        // The length too: what is padded alike is not alike.
        hasher.write_usize(key.len());
        hasher.finish()
    }

    /// Forgets all keys, keeping the memory.
    pub fn clear(&mut self) {
        self.slots.fill(EMPTY_SLOT);
        self.arena.clear();
        self.count = 0;
    }

    /// Forgets the keys that are not of `part`, and gives their room to others.
    pub fn retain(&mut self, part: Part) {
        let (mut from, mut to) = (0, 0);
        let mut key = Vec::new();
        self.count = 0;
        while from < self.arena.len() {
            let words = self.read_key(from, &mut key);
            if part.holds(self.hash(&key)) {
                self.arena.copy_within(from..from + words, to);
                to += words;
                self.count += 1;
            }
            from += words;
        }
        self.arena.truncate(to);
        self.rebuild(self.slots.len());
    }

    /// Takes note of a version; its ordinal is larger than those before.
    #[inline]
    pub fn insert(&mut self, hash: u64, key: &[u8], ordinal: u64) -> Inserted {
        match self.find(hash, key) {
            Ok(entry) => self.push(entry, ordinal),
            Err(slot) => self.add(slot, hash, key, ordinal),
        }
    }

    /// Forgets all versions of a key, oldest last; none if it is not known.
    pub fn forget(&mut self, hash: u64, key: &[u8], mut each: impl FnMut(u64)) {
        let Ok(entry) = self.find(hash, key) else {
            return;
        };
        let versions = self.arena.get_mut(entry..entry + self.keep);
        for version in versions.unwrap_or_default() {
            if *version != NONE {
                each(*version);
            }
            *version = NONE;
        }
    }

    /// The entry of a key, or the slot that it would get.
    #[inline]
    fn find(&self, hash: u64, key: &[u8]) -> Result<usize, usize> {
        let mask = self.slots.len() - 1;
        let tag = tag_of(hash);
        let mut at = index_of(hash, mask);
        loop {
            let slot = self.slots.get(at).copied().unwrap_or(EMPTY_SLOT);
            if slot.entry == EMPTY {
                return Err(at);
            }
            if slot.tag == tag && self.is_key(slot.entry as usize, key) {
                return Ok(slot.entry as usize);
            }
            at = (at + 1) & mask;
        }
    }

    #[inline]
    fn is_key(&self, entry: usize, key: &[u8]) -> bool {
        let at = entry + self.keep;
        let Some((len, rest)) = self.arena.get(at..).and_then(<[u64]>::split_first) else {
            return false;
        };
        // The first word holds the length and the first four bytes.
        let (head, tail) = key.split_at(key.len().min(HEAD_BYTES));
        if *len != head_word(key.len(), head) {
            return false;
        }
        let words = tail.chunks(8).map(word);
        let mut stored = rest.iter();
        words.into_iter().all(|w| stored.next() == Some(&w))
    }

    #[inline]
    fn push(&mut self, entry: usize, ordinal: u64) -> Inserted {
        let versions = self.arena.get_mut(entry..entry + self.keep);
        let mut newest = ordinal;
        for version in versions.unwrap_or_default() {
            std::mem::swap(version, &mut newest);
            if newest == NONE {
                return Inserted::Kept;
            }
        }
        Inserted::Superseded(newest)
    }

    fn add(&mut self, slot: usize, hash: u64, key: &[u8], ordinal: u64) -> Inserted {
        let words = self.keep + 1 + key.len().saturating_sub(HEAD_BYTES).div_ceil(8);
        let Ok(entry) = u32::try_from(self.arena.len()) else {
            return Inserted::Full;
        };
        let grow = self.count + 1 > self.slots.len() / LOAD.1 * LOAD.0;
        if !self.has_room(words, grow) {
            return Inserted::Full;
        }
        let tag = tag_of(hash);
        let first = self.arena.len();
        self.arena.push(ordinal);
        self.arena.resize(first + self.keep, NONE);
        let (head, tail) = key.split_at(key.len().min(HEAD_BYTES));
        self.arena.push(head_word(key.len(), head));
        self.arena.extend(tail.chunks(8).map(word));
        self.count += 1;
        match grow {
            true => self.rebuild(self.slots.len() * 2),
            false => {
                if let Some(s) = self.slots.get_mut(slot) {
                    *s = Slot { tag, entry };
                }
            }
        }
        Inserted::Kept
    }

    /// Whether `words` more fit, and a table twice as large beside the old one. The first key always
    /// does.
    fn has_room(&mut self, words: usize, grow: bool) -> bool {
        let table = self.slots.len() * size_of::<Slot>();
        let tables = if grow { 3 * table } else { table };
        let left = self.bytes_max.saturating_sub(tables) / 8;
        let need = self.arena.len() + words;
        if self.count > 0 && need > left {
            return false;
        }
        if self.arena.capacity() > left.max(need) {
            self.arena.shrink_to(left.max(need));
        } else if need > self.arena.capacity() {
            // By a quarter, not twice: the memory given is to be used.
            let spare = (self.arena.len() / 4).max(1 << 8);
            let capacity = (need + spare).min(left.max(need));
            self.arena.reserve_exact(capacity - self.arena.len());
        }
        true
    }

    /// A table of so many slots, from the entries.
    fn rebuild(&mut self, slots: usize) {
        self.slots = Vec::new();
        let mut table = vec![EMPTY_SLOT; slots];
        let mut key = Vec::new();
        let mut at = 0;
        while at < self.arena.len() {
            let words = self.read_key(at, &mut key);
            let hash = self.hash(&key);
            let mut i = index_of(hash, slots - 1);
            while table.get(i).is_some_and(|s| s.entry != EMPTY) {
                i = (i + 1) & (slots - 1);
            }
            if let (Some(slot), Ok(entry)) = (table.get_mut(i), u32::try_from(at)) {
                let tag = tag_of(hash);
                *slot = Slot { tag, entry };
            }
            at += words;
        }
        self.slots = table;
    }

    /// Copies the key of an entry; returns how many words the entry has.
    fn read_key(&self, entry: usize, key: &mut Vec<u8>) -> usize {
        key.clear();
        let at = entry + self.keep;
        let head = self.arena.get(at).copied().unwrap_or(0);
        let len = (head & u64::from(u32::MAX)) as usize;
        key.extend_from_slice(head.to_le_bytes().get(4..).unwrap_or_default());
        let words = len.saturating_sub(HEAD_BYTES).div_ceil(8);
        for w in self.arena.get(at + 1..at + 1 + words).unwrap_or_default() {
            key.extend_from_slice(&w.to_le_bytes());
        }
        key.truncate(len);
        self.keep + 1 + words
    }
}

/// Bytes of a key beside its length.
const HEAD_BYTES: usize = 4;
const EMPTY_SLOT: Slot = Slot {
    tag: 0,
    entry: EMPTY,
};

#[inline]
fn tag_of(hash: u64) -> u32 {
    (hash >> 32) as u32
}

/// From the middle bits: the lowest are alike in all keys of a part.
#[inline]
fn index_of(hash: u64, mask: usize) -> usize {
    (hash.rotate_right(20) as usize) & mask
}

#[inline]
fn head_word(len: usize, head: &[u8]) -> u64 {
    word(head) << 32 | (len as u64 & u64::from(u32::MAX))
}

/// Up to eight bytes, little-endian, zeros behind.
#[inline]
fn word(bytes: &[u8]) -> u64 {
    match bytes.first_chunk() {
        Some(eight) => u64::from_le_bytes(*eight),
        None => bytes.iter().rev().fold(0, |w, b| w << 8 | u64::from(*b)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    proptest::proptest! {
        #[test]
        fn the_map_is_a_map(
            ops in proptest::collection::vec((proptest::collection::vec(0u8..3, 0..24), 0u8..9), 0..600),
            keep in 1usize..4,
        ) {
            let mut keys = Keys::new(7, keep, usize::MAX);
            let mut model: HashMap<Vec<u8>, Vec<u64>> = HashMap::new();
            for (ordinal, (key, op)) in ops.into_iter().enumerate() {
                let ordinal = ordinal as u64;
                let hash = keys.hash(&key);
                let versions = model.entry(key.clone()).or_default();
                if op == 0 {
                    let mut gone = Vec::new();
                    keys.forget(hash, &key, |o| gone.push(o));
                    assert_eq!(gone, *versions);
                    versions.clear();
                    continue;
                }
                versions.insert(0, ordinal);
                let want = match versions.len() > keep {
                    true => Inserted::Superseded(versions.pop().unwrap()),
                    false => Inserted::Kept,
                };
                assert_eq!(keys.insert(hash, &key, ordinal), want);
            }
        }
    }

    /// Every hash alike: only the keys tell.
    #[test]
    fn keys_that_hash_alike_are_different_keys() {
        let mut keys = Keys::new(0, 1, usize::MAX);
        for i in 0..800u64 {
            let key = format!("key {i}");
            assert_eq!(keys.insert(5, key.as_bytes(), i), Inserted::Kept);
        }
        for i in 0..800u64 {
            let key = format!("key {i}");
            assert_eq!(
                keys.insert(5, key.as_bytes(), 1000 + i),
                Inserted::Superseded(i)
            );
        }
        for key in ["", "key", "key 0 ", "key 0\0", "\0"] {
            assert_eq!(keys.insert(5, key.as_bytes(), 0), Inserted::Kept, "{key:?}");
        }
    }

    #[test]
    fn memory_is_bounded_and_parts_cover_all_hashes() {
        let mut keys = Keys::new(1, 1, 100_000);
        let mut n = 0u64;
        loop {
            let key = n.to_le_bytes();
            let hash = keys.hash(&key);
            if keys.insert(hash, &key, n) == Inserted::Full {
                break;
            }
            n += 1;
        }
        assert!(n > 2000, "{n}");
        assert!(keys.arena.capacity() * 8 + keys.slots.len() * 8 <= 100_000);
        let (a, b) = Part::ALL.split().unwrap();
        let (c, d) = b.split().unwrap();
        for hash in 0..64 {
            let held = [a, c, d].iter().filter(|p| p.holds(hash)).count();
            assert_eq!(held, 1);
        }
    }
}
