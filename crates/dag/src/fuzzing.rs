//! Doors for the fuzzer: decoders that no other crate sees, since a seal stands before them. Only there when it builds.

use crate::compress;
use std::io;

/// What these bytes are compressed from, if it has at most so many bytes.
pub fn decompress(compressed: &[u8], plain_len: usize) -> io::Result<Vec<u8>> {
    compress::decompress(compressed, plain_len)
}

/// Compressed bytes of so many, for the fuzzer to begin from.
pub fn compressed(plain_len: usize) -> Vec<u8> {
    compress::compress(&vec![7; plain_len]).expect("it shrinks")
}
