//! Messages for one person: HPKE (RFC 9180) in base mode, with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and ChaCha20Poly1305.
//!
//! Anyone who knows a person's [`Recipient`] can wrap a message for them; only who has their [`RecipientKey`], which follows from their secret, opens it. Who wrapped
//! it is for a signature around it to say.

use crate::{secret::byte_string, secret_box::Purpose};
use hpke::{
    Deserializable, Kem, OpModeR, OpModeS, Serializable,
    aead::ChaCha20Poly1305,
    kdf::HkdfSha256,
    kem::X25519HkdfSha256,
    rand_core::{self, CryptoRng, RngCore},
    single_shot_open, single_shot_seal,
};
use potluck_types::Entropy;
use std::fmt;
use zeroize::Zeroizing;

type SecretKey = <X25519HkdfSha256 as Kem>::PrivateKey;
type EncappedKey = <X25519HkdfSha256 as Kem>::EncappedKey;

const ENCAPPED_BYTES: usize = 32;
const TAG_BYTES: usize = 16;

/// A wrapped message does not open: it is for another person or purpose, or it is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the wrapped message is for another person or purpose, or damaged")]
pub struct UnwrapError;

/// The recipient's bytes are no key that anything could be wrapped for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is no key that a message can be wrapped for")]
pub struct BadRecipient;

/// Whom a message can be wrapped for: the public half of a [`RecipientKey`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Recipient([u8; 32]);

impl Recipient {
    /// From its 32 bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Tells the keys of one person apart where all of them would take too much room: the first four bytes.
    pub fn tag(&self) -> u32 {
        let [a, b, c, d, ..] = self.0;
        u32::from_be_bytes([a, b, c, d])
    }

    /// Wraps a message: 32 bytes of an encapsulated key, then the ciphertext with its tag of 16 bytes.
    ///
    /// # Errors
    /// When these bytes are no X25519 key of full order.
    pub fn wrap(&self, purpose: Purpose<'_>, plain: &[u8], entropy: &dyn Entropy) -> Result<Vec<u8>, BadRecipient> {
        let public = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(&self.0).map_err(|_| BadRecipient)?;
        let (encapped, sealed) = single_shot_seal::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256, _>(
            &OpModeS::Base,
            &public,
            purpose.context.as_bytes(),
            plain,
            purpose.associated,
            &mut Random(entropy),
        )
        .map_err(|_| BadRecipient)?;
        Ok([&encapped.to_bytes()[..], &sealed].concat())
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "Recipient({a:02x}{b:02x}{c:02x}{d:02x})")
    }
}

byte_string!(Recipient);

/// The length of a message of `plain_len` bytes once wrapped.
pub const fn wrapped_len(plain_len: usize) -> usize {
    ENCAPPED_BYTES + plain_len + TAG_BYTES
}

/// What opens the messages that are wrapped for one person. Erased when dropped.
pub struct RecipientKey {
    secret: SecretKey,
    public: Recipient,
}

impl RecipientKey {
    /// From key material of 32 bytes that is used for nothing else (RFC 9180, section 7.1.3).
    pub(crate) fn derive(material: &Zeroizing<[u8; 32]>) -> Self {
        let (secret, public) = X25519HkdfSha256::derive_keypair(&material[..]);
        let public = public
            .to_bytes()
            .as_slice()
            .try_into()
            .expect("a public key has 32 bytes");
        Self {
            secret,
            public: Recipient(public),
        }
    }

    /// Whom others wrap messages for.
    pub fn recipient(&self) -> Recipient {
        self.public
    }

    /// Opens a wrapped message.
    pub fn unwrap(&self, purpose: Purpose<'_>, wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, UnwrapError> {
        let (encapped, sealed) = wrapped.split_at_checked(ENCAPPED_BYTES).ok_or(UnwrapError)?;
        let encapped = EncappedKey::from_bytes(encapped).map_err(|_| UnwrapError)?;
        single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Base,
            &self.secret,
            &encapped,
            purpose.context.as_bytes(),
            sealed,
            purpose.associated,
        )
        .map(Zeroizing::new)
        .map_err(|_| UnwrapError)
    }
}

impl fmt::Debug for RecipientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecipientKey(of {:?})", self.public)
    }
}

