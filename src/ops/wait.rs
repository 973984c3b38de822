//! Waits until a log reaches an offset.

use std::sync::Arc;
use std::time::Instant;

use super::topic::Partition;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{Limits, Offset};
use crate::log::files;
use crate::log::listing::LogDir;
use crate::log::reader::read_end;
use crate::log::view::View;
use crate::sys::watch::{Wake, Watch};
use crate::sys::{Access, Host};

/// Waits until the log end of a partition (with `durable`, its durable offset) is at `wanted` or
/// beyond, or a signal asks to stop.
///
/// # Errors
/// `Timeout` when `deadline` passes first; else what reading the log may meet.
pub fn until(
    host: &Arc<dyn Host>,
    partition: &Partition,
    wanted: Offset,
    durable: bool,
    deadline: Option<Instant>,
) -> Result<()> {
    let mut view = View::of(LogDir::open(host.as_ref(), &partition.path)?)?;
    let mut watch = Watch::new();
    let _ = watch.dir(view.log().dir().as_ref());
    // D is published there; a directory without it, a broker's, has no D to wait for.
    if let Ok(dir) = view.log().dir().open_dir(files::LOGD_DIR)
        && let Ok(end) = dir.open(files::END, Access::Read)
    {
        let _ = watch.file(end.as_ref());
    }
    loop {
        // Watch first, then look: nothing that comes between is missed.
        let tail = view.tail().map(|t| watch.file(t.file.as_ref()));
        view.renew()?;
        let reached = match durable {
            true => read_end(&view)?.durable.unwrap_or_default(),
            false => view.end(Limits::default())?,
        };
        if reached >= wanted {
            return Ok(());
        }
        let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
        match watch
            .wait(left, None)
            .map_err(|e| Error::io("cannot wait", e))?
        {
            Wake::Timeout => {
                let why = format!("--timeout passed; the log is at offset {reached}, not {wanted}");
                return Err(Error::new(ErrorKind::Timeout, why).at_path(&partition.path));
            }
            Wake::Interrupted => return Ok(()),
            _ => {}
        }
        if let Some(id) = tail {
            watch.remove(id);
        }
    }
}
