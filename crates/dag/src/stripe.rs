//! Erasure coding: a sealed piece becomes *n* shards, any *k* of which give it back.
//!
//! The code is Reed–Solomon over GF(2¹⁶) by additive FFT (Lin, Chung and Han, "Novel Polynomial Basis and Its
//! Application to Reed–Solomon Erasure Codes", FOCS 2014), as `reed-solomon-simd` computes it; and systematic: data shards are
//! slices of the sealed piece. With *k* = 1 all shards are copies, which share their memory here.

use bytes::Bytes;
use potluck_types::{
    Descriptor, Geometry, Hash, Shard, StripeId,
    limits::{SEALED_BYTES_MAX, SHARDS_MAX},
};
use reed_solomon_simd::{ReedSolomonDecoder, ReedSolomonEncoder};
use std::ops::Range;

/// Why no stripe could be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// A piece has at least one byte, and at most as many as a sealed chunk.
    #[error("a sealed piece of {len} bytes cannot be coded: it may have 1 to {SEALED_BYTES_MAX}")]
    Length {
        /// How many bytes were given.
        len: usize,
    },
}

/// Why shards give no piece.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// One of them is of another stripe.
    #[error("a shard of stripe {found} is among those of {expected}")]
    OtherStripe {
        /// The stripe to decode.
        expected: StripeId,
        /// The stripe of the shard.
        found: StripeId,
    },
    /// There are not enough different ones.
    #[error("stripe {stripe} needs {need} shards, and {have} are here")]
    TooFew {
        /// The stripe.
        stripe: StripeId,
        /// How many different shards were given.
        have: usize,
        /// How many it takes.
        need: usize,
    },
    /// The stripe has no shard of the number asked for.
    #[error("stripe {stripe} has no shard {index}")]
    NoSuchIndex {
        /// The stripe.
        stripe: StripeId,
        /// The number.
        index: u8,
    },
    /// Sound shards give another shard than the descriptor names: whoever made the stripe did not encode it.
    #[error("stripe {stripe} was never coded as it says: its shards give another shard {index} than it names")]
    Inconsistent {
        /// The stripe.
        stripe: StripeId,
        /// The shard that came out differently.
        index: u8,
    },
}

/// A coded piece.
#[derive(Clone, Debug)]
pub struct Stripe {
    /// What it consists of.
    pub descriptor: Descriptor,
    /// Its name.
    pub id: StripeId,
    /// All its shards, in order of their index.
    pub shards: Vec<Shard>,
}

/// The capacity that saves [`encode`] from moving a sealed piece of this length.
pub fn padded_len(sealed_len: usize, geometry: Geometry) -> usize {
    Descriptor::shard_len_for(sealed_len, geometry.k()) * usize::from(geometry.k())
}

/// Codes a sealed piece. Data shards are slices of it, not copies.
pub fn encode(mut sealed: Vec<u8>, geometry: Geometry) -> Result<Stripe, EncodeError> {
    let len = sealed.len();
    let sealed_len = u32::try_from(len)
        .ok()
        .filter(|_| (1..=SEALED_BYTES_MAX).contains(&len))
        .ok_or(EncodeError::Length { len })?;
    sealed.resize(padded_len(len, geometry), 0);
    let data = split(sealed, geometry.k());
    let payloads: Vec<Bytes> = if geometry.k() == 1 {
        vec![data[0].clone(); geometry.n().into()]
    } else {
        let parity = parity(&data, geometry.m());
        data.into_iter().chain(parity).collect()
    };
    let hashes = if geometry.k() == 1 {
        vec![Hash::of(&payloads[0]); payloads.len()]
    } else {
        payloads.iter().map(|payload| Hash::of(payload)).collect()
    };
    let descriptor = Descriptor::new(geometry, sealed_len, hashes).expect("a geometry and a length within the limits");
    let id = descriptor.id();
    let shards = (0..)
        .zip(payloads)
        .map(|(index, payload)| Shard::from_encoder(descriptor.clone(), id, index, payload))
        .collect();
    Ok(Stripe { descriptor, id, shards })
}

/// Gives the sealed piece back, from any *k* different shards of the stripe. Costs one copy when the data shards
/// are among them, none at all when *k* = 1.
pub fn decode(descriptor: &Descriptor, shards: &[Shard]) -> Result<Bytes, DecodeError> {
    let data = data_shards(descriptor, &Given::new(descriptor, shards)?)?;
    if let [only] = &data[..] {
        return Ok(only.slice(..descriptor.sealed_len()));
    }
    let mut sealed = Vec::with_capacity(descriptor.sealed_len());
    for shard in &data {
        let missing = descriptor.sealed_len() - sealed.len();
        sealed.extend_from_slice(&shard[..missing.min(shard.len())]);
    }
    Ok(sealed.into())
}

