//! Reading messages from a buffer that the caller owns and fills.
//!
//! An unfragmented message is unmasked where it lies and borrowed from there. Only a fragmented one is
//! gathered in memory of the decoder's own, never in more than the limit. A decoder between messages is a few
//! words, because there is one for each of ten thousand idle connections.

use std::borrow::Cow;

use super::error::WsError;
use super::header::{Header, OpCode, Role, apply_mask, parse_header};

/// Something that the peer sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'b> {
    /// A whole binary message: borrowed from the caller's buffer, owned if it came in fragments.
    Message(Cow<'b, [u8]>),
    /// A whole text message. EtherPly has none: the answer is [`crate::ErrorCode::TextNotSupported`].
    Text(Cow<'b, str>),
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
    fragments: Option<Box<Fragments>>,
    role: Role,
    ended: bool,
}

// One per connection, most of them idle.
const _: () = assert!(size_of::<Decoder>() <= 24);

/// A message of which fragments are missing.
#[derive(Debug)]
struct Fragments {
    is_text: bool,
    bytes: Vec<u8>,
    /// Bytes that are known to be UTF-8, so that each is checked once and not again with each fragment.
    text_bytes: usize,
}

impl Decoder {
    /// A decoder at the first byte after the upgrade. `role` is this side's; a message of more than
    /// `message_bytes_max` bytes is refused when its header arrives.
    pub const fn new(role: Role, message_bytes_max: usize) -> Self {
        Self { message_bytes_max, fragments: None, role, ended: false }
    }

    /// Changes the limit from the next frame on, as after hello.
    pub const fn set_message_bytes_max(&mut self, message_bytes_max: usize) {
        self.message_bytes_max = message_bytes_max;
    }

    /// Bytes of a fragmented message that are kept here until the rest comes.
    pub fn held_bytes(&self) -> usize {
        self.fragments.as_ref().map_or(0, |fragments| fragments.bytes.len())
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
            self.fragments = None;
        }
        decoded
    }

    fn read<'b>(&mut self, buf: &'b mut [u8]) -> Result<Decoded<'b>, WsError> {
        let mut rest = buf;
        let mut consumed = 0;
        // Fragments that complete nothing are taken in and the next frame is looked at.
        loop {
            let Some(header) = parse_header(rest)? else {
                return Ok(Decoded { consumed, event: None, need_bytes: rest.len() + 1 });
            };
            let frame_bytes = self.admit(&header)?.saturating_add(header.header_bytes);
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
        match (header.opcode, &self.fragments) {
            (OpCode::Continuation, None) => return Err(WsError::ContinuationWithoutStart),
            (OpCode::Text | OpCode::Binary, Some(_)) => return Err(WsError::MessageInterrupted),
            _ => {}
        }
        let max = self.message_bytes_max;
        let message_bytes = self.held_bytes().saturating_add(payload_bytes);
        if message_bytes > max {
            return Err(WsError::TooLarge { bytes: message_bytes as u64, max });
        }
        Ok(payload_bytes)
    }

    /// What a whole, unmasked frame amounts to; `None` if it is a fragment and others follow.
    fn take<'b>(&mut self, header: &Header, payload: &'b [u8]) -> Result<Option<Event<'b>>, WsError> {
        let max = self.message_bytes_max;
        let event = match header.opcode {
            OpCode::Ping => Event::Ping(payload),
            OpCode::Pong => Event::Pong(payload),
            OpCode::Close => read_close(payload)?,
            OpCode::Binary if header.fin => Event::Message(Cow::Borrowed(payload)),
            OpCode::Text if header.fin => {
                Event::Text(Cow::Borrowed(std::str::from_utf8(payload).map_err(|_| WsError::Utf8)?))
            }
            OpCode::Binary | OpCode::Text => {
                let is_text = header.opcode == OpCode::Text;
                let mut fragments = Box::new(Fragments { is_text, bytes: Vec::new(), text_bytes: 0 });
                fragments.append(payload, max)?;
                self.fragments = Some(fragments);
                return Ok(None);
            }
            OpCode::Continuation => {
                let mut fragments = self.fragments.take().ok_or(WsError::ContinuationWithoutStart)?;
                fragments.append(payload, max)?;
                if !header.fin {
                    self.fragments = Some(fragments);
                    return Ok(None);
                }
                fragments.finish()?
            }
        };
        Ok(Some(event))
    }
}

impl Fragments {
    /// Adds a fragment that was found to fit; capacity grows by doubling, but not past the limit.
    fn append(&mut self, payload: &[u8], max: usize) -> Result<(), WsError> {
        let bytes = self.bytes.len() + payload.len();
        if bytes > self.bytes.capacity() {
            let capacity = bytes.max(self.bytes.capacity().saturating_mul(2).min(max));
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(payload);
        if self.is_text {
            let unchecked = self.bytes.get(self.text_bytes..).unwrap_or_default();
            self.text_bytes += match std::str::from_utf8(unchecked) {
                Ok(text) => text.len(),
                // The fragment ends within a character.
                Err(error) if error.error_len().is_none() => error.valid_up_to(),
                Err(_) => return Err(WsError::Utf8),
            };
        }
        Ok(())
    }

    fn finish(self) -> Result<Event<'static>, WsError> {
        if self.is_text {
            let text = String::from_utf8(self.bytes).map_err(|_| WsError::Utf8)?;
            return Ok(Event::Text(Cow::Owned(text)));
        }
        Ok(Event::Message(Cow::Owned(self.bytes)))
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
