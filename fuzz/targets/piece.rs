//! A reference to a piece, and what is said to be that piece: two bytes of length, the reference, the sealed bytes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use potluck_dag::Piece;
use potluck_types::{from_canonical, limits, to_canonical};

fuzz_target!(|bytes: &[u8]| {
    let Some((len, rest)) = bytes.split_first_chunk::<2>() else {
        return;
    };
    let Some((reference, sealed)) = rest.split_at_checked(usize::from(u16::from_le_bytes(*len))) else {
        return;
    };
    if let Ok(piece) = from_canonical::<Piece>(reference) {
        assert_eq!(to_canonical(&piece), reference);
        assert!(piece.len() <= piece.plain_len() && piece.plain_len() as usize <= limits::CHUNK_BYTES_MAX);
        if let Ok(plain) = piece.open(sealed) {
            assert_eq!(plain.len(), piece.len() as usize);
        }
        let middle = piece.len() / 3..piece.len() / 3 * 2;
        let part = piece.sealed_range(middle.clone());
        let _ = piece.open_range(sealed.get(part).unwrap_or(sealed), middle);
    }
});
