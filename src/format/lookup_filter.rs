//! The filter of a look-up index: may this field of a segment contain that text?
//!
//! Its *tokens* are the longest runs of ASCII letters, digits, `_` and bytes above 127 in a value of
//! the field, letters in lower case (ASCII only). Two Bloom filters are kept of them:
//!
//! * of the tokens of at most [`TOKEN_BYTES_MAX`] bytes, each as a whole;
//! * of their *grams*, which are six bytes in a row inside a token. Six hexadecimal digits are no
//!   gram: all of them are in any large log with identifiers. Together with the two bytes before them
//!   they are one if bit 63 of their hash is 0, which spares half the room.
//!
//! So it can say that a text is nowhere: of a text of six token bytes in a row or, of digits, of a
//! dozen, each gram is asked, and a token that the text itself bounds on both sides as a whole,
//! whatever its length. About a shorter text without a bound it knows nothing. Where case is ignored, some letters
//! outside ASCII equal `k` or `s`, so what holds one of those, or a byte above 127, is not asked.
//!
//! Either filter may be missing, which answers "maybe" to all: there is a largest size, and one that
//! is all but full is not worth its bytes. Text with an identifier in each line has a few new tokens a
//! line and ten times as many new grams; the tokens often fit where the grams do not.
//!
//! A filter has 2^n blocks of [`LINES`] lines of 64 bytes. Of an element's 64-bit hash the top n bits
//! choose the block and bits 16 to 31 the line (times 63, divided by 2^16); the top 42 bits of its
//! product with an odd constant are, from the lowest, two numbers of words of the line, and three
//! numbers of bits of the one and three of the other. As the top bits choose the block, two
//! neighbouring blocks may be united to make a filter of half the size: it is built large and folded
//! until it is about half full.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Defect;
use super::lookup::PAYLOAD_BYTES;

/// Bytes of a gram.
const GRAM_BYTES: usize = 6;
/// Bytes of a gram that ends in hexadecimal digits.
const LONG_GRAM_BYTES: usize = 8;
/// Most bytes of a token that is an element as a whole.
pub const TOKEN_BYTES_MAX: usize = 64;
/// Lines of a block: as many as its payload holds.
const LINES: u64 = PAYLOAD_BYTES as u64 / 64;
/// Words of a line in which an element sets bits, and bits in each.
const WORDS: u32 = 2;
const BITS: u32 = 3;
/// Blocks of the largest filter: 32 MiB.
const BLOCKS_MAX: u64 = 1 << 13;
/// A filter is folded while less than this share of its bits is set, so that at most twice that is
/// set afterwards: at a half, one look in 64 errs.
const FOLD_BELOW: f64 = 0.25;
/// A filter with more of its bits set is given up: three looks in four err.
const GIVE_UP_ABOVE: f64 = 0.95;
/// Elements that are looked up together.
const TOGETHER: usize = 64;
/// Elements that were met last and need not be inserted again; a power of two.
const SEEN: usize = 4096;
/// Where the bits of a hash begin that choose a place among them.
const SEEN_SHIFT: u32 = 32;
/// Parts of a filter that are inserted into one after the other, and elements that wait for each. A
/// filter is larger than what a processor keeps at hand, a part of it is not.
const REGIONS: usize = 256;
const REGION_ELEMENTS: usize = if cfg!(test) { 16 } else { 4096 };
/// Lines that are looked at to see how full a filter is while it is filled.
const SAMPLE_LINES: usize = 1024;
/// The low bytes of a number that are a gram.
const GRAM_MASK: u64 = (1 << (8 * GRAM_BYTES)) - 1;

/// Of each byte what it is in a token; 0 for one that is in none.
const LOWER: [u8; 256] = lower_table();

#[allow(clippy::indexing_slicing)] // by a number below 256, while this is compiled
const fn lower_table() -> [u8; 256] {
    let mut table = [0; 256];
    let mut b = 0u8;
    loop {
        if b.is_ascii_alphanumeric() || b == b'_' || b >= 0x80 {
            table[b as usize] = b.to_ascii_lowercase();
        }
        if b == u8::MAX {
            return table;
        }
        b += 1;
    }
}

