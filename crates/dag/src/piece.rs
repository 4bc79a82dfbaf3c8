//! Pieces: plaintext that is compressed if that helps, sealed under its own key, and coded into one stripe.
//!
//! A [`Piece`] is the reference by which a manifest names such plaintext, or a part of it: it holds the key, so it is itself
//! kept sealed. Read one from untrusted bytes and its numbers are consistent with each other and with the limits; that
//! the stripe holds what it says is found when it is opened.

use crate::{
    compress::{compress, decompress},
    stripe::{self, Stripe},
};
use potluck_crypto::{
    PieceKey,
    seal::{self, OpenError, sealed_len},
};
use potluck_types::{
    Entropy, Geometry, Hash, StripeId,
    limits::{CHUNK_BYTES_MAX, REPLICATE_SEALED_BYTES_MAX},
};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// How a piece's plaintext is stored.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Compression {
    /// As it is.
    None,
    /// As one Zstandard frame.
    Zstd,
}

/// A reference to plaintext in a sealed piece: all of it or, for packed files, a part.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "Record", into = "Record")]
pub struct Piece {
    stripe: StripeId,
    key: PieceKey,
    geometry: Geometry,
    sealed_len: u32,
    plain_len: u32,
    compression: Compression,
    offset: u32,
    len: u32,
}

impl Piece {
    /// The stripe that holds it.
    pub fn stripe(&self) -> StripeId {
        self.stripe
    }

    /// How the stripe is coded.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Length of the sealed piece in bytes.
    pub fn sealed_len(&self) -> usize {
        self.sealed_len as usize
    }

    /// Length in bytes of the whole piece's plaintext, of which this may be a part.
    pub fn plain_len(&self) -> u32 {
        self.plain_len
    }

    /// How the plaintext is stored.
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// Length of the plaintext that is referred to.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Which part of the piece's plaintext is referred to.
    pub fn part(&self) -> Range<u32> {
        self.offset..self.offset + self.len
    }

    /// Whether that is less than all of it: others may refer to the rest.
    pub fn is_part(&self) -> bool {
        self.len < self.plain_len
    }

    /// Names the sealed bytes, however they are coded: the same for all references that open them. It is for a process to tell them apart, and is neither kept nor sent.
    pub fn sealed_id(&self) -> Hash {
        Hash::of(self.key.as_bytes())
    }

    /// Whether it refers to no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The whole piece that this is a part of: for opening once what many files are packed in.
    pub fn whole(&self) -> Self {
        Self {
            offset: 0,
            len: self.plain_len,
            ..self.clone()
        }
    }

    /// The same sealed bytes, coded otherwise: they make another stripe.
    pub fn recoded(&self, stripe: StripeId, geometry: Geometry) -> Self {
        Self {
            stripe,
            geometry,
            ..self.clone()
        }
    }

    /// A part of this reference, if the range lies within it.
    pub fn slice(&self, range: Range<u32>) -> Option<Self> {
        (range.start <= range.end && range.end <= self.len).then(|| Self {
            offset: self.offset + range.start,
            len: range.end - range.start,
            ..self.clone()
        })
    }

    /// The bytes of the sealed piece that [`Self::open_range`] needs for this range of the plaintext referred to; all of them
    /// when it is compressed, none when the range is empty or out of bounds.
    pub fn sealed_range(&self, range: Range<u32>) -> Range<usize> {
        let Some(range) = self.stored_range(&range).filter(|range| !range.is_empty()) else {
            return 0..0;
        };
        match self.compression {
            Compression::None => seal::frames_covering(&range, self.plain_len as usize).unwrap_or_default(),
            Compression::Zstd => 0..self.sealed_len(),
        }
    }

    /// Opens the plaintext referred to, given the whole sealed piece.
    pub fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, OpenPieceError> {
        if sealed.len() != self.sealed_len() {
            return Err(OpenPieceError::Length {
                stripe: self.stripe,
                expected: self.sealed_len(),
                found: sealed.len(),
            });
        }
        let stored = seal::open(&self.key, sealed).map_err(|source| self.sealed_error(source))?;
        let plain = match self.compression {
            Compression::None => stored,
            Compression::Zstd => decompress(&stored, self.plain_len as usize)
                .ok()
                .filter(|plain| plain.len() == self.plain_len as usize)
                .ok_or(OpenPieceError::Compressed { stripe: self.stripe })?,
        };
        Ok(cut(plain, self.offset as usize..(self.offset + self.len) as usize))
    }

