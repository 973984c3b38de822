//! Eight bytes at a time in one register, the first byte lowest.
//!
//! JSON has something to escape every few bytes, too often for a vectorised search, which pays only
//! over longer runs. A mask has the top bit of each byte that a test holds for. Unless a test says
//! otherwise it is exact: no borrow or carry passes from one byte to the next.

const ONES: u64 = 0x0101_0101_0101_0101;
const TOPS: u64 = ONES << 7;

/// The bytes equal to `b`.
#[inline(always)]
pub(in crate::ops) fn equal(x: u64, b: u8) -> u64 {
    let v = x ^ (ONES * b as u64);
    // The low seven bits plus 0x7f reach the top bit unless they are zero.
    !(((v & !TOPS) + !TOPS) | v) & TOPS
}

/// The bytes equal to `a` or `b`, in fewer steps than [`equal`]: exact up to the first of them, not
/// after it.
#[inline(always)]
pub(in crate::ops) fn either(x: u64, a: u8, b: u8) -> u64 {
    // Only a zero byte borrows from those after it.
    let zero = |v: u64| v.wrapping_sub(ONES) & !v;
    (zero(x ^ (ONES * a as u64)) | zero(x ^ (ONES * b as u64))) & TOPS
}

/// Not 0 if any byte is below 0x20 or not ASCII. Folds of it compile to vector code.
#[inline(always)]
pub(in crate::ops) fn not_plain(x: u64) -> u64 {
    // Only a byte below 0x20, which keeps its top bit, borrows from those after it.
    (x | x.wrapping_sub(ONES * 0x20)) & TOPS
}

/// The bytes below 0x20.
#[inline(always)]
pub(in crate::ops) fn below_space(x: u64) -> u64 {
    !(((x & !TOPS) + ONES * 0x60) | x) & TOPS
}

/// Index of the first byte in a mask; 8 if there is none.
#[inline(always)]
pub(in crate::ops) fn first(mask: u64) -> usize {
    mask.trailing_zeros() as usize / 8
}

/// The eight bytes at the start of `bytes`, if there are so many.
#[inline(always)]
pub(in crate::ops) fn load(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk().map(|eight| u64::from_le_bytes(*eight))
}

/// Where the first quote or backslash is.
#[inline(always)]
pub(in crate::ops) fn quote_or_backslash(bytes: &[u8]) -> Option<usize> {
    // Names and the runs between escapes are short; values without escapes are for memchr.
    let mut at = 0;
    while at < 32
        && let Some(x) = bytes.get(at..).and_then(load)
    {
        let mask = either(x, b'"', b'\\');
        if mask != 0 {
            return Some(at + first(mask));
        }
        at += 8;
    }
    let rest = bytes.get(at..).unwrap_or_default();
    memchr::memchr2(b'"', b'\\', rest).map(|n| at + n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn masks_are_exact(bytes in any::<[u8; 8]>(), near in "[\"\\\\ !#\\x1f\\x20\\x21]{8}", b in any::<u8>()) {
            for bytes in [bytes, near.as_bytes().try_into().unwrap()] {
                let x = u64::from_le_bytes(bytes);
                let mask = |test: &dyn Fn(u8) -> bool| {
                    u64::from_le_bytes(bytes.map(|b| if test(b) { 0x80 } else { 0 }))
                };
                prop_assert_eq!(equal(x, b), mask(&|c| c == b));
                prop_assert_eq!(equal(x, b'"'), mask(&|c| c == b'"'));
                prop_assert_eq!(below_space(x), mask(&|c| c < 0x20));
                let exact = mask(&|c| c == b'"' || c == b);
                prop_assert_eq!(first(either(x, b'"', b)), first(exact));
                let plain = bytes.iter().all(|c| (0x20..0x80).contains(c));
                prop_assert_eq!(not_plain(x) == 0, plain);
            }
        }

        #[test]
        fn first_quote_or_backslash_is_found(text in "[a-z]{0,60}[\"\\\\]?[a-z\"]{0,9}") {
            let plain = text.bytes().position(|b| matches!(b, b'"' | b'\\'));
            prop_assert_eq!(quote_or_backslash(text.as_bytes()), plain);
        }
    }
}
