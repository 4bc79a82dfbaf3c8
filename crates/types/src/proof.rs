//! Proof that somebody has a part of a payload, for whoever knows no more than the payload's hash.
//!
//! BLAKE3 hashes by a binary tree, so the hashes beside the way from a part up to the root prove the part: a few hundred bytes for 16 KiB, however long
//! the payload is. The idea is that of Bao (O'Connor, Aumasson, "The Bao spec", 2018), with 16 KiB as the smallest part.

use crate::Hash;
use blake3::{
    Hasher,
    hazmat::{ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root},
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Bytes of a part: a power of two, and small beside a message; the last part may be shorter.
pub const PART_BYTES: usize = 16 << 10;

/// The hashes beside the way from a part to the root, from below.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Proof(Vec<Hash>);

/// In how many parts a payload of this many bytes can be proved.
pub fn parts(len: usize) -> u32 {
    u32::try_from(len.div_ceil(PART_BYTES).max(1)).unwrap_or(u32::MAX)
}

/// Where a part is in a payload of this many bytes, if it has it.
fn place(len: usize, part: u32) -> Option<Range<usize>> {
    let start = usize::try_from(part).ok()?.checked_mul(PART_BYTES)?;
    (part < parts(len)).then(|| start..len.min(start + PART_BYTES))
}

/// A part of a payload, and its proof; nothing when the payload has no such part.
pub fn prove(payload: &Bytes, part: u32) -> Option<(Bytes, Proof)> {
    let place = place(payload.len(), part)?;
    let mut beside = Vec::new();
    let mut subtree = 0..payload.len();
    while subtree.len() > PART_BYTES {
        let (left, right) = halves(&subtree);
        let (inside, outside) = if place.start < left.end {
            (left, right)
        } else {
            (right, left)
        };
        beside.push(Hash::from_bytes(chaining_value(
            &payload[outside.clone()],
            outside.start,
        )));
        subtree = inside;
    }
    beside.reverse();
    Some((payload.slice(place), Proof(beside)))
}

impl Proof {
    /// Whether these bytes are this part of the payload of so many bytes that has this hash.
    pub fn holds(&self, root: Hash, len: usize, part: u32, bytes: &[u8]) -> bool {
        let Some(place) = place(len, part).filter(|place| place.len() == bytes.len()) else {
            return false;
        };
        let mut beside = self.0.iter().rev();
        let proved = if len <= PART_BYTES {
            Some(Hash::of(bytes))
        } else {
            let (left, right) = halves(&(0..len));
            beside.next().and_then(|sibling| {
                let in_left = place.start < left.end;
                let inside = climb(if in_left { left } else { right }, &place, bytes, &mut beside)?;
                let (left, right) = ordered(in_left, inside, *sibling.as_bytes());
                Some(Hash::from_bytes(
                    *merge_subtrees_root(&left, &right, Mode::Hash).as_bytes(),
                ))
            })
        };
        proved == Some(root) && beside.next().is_none()
    }
}

/// What the root of a subtree is that has this part, if there are enough hashes beside the way.
fn climb<'a>(
    subtree: Range<usize>,
    place: &Range<usize>,
    bytes: &[u8],
    beside: &mut impl Iterator<Item = &'a Hash>,
) -> Option<ChainingValue> {
    if subtree.len() <= PART_BYTES {
        return Some(chaining_value(bytes, place.start));
    }
    let sibling = beside.next()?;
    let (left, right) = halves(&subtree);
    let in_left = place.start < left.end;
    let inside = climb(if in_left { left } else { right }, place, bytes, beside)?;
    let (left, right) = ordered(in_left, inside, *sibling.as_bytes());
    Some(merge_subtrees_non_root(&left, &right, Mode::Hash))
}

fn ordered(in_left: bool, inside: ChainingValue, outside: ChainingValue) -> (ChainingValue, ChainingValue) {
    if in_left { (inside, outside) } else { (outside, inside) }
}

/// The two subtrees below one of more than a part: the left one has a power of two of parts.
fn halves(subtree: &Range<usize>) -> (Range<usize>, Range<usize>) {
    let left = usize::try_from(left_subtree_len(subtree.len() as u64)).expect("less than the whole");
    let middle = subtree.start + left;
    (subtree.start..middle, middle..subtree.end)
}

fn chaining_value(bytes: &[u8], offset: usize) -> ChainingValue {
    Hasher::new()
        .set_input_offset(offset as u64)
        .update(bytes)
        .finalize_non_root()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(len: usize) -> Bytes {
        (0..len).map(|at| (at / 7) as u8 ^ at as u8).collect::<Vec<_>>().into()
    }

    #[test]
    fn every_part_of_payloads_of_every_shape_is_proved() {
        let edges = [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1];
        let lens = (0..9).flat_map(|parts| edges.map(|edge| parts * PART_BYTES + edge));
        for len in lens.chain([crate::limits::SHARD_BYTES_MAX]) {
            let payload = payload(len);
            let root = Hash::of(&payload);
            for part in 0..parts(len) {
                let (bytes, proof) = prove(&payload, part).unwrap();
                assert!(proof.holds(root, len, part, &bytes), "{len} {part}");
            }
            assert!(prove(&payload, parts(len)).is_none());
        }
    }

    #[test]
    fn nothing_else_is() {
        let payload = payload(5 * PART_BYTES + 100);
        let (root, len) = (Hash::of(&payload), payload.len());
        for part in 0..parts(len) {
            let (bytes, proof) = prove(&payload, part).unwrap();
            for other in (0..=parts(len)).filter(|other| *other != part) {
                assert!(!proof.holds(root, len, other, &bytes));
            }
            assert!(!proof.holds(Hash::of(b"other"), len, part, &bytes));
            assert!(!proof.holds(root, len + 1, part, &bytes) || part + 1 < parts(len));
            let mut wrong = bytes.to_vec();
            wrong[50] ^= 1;
            assert!(!proof.holds(root, len, part, &wrong));
            assert!(!proof.holds(root, len, part, &bytes[1..]));
            for at in 0..proof.0.len() {
                let mut beside = proof.0.clone();
                beside[at] = Hash::of(b"other");
                assert!(!Proof(beside.clone()).holds(root, len, part, &bytes));
                beside.remove(at);
                assert!(!Proof(beside).holds(root, len, part, &bytes));
            }
            let longer = proof.0.iter().copied().chain([root]).collect();
            assert!(!Proof(longer).holds(root, len, part, &bytes));
        }
        assert!(prove(&payload, u32::MAX).is_none());
        assert!(!Proof(Vec::new()).holds(root, len, u32::MAX, &[]));
    }
}
