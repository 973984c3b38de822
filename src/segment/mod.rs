//! One base offset on disk: its log file, its offset index, its time index.
//!
//! | module | owns |
//! |---|---|
//! | [`active`] | the segment that takes appends: writing, indexing, sealing |
//! | [`indexes`] | the two indexes of a sealed segment: made anew, and whether they can stay |
//! | [`lookup`] | offset and time to a place, through indexes that are believed only if proven |
//! | [`scan`] | the batches of one `.log`, front to back, checked; the next good one behind damage |
//! | [`salvage`] | the same past damage: what is intact, and what lies between |

pub mod active;
pub mod indexes;
pub mod lookup;
pub mod salvage;
pub mod scan;
