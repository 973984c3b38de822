use super::*;
use proptest::prelude::*;

fn offset() -> impl Strategy<Value = Offset> {
    prop_oneof![0i64..100, 0..=i64::MAX].prop_map(Offset)
}

fn range() -> impl Strategy<Value = Range<Offset>> {
    (offset(), offset()).prop_map(|(a, b)| a.min(b)..a.max(b))
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z0-9._-]{0,30}", any::<String>()]
}

fn epochs() -> impl Strategy<Value = Vec<EpochStart>> {
    prop::collection::vec((0i32..9, 0i64..1000), 0..6).prop_map(|steps| {
        let (mut epoch, mut start) = (-1, 0);
        let grow = |(e, s): (i32, i64)| {
            (epoch, start) = (epoch + 1 + e, start + s);
            EpochStart {
                epoch,
                start: Offset(start),
            }
        };
        steps.into_iter().map(grow).collect()
    })
}

fn batch() -> impl Strategy<Value = BatchId> {
    (range(), any::<u32>(), any::<u32>()).prop_map(|(r, size, crc)| BatchId {
        base: r.start,
        last: r.end,
        size,
        crc,
    })
}

fn changed() -> impl Strategy<Value = Vec<Changed>> {
    let one = (any::<u8>(), range()).prop_map(|(kind, offsets)| Changed { kind, offsets });
    prop::collection::vec(one, 0..5)
}

fn redactions() -> impl Strategy<Value = Vec<RedactionId>> {
    let one = (text(), any::<bool>()).prop_map(|(id, finished)| RedactionId { id, finished });
    prop::collection::vec(one, 0..5)
}

fn hello() -> impl Strategy<Value = Hello> {
    let role = prop_oneof![
        Just(Role::Push),
        Just(Role::Pull),
        Just(Role::Look),
        Just(Role::OneWay)
    ];
    let versions = (1u16..=u16::MAX, 0u16..=1);
    let texts = (text(), text(), text());
    let rest = (
        any::<u32>(),
        any::<u32>(),
        prop::collection::vec(any::<u32>(), 0..9),
    );
    (versions, role, texts, rest).prop_map(|(v, role, t, (options, idle_ms, partitions))| Hello {
        version: v.0,
        lowest: v.1,
        role,
        options,
        idle_ms,
        name: t.0,
        range: t.1,
        group: t.2,
        partitions,
    })
}

fn source() -> impl Strategy<Value = SourceInfo> {
    let config = prop::collection::vec(any::<u8>(), 0..99);
    let ids = (any::<[u8; 16]>(), offset(), offset());
    (ids, epochs(), config, changed(), redactions()).prop_map(
        |((id, start, end), epochs, config, changed, redactions)| SourceInfo {
            id,
            start,
            end,
            epochs,
            config,
            changed,
            redactions,
        },
    )
}

fn copy() -> impl Strategy<Value = CopyInfo> {
    let state = prop_oneof![
        Just(CopyState::None),
        Just(CopyState::Copy),
        Just(CopyState::Log)
    ];
    let last = prop::collection::vec(batch(), 0..=LAST_BATCHES_MAX);
    let ids = (
        any::<[u8; 16]>(),
        offset(),
        offset(),
        prop::option::of(offset()),
    );
    (state, ids, epochs(), last, changed(), redactions()).prop_map(
        |(state, (id, start, end, durable), epochs, last, changed, redactions)| CopyInfo {
            state,
            id,
            start,
            end,
            durable,
            epochs,
            last,
            changed,
            redactions,
        },
    )
}

fn answer() -> impl Strategy<Value = Answer> {
    let record = (offset(), any::<u64>()).prop_map(|(offset, hash)| RecordId { offset, hash });
    let found = prop_oneof![
        (any::<u64>(), any::<u64>()).prop_map(|(batches, hash)| Found::Digest { batches, hash }),
        prop::option::of(batch()).prop_map(Found::Batch),
        prop::collection::vec(record, 0..9).prop_map(Found::Records),
    ];
    (found, range()).prop_map(|(found, offsets)| Answer { found, offsets })
}

fn refuse() -> impl Strategy<Value = Refuse> {
    let epoch = prop::option::of(0..=i32::MAX);
    (any::<u8>(), prop::option::of(offset()), epoch, text()).prop_map(
        |(status, offset, epoch, why)| Refuse {
            status,
            offset,
            epoch,
            why,
        },
    )
}

