//! Waits until a log reaches an offset.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Instant;

use super::topic::Partition;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{Limits, Offset};
use crate::log::files;
use crate::log::listing::LogDir;
use crate::log::reader::read_end;
use crate::log::view::View;
use crate::sys::watch::{Wake, Watch, WatchId};
use crate::sys::{Access, FileId, Host};

/// Waits until the log end of a partition (with `durable`, its durable offset) is at `wanted` or
/// beyond, or a signal asks to stop. `out` is the descriptor whose reader may go away meanwhile.
///
/// # Errors
/// `Timeout` when `deadline` passes first; `ClosedPipe` when the reader is gone; else what reading the
/// log may meet.
pub fn until(
    host: &Arc<dyn Host>,
    partition: &Partition,
    wanted: Offset,
    durable: bool,
    deadline: Option<Instant>,
    out: Option<BorrowedFd<'_>>,
) -> Result<()> {
    let mut view = View::of(LogDir::open(host.as_ref(), &partition.path)?)?;
    let mut watch = Watch::new();
    let _ = watch.dir(view.log().dir().as_ref());
    let mut tail: Option<(FileId, WatchId)> = None;
    let mut durable_watched = !durable;
    loop {
        // Watch first, then look: nothing that comes between is missed.
        loop {
            view.renew()?;
            let new = watch_tail(&mut watch, &view, &mut tail);
            let known = durable_watched;
            durable_watched = known || watch_durable(&mut watch, &view);
            if !new && known == durable_watched {
                break;
            }
        }
        let reached = match durable {
            true => read_end(&view)?.durable.unwrap_or_default(),
            false => view.end(Limits::default())?,
        };
        if reached >= wanted {
            return Ok(());
        }
        let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
        match watch
            .wait(left, out)
            .map_err(|e| Error::io("cannot wait", e))?
        {
            _ if deadline.is_some_and(|d| d <= Instant::now()) => {
                let why = format!("--timeout passed; the log is at offset {reached}, not {wanted}");
                return Err(Error::new(ErrorKind::Timeout, why).at_path(&partition.path));
            }
            Wake::ReaderGone => {
                return Err(Error::new(ErrorKind::ClosedPipe, "the reader is gone"));
            }
            Wake::Interrupted => return Ok(()),
            Wake::Changed | Wake::Timeout => {}
        }
    }
}

/// Watches the file that takes appends now. Tells whether it is another than before.
fn watch_tail(watch: &mut Watch, view: &View, watched: &mut Option<(FileId, WatchId)>) -> bool {
    let Some(tail) = view.tail() else {
        return false;
    };
    let Ok(now) = tail.file.id() else {
        return false;
    };
    if watched.as_ref().is_some_and(|(id, _)| *id == now) {
        return false;
    }
    let new = watch.file(tail.file.as_ref());
    if let Some((_, old)) = watched.replace((now, new)) {
        watch.remove(old);
    }
    true
}

/// Watches the file that D is published in. False while there is none: it is made before the first
/// batch is written, and never in a directory that only a broker writes to.
pub fn watch_durable(watch: &mut Watch, view: &View) -> bool {
    let dir = view.log().dir().open_dir(files::LOGD_DIR);
    let Ok(end) = dir.and_then(|d| d.open(files::END, Access::Read)) else {
        return false;
    };
    let _ = watch.file(end.as_ref());
    true
}