/// Our source of randomness, as the library wants it.
struct Random<'a>(&'a dyn Entropy);

impl RngCore for Random<'_> {
    fn next_u32(&mut self) -> u32 {
        u32::from_le_bytes(self.0.bytes())
    }

    fn next_u64(&mut self) -> u64 {
        u64::from_le_bytes(self.0.bytes())
    }

    fn fill_bytes(&mut self, buffer: &mut [u8]) {
        self.0.fill(buffer);
    }

    fn try_fill_bytes(&mut self, buffer: &mut [u8]) -> Result<(), rand_core::Error> {
        self.0.fill(buffer);
        Ok(())
    }
}

impl CryptoRng for Random<'_> {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SigningKey, derive, tests::Counter};
    use data_encoding::HEXLOWER;
    use proptest::prelude::*;

    const HERE: Purpose<'_> = Purpose {
        context: "potluck/test/1",
        associated: b"here",
    };

    fn key(seed: u8) -> RecipientKey {
        derive::recipient_key(&SigningKey::from_seed(&[seed; 32]))
    }

    /// A person's data depends on these never changing.
    #[test]
    fn wrapped_bytes_are_those_of_format_md() {
        let recipient = key(7).recipient();
        assert_eq!(
            HEXLOWER.encode(recipient.as_bytes()),
            "f88273825613a06a80774902a5b62689bbc0d17ec00e2d03f8a6db94aac16e66"
        );
        let wrapped = recipient.wrap(HERE, b"potluck", &Counter::new()).unwrap();
        assert_eq!(
            HEXLOWER.encode(&wrapped),
            "b1f1b840de7a3241b02748cf9b05b74dc8c5e8451298738817bd76aa8ebe8c2b28fda089fdb67f3f5ea0c0dd75069b72e8b7076734ea44"
        );
    }

    #[test]
    fn a_message_opens_for_its_recipient_and_purpose_alone() {
        let wrapped = key(7).recipient().wrap(HERE, b"potluck", &Counter::new()).unwrap();
        assert_eq!(wrapped.len(), wrapped_len(7));
        assert_eq!(key(7).unwrap(HERE, &wrapped).unwrap()[..], b"potluck"[..]);
        assert_eq!(key(8).unwrap(HERE, &wrapped), Err(UnwrapError));
        for purpose in [
            Purpose {
                associated: b"there",
                ..HERE
            },
            Purpose {
                context: "potluck/test/2",
                ..HERE
            },
        ] {
            assert_eq!(key(7).unwrap(purpose, &wrapped), Err(UnwrapError));
        }
    }

    #[test]
    fn a_key_prints_nothing_secret() {
        let key = key(7);
        assert_eq!(format!("{key:?}"), format!("RecipientKey(of {:?})", key.recipient()));
    }

    /// Points of low order, for which anyone could tell the shared secret (RFC 7748, section 6.1).
    #[test]
    fn nothing_is_wrapped_for_a_key_that_is_none() {
        for bytes in [[0; 32], {
            let mut one = [0; 32];
            one[0] = 1;
            one
        }] {
            assert_eq!(
                Recipient::from_bytes(bytes).wrap(HERE, b"potluck", &Counter::new()),
                Err(BadRecipient)
            );
        }
    }

    proptest! {
        #[test]
        fn a_flipped_bit_is_noticed(plain: Vec<u8>, at: prop::sample::Index, bit in 0u8..8) {
            let mut wrapped = key(7).recipient().wrap(HERE, &plain, &Counter::new()).unwrap();
            prop_assert_eq!(&key(7).unwrap(HERE, &wrapped).unwrap()[..], &plain[..]);
            let at = at.index(wrapped.len());
            wrapped[at] ^= 1 << bit;
            // The top bit of an X25519 key is not looked at (RFC 7748, section 5), but it is part of what the secret follows from.
            prop_assert_eq!(key(7).unwrap(HERE, &wrapped), Err(UnwrapError));
        }

        #[test]
        fn hostile_bytes_never_panic(bytes: Vec<u8>, recipient: [u8; 32]) {
            prop_assert_eq!(key(7).unwrap(HERE, &bytes), Err(UnwrapError));
            let _ = Recipient::from_bytes(recipient).wrap(HERE, &bytes, &Counter::new());
        }
    }
}
