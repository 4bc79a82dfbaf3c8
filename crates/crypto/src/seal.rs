//! Sealing one piece: AES-256-GCM in frames, under a key that is used for nothing else.
//!
//! The plaintext is cut into frames of [`FRAME_BYTES`], each sealed alone and followed by its tag, so that a range opens
//! without the rest. A frame's nonce is its number, and says whether it is the last; so frames that are missing,
//! moved, repeated or added do not open. This is the STREAM construction of Hoang, Reyhanitabar, Rogaway and
//! Vizár, "Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance" (CRYPTO 2015), section 7, with an empty nonce
//! prefix: [`seal`] makes the key itself, so none is ever used twice.
//!
//! An empty plaintext is one frame that consists of its tag.

use crate::PieceKey;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use potluck_types::{
    Entropy,
    limits::{FRAME_BYTES, FRAME_TAG_BYTES},
};
use std::ops::Range;

/// A whole frame with its tag.
const SEALED_FRAME_BYTES: usize = FRAME_BYTES + FRAME_TAG_BYTES;

/// Why sealed bytes do not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// No plaintext has this many sealed bytes, or not the plaintext in question.
    #[error("{len} bytes are no whole number of sealed frames")]
    Length {
        /// How many bytes were given.
        len: usize,
    },
    /// The range is not within the plaintext.
    #[error("bytes {start} to {end} are not within {plain_len} bytes")]
    Range {
        /// Where it starts.
        start: usize,
        /// Where it ends.
        end: usize,
        /// How many bytes there are.
        plain_len: usize,
    },
    /// The key is another, or the bytes were changed.
    #[error("frame {frame} does not open: the key is another, or the bytes were changed")]
    Forged {
        /// Its number, from 0.
        frame: u32,
    },
}

/// The length of a plaintext of `plain_len` bytes once sealed.
pub const fn sealed_len(plain_len: usize) -> usize {
    plain_len + frame_count(plain_len) * FRAME_TAG_BYTES
}

/// The length of the plaintext that has `sealed_len` sealed bytes, if one can.
pub const fn plain_len(sealed_len: usize) -> Option<usize> {
    let frames = sealed_len.div_ceil(SEALED_FRAME_BYTES);
    let Some(plain_len) = sealed_len.checked_sub(frames * FRAME_TAG_BYTES) else {
        return None;
    };
    // Fails for no frame at all, and for a last frame of a tag or less after others.
    if frame_count(plain_len) == frames {
        Some(plain_len)
    } else {
        None
    }
}

/// The sealed bytes that must be had to open this range of a plaintext of `plain_len` bytes: whole frames. `None` when the
/// range is empty or not within the plaintext.
pub fn frames_covering(range: &Range<usize>, plain_len: usize) -> Option<Range<usize>> {
    if range.is_empty() || range.end > plain_len {
        return None;
    }
    let start = range.start / FRAME_BYTES * SEALED_FRAME_BYTES;
    let end = range.end.div_ceil(FRAME_BYTES) * SEALED_FRAME_BYTES;
    Some(start..end.min(sealed_len(plain_len)))
}

/// Seals a piece under a new random key.
pub fn seal(plain: &[u8], entropy: &dyn Entropy) -> (PieceKey, Vec<u8>) {
    let mut sealed = Vec::with_capacity(sealed_len(plain.len()));
    let key = seal_onto(plain, entropy, &mut sealed);
    (key, sealed)
}

/// [`seal`], onto the end of `out`: for a caller who wants room after the sealed bytes.
pub fn seal_onto(plain: &[u8], entropy: &dyn Entropy, out: &mut Vec<u8>) -> PieceKey {
    let key = PieceKey::generate(entropy);
    Cipher::new(key.as_bytes(), b"").seal_onto(plain, out);
    key
}

/// Opens a whole piece.
pub fn open(key: &PieceKey, sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
    Cipher::new(key.as_bytes(), b"").open(sealed)
}

