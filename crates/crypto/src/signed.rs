//! Signed records: who said it, what they said, and that they said it in this role.
//!
//! The signature covers the record type's context as well as its bytes, so that bytes which two record types
//! can both be read from are never accepted as the other. A [`Signed`] gives its value away only through
//! [`Signed::open`], which checks the signature: an unchecked value cannot be used by mistake.

use crate::{PublicKey, Signature, SigningKey, keys::BadSignature};
use potluck_types::{CodecError, Hash, from_canonical, from_canonical_or_later, limits, to_canonical};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, de::DeserializeOwned};
use serde_bytes::ByteBuf;
use std::{fmt, marker::PhantomData};

/// The only version of the envelope so far.
const VERSION: u8 = 1;
/// What an envelope adds at most: an array of four, a number, three string heads, a key and a signature.
const ENVELOPE_BYTES_MAX: usize = 128;

/// A type that is signed.
pub trait Record: Serialize + DeserializeOwned {
    /// Names the type and its version, as no other record's does: `potluck/member/1`.
    const CONTEXT: &'static str;
    /// The most bytes that one has once encoded.
    const BYTES_MAX: usize = limits::RECORD_BYTES_MAX;
}

/// Why something is not a signed record of the expected type.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignedError {
    /// It is larger than its type allows.
    #[error("a {context} record of {len} bytes is over the limit of {max}")]
    TooLarge {
        /// The record type.
        context: &'static str,
        /// How many bytes it has.
        len: usize,
        /// How many it may have.
        max: usize,
    },
    /// The envelope or the record in it is no canonical encoding.
    #[error("the {context} record is unreadable")]
    Codec {
        /// The record type.
        context: &'static str,
        /// What is wrong with the bytes.
        source: CodecError,
    },
    /// It was not signed by the key it names, or not as this type of record.
    #[error("the {context} record is not signed by {signer:?}, whom it names")]
    Signature {
        /// The record type.
        context: &'static str,
        /// The key it names.
        signer: PublicKey,
    },
}

/// A record with its signer and signature, not yet checked.
pub struct Signed<T> {
    payload: ByteBuf,
    signer: PublicKey,
    signature: Signature,
    record: PhantomData<fn() -> T>,
}

impl<T: Record> Signed<T> {
    /// Signs a record.
    pub fn sign(key: &SigningKey, record: &T) -> Result<Self, SignedError> {
        let payload = ByteBuf::from(to_canonical(record));
        check_len::<T>(payload.len(), T::BYTES_MAX)?;
        Ok(Self {
            signature: key.sign(&signed_bytes(T::CONTEXT, &payload)),
            signer: key.public(),
            payload,
            record: PhantomData,
        })
    }

    /// Checks signature, size and encoding, and gives the record. What a later version says besides is passed over.
    pub fn open(&self) -> Result<Verified<T>, SignedError> {
        check_len::<T>(self.payload.len(), T::BYTES_MAX)?;
        let (context, signer) = (T::CONTEXT, self.signer);
        signer
            .verify(&signed_bytes(context, &self.payload), &self.signature)
            .map_err(|BadSignature| SignedError::Signature { context, signer })?;
        let value = self.claimed()?;
        Ok(Verified { value, signer })
    }

    /// What somebody is said to have signed; [`Signed::open`] tells whether that is so.
    pub fn claimed(&self) -> Result<T, SignedError> {
        let context = T::CONTEXT;
        check_len::<T>(self.payload.len(), T::BYTES_MAX)?;
        from_canonical_or_later(&self.payload).map_err(|source| SignedError::Codec { context, source })
    }

    /// Reads an envelope from bytes that anyone may have sent. Nothing in it is checked yet.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SignedError> {
        check_len::<T>(bytes.len(), T::BYTES_MAX.saturating_add(ENVELOPE_BYTES_MAX))?;
        from_canonical(bytes).map_err(|source| SignedError::Codec {
            context: T::CONTEXT,
            source,
        })
    }
}

impl<T> Signed<T> {
    /// The canonical bytes of the envelope, as stored and sent.
    pub fn to_bytes(&self) -> Vec<u8> {
        to_canonical(self)
    }

    /// The hash of the envelope's bytes: the name of this record in other records.
    pub fn hash(&self) -> Hash {
        Hash::of(&self.to_bytes())
    }

    /// Who is said to have signed it; [`Signed::open`] tells whether that is so.
    pub fn claimed_signer(&self) -> PublicKey {
        self.signer
    }
}

/// What is signed: the context's length and bytes, then the record's. The length keeps every pair of the two apart.
fn signed_bytes(context: &'static str, payload: &[u8]) -> Vec<u8> {
    let len = u8::try_from(context.len()).expect("a context is a short constant");
    [&[len], context.as_bytes(), payload].concat()
}

fn check_len<T: Record>(len: usize, max: usize) -> Result<(), SignedError> {
    if len <= max {
        return Ok(());
    }
    Err(SignedError::TooLarge {
        context: T::CONTEXT,
        len,
        max,
    })
}

/// A record whose signature was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified<T> {
    value: T,
    signer: PublicKey,
}

impl<T> Verified<T> {
    /// The record.
    pub fn value(&self) -> &T {
        &self.value
    }