/// The byte in lower case, if a token may hold it.
#[inline]
fn lower(b: u8) -> Option<u8> {
    LOWER.get(usize::from(b)).copied().filter(|c| *c != 0)
}

/// Hashes a token eight bytes at a time.
#[derive(Clone, Copy, Default)]
struct TokenHash {
    hash: u64,
    /// The last eight bytes, the latest lowest.
    recent: u64,
    len: usize,
    /// How many of the last bytes are hexadecimal digits.
    digits: usize,
}

impl TokenHash {
    /// Takes the next byte, in lower case.
    #[inline]
    fn push(&mut self, lower: u8) {
        self.recent = self.recent << 8 | u64::from(lower);
        self.len += 1;
        let is_digit = lower.is_ascii_hexdigit();
        self.digits = if is_digit { self.digits + 1 } else { 0 };
        if self.len.is_multiple_of(8) {
            self.hash = step(self.hash, self.recent);
        }
    }

    /// The hash of the gram that ends here, and its length.
    #[inline]
    fn gram(&self) -> Option<(u64, usize)> {
        if self.len < GRAM_BYTES {
            return None;
        }
        if self.digits < GRAM_BYTES {
            let gram = self.recent & GRAM_MASK;
            return Some((mix(gram ^ 0x9e37_79b9_7f4a_7c15), GRAM_BYTES));
        }
        let hash = mix(self.recent);
        (self.len >= LONG_GRAM_BYTES && hash >> 63 == 0).then_some((hash << 1, LONG_GRAM_BYTES))
    }

    /// The hash of the whole.
    #[inline]
    fn finish(&self) -> u64 {
        let rest = self.recent & ((1 << (8 * (self.len % 8))) - 1);
        mix(step(self.hash, rest) ^ self.len as u64)
    }
}

#[inline]
fn step(hash: u64, word: u64) -> u64 {
    let x = (hash ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^ (x >> 32)
}

/// The finisher of MurmurHash3.
#[inline]
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    x = (x ^ (x >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

/// Where the bits of an element are.
struct Place {
    block: u64,
    line: u64,
    /// Words of the line, and the bits in them.
    words: [(usize, u64); WORDS as usize],
}

/// The place of an element in a filter of so many blocks.
#[inline]
fn place(hash: u64, blocks: u64) -> Place {
    let bits = blocks.trailing_zeros();
    let block = if bits == 0 { 0 } else { hash >> (64 - bits) };
    let mut rest = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - WORDS * (3 + BITS * 6));
    let mut take = |bits: u32| {
        let taken = rest & ((1 << bits) - 1);
        rest >>= bits;
        taken
    };
    let numbers = [(); WORDS as usize].map(|()| take(3) as usize);
    let words = numbers.map(|n| (n, (0..BITS).fold(0, |mask, _| mask | 1 << take(6))));
    let line = ((hash >> 16 & 0xffff) * LINES) >> 16;
    Place { block, line, words }
}

/// The tokens of a text: where each begins and ends.
fn tokens(text: &[u8]) -> impl Iterator<Item = std::ops::Range<usize>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = text.get(at..)?;
        let start = at + rest.iter().position(|b| lower(*b).is_some())?;
        let token = text.get(start..)?;
        let end = token.iter().position(|b| lower(*b).is_none());
        at = start + end.unwrap_or(token.len());
        Some(start..at)
    })
}

/// 64 bytes, which a cache holds together.
#[repr(align(64))]
#[derive(Default)]
struct Line([AtomicU64; 8]);

/// One filter being filled.
struct Part {
    lines: Vec<Line>,
    blocks: u64,
    given_up: AtomicBool,
    /// Of threads that have gone.
    idle: Mutex<Vec<Waiting>>,
}

impl Part {
    fn new(blocks: u64) -> Part {
        let lines = usize::try_from(blocks * LINES).unwrap_or(0);
        let mut part = Part {
            lines: Vec::new(),
            blocks,
            given_up: AtomicBool::new(false),
            idle: Mutex::default(),
        };
        part.lines.resize_with(lines, Line::default);
        part
    }