/// Opens a range of a plaintext of `plain_len` bytes, given the sealed bytes that [`frames_covering`] names for it.
pub fn open_range(key: &PieceKey, frames: &[u8], range: Range<usize>, plain_len: usize) -> Result<Vec<u8>, OpenError> {
    if range.start > range.end || range.end > plain_len {
        let Range { start, end } = range;
        return Err(OpenError::Range { start, end, plain_len });
    }
    let covering = frames_covering(&range, plain_len).unwrap_or_default();
    if covering.len() != frames.len() {
        return Err(OpenError::Length { len: frames.len() });
    }
    let first = range.start / FRAME_BYTES;
    let mut plain = Cipher::new(key.as_bytes(), b"").open_frames(frames, first, frame_count(plain_len))?;
    let skipped = range.start - first * FRAME_BYTES;
    plain.truncate(skipped + range.len());
    plain.drain(..skipped.min(plain.len()));
    Ok(plain)
}

const fn frame_count(plain_len: usize) -> usize {
    if plain_len == 0 {
        1
    } else {
        plain_len.div_ceil(FRAME_BYTES)
    }
}

/// The framed cipher under one key, with data that every frame vouches for.
pub(crate) struct Cipher<'a> {
    key: LessSafeKey,
    associated: &'a [u8],
}

impl<'a> Cipher<'a> {
    pub(crate) fn new(key: &[u8; 32], associated: &'a [u8]) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, key).expect("an AES-256 key has 32 bytes");
        Self {
            key: LessSafeKey::new(key),
            associated,
        }
    }

    pub(crate) fn seal_onto(&self, plain: &[u8], out: &mut Vec<u8>) {
        out.reserve(sealed_len(plain.len()));
        let last = frame_count(plain.len()) - 1;
        for number in 0..=last {
            let start = number * FRAME_BYTES;
            let frame = &plain[start..plain.len().min(start + FRAME_BYTES)];
            let at = out.len();
            // A frame at a time, so that what is zeroed is still in the core's cache when it is overwritten.
            out.resize(at + frame.len() + FRAME_TAG_BYTES, 0);
            let (ciphertext, tag) = out[at..].split_at_mut(frame.len());
            self.key
                .seal_out_of_place_scatter(
                    nonce(number, number == last),
                    Aad::from(self.associated),
                    frame,
                    ciphertext,
                    &[],
                    tag,
                )
                .expect("a frame is far shorter than AES-GCM's limit");
        }
    }

    pub(crate) fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
        let plain_len = plain_len(sealed.len()).ok_or(OpenError::Length { len: sealed.len() })?;
        self.open_frames(sealed, 0, frame_count(plain_len))
    }

    /// Opens consecutive frames, the first of which has the number `first`, of a plaintext of `count` frames.
    fn open_frames(&self, sealed: &[u8], first: usize, count: usize) -> Result<Vec<u8>, OpenError> {
        let mut plain = Vec::with_capacity(sealed.len());
        for (number, frame) in (first..).zip(sealed.chunks(SEALED_FRAME_BYTES)) {
            let (ciphertext, tag) = frame
                .split_at_checked(frame.len().wrapping_sub(FRAME_TAG_BYTES))
                .ok_or(OpenError::Length { len: sealed.len() })?;
            let at = plain.len();
            plain.resize(at + ciphertext.len(), 0);
            self.key
                .open_separate_gather(
                    nonce(number, number + 1 == count),
                    Aad::from(self.associated),
                    ciphertext,
                    tag,
                    &mut plain[at..],
                )
                .map_err(|_| OpenError::Forged {
                    frame: u32::try_from(number).unwrap_or(u32::MAX),
                })?;
        }
        Ok(plain)
    }
}

