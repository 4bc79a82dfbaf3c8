//! Zstandard (RFC 8878), where it helps: a sample decides whether the whole is tried, and the whole whether it is kept.

use std::io;
use zstd::bulk::{Compressor, Decompressor};

/// Level 1 takes between half and three quarters of level 3's time; source code gets 6 % longer, logs even shorter.
const LEVEL: i32 = 1;
/// The sample: this many bytes from each of this many places, evenly spread.
const SAMPLE_BYTES: usize = 4 << 10;
/// See [`SAMPLE_BYTES`].
const SAMPLES: usize = 4;
/// Compressed content must be opened whole, so it has to save one part in this many.
const SAVED_PART: usize = 16;

/// The compressed form, if it is worth having.
pub(crate) fn compress(plain: &[u8]) -> Option<Vec<u8>> {
    if plain.len() > 2 * SAMPLES * SAMPLE_BYTES && !sample_shrinks(plain) {
        return None;
    }
    // With less room than the plaintext has, the compressor gives up as soon as it would not pay.
    let mut compressed = Vec::with_capacity(worthwhile(plain.len()));
    let written = Compressor::new(LEVEL)
        .and_then(|mut zstd| zstd.compress_to_buffer(plain, &mut compressed))
        .ok()?;
    (written <= worthwhile(plain.len())).then_some(compressed)
}

/// The plaintext, if it has at most `plain_len` bytes: more is never written, whatever the input claims.
pub(crate) fn decompress(compressed: &[u8], plain_len: usize) -> io::Result<Vec<u8>> {
    let mut plain = Vec::with_capacity(plain_len);
    Decompressor::new()?.decompress_to_buffer(compressed, &mut plain)?;
    Ok(plain)
}

pub(crate) fn sample_shrinks(plain: &[u8]) -> bool {
    let mut sample = Vec::with_capacity(SAMPLES * SAMPLE_BYTES);
    let stride = (plain.len() - SAMPLE_BYTES) / (SAMPLES - 1);
    for start in (0..SAMPLES).map(|i| i * stride) {
        sample.extend_from_slice(&plain[start..start + SAMPLE_BYTES]);
    }
    zstd::bulk::compress(&sample, LEVEL).is_ok_and(|compressed| compressed.len() <= worthwhile(sample.len()))
}

const fn worthwhile(len: usize) -> usize {
    len - len / SAVED_PART
}
