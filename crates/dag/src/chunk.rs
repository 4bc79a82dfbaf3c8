//! Content-defined chunking: where a file is cut depends on its content, so that an edit changes the chunks around
//! it and no others.
//!
//! FastCDC with normalised chunking and two bytes a step: Xia et al., "The Design of Fast Content-Defined Chunking
//! for Data Deduplication Based Storage Systems" (IEEE TPDS 2020). The gear table is mixed with a seed from the
//! space's [`DedupKey`], so that the lengths of chunks do not give known content away.

use bytes::Bytes;
use fastcdc::v2020::{Normalization, cut_gear, get_gear_with_seed, select_masks};
use potluck_crypto::DedupKey;
use potluck_types::limits::{CHUNK_BYTES_AVG, CHUNK_BYTES_MAX, CHUNK_BYTES_MIN};
use std::{
    borrow::Cow,
    io::{self, Read},
};

/// Bytes read ahead. What is left of a window when it is too short to cut is copied into the next, less than one
/// part in three of it; a chunk that is kept keeps its window.
const WINDOW_BYTES: usize = 4 * CHUNK_BYTES_MAX;

/// Level 2 is what the paper recommends: most chunks are then between half and twice the average.
const NORMALIZATION: Normalization = Normalization::Level2;

/// The chunks of whatever a reader gives, in order. Each is a slice of the window that was read, not a copy. After
/// an error there are no more.
pub struct Chunks<R> {
    reader: R,
    cutter: Cutter,
    window: Bytes,
    ended: bool,
}

impl<R: Read> Chunks<R> {
    /// Cuts what `reader` gives as the space with this key does.
    pub fn new(reader: R, key: &DedupKey) -> Self {
        Self {
            reader,
            cutter: Cutter::new(key.chunking_seed()),
            window: Bytes::new(),
            ended: false,
        }
    }

    fn refill(&mut self) -> io::Result<()> {
        // The first window grows as needed: most files are far smaller.
        let capacity = if self.window.is_empty() { 0 } else { WINDOW_BYTES };
        let mut window = Vec::with_capacity(capacity);
        window.extend_from_slice(&self.window);
        let missing = (WINDOW_BYTES - window.len()) as u64;
        self.reader.by_ref().take(missing).read_to_end(&mut window)?;
        self.ended = window.len() < WINDOW_BYTES;
        self.window = window.into();
        Ok(())
    }
}

impl<R: Read> Iterator for Chunks<R> {
    type Item = io::Result<Bytes>;

    fn next(&mut self) -> Option<io::Result<Bytes>> {
        if self.window.len() < CHUNK_BYTES_MAX
            && !self.ended
            && let Err(error) = self.refill()
        {
            (self.window, self.ended) = (Bytes::new(), true);
            return Some(Err(error));
        }
        if self.window.is_empty() {
            return None;
        }
        let len = self.cutter.cut(&self.window);
        Some(Ok(self.window.split_to(len)))
    }
}

/// Tells where the first chunk of some bytes ends.
struct Cutter {
    gear: Cow<'static, [u64]>,
    gear_shifted: Cow<'static, [u64]>,
    mask_small: u64,
    mask_large: u64,
}

impl Cutter {
    fn new(seed: u64) -> Self {
        let (gear, gear_shifted) = get_gear_with_seed(seed);
        let (mask_small, mask_large) = select_masks(CHUNK_BYTES_AVG, NORMALIZATION);
        Self {
            gear,
            gear_shifted,
            mask_small,
            mask_large,
        }
    }

    /// The length of the first chunk of `bytes`, which are [`CHUNK_BYTES_MAX`] or more, or all that there are.
    fn cut(&self, bytes: &[u8]) -> usize {
        let (_, len) = cut_gear(
            bytes,
            CHUNK_BYTES_MIN,
            CHUNK_BYTES_AVG,
            CHUNK_BYTES_MAX,
            self.mask_small,
            self.mask_large,
            self.mask_small << 1,
            self.mask_large << 1,
            &self.gear,
            &self.gear_shifted,
        );
        len
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::noise;
    use proptest::prelude::*;

    fn key() -> DedupKey {
        DedupKey::from_bytes([7; 32])
    }

    fn lengths(bytes: &[u8], key: &DedupKey) -> Vec<usize> {
        Chunks::new(bytes, key).map(|chunk| chunk.unwrap().len()).collect()
    }

    /// Content stored before is only found again while these stay.
    #[test]
    fn boundaries_are_those_of_format_md() {
        let bytes = noise(1, 24 << 20);
        let text = |lengths: Vec<usize>| lengths.iter().map(usize::to_string).collect::<Vec<_>>().join(" ");
        assert_eq!(
            text(lengths(&bytes, &key())),
            "1478602 1389841 1093694 1075516 1071448 1103318 1538343 1396502 1382635 1898024 1212506 1390430 1374071 1103595 1499461 1391684 1152016 745251 1144947 723940"
        );
        assert_eq!(text(lengths(&vec![0; 9 << 20], &key())), "4194304 4194304 1048576");
        assert_eq!(lengths(b"", &key()), Vec::<usize>::new());
        assert_eq!(lengths(b"x", &key()), [1]);
    }

    #[test]
    fn another_space_cuts_elsewhere() {
        let bytes = noise(1, 8 << 20);
        assert_ne!(lengths(&bytes, &key()), lengths(&bytes, &DedupKey::from_bytes([8; 32])));
    }

    #[test]
    fn an_insertion_changes_only_the_chunks_around_it() {
        let bytes = noise(2, 40 << 20);
        let mut edited = bytes.clone();
        edited.splice(20 << 20..20 << 20, *b"salt");
        let chunks = |bytes: &[u8]| -> Vec<Bytes> { Chunks::new(bytes, &key()).map(Result::unwrap).collect() };
        let (before, after) = (chunks(&bytes), chunks(&edited));
        let new = after.iter().filter(|chunk| !before.contains(chunk)).count();
        assert!(new <= 2, "{new} of {} chunks are new", after.len());
    }

    /// A reader that gives what it likes, and fails at the end.
    struct Awkward<'a>(&'a [u8], usize);

    impl Read for Awkward<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Err(io::Error::other("unplugged"));
            }
            self.1 = self.1 * 31 % 65_521 + 1;
            let len = self.1.min(buffer.len()).min(self.0.len());
            buffer[..len].copy_from_slice(&self.0[..len]);
            self.0 = &self.0[len..];
            Ok(len)
        }
    }

    #[test]
    fn a_failing_reader_ends_the_chunks_with_its_error() {
        let bytes = noise(3, 20 << 20);
        let mut chunks = Chunks::new(Awkward(&bytes, 1), &key());
        let whole: Vec<usize> = chunks.by_ref().map_while(Result::ok).map(|c| c.len()).collect();
        assert!(!whole.is_empty() && lengths(&bytes, &key()).starts_with(&whole));
        assert!(chunks.next().is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]

        #[test]
        fn chunks_are_within_limits_and_concatenate(seed: u64, len in 0usize..40 << 20, step in 1usize..60_000) {
            let bytes = noise(seed, len);
            let reader = Awkward(&bytes, step).chain(io::empty()).take(len as u64);
            let chunks: Vec<Bytes> = Chunks::new(reader, &key()).map(Result::unwrap).collect();
            prop_assert!(chunks.concat() == bytes);
            let (last, others) = chunks.split_last().map_or((0, &[][..]), |(last, others)| (last.len(), others));
            prop_assert!(last <= CHUNK_BYTES_MAX);
            prop_assert!(others.iter().all(|c| (CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX).contains(&c.len())));
        }
    }
}
