//! Server frames as bytes, ready for the socket.

use bytes::{BufMut, Bytes, BytesMut};

use crate::domain::UnixMillis;

/// One unmasked server frame (RFC 6455 section 5.2), header included, in two parts so that the
/// second can be shared: `head` is this frame's own, `body` may belong to many frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The frame's header and the start of its payload.
    pub head: Bytes,
    /// The rest of its payload; often empty.
    pub body: Bytes,
    /// When it is worth nothing any more: whoever queues it must not begin to write it from then on.
    pub expires_at: Option<UnixMillis>,
}

/// RFC 6455 section 5.2: text frame.
const TEXT: u8 = 0x1;
/// RFC 6455 section 5.2: binary frame.
const BINARY: u8 = 0x2;
/// RFC 6455 section 5.5.1: close frame.
const CLOSE: u8 = 0x8;
/// RFC 6455 section 5.5.2: ping frame.
const PING: u8 = 0x9;
/// RFC 6455 section 5.5.3: pong frame.
const PONG: u8 = 0xA;

impl Frame {
    /// A text frame whose payload is `head` and then `body`.
    pub fn text(head: &[u8], body: Bytes) -> Self {
        Self::encode(TEXT, head, body)
    }

    /// A binary frame. Nodes say everything in text; this is for peers of the gateway that do not.
    pub fn binary(body: Bytes) -> Self {
        Self::encode(BINARY, b"", body)
    }

    /// A ping without payload.
    pub fn ping() -> Self {
        Self { head: Bytes::from_static(&[0x80 | PING, 0]), body: Bytes::new(), expires_at: None }
    }

    /// A pong with the ping's payload (at most 125 bytes, as the codec has checked).
    pub fn pong(payload: &[u8]) -> Self {
        Self::encode(PONG, payload, Bytes::new())
    }

    /// A close frame. `reason` is cut to what a control frame can carry (123 bytes, section 5.5).
    pub fn close(code: u16, reason: &str) -> Self {
        let mut payload = BytesMut::with_capacity(2 + reason.len());
        payload.put_u16(code);
        let end = reason
            .char_indices()
            .map(|(at, character)| at + character.len_utf8())
            .take_while(|end| *end <= 123)
            .last();
        payload.put_slice(&reason.as_bytes()[..end.unwrap_or(0)]);
        Self::encode(CLOSE, &payload, Bytes::new())
    }

    /// The same frame, worth nothing from `at` on.
    #[must_use]
    pub fn expiring(self, at: Option<UnixMillis>) -> Self {
        Self { expires_at: at, ..self }
    }

    /// Its length on the wire, in bytes.
    pub fn len(&self) -> usize {
        self.head.len() + self.body.len()
    }

    /// Whether there is nothing to write (never true of a frame made here).
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn encode(opcode: u8, head: &[u8], body: Bytes) -> Self {
        let length = head.len() + body.len();
        let mut bytes = BytesMut::with_capacity(10 + head.len());
        bytes.put_u8(0x80 | opcode);
        match length {
            // The arms' bounds make the narrowing casts exact.
            0..=125 => bytes.put_u8(length as u8),
            126..=0xffff => {
                bytes.put_u8(126);
                bytes.put_u16(length as u16);
            }
            _ => {
                bytes.put_u8(127);
                bytes.put_u64(length as u64);
            }
        }
        bytes.put_slice(head);
        Self { head: bytes.freeze(), body, expires_at: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_takes_the_shortest_form() {
        for (length, header) in [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
            let frame = Frame::text(b"", Bytes::from(vec![b'x'; length]));
            assert_eq!(frame.head.len(), header, "{length}");
            assert_eq!(frame.len(), header + length);
        }
    }

    #[test]
    fn a_close_reason_is_cut_between_characters() {
        let frame = Frame::close(4000, &"é".repeat(100));
        assert_eq!(frame.head.len(), 2 + 2 + 122);
        assert!(std::str::from_utf8(&frame.head[4..]).is_ok());
    }
}
