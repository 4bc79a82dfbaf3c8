//! What each step of the write path costs on one core, and how near the whole comes to the sum of its parts.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

use potluck_crypto::{DedupKey, seal};
use potluck_dag::{Chunks, seal_piece, stripe};
use potluck_types::{Geometry, Hash, SystemEntropy};
use std::{fmt::Write, hint::black_box, time::Instant};

/// One average chunk.
const PIECE_BYTES: usize = 1 << 20;
/// Pieces in turn, so that each comes from memory as in a stream, not from the cache.
const PIECES: usize = 64;
const ROUNDS: usize = 7;

fn main() {
    let bytes = noise(PIECES * PIECE_BYTES);
    let pieces: Vec<&[u8]> = bytes.chunks(PIECE_BYTES).collect();
    let key = DedupKey::from_bytes([7; 32]);

    measure("chunk, in memory", &[&bytes], |bytes| {
        Chunks::new(&bytes[..], &key).count()
    });
    measure("fingerprint", &pieces, |piece| key.fingerprint(piece));
    let sealing = measure("seal", &pieces, |piece| seal::seal(piece, &SystemEntropy));
    let sealed: Vec<_> = pieces.iter().map(|piece| seal::seal(piece, &SystemEntropy)).collect();
    measure("open", &sealed, |(key, sealed)| seal::open(key, sealed).unwrap());
    let hashing = measure("hash", &pieces, |piece| Hash::of(piece));
    let sealed_len = sealed[0].1.len();
    drop(sealed);

    for (k, m) in [(1, 2), (2, 2), (3, 2), (8, 3)] {
        println!("\n{k} + {m}");
        let geometry = Geometry::new(k, m).unwrap();
        let (shard_len, padded_len) = (
            PIECE_BYTES / usize::from(k) / 64 * 64,
            stripe::padded_len(sealed_len, geometry),
        );
        let parity = |piece: &&[u8]| {
            let data = piece.chunks_exact(shard_len).take(k.into());
            reed_solomon_simd::encode(k.into(), m.into(), data).unwrap()
        };
        let coding = if k == 1 {
            0.0
        } else {
            measure("  parity alone", &pieces, parity)
        };
        measure("  copy, code and hash", &pieces, |piece| {
            let mut copy = Vec::with_capacity(padded_len);
            copy.extend_from_slice(piece);
            stripe::encode(copy, geometry).unwrap()
        });
        let whole = measure("  seal_piece", &pieces, |piece| {
            seal_piece(piece, geometry, &SystemEntropy).unwrap()
        });
        let hashed = if k == 1 { 1.0 } else { f64::from(k + m) / f64::from(k) };
        println!(
            "  whole / sum of its parts: {:.2}",
            whole / (sealing + coding + hashing * hashed)
        );

        let stripe = seal_piece(pieces[0], geometry, &SystemEntropy).unwrap().stripe;
        let decode = |shards: &[_]| stripe::decode(&stripe.descriptor, shards).unwrap();
        measure("  decode, data shards", &[(); PIECES], |()| {
            decode(&stripe.shards[..k.into()])
        });
        measure("  decode, m lost", &[(); PIECES], |()| {
            decode(&stripe.shards[m.into()..])
        });
    }

    println!("\ntext");
    let text = lines(PIECES * PIECE_BYTES);
    let pieces: Vec<&[u8]> = text.chunks(PIECE_BYTES).collect();
    let geometry = Geometry::new(3, 2).unwrap();
    measure("  seal_piece, 3 + 2", &pieces, |piece| {
        seal_piece(piece, geometry, &SystemEntropy).unwrap()
    });
}

/// Prints the best of several rounds over the items, which have the bytes of all pieces together, and returns its
/// nanoseconds per byte.
fn measure<T, R>(name: &str, items: &[T], step: impl Fn(&T) -> R) -> f64 {
    let best = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            for item in items {
                black_box(step(item));
            }
            start.elapsed().as_secs_f64()
        })
        .fold(f64::INFINITY, f64::min);
    let nanos_per_byte = best * 1e9 / (PIECES * PIECE_BYTES) as f64;
    println!("{name:26} {:8.2} GB/s", 1.0 / nanos_per_byte);
    nanos_per_byte
}

fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

/// Text of the kind that logs have.
fn lines(len: usize) -> Vec<u8> {
    let mut text = String::with_capacity(len + 80);
    let mut number: u64 = 1;
    while text.len() < len {
        number = number
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let (second, id, status) = (number >> 33 & 63, number >> 40, 200 + (number >> 60));
        writeln!(text, "2026-11-21T14:02:{second:02}Z GET /dish/{id:08x} {status}").unwrap();
    }
    text.truncate(len);
    text.into_bytes()
}
