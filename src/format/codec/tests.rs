//! Round trips, what other writers make, limits, and bytes nobody would write.

use std::io::Write;

use proptest::prelude::*;

use super::*;

/// Text-like bytes: they shrink, but not to nothing.
fn sample(len: usize) -> Vec<u8> {
    let mut state = 0x2545_F491_u32;
    let mut bytes = Vec::with_capacity(len + 16);
    while bytes.len() < len {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        bytes.extend_from_slice(format!("{:x} event ", state >> 22).as_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Bytes that no codec can shrink.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes: Vec<u8> = std::iter::repeat_with(step)
        .take(len / 8 + 1)
        .flatten()
        .collect();
    bytes.truncate(len);
    bytes
}

fn pack(codec: Codec, input: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    Compressor::new(&codec.into()).compress(input, &mut out);
    out
}

fn unpack_within(
    codec: Codec,
    magic: u8,
    input: &[u8],
    limits: &Limits,
) -> Result<Vec<u8>, Defect> {
    let mut out = Vec::new();
    Decompressor::new().decompress(codec, magic, input, &mut out, limits)?;
    Ok(out)
}

fn unpack(codec: Codec, input: &[u8]) -> Result<Vec<u8>, Defect> {
    unpack_within(codec, 2, input, &Limits::default())
}

fn reason(result: Result<Vec<u8>, Defect>) -> String {
    result.expect_err("should be a defect").reason
}

#[test]
fn round_trip_at_block_edges() {
    let mut reader = Decompressor::new();
    let (mut packed, mut unpacked) = (Vec::new(), Vec::new());
    for codec in Codec::ALL {
        let mut writer = Compressor::new(&codec.into());
        for len in [
            0,
            1,
            12,
            13,
            32_767,
            32_768,
            32_769,
            65_535,
            65_536,
            65_537,
            1 << 20,
        ] {
            for input in [sample(len), noise(len), vec![0; len]] {
                packed.clear();
                unpacked.clear();
                writer.compress(&input, &mut packed);
                reader
                    .decompress(codec, 2, &packed, &mut unpacked, &Limits::default())
                    .unwrap();
                assert!(unpacked == input, "{codec}, {len} bytes");
            }
        }
    }
}

#[test]
fn both_ways_append_and_keep_what_was_there() {
    for codec in Codec::ALL {
        let mut packed = b"head".to_vec();
        Compressor::new(&codec.into()).compress(b"body", &mut packed);
        let body = packed.strip_prefix(b"head").expect("head kept");
        let mut out = b"before ".to_vec();
        Decompressor::new()
            .decompress(codec, 2, body, &mut out, &Limits::default())
            .unwrap();
        assert_eq!(out, b"before body", "{codec}");
    }
}

#[test]
fn levels_change_the_bytes_and_round_trip() {
    let input = sample(100_000);
    for (low, high) in [("gzip:1", "gzip:9"), ("zstd:-7", "zstd:19")] {
        let mut sizes = Vec::new();
        for text in [low, high] {
            let compression: Compression = text.parse().unwrap();
            let mut packed = Vec::new();
            Compressor::new(&compression).compress(&input, &mut packed);
            assert!(
                unpack(compression.codec, &packed).unwrap() == input,
                "{text}"
            );
            sizes.push(packed.len());
        }
        assert!(sizes[0] > sizes[1], "{low} {high}: {sizes:?}");
    }
}

#[test]
fn names_ids_and_levels_parse_back() {
    for (id, codec) in (0_u8..).zip(Codec::ALL) {
        assert_eq!(Codec::from_id(id), Some(codec));
        assert_eq!(codec.id(), id);
        assert_eq!(codec.name().parse::<Codec>().unwrap(), codec);
    }
    assert_eq!((5..=255).find_map(Codec::from_id), None);
    for text in ["none", "gzip:1", "gzip:9", "zstd", "zstd:-7", "zstd:22"] {
        assert_eq!(text.parse::<Compression>().unwrap().to_string(), text);
    }
    for (text, what, hint) in [
        (
            "brotli",
            "unknown codec \"brotli\"",
            "one of none, gzip, snappy, lz4, zstd",
        ),
        ("lz4:3", "lz4 has no levels", "-z lz4"),
        (
            "gzip:0",
            "gzip has no level \"0\"",
            "gzip takes levels 1 to 9, for example gzip:9",
        ),
        (
            "zstd:23",
            "zstd has no level \"23\"",
            "zstd takes levels -7 to 22, for example zstd:22",
        ),
        (
            "zstd:",
            "zstd has no level \"\"",
            "zstd takes levels -7 to 22, for example zstd:22",
        ),
    ] {
        let e = text.parse::<Compression>().expect_err(text);
        assert_eq!((e.to_string().as_str(), e.hint_text()), (what, Some(hint)));
    }
}

#[test]
fn written_bytes_are_those_of_java_clients() {
    let gzip = pack(Codec::Gzip, b"abc");
    assert_eq!(gzip[..4], [0x1f, 0x8b, 8, 0], "one member, no name");
    let snappy = pack(Codec::Snappy, &sample(70_000));
    assert_eq!(snappy[..16], *b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01");
    let first = i32::from_be_bytes(snappy[16..20].try_into().unwrap());
    let first = usize::try_from(first).unwrap();
    assert_eq!(
        snap::raw::decompress_len(&snappy[20..20 + first]),
        Ok(32 << 10)
    );
    let lz4 = pack(Codec::Lz4, b"abc");
    assert_eq!(lz4[..7], [0x04, 0x22, 0x4D, 0x18, 0x60, 0x40, 0x82]);
    assert_eq!(
        lz4[7..],
        *b"\x03\0\0\x80abc\0\0\0\0",
        "stored, no checksums"
    );
    let zstd = pack(Codec::Zstd, b"abc");
    assert_eq!(zstd[..4], [0x28, 0xB5, 0x2F, 0xFD]);
}

#[test]
fn gzip_and_zstd_read_several_parts() {
    for codec in [Codec::Gzip, Codec::Zstd] {
        let both = [pack(codec, b"one "), pack(codec, b""), pack(codec, b"two")].concat();
        assert_eq!(unpack(codec, &both).unwrap(), b"one two");
    }
    let skippable = [
        b"\x50\x2A\x4D\x18\x03\0\0\0xyz".to_vec(),
        pack(Codec::Zstd, b"data"),
    ];
    assert_eq!(unpack(Codec::Zstd, &skippable.concat()).unwrap(), b"data");
}

#[test]
fn snappy_reads_raw_blocks_and_repeated_headers() {
    let raw = snap::raw::Encoder::new()
        .compress_vec(b"raw block")
        .unwrap();
    assert_eq!(unpack(Codec::Snappy, &raw).unwrap(), b"raw block");
    let twice = [pack(Codec::Snappy, b"one "), pack(Codec::Snappy, b"two")].concat();
    assert_eq!(unpack(Codec::Snappy, &twice).unwrap(), b"one two");
    let mut other_version = pack(Codec::Snappy, b"any version");
    other_version[11] = 2;
    other_version[15] = 9;
    assert_eq!(
        unpack(Codec::Snappy, &other_version).unwrap(),
        b"any version"
    );
}

#[test]
fn snappy_announcing_more_than_it_can_hold_is_refused_before_memory_follows() {
    // 4 GiB - 1 announced by five bytes, raw and framed.
    let raw = [0xFF, 0xFF, 0xFF, 0xFF, 0x0F, 0, 0];
    assert!(reason(unpack(Codec::Snappy, &raw)).contains("more than it can hold"));
    let framed = [&MAGIC_AND_VERSIONS[..], &7_i32.to_be_bytes(), &raw].concat();
    let defect = unpack(Codec::Snappy, &framed).unwrap_err();
    assert_eq!(defect.at, 20);
    let mut out = Vec::new();
    let limits = Limits::default();
    let _ = Decompressor::new().decompress(Codec::Snappy, 2, &framed, &mut out, &limits);
    assert_eq!(out.capacity(), 0);
}

const MAGIC_AND_VERSIONS: [u8; 16] = *b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";

#[test]
fn snappy_block_lengths_are_checked() {
    for length in [-1, i32::MIN, i32::MAX, 4] {
        let bytes = [&MAGIC_AND_VERSIONS[..], &length.to_be_bytes(), b"abc"].concat();
        let reason = reason(unpack(Codec::Snappy, &bytes));
        assert_eq!(
            reason,
            format!("snappy block length {length}, 3 bytes left")
        );
    }
}

#[test]
fn zstd_refuses_large_windows_however_small_the_content() {
    let mut stream = ::zstd::Encoder::new(Vec::new(), 1).unwrap();
    stream.window_log(20).unwrap();
    stream.write_all(&sample(3000)).unwrap();
    let packed = stream.finish().unwrap();
    let mut limits = Limits {
        zstd_window_log_max: 20,
        ..Limits::default()
    };
    assert_eq!(
        unpack_within(Codec::Zstd, 2, &packed, &limits).unwrap(),
        sample(3000)
    );
    limits.zstd_window_log_max = 19;
    let reason = reason(unpack_within(Codec::Zstd, 2, &packed, &limits));
    assert_eq!(
        reason,
        "zstd: window of 1048576 bytes, at most 524288 allowed"
    );
}

#[test]
fn zstd_reads_frames_without_a_size_and_bombs_within_the_limit() {
    for input in [sample(300_000), vec![7; 20 << 20]] {
        let mut stream = ::zstd::Encoder::new(Vec::new(), 1).unwrap();
        stream.write_all(&input).unwrap();
        let packed = stream.finish().unwrap();
        assert!(unpack(Codec::Zstd, &packed).unwrap() == input);
        assert!(unpack(Codec::Zstd, &pack(Codec::Zstd, &input)).unwrap() == input);
    }
}

#[test]
fn output_stops_at_the_limit_and_not_before() {
    let input = vec![b'x'; 1 << 20];
    let exact = Limits {
        body_bytes_max: input.len(),
        ..Limits::default()
    };
    let less = Limits {
        body_bytes_max: input.len() - 1,
        ..Limits::default()
    };
    for codec in Codec::ALL {
        let packed = pack(codec, &input);
        assert!(
            unpack_within(codec, 2, &packed, &exact).unwrap() == input,
            "{codec}"
        );
        let mut out = Vec::new();
        let defect = Decompressor::new()
            .decompress(codec, 2, &packed, &mut out, &less)
            .expect_err(codec.name());
        assert_eq!(
            defect.reason, "decompresses to more than 1048575 bytes",
            "{codec}"
        );
        assert!(out.len() <= input.len(), "{codec} went on to {}", out.len());
    }
}

#[test]
fn bytes_left_over_are_a_defect() {
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        for tail in [&b"x"[..], b"\0", b"trailing garbage, some of it"] {
            let bytes = [pack(codec, &sample(1000)), tail.to_vec()].concat();
            assert!(unpack(codec, &bytes).is_err(), "{codec} took {tail:?}");
        }
    }
    let twice = [pack(Codec::Lz4, b"one"), pack(Codec::Lz4, b"two")].concat();
    assert!(reason(unpack(Codec::Lz4, &twice)).contains("18 bytes after the end"));
}

#[test]
fn every_prefix_is_a_defect() {
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let packed = pack(codec, &sample(500));
        for len in 0..packed.len() {
            // The xerial header alone is a stream of no blocks.
            if codec == Codec::Snappy && len == 16 {
                continue;
            }
            assert!(
                unpack(codec, &packed[..len]).is_err(),
                "{codec} cut at {len}"
            );
        }
    }
}

#[test]
fn gzip_checksum_and_length_are_checked() {
    let good = pack(Codec::Gzip, &sample(1000));
    for back in 1..=8 {
        let mut bad = good.clone();
        let at = bad.len() - back;
        bad[at] ^= 1;
        assert!(unpack(Codec::Gzip, &bad).is_err(), "trailer byte -{back}");
    }
}

/// A frame around one stored block, with what the flags call for and a checksum as given.
fn lz4_frame(flg: u8, bd: u8, header_checksum: Option<u8>, content: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x04, 0x22, 0x4D, 0x18, flg, bd];
    if flg & 0x08 != 0 {
        frame.extend_from_slice(&(content.len() as u64).to_le_bytes());
    }
    let right = (twox_hash::XxHash32::oneshot(0, &frame[4..]) >> 8) as u8;
    frame.push(header_checksum.unwrap_or(right));
    frame.extend_from_slice(&(content.len() as u32 | 1 << 31).to_le_bytes());
    frame.extend_from_slice(content);
    let checksum = twox_hash::XxHash32::oneshot(0, content).to_le_bytes();
    if flg & 0x10 != 0 {
        frame.extend_from_slice(&checksum);
    }
    frame.extend_from_slice(&[0; 4]);
    if flg & 0x04 != 0 {
        frame.extend_from_slice(&checksum);
    }
    frame
}

