//! Ids: one type each, 32 bytes inside, and the text form that the field's other tools read.

use data_encoding::BASE32_NOPAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{fmt, str::FromStr};

/// Why text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {kind}")]
pub struct ParseIdError {
    /// What was expected: "stripe id", say.
    pub kind: &'static str,
    /// The start of what was given.
    pub text: String,
}

/// The BLAKE3-256 hash of some bytes.
pub type Digest = [u8; 32];

/// How an id is written for people.
enum TextForm {
    /// CIDv1 in base32, with this codec and a BLAKE3 multihash: <https://github.com/multiformats/cid>.
    Cid { codec: u8 },
    /// A libp2p PeerId: base58 of the identity multihash of the protobuf-encoded Ed25519 key,
    /// <https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md>.
    PeerId,
    /// The method-specific part of a `did:key`: multibase base58 of multicodec `ed25519-pub` and the key,
    /// <https://w3c-ccg.github.io/did-key-spec/>.
    DidKey,
}

const MULTIHASH_BLAKE3_256: [u8; 2] = [0x1e, 0x20];
const PEER_ID_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];
const MULTICODEC_ED25519_PUB: [u8; 2] = [0xed, 0x01];

impl TextForm {
    fn write(&self, bytes: &[u8; 32]) -> String {
        match self {
            Self::Cid { codec } => {
                let binary = [&[0x01, *codec][..], &MULTIHASH_BLAKE3_256, bytes].concat();
                format!("b{}", BASE32_NOPAD.encode(&binary).to_ascii_lowercase())
            }
            Self::PeerId => bs58::encode([&PEER_ID_PREFIX[..], bytes].concat()).into_string(),
            Self::DidKey => format!(
                "z{}",
                bs58::encode([&MULTICODEC_ED25519_PUB[..], bytes].concat()).into_string()
            ),
        }
    }

    fn read(&self, text: &str) -> Option<[u8; 32]> {
        // Longer than any id: refused before the quadratic base58 decoder sees it.
        if text.len() > 64 {
            return None;
        }
        let (binary, prefix) = match self {
            Self::Cid { codec } => {
                let digits = text
                    .strip_prefix('b')
                    .filter(|t| !t.bytes().any(|b| b.is_ascii_uppercase()))?;
                let binary = BASE32_NOPAD.decode(digits.to_ascii_uppercase().as_bytes()).ok()?;
                (binary, [&[0x01, *codec][..], &MULTIHASH_BLAKE3_256].concat())
            }
            Self::PeerId => (bs58::decode(text).into_vec().ok()?, PEER_ID_PREFIX.to_vec()),
            Self::DidKey => (
                bs58::decode(text.strip_prefix('z')?).into_vec().ok()?,
                MULTICODEC_ED25519_PUB.to_vec(),
            ),
        };
        binary.strip_prefix(&prefix[..])?.try_into().ok()
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $form:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// From its 32 bytes.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// Its 32 bytes.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// The last eight characters of the text form: enough for a person to tell a few apart.
            pub fn short(&self) -> String {
                let text = self.to_string();
                text[text.len() - 8..].to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&$form.write(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                $form.read(text).map(Self).ok_or_else(|| ParseIdError {
                    kind: $kind,
                    text: text.chars().take(80).collect(),
                })
            }
        }

        /// Text where people read (JSON, TOML), 32 bytes elsewhere.
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    serializer.serialize_bytes(&self.0)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
                } else {
                    deserializer.deserialize_bytes(ArrayVisitor).map(Self)
                }
            }
        }
    };
}

id!(
    /// The BLAKE3-256 hash of some bytes.
    Hash, "hash", TextForm::Cid { codec: 0x55 }
);
id!(
    /// The hash of a stripe's [`Descriptor`](crate::Descriptor).
    StripeId, "stripe id", TextForm::Cid { codec: 0x55 }
);
id!(
    /// The hash of a pool's genesis record.
    PoolId, "pool id", TextForm::Cid { codec: 0x71 }
);
id!(
    /// The name of a space: random, or derived from its owner's key.
    SpaceId, "space id", TextForm::Cid { codec: 0x71 }
);
id!(
    /// A node's Ed25519 public key; its text form is its libp2p PeerId.
    NodeId, "node id", TextForm::PeerId
);
id!(
    /// A person's Ed25519 public key; its text form is that of a `did:key`.
    UserId, "user id", TextForm::DidKey
);

impl Hash {
    /// The hash of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

/// Reads a CBOR byte string of exactly 32 bytes.
struct ArrayVisitor;

impl de::Visitor<'_> for ArrayVisitor {
    type Value = [u8; 32];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("32 bytes")
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<[u8; 32], E> {
        bytes.try_into().map_err(|_| E::invalid_length(bytes.len(), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{from_canonical, to_canonical};
    use proptest::prelude::*;

    #[test]
    fn text_forms_are_those_of_other_tools() {
        // The hash is that of the BLAKE3 paper's test vector for no input; the text is what `ipfs cid` makes of it.
        let empty = Hash::of(b"");
        assert_eq!(
            data_encoding::HEXLOWER.encode(empty.as_bytes()),
            "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
        );
        assert_eq!(
            BASE32_NOPAD
                .decode(empty.to_string()[1..].to_uppercase().as_bytes())
                .unwrap()[..4],
            [1, 0x55, 0x1e, 32]
        );
        assert!(NodeId::from_bytes([7; 32]).to_string().starts_with("12D3KooW"));
        assert!(UserId::from_bytes([7; 32]).to_string().starts_with("z6Mk"));
    }

    proptest! {
        #[test]
        fn ids_survive_text_json_and_cbor(bytes: [u8; 32]) {
            let (stripe, node, user) = (StripeId(bytes), NodeId(bytes), UserId(bytes));
            prop_assert_eq!(stripe.to_string().parse::<StripeId>().unwrap(), stripe);
            prop_assert_eq!(node.to_string().parse::<NodeId>().unwrap(), node);
            prop_assert_eq!(user.to_string().parse::<UserId>().unwrap(), user);
            prop_assert_eq!(serde_json::from_str::<NodeId>(&serde_json::to_string(&node).unwrap()).unwrap(), node);
            prop_assert_eq!(from_canonical::<UserId>(&to_canonical(&user)).unwrap(), user);
        }

        #[test]
        fn other_text_is_refused_without_panic(text: String) {
            prop_assert!(text.parse::<StripeId>().is_err());
            prop_assert!(text.parse::<NodeId>().is_err());
        }
    }

    #[test]
    fn one_kind_is_not_another() {
        let node = NodeId::from_bytes([7; 32]).to_string();
        assert!(node.parse::<UserId>().is_err());
        assert!(node.parse::<StripeId>().is_err());
        assert!(node[1..].parse::<NodeId>().is_err());
    }
}
