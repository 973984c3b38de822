//! The filter of a look-up index: may this field of a segment contain that text?
//!
//! A Bloom filter in which each element sets six bits of one line of 64 bytes. Its elements are, of
//! each value of the field:
//!
//! * each whole *token* of at most [`TOKEN_BYTES_MAX`] bytes: a longest run of ASCII letters, digits,
//!   `_` and bytes above 127, in lower case (ASCII only);
//! * each *gram*: [`GRAM_BYTES`] bytes in a row inside a token, in lower case.
//!
//! So it can say that a text is nowhere: a text of six token bytes in a row is asked gram by gram,
//! and a token that the text itself bounds on both sides as a whole, whatever its length. About a text
//! of fewer than six bytes without a bound it knows nothing. Where case is ignored, some letters
//! outside ASCII equal `k` or `s`, so what holds one of those, or a byte above 127, is not asked.
//!
//! The filter has 2^n blocks of [`LINES`] lines. Of an element's 64-bit hash the top n bits choose the
//! block, bits 16 to 31 the line (times 63, divided by 2^16), and six groups of 9 bits of its product
//! with an odd constant the bits of the line. As the top bits choose the block, two neighbouring
//! blocks may be united to make a filter of half the size: it is built large and folded until it is
//! about half full.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Defect;
use super::lookup::PAYLOAD_BYTES;

/// Bytes of a gram.
pub const GRAM_BYTES: usize = 6;
/// Most bytes of a token that is an element as a whole.
pub const TOKEN_BYTES_MAX: usize = 64;
/// Lines of a block: as many as its payload holds.
const LINES: u64 = PAYLOAD_BYTES as u64 / 64;
const WORDS_PER_LINE: u64 = 8;
const WORDS_PER_BLOCK: u64 = LINES * WORDS_PER_LINE;
/// Bits that an element sets.
const PROBES: u32 = 6;
/// Blocks of the largest filter: 32 MiB.
const BLOCKS_MAX: u64 = 1 << 13;
/// A filter is folded while less than this share of its bits is set, so that at most twice that is
/// set afterwards: at a half, one look in 64 errs.
const FOLD_BELOW: f64 = 0.25;

/// The hash of a gram.
#[inline]
fn hash_gram(gram: u64) -> u64 {
    mix(gram ^ 0x9e37_79b9_7f4a_7c15)
}

/// The hash of a token in lower case.
fn hash_token(token: &[u8]) -> u64 {
    let fold = |h: u64, b: &u8| mix(h ^ u64::from(b.to_ascii_lowercase()));
    token.iter().fold(mix(token.len() as u64), fold)
}

/// The finisher of MurmurHash3.
#[inline]
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    x = (x ^ (x >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

/// Block, word of its first line byte, and the six bits as (word, bit) of a filter of `blocks`.
#[inline]
fn places(hash: u64, blocks: u64) -> (u64, u64, u64) {
    let bits = blocks.trailing_zeros();
    let block = if bits == 0 { 0 } else { hash >> (64 - bits) };
    let line = ((hash >> 16 & 0xffff) * LINES) >> 16;
    (
        block,
        line * WORDS_PER_LINE,
        hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 8,
    )
}

#[inline]
fn is_token_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || b >= 0x80
}

/// The tokens of a text: where each begins and ends.
fn tokens(text: &[u8]) -> impl Iterator<Item = std::ops::Range<usize>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = text.get(at..)?;
        let start = at + rest.iter().position(|b| is_token_byte(*b))?;
        let token = text.get(start..)?;
        let len = token
            .iter()
            .position(|b| !is_token_byte(*b))
            .unwrap_or(token.len());
        at = start + len;
        Some(start..at)
    })
}

/// Calls `f` with each gram of a token.
#[inline]
fn grams(token: &[u8], mut f: impl FnMut(u64)) {
    let mask = (1 << (8 * GRAM_BYTES)) - 1;
    let mut gram = 0u64;
    for (i, b) in token.iter().enumerate() {
        gram = (gram << 8 | u64::from(b.to_ascii_lowercase())) & mask;
        if i + 1 >= GRAM_BYTES {
            f(gram);
        }
    }
}

/// A filter being filled, by any number of threads at once.
pub struct FilterBuilder {
    words: Vec<AtomicU64>,
    blocks: u64,
}