#[test]
fn lz4_reads_every_block_size_and_option() {
    for (bd, block_bytes) in [
        (0x40, 64 << 10),
        (0x50, 256 << 10),
        (0x60, 1 << 20),
        (0x70, 4 << 20),
    ] {
        let largest = vec![7; block_bytes];
        let frame = lz4_frame(0x60, bd, None, &largest);
        assert!(unpack(Codec::Lz4, &frame).unwrap() == largest, "{bd:x}");
        for options in 0..16 {
            let flg = 0x40 | options << 2;
            let frame = lz4_frame(flg, bd, None, b"content");
            assert_eq!(
                unpack(Codec::Lz4, &frame).unwrap(),
                b"content",
                "{flg:x} {bd:x}"
            );
        }
    }
    for (flg, bd) in [
        (0x60, 0x30),
        (0x60, 0xC0),
        (0x60, 0x41),
        (0x20, 0x40),
        (0x61, 0x40),
        (0x62, 0x40),
    ] {
        assert!(reason(unpack(Codec::Lz4, &lz4_frame(flg, bd, None, b"x"))).contains("not known"));
    }
}

#[test]
fn lz4_linked_blocks_reach_into_the_blocks_before_and_independent_ones_do_not() {
    let content = noise(2000);
    let again = lz4_flex::block::compress_with_dict(&content, &content);
    assert!(again.len() < 100, "all of it is one match");
    for (flg, linked) in [(0x40, true), (0x60, false)] {
        let mut frame = lz4_frame(flg, 0x40, None, &content);
        frame.truncate(frame.len() - 4);
        frame.extend_from_slice(&(again.len() as u32).to_le_bytes());
        frame.extend_from_slice(&again);
        frame.extend_from_slice(&[0; 4]);
        // What stands in `out` before this body is no part of it.
        let mut out = noise(100);
        let done =
            Decompressor::new().decompress(Codec::Lz4, 2, &frame, &mut out, &Limits::default());
        assert_eq!(done.is_ok(), linked, "{done:?}");
        assert!(!linked || out[100..] == [&content[..], &content].concat());
    }
}

