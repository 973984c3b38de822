//! Records into batches, batches into parcels: what is handed to the write stage.
//!
//! Each partition has a lane. A batch is closed when the next record would take it past its size or
//! count, or when the caller says that nothing more is ready ([`Packer::flush`]). Finished batches
//! gather in the lane until they are worth a write of [`PARCEL_BYTES`].
//!
//! Without a codec records are encoded where they will be written from, and nothing is copied again.
//! With one, raw batches travel in the parcel and are compressed by whoever has a core to spare.
//!
//! A record without a key goes to the lane whose turn it is; the turn passes when that lane's batch
//! closes, so a batch is as large with many partitions as with one.

use super::origin::{Origin, Span};
use crate::format::builder::{BatchBuilder, Chunk, Producer, Seal, SealedBatch};
use crate::format::record::{NewRecord, record_bytes_bound};
use crate::format::{Offset, TimestampMs};

/// What a parcel holds at least, unless nothing more is ready: write(2) to a new file is four times
/// faster in pieces of this size than in 4 KiB, and no slower than in larger ones.
pub const PARCEL_BYTES: usize = 256 << 10;

/// When batches are closed, and what is in their headers.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Most bytes of a batch before compression; a larger record is a batch of its own.
    pub batch_bytes: usize,
    /// Most records of a batch.
    pub batch_records: i32,
    /// Each batch is a parcel of its own.
    pub alone: bool,
    /// Batches are left to be compressed.
    pub compressed: bool,
    /// Records carry the time of the append instead of their own.
    pub append_time: bool,
    /// The bytes that records came from must be known exactly.
    pub exact: bool,
}

/// Finished records of one lane, on their way to the log.
#[derive(Debug, Default)]
pub struct Parcel {
    /// Which partition of this run.
    pub lane: usize,
    /// Finished batches.
    pub chunk: Chunk,
    /// Batches still to be compressed, which then join `chunk`.
    pub raw: Vec<(BatchBuilder, Seal)>,
    /// The input bytes of each batch, of `chunk` and then of `raw`.
    pub origins: Vec<Origin>,
    /// The offset that the parcel's one batch must get.
    pub base: Option<Offset>,
    /// The batch was read as it is stored, and is checked when it is written.
    pub stored: bool,
    /// Buffers without content, to be used again.
    pub spare: Vec<Vec<u8>>,
}

impl Parcel {
    /// Bytes of its batches, before compression.
    pub fn bytes(&self) -> usize {
        let raw = self.raw.iter().map(|(b, _)| b.size());
        self.chunk.bytes.len() + raw.sum::<usize>()
    }

    /// Takes off the first `n` batches, which are written.
    pub fn drop_first(&mut self, n: usize) {
        self.origins.drain(..n.min(self.origins.len()));
        self.chunk.batches.drain(..n.min(self.chunk.batches.len()));
        let cut = match self.chunk.batches.first() {
            Some(first) => first.start,
            None => self.chunk.bytes.len(),
        };
        self.chunk.bytes.drain(..cut.min(self.chunk.bytes.len()));
        for batch in &mut self.chunk.batches {
            batch.start -= cut;
        }
    }

    /// Empties it, keeping its memory but what is far more than a parcel needs.
    pub fn recycle(&mut self) {
        self.chunk.clear();
        if self.chunk.bytes.capacity() > 4 * PARCEL_BYTES {
            self.chunk.bytes = Vec::new();
        }
        self.spare.retain(|b| b.capacity() <= 4 * PARCEL_BYTES);
        self.raw.clear();
        self.origins.clear();
        self.base = None;
        self.stored = false;
    }
}

/// Where parcels go.
pub trait Outlet {
    /// Takes a parcel.
    ///
    /// # Errors
    /// [`Stopped`] if no more will be written; the parcel is accounted for all the same.
    fn put(&mut self, parcel: Parcel) -> Result<(), Stopped>;

    /// An empty parcel, if one came back.
    fn blank(&mut self) -> Option<Parcel>;
}

/// The run has failed; the ledger knows why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped;

/// The batch under construction of one partition, and the finished ones before it.
#[derive(Debug)]
struct Lane {
    open: Option<BatchBuilder>,
    origin: Origin,
    parcel: Parcel,
    /// Bytes gathered in the parcel, before compression.
    gathered: usize,
    /// Where the first record of the parcel begins.
    start: Option<u64>,
    /// `--keep-offsets`: the base offset of the open batch.
    base: Option<Offset>,
    /// `--once`: producer id, and the number of the next record.
    producer: Option<(i64, u64)>,
    /// The producer as it was when the open batch began.
    seal: Seal,
}

/// All lanes of a run.
#[derive(Debug)]
pub struct Packer {
    shape: Shape,
    lanes: Vec<Lane>,
    turn: usize,
    spare: Vec<Vec<u8>>,
}

