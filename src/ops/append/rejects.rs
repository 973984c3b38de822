//! Records that `--on-error skip` leaves out, for somebody to look at and feed in again.
//!
//! One JSON object a line: `{"input":"stdin","line":7,"reason":"…","record":"…"}`, with `byte`
//! instead of `line` where lines mean nothing, and `record_b64` for bytes that are not UTF-8. The
//! record is as it came, delimiter included. A record too large to be held comes in several lines,
//! all but the first with the reason `continued`.

use std::fs::File;
use std::io::Write;

use crate::error::{Error, Result};
use crate::ops::input::{Bad, Place};

/// The file of `--rejects`.
#[derive(Debug)]
pub struct Rejects {
    file: File,
    name: String,
    count: u64,
}

impl Rejects {
    /// Writes to `file`, called `name` in messages.
    pub fn new(file: File, name: String) -> Rejects {
        Rejects {
            file,
            name,
            count: 0,
        }
    }

    /// Records rejected so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Writes one down.
    ///
    /// # Errors
    /// What the system answers.
    pub fn add(&mut self, input: &str, bad: &Bad<'_>) -> Result<()> {
        let mut line = serde_json::Map::new();
        line.insert("input".into(), input.into());
        match bad.place {
            Place::Line(n) => line.insert("line".into(), n.into()),
            Place::Byte(n) => line.insert("byte".into(), n.into()),
        };
        line.insert("reason".into(), bad.reason.clone().into());
        match std::str::from_utf8(bad.raw) {
            Ok(text) => line.insert("record".into(), text.into()),
            Err(_) => line.insert(
                "record_b64".into(),
                data_encoding::BASE64.encode(bad.raw).into(),
            ),
        };
        let mut text = serde_json::Value::Object(line).to_string();
        text.push('\n');
        self.count += u64::from(!bad.continued);
        let written = self.file.write_all(text.as_bytes());
        written.map_err(|e| Error::io("cannot write rejects", e).at_path(&self.name))
    }

    /// Makes what was written durable, as the log is.
    ///
    /// # Errors
    /// What the system answers.
    pub fn sync(&self) -> Result<()> {
        match self.file.sync_data() {
            // A pipe or terminal has nothing to sync.
            Err(e) if e.raw_os_error() == Some(nix::libc::EINVAL) => Ok(()),
            other => other.map_err(|e| Error::io("cannot sync rejects", e).at_path(&self.name)),
        }
    }
}
