//! How frames look as JSON: 64-bit numbers as decimal strings, because JavaScript's numbers end at 2^53;
//! bytes as lower-case hexadecimal.

use rkyv::rancor;
use serde::{Deserialize, Deserializer, Serialize, de::Error};
use serde_json::Value;

use crate::error::FrameError;
use crate::frame::{Frame, encode};
use crate::kinds::{self, Kind};

/// A frame as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FrameJson {
    /// The kind's name.
    pub kind: String,
    /// The kind's number.
    pub kind_number: u16,
    /// The header's stream.
    pub stream: u32,
    /// The header's flags.
    pub flags: u8,
    /// The fields of the kind's struct.
    pub body: Value,
    /// The bytes behind the archive.
    #[serde(with = "hex_vec")]
    pub tail: Vec<u8>,
}

/// Why a frame cannot be turned into JSON, or the other way round.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// The bytes are no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The fields are not those of the kind.
    #[error("the frame's body does not fit its kind: {0}")]
    Body(#[from] serde_json::Error),
    /// The kind is not known, or its name and number disagree.
    #[error("there is no kind {name} with the number {number}")]
    Kind {
        /// The name, empty if there is none.
        name: String,
        /// The number.
        number: u16,
    },
}

impl FrameJson {
    /// Reads a frame's bytes.
    ///
    /// # Errors
    /// The bytes are no frame, or one of a kind that is not known.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, JsonError> {
        let field = |at| bytes.get(at).copied().unwrap_or_default();
        let unknown =
            JsonError::Kind { name: String::new(), number: u16::from_le_bytes([field(6), field(7)]) };
        let Some(frame) = Frame::parse(bytes)? else { return Err(unknown) };
        let Some(kind) = frame.kind() else { return Err(unknown) };
        let mut value = Value::Null;
        macro_rules! read {
            ($kind:ident) => {
                if kind == Kind::$kind {
                    let malformed = |_| FrameError::Archive { kind: kind as u16 };
                    let body = frame.body::<kinds::$kind>()?;
                    let message =
                        rkyv::deserialize::<kinds::$kind, rancor::Failure>(body).map_err(malformed)?;
                    value = serde_json::to_value(&message)?;
                }
            };
        }
        for_each_kind!(read);
        Ok(Self {
            kind: kind.name().to_owned(),
            kind_number: kind as u16,
            stream: frame.stream(),
            flags: field(5),
            body: value,
            tail: frame.tail().to_vec(),
        })
    }

    /// Encodes the frame.
    ///
    /// # Errors
    /// The kind is not known, or the body has other fields than it.
    pub fn to_bytes(&self) -> Result<Vec<u8>, JsonError> {
        let unknown = JsonError::Kind { name: self.kind.clone(), number: self.kind_number };
        let kind =
            Kind::from_number(self.kind_number).filter(|kind| kind.name() == self.kind).ok_or(unknown)?;
        let mut bytes = Vec::new();
        macro_rules! write {
            ($kind:ident) => {
                if kind == Kind::$kind {
                    let message: kinds::$kind = serde_json::from_value(self.body.clone())?;
                    bytes = encode(self.stream, &message, &[&self.tail]);
                }
            };
        }
        for_each_kind!(write);
        if let Some(flags) = bytes.get_mut(5) {
            *flags = self.flags;
        }
        Ok(bytes)
    }
}

/// Bytes as hexadecimal text.
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Hexadecimal text as bytes, `None` if it is none.
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect()
}

fn parse<'de, D: Deserializer<'de>, T: std::str::FromStr>(text: &str) -> Result<T, D::Error> {
    text.parse().map_err(|_| D::Error::custom("not a number"))
}

/// A `u64` as text.
pub mod number {
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes it.
    pub fn serialize<S: Serializer>(value: &u64, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(value)
    }

    /// Reads it.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
        super::parse::<D, _>(&String::deserialize(d)?)
    }
}

/// A list of `u64` as texts.
pub mod numbers {
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes it.
    pub fn serialize<S: Serializer>(values: &[u64], s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(values.iter().map(u64::to_string))
    }

    /// Reads it.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u64>, D::Error> {
        Vec::<String>::deserialize(d)?.iter().map(|text| super::parse::<D, _>(text)).collect()
    }
}

/// An array of bytes as hexadecimal text.
pub mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes it.
    pub fn serialize<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&super::to_hex(bytes))
    }

    /// Reads it.
    pub fn deserialize<'de, const N: usize, D: Deserializer<'de>>(d: D) -> Result<[u8; N], D::Error> {
        let bytes = super::from_hex(&String::deserialize(d)?).ok_or_else(|| D::Error::custom("not hex"))?;
        bytes.try_into().map_err(|_| D::Error::custom("wrong length"))
    }
}

/// Bytes as hexadecimal text.
pub mod hex_vec {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes them.
    pub fn serialize<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&super::to_hex(bytes))
    }

    /// Reads them.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        super::from_hex(&String::deserialize(d)?).ok_or_else(|| D::Error::custom("not hex"))
    }
}

/// A list of arrays of bytes as hexadecimal texts.
pub mod hex_list {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes it.
    pub fn serialize<S: Serializer>(list: &[[u8; 16]], s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(list.iter().map(|bytes| super::to_hex(bytes)))
    }

    /// Reads it.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<[u8; 16]>, D::Error> {
        let texts = Vec::<String>::deserialize(d)?;
        let read = |text: &String| super::from_hex(text)?.try_into().ok();
        texts.iter().map(|text| read(text).ok_or_else(|| D::Error::custom("not hex"))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_leads_back_and_nothing_else_is_taken() {
        let all: Vec<u8> = (0..=u8::MAX).collect();
        assert_eq!(from_hex(&to_hex(&all)), Some(all));
        assert_eq!(from_hex(""), Some(Vec::new()));
        assert_eq!(from_hex("0aF0"), Some(vec![0x0A, 0xF0]));
        for text in ["a", "abc", "+f", "-1", "0x", "g0", " 1", "\u{e4}"] {
            assert_eq!(from_hex(text), None, "{text}");
        }
    }

    #[test]
    fn a_name_that_is_not_the_numbers_is_refused() {
        let ping = FrameJson::from_bytes(&encode(0, &kinds::Ping { nonce: 5 }, &[])).unwrap();
        assert_eq!((ping.kind.as_str(), ping.body["nonce"].as_str()), ("Ping", Some("5")));
        let renamed = FrameJson { kind: "Pong".into(), ..ping.clone() };
        assert!(matches!(renamed.to_bytes(), Err(JsonError::Kind { number: 60, .. })));
        let renumbered = FrameJson { kind_number: 9, ..ping.clone() };
        assert!(matches!(renumbered.to_bytes(), Err(JsonError::Kind { number: 9, .. })));
        let emptied = FrameJson { body: Value::Null, ..ping };
        assert!(matches!(emptied.to_bytes(), Err(JsonError::Body(_))));
    }
}
