//! Manifests: the tree of pieces that a file consists of.
//!
//! [`Content`] is what a directory entry names: a few bytes in place, or a [`Tree`]. A tree of depth 0 is one data piece; one of
//! depth *d* is a piece that holds a [`Node`], which lists trees of depth *d* − 1, up to 1,024 of them. Nodes are
//! sealed, coded and stored like data. All leaves have the same depth, and all nodes but the last of each level are full, so
//! equal lists of pieces have equal trees.
//!
//! - [`ManifestBuilder`] writes a tree and [`Walk`] reads a range of one, both as a stream, in memory for one node a level.
//! - [`Node::from_bytes`] is the only way to a node: its depth is that which its parent says, so that every descent ends; and
//!   its lengths add up, so that an offset means the same to everyone.

mod build;
mod walk;

pub use build::{BuildError, ManifestBuilder};
pub use walk::{Part, Walk};

use crate::Piece;
use bytes::Bytes;
use potluck_types::{
    CodecError, from_canonical,
    limits::{
        FRAME_TAG_BYTES, INLINE_SEALED_BYTES_MAX, MANIFEST_CHILDREN_MAX, MANIFEST_DEPTH_MAX, MANIFEST_NODE_BYTES_MAX,
    },
    to_canonical,
};
use serde::{Deserialize, Serialize};

/// The only version of the node format so far.
const VERSION: u8 = 1;

/// The most bytes that stay in the directory entry.
pub const INLINE_BYTES_MAX: usize = INLINE_SEALED_BYTES_MAX - FRAME_TAG_BYTES;

/// Why something is not a manifest, or not the part of one that it should be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// The bytes are no canonical record.
    #[error("the manifest node is unreadable")]
    Codec(#[from] CodecError),
    /// It is of a version that this program does not know.
    #[error("the manifest node has version {version}, this program reads {VERSION}")]
    Version {
        /// The version it names.
        version: u8,
    },
    /// It is longer than any node.
    #[error("a manifest node of {len} bytes is over the limit of {MANIFEST_NODE_BYTES_MAX}")]
    NodeTooLong {
        /// How many bytes it has.
        len: usize,
    },
    /// It stands at another level than its parent says.
    #[error("a manifest node of depth {found} stands where one of depth {expected} belongs")]
    Depth {
        /// The depth that the parent gives it.
        expected: u8,
        /// The depth it gives itself.
        found: u8,
    },
    /// It has no children, or more than a node may have.
    #[error("a manifest node of {count} children is impossible")]
    Children {
        /// How many it has.
        count: usize,
    },
    /// Its children have another length in all than its parent says, or one has none.
    #[error("the children of a manifest node do not add up to {expected} bytes")]
    Length {
        /// The length that the parent gives it.
        expected: u64,
    },
    /// A tree that is too deep, empty, or of another length than its only piece.
    #[error("a tree of depth {depth} and {len} bytes with a root piece of {root_len} is impossible")]
    Tree {
        /// Its levels.
        depth: u8,
        /// Its length.
        len: u64,
        /// The length of its root piece.
        root_len: u32,
    },
    /// More bytes than a directory entry holds.
    #[error("{len} bytes in place are over the limit of {INLINE_BYTES_MAX}")]
    InlineTooLong {
        /// How many there are.
        len: usize,
    },
}

/// A file's bytes, as its directory entry names them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "ContentRecord", into = "ContentRecord")]
pub enum Content {
    /// The bytes themselves, at most [`INLINE_BYTES_MAX`].
    Inline(Bytes),
    /// The tree that leads to them.
    Tree(Tree),
}

impl Content {
    /// The file's length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Inline(bytes) => bytes.len() as u64,
            Self::Tree(tree) => tree.len,
        }
    }

    /// Whether the file has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The encoded form of [`Content`]: `{"inline": bytes}` or `{"tree": tree}`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ContentRecord {
    Inline(Bytes),
    Tree(Tree),
}

impl From<Content> for ContentRecord {
    fn from(content: Content) -> Self {
        match content {
            Content::Inline(bytes) => Self::Inline(bytes),
            Content::Tree(tree) => Self::Tree(tree),
        }
    }
}

impl TryFrom<ContentRecord> for Content {
    type Error = ManifestError;

    fn try_from(record: ContentRecord) -> Result<Self, ManifestError> {
        match record {
            ContentRecord::Inline(bytes) if bytes.len() > INLINE_BYTES_MAX => {
                Err(ManifestError::InlineTooLong { len: bytes.len() })
            }
            ContentRecord::Inline(bytes) => Ok(Self::Inline(bytes)),
            ContentRecord::Tree(tree) => Ok(Self::Tree(tree)),
        }
    }
}

