//! A plan in words: what `--dry-run` prints, and what was done.

use super::plan::{Plan, Tail};
use super::{Report, Step};
use crate::format::names::{self, Kind, State, file_name};

impl Plan {
    /// The plan in words.
    pub fn report(&self) -> Report {
        let mut steps = self.leftover_steps();
        for t in &self.taken_out {
            let (from, to) = (t.bytes.start, t.bytes.end);
            let what = format!(
                "set aside bytes {from}..{to}, offset {} on: {}",
                t.offset, t.reason
            );
            steps.push(Step::new(self.name(t.at), what));
        }
        self.segment_steps(&mut steps);
        self.derived_steps(&mut steps);
        Report {
            steps,
            lost: self.lost.clone(),
            left: self.left.clone(),
        }
    }

    fn leftover_steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for name in &self.leftovers {
            let bad = self.bad_swaps.iter().any(|b| b.base == name.base);
            let what = match name.state {
                State::Cleaned => "remove: output of a replacement that was not committed",
                State::Swap if bad => "put in place as it is; what it replaces goes to lost+found",
                State::Swap => "finish the replacement of segments",
                State::Deleted => "remove: deleted before",
                State::Plain => "remove: an index without a log",
            };
            steps.push(Step::new(name.to_string(), what));
        }
        if self.failed {
            let what = "read back what the device holds, remove the mark";
            steps.push(Step::new(".logd/failed", what));
        }
        steps
    }

    fn segment_steps(&self, steps: &mut Vec<Step>) {
        match (self.tail, self.segments.len().checked_sub(1)) {
            (Tail::NewSegment(begin), _) => {
                steps.push(Step::new(
                    file_name(begin, Kind::Log),
                    "begin a new segment",
                ));
            }
            (Tail::Cut, Some(last)) => steps.push(Step::new(self.name(last), "cut the torn tail")),
            _ => {}
        }
        for r in &self.rewrites {
            let what = match (r.run.len(), r.filler) {
                (1, None) => "rewrite with what is intact".to_string(),
                (1, Some(last)) => format!("rewrite with what is intact, up to offset {last}"),
                (n, _) => format!("rewrite {n} segments as one, with what is intact"),
            };
            steps.push(Step::new(self.name(r.run.start), what));
        }
        for i in &self.moved {
            let what = "set aside whole: nothing of it counts";
            steps.push(Step::new(self.name(*i), what));
        }
    }

    fn derived_steps(&self, steps: &mut Vec<Step>) {
        for i in &self.indexes {
            let what = "make its offset and time index anew";
            steps.push(Step::new(self.name(*i), what));
        }
        for i in &self.txns {
            steps.push(Step::new(self.name(*i), "make its transaction index anew"));
        }
        for gap in &self.gaps {
            let what = format!("note that offsets {}..{} are missing", gap.start, gap.end);
            steps.push(Step::new(".logd/rewritten", what));
        }
        for (at, anew) in &self.snapshots {
            let what = match anew {
                true => "make anew",
                false => "remove: behind the end of the log",
            };
            steps.push(Step::new(file_name(*at, Kind::Snapshot), what));
        }
        for name in &self.lookups {
            let what = "remove: damaged, and logd index makes it anew";
            steps.push(Step::new(format!(".logd/keys/{name}"), what));
        }
        if self.raise_durable {
            let what = "publish what follows the gap as durable";
            steps.push(Step::new(".logd/end", what));
        }
        if self.epochs.is_some() {
            steps.push(Step::new(names::LEADER_EPOCH_CHECKPOINT, "make anew"));
        }
    }
}
