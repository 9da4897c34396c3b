//! Reading messages from a buffer that the caller owns and fills.
//!
//! An unfragmented message is unmasked where it lies and borrowed from there. Only a fragmented one is
//! gathered in memory of the decoder's own, never in more than the limit. Text, which EtherPly does not take,
//! is looked at as its bytes arrive and never kept. A decoder between messages is a few words, because there
//! is one for each of ten thousand idle connections.

use std::borrow::Cow;

use super::error::WsError;
use super::header::{Header, OpCode, Role, apply_mask, parse_header};
use super::utf8::Utf8;

/// Something that the peer sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'b> {
    /// A whole binary message: borrowed from the caller's buffer, owned if it came in fragments.
    Message(Cow<'b, [u8]>),
    /// A whole text message, which was UTF-8. EtherPly has no use for one, so that its text is gone: the
    /// answer is [`crate::ErrorCode::TextNotSupported`].
    Text,
    /// A ping; a pong with the same bytes answers it.
    Ping(&'b [u8]),
    /// A pong.
    Pong(&'b [u8]),
    /// The peer ends the connection. What follows is discarded.
    Close {
        /// Why, `None` if the peer does not say.
        code: Option<u16>,
        /// The same for people.
        reason: &'b str,
    },
}

/// What one call of [`Decoder::next`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded<'b> {
    /// Bytes at the buffer's beginning that are done with; the caller drops them before the next call.
    pub consumed: usize,
    /// What they brought. `None`: nothing more is to be had from this buffer until more bytes arrive.
    pub event: Option<Event<'b>>,
    /// Without an event: bytes that the buffer must hold, `consumed` taken off, before another call can do
    /// more. At most the message limit and a header.
    pub need_bytes: usize,
}

/// The receiving half of a WebSocket.
#[derive(Debug)]
pub struct Decoder {
    message_bytes_max: usize,
    partial: Option<Box<Partial>>,
    role: Role,
    ended: bool,
}

// One per connection, most of them idle.
const _: () = assert!(size_of::<Decoder>() <= 24);

/// A message that has begun.
#[derive(Debug)]
enum Partial {
    /// The fragments so far.
    Binary(Vec<u8>),
    Text(Text),
}

/// A text message, of which nothing is kept.
#[derive(Debug)]
struct Text {
    utf8: Utf8,
    /// Bytes of the frames before this one.
    bytes: usize,
    /// The frame that has not come whole.
    frame: Option<TextFrame>,
}

#[derive(Debug, Clone, Copy)]
struct TextFrame {
    fin: bool,
    mask: Option<[u8; 4]>,
    payload_bytes: usize,
    seen_bytes: usize,
}

impl Decoder {
    /// A decoder at the first byte after the upgrade. `role` is this side's; a message of more than
    /// `message_bytes_max` bytes is refused when its header arrives.
    pub const fn new(role: Role, message_bytes_max: usize) -> Self {
        Self { message_bytes_max, partial: None, role, ended: false }
    }

    /// Changes the limit from the next frame on, as after hello.
    pub const fn set_message_bytes_max(&mut self, message_bytes_max: usize) {
        self.message_bytes_max = message_bytes_max;
    }

    /// Bytes of a fragmented message that are kept here until the rest comes.
    pub fn held_bytes(&self) -> usize {
        match self.partial.as_deref() {
            Some(Partial::Binary(bytes)) => bytes.len(),
            Some(Partial::Text(_)) | None => 0,
        }
    }

    /// Reads the next event from `buf`, which begins with the first byte not consumed yet.
    ///
    /// Payloads are unmasked in place, so the bytes reported as consumed must not be given again. After an
    /// error or a close everything further is consumed without an event.
    ///
    /// # Errors
    /// What the peer did wrong: the connection ends with [`WsError::close_code`].
    pub fn next<'b>(&mut self, buf: &'b mut [u8]) -> Result<Decoded<'b>, WsError> {
        if self.ended {
            return Ok(Decoded { consumed: buf.len(), event: None, need_bytes: 1 });
        }
        let decoded = self.read(buf);
        if matches!(&decoded, Err(_) | Ok(Decoded { event: Some(Event::Close { .. }), .. })) {
            self.ended = true;
            self.partial = None;
        }
        decoded
    }

    fn read<'b>(&mut self, buf: &'b mut [u8]) -> Result<Decoded<'b>, WsError> {
        let mut rest = buf;
        let mut consumed = 0;
        // Fragments that complete nothing are taken in and the next frame is looked at.
        loop {
            if let Some(Partial::Text(text)) = self.partial.as_deref_mut()
                && text.frame.is_some()
            {
                let (seen_bytes, state) = text.look_at(rest)?;
                consumed += seen_bytes;
                rest = behind(rest, seen_bytes);
                match state {
                    TextState::CutFrame => return Ok(Decoded { consumed, event: None, need_bytes: 1 }),
                    TextState::CutMessage => continue,
                    TextState::Whole => {
                        self.partial = None;
                        return Ok(Decoded { consumed, event: Some(Event::Text), need_bytes: 0 });
                    }
                }
            }
            let Some(header) = parse_header(rest)? else {
                return Ok(Decoded { consumed, event: None, need_bytes: rest.len() + 1 });
            };
            let payload_bytes = self.admit(&header)?;
            if self.begins_text(&header, payload_bytes) {
                consumed += header.header_bytes;
                rest = behind(rest, header.header_bytes);
                continue;
            }
            let frame_bytes = payload_bytes.saturating_add(header.header_bytes);
            let Some((frame, after)) = rest.split_at_mut_checked(frame_bytes) else {
                return Ok(Decoded { consumed, event: None, need_bytes: frame_bytes });
            };
            rest = after;
            consumed += frame_bytes;
            let payload = frame.get_mut(header.header_bytes..).unwrap_or_default();
            if let Some(key) = header.mask {
                apply_mask(payload, key, 0);
            }
            if let Some(event) = self.take(&header, payload)? {
                return Ok(Decoded { consumed, event: Some(event), need_bytes: 0 });
            }
        }
    }

    /// Whether a frame with this header may come now; the bytes of its payload, which fit the limit.
    fn admit(&self, header: &Header) -> Result<usize, WsError> {
        match (self.role, header.mask) {
            (Role::Server, None) => return Err(WsError::MaskMissing),
            (Role::Client, Some(_)) => return Err(WsError::MaskForbidden),
            _ => {}
        }
        let payload_bytes = usize::try_from(header.payload_bytes).unwrap_or(usize::MAX);
        if header.opcode.is_control() {
            return Ok(payload_bytes);
        }
        match (header.opcode, &self.partial) {
            (OpCode::Continuation, None) => return Err(WsError::ContinuationWithoutStart),
            (OpCode::Text | OpCode::Binary, Some(_)) => return Err(WsError::MessageInterrupted),
            _ => {}
        }
        let max = self.message_bytes_max;
        let before_bytes = match self.partial.as_deref() {
            Some(Partial::Text(text)) => text.bytes,
            Some(Partial::Binary(_)) | None => self.held_bytes(),
        };
        let message_bytes = before_bytes.saturating_add(payload_bytes);
        if message_bytes > max {
            return Err(WsError::TooLarge { bytes: message_bytes as u64, max });
        }
        Ok(payload_bytes)
    }

    /// Notes that a frame of a text message comes next, if it is one.
    fn begins_text(&mut self, header: &Header, payload_bytes: usize) -> bool {
        let frame = TextFrame { fin: header.fin, mask: header.mask, payload_bytes, seen_bytes: 0 };
        match (header.opcode, self.partial.as_deref_mut()) {
            (OpCode::Text, _) => {
                let text = Text { utf8: Utf8::default(), bytes: 0, frame: Some(frame) };
                self.partial = Some(Box::new(Partial::Text(text)));
            }
            (OpCode::Continuation, Some(Partial::Text(text))) => text.frame = Some(frame),
            _ => return false,
        }
        true
    }

    /// What a whole, unmasked frame that is not text amounts to; `None` if it is a fragment and others follow.
    fn take<'b>(&mut self, header: &Header, payload: &'b [u8]) -> Result<Option<Event<'b>>, WsError> {
        let max = self.message_bytes_max;
        let event = match header.opcode {
            OpCode::Ping => Event::Ping(payload),
            OpCode::Pong => Event::Pong(payload),
            OpCode::Close => read_close(payload)?,
            OpCode::Binary | OpCode::Text if header.fin => Event::Message(Cow::Borrowed(payload)),
            OpCode::Binary | OpCode::Text => {
                let mut bytes = Vec::new();
                append(&mut bytes, payload, max);
                self.partial = Some(Box::new(Partial::Binary(bytes)));
                return Ok(None);
            }
            OpCode::Continuation => {
                let Some(Partial::Binary(bytes)) = self.partial.as_deref_mut() else {
                    return Err(WsError::ContinuationWithoutStart);
                };
                append(bytes, payload, max);
                if !header.fin {
                    return Ok(None);
                }
                let message = std::mem::take(bytes);
                self.partial = None;
                Event::Message(Cow::Owned(message))
            }
        };
        Ok(Some(event))
    }
}

