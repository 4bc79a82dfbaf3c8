//! Sealing many messages under one long-lived key: log entries, names, and keys at rest.
//!
//! Each message has a random salt, from which and from the [`BoxKey`] a key for that message alone is derived; so there is no
//! counter to keep and no collision to fear, however many messages a key sees. A *context* keeps the uses of one key
//! apart, and *associated data* binds a message to its place (a path, a sequence number): a message that is moved elsewhere
//! does not open.

use crate::{
    BoxKey,
    seal::{Cipher, OpenError, sealed_len},
};
use potluck_types::Entropy;
use zeroize::Zeroizing;

const SALT_BYTES: usize = 32;

/// What a message is sealed for. The same two must be given to open it.
#[derive(Clone, Copy, Debug)]
pub struct Purpose<'a> {
    /// The use of the key: a constant such as `potluck/log-entry/1`.
    pub context: &'static str,
    /// Where the message belongs, if that matters: not stored, but vouched for.
    pub associated: &'a [u8],
}

/// The length of a message of `plain_len` bytes once sealed.
pub const fn boxed_len(plain_len: usize) -> usize {
    SALT_BYTES + sealed_len(plain_len)
}

impl BoxKey {
    /// Seals a message.
    pub fn seal(&self, purpose: Purpose<'_>, plain: &[u8], entropy: &dyn Entropy) -> Vec<u8> {
        let salt: [u8; SALT_BYTES] = entropy.bytes();
        let mut boxed = Vec::with_capacity(boxed_len(plain.len()));
        boxed.extend_from_slice(&salt);
        let key = self.message_key(purpose.context, &salt);
        Cipher::new(&key, purpose.associated).seal_onto(plain, &mut boxed);
        boxed
    }

    /// Opens a message.
    pub fn open(&self, purpose: Purpose<'_>, boxed: &[u8]) -> Result<Vec<u8>, OpenError> {
        let (salt, sealed) = boxed
            .split_first_chunk::<SALT_BYTES>()
            .ok_or(OpenError::Length { len: boxed.len() })?;
        let key = self.message_key(purpose.context, salt);
        Cipher::new(&key, purpose.associated).open(sealed)
    }

    /// The salt has a fixed length, so context and salt together are read one way only.
    fn message_key(&self, context: &str, salt: &[u8; SALT_BYTES]) -> Zeroizing<[u8; 32]> {
        let mut hasher = blake3::Hasher::new_keyed(self.as_bytes());
        hasher.update(context.as_bytes()).update(salt);
        Zeroizing::new(*hasher.finalize().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::Counter;
    use data_encoding::HEXLOWER;
    use proptest::prelude::*;

    const HERE: Purpose<'_> = Purpose {
        context: "potluck/test/1",
        associated: b"here",
    };

    #[test]
    fn boxed_bytes_are_those_of_format_md() {
        let boxed = BoxKey::from_bytes([7; 32]).seal(HERE, b"potluck", &Counter::new());
        assert_eq!(
            HEXLOWER.encode(&boxed),
            "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f776f3902ac39e0086233338540c4169f64e5b40557e3c8"
        );
    }

    #[test]
    fn a_message_opens_only_for_its_purpose_and_key() {
        let (key, entropy) = (BoxKey::from_bytes([7; 32]), Counter::new());
        let boxed = key.seal(HERE, b"potluck", &entropy);
        assert_eq!(key.open(HERE, &boxed).unwrap(), b"potluck");
        let elsewhere = Purpose {
            associated: b"there",
            ..HERE
        };
        assert!(key.open(elsewhere, &boxed).is_err());
        let otherwise = Purpose {
            context: "potluck/test/2",
            ..HERE
        };
        assert!(key.open(otherwise, &boxed).is_err());
        assert!(BoxKey::from_bytes([8; 32]).open(HERE, &boxed).is_err());
        assert_ne!(
            key.seal(HERE, b"potluck", &entropy),
            boxed,
            "each message has its own salt"
        );
    }

    proptest! {
        #[test]
        fn what_was_sealed_opens(plain: Vec<u8>, associated: Vec<u8>, at: prop::sample::Index, bit in 0u8..8) {
            let key = BoxKey::from_bytes([7; 32]);
            let purpose = Purpose { associated: &associated, ..HERE };
            let mut boxed = key.seal(purpose, &plain, &Counter::new());
            prop_assert_eq!(boxed.len(), boxed_len(plain.len()));
            prop_assert_eq!(&key.open(purpose, &boxed).unwrap(), &plain);
            let at = at.index(boxed.len());
            boxed[at] ^= 1 << bit;
            prop_assert!(key.open(purpose, &boxed).is_err());
        }

        #[test]
        fn hostile_bytes_never_panic(bytes: Vec<u8>) {
            prop_assert!(BoxKey::from_bytes([7; 32]).open(HERE, &bytes).is_err());
        }
    }
}
