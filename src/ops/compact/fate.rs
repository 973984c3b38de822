//! What becomes of a batch: the rules of Kafka's cleaner (`Cleaner.cleanInto`,
//! `CleanedTransactionMetadata`).
//!
//! * Nothing of it goes: it stays, byte for byte.
//! * Some records go, or it holds a live tombstone without a deadline: it is written again.
//! * All go: it goes, unless it is the last of its producer, whose state it carries; then it stays
//!   empty.
//! * An end marker stays while any batch of its transaction does, an empty one too: without it the
//!   transaction would look open for ever. After that it gets a deadline and goes like a tombstone.
//!
//! Batches are to be judged in the order of the log, each once.

use std::collections::HashMap;

use super::survey::Survey;
use super::txns::end_marker;
use crate::format::TimestampMs;
use crate::format::batch::Batch;

/// What becomes of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// As it is.
    Stays,
    /// Again, with the records that stay and this deadline.
    Changes(Option<TimestampMs>),
    /// Without records.
    Empties,
    /// Not at all.
    Goes,
}

/// Judges the batches of a log in order.
#[derive(Clone)]
pub struct Judge {
    now: TimestampMs,
    horizon: TimestampMs,
    /// Producers with a transaction under way: whether any batch of it stays.
    under_way: HashMap<i64, bool>,
}

/// What is known of a batch beside its header.
#[derive(Clone, Copy, Debug)]
pub struct Content {
    /// Its records.
    pub records: u64,
    /// Those of them that stay.
    pub live: u64,
    /// One that stays is a tombstone.
    pub live_tombstone: bool,
}

impl Judge {
    /// A judge at the first batch of a log; `horizon` is the deadline of what has none.
    pub fn new(now: TimestampMs, horizon: TimestampMs) -> Judge {
        Judge {
            now,
            horizon,
            under_way: HashMap::new(),
        }
    }

    /// What becomes of a batch below the bound of the survey.
    pub fn judge(&mut self, survey: &Survey, batch: &Batch<'_>, content: Content) -> Fate {
        let header = batch.header();
        let fate = match header.is_control() {
            true => self.marker(survey, batch),
            false => self.data(survey, batch, content),
        };
        if header.is_transactional() && !header.is_control() {
            let stays = self.under_way.entry(header.producer_id).or_insert(false);
            *stays |= fate != Fate::Goes;
        }
        fate
    }

    fn data(&self, survey: &Survey, batch: &Batch<'_>, content: Content) -> Fate {
        let header = batch.header();
        let carries_state = survey.is_last_of_producer(header);
        let deadline = header.delete_horizon();
        match content.live {
            0 if content.records == 0 && carries_state => Fate::Stays,
            0 if carries_state => Fate::Empties,
            0 => Fate::Goes,
            _ if content.live_tombstone && deadline.is_none() => Fate::Changes(Some(self.horizon)),
            live if live < content.records => Fate::Changes(deadline),
            _ => Fate::Stays,
        }
    }

    fn marker(&mut self, survey: &Survey, batch: &Batch<'_>) -> Fate {
        let header = batch.header();
        if end_marker(batch.bytes()).is_none() {
            return Fate::Stays;
        }
        let is_needed = self.under_way.remove(&header.producer_id) == Some(true);
        if is_needed || survey.is_last_of_producer(header) {
            return Fate::Stays;
        }
        match header.delete_horizon() {
            Some(deadline) if deadline <= self.now => Fate::Goes,
            Some(_) => Fate::Stays,
            None if self.horizon <= self.now => Fate::Goes,
            None => Fate::Changes(Some(self.horizon)),
        }
    }
}
