//! The header of one client frame (RFC 6455 section 5.2), and its mask.
//!
//! Pure; knows nothing of messages or of the frames before it.

use crate::wire::CloseCode;

/// Two bytes, a 64-bit length and a masking key.
pub(super) const LONGEST: usize = 14;

/// The kinds of frame there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Opcode {
    pub(super) fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }

    fn from_bits(bits: u8) -> Result<Self, CloseCode> {
        match bits {
            0x0 => Ok(Self::Continuation),
            0x1 => Ok(Self::Text),
            0x2 => Ok(Self::Binary),
            0x8 => Ok(Self::Close),
            0x9 => Ok(Self::Ping),
            0xA => Ok(Self::Pong),
            _ => Err(CloseCode::ProtocolError),
        }
    }
}

/// A frame whose payload is to come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub(super) opcode: Opcode,
    pub(super) fin: bool,
    /// The masking key, turned so that its first byte is for the next byte of payload.
    key: [u8; 4],
    /// Payload that has not been unmasked yet, in bytes.
    pub(super) remaining: u64,
}

impl Header {
    /// The header at the start of `bytes` and its length, or `None` while more bytes are needed.
    /// What is wrong in the first two bytes is refused without waiting for the others.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, CloseCode> {
        let [first, second, rest @ ..] = bytes else {
            return Ok(None);
        };
        let (fin, reserved, masked) = (first & 0x80 != 0, first & 0x70 != 0, second & 0x80 != 0);
        let opcode = Opcode::from_bits(first & 0x0f)?;
        let short = second & 0x7f;
        // Section 5.2: no extension was agreed; section 5.1: clients mask;
        // section 5.5: control frames are whole and short.
        if reserved || !masked || (opcode.is_control() && (!fin || short > 125)) {
            return Err(CloseCode::ProtocolError);
        }
        let (remaining, rest) = match short {
            126 => match rest.split_first_chunk::<2>() {
                Some((length, rest)) => (u64::from(u16::from_be_bytes(*length)), rest),
                None => return Ok(None),
            },
            127 => match rest.split_first_chunk::<8>() {
                Some((length, rest)) => (u64::from_be_bytes(*length), rest),
                None => return Ok(None),
            },
            short => (u64::from(short), rest),
        };
        // Section 5.2: the shortest form, and the top bit of a 64-bit length is 0.
        let minimal = match short {
            126 => remaining > 125,
            127 => remaining > 0xffff && remaining >> 63 == 0,
            _ => true,
        };
        if !minimal {
            return Err(CloseCode::ProtocolError);
        }
        let Some((key, rest)) = rest.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let header = Self { opcode, fin, key: *key, remaining };
        Ok(Some((header, bytes.len() - rest.len())))
    }

    /// Unmasks the next piece of payload in place (section 5.3).
    pub(super) fn unmask(&mut self, payload: &mut [u8]) {
        let [a, b, c, d] = self.key;
        let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
        let (words, tail) = payload.as_chunks_mut::<8>();
        for word in words {
            *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
        }
        for (byte, key) in tail.iter_mut().zip(self.key.iter().cycle()) {
            *byte ^= key;
        }
        self.key.rotate_left(payload.len() % 4);
        self.remaining -= payload.len() as u64;
    }
}
