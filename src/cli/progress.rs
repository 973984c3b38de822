//! How far a long job is, for whoever wants to know.
//!
//! | stderr is | `auto` | `always` | `never` |
//! |---|---|---|---|
//! | a terminal | a bar, after one second | a bar, after one second | nothing |
//! | anything else | nothing | a line every ten seconds | nothing |
//!
//! SIGUSR1 asks for one line now, in every case. No thread runs behind this: the job calls
//! [`Progress::advance`] as it goes, which costs one look at the clock.

use super::message::Messages;
use super::table::human_bytes;
use super::{Context, When};
use crate::sys::signals;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::time::{Duration, Instant};

/// A job that ends before this is not worth a bar.
const BAR_AFTER: Duration = Duration::from_secs(1);
/// Between two lines.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// Times a second that a bar is drawn.
const BAR_HZ: u8 = 10;

/// How far one job is. Dropping it removes the bar.
pub struct Progress {
    message: Messages,
    look: Look,
    began: Instant,
    total: Option<u64>,
    bytes: u64,
    records: u64,
}

enum Look {
    /// Only when SIGUSR1 asks.
    Hidden,
    /// A bar, once there is one.
    Bar(Option<ProgressBar>),
    /// Lines, the next one at this moment.
    Lines(Instant),
}

impl Progress {
    /// Begins a job of `total` bytes, if that is known.
    pub fn new(ctx: &Context, total: Option<u64>) -> Progress {
        let began = Instant::now();
        let look = match (ctx.message.is_terminal(), ctx.progress) {
            (_, When::Never) | (false, When::Auto) => Look::Hidden,
            (true, When::Auto) if ctx.message.is_quiet() => Look::Hidden,
            (true, _) => Look::Bar(None),
            (false, When::Always) => Look::Lines(began + LINE_EVERY),
        };
        Progress {
            message: ctx.message.clone(),
            look,
            began,
            total,
            bytes: 0,
            records: 0,
        }
    }

    /// Tells that so much more is done.
    pub fn advance(&mut self, bytes: u64, records: u64) {
        self.bytes += bytes;
        self.records += records;
        let now = Instant::now();
        match &mut self.look {
            Look::Hidden => {}
            Look::Bar(Some(bar)) => bar.set_position(self.bytes),
            Look::Bar(none) => {
                if now.duration_since(self.began) >= BAR_AFTER {
                    let bar = bar(self.total, self.began);
                    bar.set_position(self.bytes);
                    *none = Some(bar);
                }
            }
            Look::Lines(next) => {
                if now >= *next {
                    *next = now + LINE_EVERY;
                    self.message.progress(&self.line(now));
                }
            }
        }
        if signals::take_report_request() {
            let line = self.line(now);
            match &self.look {
                Look::Bar(Some(bar)) => bar.suspend(|| self.message.progress(&line)),
                _ => self.message.progress(&line),
            }
        }
    }

    /// Tells how much is done by now. When to tell again, at the latest, though it be no more.
    pub fn reach(&mut self, bytes: u64, records: u64) -> Option<Duration> {
        self.advance(
            bytes.saturating_sub(self.bytes),
            records.saturating_sub(self.records),
        );
        let due = match &self.look {
            Look::Bar(None) => self.began + BAR_AFTER,
            Look::Lines(next) => *next,
            Look::Hidden | Look::Bar(Some(_)) => return None,
        };
        Some(due.saturating_duration_since(Instant::now()))
    }

    /// `1.2 GiB of 4.0 GiB, 5000 records, 3s, 410 MiB/s`.
    fn line(&self, now: Instant) -> String {
        let spent = now.duration_since(self.began);
        let of = self.total.map(|t| format!(" of {}", human_bytes(t)));
        let rate = self.bytes as f64 / spent.as_secs_f64().max(0.001);
        format!(
            "{}{}, {} records, {}s, {}/s",
            human_bytes(self.bytes),
            of.unwrap_or_default(),
            self.records,
            spent.as_secs(),
            human_bytes(rate as u64), // saturates, and a rate is never negative
        )
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Look::Bar(Some(bar)) = &self.look {
            bar.finish_and_clear();
        }
    }
}

fn bar(total: Option<u64>, began: Instant) -> ProgressBar {
    let target = ProgressDrawTarget::stderr_with_hz(BAR_HZ);
    let (bar, template) = match total {
        Some(total) => (
            ProgressBar::with_draw_target(Some(total), target),
            "{bar:30} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left",
        ),
        None => (
            ProgressBar::with_draw_target(None, target),
            "{spinner} {binary_bytes}, {binary_bytes_per_sec}",
        ),
    };
    let style = ProgressStyle::with_template(template);
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        .with_elapsed(began.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_tells_bytes_records_time_and_rate() {
        let mut p = Progress::new(&Context::new("test"), Some(4 << 30));
        p.advance(1 << 30, 5000);
        let line = p.line(p.began + Duration::from_secs(2));
        assert_eq!(line, "1.0 GiB of 4.0 GiB, 5000 records, 2s, 512 MiB/s");
    }

    #[test]
    fn lines_come_every_ten_seconds_where_they_are_asked_for() {
        let mut ctx = Context::new("test");
        ctx.progress = When::Always;
        let mut p = Progress::new(&ctx, None);
        if !ctx.message.is_terminal() {
            assert!(matches!(p.look, Look::Lines(t) if t == p.began + LINE_EVERY));
        }
        ctx.progress = When::Never;
        p = Progress::new(&ctx, None);
        assert!(matches!(p.look, Look::Hidden));
    }
}