/// Makes the wanted shards of a stripe from any *k* others. Each is checked against the descriptor.
pub fn rebuild(descriptor: &Descriptor, shards: &[Shard], wanted: &[u8]) -> Result<Vec<Shard>, DecodeError> {
    let stripe = descriptor.id();
    let given = Given::new(descriptor, shards)?;
    let data = data_shards(descriptor, &given)?;
    let k = descriptor.k();
    let all_given = |index: &u8| given.payload(*index).is_some();
    let parity = if k == 1 || wanted.iter().all(|index| *index < k || all_given(index)) {
        Vec::new()
    } else {
        parity(&data, descriptor.n() - k)
    };
    let rebuilt = |index: u8| {
        let payload = match given.payload(index) {
            Some(payload) => payload,
            None if k == 1 => &data[0],
            None if index < k => &data[usize::from(index)],
            None => &parity[usize::from(index - k)],
        };
        let hash = descriptor
            .shard_hash(index)
            .ok_or(DecodeError::NoSuchIndex { stripe, index })?;
        if Hash::of(payload) != hash {
            return Err(DecodeError::Inconsistent { stripe, index });
        }
        Ok(Shard::from_encoder(descriptor.clone(), stripe, index, payload.clone()))
    };
    match wanted.iter().find(|index| **index >= descriptor.n()) {
        Some(&index) => Err(DecodeError::NoSuchIndex { stripe, index }),
        None => wanted.iter().map(|index| rebuilt(*index)).collect(),
    }
}

/// A range of a shard's payload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShardRange {
    /// The shard; with *k* = 1, where all are copies, 0 stands for any.
    pub index: u8,
    /// The bytes of its payload.
    pub bytes: Range<usize>,
}

/// Which bytes of which data shards, put one after the other, are this range of the sealed piece. What lies past
/// the piece's end is left out.
pub fn shards_covering(geometry: Geometry, sealed_len: usize, range: Range<usize>) -> Vec<ShardRange> {
    let shard_len = Descriptor::shard_len_for(sealed_len, geometry.k());
    let end = range.end.min(sealed_len);
    (0..geometry.k())
        .filter_map(|index| {
            let first = usize::from(index) * shard_len;
            let bytes = range.start.max(first)..end.min(first + shard_len);
            (bytes.start < bytes.end).then(|| ShardRange {
                index,
                bytes: bytes.start - first..bytes.end - first,
            })
        })
        .collect()
}

/// The shards at hand, each at its index.
struct Given<'a> {
    payloads: [Option<&'a Bytes>; SHARDS_MAX],
}

impl<'a> Given<'a> {
    fn new(descriptor: &Descriptor, shards: &'a [Shard]) -> Result<Self, DecodeError> {
        let mut payloads = [None; SHARDS_MAX];
        for shard in shards {
            if shard.descriptor() != descriptor {
                return Err(DecodeError::OtherStripe {
                    expected: descriptor.id(),
                    found: shard.id().stripe,
                });
            }
            payloads[usize::from(shard.id().index)] = Some(shard.payload());
        }
        Ok(Self { payloads })
    }

    fn payload(&self, index: u8) -> Option<&'a Bytes> {
        self.payloads.get(usize::from(index)).copied().flatten()
    }

    fn count(&self) -> usize {
        self.payloads.iter().flatten().count()
    }
}

