//! Bytes to messages. Nothing is believed before it is bounded, and nothing is copied but names and
//! lists.

use super::super::crc32c::crc32c;
use super::super::fields::Reader;
use super::super::frame::read_u32;
use super::*;

/// What stands at the start of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Framed {
    /// A frame of this many bytes, all of them there.
    Whole(usize),
    /// A frame of this many bytes, of which some are missing; or its head is.
    NeedMore(usize),
    /// The bytes cannot be a frame.
    Bad(Defect),
}

/// Tells how long the frame at the start of `bytes` is. As soon as its head is there an impossible
/// one is refused, so that nobody waits for the rest of it.
pub fn frame(bytes: &[u8]) -> Framed {
    let Some(length) = read_u32(bytes, 0) else {
        return Framed::NeedMore(HEAD_BYTES);
    };
    let bad = |why: String| Framed::Bad(Defect::new(0, why));
    let length = match usize::try_from(length) {
        Ok(n) if (LENGTH_MIN..=LENGTH_MAX).contains(&n) => n,
        _ => {
            return bad(format!(
                "frame length {length} is not {LENGTH_MIN} to {LENGTH_MAX}"
            ));
        }
    };
    let size = length + LENGTH_BYTES;
    let Some(&kind) = bytes.get(8) else {
        return Framed::NeedMore(size.min(HEAD_BYTES));
    };
    match Kind::from_byte(kind) {
        None => return Framed::Bad(Defect::new(8, format!("unknown frame type {kind}"))),
        Some(Kind::Data) if size < DATA_HEAD_BYTES => {
            return bad(format!("DATA frame of {size} bytes"));
        }
        Some(_) => {}
    }
    match bytes.len() >= size {
        true => Framed::Whole(size),
        false => Framed::NeedMore(size),
    }
}

/// Decodes `bytes`, which are one whole frame ([`Framed::Whole`]).
///
/// # Errors
/// What is wrong with it.
pub fn decode(bytes: &[u8]) -> Result<Frame<'_>, Bad> {
    let mut head = Reader::new(bytes);
    let (length, crc) = (head.u32()?, head.u32()?);
    if usize::try_from(length) != Ok(bytes.len() - LENGTH_BYTES) {
        return Err(Defect::new(0, format!("frame length {length}, {} bytes", bytes.len())).into());
    }
    let (kind, flags, channel) = (head.u8()?, head.u8()?, head.u16()?);
    let Some(kind) = Kind::from_byte(kind) else {
        return Err(Defect::new(8, format!("unknown frame type {kind}")).into());
    };
    let covered = match kind {
        Kind::Data => bytes.get(8..DATA_HEAD_BYTES.min(bytes.len())),
        _ => bytes.get(8..),
    };
    let computed = crc32c(covered.unwrap_or_default());
    if computed != crc {
        let why = format!("frame CRC-32C is {crc:08x}, computed {computed:08x}");
        return Err(Defect::new(4, why).into());
    }
    if kind != Kind::Data && flags != 0 {
        return Err(Defect::new(9, format!("flags {flags:#x} of a {}", kind.word())).into());
    }
    // A frame must stand where it can be: those of the session on its channel, BEAT and REFUSE on any.
    let of_session = matches!(kind, Kind::Hello | Kind::Welcome);
    let of_either = matches!(kind, Kind::Beat | Kind::Refuse);
    if !of_either && of_session != (channel == SESSION) {
        return Err(Defect::new(10, format!("{} on channel {channel}", kind.word())).into());
    }
    let place = |bad| match bad {
        Bad::Defect(d) => Bad::Defect(d.shifted(HEAD_BYTES)),
        other => other,
    };
    let body = bytes.get(HEAD_BYTES..).unwrap_or_default();
    let message = message(kind, flags, body).map_err(place)?;
    Ok(Frame { channel, message })
}