    /// Opens a range of the plaintext referred to, given the sealed bytes that [`Self::sealed_range`] names for it.
    pub fn open_range(&self, sealed_part: &[u8], range: Range<u32>) -> Result<Vec<u8>, OpenPieceError> {
        let Some(stored) = self.stored_range(&range) else {
            let Range { start, end } = range;
            return Err(OpenPieceError::Range {
                start,
                end,
                len: self.len,
            });
        };
        match self.compression {
            Compression::None => seal::open_range(&self.key, sealed_part, stored, self.plain_len as usize)
                .map_err(|source| self.sealed_error(source)),
            Compression::Zstd if stored.is_empty() => Ok(Vec::new()),
            Compression::Zstd => Ok(cut(self.whole().open(sealed_part)?, stored)),
        }
    }

    /// A range of the plaintext referred to as one of the whole piece's plaintext.
    fn stored_range(&self, range: &Range<u32>) -> Option<Range<usize>> {
        let within = range.start <= range.end && range.end <= self.len;
        within.then(|| (self.offset + range.start) as usize..(self.offset + range.end) as usize)
    }

    fn sealed_error(&self, source: OpenError) -> OpenPieceError {
        OpenPieceError::Sealed {
            stripe: self.stripe,
            source,
        }
    }
}

/// Why a piece does not open.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenPieceError {
    /// The sealed bytes are not as many as the reference says.
    #[error("stripe {stripe} gave {found} sealed bytes where {expected} were expected")]
    Length {
        /// The piece's stripe.
        stripe: StripeId,
        /// How many there should be.
        expected: usize,
        /// How many there are.
        found: usize,
    },
    /// The sealed bytes do not open under the reference's key.
    #[error("stripe {stripe} does not open")]
    Sealed {
        /// The piece's stripe.
        stripe: StripeId,
        /// What is wrong with them.
        source: OpenError,
    },
    /// What was sealed is not the compressed form of as many bytes as the reference says.
    #[error("stripe {stripe} does not decompress to what its reference says")]
    Compressed {
        /// The piece's stripe.
        stripe: StripeId,
    },
    /// The range is not within the plaintext referred to.
    #[error("bytes {start} to {end} are not within {len} bytes")]
    Range {
        /// Where it starts.
        start: u32,
        /// Where it ends.
        end: u32,
        /// How many bytes there are.
        len: u32,
    },
}

/// A piece ready to be stored.
#[derive(Clone, Debug)]
pub struct SealedPiece {
    /// The reference to all of it.
    pub piece: Piece,
    /// Its shards.
    pub stripe: Stripe,
}

/// Why a piece cannot be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealPieceError {
    /// It is longer than the longest chunk.
    #[error("a piece of {len} bytes is over the limit of {CHUNK_BYTES_MAX}")]
    TooLong {
        /// How many bytes it has.
        len: usize,
    },
}

/// Compresses a plaintext if that helps, seals it under a new key, and codes it. A small piece is copied *m* + 1 times
/// instead, which survives as many losses.
pub fn seal_piece(plain: &[u8], geometry: Geometry, entropy: &dyn Entropy) -> Result<SealedPiece, SealPieceError> {
    let len = plain.len();
    let too_long = SealPieceError::TooLong { len };
    let plain_len = u32::try_from(len).map_err(|_| too_long)?;
    if len > CHUNK_BYTES_MAX {
        return Err(too_long);
    }
    let compressed = compress(plain);
    let compression = if compressed.is_some() {
        Compression::Zstd
    } else {
        Compression::None
    };
    let stored = compressed.as_deref().unwrap_or(plain);
    let sealed_len = sealed_len(stored.len());
    let geometry = if sealed_len <= REPLICATE_SEALED_BYTES_MAX {
        Geometry::new(1, geometry.m()).expect("fewer shards than a geometry that exists")
    } else {
        geometry
    };
    let mut sealed = Vec::with_capacity(stripe::padded_len(sealed_len, geometry));
    let key = seal::seal_onto(stored, entropy, &mut sealed);
    let stripe = stripe::encode(sealed, geometry).expect("a sealed chunk is within a stripe's limits");
    let piece = Piece {
        stripe: stripe.id,
        key,
        geometry,
        sealed_len: u32::try_from(sealed_len).map_err(|_| too_long)?,
        plain_len,
        compression,
        offset: 0,
        len: plain_len,
    };
    Ok(SealedPiece { piece, stripe })
}