impl Packer {
    /// A packer for this many partitions, 1 or more.
    pub fn new(shape: Shape, partitions: usize) -> Packer {
        let lane = |i| Lane {
            open: None,
            origin: Origin::new(shape.exact),
            parcel: Parcel {
                lane: i,
                ..Parcel::default()
            },
            gathered: 0,
            start: None,
            base: None,
            producer: None,
            seal: Seal::default(),
        };
        Packer {
            shape,
            lanes: (0..partitions.max(1)).map(lane).collect(),
            turn: 0,
            spare: Vec::new(),
        }
    }

    /// The lane that takes records without a key now.
    #[inline(always)]
    pub fn turn(&self) -> usize {
        self.turn
    }

    /// Makes the batches of a lane those of an idempotent producer, whose next record is number
    /// `number` of it.
    pub fn set_producer(&mut self, lane: usize, id: i64, number: u64) {
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.producer = Some((id, number));
        }
    }

    /// Packs a record, whose input bytes are `span`, for a lane.
    ///
    /// # Errors
    /// [`Stopped`], from the outlet; the record is packed all the same, for the account.
    #[inline]
    pub fn push(
        &mut self,
        lane: usize,
        timestamp: TimestampMs,
        record: &NewRecord<'_>,
        span: Span,
        out: &mut dyn Outlet,
    ) -> Result<(), Stopped> {
        let bound = record_bytes_bound(
            record.key.map_or(0, <[u8]>::len),
            record.value.map_or(0, <[u8]>::len),
            record.headers,
        );
        let at = lane;
        let Some(lane) = self.lanes.get_mut(at) else {
            return Ok(());
        };
        let mut closed = Ok(());
        if let Some(open) = &mut lane.open {
            if open.size() + bound <= self.shape.batch_bytes {
                open.push(timestamp, record);
                lane.origin.add(span);
                if open.count() < self.shape.batch_records {
                    return Ok(());
                }
                return self.close(at, timestamp, out);
            }
            closed = self.close(at, timestamp, out);
        }
        self.open(at, span, out);
        let Some((lane, open)) = self.lanes.get_mut(at).and_then(Lane::opened) else {
            return Ok(());
        };
        open.push(timestamp, record);
        lane.add(span);
        if open.count() >= self.shape.batch_records || open.size() > self.shape.batch_bytes {
            return closed.and(self.close(at, timestamp, out));
        }
        closed
    }

    /// Packs a record that must get `offset`, which lies above those before it in its lane.
    ///
    /// # Errors
    /// [`Stopped`], from the outlet.
    pub fn push_at(
        &mut self,
        lane: usize,
        offset: Offset,
        timestamp: TimestampMs,
        record: &NewRecord<'_>,
        span: Span,
        out: &mut dyn Outlet,
    ) -> Result<(), Stopped> {
        let at = lane;
        let bound = record_bytes_bound(
            record.key.map_or(0, <[u8]>::len),
            record.value.map_or(0, <[u8]>::len),
            record.headers,
        );
        let fits = |lane: &Lane| {
            let open = lane.open.as_ref()?;
            let delta = i32::try_from(offset - lane.base?).ok()?;
            (open.size() + bound <= self.shape.batch_bytes).then_some(delta)
        };
        let Some(delta) = self.lanes.get(at).map(fits) else {
            return Ok(());
        };
        let mut closed = Ok(());
        if delta.is_none() {
            closed = self.close(at, timestamp, out);
            self.open(at, span, out);
            if let Some(lane) = self.lanes.get_mut(at) {
                lane.base = Some(offset);
            }
        }
        let Some((lane, open)) = self.lanes.get_mut(at).and_then(Lane::opened) else {
            return Ok(());
        };
        open.push_at(delta.unwrap_or(0), timestamp, record);
        lane.add(span);
        if open.count() >= self.shape.batch_records {
            return closed.and(self.close(at, timestamp, out));
        }
        closed
    }

    /// Packs a batch as it is stored, whose input bytes are `span`.
    ///
    /// # Errors
    /// [`Stopped`], from the outlet.
    pub fn push_stored(
        &mut self,
        lane: usize,
        batch: &[u8],
        sealed: SealedBatch,
        base: Option<Offset>,
        span: Span,
        out: &mut dyn Outlet,
    ) -> Result<(), Stopped> {
        let Some(l) = self.lanes.get_mut(lane) else {
            return Ok(());
        };
        let start = l.parcel.chunk.bytes.len();
        l.parcel.chunk.bytes.extend_from_slice(batch);
        l.parcel.chunk.batches.push(SealedBatch { start, ..sealed });
        l.parcel.stored = true;
        l.parcel.base = base;
        l.start.get_or_insert(span.start);
        l.gathered += batch.len();
        let mut origin = Origin::new(self.shape.exact);
        origin.add(span);
        l.parcel.origins.push(origin);
        if base.is_some() || l.gathered >= PARCEL_BYTES {
            self.send(lane, out)?;
            self.pass_turn(lane);
        }
        Ok(())
    }

    /// Closes every open batch and sends every parcel: nothing more is ready.
    ///
    /// # Errors
    /// [`Stopped`], from the outlet.
    pub fn flush(&mut self, now: TimestampMs, out: &mut dyn Outlet) -> Result<(), Stopped> {
        for lane in 0..self.lanes.len() {
            self.close(lane, now, out)?;
            self.send(lane, out)?;
        }
        Ok(())
    }

    /// Where the first record begins that was not sent.
    pub fn start(&self) -> Option<u64> {
        self.lanes.iter().filter_map(|l| l.start).min()
    }

    /// Whether there is something that was not sent.
    pub fn is_empty(&self) -> bool {
        self.lanes.iter().all(|l| l.start.is_none())
    }

    /// The input bytes of what was not sent.
    pub fn unsent(&self) -> impl Iterator<Item = &Origin> {
        let lanes = self.lanes.iter();
        lanes.flat_map(|l| l.parcel.origins.iter().chain([&l.origin]))
    }

    /// Begins a batch in a lane.
    #[inline(never)]
    fn open(&mut self, at: usize, span: Span, out: &mut dyn Outlet) {
        let Some(lane) = self.lanes.get_mut(at) else {
            return;
        };
        if lane.start.is_none()
            && let Some(mut blank) = out.blank()
        {
            blank.lane = at;
            self.spare.append(&mut blank.spare);
            lane.parcel = blank;
        }
        let buf = match self.shape.compressed {
            true => self.spare.pop().unwrap_or_default(),
            false => std::mem::take(&mut lane.parcel.chunk.bytes),
        };
        lane.open = Some(BatchBuilder::begin(buf));
        lane.start.get_or_insert(span.start);
        lane.seal.producer = lane.producer.map(|(id, number)| Producer {
            id,
            epoch: 0,
            base_sequence: i32::try_from(number & 0x7fff_ffff).unwrap_or(0),
        });
    }

    /// Finishes the open batch of a lane, and sends the parcel if it is worth it.
    #[inline(never)]
    fn close(&mut self, at: usize, now: TimestampMs, out: &mut dyn Outlet) -> Result<(), Stopped> {
        let Some((lane, open)) = self.lanes.get_mut(at).and_then(|l| {
            let open = l.open.take()?;
            Some((l, open))
        }) else {
            return Ok(());
        };
        let mut seal = lane.seal;
        seal.append_time = self.shape.append_time.then_some(now);
        if let Some((_, number)) = &mut lane.producer {
            *number += u64::from(open.count().cast_unsigned());
        }
        let size = open.size();
        lane.gathered += size;
        if self.shape.compressed {
            lane.parcel.raw.push((open, seal));
        } else {
            let (bytes, sealed) = open.seal(&seal);
            lane.parcel.chunk.bytes = bytes;
            lane.parcel.chunk.batches.push(sealed);
        }
        let origin = std::mem::replace(&mut lane.origin, Origin::new(self.shape.exact));
        lane.parcel.origins.push(origin);
        lane.parcel.base = lane.base.take();
        let alone = self.shape.alone || lane.parcel.base.is_some();
        let enough = alone || lane.gathered + size > PARCEL_BYTES;
        self.pass_turn(at);
        if enough { self.send(at, out) } else { Ok(()) }
    }

    fn pass_turn(&mut self, at: usize) {
        if at == self.turn {
            self.turn = (at + 1) % self.lanes.len();
        }
    }

    /// Hands over the finished batches of a lane.
    fn send(&mut self, at: usize, out: &mut dyn Outlet) -> Result<(), Stopped> {
        let Some(lane) = self.lanes.get_mut(at).filter(|l| l.start.is_some()) else {
            return Ok(());
        };
        lane.start = None;
        lane.gathered = 0;
        let parcel = std::mem::take(&mut lane.parcel);
        lane.parcel.lane = at;
        out.put(parcel)
    }
}

