//! All files of a space, one page of names after the other.

use crate::{error::NodeError, shared::Shared, space::OpenSpace};
use potluck_spaces::{DirId, Expiring, File, Head, Name, OpId, Path, Trash, Tree, TreeError, Value};
use potluck_types::{NodeId, Timestamp};
use std::{collections::VecDeque, time::Duration};

/// Names that are read at once.
const PAGE: usize = 256;

/// A file, and where it is. Conflicting versions of one name come one by one.
#[derive(Debug)]
pub(crate) struct FileAt {
    pub(crate) path: Path,
    pub(crate) parent: DirId,
    pub(crate) name: Name,
    /// The operation that set it, and when.
    pub(crate) op: OpId,
    pub(crate) clock: Timestamp,
    pub(crate) file: File,
}

/// A walk through them. What changes meanwhile may be seen or not.
pub(crate) struct Files {
    space: OpenSpace,
    /// Directories that are still to be read, each from after a name on.
    directories: Vec<(DirId, Path, Option<Name>)>,
    found: VecDeque<FileAt>,
    /// From where on the trash is still to be read.
    trash: Option<Expiring>,
}

impl Files {
    pub(crate) fn of(space: &OpenSpace) -> Self {
        Self::below(space, vec![DirId::ROOT])
    }

    /// Those in directories, with paths from there.
    pub(crate) fn below(space: &OpenSpace, directories: Vec<DirId>) -> Self {
        Self {
            space: space.clone(),
            directories: directories.into_iter().map(|id| (id, Path::root(), None)).collect(),
            found: VecDeque::new(),
            trash: None,
        }
    }

    /// Also the versions that are in the trash, last and with nothing but their names for paths.
    pub(crate) fn and_trash(self) -> Self {
        let first = Expiring {
            until: Timestamp::default(),
            op: OpId {
                device: NodeId::from_bytes([0; 32]),
                seq: 0,
                at: 0,
            },
            learned: Duration::ZERO,
        };
        Self {
            trash: Some(first),
            ..self
        }
    }

    pub(crate) async fn next(&mut self) -> Result<Option<FileAt>, NodeError> {
        while self.found.is_empty() {
            let Some((parent, path, after)) = self.directories.pop() else {
                match self.trash.take() {
                    Some(after) => self.read_trash(after).await?,
                    None => return Ok(None),
                }
                continue;
            };
            let task = self.space.clone();
            let page = Shared::blocking(move || {
                let kv = task.read()?;
                Ok::<_, NodeError>(Tree::of(task.id()).list(&kv, parent, after.as_ref(), PAGE)?)
            })
            .await?;
            if let Some(last) = page.last() {
                self.directories.push((parent, path.clone(), Some(last.name.clone())));
            }
            for listed in page {
                for seen in self.space.view().seen(&listed.name, &listed.heads) {
                    let path = path.join(seen.name);
                    let mut directory = None;
                    for Head { op, value, clock, .. } in seen.heads {
                        match value {
                            Value::Directory(id) => directory = Some(id),
                            Value::Space(_) => {}
                            Value::File(file) => self.found.push_back(FileAt {
                                path: path.clone(),
                                parent,
                                name: listed.name.clone(),
                                op,
                                clock,
                                file,
                            }),
                        }
                    }
                    self.directories.extend(directory.map(|id| (id, path, None)));
                }
            }
        }
        Ok(self.found.pop_front())
    }

    async fn read_trash(&mut self, after: Expiring) -> Result<(), NodeError> {
        let task = self.space.clone();
        let (last, page) = Shared::blocking(move || {
            let (kv, trash) = (task.read()?, Trash::of(task.id()));
            let page = trash.expiring(&kv, Some(after), PAGE).map_err(TreeError::from)?;
            let mut kept = Vec::new();
            for expiring in &page {
                kept.extend(trash.get(&kv, expiring.op).map_err(TreeError::from)?);
            }
            Ok::<_, NodeError>((page.last().copied(), kept))
        })
        .await?;
        self.trash = last;
        self.found
            .extend(page.into_iter().filter_map(|kept| match kept.head.value {
                Value::Directory(_) | Value::Space(_) => None,
                Value::File(file) => Some(FileAt {
                    path: Path::root().join(kept.name.clone()),
                    parent: kept.parent,
                    name: kept.name,
                    op: kept.head.op,
                    clock: kept.head.clock,
                    file,
                }),
            }));
        Ok(())
    }
}
