//! From a file's bytes to shards, and back.
//!
//! ```text
//! read → chunk → (fingerprint) → compress if it helps → seal → code into shards
//!                                 └────────── piece::seal_piece ──────────┘
//! ```
//!
//! - [`Chunks`]: content-defined chunks of whatever a reader gives.
//! - [`Packer`]: many small files in one piece.
//! - [`Piece`]: a reference to sealed, coded plaintext; [`seal_piece`] makes one, its methods open it.
//! - [`stripe`]: the erasure code.
//! - [`Tree`], [`Content`], [`ManifestBuilder`], [`Walk`]: the tree of pieces that makes a file, written and read as a stream.
//!
//! Nothing here does I/O or knows of disks, peers and placement: shards come out, and go in.

mod chunk;
mod compress;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod manifest;
mod pack;
mod piece;
pub mod stripe;

pub use chunk::Chunks;
pub use manifest::{BuildError, Content, ManifestBuilder, ManifestError, Node, Part, Tree, Walk};
pub use pack::{Packer, Slot};
pub use piece::{Compression, OpenPieceError, Piece, PieceError, SealPieceError, SealedPiece, seal_piece};
pub use stripe::Stripe;

#[cfg(test)]
mod tests {
    use crate::Piece;
    use potluck_crypto::PieceKey;
    use potluck_types::{Entropy, StripeId, from_canonical, to_canonical};
    use std::sync::atomic::{AtomicU8, Ordering};

    /// Entropy that counts: 0, 1, 2 and so on.
    pub(crate) struct Counter(AtomicU8);

    impl Counter {
        pub(crate) const fn new() -> Self {
            Self(AtomicU8::new(0))
        }
    }

    impl Entropy for Counter {
        fn fill(&self, buffer: &mut [u8]) {
            for byte in buffer {
                *byte = self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Incompressible bytes that follow from a number: BLAKE3's extendable output.
    pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    /// A reference to a piece of this length, whose stripe is nowhere.
    pub(crate) fn piece(len: usize) -> Piece {
        let (len, sealed_len) = (len as u32, potluck_crypto::seal::sealed_len(len) as u32);
        let (stripe, key) = (StripeId::from_bytes([1; 32]), PieceKey::from_bytes([2; 32]));
        let record = (stripe, key, 2u8, 1u8, sealed_len, len, 0u8, 0u32, len);
        from_canonical(&to_canonical(&record)).unwrap()
    }
}