/// Adds a fragment that was found to fit; capacity grows by doubling, but not past the limit.
fn append(message: &mut Vec<u8>, payload: &[u8], max: usize) {
    let bytes = message.len() + payload.len();
    if bytes > message.capacity() {
        let capacity = bytes.max(message.capacity().saturating_mul(2).min(max));
        message.reserve_exact(capacity - message.len());
    }
    message.extend_from_slice(payload);
}

fn behind(bytes: &mut [u8], taken_bytes: usize) -> &mut [u8] {
    bytes.get_mut(taken_bytes..).unwrap_or_default()
}

/// How far a text message has come.
enum TextState {
    CutFrame,
    CutMessage,
    Whole,
}

impl Text {
    /// Looks at what has come of the frame that has begun; how many bytes that was.
    fn look_at(&mut self, bytes: &mut [u8]) -> Result<(usize, TextState), WsError> {
        let Some(frame) = &mut self.frame else { return Ok((0, TextState::CutMessage)) };
        let piece_bytes = bytes.len().min(frame.payload_bytes - frame.seen_bytes);
        let piece = bytes.get_mut(..piece_bytes).unwrap_or_default();
        if let Some(key) = frame.mask {
            apply_mask(piece, key, frame.seen_bytes);
        }
        self.utf8.push(piece).map_err(|()| WsError::Utf8)?;
        frame.seen_bytes += piece_bytes;
        if frame.seen_bytes < frame.payload_bytes {
            return Ok((piece_bytes, TextState::CutFrame));
        }
        let TextFrame { fin, payload_bytes, .. } = *frame;
        self.bytes += payload_bytes;
        self.frame = None;
        if !fin {
            return Ok((piece_bytes, TextState::CutMessage));
        }
        if self.utf8.is_whole() { Ok((piece_bytes, TextState::Whole)) } else { Err(WsError::Utf8) }
    }
}

fn read_close(payload: &[u8]) -> Result<Event<'_>, WsError> {
    let Some((&code, reason)) = payload.split_first_chunk::<2>() else {
        if payload.is_empty() {
            return Ok(Event::Close { code: None, reason: "" });
        }
        return Err(WsError::CloseCodeShort);
    };
    let code = u16::from_be_bytes(code);
    if !may_be_sent(code) {
        return Err(WsError::CloseCodeInvalid { code });
    }
    let reason = std::str::from_utf8(reason).map_err(|_| WsError::Utf8)?;
    Ok(Event::Close { code: Some(code), reason })
}

/// Close codes that a frame may carry: RFC 6455, 7.4, with those that IANA's registry added (1012 to 1014).
const fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

#[cfg(test)]
mod tests;
