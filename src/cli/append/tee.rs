//! `-T`: stdout as a place for a copy of the input.

use std::io::{self, Write};

use crate::cli::stdio::Stdout;
use crate::ops::output::escape::visible;

/// Where the copy goes: to a terminal nothing but line ends steers it, unless it is to be `raw`.
pub fn tee(raw: bool) -> Box<dyn Write + Send> {
    let stdout = Stdout::new();
    match stdout.is_terminal() && !raw {
        true => Box::new(Visible(stdout)),
        false => Box::new(stdout),
    }
}

/// Shows lines. What it gets ends where a record does, so no character comes in two parts.
struct Visible<W>(W);

impl<W: Write> Write for Visible<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut shown = Vec::with_capacity(bytes.len());
        for line in bytes.split_inclusive(|b| *b == b'\n') {
            match line.split_last() {
                Some((b'\n', line)) => {
                    visible(line, &mut shown);
                    shown.push(b'\n');
                }
                _ => visible(line, &mut shown),
            }
        }
        self.0.write_all(&shown)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_stay_lines_and_nothing_else_steers() {
        let mut out = Visible(Vec::new());
        out.write_all(b"a\x1b[2J\nb\xff\n\nc").unwrap();
        out.write_all("é\n".as_bytes()).unwrap();
        assert_eq!(out.0, "a\\x1b[2J\nb\\xff\n\ncé\n".as_bytes());
    }
}
