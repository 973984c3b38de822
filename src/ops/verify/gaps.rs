//! Gaps between segments that nothing explains: a segment, or the end of one, is missing.
//!
//! A segment is sealed where the next begins, so our own appends leave no gap between two. Compaction
//! does, in logs of others, and repair; both leave traces. A gap is told only in a log that logd has
//! made durable, that shows no other trace of compaction, and whose gap nobody noted.

use super::Env;
use crate::error::Result;
use crate::format::{Offset, names};
use crate::log::broker::checkpointed;
use crate::log::{files, rewritten};
use crate::ops::settings::{self, Words};
use crate::segment::active::RELATIVE_OFFSET_MAX;
use std::ops::Range;

/// Which of `gaps` nothing explains; `has_others` says that offsets are missing inside segments too.
///
/// # Errors
/// What reading our own files may meet.
pub fn unexplained(
    env: &Env<'_>,
    gaps: Vec<Range<Offset>>,
    has_others: bool,
) -> Result<Vec<Range<Offset>>> {
    let Some(durable) = env.end.durable.filter(|_| !gaps.is_empty() && !has_others) else {
        return Ok(Vec::new());
    };
    if is_compacted(env) {
        return Ok(Vec::new());
    }
    let Ok(dir) = env.log.dir().open_dir(files::LOGD_DIR) else {
        return Ok(Vec::new());
    };
    let noted = rewritten::read(dir.as_ref())?;
    let explained = |g: &Range<Offset>| {
        let touches = |o: &Range<Offset>| o.start <= g.end && g.start <= o.end;
        let wide = g.end - g.start > RELATIVE_OFFSET_MAX;
        wide || g.end > durable || noted.iter().any(|r| touches(&r.offsets))
    };
    Ok(gaps.into_iter().filter(|g| !explained(g)).collect())
}

/// Whether a broker has compacted it, or its settings say that somebody does. What cannot be read
/// says so too: no alarm for lack of knowledge.
fn is_compacted(env: &Env<'_>) -> bool {
    let parent = env.log.parent();
    let cleaned =
        parent.and_then(|p| checkpointed(p.as_ref(), names::CLEANER_CHECKPOINT, env.log.name()));
    let none = Words::default();
    let layered = settings::read(env.log.dir().as_ref())
        .and_then(|document| settings::layered(&none, &document.words, &none));
    cleaned.is_some() || layered.map_or(true, |l| l.settings.cleanup.compact)
}
