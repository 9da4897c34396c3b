//! How frames look as JSON: 64-bit numbers as decimal strings, because JavaScript's numbers end at 2^53;
//! bytes as lower-case hexadecimal.

use serde::{Deserialize, Deserializer, Serializer, de::Error};

/// Bytes as hexadecimal text.
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Hexadecimal text as bytes, `None` if it is none.
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

fn parse<'de, D: Deserializer<'de>, T: std::str::FromStr>(text: &str) -> Result<T, D::Error> {
    text.parse().map_err(|_| D::Error::custom("not a number"))
}

/// A `u64` as text.
pub mod number {
    use super::{Deserialize, Deserializer, Serializer};

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
    use super::{Deserialize, Deserializer, Serializer};

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
    use super::{Deserialize, Deserializer, Error, Serializer};

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
    use super::{Deserialize, Deserializer, Error, Serializer};

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
    use super::{Deserialize, Deserializer, Error, Serializer};

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
