//! Sealed bytes under a known key: two numbers for a range, two for the plaintext's length, then frames.

#![no_main]

use libfuzzer_sys::fuzz_target;
use potluck_crypto::{BoxKey, PieceKey, Purpose, seal};

fuzz_target!(|bytes: &[u8]| {
    let (piece, long_lived) = (PieceKey::from_bytes([1; 32]), BoxKey::from_bytes([2; 32]));
    let _ = long_lived.open(
        Purpose {
            context: "potluck/fuzz/1",
            associated: b"x",
        },
        bytes,
    );
    let _ = seal::open(&piece, bytes);
    let Some((numbers, frames)) = bytes.split_first_chunk::<6>() else {
        return;
    };
    let number = |at: usize| usize::from(u16::from_le_bytes([numbers[at], numbers[at + 1]]));
    let _ = seal::open_range(&piece, frames, number(0)..number(2), number(4) << 8);
});
