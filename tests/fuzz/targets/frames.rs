//! WebSocket frames (`gateway::codec`): however the network cuts them, they say the same.

use fanfare::gateway::codec::{Decoder, Limits, Message};
use fanfare::wire::CloseCode;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{Target, demand};

pub(super) const TARGET: Target = Target {
    name: "frames",
    corpus,
    // Headers with a key of zeros: text, its fragments, binary, control frames, both long lengths.
    words: &[
        b"\x81\x80\0\0\0\0",
        b"\x01\x81\0\0\0\0a",
        b"\x80\x82\0\0\0\0\xc3\xa9",
        b"\x82\x81\0\0\0\0b",
        b"\x89\x80\0\0\0\0",
        b"\x8a\x81\0\0\0\0p",
        b"\x88\x82\0\0\0\0\x03\xe8",
        b"\x81\xfe\0\x7e\0\0\0\0",
        b"\x81\xff\0\0\0\0\0\x01\0\0\0\0\0\0",
        b"\xf0\x9f\x98\x80",
    ],
    check,
};

/// What a client said, kept.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Said {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>),
}

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        short @ 0..=125 => bytes.push(0x80 | short as u8),
        medium @ 126..=0xffff => {
            bytes.push(0xfe);
            bytes.extend((medium as u16).to_be_bytes());
        }
        long => {
            bytes.push(0xff);
            bytes.extend((long as u64).to_be_bytes());
        }
    }
    // A key of zeros leaves the payload as it is, so that mutations are seen.
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}

impl Said {
    fn encode(&self) -> Vec<u8> {
        match self {
            Self::Text(text) => frame(0x81, text.as_bytes()),
            Self::Binary(bytes) => frame(0x82, bytes),
            Self::Ping(bytes) => frame(0x89, bytes),
            Self::Pong(bytes) => frame(0x8a, bytes),
            Self::Close(None) => frame(0x88, b""),
            Self::Close(Some(code)) => frame(0x88, &code.to_be_bytes()),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(bytes) | Self::Ping(bytes) | Self::Pong(bytes) => bytes.len(),
            Self::Close(_) => 0,
        }
    }
}

fn corpus() -> Vec<Vec<u8>> {
    let fragments = [frame(0x01, "caf\u{e9} ".as_bytes()), frame(0x89, b"now"), frame(0x80, "€".as_bytes())];
    vec![
        frame(0x81, b"{\"type\":\"pong\"}"),
        fragments.concat(),
        [frame(0x81, &[b'a'; 126]), frame(0x8a, b""), frame(0x88, b"\x03\xe8bye")].concat(),
        [frame(0x02, b"\xff"), frame(0x00, b""), frame(0x80, b"\x00")].concat(),
        frame(0x81, &[b'b'; 16 * 1024]),
        frame(0x81, &vec![b'c'; 0x1_0000]),
        frame(0x88, b""),
        vec![0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58],
    ]
}

/// What `bytes` say when they come in pieces that `cut` chooses.
fn decode(
    bytes: &[u8],
    limits: &Limits,
    mut cut: impl FnMut() -> usize,
) -> (Vec<Said>, Result<u32, CloseCode>) {
    let (mut decoder, mut said, mut frames) = (Decoder::default(), vec![], 0);
    let mut rest = bytes.to_vec();
    let mut rest = &mut rest[..];
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at_mut(cut().clamp(1, rest.len()));
        rest = behind;
        let fed = decoder.feed(piece, limits, |message| {
            said.push(match message {
                Message::Text(text) => Said::Text(text.to_owned()),
                Message::Binary(bytes) => Said::Binary(bytes.to_vec()),
                Message::Ping(bytes) => Said::Ping(bytes.to_vec()),
                Message::Pong(bytes) => Said::Pong(bytes.to_vec()),
                Message::Close(code) => Said::Close(code),
            });
            Ok(())
        });
        match fed {
            Ok(count) => frames += count,
            Err(code) => return (said, Err(code)),
        }
    }
    (said, Ok(frames))
}

fn check(input: &[u8]) -> Result<String, String> {
    let narrow = Limits { max_message_bytes: 200, max_fragments: 4, binary: true };
    let kinds =
        [Limits::default(), narrow].iter().map(|limits| with(limits, input)).collect::<Result<Vec<_>, _>>();
    kinds.map(|kinds| kinds.concat())
}

fn with(limits: &Limits, input: &[u8]) -> Result<String, String> {
    let whole = decode(input, limits, || usize::MAX);
    let (said, result) = &whole;
    let mut random = StdRng::seed_from_u64(input.len() as u64);
    let longest = random.random_range(2..300);
    for pieces in [decode(input, limits, || 1), decode(input, limits, || random.random_range(1..=longest))] {
        demand(pieces == whole, || format!("whole it says {whole:?}, in pieces {pieces:?}"))?;
    }
    for (at, one) in said.iter().enumerate() {
        let most = if matches!(one, Said::Ping(_) | Said::Pong(_)) {
            125
        } else {
            limits.max_message_bytes as usize
        };
        demand(one.len() <= most, || format!("a message of {} bytes; at most {most}", one.len()))?;
        demand(limits.binary || !matches!(one, Said::Binary(_)), || "a binary message was taken".to_owned())?;
        let is_last = at + 1 == said.len();
        demand(is_last || !matches!(one, Said::Close(_)), || {
            "something came after the close frame".to_owned()
        })?;
    }
    let again: Vec<u8> = said.iter().flat_map(Said::encode).collect();
    let (heard, _) = decode(&again, limits, || usize::MAX);
    demand(heard == *said, || format!("{said:?} was encoded and read as {heard:?}"))?;
    let order: String = said.iter().take(6).map(|one| format!("{one:?}").remove(0)).collect();
    let longest = said.iter().map(Said::len).max().unwrap_or(0);
    Ok(format!("{:?} {order} {:?};", result.err(), longest.checked_ilog2()))
}
