//! The decoder against RFC 6455, on whole frames and on every split of them.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

const TEXT: u8 = 0x81;
const TEXT_START: u8 = 0x01;
const CONTINUED: u8 = 0x00;
const CONTINUED_END: u8 = 0x80;
const PING: u8 = 0x89;
const CLOSE: u8 = 0x88;

/// A masked frame with its first byte as given.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let key = [0x5a, 0x00, 0xff, 0x13];
    let mut bytes = vec![first];
    match payload.len() {
        0..=125 => bytes.push(0x80 | payload.len() as u8),
        126..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend((payload.len() as u16).to_be_bytes());
        }
        _ => {
            bytes.push(0x80 | 127);
            bytes.extend((payload.len() as u64).to_be_bytes());
        }
    }
    bytes.extend(key);
    bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(b, k)| b ^ k));
    bytes
}

/// What one stream of bytes gives, fed in the pieces that `cut` chooses, and the code at its end.
fn decode(bytes: &[u8], mut cut: impl FnMut(usize) -> usize) -> (Vec<String>, Result<u32, CloseCode>) {
    let mut decoder = Decoder::default();
    let mut seen = Vec::new();
    let mut frames = 0;
    let mut rest = bytes.to_vec();
    while !rest.is_empty() {
        let at = cut(rest.len()).clamp(1, rest.len());
        let mut piece: Vec<u8> = rest.drain(..at).collect();
        let result = decoder.feed(&mut piece, &Limits::default(), |message| {
            seen.push(format!("{message:?}"));
            Ok(())
        });
        match result {
            Ok(count) => frames += count,
            Err(code) => return (seen, Err(code)),
        }
        assert!(
            decoder.is_midway() || decoder.held.capacity() == 0,
            "memory is held with nothing incomplete"
        );
    }
    (seen, Ok(frames))
}

#[track_caller]
fn refuses(bytes: &[u8], code: CloseCode) {
    for piece in [usize::MAX, 1, 3] {
        let (_, result) = decode(bytes, |_| piece);
        assert_eq!(result, Err(code), "in pieces of {piece}");
    }
}

#[test]
fn any_split_of_the_bytes_yields_the_same_messages() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..60 {
        let bytes = conversation(&mut random);
        let whole = decode(&bytes, |all| all);
        assert!(whole.1.is_ok(), "{whole:?}");
        for _ in 0..3 {
            let longest = random.random_range(1..=200);
            let split = decode(&bytes, |_| random.random_range(1..=longest));
            assert_eq!(split, whole, "seed {seed}");
        }
        assert_eq!(decode(&bytes, |_| 1), whole, "seed {seed}");
    }
}

/// Texts, some in fragments cut anywhere, with pings between the fragments; sometimes a close.
fn conversation(random: &mut StdRng) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..random.random_range(1..12) {
        let length = [0, 1, 5, 125, 126, 300, 4000][random.random_range(0..7)];
        let text: String =
            (0..length).map(|_| ['a', 'é', '€', '😀', '\0'][random.random_range(0..5)]).take(4000).collect();
        let mut rest = text.as_bytes();
        let mut first = TEXT_START;
        while random.random_bool(0.6) {
            let (piece, more) = rest.split_at(random.random_range(0..=rest.len()));
            bytes.extend(frame(first, piece));
            (rest, first) = (more, CONTINUED);
            if random.random_bool(0.3) {
                bytes.extend(frame(PING, &text.as_bytes()[..text.len().min(9)]));
            }
        }
        bytes.extend(frame(first | 0x80, rest));
    }
    if random.random_bool(0.5) {
        bytes.extend(frame(CLOSE, b"\x03\xe8bye"));
        bytes.extend(frame(PING, b"unseen"));
    }
    bytes
}

#[test]
fn random_bytes_never_panic_and_split_alike() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..2000 {
        let mut bytes: Vec<u8> = (0..random.random_range(1..60)).map(|_| random.random()).collect();
        // Likely enough to be a frame that more than the first byte is looked at.
        bytes[0] = [0x81, 0x01, 0x80, 0x00, 0x89, 0x88, 0x82, bytes[0]][random.random_range(0..8)];
        if let Some(second) = bytes.get_mut(1) {
            *second |= 0x80;
        }
        let whole = decode(&bytes, |all| all);
        assert_eq!(decode(&bytes, |_| 1), whole, "seed {seed}");
    }
}

#[test]
fn broken_frames_are_protocol_errors() {
    let mut unmasked = vec![TEXT, 2];
    unmasked.extend(b"hi");
    refuses(&unmasked, CloseCode::ProtocolError);
    for first in [0xc1, 0xa1, 0x91, 0xc9, 0x83, 0x87, 0x8b, 0x8f] {
        refuses(&frame(first, b"hi"), CloseCode::ProtocolError);
    }
    refuses(&frame(PING, &[0; 126]), CloseCode::ProtocolError);
    refuses(&frame(0x09, b"cut"), CloseCode::ProtocolError);
    refuses(&frame(CONTINUED_END, b"x"), CloseCode::ProtocolError);
    for second in [TEXT, TEXT_START, 0x82] {
        let bytes = [frame(TEXT_START, b"a"), frame(second, b"b")].concat();
        refuses(&bytes, CloseCode::ProtocolError);
    }
    // Lengths that a shorter form could have said, and one with the top bit set.
    for length in [&[0xfe, 0, 5][..], &[0xff, 0, 0, 0, 0, 0, 0, 0, 5], &[0xff, 128, 0, 0, 0, 0, 0, 0, 0]] {
        refuses(&[&[TEXT], length, &[0; 9]].concat(), CloseCode::ProtocolError);
    }
}

