//! Bytes made fit to be looked at: control bytes, invalid UTF-8 and bidi controls as escapes.
//!
//! | bytes | shown as |
//! |---|---|
//! | C0 (tab and newline too), DEL | `\xNN` |
//! | bytes that are not UTF-8 | `\xNN` each |
//! | C1, bidi controls, line and paragraph separator | `\u{…}` |
//!
//! A backslash stays as it is: this is for eyes, not for reading back.

/// Appends `bytes` as above.
pub fn visible(bytes: &[u8], out: &mut Vec<u8>) {
    if bytes.iter().all(|b| (0x20..0x7f).contains(b)) {
        out.extend_from_slice(bytes);
        return;
    }
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                _ if !is_hidden(c) => {
                    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                }
                '\0'..='\x7f' => hidden_byte(c as u8, out),
                _ => out.extend_from_slice(format!("\\u{{{:x}}}", u32::from(c)).as_bytes()),
            }
        }
        for b in chunk.invalid() {
            hidden_byte(*b, out);
        }
    }
}

/// `bytes` as [`visible`] shows them, for a message.
pub fn visible_string(bytes: &[u8]) -> String {
    let mut out = Vec::with_capacity(bytes.len());
    visible(bytes, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

/// Whether a terminal would act on `c` instead of showing it.
pub(super) fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}'
                | '\u{200e}'
                | '\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2066}'..='\u{2069}'
        )
}

fn hidden_byte(b: u8, out: &mut Vec<u8>) {
    out.extend_from_slice(b"\\x");
    super::encode::hex(&[b], out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_bytes_become_escapes() {
        let show = |b: &[u8]| visible_string(b);
        assert_eq!(show(b"a\tb\n\x1b[31m\x7f\0"), r"a\x09b\x0a\x1b[31m\x7f\x00");
        assert_eq!(
            show("é\u{9b}\u{202e}\u{2066}\u{2028}\u{200f}".as_bytes()),
            r"é\u{9b}\u{202e}\u{2066}\u{2028}\u{200f}"
        );
        assert_eq!(show(b"ok\xff\xc3(\xe2\x82"), r"ok\xff\xc3(\xe2\x82");
        assert_eq!(show(br"C:\x41"), r"C:\x41");
    }

    proptest::proptest! {
        #[test]
        fn nothing_hidden_is_left(bytes in proptest::collection::vec(0u8.., 0..64)) {
            let text = visible_string(&bytes);
            proptest::prop_assert!(!text.chars().any(is_hidden));
        }
    }
}
