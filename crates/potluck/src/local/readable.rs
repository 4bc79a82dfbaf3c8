//! What can be listed and read: a space, or what a link shows.

use super::message::Source;
use crate::complaint::Complaint;
use potluck_crypto::Link;
use potluck_node::{Download, Entry, Linked, Node, NodeError, Space, Stat, Which};
use potluck_spaces::{Name, Path};
use std::ops::Range;

/// See the module.
#[derive(Clone, Debug)]
pub(super) enum Readable {
    /// A space of this person's.
    Space(Space),
    /// What another member shows.
    Link(Linked),
}

impl Readable {
    /// Looks up a space, or opens a link.
    pub(super) async fn of(node: &Node, source: &Source) -> Result<Self, Complaint> {
        Ok(match source {
            Source::Space(name) => Self::Space(node.space(name)?),
            Source::Link { link, password } => {
                let link: Link = link.parse()?;
                Self::Link(node.open_link(&link, password.as_deref()).await?)
            }
        })
    }

    /// A file or directory in detail; nothing for the root of a space, which has no name.
    pub(super) async fn stat(&self, path: &Path, which: Which) -> Result<Option<Stat>, Complaint> {
        match self {
            Self::Space(_) if path.names().is_empty() => Ok(None),
            Self::Space(space) => Ok(Some(space.stat_of(path, which).await?)),
            Self::Link(linked) => {
                refuse_versions(which)?;
                Ok(Some(linked.stat(path)?))
            }
        }
    }

    /// One directory, in order of names, after a name, up to a number; there are none only at the end.
    pub(super) async fn list(&self, path: &Path, after: Option<&Name>, limit: usize) -> Result<Vec<Entry>, NodeError> {
        match self {
            Self::Space(space) => space.list(path, after, limit).await,
            Self::Link(linked) => linked.list(path, after, limit),
        }
    }

    /// Begins to get a file, or a range of it.
    pub(super) async fn download(
        &self,
        path: &Path,
        which: Which,
        range: Option<Range<u64>>,
    ) -> Result<Download, Complaint> {
        match self {
            Self::Space(space) => Ok(space.download_of(path, which, range).await?),
            Self::Link(linked) => {
                refuse_versions(which)?;
                Ok(linked.download(path, range)?)
            }
        }
    }

    /// Why lists may lack names, if so.
    pub(super) async fn lacking(&self) -> Option<String> {
        match self {
            Self::Space(space) => space.lacking().await,
            Self::Link(_) => None,
        }
    }
}

fn refuse_versions(which: Which) -> Result<(), Complaint> {
    match which {
        Which::Latest => Ok(()),
        Which::Version(_) | Which::At(_) => Err(Complaint::usage(
            "a link shows what there is now, and no earlier versions of it",
        )),
    }
}