fn message(kind: Kind, flags: u8, body: &[u8]) -> Result<Message<'_>, Bad> {
    let mut r = Reader::new(body);
    let message = match kind {
        // These two may have grown at their end in a later version.
        Kind::Hello => return hello(&mut r).map(Message::Hello),
        Kind::Welcome => return welcome(&mut r).map(Message::Welcome),
        Kind::Source => Message::Source(source(&mut r)?),
        Kind::Copy => Message::Copy(copy(&mut r)?),
        Kind::Ask => {
            let what = question(&mut r)?;
            let offsets = range(&mut r)?;
            Message::Ask(Ask { what, offsets })
        }
        Kind::Answer => Message::Answer(answer(&mut r)?),
        Kind::Start => {
            let (offset, cut) = (offset(&mut r)?, flag(&mut r)?);
            Message::Start { offset, cut }
        }
        Kind::Data => return Ok(Message::Data(data(flags, &mut r)?)),
        Kind::Epochs => Message::Epochs(epochs(&mut r)?),
        Kind::Ack => {
            let (written, durable) = (offset(&mut r)?, offset(&mut r)?);
            Message::Ack { written, durable }
        }
        Kind::State => Message::State(State {
            start: offset(&mut r)?,
            end: offset(&mut r)?,
            sendable: offset(&mut r)?,
            now: TimestampMs(r.i64()?),
            newest: TimestampMs(r.i64()?),
        }),
        Kind::Beat => Message::Beat,
        Kind::Done => Message::Done {
            end: offset(&mut r)?,
        },
        Kind::Refuse => Message::Refuse(refuse(&mut r)?),
        Kind::Redaction => {
            let n = r.u32()?;
            Message::Redaction(r.take(usize::try_from(n).unwrap_or(usize::MAX))?)
        }
        Kind::Rewrite => {
            let (offsets, last) = (range(&mut r)?, flag(&mut r)?);
            Message::Rewrite(Rewrite { offsets, last })
        }
        Kind::Groups => {
            let group = |r: &mut Reader<'_>| {
                let (name, position) = (text(r)?, offset(r)?);
                Ok(GroupPosition { name, position })
            };
            Message::Groups(list(&mut r, 2 + 8, LIST_MAX, group)?)
        }
    };
    r.end()?;
    Ok(message)
}

fn hello(r: &mut Reader<'_>) -> Result<Hello, Bad> {
    if r.array()? != MAGIC {
        return Err(Defect::new(0, "no logd peer speaks here").into());
    }
    let (version, lowest) = (r.u16()?, r.u16()?);
    if lowest > VERSION || version < VERSION_LOWEST {
        return Err(Bad::Version { version, lowest });
    }
    let at = r.at();
    let role = match r.u8()? {
        0 => Role::Push,
        1 => Role::Pull,
        2 => Role::Look,
        3 => Role::OneWay,
        n => return Err(Defect::new(at, format!("unknown role {n}")).into()),
    };
    Ok(Hello {
        version,
        lowest,
        role,
        options: r.u32()?,
        idle_ms: r.u32()?,
        name: text(r)?,
        range: text(r)?,
        group: text(r)?,
        partitions: list(r, 4, LIST_MAX, Reader::u32)?,
    })
}

fn welcome(r: &mut Reader<'_>) -> Result<Welcome, Bad> {
    let version = r.u16()?;
    if !(VERSION_LOWEST..=VERSION).contains(&version) {
        let lowest = version;
        return Err(Bad::Version { version, lowest });
    }
    Ok(Welcome {
        version,
        options: r.u32()?,
        idle_ms: r.u32()?,
        partitions: list(r, 4, LIST_MAX, Reader::u32)?,
    })
}

fn source(r: &mut Reader<'_>) -> Result<SourceInfo, Defect> {
    Ok(SourceInfo {
        id: r.array()?,
        start: offset(r)?,
        end: offset(r)?,
        epochs: epochs(r)?,
        config: {
            let n = r.u32()?;
            r.take(usize::try_from(n).unwrap_or(usize::MAX))?.to_vec()
        },
        changed: changed(r)?,
        redactions: redactions(r)?,
    })
}

fn copy(r: &mut Reader<'_>) -> Result<CopyInfo, Defect> {
    let at = r.at();
    let state = match r.u8()? {
        0 => CopyState::None,
        1 => CopyState::Copy,
        2 => CopyState::Log,
        n => return Err(Defect::new(at, format!("unknown state {n} of a copy"))),
    };
    Ok(CopyInfo {
        state,
        id: r.array()?,
        start: offset(r)?,
        end: offset(r)?,
        durable: optional(r)?,
        epochs: epochs(r)?,
        last: list(r, BATCH_ID_BYTES, LAST_BATCHES_MAX, batch)?,
        changed: changed(r)?,
        redactions: redactions(r)?,
    })
}

fn answer(r: &mut Reader<'_>) -> Result<Answer, Defect> {
    let what = question(r)?;
    let offsets = range(r)?;
    let found = match what {
        Question::Digest => Found::Digest {
            batches: r.u64()?,
            hash: r.u64()?,
        },
        Question::Batch => Found::Batch(list(r, BATCH_ID_BYTES, 1, batch)?.pop()),
        Question::Records => {
            let record = |r: &mut Reader<'_>| {
                let (offset, hash) = (offset(r)?, r.u64()?);
                Ok(RecordId { offset, hash })
            };
            Found::Records(list(r, 16, LENGTH_MAX / 16, record)?)
        }
    };
    Ok(Answer { found, offsets })
}