impl Lane {
    fn opened(&mut self) -> Option<(&mut Origin, &mut BatchBuilder)> {
        let open = self.open.as_mut()?;
        Some((&mut self.origin, open))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Limits;
    use crate::format::batch::{Batch, Scratch};
    use proptest::prelude::*;

    /// Collects parcels; refuses from the `most`th on.
    struct Shelf {
        parcels: Vec<Parcel>,
        most: usize,
    }

    impl Outlet for Shelf {
        fn put(&mut self, parcel: Parcel) -> Result<(), Stopped> {
            self.parcels.push(parcel);
            match self.parcels.len() > self.most {
                true => Err(Stopped),
                false => Ok(()),
            }
        }
        fn blank(&mut self) -> Option<Parcel> {
            None
        }
    }

    fn shape(batch_bytes: usize, batch_records: i32) -> Shape {
        Shape {
            batch_bytes,
            batch_records,
            alone: true,
            compressed: false,
            append_time: false,
            exact: true,
        }
    }

    /// (records, bytes) of each batch, and all values in order.
    fn unpack(parcels: &[Parcel]) -> (Vec<(i32, usize)>, Vec<Vec<u8>>) {
        let (mut batches, mut values) = (Vec::new(), Vec::new());
        let mut scratch = Scratch::new();
        for p in parcels {
            assert_eq!(p.chunk.batches.len(), p.origins.len());
            for b in &p.chunk.batches {
                batches.push((b.count, b.size));
                let batch = Batch::check(&p.chunk.bytes[b.start..b.start + b.size]).unwrap();
                let records = batch.records(&mut scratch, &Limits::default()).unwrap();
                values.extend(records.map(|r| r.unwrap().value.unwrap().to_vec()));
            }
        }
        (batches, values)
    }

    fn spans_of<'o>(origins: impl Iterator<Item = &'o Origin>) -> Vec<Span> {
        let mut all: Vec<Span> = origins
            .flat_map(|o| o.spans().collect::<Vec<_>>())
            .collect();
        super::super::ledger::merge(&mut all);
        all
    }