/// The range of the bytes, without copying when it is all of them.
fn cut(mut bytes: Vec<u8>, range: Range<usize>) -> Vec<u8> {
    bytes.truncate(range.end);
    if range.start > 0 {
        bytes.drain(..range.start);
    }
    bytes
}

/// Why a record is no reference to a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PieceError {
    /// No stripe has so many shards, or none.
    #[error("a piece of {k} + {m} shards is impossible")]
    Geometry {
        /// Data shards.
        k: u8,
        /// Parity shards.
        m: u8,
    },
    /// A number that stands for no way of compression.
    #[error("compression {0} is unknown")]
    Compression(u8),
    /// The lengths contradict each other or a limit.
    #[error("a piece of {sealed_len} sealed and {plain_len} plain bytes, from {offset} on {len}, is impossible")]
    Lengths {
        /// Sealed bytes.
        sealed_len: u32,
        /// Plain bytes.
        plain_len: u32,
        /// Where the part starts.
        offset: u32,
        /// How long it is.
        len: u32,
    },
}

/// The encoded form: a list, as a manifest node has up to 1,024 of them.
#[derive(Serialize, Deserialize)]
struct Record(StripeId, PieceKey, u8, u8, u32, u32, u8, u32, u32);

impl From<Piece> for Record {
    fn from(piece: Piece) -> Self {
        let compression = match piece.compression {
            Compression::None => 0,
            Compression::Zstd => 1,
        };
        Self(
            piece.stripe,
            piece.key,
            piece.geometry.k(),
            piece.geometry.m(),
            piece.sealed_len,
            piece.plain_len,
            compression,
            piece.offset,
            piece.len,
        )
    }
}

impl TryFrom<Record> for Piece {
    type Error = PieceError;