    /// Who signed it.
    pub fn signer(&self) -> PublicKey {
        self.signer
    }

    /// The record itself.
    pub fn into_value(self) -> T {
        self.value
    }
}

impl<T> Clone for Signed<T> {
    fn clone(&self) -> Self {
        Self {
            payload: self.payload.clone(),
            signer: self.signer,
            signature: self.signature,
            record: PhantomData,
        }
    }
}

impl<T> PartialEq for Signed<T> {
    fn eq(&self, other: &Self) -> bool {
        (&self.payload, self.signer, self.signature) == (&other.payload, other.signer, other.signature)
    }
}

impl<T> Eq for Signed<T> {}

impl<T> fmt::Debug for Signed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Signed({} bytes by {:?}, unchecked)",
            self.payload.len(),
            self.signer
        )
    }
}

impl<T> Serialize for Signed<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (VERSION, &self.payload, self.signer, self.signature).serialize(serializer)
    }
}

impl<'de, T> Deserialize<'de> for Signed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (version, payload, signer, signature): (u8, _, _, _) = Deserialize::deserialize(deserializer)?;
        if version != VERSION {
            return Err(de::Error::custom(format_args!(
                "signed record of version {version}, this program reads {VERSION}"
            )));
        }
        Ok(Self {
            payload,
            signer,
            signature,
            record: PhantomData,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::HEXLOWER;
    use proptest::prelude::*;

    #[derive(Serialize, Deserialize, PartialEq, Debug, Clone)]
    struct Vote {
        question: String,
        yes: bool,
    }

    impl Record for Vote {
        const CONTEXT: &'static str = "potluck/test-vote/1";
        const BYTES_MAX: usize = 1024;
    }

    /// The same bytes, another meaning.
    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Jest(Vote);

    impl Record for Jest {
        const CONTEXT: &'static str = "potluck/test-jest/1";
    }

    /// The same record of a later version.
    #[derive(Serialize, Deserialize)]
    struct LaterVote {
        question: String,
        yes: bool,
        because: Vec<String>,
    }

    impl Record for LaterVote {
        const CONTEXT: &'static str = Vote::CONTEXT;
    }

    fn vote(question: &str) -> Vote {
        Vote {
            question: question.to_owned(),
            yes: true,
        }
    }

    fn key() -> SigningKey {
        SigningKey::from_seed(&[7; 32])
    }

    #[test]
    fn a_record_comes_back_with_its_signer() {
        let signed = Signed::sign(&key(), &vote("soup?")).unwrap();
        let opened = Signed::<Vote>::from_bytes(&signed.to_bytes()).unwrap().open().unwrap();
        assert_eq!(opened.signer(), key().public());
        assert_eq!(opened.into_value(), vote("soup?"));
    }

    #[test]
    fn envelope_bytes_are_those_of_format_md() {
        let signed = Signed::sign(&key(), &vote("soup?")).unwrap();
        assert_eq!(
            HEXLOWER.encode(&signed.to_bytes()),
            "840155a263796573f5687175657374696f6e65736f75703f5820ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c58403da1f71a9afe7d2b1b9a120239a282a3cdb1eea3e6eb188add82bdc379a3c267598150f219af6c91a43a6e351da91a70d8557919ff50f608774905831c629f02"
        );
    }

    #[test]
    fn what_a_later_version_says_besides_is_passed_over() {
        let later = LaterVote {
            question: "soup?".to_owned(),
            yes: true,
            because: vec!["it is cold".to_owned()],
        };
        let bytes = Signed::sign(&key(), &later).unwrap().to_bytes();
        let opened = Signed::<Vote>::from_bytes(&bytes).unwrap().open().unwrap();
        assert_eq!((opened.signer(), opened.value()), (key().public(), &vote("soup?")));
    }

    #[test]
    fn a_signature_does_not_move_to_another_record_type() {
        let bytes = Signed::sign(&key(), &Jest(vote("soup?"))).unwrap().to_bytes();
        let moved = Signed::<Vote>::from_bytes(&bytes).unwrap();
        assert!(matches!(moved.open(), Err(SignedError::Signature { .. })));
    }

    #[test]
    fn a_record_over_its_limit_is_neither_signed_nor_read() {
        let long = vote(&"x".repeat(1024));
        assert!(matches!(Signed::sign(&key(), &long), Err(SignedError::TooLarge { .. })));
        let bytes = Signed::sign(&key(), &Jest(long)).unwrap().to_bytes();
        let moved = Signed::<Vote>::from_bytes(&bytes);
        assert!(moved.is_err() || moved.unwrap().open().is_err());
    }

    proptest! {
        #[test]
        fn a_flipped_bit_is_found(question in "[a-z]{0,40}", at: prop::sample::Index, bit in 0u8..8) {
            let mut bytes = Signed::sign(&key(), &vote(&question)).unwrap().to_bytes();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let opened = Signed::<Vote>::from_bytes(&bytes).and_then(|signed| signed.open());
            prop_assert!(opened.is_err());
        }

        #[test]
        fn hostile_bytes_never_panic(bytes: Vec<u8>) {
            let _ = Signed::<Vote>::from_bytes(&bytes).and_then(|signed| signed.open());
        }
    }
}