#[test]
fn lz4_header_checksum_is_checked_except_in_magic_0() {
    // The byte that Kafka wrote in magic 0, taken over the frame's magic as well.
    let broken = lz4_frame(0x60, 0x40, Some(0x1A), b"old");
    let limits = Limits::default();
    assert_eq!(
        unpack_within(Codec::Lz4, 0, &broken, &limits).unwrap(),
        b"old"
    );
    assert_eq!(
        unpack_within(Codec::Lz4, 0, &pack(Codec::Lz4, b"old"), &limits).unwrap(),
        b"old"
    );
    for magic in [1, 2] {
        let reason = reason(unpack_within(Codec::Lz4, magic, &broken, &limits));
        assert_eq!(reason, "lz4: wrong frame header checksum");
    }
}

#[test]
fn lz4_block_checksum_and_size_are_checked() {
    let mut frame = lz4_frame(0x70, 0x40, None, b"content");
    frame[11] ^= 1;
    assert_eq!(
        reason(unpack(Codec::Lz4, &frame)),
        "lz4: wrong block checksum"
    );
    let big = lz4_frame(0x60, 0x40, None, &sample(65_537));
    assert!(reason(unpack(Codec::Lz4, &big)).contains("block of 65537 bytes"));
}

fn any_codec() -> impl Strategy<Value = Codec> {
    prop::sample::select(Codec::ALL.to_vec())
}

