//! Where directories stand.
//!
//! A directory is in one place at a time, whatever devices that did not know of each other did with it:
//! - Of several places that it was moved to apart, the one that was said last counts.
//! - One that was removed while somebody else put something into it stays where it last was, with what its remover did not know of, until that is gone as well.
//! - Of directories that were moved into each other, the one that was moved last hangs in the root, or in that of their area.
//!
//! All of it follows from the set of changes alone. The registers have a directory's values where it is, and nowhere else.

use super::{DirId, Head, Tree, Value};
use crate::{AreaId, Kv, KvError, Name, OpId, Table};
use potluck_types::{Timestamp, from_canonical, to_canonical};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Names that are read at once when something in a directory is looked for.
const PAGE: usize = 64;

/// A place that a directory was given. They order by when that was said.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(super) struct Placement {
    pub(super) clock: Timestamp,
    pub(super) op: OpId,
    pub(super) parent: DirId,
    pub(super) name: Name,
    /// The area of the entry that said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) area: Option<AreaId>,
}

impl Placement {
    fn is_at(&self, parent: DirId, name: &Name) -> bool {
        self.parent == parent && self.name == *name
    }

    fn into_head(self, dir: DirId) -> Head {
        Head {
            clock: self.clock,
            op: self.op,
            value: Value::Directory(dir),
            recoded: None,
        }
    }
}

/// What is known of the places of one directory.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
struct Places {
    /// Those that it was given and that nothing has replaced.
    live: BTreeSet<Placement>,
    /// The last that it was ever given.
    last: Option<Placement>,
    /// Where it belongs; nowhere when it is gone.
    home: Option<Placement>,
    /// Whether it hangs in the root instead, as it belongs into itself.
    is_loose: bool,
    /// Those that belong into this one, and hang in the root.
    away: BTreeSet<DirId>,
}

impl Places {
    /// The directory and the name in it that it is found under.
    fn shown(&self) -> Option<(DirId, &Name)> {
        let home = self.home.as_ref()?;
        // In an area it can be in nothing else.
        let top = || home.area.map_or(DirId::ROOT, AreaId::top);
        Some((if self.is_loose { top() } else { home.parent }, &home.name))
    }

    /// The values that it has there.
    fn heads(&self, dir: DirId) -> Vec<Head> {
        let Some(home) = &self.home else { return Vec::new() };
        if self.live.is_empty() {
            return vec![home.clone().into_head(dir)];
        }
        let here = self.live.iter().filter(|place| place.is_at(home.parent, &home.name));
        here.map(|place| place.clone().into_head(dir)).collect()
    }
}

impl DirId {
    /// Whether everything else is below it, and it below nothing.
    const fn is_top(self) -> bool {
        matches!(self, Self::ROOT | Self::SPACES | Self::LINKS)
    }
}

impl Tree {
    /// A directory is given a place, or was given one that has been replaced since.
    pub(super) fn place(
        self,
        kv: &mut impl Kv,
        dir: DirId,
        placement: Placement,
        is_live: bool,
    ) -> Result<(), KvError> {
        if dir.is_top() {
            return Ok(());
        }
        let mut places = self.places(kv, dir)?;
        places.last = places.last.max(Some(placement.clone()));
        if is_live {
            kv.put(Table::Placed, &self.op_key(placement.op), dir.as_bytes())?;
            places.live.insert(placement);
        }
        self.set_places(kv, dir, &places)?;
        self.settle(kv, vec![dir])
    }

    /// A place is given up, if a directory has it by this operation. Gives the value that was set.
    pub(super) fn unplace(self, kv: &mut impl Kv, op: OpId) -> Result<Option<(DirId, Name, Head)>, KvError> {
        let Some(dir) = kv.get(Table::Placed, &self.op_key(op))? else {
            return Ok(None);
        };
        kv.delete(Table::Placed, &self.op_key(op))?;
        let dir = DirId(dir[..].try_into()?);
        let mut places = self.places(kv, dir)?;
        let given_up = places.live.iter().find(|place| place.op == op).cloned();
        let given_up = given_up.ok_or("an operation gives a directory a place that it does not know of")?;
        places.live.remove(&given_up);
        self.set_places(kv, dir, &places)?;
        self.settle(kv, vec![dir])?;
        Ok(Some((given_up.parent, given_up.name.clone(), given_up.into_head(dir))))
    }

