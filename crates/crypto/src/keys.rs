//! Ed25519 keys (RFC 8032): a node's or a person's secret half, and the public half that names them.

use crate::secret::byte_string;
use aws_lc_rs::signature::{self, Ed25519KeyPair, KeyPair};
use potluck_types::{Entropy, NodeId, UserId};
use std::fmt;
use zeroize::Zeroizing;

/// A signature is not that of this key over this message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not fit the message and the key")]
pub struct BadSignature;

/// An Ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature([u8; 64]);

impl Signature {
    /// From its 64 bytes; whether they sign anything is for [`PublicKey::verify`] to say.
    pub const fn from_bytes(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }

    /// Its 64 bytes.
    pub const fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "Signature({a:02x}{b:02x}{c:02x}{d:02x})")
    }
}

byte_string!(Signature);

/// The public half of a key, of a node or of a user.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// From its 32 bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The node whose key this is, if it is a node's.
    pub const fn node_id(&self) -> NodeId {
        NodeId::from_bytes(self.0)
    }

    /// The user whose key this is, if it is a user's.
    pub const fn user_id(&self) -> UserId {
        UserId::from_bytes(self.0)
    }

    /// Checks that the holder of the secret half signed this message.
    pub fn verify(&self, message: &[u8], signature: &Signature) -> Result<(), BadSignature> {
        signature::UnparsedPublicKey::new(&signature::ED25519, &self.0)
            .verify(message, &signature.0)
            .map_err(|_| BadSignature)
    }
}

impl From<NodeId> for PublicKey {
    fn from(node: NodeId) -> Self {
        Self(*node.as_bytes())
    }
}

impl From<UserId> for PublicKey {
    fn from(user: UserId) -> Self {
        Self(*user.as_bytes())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.node_id().short())
    }
}

byte_string!(PublicKey);

/// The secret half of a node's or a user's key. Erased when dropped; printing it shows the public half.
pub struct SigningKey {
    /// On the heap, so that moving the key leaves no copy behind.
    seed: Box<Zeroizing<[u8; 32]>>,
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl SigningKey {
    /// A new random key.
    pub fn generate(entropy: &dyn Entropy) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        entropy.fill(&mut *seed);
        Self::from_seed(&seed)
    }

    /// The key of an RFC 8032 private key, which any 32 bytes are.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).expect("any 32 bytes are an Ed25519 private key");
        let public = pair
            .public_key()
            .as_ref()
            .try_into()
            .expect("a public key has 32 bytes");
        Self {
            seed: Box::new(Zeroizing::new(*seed)),
            pair,
            public: PublicKey(public),
        }
    }

    /// The 32 bytes that the key can be made from again: to be kept as carefully as the key.
    pub fn seed(&self) -> &[u8; 32] {
        &self.seed
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// The id of the node that has this key.
    pub fn node_id(&self) -> NodeId {
        self.public.node_id()
    }

    /// The id of the user who has this key.
    pub fn user_id(&self) -> UserId {
        self.public.user_id()
    }

    /// Signs a message. For records use [`Signed`](crate::Signed), which keeps record types apart.
    pub fn sign(&self, message: &[u8]) -> Signature {
        let signature = self.pair.sign(message);
        Signature(signature.as_ref().try_into().expect("a signature has 64 bytes"))
    }
}

impl Clone for SigningKey {
    fn clone(&self) -> Self {
        Self::from_seed(&self.seed)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey(of {})", self.node_id().short())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::HEXLOWER;
    use proptest::prelude::*;

    /// RFC 8032, section 7.1, test 2.
    #[test]
    fn keys_and_signatures_are_those_of_the_rfc() {
        let bytes = |hex: &str| HEXLOWER.decode(hex.as_bytes()).unwrap();
        let seed = bytes("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb");
        let key = SigningKey::from_seed(&seed.try_into().unwrap());
        assert_eq!(
            key.public().as_bytes()[..],
            bytes("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
        );
        assert_eq!(
            key.sign(&[0x72]).as_bytes()[..],
            bytes(
                "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da\
                 085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
            )
        );
    }

    #[test]
    fn a_key_prints_nothing_secret() {
        let key = SigningKey::from_seed(&[0xab; 32]);
        assert_eq!(format!("{key:?}"), format!("SigningKey(of {})", key.node_id().short()));
    }

    proptest! {
        #[test]
        fn only_the_signed_message_verifies(seed: [u8; 32], message: Vec<u8>, other: Vec<u8>, bit in 0usize..512) {
            let key = SigningKey::from_seed(&seed);
            let signature = key.sign(&message);
            prop_assert_eq!(key.public().verify(&message, &signature), Ok(()));
            prop_assert_eq!(key.public().verify(&other, &signature).is_ok(), other == message);
            let mut bytes = *signature.as_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(key.public().verify(&message, &Signature::from_bytes(bytes)), Err(BadSignature));
        }

        #[test]
        fn hostile_keys_and_signatures_never_panic(public: [u8; 32], message: Vec<u8>, low: [u8; 32], high: [u8; 32]) {
            let signature: [u8; 64] = [low, high].concat().try_into().unwrap();
            let _ = PublicKey::from_bytes(public).verify(&message, &Signature::from_bytes(signature));
        }
    }
}