impl FilterBuilder {
    /// A filter for about so many bytes of text.
    pub fn for_text(bytes: u64) -> FilterBuilder {
        // One byte of filter for each 16 of text is more than enough for prose and too little for
        // nothing but random tokens; there it fills up and says "maybe" more often.
        let blocks = (bytes / 16 / PAYLOAD_BYTES as u64)
            .max(1)
            .next_power_of_two()
            .min(BLOCKS_MAX);
        let words = usize::try_from(blocks * WORDS_PER_BLOCK).unwrap_or(0);
        FilterBuilder {
            words: (0..words).map(|_| AtomicU64::new(0)).collect(),
            blocks,
        }
    }

    /// Adds the elements of a value.
    pub fn add(&self, value: &[u8]) {
        for token in tokens(value) {
            let token = value.get(token).unwrap_or_default();
            if token.len() <= TOKEN_BYTES_MAX {
                self.insert(hash_token(token));
            }
            grams(token, |gram| self.insert(hash_gram(gram)));
        }
    }

    #[inline]
    fn insert(&self, hash: u64) {
        let (block, line, mut bits) = places(hash, self.blocks);
        let at = (block * WORDS_PER_BLOCK + line) as usize;
        for _ in 0..PROBES {
            let (word, bit) = ((bits >> 6 & 7) as usize, 1u64 << (bits & 63));
            if let Some(word) = self.words.get(at + word)
                && word.load(Ordering::Relaxed) & bit == 0
            {
                word.fetch_or(bit, Ordering::Relaxed);
            }
            bits >>= 9;
        }
    }

    /// Folds it to the size that its elements need. Returns the number of blocks.
    pub fn finish(&mut self) -> u64 {
        while self.blocks > 1 && self.fill() < FOLD_BELOW {
            let half = self.blocks / 2;
            for block in 0..half {
                for word in 0..WORDS_PER_BLOCK {
                    let get = |b: u64| {
                        let at = (b * WORDS_PER_BLOCK + word) as usize;
                        self.words.get(at).map_or(0, |w| w.load(Ordering::Relaxed))
                    };
                    let both = get(2 * block) | get(2 * block + 1);
                    let at = (block * WORDS_PER_BLOCK + word) as usize;
                    if let Some(w) = self.words.get_mut(at) {
                        *w.get_mut() = both;
                    }
                }
            }
            self.blocks = half;
            self.words.truncate((half * WORDS_PER_BLOCK) as usize);
        }
        self.blocks
    }

    fn fill(&self) -> f64 {
        let ones = |w: &AtomicU64| u64::from(w.load(Ordering::Relaxed).count_ones());
        let ones: u64 = self.words.iter().map(ones).sum();
        ones as f64 / (self.words.len().max(1) as f64 * 64.0)
    }

    /// The payload of each block.
    pub fn payloads(&self) -> impl Iterator<Item = Cow<'_, [u8]>> {
        self.words.chunks(WORDS_PER_BLOCK as usize).map(|block| {
            let words = block.iter().map(|w| w.load(Ordering::Relaxed));
            Cow::Owned(words.flat_map(u64::to_be_bytes).collect())
        })
    }
}

type BlockOf<'a> = Box<dyn Fn(u64) -> Result<&'a [u8], Defect> + 'a>;

/// A filter that was written, block by block.
pub struct Filter<'a> {
    blocks: u64,
    block: BlockOf<'a>,
}