    fn try_from(record: Record) -> Result<Self, PieceError> {
        let Record(stripe, key, k, m, sealed_len, plain_len, compression, offset, len) = record;
        let geometry = Geometry::new(k, m).ok_or(PieceError::Geometry { k, m })?;
        let compression = match compression {
            0 => Compression::None,
            1 => Compression::Zstd,
            other => return Err(PieceError::Compression(other)),
        };
        let uncompressed_len = seal::sealed_len(plain_len as usize);
        let sealed_fits = match compression {
            Compression::None => sealed_len as usize == uncompressed_len,
            Compression::Zstd => {
                (sealed_len as usize) < uncompressed_len && seal::plain_len(sealed_len as usize).is_some()
            }
        };
        let part_fits = offset.checked_add(len).is_some_and(|end| end <= plain_len);
        if plain_len as usize > CHUNK_BYTES_MAX || !sealed_fits || !part_fits {
            return Err(PieceError::Lengths {
                sealed_len,
                plain_len,
                offset,
                len,
            });
        }
        Ok(Self {
            stripe,
            key,
            geometry,
            sealed_len,
            plain_len,
            compression,
            offset,
            len,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{Counter, noise};
    use data_encoding::HEXLOWER;
    use potluck_types::{from_canonical, to_canonical};
    use proptest::{prelude::*, sample};

    fn sealed(plain: &[u8], k: u8, m: u8) -> SealedPiece {
        seal_piece(plain, Geometry::new(k, m).unwrap(), &Counter::new()).unwrap()
    }

    fn text(len: usize) -> Vec<u8> {
        b"soup, bread and salad; ".iter().copied().cycle().take(len).collect()
    }

    /// Plaintexts that do and do not shrink, of all sizes.
    fn plaintext() -> impl Strategy<Value = Vec<u8>> {
        let len = prop_oneof![0usize..100, 65_530usize..65_545, 0usize..300_000];
        (any::<u64>(), len, any::<bool>()).prop_map(
            |(seed, len, shrinks)| {
                if shrinks { text(len) } else { noise(seed, len) }
            },
        )
    }

    #[test]
    fn a_piece_reference_is_that_of_format_md() {
        let SealedPiece { piece, .. } = sealed(b"potluck", 2, 1);
        assert_eq!(
            HEXLOWER.encode(&to_canonical(&piece)),
            "89582061b22f20a679e5472d2940af9bc88c5a7c5aeb28f0bb74b509cdd28082fa14fc5820000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f01011707000007"
        );
    }

    #[test]
    fn what_shrinks_is_compressed_and_what_does_not_is_left() {
        assert_eq!(sealed(&text(1 << 20), 2, 1).piece.compression(), Compression::Zstd);
        assert_eq!(sealed(&noise(1, 1 << 20), 2, 1).piece.compression(), Compression::None);
        assert_eq!(sealed(b"", 2, 1).piece.compression(), Compression::None);
        let header = [text(4 << 10), noise(1, 1 << 20)].concat();
        assert_eq!(sealed(&header, 2, 1).piece.compression(), Compression::None);
    }

    #[test]
    fn small_pieces_are_copied() {
        let geometry = |len| sealed(&noise(1, len), 4, 2).piece.geometry();
        assert_eq!(geometry(100), Geometry::new(1, 2).unwrap());
        assert_eq!(geometry(REPLICATE_SEALED_BYTES_MAX - 16), Geometry::new(1, 2).unwrap());
        assert_eq!(geometry(REPLICATE_SEALED_BYTES_MAX), Geometry::new(4, 2).unwrap());
    }

    #[test]
    fn a_piece_over_the_limit_is_refused() {
        let geometry = Geometry::new(2, 1).unwrap();
        let too_long = seal_piece(&vec![0; CHUNK_BYTES_MAX + 1], geometry, &Counter::new());
        assert!(matches!(too_long, Err(SealPieceError::TooLong { .. })));
        assert!(seal_piece(&vec![0; CHUNK_BYTES_MAX], geometry, &Counter::new()).is_ok());
    }

    /// A writer may seal anything under its key: what swells past its word must not fill a reader's memory.
    #[test]
    fn a_bomb_does_not_go_off() {
        let honest = sealed(&vec![0; CHUNK_BYTES_MAX], 1, 0);
        let bytes = stripe::decode(&honest.stripe.descriptor, &honest.stripe.shards).unwrap();
        for plain_len in [1000, 100_000, CHUNK_BYTES_MAX as u32 - 1] {
            let mut bomb = honest.piece.clone();
            (bomb.plain_len, bomb.len) = (plain_len, plain_len);
            assert!(matches!(bomb.open(&bytes), Err(OpenPieceError::Compressed { .. })));
        }
    }

    #[test]
    fn impossible_references_are_refused() {
        let sound = || Record::from(sealed(&noise(1, 100), 2, 1).piece);
        let check = |change: fn(&mut Record)| {
            let mut record = sound();
            change(&mut record);
            assert!(from_canonical::<Piece>(&to_canonical(&record)).is_err());
        };
        assert!(from_canonical::<Piece>(&to_canonical(&sound())).is_ok());
        check(|r| r.2 = 0);
        check(|r| r.3 = 200);
        check(|r| r.4 += 1);
        check(|r| r.5 = u32::MAX);
        check(|r| r.6 = 2);
        check(|r| r.6 = 1);
        check(|r| r.7 = 1);
        check(|r| (r.7, r.8) = (u32::MAX, 2));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn a_piece_comes_back(plain in plaintext(), k in 1u8..6, m in 0u8..4) {
            let SealedPiece { piece, stripe } = sealed(&plain, k, m);
            let piece = from_canonical::<Piece>(&to_canonical(&piece)).unwrap();
            let kept = &stripe.shards[usize::from(stripe.descriptor.n() - stripe.descriptor.k())..];
            let bytes = stripe::decode(&stripe.descriptor, kept).unwrap();
            prop_assert!(piece.open(&bytes).unwrap() == plain);
        }

        #[test]
        fn a_range_of_a_part_opens_from_the_shard_ranges_that_cover_it(
            plain in plaintext(), k in 1u8..6, cuts: [sample::Index; 4],
        ) {
            let SealedPiece { piece, stripe } = sealed(&plain, k, 1);
            let mut cuts = cuts.map(|cut| cut.index(plain.len() + 1) as u32);
            cuts.sort_unstable();
            let [start, from, to, end] = cuts;
            let part = piece.slice(start..end).unwrap();
            let range = from - start..to - start;
            let needed = part.sealed_range(range.clone());
            let bytes: Vec<u8> = stripe::shards_covering(part.geometry(), part.sealed_len(), needed)
                .into_iter()
                .flat_map(|part| stripe.shards[usize::from(part.index)].payload().slice(part.bytes))
                .collect();
            prop_assert!(part.open_range(&bytes, range).unwrap() == plain[from as usize..to as usize]);
        }

        #[test]
        fn hostile_bytes_never_panic(bytes: Vec<u8>, start: u32, end: u32) {
            let _ = from_canonical::<Piece>(&bytes);
            let SealedPiece { piece, .. } = sealed(&text(100_000), 1, 0);
            prop_assert!(piece.open(&bytes).is_err());
            let _ = (piece.open_range(&bytes, start..end), piece.sealed_range(start..end), piece.slice(start..end));
        }
    }
}