/// The *k* data shards: those given, and those missing restored and checked.
fn data_shards(descriptor: &Descriptor, given: &Given<'_>) -> Result<Vec<Bytes>, DecodeError> {
    let k = descriptor.k();
    if given.count() < k.into() {
        return Err(DecodeError::TooFew {
            stripe: descriptor.id(),
            have: given.count(),
            need: k.into(),
        });
    }
    if k == 1 {
        return Ok(given.payloads.iter().copied().flatten().take(1).cloned().collect());
    }
    if let Some(data) = (0..k).map(|index| given.payload(index).cloned()).collect() {
        return Ok(data);
    }
    let m = descriptor.n() - k;
    let mut decoder = ReedSolomonDecoder::new(k.into(), m.into(), descriptor.shard_len())
        .expect("a stripe's shape is one that the coder supports");
    for index in 0..descriptor.n() {
        let Some(payload) = given.payload(index) else { continue };
        let added = match index.checked_sub(k) {
            None => decoder.add_original_shard(index.into(), payload),
            Some(parity) => decoder.add_recovery_shard(parity.into(), payload),
        };
        added.expect("each index once, and verified shards have their stripe's length");
    }
    let restored = decoder.decode().expect("k shards are enough");
    (0..k)
        .map(|index| match given.payload(index) {
            Some(payload) => Ok(payload.clone()),
            None => {
                let payload = restored
                    .restored_original(index.into())
                    .expect("what was not given is restored");
                if descriptor.shard_hash(index) != Some(Hash::of(payload)) {
                    let stripe = descriptor.id();
                    return Err(DecodeError::Inconsistent { stripe, index });
                }
                Ok(Bytes::copy_from_slice(payload))
            }
        })
        .collect()
}

fn split(padded: Vec<u8>, k: u8) -> Vec<Bytes> {
    let padded = Bytes::from(padded);
    let shard_len = padded.len() / usize::from(k);
    (0..usize::from(k))
        .map(|index| padded.slice(index * shard_len..(index + 1) * shard_len))
        .collect()
}

