//! Conversation keys: records of one customer belong together, and nobody can tell who it is.

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use sha2::Sha256;
use std::{borrow::Cow, fmt};

/// Bytes of the secret and of a conversation key, at least and exactly.
const BYTES: usize = 16;

/// The secret is too short to keep anyone from trying out all phone numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the secret has {0} bytes; {BYTES} random ones are needed")]
pub struct ShortSecret(pub usize);

/// The secret under which the ids of conversations are hashed. `Debug` does not print it.
///
/// Keep it out of the log's directory: phone numbers are few enough to be tried out by whoever has it. With another
/// secret, the same customer gets another key.
#[derive(Clone)]
pub struct Key(Hmac<Sha256>);

impl Key {
    /// Takes a secret of 16 bytes or more, from a random source.
    ///
    /// # Errors
    /// [`ShortSecret`].
    pub fn new(secret: &[u8]) -> Result<Self, ShortSecret> {
        if secret.len() < BYTES {
            return Err(ShortSecret(secret.len()));
        }
        Hmac::new_from_slice(secret).map(Key).map_err(|_| ShortSecret(secret.len()))
    }

    /// The key of a conversation, from whatever names it to the server, such as a phone number. Different spellings of
    /// one number give different keys: pass it in one form.
    pub fn conversation(&self, id: &str) -> ConversationKey {
        let hash = self.0.clone().chain_update(id).finalize().into_bytes();
        let mut key = [0; BYTES];
        key.copy_from_slice(&hash[..BYTES]);
        ConversationKey(key)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// The first 128 bits of the HMAC-SHA-256 of a conversation's id; 32 hexadecimal digits in JSON.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConversationKey([u8; BYTES]);

impl ConversationKey {
    fn parse(hex: &str) -> Option<Self> {
        if hex.len() != 2 * BYTES || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        u128::from_str_radix(hex, 16).ok().map(|key| ConversationKey(key.to_be_bytes()))
    }
}

impl fmt::Display for ConversationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for ConversationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for ConversationKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ConversationKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        ConversationKey::parse(&text).ok_or_else(|| D::Error::custom("a conversation key has 32 hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_the_start_of_an_hmac() {
        // `printf +4915112345678 | openssl dgst -sha256 -hmac 0123456789abcdef`
        let key = Key::new(b"0123456789abcdef").unwrap().conversation("+4915112345678");
        assert_eq!(key.to_string(), "1dbf43ac25e51c71c064937325172ce9");
        assert_eq!(ConversationKey::parse(&key.to_string()), Some(key));
        assert_ne!(Key::new(b"0123456789abcdeg").unwrap().conversation("+4915112345678"), key);
    }

    #[test]
    fn a_secret_is_long_and_never_printed() {
        assert_eq!(Key::new(b"short").unwrap_err(), ShortSecret(5));
        assert_eq!(format!("{:?}", Key::new(b"0123456789abcdef").unwrap()), "Key(..)");
    }

    #[test]
    fn other_texts_are_no_keys() {
        for text in ["", "+15", &"g".repeat(32), &"A".repeat(32), &format!("+{}", "1".repeat(31)), &"é".repeat(16)] {
            assert_eq!(ConversationKey::parse(text), None, "{text}");
        }
    }
}
