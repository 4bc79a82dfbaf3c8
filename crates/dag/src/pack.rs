//! Packing: many small files share one piece, and with it its stripe, its placement and its syncs.

use crate::Piece;
use potluck_types::limits::CHUNK_BYTES_AVG;

/// Where in a pack's plaintext a file lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot {
    /// Its first byte.
    pub offset: u32,
    /// Its length.
    pub len: u32,
}

/// Gathers small files until they make an average chunk together.
///
/// Push files; when one no longer fits, [`take`](Self::take) the pack, seal it as one piece, give each file its
/// part by [`Piece::slot`], and push the file again.
#[derive(Debug, Default)]
pub struct Packer {
    plain: Vec<u8>,
}

impl Packer {
    /// An empty pack.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a file, if it fits beside those that are here.
    pub fn push(&mut self, file: &[u8]) -> Option<Slot> {
        let (offset, end) = (self.plain.len(), self.plain.len() + file.len());
        if end > CHUNK_BYTES_AVG {
            return None;
        }
        self.plain.extend_from_slice(file);
        Some(Slot {
            offset: u32::try_from(offset).ok()?,
            len: u32::try_from(file.len()).ok()?,
        })
    }

    /// Whether there is nothing to take.
    pub fn is_empty(&self) -> bool {
        self.plain.is_empty()
    }

    /// The bytes gathered so far.
    pub fn len(&self) -> usize {
        self.plain.len()
    }

    /// The pack's plaintext; the packer is empty again.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.plain)
    }
}

impl Piece {
    /// The part of a whole pack that a slot names, if it lies within it.
    pub fn slot(&self, slot: Slot) -> Option<Self> {
        self.slice(slot.offset..slot.offset.checked_add(slot.len)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{seal_piece, stripe, tests::Counter};
    use potluck_types::Geometry;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn each_file_comes_back(files in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..5000), 1..50)) {
            let mut packer = Packer::new();
            let slots: Vec<Slot> = files.iter().map(|file| packer.push(file).unwrap()).collect();
            prop_assert_eq!(packer.len(), files.iter().map(Vec::len).sum::<usize>());
            let sealed = seal_piece(&packer.take(), Geometry::new(2, 1).unwrap(), &Counter::new()).unwrap();
            prop_assert!(packer.is_empty());
            let bytes = stripe::decode(&sealed.stripe.descriptor, &sealed.stripe.shards).unwrap();
            for (file, slot) in files.iter().zip(slots) {
                let piece = sealed.piece.slot(slot).unwrap();
                prop_assert_eq!(piece.len() as usize, file.len());
                prop_assert_eq!(&piece.open(&bytes).unwrap(), file);
                prop_assert_eq!(&piece.open_range(&bytes[piece.sealed_range(0..piece.len())], 0..piece.len()).unwrap(), file);
            }
        }
    }

    #[test]
    fn a_full_pack_takes_no_more() {
        let mut packer = Packer::new();
        assert_eq!(packer.push(&vec![1; CHUNK_BYTES_AVG]).unwrap().offset, 0);
        assert_eq!(packer.push(b"x"), None);
        assert_eq!(packer.take().len(), CHUNK_BYTES_AVG);
        assert!(packer.push(b"x").is_some());
        assert_eq!(packer.push(&vec![1; CHUNK_BYTES_AVG]), None);
    }
}