fn data<'a>(flags: u8, r: &mut Reader<'a>) -> Result<Data<'a>, Defect> {
    let known = FLAG_PART | FLAG_ZSTD | FLAG_REWRITE;
    if flags & !known != 0 {
        return Err(r.defect(format!("flags {flags:#x} of a DATA")));
    }
    let (segment, heads_crc) = (offset(r)?, r.u32()?);
    let size = r.at();
    let unpacked = r.u32()?;
    let raw = r.take(r.left())?;
    let wanted = usize::try_from(unpacked).unwrap_or(usize::MAX);
    let fits = match flags & FLAG_ZSTD {
        0 => wanted == raw.len(),
        _ => wanted <= RAW_BYTES_MAX,
    };
    if !fits {
        let why = format!(
            "{unpacked} bytes of batches announced, {} are here",
            raw.len()
        );
        return Err(Defect::new(size, why));
    }
    Ok(Data {
        flags,
        segment,
        heads_crc,
        unpacked,
        raw,
    })
}

fn refuse(r: &mut Reader<'_>) -> Result<Refuse, Defect> {
    Ok(Refuse {
        status: r.u8()?,
        offset: optional(r)?,
        epoch: {
            let epoch = r.i32()?;
            (epoch >= 0).then_some(epoch)
        },
        why: text(r)?,
    })
}

fn question(r: &mut Reader<'_>) -> Result<Question, Defect> {
    let at = r.at();
    match r.u8()? {
        0 => Ok(Question::Digest),
        1 => Ok(Question::Batch),
        2 => Ok(Question::Records),
        n => Err(Defect::new(at, format!("unknown question {n}"))),
    }
}

/// Bytes of a [`BatchId`].
const BATCH_ID_BYTES: usize = 8 + 8 + 4 + 4;

fn batch(r: &mut Reader<'_>) -> Result<BatchId, Defect> {
    let at = r.at();
    let (base, last) = (offset(r)?, offset(r)?);
    if last < base {
        return Err(Defect::new(at, format!("batch from {base} to {last}")));
    }
    let (size, crc) = (r.u32()?, r.u32()?);
    Ok(BatchId {
        base,
        last,
        size,
        crc,
    })
}

fn epochs(r: &mut Reader<'_>) -> Result<Vec<EpochStart>, Defect> {
    let at = r.at();
    let epoch = |r: &mut Reader<'_>| {
        let (epoch, start) = (r.i32()?, offset(r)?);
        Ok(EpochStart { epoch, start })
    };
    let all = list(r, 4 + 8, LIST_MAX, epoch)?;
    let ascends = |w: &[EpochStart]| match w {
        [a, b] => a.epoch < b.epoch && a.start <= b.start,
        _ => true,
    };
    match all.windows(2).all(ascends) && all.first().is_none_or(|e| e.epoch >= 0) {
        true => Ok(all),
        false => Err(Defect::new(at, "epochs that do not ascend")),
    }
}

fn changed(r: &mut Reader<'_>) -> Result<Vec<Changed>, Defect> {
    let one = |r: &mut Reader<'_>| {
        let (kind, offsets) = (r.u8()?, range(r)?);
        Ok(Changed { kind, offsets })
    };
    list(r, 1 + 8 + 8, LIST_MAX, one)
}

fn redactions(r: &mut Reader<'_>) -> Result<Vec<RedactionId>, Defect> {
    let one = |r: &mut Reader<'_>| {
        let (id, finished) = (text(r)?, flag(r)?);
        Ok(RedactionId { id, finished })
    };
    list(r, 2 + 1, LIST_MAX, one)
}

/// A list of at most `most` items, each of at least `least` bytes.
fn list<'a, T>(
    r: &mut Reader<'a>,
    least: usize,
    most: usize,
    item: impl FnMut(&mut Reader<'a>) -> Result<T, Defect>,
) -> Result<Vec<T>, Defect> {
    let at = r.at();
    let count = r.clone().u32()?;
    if usize::try_from(count).is_ok_and(|n| n > most) {
        return Err(Defect::new(
            at,
            format!("{count} items where {most} may be"),
        ));
    }
    r.array_of(least, item)
}

fn offset(r: &mut Reader<'_>) -> Result<Offset, Defect> {
    let at = r.at();
    match r.i64()? {
        n if n >= 0 => Ok(Offset(n)),
        n => Err(Defect::new(at, format!("offset {n}"))),
    }
}

fn optional(r: &mut Reader<'_>) -> Result<Option<Offset>, Defect> {
    let n = r.i64()?;
    Ok((n >= 0).then_some(Offset(n)))
}

fn range(r: &mut Reader<'_>) -> Result<Range<Offset>, Defect> {
    let at = r.at();
    let (start, end) = (offset(r)?, offset(r)?);
    match start <= end {
        true => Ok(start..end),
        false => Err(Defect::new(at, format!("offsets {start} to {end}"))),
    }
}

fn flag(r: &mut Reader<'_>) -> Result<bool, Defect> {
    let at = r.at();
    match r.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        n => Err(Defect::new(at, format!("{n} where 0 or 1 must be"))),
    }
}

fn text(r: &mut Reader<'_>) -> Result<String, Defect> {
    let n = usize::from(r.u16()?);
    let at = r.at();
    let bytes = r.take(n)?;
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_string()),
        Err(e) => Err(Defect::new(at + e.valid_up_to(), "not UTF-8")),
    }
}