impl<'a> Filter<'a> {
    /// The filter of so many blocks, whose payloads `block` gives.
    pub fn new(blocks: u64, block: BlockOf<'a>) -> Filter<'a> {
        Filter { blocks, block }
    }

    /// Whether a value may be exactly `value`.
    ///
    /// # Errors
    /// A damaged block.
    pub fn may_be(&self, value: &[u8]) -> Result<bool, Defect> {
        self.ask(value, true, false)
    }

    /// Whether a value may contain `text`.
    ///
    /// # Errors
    /// A damaged block.
    pub fn may_contain(&self, text: &[u8], ignore_case: bool) -> Result<bool, Defect> {
        self.ask(text, false, ignore_case)
    }

    fn ask(&self, text: &[u8], is_whole: bool, ignore_case: bool) -> Result<bool, Defect> {
        for range in tokens(text) {
            let bounded = is_whole || (range.start > 0 && range.end < text.len());
            let token = text.get(range).unwrap_or_default();
            let askable = |part: &[u8]| !ignore_case || part.iter().all(|b| is_plain(*b));
            if bounded
                && token.len() <= TOKEN_BYTES_MAX
                && askable(token)
                && !self.has(hash_token(token))?
            {
                return Ok(false);
            }
            let mut hashes = Vec::new();
            for gram in token.windows(GRAM_BYTES).filter(|g| askable(g)) {
                grams(gram, |g| hashes.push(hash_gram(g)));
            }
            for hash in hashes {
                if !self.has(hash)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn has(&self, hash: u64) -> Result<bool, Defect> {
        let (block, line, mut bits) = places(hash, self.blocks);
        let payload = (self.block)(block)?;
        for _ in 0..PROBES {
            let at = (line + (bits >> 6 & 7)) as usize * 8;
            let bit = bits & 63;
            // Words are big-endian: bit n lies in byte 7 - n/8.
            let byte = payload.get(at + 7 - (bit / 8) as usize);
            if byte.is_none_or(|b| b >> (bit % 8) & 1 == 0) {
                return Ok(false);
            }
            bits >>= 9;
        }
        Ok(true)
    }
}

/// Whether nothing but the byte itself and its other case equals it where case is ignored.
fn is_plain(b: u8) -> bool {
    b.is_ascii() && !matches!(b.to_ascii_lowercase(), b'k' | b's')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn filter_of(values: &[Vec<u8>], bytes: u64) -> (u64, Vec<Vec<u8>>) {
        let mut builder = FilterBuilder::for_text(bytes);
        values.iter().for_each(|v| builder.add(v));
        let blocks = builder.finish();
        (blocks, builder.payloads().map(Cow::into_owned).collect())
    }

    fn ask(
        f: &(u64, Vec<Vec<u8>>),
        question: impl Fn(&Filter<'_>) -> Result<bool, Defect>,
    ) -> bool {
        let block = |n: u64| Ok(&f.1[n as usize][..]);
        question(&Filter::new(f.0, Box::new(block))).unwrap()
    }

    #[test]
    fn absent_texts_are_denied_and_folding_keeps_what_is_there() {
        let line = |i: u64| format!("{{\"id\":\"order-{i:08}\",\"level\":\"Info\"}}").into_bytes();
        let lines: Vec<Vec<u8>> = (0..2000).map(line).collect();
        let f = filter_of(&lines, 16 << 20);
        assert!(f.0 < 16, "folded to {} blocks", f.0);
        assert_eq!(f.1.len() as u64, f.0);
        let has = |t: &str, i| ask(&f, |f| f.may_contain(t.as_bytes(), i));
        for text in [
            "order-00001999",
            "0001999\"",
            "\"Info\"",
            "INFO",
            "",
            "{",
            "der-0",
            "info",
            "or",
        ] {
            assert!(has(text, true), "{text}");
        }
        assert!(!has("\"warn\"", false) && !has("warning", true) && !has("order-98765432", false));
        assert!(has("warn", false), "unbounded and short: not known");
        let absent = (0..1000).filter(|i| has(&format!("\"{}\"", i * 7919 + 13), false));
        assert!(absent.count() < 60);
        assert!(ask(&f, |f| f.may_be(&line(7))));
        assert!(!ask(&f, |f| f.may_be(b"u42")));
    }

    #[test]
    fn letters_that_equal_others_outside_ascii_are_not_asked_where_case_is_ignored() {
        // U+017F is a long s, U+212A the sign of the kelvin.
        let f = filter_of(&["ta\u{17f}\u{212a}force x".as_bytes().to_vec()], 1 << 20);
        assert!(ask(&f, |f| f.may_contain(b"taskforce", true)));
        assert!(ask(&f, |f| f.may_contain(b" TASK ", true)));
    }

    proptest! {
        #[test]
        fn what_is_there_is_never_denied(
            values in prop::collection::vec("[a-fA-F0-9_é .:]{0,40}", 1..40),
            pick in any::<prop::sample::Index>(),
            from in any::<prop::sample::Index>(),
            len in 0usize..30,
            bytes in 0u64..1 << 20,
        ) {
            let values: Vec<Vec<u8>> = values.into_iter().map(String::into_bytes).collect();
            let f = filter_of(&values, bytes);
            let value = &values[pick.index(values.len())];
            prop_assert!(ask(&f, |f| f.may_be(value)));
            if !value.is_empty() {
                let from = from.index(value.len());
                let text = &value[from..(from + len).min(value.len())];
                prop_assert!(ask(&f, |f| f.may_contain(text, false)));
                prop_assert!(ask(&f, |f| f.may_contain(&text.to_ascii_uppercase(), true)));
            }
        }
    }
}
