//! Files that lie in one piece with what is to be erased, or is not given with them, are stored anew: the key to the piece opens all of it.

use super::{Upload, piece::building};
use crate::{download::read_piece, error::NodeError, files::FileAt};
use bytes::Bytes;
use potluck_dag::{Content, Packer, Piece, Slot, Tree as Manifest};
use potluck_spaces::{Change, File, FileId};
use potluck_types::to_canonical;
use serde_bytes::ByteBuf;
use std::collections::BTreeMap;

impl Upload {
    /// Stores files anew that lie in one piece, each with the part of it that it is.
    pub(crate) async fn repack(&mut self, files: Vec<(FileAt, Piece)>) -> Result<(), NodeError> {
        let Some((_, first)) = files.first() else {
            return Ok(());
        };
        let whole = first.whole();
        let at = (self.space.shared(), self.space.id());
        let plain = read_piece(at, &whole, 0..whole.len(), false).await?;
        let (mut packer, mut packed) = (Packer::new(), Vec::new());
        // Versions that were moved or copied share a part, and go on sharing it.
        let mut slots = BTreeMap::new();
        for (at, piece) in files {
            let (start, end) = (piece.part().start, piece.part().end);
            let bytes = plain.get(start as usize..end as usize);
            let bytes = bytes.ok_or_else(|| building("it lies beyond its piece"))?;
            let slot = match slots.get(&(start, end)).copied().or_else(|| packer.push(bytes)) {
                Some(slot) => slot,
                None => {
                    // Parts that overlap are more than the whole: somebody has written them so.
                    self.store_again(packer.take(), std::mem::take(&mut packed)).await?;
                    slots.clear();
                    packer.push(bytes).ok_or_else(|| building("it fits no piece"))?
                }
            };
            slots.insert((start, end), slot);
            packed.push((at, slot));
        }
        self.store_again(packer.take(), packed).await
    }

    async fn store_again(&mut self, plain: Vec<u8>, files: Vec<(FileAt, Slot)>) -> Result<(), NodeError> {
        let under_way = self.begin_piece(Bytes::from(plain), false).await?;
        let finished = self.finish_piece(under_way).await?;
        self.note(&finished);
        for (at, slot) in files {
            let part = finished.piece.slot(slot).expect("the slot is in the pack");
            let stripe = part.stripe();
            let content = Content::Tree(Manifest::leaf(part).map_err(building)?);
            let content = ByteBuf::from(to_canonical(&content));
            self.batch.bytes += 400 + at.name.as_str().len() + content.len();
            self.batch.changes.push(Change::Recode {
                parent: at.parent,
                name: at.name,
                of: at.op,
                file: File {
                    id: FileId::generate(at.parent.area(), &*self.space.entropy),
                    content,
                    uses: vec![stripe],
                    survives: self.geometry.m(),
                    ..at.file
                },
            });
            self.write_batch_if_full().await?;
        }
        self.batch.claims.extend(finished.became.into_claim());
        Ok(())
    }
}
