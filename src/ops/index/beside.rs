//! The offset and time indexes beside sealed segments, brought up to date.
//!
//! One that [`are_current`] finds wanting is made anew from its log, every batch checked, aside, and
//! renamed. The other of the two is then made anew with it: what misled one may have misled both. A
//! damaged segment keeps what it has; the damage is told.

use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::format::Limits;
use crate::format::names::Kind;
use crate::log::listing::{SegmentRef, end_of, read_small};
use crate::log::maintenance::Maintenance;
use crate::segment::active::INDEX_BYTES_MAX;
use crate::segment::indexes::{Indexes, are_current};
use crate::segment::scan::{Scanner, Span, Step, Tail, is_zero};
use crate::sys::File;

/// What became of the indexes of a segment.
pub enum Beside {
    /// They can stay.
    Current,
    /// They were made anew.
    Made,
    /// The segment is damaged there.
    Damaged(Error),
}

/// Brings the indexes of one sealed segment up to date; with `rebuild` whatever they are.
///
/// # Errors
/// What reading and writing may meet. The indexes that were there are then still there.
pub fn bring_up(m: &Maintenance, segment: &SegmentRef, rebuild: bool) -> Result<Beside> {
    let path = m.log().path_of(&segment.log_name());
    let file = m.log().open_file(&segment.log_name())?;
    let made = bring(m, segment, &file, rebuild).map_err(|e| e.at_path(&path))?;
    let (offsets, times) = match made {
        Ok(None) => return Ok(Beside::Current),
        Ok(Some(indexes)) => indexes.finish(),
        Err(damage) => return Ok(Beside::Damaged(damage.at_path(&path))),
    };
    m.put_index(segment, Kind::OffsetIndex, &offsets)?;
    m.put_index(segment, Kind::TimeIndex, &times)?;
    Ok(Beside::Made)
}

/// New indexes if they are needed, or the damage that is in the way.
fn bring(
    m: &Maintenance,
    segment: &SegmentRef,
    file: &Arc<dyn File>,
    rebuild: bool,
) -> Result<std::result::Result<Option<Indexes>, Error>> {
    let span = Span::whole(segment.base(), end_of(&**file)?.0);
    if !rebuild {
        let there = (
            read(m, segment, Kind::OffsetIndex)?,
            read(m, segment, Kind::TimeIndex)?,
        );
        let mut scanner = Scanner::short(Arc::clone(file), span, Limits::default());
        if let (Some(offsets), Some(times)) = there
            && are_current(&mut scanner, &offsets, &times)?
        {
            return Ok(Ok(None));
        }
    }
    let mut indexes = Indexes::new(segment.base());
    let mut scanner = Scanner::new(Arc::clone(file), span, Limits::default());
    loop {
        let (at, why) = match scanner.step()? {
            Step::Batch(at) => {
                if let Some(header) = scanner.header() {
                    indexes.note(header, at);
                }
                continue;
            }
            Step::Bad(bad) => (bad.position + bad.defect.at as u64, bad.defect.reason),
            Step::End(end) => match end.tail {
                Tail::Clean => return Ok(Ok(Some(indexes))),
                Tail::Zeros if is_zero(&**file, end.position, span.end)? => {
                    return Ok(Ok(Some(indexes)));
                }
                _ => (end.position, "no batch, and more behind it".into()),
            },
        };
        let damage = Error::data(why).at_offset(scanner.next_offset().0);
        return Ok(Err(damage.at_position(at.0)));
    }
}

/// The bytes of an index; `None` if it is absent or cannot be one.
fn read(m: &Maintenance, segment: &SegmentRef, kind: Kind) -> Result<Option<Vec<u8>>> {
    let name = segment.index_name(kind);
    let Some(file) = m.log().open_optional(&name)? else {
        return Ok(None);
    };
    match read_small(&*file, INDEX_BYTES_MAX as u64) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == ErrorKind::Data => Ok(None),
        Err(e) => Err(e.at_path(m.log().path_of(&name))),
    }
}