    proptest! {
        #[test]
        fn packer_keeps_order_and_limits_and_accounts_for_every_byte(
            sizes in proptest::collection::vec(0usize..400, 1..60),
            batch_bytes in 100usize..1000,
            batch_records in 1i32..20,
            most in 0usize..30,
        ) {
            let mut packer = Packer::new(shape(batch_bytes, batch_records), 1);
            let mut shelf = Shelf { parcels: Vec::new(), most };
            let (mut at, mut pushed, mut stopped) = (0, Vec::new(), false);
            for (i, size) in sizes.iter().enumerate() {
                let value = vec![i as u8; *size];
                let span = Span { start: at, end: at + *size as u64 + 1 };
                let record = NewRecord { value: Some(&value), ..NewRecord::default() };
                let result = packer.push(0, TimestampMs(1), &record, span, &mut shelf);
                (at, stopped) = (span.end, result.is_err());
                pushed.push(value);
                if stopped {
                    break;
                }
            }
            stopped = stopped || packer.flush(TimestampMs(1), &mut shelf).is_err();
            let origins = shelf.parcels.iter().flat_map(|p| &p.origins);
            let spans = spans_of(origins.chain(packer.unsent()));
            prop_assert_eq!(spans, vec![Span { start: 0, end: at }]);
            let (batches, values) = unpack(&shelf.parcels);
            prop_assert!(batches.iter().all(|(n, size)| *n <= batch_records && (*size <= batch_bytes || *n == 1)));
            prop_assert_eq!(&values[..], &pushed[..values.len()]);
            prop_assert!(stopped || (values.len() == pushed.len() && packer.is_empty()));
        }
    }

    #[test]
    fn records_without_a_key_take_turns_batch_by_batch() {
        let mut packer = Packer::new(shape(1 << 20, 2), 3);
        let mut shelf = Shelf {
            parcels: Vec::new(),
            most: usize::MAX,
        };
        for i in 0..12u64 {
            let record = NewRecord {
                value: Some(b"v"),
                ..NewRecord::default()
            };
            let span = Span {
                start: i,
                end: i + 1,
            };
            let lane = packer.turn();
            packer
                .push(lane, TimestampMs(1), &record, span, &mut shelf)
                .unwrap();
        }
        let lanes: Vec<usize> = shelf.parcels.iter().map(|p| p.lane).collect();
        assert_eq!(lanes, [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn offsets_asked_for_are_offsets_given() {
        let mut packer = Packer::new(shape(1 << 20, i32::MAX), 1);
        let mut shelf = Shelf {
            parcels: Vec::new(),
            most: usize::MAX,
        };
        let far = i64::from(i32::MAX) + 100;
        for (i, offset) in (0u64..).zip([7, 9, 50, far, far + 1]) {
            let record = NewRecord {
                value: Some(b"v"),
                ..NewRecord::default()
            };
            let (start, end) = (i, i + 1);
            let span = Span { start, end };
            packer
                .push_at(0, Offset(offset), TimestampMs(1), &record, span, &mut shelf)
                .unwrap();
        }
        packer.flush(TimestampMs(1), &mut shelf).unwrap();
        let bases: Vec<i64> = shelf.parcels.iter().map(|p| p.base.unwrap().0).collect();
        let deltas: Vec<i32> = shelf
            .parcels
            .iter()
            .map(|p| p.chunk.batches[0].last_offset_delta)
            .collect();
        assert_eq!((bases, deltas), (vec![7, far], vec![43, 1]));
    }
}