    /// Inserts elements of about one place. Looks at all lines before it changes one: a change waits
    /// for its line alone, while looks are waited for together.
    fn insert(&self, hashes: &[u64]) {
        for hashes in hashes.chunks(TOGETHER) {
            let mut lacking = [0; TOGETHER];
            for (hash, lacking) in hashes.iter().zip(&mut lacking) {
                for (word, bits) in self.words(*hash) {
                    *lacking |= bits & !word.load(Ordering::Relaxed);
                }
            }
            for (hash, _) in hashes.iter().zip(lacking).filter(|(_, l)| *l != 0) {
                for (word, bits) in self.words(*hash) {
                    word.fetch_or(bits, Ordering::Relaxed);
                }
            }
        }
    }

    /// The words in which an element has bits, and the bits.
    #[inline]
    fn words(&self, hash: u64) -> impl Iterator<Item = (&AtomicU64, u64)> {
        let place = place(hash, self.blocks);
        let line = self.lines.get((place.block * LINES + place.line) as usize);
        let words = place.words.into_iter();
        words.filter_map(move |(n, bits)| Some((line?.0.get(n)?, bits)))
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    /// Gives it up if it is all but full, by the look of about so many of its lines.
    fn weigh(&self, sample: usize) {
        if !self.is_given_up() && self.fill(sample) > GIVE_UP_ABOVE {
            self.given_up.store(true, Ordering::Relaxed);
        }
    }

    /// The share of bits that are set, by the look of about so many lines.
    fn fill(&self, sample: usize) -> f64 {
        let step = (self.lines.len() / sample.max(1)).max(1);
        let (mut ones, mut all) = (0, 0);
        for Line(line) in self.lines.iter().step_by(step) {
            let of_word = |w: &AtomicU64| u64::from(w.load(Ordering::Relaxed).count_ones());
            ones += line.iter().map(of_word).sum::<u64>();
            all += 512;
        }
        ones as f64 / f64::from(all.max(1))
    }

    /// Folds it to the size that its elements need. Returns the number of blocks; none if it is
    /// given up.
    fn finish(&mut self) -> u64 {
        for waiting in std::mem::take(&mut *self.idle()) {
            waiting.regions.iter().for_each(|r| self.insert(r));
        }
        self.weigh(usize::MAX);
        if self.is_given_up() {
            (self.blocks, self.lines) = (0, Vec::new());
        }
        while self.blocks > 1 && self.fill(usize::MAX) < FOLD_BELOW {
            self.blocks /= 2;
            for at in 0..(self.blocks * LINES) as usize {
                let (block, line) = (at as u64 / LINES, at as u64 % LINES);
                let of = |b: u64| self.lines.get((b * LINES + line) as usize);
                let (Some(Line(a)), Some(Line(b))) = (of(2 * block), of(2 * block + 1)) else {
                    break;
                };
                let both = a.iter().zip(b);
                let mut both =
                    both.map(|(a, b)| a.load(Ordering::Relaxed) | b.load(Ordering::Relaxed));
                let line = std::array::from_fn(|_| both.next().unwrap_or_default().into());
                if let Some(at) = self.lines.get_mut(at) {
                    *at = Line(line);
                }
            }
            self.lines.truncate((self.blocks * LINES) as usize);
        }
        self.blocks
    }

    fn payloads(&self) -> impl Iterator<Item = Cow<'_, [u8]>> {
        self.lines.chunks(LINES as usize).map(|block| {
            let words = block.iter().flat_map(|Line(l)| l.iter());
            let words = words.map(|w| w.load(Ordering::Relaxed));
            Cow::Owned(words.flat_map(u64::to_be_bytes).collect())
        })
    }
}

/// Elements that wait to be inserted into one filter, region by region.
struct Waiting {
    seen: Vec<u64>,
    regions: Vec<Vec<u64>>,
}

