//! Hexadecimal (lower case) and base64 (standard alphabet, padded).

use data_encoding::{BASE64, Encoding, HEXLOWER};

/// Appends `bytes` in hexadecimal.
pub fn hex(bytes: &[u8], out: &mut Vec<u8>) {
    append(&HEXLOWER, bytes, out);
}

/// Appends `bytes` in base64.
pub fn base64(bytes: &[u8], out: &mut Vec<u8>) {
    append(&BASE64, bytes, out);
}

fn append(encoding: &Encoding, bytes: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + encoding.encode_len(bytes.len()), 0);
    encoding.encode_mut(bytes, out.get_mut(start..).unwrap_or_default());
}
