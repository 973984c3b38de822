//! A partition directory as a copy. One that is not there yet is made when the source has something
//! to send, not before: a run that is refused leaves nothing behind.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::ends::CopyLog;
use super::log_source::{batch_id, changed_of, records_in};
use crate::error::{Error, ErrorKind, Result};
use crate::format::checkpoint::EpochStart;
use crate::format::wire::{Ask, CopyInfo, CopyState, Found, Question, RedactionId, SourceInfo};
use crate::format::{Limits, Offset};
use crate::log::compare;
use crate::log::copy::{Checked, Copy, CopyOptions};
use crate::log::lost::Lost;
use crate::log::replica::ReplicaOf;
use crate::ops::topic::{is_partition, open_if_there, parent};
use crate::ops::{create, settings};
use crate::sys::Host;

/// A partition that receives.
pub struct LogCopy {
    host: Arc<dyn Host>,
    path: PathBuf,
    options: CopyOptions,
    /// What the source is called, for the mark.
    source: String,
    copy: Option<Copy>,
}

impl LogCopy {
    /// The partition at `path`, whether it is there or not.
    pub fn new(host: &Arc<dyn Host>, path: &Path, options: CopyOptions, source: &str) -> LogCopy {
        LogCopy {
            host: Arc::clone(host),
            path: path.to_path_buf(),
            options,
            source: source.to_string(),
            copy: None,
        }
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What recovery took out since this was last asked.
    pub fn take_lost(&mut self) -> Vec<Lost> {
        self.copy.as_mut().map(Copy::take_lost).unwrap_or_default()
    }

    /// Ends receiving.
    ///
    /// # Errors
    /// What the system answers.
    pub fn close(self) -> Result<()> {
        self.copy.map_or(Ok(()), Copy::close)
    }

    fn copy(&mut self) -> Result<&mut Copy> {
        let missing = || Error::new(ErrorKind::Bug, "a copy that was not opened");
        self.copy.as_mut().ok_or_else(missing)
    }

    /// Opens what is there; nothing is made.
    fn open(&mut self) -> Result<Option<&mut Copy>> {
        if self.copy.is_none() {
            let there = match open_if_there(self.host.as_ref(), &self.path)? {
                Some(dir) => is_partition(dir.as_ref())?,
                None => false,
            };
            if !there {
                return Ok(None);
            }
            let options = CopyOptions {
                create: None,
                ..self.options.clone()
            };
            self.copy = Some(Copy::open(&self.host, &self.path, options)?);
        }
        Ok(self.copy.as_mut())
    }
}

impl CopyLog for LogCopy {
    type Checked = Checked;

    fn check(bytes: &[u8], limits: &Limits) -> Result<Checked> {
        Copy::check(bytes, limits)
    }

    fn end_of(checked: &Checked) -> Option<Offset> {
        checked.end()
    }

    fn info(&mut self) -> Result<CopyInfo> {
        let Some(copy) = self.open()? else {
            return Ok(CopyInfo::default());
        };
        let s = copy.state()?;
        let state = match (&s.replica_of, s.end <= s.start && s.last.is_empty()) {
            (_, true) => CopyState::None,
            (Some(_), _) => CopyState::Copy,
            (None, _) => CopyState::Log,
        };
        let redactions = s.redactions.into_iter().map(|r| RedactionId {
            id: r.id,
            finished: r.finished_ms.is_some(),
        });
        Ok(CopyInfo {
            state,
            id: s.id.unwrap_or_default(),
            start: s.start,
            end: s.end,
            durable: s.durable,
            // An empty log has no epoch that anything was written in.
            epochs: if state == CopyState::None {
                Vec::new()
            } else {
                s.epochs
            },
            last: s.last.iter().map(batch_id).collect(),
            changed: changed_of(&s.rewritten),
            redactions: redactions.collect(),
        })
    }

    fn answer(&mut self, ask: &Ask) -> Result<(Offset, Found)> {
        let limits = self.options.limits;
        let range: Range<Offset> = ask.offsets.clone();
        let mut view = self.copy()?.view()?;
        Ok(match ask.what {
            Question::Digest => {
                let d = compare::digest(&mut view, range.clone(), &limits)?;
                let (batches, hash) = (d.batches, d.hash);
                (range.end, Found::Digest { batches, hash })
            }
            Question::Batch => {
                let found = compare::batch_at(&mut view, range.start, &limits)?;
                let found = found.filter(|b| b.base < range.end);
                (range.end, Found::Batch(found.as_ref().map(batch_id)))
            }
            Question::Records => {
                let (records, upto) = records_in(&mut view, range, &limits)?;
                (upto, Found::Records(records))
            }
        })
    }

    fn adopt(&mut self, source: &SourceInfo) -> Result<()> {
        if self.open()?.is_none() {
            create::open_parent(self.host.as_ref(), &parent(&self.path))?;
            let create = settings_of(source)?;
            let options = CopyOptions {
                create: Some(create),
                ..self.options.clone()
            };
            let mut copy = Copy::open(&self.host, &self.path, options)?;
            copy.state()?;
            self.copy = Some(copy);
        }
        let of = ReplicaOf {
            id: source.id,
            source: self.source.clone(),
        };
        self.copy()?.adopt(&of)
    }

    fn set_epochs(&mut self, epochs: &[EpochStart]) -> Result<()> {
        self.copy()?.set_epochs(epochs)
    }

    fn truncate(&mut self, at: Offset) -> Result<()> {
        let why = format!("diverged from {}", self.source);
        let copy = self.copy()?;
        copy.truncate(at, &why)?;
        // A batch is cut as a whole; what the source sends next would leave a gap then.
        match copy.end() < at {
            true => Err(Error::new(
                ErrorKind::Unreachable,
                format!("cut at offset {}, not {at}: to be tried again", copy.end()),
            )),
            false => Ok(()),
        }
    }

    fn put(&mut self, segment: Offset, bytes: &[u8], checked: &Checked) -> Result<Offset> {
        self.copy()?.put(segment, bytes, checked)
    }

    fn sync(&mut self) -> Result<Offset> {
        self.copy()?.sync()
    }

    fn forget_before(&mut self, start: Offset) -> Result<()> {
        self.copy()?.forget_before(start)
    }
}

/// The settings to make a copy with: the source's, which must be such that an appender can go on with
/// them after a promotion.
fn settings_of(source: &SourceInfo) -> Result<String> {
    let bad = |e: Error| Error::data(format!("the source's config.toml: {e}"));
    let text = String::from_utf8(source.config.clone());
    let text = text.map_err(|_| bad(Error::data("not UTF-8")))?;
    let document = settings::Document::parse(&text).map_err(bad)?;
    let none = settings::Words::default();
    settings::layered(&none, &document.words, &none).map_err(bad)?;
    Ok(text)
}
