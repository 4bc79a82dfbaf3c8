//! Stripes and shards: what is stored, and how a shard proves itself.
//!
//! A sealed piece of `sealed_len` bytes is cut into *k* data shards of equal length (the last one padded with
//! zeros), and *m* parity shards are computed from them. The [`Descriptor`] names all *n* = *k* + *m* by hash; its own
//! hash is the [`StripeId`]. A shard travels and rests with its descriptor, so whoever knows the stripe's id can
//! check it alone, and shards of two encodings of one piece can never be mixed.

use crate::{
    CodecError, Hash, StripeId, from_canonical, limits,
    sabotage::{self, Bug},
    to_canonical,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Why a descriptor or a shard is not what it claims to be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShardError {
    /// The descriptor's bytes are no canonical record.
    #[error("the stripe descriptor is unreadable")]
    Codec(#[from] CodecError),
    /// The descriptor's numbers contradict each other or a limit.
    #[error(
        "the stripe descriptor is impossible: version {version}, k {k}, m {m}, {hashes} hashes, {sealed_len} bytes"
    )]
    Impossible {
        /// The format version it names.
        version: u8,
        /// Data shards.
        k: u8,
        /// Parity shards.
        m: u8,
        /// Hashes it lists.
        hashes: usize,
        /// Length of the sealed piece.
        sealed_len: u32,
    },
    /// The descriptor is sound, but of another stripe than asked for.
    #[error("a shard of stripe {found} came instead of one of {expected}")]
    OtherStripe {
        /// What was asked for.
        expected: StripeId,
        /// What came.
        found: StripeId,
    },
    /// The stripe has no shard of this number.
    #[error("stripe {stripe} has no shard {index}")]
    NoSuchIndex {
        /// The stripe.
        stripe: StripeId,
        /// The number given.
        index: u8,
    },
    /// The payload is not what the descriptor names under this index.
    #[error("shard {index} of stripe {stripe} is damaged: its hash differs")]
    Damaged {
        /// The stripe.
        stripe: StripeId,
        /// The shard's number.
        index: u8,
    },
}

/// How a piece is coded: *k* data shards and *m* parity shards.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Geometry {
    k: u8,
    m: u8,
}

impl Geometry {
    /// `k` data and `m` parity shards, if a stripe may have so many.
    pub fn new(k: u8, m: u8) -> Option<Self> {
        (k >= 1 && usize::from(k) + usize::from(m) <= limits::SHARDS_MAX).then_some(Self { k, m })
    }

    /// Data shards.
    pub fn k(self) -> u8 {
        self.k
    }

    /// Parity shards: how many may be lost.
    pub fn m(self) -> u8 {
        self.m
    }

    /// All shards.
    pub fn n(self) -> u8 {
        self.k + self.m
    }
}

/// What a stripe consists of. Made by encoding, or by [`Descriptor::from_bytes`], which checks every number.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Descriptor {
    version: u8,
    k: u8,
    m: u8,
    sealed_len: u32,
    shard_hashes: Vec<Hash>,
}

/// The only version of the stripe format so far.
const VERSION: u8 = 1;

impl Descriptor {
    /// The descriptor of a stripe with these shards; the first *k* hold the data.
    pub fn new(geometry: Geometry, sealed_len: u32, shard_hashes: Vec<Hash>) -> Result<Self, ShardError> {
        let Geometry { k, m } = geometry;
        Self {
            version: VERSION,
            k,
            m,
            sealed_len,
            shard_hashes,
        }
        .checked()
    }

    /// Reads a descriptor from bytes that anyone may have sent.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ShardError> {
        if bytes.len() > limits::DESCRIPTOR_BYTES_MAX {
            return Err(CodecError::Malformed {
                len: bytes.len(),
                reason: "too long".to_owned(),
            }
            .into());
        }
        from_canonical::<Self>(bytes)?.checked()
    }

    fn checked(self) -> Result<Self, ShardError> {
        let n = usize::from(self.k) + usize::from(self.m);
        let possible = self.version == VERSION
            && self.k >= 1
            && n <= limits::SHARDS_MAX
            && self.shard_hashes.len() == n
            && (1..=limits::SEALED_BYTES_MAX).contains(&(self.sealed_len as usize));
        if possible {
            return Ok(self);
        }
        let Self {
            version,
            k,
            m,
            sealed_len,
            shard_hashes,
        } = self;
        Err(ShardError::Impossible {
            version,
            k,
            m,
            hashes: shard_hashes.len(),
            sealed_len,
        })
    }

    /// The canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        to_canonical(self)
    }

    /// The stripe's id: the hash of the canonical bytes.
    pub fn id(&self) -> StripeId {
        StripeId::from_bytes(*Hash::of(&self.to_bytes()).as_bytes())
    }

    /// How the piece was coded.
    pub fn geometry(&self) -> Geometry {
        Geometry { k: self.k, m: self.m }
    }

    /// Data shards: how many, of any kind, give the piece back.
    pub fn k(&self) -> u8 {
        self.k
    }

    /// All shards.
    pub fn n(&self) -> u8 {
        self.k + self.m
    }

    /// Length of the sealed piece in bytes.
    pub fn sealed_len(&self) -> usize {
        self.sealed_len as usize
    }

    /// Length of each shard's payload in bytes.
    pub fn shard_len(&self) -> usize {
        Self::shard_len_for(self.sealed_len(), self.k)
    }

    /// The payload length of shards that `sealed_len` bytes are cut into `k` of.
    pub fn shard_len_for(sealed_len: usize, k: u8) -> usize {
        if k <= 1 {
            sealed_len
        } else {
            sealed_len
                .div_ceil(k.into())
                .next_multiple_of(limits::SHARD_ALIGN_BYTES)
        }
    }

    /// The hash of the payload of one shard, if the stripe has it.
    pub fn shard_hash(&self, index: u8) -> Option<Hash> {
        self.shard_hashes.get(usize::from(index)).copied()
    }
}