/// 7 zeros, the frame's number in big-endian order, and 1 for the last frame.
fn nonce(number: usize, last: bool) -> Nonce {
    let number = u32::try_from(number).expect("what is sealed is far shorter than 2^32 frames");
    let mut nonce = [0; 12];
    nonce[7..11].copy_from_slice(&number.to_be_bytes());
    nonce[11] = u8::from(last);
    Nonce::assume_unique_for_key(nonce)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::Counter;
    use data_encoding::HEXLOWER;
    use potluck_types::{
        Hash,
        limits::{CHUNK_BYTES_MAX, SEALED_BYTES_MAX},
    };
    use proptest::prelude::*;

    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 7 + i / 251) as u8).collect()
    }

    /// Lengths where an off-by-one would show.
    fn lengths() -> impl Strategy<Value = usize> {
        let near = (0usize..4, -2isize..3).prop_map(|(n, d)| (n * FRAME_BYTES).saturating_add_signed(d));
        prop_oneof![near, 0usize..300_000]
    }

    #[test]
    fn lengths_at_the_edges() {
        let check = |plain: usize, sealed: usize| {
            assert_eq!(sealed_len(plain), sealed);
            assert_eq!(plain_len(sealed), Some(plain));
            assert_eq!(seal(&pattern(plain), &Counter::new()).1.len(), sealed);
        };
        check(0, 16);
        check(1, 17);
        check(FRAME_BYTES - 1, FRAME_BYTES + 15);
        check(FRAME_BYTES, FRAME_BYTES + 16);
        check(FRAME_BYTES + 1, FRAME_BYTES + 33);
        check(CHUNK_BYTES_MAX, SEALED_BYTES_MAX);
        for impossible in [0, 1, 15, FRAME_BYTES + 17, FRAME_BYTES + 32] {
            assert_eq!(plain_len(impossible), None, "{impossible}");
        }
    }

    #[test]
    fn sealed_bytes_are_those_of_format_md() {
        let (key, sealed) = seal(b"potluck", &Counter::new());
        assert_eq!(
            HEXLOWER.encode(key.as_bytes()),
            "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
        );
        assert_eq!(
            HEXLOWER.encode(&sealed),
            "65b9cb9031975be4d920fecf113020b38101c4292c38b9"
        );
        let (_, sealed) = seal(&pattern(2 * FRAME_BYTES + 5), &Counter::new());
        assert_eq!(
            HEXLOWER.encode(Hash::of(&sealed).as_bytes()),
            "511f9dac43b4d8a00e248153b24e03a5f15ba8866f7808fbbd013d31f8c0b8f9"
        );
    }

    #[test]
    fn frames_cannot_be_cut_off_moved_repeated_or_added() {
        let (key, sealed) = seal(&pattern(3 * FRAME_BYTES), &Counter::new());
        let frames: Vec<&[u8]> = sealed.chunks(SEALED_FRAME_BYTES).collect();
        let check = |order: &[usize]| {
            let bytes: Vec<u8> = order.iter().flat_map(|i| frames[*i]).copied().collect();
            assert!(open(&key, &bytes).is_err(), "{order:?}");
        };
        check(&[0]);
        check(&[0, 1]);
        check(&[1, 2]);
        check(&[1, 0, 2]);
        check(&[0, 1, 1, 2]);
        check(&[0, 1, 2, 2]);
        assert_eq!(open(&key, &sealed).unwrap(), pattern(3 * FRAME_BYTES));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_was_sealed_opens(len in lengths()) {
            let (key, sealed) = seal(&pattern(len), &Counter::new());
            prop_assert_eq!(open(&key, &sealed).unwrap(), pattern(len));
        }

        #[test]
        fn a_range_opens_as_the_slice(len in lengths(), a: prop::sample::Index, b: prop::sample::Index) {
            let plain = pattern(len);
            let (key, sealed) = seal(&plain, &Counter::new());
            let (a, b) = (a.index(len + 1), b.index(len + 1));
            let range = a.min(b)..a.max(b);
            let frames = frames_covering(&range, len).unwrap_or_default();
            let opened = open_range(&key, &sealed[frames], range.clone(), len);
            prop_assert_eq!(&opened.unwrap()[..], &plain[range]);
        }

        #[test]
        fn a_flipped_bit_is_found(len in lengths(), at: prop::sample::Index, bit in 0u8..8) {
            let (key, mut sealed) = seal(&pattern(len), &Counter::new());
            let at = at.index(sealed.len());
            sealed[at] ^= 1 << bit;
            let frame = (at / SEALED_FRAME_BYTES) as u32;
            prop_assert_eq!(open(&key, &sealed), Err(OpenError::Forged { frame }));
        }

        #[test]
        fn hostile_bytes_never_panic(bytes: Vec<u8>, start: usize, end: usize, plain_len in 0..CHUNK_BYTES_MAX) {
            let key = PieceKey::from_bytes([7; 32]);
            prop_assert!(open(&key, &bytes).is_err());
            let opened = open_range(&key, &bytes, start..end, plain_len);
            prop_assert!(opened.is_err() || start == end);
        }

        #[test]
        fn plain_len_inverts_sealed_len(len in 0..usize::MAX / 2) {
            prop_assert_eq!(plain_len(sealed_len(len)), Some(len));
            if let Some(plain) = plain_len(len) {
                prop_assert_eq!(sealed_len(plain), len);
            }
        }
    }
}
