//! RFC 6455 frames from a client, decoded from whatever pieces the network hands over.
//!
//! Sans-IO: a connection's task feeds it what was read. Owns the bytes of an incomplete frame or
//! message and nothing else: while nothing is incomplete it has no heap memory. Must never answer,
//! close, log or look at what a text says, and never keep more than a message may have.

use crate::wire::CloseCode;

mod header;
#[cfg(test)]
mod tests;

use header::{Header, Opcode};

/// What a client said.
#[derive(Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A whole text message, put together if it came in fragments.
    Text(&'a str),
    /// A whole binary message, where [`Limits::binary`] takes them.
    Binary(&'a [u8]),
    /// A ping with its payload, at most 125 bytes.
    Ping(&'a [u8]),
    /// A pong with its payload, at most 125 bytes.
    Pong(&'a [u8]),
    /// A close frame with its code, if it had one. Nothing after it is decoded.
    Close(Option<u16>),
}

/// Which messages are taken, and how large they may be.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The payload of one message, all fragments together, in bytes.
    pub max_message_bytes: u32,
    /// Fragments of one message, empty ones included.
    pub max_fragments: u32,
    /// Whether binary messages are taken. If not they end in [`CloseCode::UnsupportedData`], and nothing of
    /// them is kept.
    pub binary: bool,
}

impl Default for Limits {
    /// 16 KiB in at most 256 fragments; text only.
    fn default() -> Self {
        Self { max_message_bytes: 16 * 1024, max_fragments: 256, binary: false }
    }
}

/// The state between two reads of one connection.
#[derive(Debug, Default)]
pub struct Decoder {
    /// What there is of an unfinished message, then the payload of an unfinished control frame.
    held: Vec<u8>,
    /// How much of `held` is the message.
    message_length: u32,
    /// How much of that, if it is text, is known to be whole, valid UTF-8.
    checked: u32,
    /// Payload announced so far by the frames of the unfinished message.
    announced: u32,
    /// Frames of the unfinished message so far.
    fragments: u32,
    /// What the unfinished message is, if there is one.
    message: Option<Opcode>,
    /// The frame whose payload is being read.
    frame: Option<Header>,
    /// The start of a header that is not whole yet (14 bytes are the longest).
    head: [u8; header::LONGEST],
    head_length: u8,
    closed: bool,
}

impl Decoder {
    /// Decodes the next `bytes` (unmasking them in place) and hands on each message that they
    /// complete. Returns how many frames ended in them, of any kind.
    ///
    /// # Errors
    /// The code to close with: what broke RFC 6455 or a limit, or what `on` returned. Nothing
    /// may be fed after that.
    pub fn feed(
        &mut self,
        mut bytes: &mut [u8],
        limits: &Limits,
        mut on: impl FnMut(Message<'_>) -> Result<(), CloseCode>,
    ) -> Result<u32, CloseCode> {
        let mut frames = 0;
        loop {
            if self.frame.is_none() {
                if bytes.is_empty() || self.closed {
                    return Ok(frames);
                }
                let taken = self.take_header(bytes, limits)?;
                bytes = &mut bytes[taken..];
            }
            let Some(frame) = &self.frame else {
                return Ok(frames);
            };
            if frame.remaining > 0 && bytes.is_empty() {
                return Ok(frames);
            }
            let length = bytes.len().min(frame.remaining as usize);
            let (payload, rest) = bytes.split_at_mut(length);
            bytes = rest;
            self.take_payload(payload, limits, &mut on)?;
            frames += u32::from(self.frame.is_none());
        }
    }

    /// Whether the client's close frame was seen.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether something incomplete is held.
    pub fn is_midway(&self) -> bool {
        self.head_length > 0 || self.frame.is_some() || self.message.is_some()
    }

    /// Takes what belongs to the header, and checks it as soon as it is whole: before any payload.
    fn take_header(&mut self, bytes: &[u8], limits: &Limits) -> Result<usize, CloseCode> {
        let had = usize::from(self.head_length);
        let copied = bytes.len().min(header::LONGEST - had);
        self.head[had..had + copied].copy_from_slice(&bytes[..copied]);
        match Header::parse(&self.head[..had + copied])? {
            Some((header, length)) => {
                self.head_length = 0;
                self.frame = Some(self.admit(header, limits)?);
                Ok(length - had)
            }
            None => {
                // At most 13 bytes: 14 are always a whole header.
                self.head_length = (had + copied) as u8;
                Ok(copied)
            }
        }
    }

    /// Whether a frame may come now (RFC 6455 section 5.4), and is within the limits.
    fn admit(&mut self, header: Header, limits: &Limits) -> Result<Header, CloseCode> {
        if header.opcode.is_control() {
            return Ok(header);
        }
        match (header.opcode, self.message) {
            (Opcode::Continuation, Some(_)) => {}
            (Opcode::Continuation, None) | (_, Some(_)) => return Err(CloseCode::ProtocolError),
            (opcode, None) => {
                self.message = Some(opcode);
                (self.fragments, self.announced, self.checked) = (0, 0, 0);
            }
        }
        self.fragments += 1;
        let total = u64::from(self.announced).saturating_add(header.remaining);
        match u32::try_from(total) {
            Ok(total) if total <= limits.max_message_bytes && self.fragments <= limits.max_fragments => {
                self.announced = total;
                Ok(header)
            }
            _ => Err(CloseCode::TooBig),
        }
    }

    fn take_payload(
        &mut self,
        payload: &mut [u8],
        limits: &Limits,
        on: &mut impl FnMut(Message<'_>) -> Result<(), CloseCode>,
    ) -> Result<(), CloseCode> {
        let frame = self.frame.as_mut().expect("a header was read");
        frame.unmask(payload);
        let (opcode, fin, whole) = (frame.opcode, frame.fin, frame.remaining == 0);
        if whole {
            self.frame = None;
        }
        if opcode.is_control() {
            return self.take_control(opcode, payload, whole, on);
        }
        let last = whole && fin;
        if self.message == Some(Opcode::Binary) && !limits.binary {
            // What it carries is never kept; refused when it ends, so that one that grows
            // beyond the limit is told that instead.
            return if last { Err(CloseCode::UnsupportedData) } else { Ok(()) };
        }
        if last && self.message_length == 0 {
            return self.end_message(payload, on);
        }
        self.held.extend_from_slice(payload);
        self.message_length += payload.len() as u32;
        if self.message == Some(Opcode::Text) {
            self.check_text(last)?;
        }
        if !last {
            return Ok(());
        }
        let held = std::mem::take(&mut self.held);
        self.message_length = 0;
        self.end_message(&held, on)
    }

    /// Looks at what is new of a text that is not all here, or came in pieces.
    fn check_text(&mut self, last: bool) -> Result<(), CloseCode> {
        // Fail fast (section 8.1): a wrong byte is refused when it arrives, not at the end.
        match std::str::from_utf8(&self.held[self.checked as usize..]) {
            Ok(_) => self.checked = self.message_length,
            Err(error) if error.error_len().is_none() && !last => {
                self.checked += error.valid_up_to() as u32;
            }
            Err(_) => return Err(CloseCode::InvalidText),
        }
        Ok(())
    }

    fn end_message(
        &mut self,
        whole: &[u8],
        on: &mut impl FnMut(Message<'_>) -> Result<(), CloseCode>,
    ) -> Result<(), CloseCode> {
        match self.message.take() {
            Some(Opcode::Binary) => on(Message::Binary(whole)),
            _ => on(Message::Text(std::str::from_utf8(whole).map_err(|_| CloseCode::InvalidText)?)),
        }
    }

    fn take_control(
        &mut self,
        opcode: Opcode,
        payload: &[u8],
        whole: bool,
        on: &mut impl FnMut(Message<'_>) -> Result<(), CloseCode>,
    ) -> Result<(), CloseCode> {
        let message_length = self.message_length as usize;
        if whole && self.held.len() == message_length {
            return self.end_control(opcode, payload, on);
        }
        self.held.extend_from_slice(payload);
        if !whole {
            return Ok(());
        }
        let mut held = std::mem::take(&mut self.held);
        let result = self.end_control(opcode, &held[message_length..], on);
        if message_length > 0 {
            held.truncate(message_length);
            self.held = held;
        }
        result
    }

    fn end_control(
        &mut self,
        opcode: Opcode,
        payload: &[u8],
        on: &mut impl FnMut(Message<'_>) -> Result<(), CloseCode>,
    ) -> Result<(), CloseCode> {
        match opcode {
            Opcode::Ping => on(Message::Ping(payload)),
            Opcode::Pong => on(Message::Pong(payload)),
            _ => {
                let code = close_payload(payload)?;
                self.closed = true;
                on(Message::Close(code))
            }
        }
    }
}

/// RFC 6455 sections 5.5.1 and 7.4: a code that may be sent, and a reason in UTF-8.
fn close_payload(payload: &[u8]) -> Result<Option<u16>, CloseCode> {
    let (code, reason) = match payload {
        [] => return Ok(None),
        [_] => return Err(CloseCode::ProtocolError),
        [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
    };
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(CloseCode::ProtocolError);
    }
    match std::str::from_utf8(reason) {
        Ok(_) => Ok(Some(code)),
        Err(_) => Err(CloseCode::InvalidText),
    }
}