/// The parity shards of at least two data shards.
fn parity(data: &[Bytes], m: u8) -> Vec<Bytes> {
    if m == 0 {
        return Vec::new();
    }
    let shard_len = data[0].len();
    let mut encoder = ReedSolomonEncoder::new(data.len(), m.into(), shard_len)
        .expect("a stripe's shape is one that the coder supports");
    for shard in data {
        encoder.add_original_shard(shard).expect("k shards of one length");
    }
    let parity = encoder.encode().expect("all k shards were added");
    parity.recovery_iter().map(Bytes::copy_from_slice).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::noise;
    use potluck_types::limits::SHARD_ALIGN_BYTES;
    use proptest::{prelude::*, sample};

    fn geometry() -> impl Strategy<Value = Geometry> {
        (1u8..=12, 0u8..=8).prop_map(|(k, m)| Geometry::new(k, m).unwrap())
    }

    /// Lengths around the borders of shards.
    fn length() -> impl Strategy<Value = usize> {
        prop_oneof![
            1usize..4,
            (1usize..40, -2isize..3).prop_map(|(n, d)| (n * SHARD_ALIGN_BYTES).saturating_add_signed(d)),
            1usize..100_000,
        ]
    }

    fn coded(len: usize, k: u8, m: u8) -> (Vec<u8>, Stripe) {
        let sealed = noise(len as u64, len);
        let stripe = encode(sealed.clone(), Geometry::new(k, m).unwrap()).unwrap();
        (sealed, stripe)
    }

    /// Every stored stripe depends on these never changing.
    #[test]
    fn stripes_are_those_of_format_md() {
        let check = |len, k, m, id: &str| assert_eq!(coded(len, k, m).1.id.to_string(), id);
        check(
            1000,
            1,
            2,
            "bafkr4ifgiy5xvvo2f53gpohrkjttma5jkd6w4oclqpidujo4jl74hsjpze",
        );
        check(
            1000,
            2,
            2,
            "bafkr4iaup3acyorlkseupjmj4awc5dqtdurvmquajcyh7mdhjicttpxaz4",
        );
        check(
            100_000,
            3,
            2,
            "bafkr4ih4jga6tga3e7asigynmpsuy2p7hgybf3xenrb5f73bvufcpozpyq",
        );
        check(
            100_000,
            8,
            3,
            "bafkr4if7uypk7m2y5hyopp5thl67u3a2oc3ao37aceoqzefoxnbjapdlz4",
        );
    }

    #[test]
    fn data_shards_and_copies_are_not_copied() {
        let sealed = noise(1, 1 << 20);
        let at = sealed.as_ptr();
        let copies = encode(sealed, Geometry::new(1, 2).unwrap()).unwrap();
        assert!(copies.shards.iter().all(|shard| shard.payload().as_ptr() == at));
        assert_eq!(decode(&copies.descriptor, &copies.shards[2..]).unwrap().as_ptr(), at);

        let geometry = Geometry::new(3, 2).unwrap();
        let mut sealed = Vec::with_capacity(padded_len(1 << 20, geometry));
        sealed.extend(noise(1, 1 << 20));
        let at = sealed.as_ptr();
        assert_eq!(encode(sealed, geometry).unwrap().shards[0].payload().as_ptr(), at);
    }

    #[test]
    fn a_stripe_of_a_length_out_of_bounds_is_refused() {
        let geometry = Geometry::new(2, 1).unwrap();
        assert_eq!(
            encode(Vec::new(), geometry).unwrap_err(),
            EncodeError::Length { len: 0 }
        );
        assert!(encode(vec![0; SEALED_BYTES_MAX + 1], geometry).is_err());
        assert!(encode(vec![0; SEALED_BYTES_MAX], geometry).is_ok());
    }

    #[test]
    fn too_few_or_foreign_shards_are_refused() {
        let (_, stripe) = coded(1000, 3, 2);
        let twice = [&stripe.shards[..2], &stripe.shards[..2]].concat();
        let decoded = decode(&stripe.descriptor, &twice);
        assert!(matches!(decoded, Err(DecodeError::TooFew { have: 2, need: 3, .. })));
        let (_, other) = coded(1001, 3, 2);
        let mixed = [&stripe.shards[..2], &other.shards[2..3]].concat();
        assert!(matches!(
            decode(&stripe.descriptor, &mixed),
            Err(DecodeError::OtherStripe { .. })
        ));
        let beyond = rebuild(&stripe.descriptor, &stripe.shards, &[5]);
        assert!(matches!(beyond, Err(DecodeError::NoSuchIndex { index: 5, .. })));
    }

    /// A writer that hashes rubbish into its descriptor must not make two readers see different data.
    #[test]
    fn a_stripe_that_was_never_coded_is_found_out() {
        let (_, stripe) = coded(1000, 2, 2);
        let mut payloads: Vec<Bytes> = stripe.shards.iter().map(|shard| shard.payload().clone()).collect();
        payloads[3] = noise(9, payloads[3].len()).into();
        let hashes = payloads.iter().map(|payload| Hash::of(payload)).collect();
        let forged = Descriptor::new(Geometry::new(2, 2).unwrap(), 1000, hashes).unwrap();
        let shards: Vec<Shard> = (0..)
            .zip(payloads)
            .map(|(index, payload)| Shard::from_encoder(forged.clone(), forged.id(), index, payload))
            .collect();
        assert!(decode(&forged, &shards[..2]).is_ok());
        assert!(matches!(
            decode(&forged, &shards[2..]),
            Err(DecodeError::Inconsistent { .. })
        ));
        let rebuilt = rebuild(&forged, &shards[..2], &[3]);
        assert!(matches!(rebuilt, Err(DecodeError::Inconsistent { index: 3, .. })));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_k_shards_decode_and_rebuild_the_others(
            (geometry, order) in geometry().prop_flat_map(|g| {
                (Just(g), Just((0..g.n()).collect::<Vec<u8>>()).prop_shuffle())
            }),
            len in length(),
        ) {
            let (sealed, stripe) = coded(len, geometry.k(), geometry.m());
            let (kept, lost) = order.split_at(geometry.k().into());
            let kept: Vec<Shard> = kept.iter().map(|index| stripe.shards[usize::from(*index)].clone()).collect();
            prop_assert!(decode(&stripe.descriptor, &kept).unwrap() == sealed);
            let rebuilt = rebuild(&stripe.descriptor, &kept, lost).unwrap();
            for (index, shard) in lost.iter().zip(rebuilt) {
                prop_assert!(shard == stripe.shards[usize::from(*index)]);
            }
            for shard in stripe.shards {
                prop_assert!(shard.into_unverified().verify(stripe.id).is_ok());
            }
        }

        #[test]
        fn shard_ranges_concatenate_to_the_slice(
            geometry in geometry(),
            len in length(),
            a: sample::Index,
            b: sample::Index,
        ) {
            let (sealed, stripe) = coded(len, geometry.k(), geometry.m());
            let (a, b) = (a.index(len + 1), b.index(len + 1));
            let range = a.min(b)..a.max(b);
            let found: Vec<u8> = shards_covering(geometry, len, range.clone())
                .into_iter()
                .flat_map(|part| stripe.shards[usize::from(part.index)].payload().slice(part.bytes))
                .collect();
            prop_assert_eq!(&found[..], &sealed[range]);
        }

        #[test]
        fn no_range_panics(geometry in geometry(), len in length(), start: usize, end: usize) {
            let _ = shards_covering(geometry, len, start..end);
        }
    }
}