    /// Something has come into a directory, or is not in it any more: that decides whether one that was removed is gone.
    pub(super) fn touch(self, kv: &mut impl Kv, dir: DirId) -> Result<(), KvError> {
        if dir.is_top() || !self.places(kv, dir)?.live.is_empty() {
            return Ok(());
        }
        self.settle(kv, vec![dir])
    }

    /// The operations that whoever removes these values, or moves them, replaces: those that set them, and those that gave a directory among them other places apart.
    pub fn all_ops(self, kv: &impl Kv, heads: &[Head]) -> Result<Vec<OpId>, KvError> {
        let mut ops: Vec<OpId> = heads.iter().map(|head| head.op).collect();
        for head in Head::distinct(heads) {
            if let Value::Directory(id) = head.value {
                ops.extend(self.places(kv, id)?.live.into_iter().map(|place| place.op));
            }
        }
        let mut seen = BTreeSet::new();
        ops.retain(|op| seen.insert(*op));
        Ok(ops)
    }

    /// The directory that a directory is found in, and its name there; nothing for the root, and for one that is gone.
    pub fn place_of(self, kv: &impl Kv, dir: DirId) -> Result<Option<(DirId, Name)>, KvError> {
        let places = self.places(kv, dir)?;
        Ok(places.shown().map(|(parent, name)| (parent, name.clone())))
    }

    /// Brings directories to where they belong by what is known of them, and all others whose place changes with that.
    fn settle(self, kv: &mut impl Kv, mut unsettled: Vec<DirId>) -> Result<(), KvError> {
        while let Some(dir) = unsettled.pop() {
            let before = self.places(kv, dir)?;
            let mut places = before.clone();
            places.home = match places.live.last() {
                Some(latest) => Some(latest.clone()),
                None if before.last.is_some() && self.has_anything(kv, dir)? => places.last.clone(),
                None => None,
            };
            let parent = |places: &Places| places.home.as_ref().map(|home| home.parent);
            if places.home != before.home {
                // Who was in a circle with it is in none any more, and who is in one now was not.
                unsettled.extend(self.circle(kv, dir)?);
                self.set_places(kv, dir, &places)?;
                unsettled.extend(self.circle(kv, dir)?);
            }
            places.is_loose = self.is_last_in_circle(kv, dir, &places)?;
            if places == before && self.is_shown(kv, dir, &places)? {
                continue;
            }
            self.set_places(kv, dir, &places)?;
            self.hide(kv, dir, &before)?;
            self.show(kv, dir, &places)?;
            let was_away = parent(&before).filter(|_| before.is_loose);
            let is_away = parent(&places).filter(|_| places.is_loose);
            if was_away != is_away {
                self.set_away(kv, was_away, |away| _ = away.remove(&dir))?;
                self.set_away(kv, is_away, |away| _ = away.insert(dir))?;
            }
            // What the one has lost and the other gained may be all that keeps it.
            if parent(&before) != parent(&places) {
                for parent in [parent(&before), parent(&places)].into_iter().flatten() {
                    if !parent.is_top() && self.places(kv, parent)?.live.is_empty() {
                        unsettled.push(parent);
                    }
                }
            }
        }
        Ok(())
    }

    /// The directories that are in each other with this one, it among them; none when it hangs together with the root, or with nothing.
    fn circle(self, kv: &impl Kv, dir: DirId) -> Result<Vec<DirId>, KvError> {
        let (mut way, mut seen, mut at) = (vec![dir], BTreeSet::from([dir]), dir);
        while let Some(home) = self.places(kv, at)?.home {
            at = home.parent;
            if at == dir {
                return Ok(way);
            }
            if at.is_top() || !seen.insert(at) {
                break;
            }
            way.push(at);
        }
        Ok(Vec::new())
    }

    fn is_last_in_circle(self, kv: &impl Kv, dir: DirId, places: &Places) -> Result<bool, KvError> {
        let others = self.circle(kv, dir)?;
        for other in &others {
            if self.places(kv, *other)?.home > places.home {
                return Ok(false);
            }
        }
        Ok(!others.is_empty())
    }