#[test]
fn a_wrong_first_byte_is_refused_without_waiting_for_the_rest() {
    let (_, result) = decode(&[0xf1, 0x80], |all| all);
    assert_eq!(result, Err(CloseCode::ProtocolError));
}

#[test]
fn text_that_is_not_utf8_is_refused_as_soon_as_it_is_seen() {
    for bad in [&b"\xff"[..], b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\x80"] {
        refuses(&frame(TEXT, &[b"ok ", bad].concat()), CloseCode::InvalidText);
        refuses(&frame(TEXT_START, &[bad, b"..."].concat()), CloseCode::InvalidText);
    }
    refuses(&frame(TEXT, b"abc\xe2\x82"), CloseCode::InvalidText);
    let broken = [frame(TEXT_START, b"\xe2\x82"), frame(CONTINUED, b"x")].concat();
    refuses(&broken, CloseCode::InvalidText);
    // Inside a frame whose payload has not all come.
    let mut half = frame(TEXT, &[b"\xff".as_slice(), &[b'a'; 100]].concat());
    half.truncate(20);
    refuses(&half, CloseCode::InvalidText);
}

#[test]
fn a_message_over_the_limit_is_refused_by_its_header_alone() {
    let mut header = vec![TEXT, 0x80 | 126];
    header.extend((16 * 1024 + 1_u16).to_be_bytes());
    header.extend([0; 4]);
    refuses(&header, CloseCode::TooBig);
    let mut huge = vec![TEXT, 0x80 | 127, 0x40];
    huge.extend([0; 11]);
    refuses(&huge, CloseCode::TooBig);
    let many = [frame(TEXT_START, &[b'a'; 9000]), frame(CONTINUED_END, &[b'a'; 9000])].concat();
    refuses(&many, CloseCode::TooBig);
    let (seen, result) = decode(&frame(TEXT, &[b'a'; 16 * 1024]), |_| 1000);
    assert_eq!((seen.len(), result), (1, Ok(1)));
}

#[test]
fn empty_fragments_without_end_are_refused() {
    let mut bytes = frame(TEXT_START, b"");
    for _ in 0..256 {
        bytes.extend(frame(CONTINUED, b""));
    }
    refuses(&bytes, CloseCode::TooBig);
}

#[test]
fn binary_is_refused_when_it_ends_and_by_size_before() {
    refuses(&frame(0x82, b""), CloseCode::UnsupportedData);
    refuses(&frame(0x82, b"\xff\x00"), CloseCode::UnsupportedData);
    let large = [frame(0x02, &[0; 9000]), frame(PING, b"p"), frame(CONTINUED, &[0; 9000])].concat();
    refuses(&large, CloseCode::TooBig);
}

#[test]
fn binary_is_handed_on_whole_where_it_is_taken() {
    let limits = Limits { binary: true, ..Limits::default() };
    let message = [frame(0x02, b"\xff"), frame(PING, b"p"), frame(CONTINUED_END, b"\x00")].concat();
    let bytes = [message, frame(0x82, b""), frame(TEXT, b"t")].concat();
    for size in [1, 5, bytes.len()] {
        let (mut decoder, mut seen) = (Decoder::default(), vec![]);
        for piece in bytes.clone().chunks_mut(size) {
            let fed = decoder.feed(piece, &limits, |message| {
                seen.push(format!("{message:?}"));
                Ok(())
            });
            assert!(fed.is_ok(), "{fed:?}");
        }
        assert_eq!(seen, ["Ping([112])", "Binary([255, 0])", "Binary([])", "Text(\"t\")"]);
        assert_eq!(decoder.held.capacity(), 0);
    }
    let large = [frame(0x02, &[0; 9000]), frame(CONTINUED, &[0; 9000])].concat();
    let fed = Decoder::default().feed(&mut large.clone(), &limits, |_| Ok(()));
    assert_eq!(fed, Err(CloseCode::TooBig));
}

#[test]
fn close_frames_are_checked() {
    for code in [0_u16, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65535] {
        refuses(&frame(CLOSE, &code.to_be_bytes()), CloseCode::ProtocolError);
    }
    refuses(&frame(CLOSE, b"\x03"), CloseCode::ProtocolError);
    refuses(&frame(CLOSE, b"\x03\xe8abc\xe2\x82"), CloseCode::InvalidText);
    for (payload, seen) in
        [(&b""[..], "Close(None)"), (b"\x03\xe8", "Close(Some(1000))"), (b"\x0f\xa0why", "Close(Some(4000))")]
    {
        let (messages, result) = decode(&frame(CLOSE, payload), |_| 1);
        assert_eq!((messages, result), (vec![seen.to_owned()], Ok(1)));
    }
}