/// A few random bytes over and over: compressible, with matches of every distance.
fn any_body() -> impl Strategy<Value = Vec<u8>> {
    let seed = prop::collection::vec(any::<u8>(), 0..300);
    let cut = prop::collection::vec((0_usize..300, 1_usize..500), 0..40);
    (seed, cut).prop_map(|(seed, cuts)| {
        let mut body = seed.clone();
        for (at, len) in cuts {
            body.extend(seed.iter().cycle().skip(at).take(len));
        }
        body
    })
}

fn small() -> Limits {
    Limits {
        body_bytes_max: 1 << 20,
        ..Limits::default()
    }
}

proptest! {
    #[test]
    fn round_trips(codec in any_codec(), body in any_body(), magic in 0_u8..3) {
        let packed = pack(codec, &body);
        prop_assert_eq!(unpack_within(codec, magic, &packed, &small()).unwrap(), body);
    }

    #[test]
    fn random_bytes_never_panic_or_pass_the_limit(
        codec in any_codec(), magic in 0_u8..3, bytes in prop::collection::vec(any::<u8>(), 0..300),
        framed in any::<bool>(),
    ) {
        let head: &[u8] = match codec {
            Codec::None => b"",
            Codec::Gzip => b"\x1f\x8b\x08\0\0\0\0\0\0\xff",
            Codec::Snappy => b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01\0\0\0\x20",
            Codec::Lz4 => b"\x04\x22\x4D\x18\x60\x40\x82\x20\0\0\0",
            Codec::Zstd => b"\x28\xB5\x2F\xFD",
        };
        let input = if framed { [head, &bytes].concat() } else { bytes };
        let mut out = Vec::new();
        let _ = Decompressor::new().decompress(codec, magic, &input, &mut out, &small());
        prop_assert!(out.len() <= (1 << 20) + 1);
    }

    #[test]
    fn mutated_bytes_never_panic_or_pass_the_limit(
        codec in any_codec(), body in any_body(), magic in 0_u8..3,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut packed = pack(codec, &body);
        for (at, byte) in edits {
            if !packed.is_empty() {
                let at = at.index(packed.len());
                packed[at] = byte;
            }
        }
        if cut.index(4) == 0 {
            packed.truncate(cut.index(packed.len() + 1));
        }
        let mut reader = Decompressor::new();
        let mut out = Vec::new();
        let _ = reader.decompress(codec, magic, &packed, &mut out, &small());
        prop_assert!(out.len() <= (1 << 20) + 1);
        // A failure leaves nothing behind that would harm the next body.
        out.clear();
        reader.decompress(codec, magic, &pack(codec, &body), &mut out, &small()).unwrap();
        prop_assert_eq!(out, body);
    }
}