/// A tree of pieces. Never empty: an empty file is inline.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "TreeRecord", into = "TreeRecord")]
pub struct Tree {
    depth: u8,
    len: u64,
    root: Piece,
}

impl Tree {
    /// A tree of one data piece.
    pub fn leaf(piece: Piece) -> Result<Self, ManifestError> {
        Self::new(0, piece.len().into(), piece)
    }

    fn new(depth: u8, len: u64, root: Piece) -> Result<Self, ManifestError> {
        let sound = if depth == 0 {
            len == root.len().into()
        } else {
            depth <= MANIFEST_DEPTH_MAX
        };
        if sound && len > 0 && !root.is_empty() {
            return Ok(Self { depth, len, root });
        }
        let root_len = root.len();
        Err(ManifestError::Tree { depth, len, root_len })
    }

    /// Levels of nodes above the data; 0 when the root piece is the data.
    pub fn depth(&self) -> u8 {
        self.depth
    }

    /// Length of the data in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Always false.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The piece that is the data or the root node.
    pub fn root(&self) -> &Piece {
        &self.root
    }
}

/// The encoded form of [`Tree`].
#[derive(Serialize, Deserialize)]
struct TreeRecord(u8, u64, Piece);

impl From<Tree> for TreeRecord {
    fn from(tree: Tree) -> Self {
        Self(tree.depth, tree.len, tree.root)
    }
}

impl TryFrom<TreeRecord> for Tree {
    type Error = ManifestError;

    fn try_from(TreeRecord(depth, len, root): TreeRecord) -> Result<Self, ManifestError> {
        Self::new(depth, len, root)
    }
}

/// The checked content of a piece at depth 1 or more: trees of one depth less, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    children: Vec<Tree>,
}

/// The encoded form of [`Node`]: version, depth, and each child's length and piece.
#[derive(Serialize, Deserialize)]
struct NodeRecord(u8, u8, Vec<(u64, Piece)>);

impl Node {
    /// Reads the node that is the root of `tree`, from bytes that anyone may have written.
    pub fn from_bytes(bytes: &[u8], tree: &Tree) -> Result<Self, ManifestError> {
        if bytes.len() > MANIFEST_NODE_BYTES_MAX {
            return Err(ManifestError::NodeTooLong { len: bytes.len() });
        }
        let NodeRecord(version, depth, children) = from_canonical(bytes)?;
        if version != VERSION {
            return Err(ManifestError::Version { version });
        }
        let below = depth
            .checked_sub(1)
            .filter(|_| depth == tree.depth)
            .ok_or(ManifestError::Depth {
                expected: tree.depth,
                found: depth,
            })?;
        if !(1..=MANIFEST_CHILDREN_MAX).contains(&children.len()) {
            return Err(ManifestError::Children { count: children.len() });
        }
        let children: Vec<Tree> = children
            .into_iter()
            .map(|(len, root)| Tree::new(below, len, root))
            .collect::<Result<_, _>>()?;
        let total = children
            .iter()
            .try_fold(0u64, |total, child| total.checked_add(child.len));
        if total != Some(tree.len) {
            return Err(ManifestError::Length { expected: tree.len });
        }
        Ok(Self { children })
    }

    /// Its children, in order.
    pub fn children(&self) -> &[Tree] {
        &self.children
    }
}