fn groups() -> impl Strategy<Value = Vec<GroupPosition>> {
    let one = (text(), offset()).prop_map(|(name, position)| GroupPosition { name, position });
    prop::collection::vec(one, 0..5)
}

/// Any message but DATA and REDACTION, which borrow.
fn messages() -> impl Strategy<Value = Message<'static>> {
    let question = prop_oneof![
        Just(Question::Digest),
        Just(Question::Batch),
        Just(Question::Records)
    ];
    let welcome = (
        any::<u32>(),
        any::<u32>(),
        prop::collection::vec(any::<u32>(), 0..9),
    );
    let state = (offset(), offset(), offset(), any::<i64>(), any::<i64>());
    prop_oneof![
        hello().prop_map(Message::Hello),
        welcome.prop_map(|(options, idle_ms, partitions)| Message::Welcome(Welcome {
            version: VERSION,
            options,
            idle_ms,
            partitions,
        })),
        source().prop_map(Message::Source),
        copy().prop_map(Message::Copy),
        (question, range()).prop_map(|(what, offsets)| Message::Ask(Ask { what, offsets })),
        answer().prop_map(Message::Answer),
        (offset(), any::<bool>()).prop_map(|(offset, cut)| Message::Start { offset, cut }),
        epochs().prop_map(Message::Epochs),
        (offset(), offset()).prop_map(|(written, durable)| Message::Ack { written, durable }),
        state.prop_map(|(start, end, sendable, now, newest)| Message::State(State {
            start,
            end,
            sendable,
            now: TimestampMs(now),
            newest: TimestampMs(newest),
        })),
        Just(Message::Beat),
        offset().prop_map(|end| Message::Done { end }),
        refuse().prop_map(Message::Refuse),
        (range(), any::<bool>())
            .prop_map(|(offsets, last)| Message::Rewrite(Rewrite { offsets, last })),
        groups().prop_map(Message::Groups),
    ]
}

fn channel_of(message: &Message<'_>, channel: u16) -> u16 {
    match message {
        Message::Hello(_) | Message::Welcome(_) => SESSION,
        _ => channel.min(PARTITION_MAX),
    }
}

fn encoded(channel: u16, message: &Message<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    encode(channel, message, &mut out);
    out
}