/// The name of one shard.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ShardId {
    /// The stripe.
    pub stripe: StripeId,
    /// Its number in the stripe, from 0; data shards first.
    pub index: u8,
}

/// A shard whose payload has the hash that its descriptor names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shard {
    id: ShardId,
    descriptor: Descriptor,
    payload: Bytes,
}

impl Shard {
    /// Its name.
    pub fn id(&self) -> ShardId {
        self.id
    }

    /// The stripe that it is a part of.
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// Its bytes.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// The same bytes with nothing claimed of them, to be sent or stored.
    pub fn into_unverified(self) -> UnverifiedShard {
        UnverifiedShard {
            descriptor: self.descriptor.to_bytes().into(),
            index: self.id.index,
            payload: self.payload,
        }
    }

    /// A shard just made by encoding: its hash was computed from these very bytes.
    ///
    /// # Panics
    /// When the stripe has no such index.
    pub fn from_encoder(descriptor: Descriptor, stripe: StripeId, index: u8, payload: Bytes) -> Self {
        debug_assert_eq!(descriptor.id(), stripe);
        debug_assert_eq!(descriptor.shard_hash(index), Some(Hash::of(&payload)));
        assert!(index < descriptor.n(), "the encoder makes n shards");
        Self {
            id: ShardId { stripe, index },
            descriptor,
            payload,
        }
    }
}

/// A shard as it comes from a disk or a peer.
#[derive(Clone, Debug)]
pub struct UnverifiedShard {
    /// The canonical bytes of a [`Descriptor`].
    pub descriptor: Bytes,
    /// The number it claims.
    pub index: u8,
    /// The bytes it carries.
    pub payload: Bytes,
}

impl UnverifiedShard {
    /// Checks that this is a shard, and of this stripe.
    pub fn verify(self, expected: StripeId) -> Result<Shard, ShardError> {
        let shard = self.verify_any()?;
        if shard.id.stripe == expected {
            Ok(shard)
        } else {
            Err(ShardError::OtherStripe {
                expected,
                found: shard.id.stripe,
            })
        }
    }

    /// Checks that this is a shard of whatever stripe its descriptor describes.
    pub fn verify_any(self) -> Result<Shard, ShardError> {
        let Self {
            descriptor,
            index,
            payload,
        } = self;
        let descriptor = Descriptor::from_bytes(&descriptor)?;
        let stripe = descriptor.id();
        let hash = descriptor
            .shard_hash(index)
            .ok_or(ShardError::NoSuchIndex { stripe, index })?;
        let is_right = Hash::of(&payload) == hash || sabotage::is_planted(Bug::AcceptWrongShard);
        if payload.len() != descriptor.shard_len() || !is_right {
            return Err(ShardError::Damaged { stripe, index });
        }
        Ok(Shard {
            id: ShardId { stripe, index },
            descriptor,
            payload,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shard() -> Shard {
        let payload = Bytes::from_static(b"twenty sealed bytes.");
        let descriptor = Descriptor::new(Geometry { k: 1, m: 1 }, 20, vec![Hash::of(&payload); 2]).unwrap();
        let stripe = descriptor.id();
        Shard::from_encoder(descriptor, stripe, 1, payload)
    }

    #[test]
    fn a_shard_proves_itself() {
        let shard = shard();
        assert_eq!(
            shard.clone().into_unverified().verify(shard.id().stripe).unwrap(),
            shard
        );
    }

    #[test]
    fn a_flipped_bit_anywhere_is_found() {
        let sound = shard().into_unverified();
        let stripe = shard().id().stripe;
        for bit in 0..sound.payload.len() * 8 {
            let mut payload = sound.payload.to_vec();
            payload[bit / 8] ^= 1 << (bit % 8);
            assert!(
                UnverifiedShard {
                    payload: payload.into(),
                    ..sound.clone()
                }
                .verify(stripe)
                .is_err()
            );
        }
        for bit in 0..sound.descriptor.len() * 8 {
            let mut descriptor = sound.descriptor.to_vec();
            descriptor[bit / 8] ^= 1 << (bit % 8);
            assert!(
                UnverifiedShard {
                    descriptor: descriptor.into(),
                    ..sound.clone()
                }
                .verify(stripe)
                .is_err()
            );
        }
        assert!(UnverifiedShard { index: 2, ..sound }.verify(stripe).is_err());
    }

    #[test]
    fn impossible_descriptors_are_refused() {
        let hash = Hash::of(b"");
        let check = |k, m, len, hashes: usize| Descriptor::new(Geometry { k, m }, len, vec![hash; hashes]).is_ok();
        assert!(check(2, 2, 100, 4));
        assert!(!check(0, 2, 100, 2));
        assert!(!check(2, 2, 100, 3));
        assert!(!check(2, 2, 0, 4));
        assert!(!check(2, 2, u32::MAX, 4));
        assert!(!check(200, 100, 100, 44));
    }

    proptest! {
        #[test]
        fn hostile_descriptors_never_panic(bytes: Vec<u8>) {
            let _ = Descriptor::from_bytes(&bytes);
        }
    }
}
