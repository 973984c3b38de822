//! Messages to bytes.

use super::super::crc32c::crc32c;
use super::*;

/// Appends a message as one frame.
///
/// The caller keeps lists and byte strings within the frame's limit; a string is cut at 65535 bytes.
pub fn encode(channel: u16, message: &Message<'_>, out: &mut Vec<u8>) {
    if let Message::Data(data) = message {
        out.extend_from_slice(&data_head(channel, data));
        out.extend_from_slice(data.raw);
        return;
    }
    let start = out.len();
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&[message.kind() as u8, 0]);
    out.extend_from_slice(&channel.to_be_bytes());
    body(message, &mut Writer(out));
    let length = out.len() - start - LENGTH_BYTES;
    let crc = crc32c(out.get(start + 8..).unwrap_or_default());
    put(out, start, u32::try_from(length).unwrap_or(u32::MAX));
    put(out, start + 4, crc);
}

/// The bytes of a DATA frame before the batches: for a sender that has the batches elsewhere.
pub fn data_head(channel: u16, data: &Data<'_>) -> [u8; DATA_HEAD_BYTES] {
    let mut out = Vec::with_capacity(DATA_HEAD_BYTES);
    let length = DATA_HEAD_BYTES - LENGTH_BYTES + data.raw.len();
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&[Kind::Data as u8, data.flags]);
    out.extend_from_slice(&channel.to_be_bytes());
    out.extend_from_slice(&data.segment.0.to_be_bytes());
    out.extend_from_slice(&data.heads_crc.to_be_bytes());
    out.extend_from_slice(&data.unpacked.to_be_bytes());
    let crc = crc32c(out.get(8..).unwrap_or_default());
    put(&mut out, 4, crc);
    out.try_into().unwrap_or([0; DATA_HEAD_BYTES])
}

fn put(out: &mut [u8], at: usize, value: u32) {
    if let Some(place) = out.get_mut(at..at + 4) {
        place.copy_from_slice(&value.to_be_bytes());
    }
}

fn body(message: &Message<'_>, w: &mut Writer<'_>) {
    match message {
        Message::Hello(m) => hello(m, w),
        Message::Welcome(m) => {
            w.u16(m.version);
            w.u32(m.options);
            w.u32(m.idle_ms);
            w.list(&m.partitions, |w, p| w.u32(*p));
        }
        Message::Source(m) => source(m, w),
        Message::Copy(m) => copy(m, w),
        Message::Ask(m) => {
            w.u8(m.what as u8);
            w.range(&m.offsets);
        }
        Message::Answer(m) => answer(m, w),
        Message::Start { offset, cut } => {
            w.offset(*offset);
            w.u8(u8::from(*cut));
        }
        Message::Epochs(epochs) => w.epochs(epochs),
        Message::Ack { written, durable } => {
            w.offset(*written);
            w.offset(*durable);
        }
        Message::State(m) => {
            w.offset(m.start);
            w.offset(m.end);
            w.offset(m.sendable);
            w.i64(m.now.0);
            w.i64(m.newest.0);
        }
        Message::Done { end } => w.offset(*end),
        Message::Refuse(m) => {
            w.u8(m.status);
            w.i64(m.offset.map_or(-1, |o| o.0));
            w.i32(m.epoch.unwrap_or(-1));
            w.str(&m.why);
        }
        Message::Redaction(entry) => w.bytes(entry),
        Message::Rewrite(m) => {
            w.range(&m.offsets);
            w.u8(u8::from(m.last));
        }
        Message::Groups(groups) => w.list(groups, |w, g| {
            w.str(&g.name);
            w.offset(g.position);
        }),
        Message::Beat | Message::Data(_) => {}
    }
}

fn hello(m: &Hello, w: &mut Writer<'_>) {
    w.raw(&MAGIC);
    w.u16(m.version);
    w.u16(m.lowest);
    w.u8(m.role as u8);
    w.u32(m.options);
    w.u32(m.idle_ms);
    w.str(&m.name);
    w.str(&m.range);
    w.str(&m.group);
    w.list(&m.partitions, |w, p| w.u32(*p));
}

fn source(m: &SourceInfo, w: &mut Writer<'_>) {
    w.raw(&m.id);
    w.offset(m.start);
    w.offset(m.end);
    w.epochs(&m.epochs);
    w.bytes(&m.config);
    w.changed(&m.changed);
    w.redactions(&m.redactions);
}

fn copy(m: &CopyInfo, w: &mut Writer<'_>) {
    w.u8(m.state as u8);
    w.raw(&m.id);
    w.offset(m.start);
    w.offset(m.end);
    w.i64(m.durable.map_or(-1, |d| d.0));
    w.epochs(&m.epochs);
    w.list(&m.last, Writer::batch);
    w.changed(&m.changed);
    w.redactions(&m.redactions);
}

fn answer(m: &Answer, w: &mut Writer<'_>) {
    let what = match m.found {
        Found::Digest { .. } => Question::Digest,
        Found::Batch(_) => Question::Batch,
        Found::Records(_) => Question::Records,
    };
    w.u8(what as u8);
    w.range(&m.offsets);
    match &m.found {
        Found::Digest { batches, hash } => {
            w.u64(*batches);
            w.u64(*hash);
        }
        Found::Batch(batch) => {
            let batch: Vec<BatchId> = batch.iter().copied().collect();
            w.list(&batch, Writer::batch);
        }
        Found::Records(records) => w.list(records, |w, r| {
            w.offset(r.offset);
            w.u64(r.hash);
        }),
    }
}

/// Appends fields.
struct Writer<'a>(&'a mut Vec<u8>);

impl Writer<'_> {
    fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn u8(&mut self, v: u8) {
        self.0.push(v);
    }

    fn u16(&mut self, v: u16) {
        self.raw(&v.to_be_bytes());
    }

    fn u32(&mut self, v: u32) {
        self.raw(&v.to_be_bytes());
    }

    fn u64(&mut self, v: u64) {
        self.raw(&v.to_be_bytes());
    }

    fn i32(&mut self, v: i32) {
        self.raw(&v.to_be_bytes());
    }

    fn i64(&mut self, v: i64) {
        self.raw(&v.to_be_bytes());
    }

    fn offset(&mut self, v: Offset) {
        self.i64(v.0);
    }

    fn range(&mut self, v: &Range<Offset>) {
        self.offset(v.start);
        self.offset(v.end);
    }

    fn str(&mut self, text: &str) {
        let mut end = text.len().min(usize::from(u16::MAX));
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        self.u16(u16::try_from(end).unwrap_or(0));
        self.raw(text.as_bytes().get(..end).unwrap_or_default());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.raw(bytes);
    }

    fn list<T>(&mut self, items: &[T], mut item: impl FnMut(&mut Self, &T)) {
        self.u32(u32::try_from(items.len()).unwrap_or(u32::MAX));
        items.iter().for_each(|i| item(self, i));
    }

    fn epochs(&mut self, epochs: &[EpochStart]) {
        self.list(epochs, |w, e| {
            w.i32(e.epoch);
            w.offset(e.start);
        });
    }

    fn batch(&mut self, b: &BatchId) {
        self.offset(b.base);
        self.offset(b.last);
        self.u32(b.size);
        self.u32(b.crc);
    }

    fn changed(&mut self, changed: &[Changed]) {
        self.list(changed, |w, c| {
            w.u8(c.kind);
            w.range(&c.offsets);
        });
    }

    fn redactions(&mut self, all: &[RedactionId]) {
        self.list(all, |w, r| {
            w.str(&r.id);
            w.u8(u8::from(r.finished));
        });
    }
}
