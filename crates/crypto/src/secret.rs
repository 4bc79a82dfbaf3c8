//! Symmetric keys: one type each, erased when dropped, and never printed.

use potluck_types::Entropy;
use serde::de;
use std::fmt;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A type around an array is a byte string, as long as the array.
macro_rules! byte_string {
    ($name:ident) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_bytes(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer
                    .deserialize_bytes($crate::secret::ByteArray)
                    .map(Self)
            }
        }
    };
}
pub(crate) use byte_string;

macro_rules! secret_key {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
        pub struct $name([u8; 32]);

        impl $name {
            /// From its 32 bytes.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// A new random key.
            pub fn generate(entropy: &dyn Entropy) -> Self {
                Self(entropy.bytes())
            }

            /// Its 32 bytes, to be used or sealed: never to be logged or stored in the open.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        /// Says only what kind of key this is.
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(secret)"))
            }
        }

        // For records that are themselves sealed.
        byte_string!($name);
    };
}

secret_key!(
    /// The key that one piece was sealed with, and nothing else ever is: [`seal`](crate::seal::seal) makes it.
    PieceKey
);
secret_key!(
    /// A long-lived key that any number of messages are sealed under, each with its own salt: see
    /// [`secret_box`](crate::secret_box). The key of a space's epoch is one.
    BoxKey
);
secret_key!(
    /// What a space's content is recognised by: equal plaintexts have equal fingerprints under one key, and
    /// unrelated ones under another.
    DedupKey
);

secret_key!(
    /// A share of a link's key, which one machine gives to as many others as may read by the link.
    KeyShare
);

impl DedupKey {
    /// Where content-defined chunking cuts depends on this number, so that the lengths of a known file's
    /// chunks do not give it away to whoever stores them.
    pub fn chunking_seed(&self) -> u64 {
        let derived = blake3::derive_key(crate::derive::CHUNKING_SEED, &self.0);
        u64::from_le_bytes(*derived.first_chunk().expect("a hash has more than 8 bytes"))
    }

    /// The fingerprint of a plaintext: BLAKE3 keyed with this key.
    pub fn fingerprint(&self, plain: &[u8]) -> Fingerprint {
        Fingerprint(*blake3::keyed_hash(&self.0, plain).as_bytes())
    }
}

/// What equal plaintexts of one space have in common. It names the content to whoever holds the
/// [`DedupKey`], so it stays inside the space.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// From its 32 bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "Fingerprint({a:02x}{b:02x}{c:02x}{d:02x})")
    }
}

byte_string!(Fingerprint);

/// Reads a byte string of exactly `N` bytes.
pub(crate) struct ByteArray<const N: usize = 32>;

impl<const N: usize> de::Visitor<'_> for ByteArray<N> {
    type Value = [u8; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{N} bytes")
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<[u8; N], E> {
        bytes.try_into().map_err(|_| E::invalid_length(bytes.len(), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use potluck_types::{from_canonical, to_canonical};

    #[test]
    fn a_key_is_never_printed() {
        assert_eq!(format!("{:?}", PieceKey::from_bytes([7; 32])), "PieceKey(secret)");
        assert_eq!(format!("{:?}", BoxKey::from_bytes([7; 32])), "BoxKey(secret)");
    }

    #[test]
    fn a_key_survives_its_encoding() {
        let key = PieceKey::from_bytes([7; 32]);
        assert_eq!(from_canonical::<PieceKey>(&to_canonical(&key)).unwrap(), key);
        assert!(from_canonical::<PieceKey>(&to_canonical(&serde_bytes::Bytes::new(&[7; 31]))).is_err());
    }

    #[test]
    fn fingerprints_tell_contents_and_spaces_apart() {
        let (home, work) = (DedupKey::from_bytes([1; 32]), DedupKey::from_bytes([2; 32]));
        assert_eq!(home.fingerprint(b"dish"), home.fingerprint(b"dish"));
        assert_ne!(home.fingerprint(b"dish"), home.fingerprint(b"dash"));
        assert_ne!(home.fingerprint(b"dish"), work.fingerprint(b"dish"));
        assert_ne!(home.chunking_seed(), work.chunking_seed());
    }
}
