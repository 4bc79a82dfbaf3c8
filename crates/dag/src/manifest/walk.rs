//! Reading a range of a manifest as a stream.

use super::{ManifestError, Node, Tree};
use std::ops::Range;

/// A part of a tree, and which of its bytes are wanted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    /// The data piece or the node, and what is under it.
    pub tree: Tree,
    /// Where in the file its first byte is.
    pub offset: u64,
    /// The bytes of it that are wanted: never none.
    pub wanted: Range<u64>,
}

impl Part {
    /// The wanted bytes of a data piece: a range for [`Piece::open_range`](crate::Piece::open_range). `None` for a node.
    pub fn data_range(&self) -> Option<Range<u32>> {
        let start = u32::try_from(self.wanted.start).ok()?;
        let end = u32::try_from(self.wanted.end).ok()?;
        (self.tree.depth() == 0).then_some(start..end)
    }
}

/// Goes through the parts of a tree that hold a range of the file, in the file's order.
///
/// [`Iterator::next`] gives data pieces and nodes. Give a node's bytes to [`descend`](Self::descend) before the next call, or it is skipped with all
/// that is under it. The memory in use is one node a level.
#[derive(Debug)]
pub struct Walk {
    /// What is still to be visited, the next one last.
    pending: Vec<Part>,
}

impl Walk {
    /// A walk through the bytes of `tree` that are in `range`.
    pub fn new(tree: Tree, range: Range<u64>) -> Self {
        let wanted = range.start..range.end.min(tree.len());
        let pending = if wanted.is_empty() {
            Vec::new()
        } else {
            vec![Part {
                tree,
                offset: 0,
                wanted,
            }]
        };
        Self { pending }
    }

    /// Continues into a node that the walk came to, given its bytes.
    pub fn descend(&mut self, part: &Part, node: &[u8]) -> Result<(), ManifestError> {
        let node = Node::from_bytes(node, &part.tree)?;
        let at = self.pending.len();
        self.pending.extend(node.covering(part.offset, part.wanted.clone()));
        self.pending[at..].reverse();
        Ok(())
    }
}

impl Iterator for Walk {
    type Item = Part;

    fn next(&mut self) -> Option<Part> {
        self.pending.pop()
    }
}

impl Node {
    /// The children that hold a range of this node's bytes, in order; `offset` is where in the file the node's first byte is.
    pub fn covering(&self, offset: u64, range: Range<u64>) -> impl Iterator<Item = Part> {
        let mut first = 0;
        self.children().iter().filter_map(move |child| {
            let start = first;
            first += child.len();
            let wanted = range.start.max(start)..range.end.min(first);
            (wanted.start < wanted.end).then(|| Part {
                tree: child.clone(),
                offset: offset + start,
                wanted: wanted.start - start..wanted.end - start,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ManifestBuilder, Piece, tests::piece};
    use potluck_types::limits::MANIFEST_CHILDREN_MAX;
    use proptest::{prelude::*, sample};
    use std::{collections::HashMap, convert::Infallible};

    /// Where sealed nodes go in these tests.
    #[derive(Default)]
    struct Shelf(HashMap<u32, Vec<u8>>);

    impl Shelf {
        /// A node's piece is as long as its bytes and a number more, which keeps nodes apart.
        fn seal(&mut self, node: &[u8]) -> Result<Piece, Infallible> {
            let number = 300_000 + self.0.len() as u32;
            self.0.insert(number, node.to_vec());
            Ok(piece(number as usize))
        }

        fn build(&mut self, lens: &[usize]) -> Option<Tree> {
            let mut builder = ManifestBuilder::new();
            for len in lens {
                builder.push(piece(*len), &mut |node| self.seal(node)).unwrap();
            }
            builder.finish(&mut |node| self.seal(node)).unwrap()
        }

        /// What of the file the walk finds: offsets and lengths of data.
        fn read(&self, tree: Tree, range: Range<u64>) -> Vec<Range<u64>> {
            let mut walk = Walk::new(tree, range);
            let mut found = Vec::new();
            while let Some(part) = walk.next() {
                assert!(walk.pending.len() <= MANIFEST_CHILDREN_MAX * 3);
                match part.data_range() {
                    Some(_) => found.push(part.offset + part.wanted.start..part.offset + part.wanted.end),
                    None => walk.descend(&part, &self.0[&part.tree.root().len()]).unwrap(),
                }
            }
            found
        }
    }

    #[test]
    fn depths_follow_from_the_number_of_pieces() {
        let mut shelf = Shelf::default();
        let mut check = |count: usize, depth: Option<u8>| {
            assert_eq!(shelf.build(&vec![3; count]).map(|tree| tree.depth()), depth, "{count}");
        };
        check(0, None);
        check(1, Some(0));
        check(2, Some(1));
        check(MANIFEST_CHILDREN_MAX, Some(1));
        check(MANIFEST_CHILDREN_MAX + 1, Some(2));
    }

    #[test]
    fn equal_files_have_equal_trees() {
        let lens: Vec<usize> = (1..3000).collect();
        assert_eq!(Shelf::default().build(&lens), Shelf::default().build(&lens));
    }

    /// A terabyte would take a million pieces: a tree three levels deep, of which a range needs three nodes.
    #[test]
    fn a_small_range_of_a_large_file_needs_one_node_a_level() {
        let mut shelf = Shelf::default();
        let count = 3 * MANIFEST_CHILDREN_MAX * MANIFEST_CHILDREN_MAX / 2;
        let tree = shelf.build(&vec![10; count]).unwrap();
        assert_eq!((tree.depth(), tree.len()), (3, 10 * count as u64));
        let mut walk = Walk::new(tree, 12_345_673..12_345_677);
        let mut nodes = 0;
        let data = loop {
            let part = walk.next().unwrap();
            match part.data_range() {
                Some(range) => break (part.offset, range),
                None => walk.descend(&part, &shelf.0[&part.tree.root().len()]).unwrap(),
            }
            nodes += 1;
        };
        assert_eq!((nodes, data), (3, (12_345_670, 3..7)));
        assert!(walk.next().is_none());
    }

    #[test]
    fn a_node_that_is_not_descended_into_is_skipped() {
        let tree = Shelf::default().build(&[5, 6]).unwrap();
        assert_eq!(Walk::new(tree, 0..11).count(), 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn a_walk_finds_just_the_range_in_order(
            lens in prop::collection::vec(1usize..100, 1..3000),
            a: sample::Index,
            b: sample::Index,
            beyond in 0u64..3,
        ) {
            let mut shelf = Shelf::default();
            let tree = shelf.build(&lens).unwrap();
            let total: usize = lens.iter().sum();
            prop_assert_eq!(tree.len(), total as u64);
            let (a, b) = (a.index(total + 1) as u64, b.index(total + 1) as u64);
            let range = a.min(b)..a.max(b) + beyond;
            let found = shelf.read(tree, range.clone());
            let mut at = range.start;
            for part in &found {
                prop_assert_eq!(part.start, at);
                at = part.end;
            }
            prop_assert_eq!(at, range.end.min(total as u64).max(range.start));
        }
    }
}
