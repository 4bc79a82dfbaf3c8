//! Writing a manifest as a stream.

use super::{ManifestError, Tree, node_bytes};
use crate::Piece;
use potluck_types::limits::MANIFEST_CHILDREN_MAX;

/// Builds the tree over a file's pieces, in memory for one unfinished node a level.
///
/// When a node is full, `seal` is called with its bytes: it seals them ([`seal_piece`](crate::seal_piece)), sees that the shards are stored,
/// and returns the piece. A node is finished only when something follows it, so a file of one piece has no node at all.
#[derive(Debug, Default)]
pub struct ManifestBuilder {
    /// The unfinished node of each level: data pieces first. None of them is ever empty.
    levels: Vec<Vec<Tree>>,
}

/// Why a manifest cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError<E> {
    /// A piece is empty, or the tree would get too deep.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// What `seal` says.
    #[error("a manifest node could not be sealed and stored")]
    Seal(#[source] E),
}

impl ManifestBuilder {
    /// A manifest of nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends the next piece of the file, which may not be empty.
    pub fn push<E>(
        &mut self,
        piece: Piece,
        seal: &mut dyn FnMut(&[u8]) -> Result<Piece, E>,
    ) -> Result<(), BuildError<E>> {
        self.push_at(0, Tree::leaf(piece)?, seal)
    }

    /// The tree over all that was pushed; `None` when nothing was.
    pub fn finish<E>(mut self, seal: &mut dyn FnMut(&[u8]) -> Result<Piece, E>) -> Result<Option<Tree>, BuildError<E>> {
        let mut level = 0;
        while level < self.levels.len() {
            let top = level + 1 == self.levels.len();
            if top && self.levels[level].len() == 1 {
                return Ok(self.levels[level].pop());
            }
            let parent = close(std::mem::take(&mut self.levels[level]), seal)?;
            self.push_at(level + 1, parent, seal)?;
            level += 1;
        }
        Ok(None)
    }

    fn push_at<E>(
        &mut self,
        level: usize,
        tree: Tree,
        seal: &mut dyn FnMut(&[u8]) -> Result<Piece, E>,
    ) -> Result<(), BuildError<E>> {
        if self.levels.len() == level {
            self.levels.push(Vec::new());
        }
        if self.levels[level].len() == MANIFEST_CHILDREN_MAX {
            let full = std::mem::take(&mut self.levels[level]);
            let parent = close(full, seal)?;
            self.push_at(level + 1, parent, seal)?;
        }
        self.levels[level].push(tree);
        Ok(())
    }
}

/// Seals a node of these children, and makes the tree that it is the root of.
fn close<E>(children: Vec<Tree>, seal: &mut dyn FnMut(&[u8]) -> Result<Piece, E>) -> Result<Tree, BuildError<E>> {
    let depth = children.first().map_or(0, Tree::depth) + 1;
    let len = children
        .iter()
        .try_fold(0u64, |total, child| total.checked_add(child.len()));
    let node = seal(&node_bytes(children)).map_err(BuildError::Seal)?;
    Ok(Tree::new(depth, len.unwrap_or(0), node)?)
}