impl Default for Waiting {
    fn default() -> Waiting {
        // No place holds an element that belongs there.
        let seen = (0..SEEN).map(|i| if i == 0 { 1 << SEEN_SHIFT } else { 0 });
        Waiting {
            seen: seen.collect(),
            regions: vec![Vec::new(); REGIONS],
        }
    }
}

/// What one thread adds to one filter. What still waits when it goes is left to the next thread, or
/// to [`Part::finish`].
struct Pending<'a> {
    part: &'a Part,
    waiting: Waiting,
}

impl<'a> Pending<'a> {
    fn of(part: &'a Part) -> Pending<'a> {
        let waiting = part.idle().pop().unwrap_or_default();
        Pending { part, waiting }
    }

    #[inline]
    fn push(&mut self, hash: u64) {
        let seen = (hash >> SEEN_SHIFT) as usize % SEEN;
        if let Some(seen) = self.waiting.seen.get_mut(seen) {
            if *seen == hash {
                return;
            }
            *seen = hash;
        }
        let region = (hash >> 56) as usize % REGIONS;
        if let Some(region) = self.waiting.regions.get_mut(region) {
            region.push(hash);
            if region.len() == REGION_ELEMENTS {
                self.part.insert(region);
                region.clear();
            }
        }
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        let waiting = Waiting {
            seen: std::mem::take(&mut self.waiting.seen),
            regions: std::mem::take(&mut self.waiting.regions),
        };
        self.part.idle().push(waiting);
    }
}

/// Adds values to a builder, from one thread.
pub struct Adder<'a> {
    builder: &'a FilterBuilder,
    tokens: Pending<'a>,
    grams: Pending<'a>,
}

impl Adder<'_> {
    /// Adds the elements of a value.
    pub fn add(&mut self, value: &[u8]) {
        let (tokens, grams) = (&mut self.tokens, &mut self.grams);
        match (grams.part.is_given_up(), tokens.part.is_given_up()) {
            (false, _) => elements(value, |t| tokens.push(t), |g| grams.push(g)),
            (true, false) => elements(value, |t| tokens.push(t), |_| {}),
            (true, true) => {}
        }
    }

    /// Looks whether it is worth going on, which is to be asked once in a while: of what is all but
    /// full nothing more is added.
    pub fn weigh(&self) {
        self.builder.tokens.weigh(SAMPLE_LINES);
        self.builder.grams.weigh(SAMPLE_LINES);
    }
}

/// Hands out the hashes of a value's tokens, and of their grams.
#[inline]
fn elements(value: &[u8], mut whole: impl FnMut(u64), mut gram: impl FnMut(u64)) {
    let mut end = |token: &mut TokenHash| {
        if (1..=TOKEN_BYTES_MAX).contains(&token.len) {
            whole(token.finish());
        }
        *token = TokenHash::default();
    };
    let mut token = TokenHash::default();
    for b in value {
        match lower(*b) {
            Some(c) => {
                token.push(c);
                if let Some((hash, _)) = token.gram() {
                    gram(hash);
                }
            }
            None => end(&mut token),
        }
    }
    end(&mut token);
}

/// Blocks of the filters of a file; 0 for one that is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Blocks {
    /// Of whole tokens.
    pub tokens: u64,
    /// Of grams.
    pub grams: u64,
}

/// The filters of a file being filled, by any number of threads at once.
pub struct FilterBuilder {
    tokens: Part,
    grams: Part,
}

impl FilterBuilder {
    /// Filters for about so many bytes of text.
    pub fn for_text(bytes: u64) -> FilterBuilder {
        // One byte of filter for each 16 of text is more than enough for prose.
        let blocks = (bytes / 16 / PAYLOAD_BYTES as u64)
            .max(1)
            .next_power_of_two()
            .min(BLOCKS_MAX);
        FilterBuilder {
            tokens: Part::new(blocks),
            grams: Part::new(blocks),
        }
    }

