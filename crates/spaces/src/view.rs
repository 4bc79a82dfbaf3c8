//! A tree as a person sees it: where devices that did not know of each other gave one name several values, each is found.
//!
//! The latest keeps the name. Each other one is shown beside it under a name that says who set it and when: `report (conflict, laptop, 2026-11-21 14:02).odt`.
//! Such names are not stored: they follow from the values, so they are the same on all machines that call each other the same. They lead to the value wherever a
//! path is given: it can be read, removed, and moved to a name of its own.

use crate::{Change, DirId, Fate, Found, Head, Kv, KvError, Name, Path, Table, Tree, TreeError, Value};
use potluck_types::{Entropy, NodeId, Timestamp};
use std::fmt;

/// What stands between the name and the rest.
const MARK: &str = " (conflict, ";
/// Bytes of a name.
const NAME_BYTES_MAX: usize = 255;
/// The longest part behind the last dot that is taken for the kind of a file, with the dot, in bytes.
const EXTENSION_BYTES_MAX: usize = 16;
/// Names that are looked through for one that was cut short.
const CUT_SHORT_MAX: usize = 1024;

/// How machines are called.
pub trait Machines {
    /// What a person knows a machine by.
    fn called(&self, machine: NodeId) -> String;
}

/// See the module.
#[derive(Clone, Copy)]
pub struct View<'m> {
    tree: Tree,
    machines: &'m dyn Machines,
}

impl fmt::Debug for View<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").field("tree", &self.tree).finish_non_exhaustive()
    }
}

/// One thing that is seen in a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    /// The name that it is seen under.
    pub name: Name,
    /// The name that it was given, if that is another: the latest value has it.
    pub copy_of: Option<Name>,
    /// The value, with all operations that set it.
    pub heads: Vec<Head>,
}

impl<'m> View<'m> {
    /// Of a tree, by people who call machines so.
    pub fn of(tree: Tree, machines: &'m dyn Machines) -> Self {
        Self { tree, machines }
    }

    /// The directory at a path.
    pub fn directory(self, kv: &impl Kv, path: &Path) -> Result<DirId, TreeError> {
        let mut directory = DirId::ROOT;
        for (depth, name) in path.names().iter().enumerate() {
            let found = self.named(kv, directory, name)?;
            let value = found
                .and_then(|found| found.heads.into_iter().next())
                .map(|head| head.value);
            directory = match value {
                Some(Value::Directory(id)) => id,
                found => {
                    let here = path.names()[..=depth].iter();
                    let here = here.fold(Path::root(), |path, name| path.join(name.clone()));
                    return Err(match found {
                        Some(_) => TreeError::NotADirectory(here),
                        None => TreeError::NotFound(here),
                    });
                }
            };
        }
        Ok(directory)
    }

    /// What is at a path; none of it for the root, which always is.
    pub fn find(self, kv: &impl Kv, path: &Path) -> Result<Option<Found>, TreeError> {
        let Some((parent, name)) = path.split() else {
            return Ok(None);
        };
        let parent = self.directory(kv, &parent)?;
        let found = self.named(kv, parent, name)?;
        found.map_or_else(|| Err(TreeError::NotFound(path.clone())), |found| Ok(Some(found)))
    }

    /// The changes that make a directory and those above it, where they are missing, and its id.
    ///
    /// The id of a new directory follows from its place, so that two devices that make it apart make the same one. An id that
    /// was given away before, to a directory that has since been moved, is not used again.
    pub fn make_directories(
        self,
        kv: &impl Kv,
        path: &Path,
        entropy: &dyn Entropy,
    ) -> Result<(Vec<Change>, DirId), TreeError> {
        let (mut changes, mut directory, mut here) = (Vec::new(), DirId::ROOT, Path::root());
        for name in path.names() {
            here = here.join(name.clone());
            let found = match changes.is_empty() {
                true => self.named(kv, directory, name)?,
                false => None,
            };
            directory = match found
                .as_ref()
                .and_then(|found| found.heads.first())
                .map(|head| &head.value)
            {
                Some(Value::Directory(id)) => *id,
                Some(Value::File(_) | Value::Space(_)) => return Err(TreeError::NotADirectory(here)),
                None => {
                    let id = self.tree.new_directory(kv, directory, name, entropy)?;
                    changes.push(Change::Set {
                        parent: directory,
                        name: name.clone(),
                        value: Some(Value::Directory(id)),
                        replaces: Vec::new(),
                        fate: Fate::Carried,
                    });
                    id
                }
            };
        }
        Ok((changes, directory))
    }

    /// The path that a directory is found at; none when it is gone.
    pub fn path_of(self, kv: &impl Kv, dir: DirId) -> Result<Option<Path>, TreeError> {
        let (mut names, mut at) = (Vec::new(), dir);
        while at != DirId::ROOT {
            let Some((parent, name)) = self.tree.place_of(kv, at)? else {
                return Ok(None);
            };
            let heads = self.tree.heads(kv, parent, &name)?;
            let is_it = |seen: &Seen| seen.heads.iter().any(|head| head.value == Value::Directory(at));
            let seen = self.seen(&name, &heads).into_iter().find(is_it);
            names.push(seen.map_or(name, |seen| seen.name));
            at = parent;
        }
        let names = names.into_iter().rev();
        Ok(Some(names.fold(Path::root(), |path, name| path.join(name))))
    }