    /// Whether there is anything in a directory that was not removed, or in those below it that are gone but for what is in them.
    fn has_anything(self, kv: &impl Kv, dir: DirId) -> Result<bool, KvError> {
        let (mut left, mut seen) = (vec![dir], BTreeSet::from([dir]));
        while let Some(dir) = left.pop() {
            let mut below = self.places(kv, dir)?.away;
            let (prefix, mut after) = (self.register_key(dir, ""), None::<Vec<u8>>);
            loop {
                let rows = kv.scan(Table::Registers, &prefix, after.as_deref(), PAGE)?;
                let Some((last, _)) = rows.last() else { break };
                after = Some(last.clone());
                for (_, row) in rows {
                    for head in from_canonical::<Vec<Head>>(&row)? {
                        match head.value {
                            Value::File(_) | Value::Space(_) => return Ok(true),
                            Value::Directory(id) => _ = below.insert(id),
                        }
                    }
                }
            }
            for id in below {
                if !self.places(kv, id)?.live.is_empty() {
                    return Ok(true);
                }
                if seen.insert(id) {
                    left.push(id);
                }
            }
        }
        Ok(false)
    }

    fn is_shown(self, kv: &impl Kv, dir: DirId, places: &Places) -> Result<bool, KvError> {
        let Some((parent, name)) = places.shown() else {
            return Ok(true);
        };
        let mut heads = self.register(kv, parent, name)?;
        heads.retain(|head| head.value == Value::Directory(dir));
        Ok(heads == sorted(places.heads(dir)))
    }

    fn hide(self, kv: &mut impl Kv, dir: DirId, places: &Places) -> Result<(), KvError> {
        let Some((parent, name)) = places.shown() else {
            return Ok(());
        };
        let mut heads = self.register(kv, parent, name)?;
        heads.retain(|head| head.value != Value::Directory(dir));
        self.set_register(kv, (parent, name), &heads)
    }

    fn show(self, kv: &mut impl Kv, dir: DirId, places: &Places) -> Result<(), KvError> {
        let Some((parent, name)) = places.shown() else {
            return Ok(());
        };
        let mut heads = self.register(kv, parent, name)?;
        heads.extend(places.heads(dir));
        self.set_register(kv, (parent, name), &sorted(heads))
    }

    fn set_away(
        self,
        kv: &mut impl Kv,
        parent: Option<DirId>,
        change: impl FnOnce(&mut BTreeSet<DirId>),
    ) -> Result<(), KvError> {
        let Some(parent) = parent else { return Ok(()) };
        let mut places = self.places(kv, parent)?;
        change(&mut places.away);
        self.set_places(kv, parent, &places)
    }

    /// Takes the places of a directory that another replica knows of, after all that is in directories; the row's key is without the space. Whether it is a row of [`Table::Directories`].
    pub(crate) fn take_places(self, kv: &mut impl Kv, key: &[u8], row: &[u8]) -> Result<bool, KvError> {
        let (Ok(dir), Ok(places)) = (key.try_into(), from_canonical::<Places>(row)) else {
            return Ok(false);
        };
        let replaced = places.last.filter(|last| !places.live.contains(last));
        for place in places.live {
            self.place(kv, DirId(dir), place, true)?;
        }
        if let Some(place) = replaced {
            self.place(kv, DirId(dir), place, false)?;
        }
        Ok(true)
    }

    fn places(self, kv: &impl Kv, dir: DirId) -> Result<Places, KvError> {
        let row = kv.get(Table::Directories, &self.dir_key(dir))?;
        row.map_or_else(|| Ok(Places::default()), |row| Ok(from_canonical(&row)?))
    }

    fn set_places(self, kv: &mut impl Kv, dir: DirId, places: &Places) -> Result<(), KvError> {
        kv.put(Table::Directories, &self.dir_key(dir), &to_canonical(places))
    }
}

/// The latest first.
pub(super) fn sorted(mut heads: Vec<Head>) -> Vec<Head> {
    heads.sort_by_key(|head| std::cmp::Reverse((head.clock, head.op)));
    heads
}
