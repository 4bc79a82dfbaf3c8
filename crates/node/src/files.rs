//! All files of the private space, one page of names after the other.

use crate::{error::NodeError, shared::Shared};
use potluck_spaces::{DirId, File, Head, Name, OpId, Path, Tree, Value};
use std::{collections::VecDeque, sync::Arc};

/// Names that are read at once.
const PAGE: usize = 256;

/// A file, and where it is. Conflicting versions of one name come one by one.
#[derive(Debug)]
pub(crate) struct FileAt {
    pub(crate) path: Path,
    pub(crate) parent: DirId,
    pub(crate) name: Name,
    /// The operation that set it.
    pub(crate) op: OpId,
    pub(crate) file: File,
}

/// A walk through them. What changes meanwhile may be seen or not.
pub(crate) struct Files {
    shared: Arc<Shared>,
    /// Directories that are still to be read, each from after a name on.
    directories: Vec<(DirId, Path, Option<Name>)>,
    found: VecDeque<FileAt>,
}

impl Files {
    pub(crate) fn of(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Arc::clone(shared),
            directories: vec![(DirId::ROOT, Path::root(), None)],
            found: VecDeque::new(),
        }
    }

    pub(crate) async fn next(&mut self) -> Result<Option<FileAt>, NodeError> {
        while self.found.is_empty() {
            let Some((parent, path, after)) = self.directories.pop() else {
                return Ok(None);
            };
            let task = Arc::clone(&self.shared);
            let page = Shared::blocking(move || {
                let kv = task.read()?;
                Ok::<_, NodeError>(Tree::of(task.space).list(&kv, parent, after.as_ref(), PAGE)?)
            })
            .await?;
            if let Some(last) = page.last() {
                self.directories.push((parent, path.clone(), Some(last.name.clone())));
            }
            for listed in page {
                let path = path.join(listed.name.clone());
                for Head { op, value, .. } in listed.heads {
                    match value {
                        Value::Directory(id) => self.directories.push((id, path.clone(), None)),
                        Value::File(file) => self.found.push_back(FileAt {
                            path: path.clone(),
                            parent,
                            name: listed.name.clone(),
                            op,
                            file,
                        }),
                    }
                }
            }
        }
        Ok(self.found.pop_front())
    }
}