    /// What a name of a directory leads to.
    pub fn named(self, kv: &impl Kv, parent: DirId, name: &Name) -> Result<Option<Found>, TreeError> {
        let heads = self.tree.heads(kv, parent, name)?;
        if !heads.is_empty() {
            return Ok(Some(Found {
                parent,
                name: name.clone(),
                heads,
                is_copy: false,
            }));
        }
        for original in self.originals(kv, parent, name)? {
            let heads = self.tree.heads(kv, parent, &original)?;
            let copy = self.seen(&original, &heads).into_iter().find(|seen| seen.name == *name);
            if let Some(copy) = copy {
                return Ok(Some(Found {
                    parent,
                    name: original,
                    heads: copy.heads,
                    is_copy: true,
                }));
            }
        }
        Ok(None)
    }

    /// What is seen of a register: the copies, and then the latest value, so that whoever lists a directory goes on behind the last.
    pub fn seen(self, name: &Name, heads: &[Head]) -> Vec<Seen> {
        let values: Vec<&Head> = Head::distinct(heads).collect();
        let Some((latest, others)) = values.split_first() else {
            return Vec::new();
        };
        let all_of = |value: &Head| heads.iter().filter(|head| head.is_same(value)).cloned().collect();
        let mut seen: Vec<Seen> = Vec::with_capacity(values.len());
        for value in others {
            let copy = (1..=values.len()).map(|count| self.copy(name, value, count));
            let mut free = copy.filter(|copy| !seen.iter().any(|seen| seen.name == *copy));
            seen.push(Seen {
                name: free.next().expect("as many names as values"),
                copy_of: Some(name.clone()),
                heads: all_of(value),
            });
        }
        seen.push(Seen {
            name: name.clone(),
            copy_of: None,
            heads: all_of(latest),
        });
        seen
    }

    /// The name of a value that is not the latest; the count tells those apart that one machine set in one minute.
    fn copy(self, name: &Name, head: &Head, count: usize) -> Name {
        let (stem, extension) = match head.value {
            Value::File(_) => split(name.as_str()),
            Value::Directory(_) | Value::Space(_) => (name.as_str(), ""),
        };
        let machine: String = self
            .machines
            .called(head.op.device)
            .chars()
            .filter(|c| !c.is_control())
            .collect();
        let machine = cut(&machine, 64).replace(['/', ')'], "-");
        let again = if count > 1 { format!(" {count}") } else { String::new() };
        let mark = format!("{MARK}{machine}, {}{again})", minute(head.clock));
        let room = NAME_BYTES_MAX - mark.len() - extension.len();
        let text = format!("{}{mark}{extension}", cut(stem, room));
        Name::try_from(text).expect("a name with a few more characters, and no longer than one may be")
    }

    /// The names that a copy of this name may have.
    fn originals(self, kv: &impl Kv, parent: DirId, copy: &Name) -> Result<Vec<Name>, TreeError> {
        let Some((stem, rest)) = copy.as_str().rsplit_once(MARK) else {
            return Ok(Vec::new());
        };
        let Some((_, extension)) = rest.split_once(')') else {
            return Ok(Vec::new());
        };
        let mut names: Vec<Name> = Name::try_from(format!("{stem}{extension}")).into_iter().collect();
        // One that was cut short.
        if copy.as_str().len() + 4 > NAME_BYTES_MAX {
            names.extend(self.beginning_with(kv, parent, stem)?);
        }
        Ok(names)
    }

    fn beginning_with(self, kv: &impl Kv, parent: DirId, stem: &str) -> Result<Vec<Name>, KvError> {
        let prefix = self.tree.register_key(parent, stem);
        let at = prefix.len() - stem.len();
        let rows = kv.scan(Table::Registers, &prefix, None, CUT_SHORT_MAX)?;
        let name = |(key, _): (Vec<u8>, Vec<u8>)| Name::try_from(String::from_utf8(key[at..].to_vec()).ok()?).ok();
        Ok(rows.into_iter().filter_map(name).collect())
    }
}

/// A name without the kind of a file, and that with its dot.
fn split(name: &str) -> (&str, &str) {
    match name.rfind('.') {
        Some(at) if at > 0 && name.len() - at <= EXTENSION_BYTES_MAX => name.split_at(at),
        _ => (name, ""),
    }
}

/// The beginning of a text, of so many bytes at most.
fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// Date and minute, UTC.
fn minute(time: Timestamp) -> String {
    let text = time.to_string().replace('T', " ");
    text.rsplit_once(':')
        .map_or_else(|| text.clone(), |(minute, _)| minute.to_owned())
}