/// The canonical bytes of the node that has these children.
fn node_bytes(children: Vec<Tree>) -> Vec<u8> {
    let depth = children.first().map_or(0, |child| child.depth) + 1;
    let children = children.into_iter().map(|child| (child.len, child.root)).collect();
    to_canonical(&NodeRecord(VERSION, depth, children))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::piece;
    use data_encoding::HEXLOWER;
    use potluck_types::Hash;
    use proptest::prelude::*;

    fn leaf(len: usize) -> Tree {
        Tree::leaf(piece(len)).unwrap()
    }

    fn tree(depth: u8, len: u64) -> Tree {
        Tree::new(depth, len, piece(1000)).unwrap()
    }

    #[test]
    fn encodings_are_those_of_format_md() {
        let hex = |bytes: &[u8]| HEXLOWER.encode(bytes);
        let inline = Content::Inline(Bytes::from_static(b"salt"));
        assert_eq!(hex(&to_canonical(&inline)), "a166696e6c696e654473616c74");
        let content = Content::Tree(leaf(7));
        assert_eq!(
            hex(&to_canonical(&content)),
            "a1647472656583000789582001010101010101010101010101010101010101010101010101010101010101015820020202020202020202020202020202020202020202020202020202020202020202011707000007"
        );
        let node = node_bytes(vec![leaf(7), leaf(100_000), leaf(9)]);
        assert_eq!(
            hex(Hash::of(&node).as_bytes()),
            "676f2f05793df4b25d33601313321b8b62fce02a26b1cd81aaac8e10b003053c"
        );
        assert_eq!(hex(&node[..3]), "830101");
    }

    #[test]
    fn a_full_node_is_within_its_limit() {
        // Every number as long as it gets.
        let child = Tree::new(2, u64::MAX / 2048, piece(4 << 20)).unwrap();
        assert!(node_bytes(vec![child; MANIFEST_CHILDREN_MAX]).len() <= MANIFEST_NODE_BYTES_MAX);
    }

    #[test]
    fn nodes_that_contradict_their_parent_are_refused() {
        let node = |children| node_bytes(children);
        let sound = node(vec![leaf(7), leaf(9)]);
        assert_eq!(Node::from_bytes(&sound, &tree(1, 16)).unwrap().children().len(), 2);
        let check = |bytes: &[u8], parent: &Tree| Node::from_bytes(bytes, parent).unwrap_err();
        assert!(matches!(check(&sound, &tree(1, 17)), ManifestError::Length { .. }));
        assert!(matches!(
            check(&sound, &tree(2, 16)),
            ManifestError::Depth { expected: 2, found: 1 }
        ));
        assert!(matches!(check(&sound, &leaf(16)), ManifestError::Depth { .. }));
        assert!(matches!(
            check(&node(vec![]), &tree(1, 16)),
            ManifestError::Children { count: 0 }
        ));
        let many = node(vec![leaf(1); MANIFEST_CHILDREN_MAX + 1]);
        assert!(matches!(check(&many, &tree(1, 1025)), ManifestError::Children { .. }));
        let whole = piece(9);
        let lying = to_canonical(&NodeRecord(VERSION, 1, vec![(16, whole.clone())]));
        assert!(matches!(check(&lying, &tree(1, 16)), ManifestError::Tree { .. }));
        let wrapping = to_canonical(&NodeRecord(
            VERSION,
            2,
            vec![(u64::MAX, whole.clone()), (17, whole.clone())],
        ));
        assert!(matches!(check(&wrapping, &tree(2, 16)), ManifestError::Length { .. }));
        let hollow = to_canonical(&NodeRecord(VERSION, 2, vec![(0, whole.clone()), (16, whole.clone())]));
        assert!(matches!(check(&hollow, &tree(2, 16)), ManifestError::Tree { .. }));
        let newer = to_canonical(&NodeRecord(2, 1, vec![(9, whole)]));
        assert!(matches!(
            check(&newer, &tree(1, 9)),
            ManifestError::Version { version: 2 }
        ));
        let long = vec![0; MANIFEST_NODE_BYTES_MAX + 1];
        assert!(matches!(check(&long, &tree(1, 16)), ManifestError::NodeTooLong { .. }));
    }

    #[test]
    fn impossible_contents_are_refused() {
        let content = |record: &ContentRecord| from_canonical::<Content>(&to_canonical(record));
        assert!(content(&ContentRecord::Inline(vec![0; INLINE_BYTES_MAX].into())).is_ok());
        assert!(content(&ContentRecord::Inline(vec![0; INLINE_BYTES_MAX + 1].into())).is_err());
        let tree = |depth, len| from_canonical::<Tree>(&to_canonical(&TreeRecord(depth, len, piece(9))));
        assert!(tree(0, 9).is_ok() && tree(MANIFEST_DEPTH_MAX, 10).is_ok());
        assert!(tree(0, 10).is_err() && tree(1, 0).is_err() && tree(MANIFEST_DEPTH_MAX + 1, 10).is_err());
        assert!(Tree::leaf(piece(0)).is_err());
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes: Vec<u8>, at: prop::sample::Index, bit in 0u8..8) {
            let _ = Node::from_bytes(&bytes, &tree(1, 16));
            let _ = from_canonical::<Content>(&bytes);
            let mut node = node_bytes(vec![leaf(7), leaf(9)]);
            let at = at.index(node.len());
            node[at] ^= 1 << bit;
            let _ = Node::from_bytes(&node, &tree(1, 16));
        }
    }
}
