//! Text that cannot steer a terminal: control characters, broken UTF-8 and bidirectional overrides
//! become visible escapes.
//!
//! | in | out |
//! |---|---|
//! | C0 (tab and newline too), DEL, C1 (`U+0080..U+009F`) | `\xNN`, `\u{NN}` for C1 |
//! | bytes that are not UTF-8 | `\xNN` each |
//! | `U+061C`, `U+200E`, `U+200F`, `U+2028`, `U+2029`, `U+202A..U+202E`, `U+2066..U+2069` | `\u{NNNN}` |
//! | anything else | itself |
//!
//! The backslash stays itself: this is for eyes, not for parsing back.

use std::fmt::Write;

/// Appends `bytes` to `out`, escaped.
pub fn escape_into(out: &mut String, bytes: &[u8]) {
    for chunk in bytes.utf8_chunks() {
        escape_str(out, chunk.valid());
        for b in chunk.invalid() {
            hex(out, *b);
        }
    }
}

/// `bytes` as a line that is safe to show.
pub fn escaped(bytes: impl AsRef<[u8]>) -> String {
    let bytes = bytes.as_ref();
    let mut out = String::with_capacity(bytes.len());
    escape_into(&mut out, bytes);
    out
}

fn escape_str(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '\0'..='\x1f' | '\x7f' => hex(out, c as u8),
            '\u{80}'..='\u{9f}'
            | '\u{61c}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}' => {
                let _ = write!(out, "\\u{{{:x}}}", c as u32); // a String takes everything
            }
            _ => out.push(c),
        }
    }
}

fn hex(out: &mut String, b: u8) {
    let _ = write!(out, "\\x{b:02x}"); // a String takes everything
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_steers_a_terminal_passes() {
        assert_eq!(escaped("a\x1b[31m\n\t\x7f"), r"a\x1b[31m\x0a\x09\x7f");
        assert_eq!(
            escaped("\u{9b}x\u{202e}y\u{2069}"),
            r"\u{9b}x\u{202e}y\u{2069}"
        );
        assert_eq!(escaped(b"\xffa\xc3"), r"\xffa\xc3");
        assert_eq!(escaped("naïve \\ 文"), "naïve \\ 文");
    }
}