proptest! {
    #[test]
    fn every_message_reads_back_as_it_was_written(message in messages(), channel: u16) {
        let channel = channel_of(&message, channel);
        let bytes = encoded(channel, &message);
        prop_assert_eq!(frame(&bytes), Framed::Whole(bytes.len()));
        prop_assert_eq!(decode(&bytes), Ok(Frame { channel, message }));
    }

    #[test]
    fn messages_with_bytes_read_back_too(
        raw in prop::collection::vec(any::<u8>(), 0..200),
        segment in offset(), heads_crc: u32, flags in 0u8..8,
    ) {
        let unpacked = match flags & FLAG_ZSTD { 0 => raw.len() as u32, _ => 70_000 };
        let data = Data { flags, segment, heads_crc, unpacked, raw: &raw };
        for message in [Message::Data(data), Message::Redaction(&raw)] {
            let bytes = encoded(3, &message);
            prop_assert_eq!(decode(&bytes), Ok(Frame { channel: 3, message }));
        }
        let bytes = encoded(3, &Message::Data(data));
        let head = data_head(3, &data);
        prop_assert_eq!(bytes.strip_prefix(&head[..]), Some(&raw[..]));
    }

    #[test]
    fn a_prefix_of_a_frame_asks_for_more_and_for_no_more_than_there_is(
        message in messages(), at: prop::sample::Index,
    ) {
        let bytes = encoded(channel_of(&message, 0), &message);
        let cut = at.index(bytes.len());
        match frame(&bytes[..cut]) {
            Framed::NeedMore(n) => prop_assert!(cut < n && n <= bytes.len()),
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn a_flipped_bit_never_goes_unseen(message in messages(), at: prop::sample::Index, bit in 0u32..8) {
        let mut bytes = encoded(channel_of(&message, 0), &message);
        let at = at.index(bytes.len());
        bytes[at] ^= 1u8 << bit;
        if let Framed::Whole(n) = frame(&bytes) {
            prop_assert!(decode(&bytes[..n]).is_err());
        }
    }

    /// Frames whose checksum is right and whose body is anything: no panic, and no memory that the
    /// bytes do not account for (a count that they cannot hold is refused before a list is sized).
    #[test]
    fn hostile_bodies_are_values_or_defects(
        kind in 0u8..20, flags: u8, channel: u16, body in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let bytes = raw_frame(kind, flags, channel, &body);
        if let Framed::Whole(n) = frame(&bytes) {
            prop_assert_eq!(n, bytes.len());
            let _ = decode(&bytes);
        }
    }

    /// As above, from bodies that are nearly right.
    #[test]
    fn damaged_bodies_are_values_or_defects(
        message in messages(), at: prop::sample::Index, put: [u8; 4], cut: prop::sample::Index,
    ) {
        let bytes = encoded(channel_of(&message, 0), &message);
        let mut body = bytes[HEAD_BYTES..].to_vec();
        if !body.is_empty() {
            let at = at.index(body.len());
            body.iter_mut().skip(at).zip(put).for_each(|(b, p)| *b = p);
        }
        body.truncate(cut.index(bytes.len()).max(body.len() / 2));
        let channel = channel_of(&message, 0);
        let bytes = raw_frame(message.kind() as u8, 0, channel, &body);
        if let Ok(read) = decode(&bytes) {
            // Whatever it took is a value that it would write as well.
            let again = encoded(channel, &read.message);
            prop_assert_eq!(decode(&again), Ok(read));
        }
    }
}

/// A frame with a right checksum.
fn raw_frame(kind: u8, flags: u8, channel: u16, body: &[u8]) -> Vec<u8> {
    let mut out = ((LENGTH_MIN + body.len()) as u32).to_be_bytes().to_vec();
    out.extend([0; 4]);
    out.extend([kind, flags]);
    out.extend(channel.to_be_bytes());
    out.extend(body);
    let covered = match kind == Kind::Data as u8 && out.len() >= DATA_HEAD_BYTES {
        true => &out[8..DATA_HEAD_BYTES],
        false => &out[8..],
    };
    let crc = crate::format::crc32c::crc32c(covered);
    out[4..8].copy_from_slice(&crc.to_be_bytes());
    out
}

fn defect(bytes: &[u8]) -> String {
    match decode(bytes) {
        Err(Bad::Defect(d)) => d.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_frame_is_as_the_description_says() {
    let bytes = encoded(
        7,
        &Message::Done {
            end: Offset(0x0102),
        },
    );
    let crc = crate::format::crc32c::crc32c(&bytes[8..]).to_be_bytes();
    let mut wanted = vec![0, 0, 0, 16];
    wanted.extend(crc);
    wanted.extend([13, 0, 0, 7, 0, 0, 0, 0, 0, 0, 1, 2]);
    assert_eq!(bytes, wanted);
}

#[test]
fn lengths_out_of_range_are_refused_at_the_fourth_byte() {
    for bad in [0u32, 7, (16 << 20) + 1, u32::MAX] {
        let got = frame(&bad.to_be_bytes());
        assert!(matches!(got, Framed::Bad(_)), "{bad}: {got:?}");
    }
    assert_eq!(frame(&[0, 0, 0, 8]), Framed::NeedMore(12));
    assert_eq!(
        frame(&[0, 0, 0, 8, 0, 0, 0, 0, 99]),
        Framed::Bad(Defect::new(8, "unknown frame type 99"))
    );
}

#[test]
fn another_version_is_told_from_garbage() {
    let hello = |version, lowest| {
        let body = [
            &MAGIC[..],
            &u16::to_be_bytes(version),
            &u16::to_be_bytes(lowest),
        ]
        .concat();
        decode(&raw_frame(1, 0, SESSION, &body)).unwrap_err()
    };
    let (version, lowest) = (9, 8);
    assert_eq!(hello(9, 8), Bad::Version { version, lowest });
    assert_eq!(
        hello(0, 0),
        Bad::Version {
            version: 0,
            lowest: 0
        }
    );
    assert!(matches!(hello(9, 1), Bad::Defect(_))); // understood, and cut short
    assert_eq!(
        defect(&raw_frame(1, 0, SESSION, b"SSH-2.0-x")),
        "byte 12: no logd peer speaks here"
    );
}

#[test]
fn later_versions_may_add_to_the_end_of_the_greeting_only() {
    let hello = Hello {
        version: 2,
        lowest: 1,
        role: Role::Push,
        options: 0,
        idle_ms: 0,
        name: "a".to_string(),
        range: String::new(),
        group: String::new(),
        partitions: vec![],
    };
    let bytes = encoded(SESSION, &Message::Hello(hello.clone()));
    let longer = [&bytes[HEAD_BYTES..], b"more"].concat();
    let longer = raw_frame(1, 0, SESSION, &longer);
    let read = decode(&longer);
    let message = Message::Hello(hello);
    assert_eq!(
        decode(&bytes),
        Ok(Frame {
            channel: SESSION,
            message
        })
    );
    assert_eq!(read, decode(&bytes));
    assert_eq!(
        defect(&raw_frame(12, 0, 0, b"x")),
        "byte 12: 1 bytes left over"
    );
}

#[test]
fn what_cannot_be_is_named() {
    for (kind, channel, body, why) in [
        (3, SESSION, &[][..], "byte 10: SOURCE on channel 65535"),
        (1, 0, &[], "byte 10: HELLO on channel 0"),
        (13, 0, &[255; 8], "byte 12: offset -1"),
        (
            7,
            0,
            &[0, 0, 0, 0, 0, 0, 0, 1, 2],
            "byte 20: 2 where 0 or 1 must be",
        ),
        (9, 0, &[0, 0, 0, 9], "byte 12: count 9, room for at most 0"),
        (
            9,
            0,
            &[0, 1, 0, 0],
            "byte 12: 65536 items where 10000 may be",
        ),
        (5, 0, &[9], "byte 12: unknown question 9"),
        (8, 0, &[0; 15], "byte 24: 4 bytes wanted, 3 left"),
    ] {
        assert_eq!(defect(&raw_frame(kind, 0, channel, body)), why);
    }
    assert_eq!(
        defect(&raw_frame(12, 1, 0, &[])),
        "byte 9: flags 0x1 of a BEAT"
    );
    let more = [&[0; 12][..], &[0, 0, 0, 9], b"raw"].concat();
    let why = "byte 24: 9 bytes of batches announced, 3 are here";
    assert_eq!(defect(&raw_frame(8, 0, 0, &more)), why);
}

/// What a stranger would write a peer from.
const PAGE: &str = include_str!("../../../man/logd-protocol.5");

#[test]
fn the_page_names_every_message_with_its_number() {
    let headings: Vec<&str> = PAGE
        .lines()
        .filter_map(|l| l.strip_prefix(".SS \""))
        .collect();
    for kind in Kind::ALL {
        let wanted = format!("{} ({}), ", kind.word(), *kind as u8);
        assert!(headings.iter().any(|h| h.starts_with(&wanted)), "{wanted}");
    }
    let numbers = [
        format!("8 to {LENGTH_MAX}"),
        format!("bytes 8 to {} only", DATA_HEAD_BYTES - 1),
        format!("first {BATCH_HEAD_BYTES} bytes"),
        format!("at most {LIST_MAX} items"),
        format!("copies of the last batches: {LAST_BATCHES_MAX}").split_off(27),
        format!("it holds {PART_BYTES_MIN}"),
        format!("the session is {SESSION}").split_off(15),
    ];
    for number in numbers {
        assert!(PAGE.contains(number.trim()), "{number}");
    }
}

#[test]
fn the_page_s_examples_are_frames() {
    let examples = PAGE.split(".SH \"EXAMPLES\"").nth(1).unwrap();
    let (mut frames, mut words) = (Vec::new(), Vec::new());
    for line in examples.lines() {
        if let Some(hex) = line.strip_prefix("  ") {
            let bytes: &mut Vec<u8> = frames.last_mut().unwrap();
            bytes.extend(hex.split(' ').map(|b| u8::from_str_radix(b, 16).unwrap()));
        } else if let Some(word) = line.strip_prefix(' ') {
            words.push(word.split(' ').next().unwrap());
            frames.push(Vec::new());
        }
    }
    assert_eq!(words, ["HELLO", "WELCOME", "DONE"]);
    for (word, bytes) in words.iter().zip(&frames) {
        let frame = decode(bytes).unwrap();
        assert_eq!(frame.message.kind().word(), *word);
        assert_eq!(&encoded(frame.channel, &frame.message), bytes);
    }
}
