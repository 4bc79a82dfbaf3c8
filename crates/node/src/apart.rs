//! What is given to others lies apart from what is not. Small files share a sealed piece, and the key to one opens them all: before somebody is given the keys to a directory, files in it that
//! lie in one piece with others are stored anew.

use crate::{api::PutOptions, error::NodeError, files::FileAt, shared::Shared, space::OpenSpace, upload::Upload};
use potluck_dag::{Content, Piece};
use potluck_spaces::{DirId, File, Head, Kv, Name, Path, Tree, Value};
use potluck_types::{StripeId, from_canonical};
use std::collections::BTreeMap;

/// Names that are read at once.
const PAGE: usize = 256;

/// What is given: values of a name, with all that is below those that are directories; or what is in directories.
#[derive(Clone, Debug)]
pub(crate) enum Given {
    /// What has this name.
    Name(DirId, Name, Vec<Head>),
    /// What is in this.
    Directory(DirId),
}

/// Files that lie in one piece, each with its part of it.
type Sharing = Vec<(FileAt, Piece)>;

/// Stores files anew that lie in one piece with what is not given.
pub(crate) async fn store(space: &OpenSpace, given: &Given) -> Result<(), NodeError> {
    let (task, of) = (space.clone(), given.clone());
    let sharing = Shared::blocking(move || sharing(&task, &task.read()?, &of)).await?;
    store_anew(space, sharing).await
}

/// Stores files anew, those that lie in one piece together.
pub(crate) async fn store_anew(space: &OpenSpace, sharing: Vec<Sharing>) -> Result<(), NodeError> {
    for files in sharing {
        let options = PutOptions {
            survive: files.iter().filter_map(|(at, _)| at.file.asked).max(),
            ..PutOptions::default()
        };
        let mut upload = Upload::begin(space.clone(), options)?;
        upload.repack(files).await?;
        upload.finish().await?;
    }
    Ok(())
}

/// The piece that a file's content is, or its list of pieces.
pub(crate) fn root(file: &File) -> Option<Piece> {
    match from_canonical(&file.content).ok()? {
        Content::Tree(tree) => Some(tree.root().clone()),
        Content::Inline(_) => None,
    }
}

/// The part of a piece that a file is, if it is one.
pub(crate) fn part_of(file: &File) -> Option<Piece> {
    root(file).filter(Piece::is_part)
}

/// Files that lie in one piece with what is not given, by the piece. What counts is what is in the piece, and not who uses it: a file that is gone may have left its bytes there, and one that
/// shares it may not be known here yet.
pub(crate) fn sharing(space: &OpenSpace, kv: &impl Kv, given: &Given) -> Result<Vec<Sharing>, NodeError> {
    let tree = Tree::of(space.id());
    let (mut parts, mut left) = (BTreeMap::<StripeId, Sharing>::new(), Vec::new());
    let mut look = |parent: DirId, name: &Name, heads: Vec<Head>, left: &mut Vec<(DirId, Option<Name>)>| {
        for head in heads {
            match head.value {
                Value::Directory(id) => left.push((id, None)),
                Value::Space(_) => {}
                Value::File(file) => {
                    let Some(part) = part_of(&file) else { continue };
                    let at = FileAt {
                        path: Path::root(),
                        parent,
                        name: name.clone(),
                        op: head.op,
                        clock: head.clock,
                        file,
                    };
                    parts.entry(part.stripe()).or_default().push((at, part));
                }
            }
        }
    };
    match given {
        Given::Name(parent, name, heads) => look(*parent, name, heads.clone(), &mut left),
        Given::Directory(id) => left.push((*id, None)),
    }
    while let Some((directory, after)) = left.pop() {
        let page = tree.list(kv, directory, after.as_ref(), PAGE)?;
        let Some(last) = page.last().map(|listed| listed.name.clone()) else {
            continue;
        };
        left.push((directory, Some(last)));
        for listed in page {
            look(directory, &listed.name, listed.heads, &mut left);
        }
    }
    let is_shared = |files: &Sharing| !covers_all(files);
    Ok(parts.into_values().filter(is_shared).collect())
}

/// Whether files are all that is in the piece that they lie in.
fn covers_all(files: &Sharing) -> bool {
    let Some((_, first)) = files.first() else { return true };
    let mut parts: Vec<_> = files.iter().map(|(_, piece)| piece.part()).collect();
    parts.sort_by_key(|part| part.start);
    let covered = parts.into_iter().try_fold(0, |covered, part| {
        (part.start <= covered).then_some(part.end.max(covered))
    });
    covered == Some(first.whole().len())
}