    /// What a thread adds values with.
    pub fn adder(&self) -> Adder<'_> {
        Adder {
            builder: self,
            tokens: Pending::of(&self.tokens),
            grams: Pending::of(&self.grams),
        }
    }

    /// Folds them to the sizes that their elements need.
    pub fn finish(&mut self) -> Blocks {
        Blocks {
            tokens: self.tokens.finish(),
            grams: self.grams.finish(),
        }
    }

    /// The payload of each block: tokens, then grams.
    pub fn payloads(&self) -> impl Iterator<Item = Cow<'_, [u8]>> {
        self.tokens.payloads().chain(self.grams.payloads())
    }
}

type BlockOf<'a> = Box<dyn Fn(u64) -> Result<&'a [u8], Defect> + 'a>;

/// Filters that were written, block by block.
pub struct Filter<'a> {
    blocks: Blocks,
    block: BlockOf<'a>,
}

impl<'a> Filter<'a> {
    /// The filters of so many blocks, whose payloads `block` gives: tokens, then grams.
    pub fn new(blocks: Blocks, block: BlockOf<'a>) -> Filter<'a> {
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
            if !self.has_token(token, bounded, ignore_case)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether a token may be there: as a whole if the text bounds it, and its grams.
    fn has_token(&self, token: &[u8], bounded: bool, ignore_case: bool) -> Result<bool, Defect> {
        let askable = |part: &[u8]| !ignore_case || part.iter().all(|b| is_plain(*b));
        let mut hash = TokenHash::default();
        for (i, b) in token.iter().enumerate() {
            hash.push(lower(*b).unwrap_or_default());
            if let Some((gram, len)) = hash.gram()
                && token.get(i + 1 - len..=i).is_some_and(askable)
                && !self.has(self.blocks.tokens, self.blocks.grams, gram)?
            {
                return Ok(false);
            }
        }
        Ok(!bounded
            || token.len() > TOKEN_BYTES_MAX
            || !askable(token)
            || self.has(0, self.blocks.tokens, hash.finish())?)
    }

    /// Whether an element is in the filter of so many blocks that begins at block `at`.
    fn has(&self, at: u64, blocks: u64, hash: u64) -> Result<bool, Defect> {
        if blocks == 0 {
            return Ok(true);
        }
        let place = place(hash, blocks);
        let payload = (self.block)(at + place.block)?;
        let line = usize::try_from(place.line * 64).unwrap_or(usize::MAX);
        Ok(place.words.iter().all(|(number, bits)| {
            let word = payload.get(line + number * 8..line + number * 8 + 8);
            let word = word.and_then(|w| w.try_into().ok()).map(u64::from_be_bytes);
            word.is_some_and(|w| w & bits == *bits)
        }))
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

    fn filter_of(values: &[Vec<u8>], bytes: u64) -> (Blocks, Vec<Vec<u8>>) {
        let mut builder = FilterBuilder::for_text(bytes);
        let mut adder = builder.adder();
        values.iter().for_each(|v| adder.add(v));
        drop(adder);
        let blocks = builder.finish();
        (blocks, builder.payloads().map(Cow::into_owned).collect())
    }

    fn ask(
        f: &(Blocks, Vec<Vec<u8>>),
        question: impl Fn(&Filter<'_>) -> Result<bool, Defect>,
    ) -> bool {
        let block = |n: u64| Ok(&f.1[n as usize][..]);
        question(&Filter::new(f.0, Box::new(block))).unwrap()
    }

    /// The token whose hash is 0: what the places for elements that were met last begin with.
    fn token_of_hash_0() -> Vec<u8> {
        const ODD: u64 = 0xff51_afd7_ed55_8ccd;
        let inverse = (0..6).fold(ODD, |x, _| {
            x.wrapping_mul(2u64.wrapping_sub(ODD.wrapping_mul(x)))
        });
        let back = |x: u64| (x ^ (x >> 32)).wrapping_mul(inverse);
        let letters = |mut n: u64| {
            let mut digit = |()| {
                let letter = b'a' + (n % 26) as u8;
                n /= 26;
                letter
            };
            [(); 4].map(&mut digit)
        };
        let token = |n: u64| {
            let rest = letters(n);
            let hash = back(12) ^ u64::from(u32::from_be_bytes(rest));
            [&back(hash).to_be_bytes()[..], &rest].concat()
        };
        let is_lower = |t: &Vec<u8>| t.iter().all(|b| lower(*b) == Some(*b));
        (0..26u64.pow(4)).map(token).find(is_lower).unwrap()
    }

    #[test]
    fn a_token_whose_hash_is_0_is_there() {
        let token = token_of_hash_0();
        let mut hash = TokenHash::default();
        token.iter().for_each(|b| hash.push(*b));
        assert_eq!(hash.finish(), 0);
        let f = filter_of(std::slice::from_ref(&token), 1 << 20);
        assert!(ask(&f, |f| f.may_be(&token)));
    }

    #[test]
    fn tokens_too_long_to_be_there_as_a_whole_are_not_denied() {
        for len in [
            TOKEN_BYTES_MAX - 1,
            TOKEN_BYTES_MAX,
            TOKEN_BYTES_MAX + 1,
            200,
        ] {
            let token = "xyz_".repeat(50).as_bytes()[..len].to_vec();
            let f = filter_of(std::slice::from_ref(&token), 1 << 20);
            assert!(ask(&f, |f| f.may_be(&token)), "{len}");
            let text = [b" ", &token[..], b" "].concat();
            assert!(ask(&f, |f| f.may_contain(&text, false)), "{len}");
            let other = "zyx_".repeat(50).as_bytes()[..len].to_vec();
            assert!(!ask(&f, |f| f.may_be(&other)), "{len}: its grams");
        }
    }

    #[test]
    fn absent_texts_are_denied_and_folding_keeps_what_is_there() {
        let line = |i: u64| format!("{{\"id\":\"order-{i:08}\",\"level\":\"Info\"}}").into_bytes();
        let lines: Vec<Vec<u8>> = (0..2000).map(line).collect();
        let f = filter_of(&lines, 16 << 20);
        let Blocks { tokens, grams } = f.0;
        assert!(
            (1..16).contains(&tokens) && (1..16).contains(&grams),
            "{:?}",
            f.0
        );
        assert_eq!(f.1.len() as u64, tokens + grams);
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
        let f = filter_of(&["un ÉTÉ, vraiment".as_bytes().to_vec()], 1 << 20);
        assert!(ask(&f, |f| f.may_contain(" été,".as_bytes(), true)));
        assert!(!ask(&f, |f| f.may_contain(" été,".as_bytes(), false)));
    }

    #[test]
    fn a_filter_that_is_all_but_full_is_given_up_and_says_maybe() {
        let line = |i: u64| format!("at {:016x}", mix(i)).into_bytes();
        let lines: Vec<Vec<u8>> = (0..60_000).map(line).collect();
        let mut builder = FilterBuilder::for_text(500 << 10);
        for lines in lines.chunks(1000) {
            let mut adder = builder.adder();
            lines.iter().for_each(|l| adder.add(l));
            adder.weigh();
        }
        assert!(builder.grams.is_given_up() && !builder.tokens.is_given_up());
        let blocks = builder.finish();
        assert!(blocks.tokens > 0 && blocks.grams == 0, "{blocks:?}");
        let f: (_, Vec<Vec<u8>>) = (blocks, builder.payloads().map(Cow::into_owned).collect());
        assert_eq!(f.1.len() as u64, blocks.tokens);
        for line in &lines {
            assert!(ask(&f, |f| f.may_be(line)));
        }
        assert!(
            ask(&f, |f| f.may_contain(b"unheard of", false)),
            "grams are not known"
        );
        let known = (0..100).filter(|n| ask(&f, |f| f.may_be(format!("unheard{n}").as_bytes())));
        assert!(known.count() < 60, "tokens are");
        // So full of tokens that nothing is worth its bytes.
        let f = filter_of(&lines, 1);
        assert_eq!(f, (Blocks::default(), Vec::new()));
        assert!(ask(&f, |f| f.may_be(b"unheard")));
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
