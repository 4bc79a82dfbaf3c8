//! Snapshots: names for what a space was at a moment. What there was then is not let go of while its snapshot is there.
//!
//! A snapshot is a clock, later than all that its maker knew, and costs nothing but its name. A value was there at that clock if it was set by then and replaced later: so
//! whoever has the same entries finds the same, also of what others had written by then and its maker had not heard of.

use crate::{Head, Kept, Kv, KvError, Name, OpId, Table, Value};
use potluck_types::{SpaceId, Timestamp, from_canonical, to_canonical};
use serde::{Deserialize, Serialize};

/// Rows that are read at once.
const PAGE: usize = 256;

/// What was said last of a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Taken {
    /// By which clock: the snapshot is of this moment.
    pub clock: Timestamp,
    /// By which operation.
    pub op: OpId,
    /// Whether it is there; else it was removed.
    pub is_there: bool,
}

/// The snapshots of one space.
#[derive(Clone, Copy, Debug)]
pub struct Snapshots {
    space: SpaceId,
}

impl Snapshots {
    /// Those of this space.
    pub fn of(space: SpaceId) -> Self {
        Self { space }
    }

    /// What is said last of a name holds.
    pub(crate) fn say(self, kv: &mut impl Kv, name: &Name, said: Taken) -> Result<(), KvError> {
        let known = self.said(kv, name)?;
        if known.is_none_or(|known| (known.clock, known.op) < (said.clock, said.op)) {
            kv.put(Table::Snapshots, &self.key(name), &to_canonical(&said))?;
        }
        Ok(())
    }

    fn said(self, kv: &impl Kv, name: &Name) -> Result<Option<Taken>, KvError> {
        let row = kv.get(Table::Snapshots, &self.key(name))?;
        row.map(|row| Ok(from_canonical(&row)?)).transpose()
    }

    /// A snapshot by its name.
    pub fn get(self, kv: &impl Kv, name: &Name) -> Result<Option<Taken>, KvError> {
        Ok(self.said(kv, name)?.filter(|said| said.is_there))
    }

    /// All that there are, by name.
    pub fn list(self, kv: &impl Kv) -> Result<Vec<(Name, Taken)>, KvError> {
        let (mut found, mut after) = (Vec::new(), None::<Vec<u8>>);
        loop {
            let rows = kv.scan(Table::Snapshots, self.space.as_bytes(), after.as_deref(), PAGE)?;
            let Some((last, _)) = rows.last() else { return Ok(found) };
            after = Some(last.clone());
            for (key, row) in rows {
                let said: Taken = from_canonical(&row)?;
                if said.is_there {
                    let name = String::from_utf8(key[32..].to_vec())?;
                    found.push((Name::try_from(name)?, said));
                }
            }
        }
    }

    /// The moments that are held on to.
    pub fn held(self, kv: &impl Kv) -> Result<Held, KvError> {
        let mut moments: Vec<_> = self.list(kv)?.into_iter().map(|(_, taken)| taken.clock).collect();
        moments.sort_unstable();
        Ok(Held(moments))
    }

    fn key(self, name: &Name) -> Vec<u8> {
        [&self.space.as_bytes()[..], name.as_str().as_bytes()].concat()
    }
}

/// Moments that are held on to, the earliest first.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Held(Vec<Timestamp>);

impl Held {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a value in the trash was there at one of them. A directory is needed for as long as something in it may be, wherever it was then.
    pub fn holds(&self, kept: &Kept) -> bool {
        let stored = match kept.head.value {
            Value::Directory(_) => Timestamp::default(),
            Value::File(_) | Value::Space(_) => kept.head.clock,
        };
        self.is_between(stored, kept.removal.clock)
    }

    /// The same of a value that is there still.
    pub fn holds_since(&self, head: &Head) -> bool {
        let last = self.0.last();
        last.is_some_and(|last| matches!(head.value, Value::Directory(_)) || head.clock <= *last)
    }

    /// Whether one of them is between when a value was set and when it was replaced.
    fn is_between(&self, stored: Timestamp, removed: Timestamp) -> bool {
        let at = self.0.partition_point(|moment| *moment < stored);
        self.0.get(at).is_some_and(|moment| *moment < removed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DirId, MemoryKv};
    use potluck_types::NodeId;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn said(clock: u64, device: u8, is_there: bool) -> Taken {
        let op = OpId {
            device: NodeId::from_bytes([device; 32]),
            seq: 1,
            at: 0,
        };
        Taken {
            clock: at(clock),
            op,
            is_there,
        }
    }

    #[test]
    fn what_is_said_last_of_a_name_holds() {
        let (snapshots, a) = (
            Snapshots::of(SpaceId::from_bytes([1; 32])),
            Name::try_from("a".to_owned()).unwrap(),
        );
        let all = [said(5, 1, true), said(9, 1, false), said(9, 2, true), said(7, 3, true)];
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]] {
            let mut kv = MemoryKv::default();
            for index in order {
                snapshots.say(&mut kv, &a, all[index]).unwrap();
            }
            assert_eq!(snapshots.get(&kv, &a).unwrap(), Some(all[2]));
            assert_eq!(snapshots.list(&kv).unwrap(), [(a.clone(), all[2])]);
            snapshots.say(&mut kv, &a, said(10, 1, false)).unwrap();
            assert_eq!(snapshots.get(&kv, &a).unwrap(), None);
            assert!(snapshots.held(&kv).unwrap().is_empty());
        }
    }

    #[test]
    fn what_was_there_at_a_moment_is_held() {
        let held = Held(vec![at(10), at(20)]);
        for (stored, removed, holds) in [
            (5, 9, false),
            (5, 10, false),
            (5, 11, true),
            (10, 11, true),
            (11, 20, false),
            (11, 21, true),
            (21, 99, false),
        ] {
            assert_eq!(held.is_between(at(stored), at(removed)), holds, "{stored} {removed}");
        }
        let head = |clock, value| Head {
            clock: at(clock),
            op: said(clock, 1, true).op,
            value,
            recoded: None,
        };
        let (space, directory) = (
            Value::Space(SpaceId::from_bytes([2; 32])),
            Value::Directory(DirId::ROOT),
        );
        assert!(held.holds_since(&head(20, space.clone())) && !held.holds_since(&head(21, space.clone())));
        assert!(held.holds_since(&head(21, directory.clone())));
        assert!(!Held::default().holds_since(&head(0, directory)) && !Held::default().holds_since(&head(0, space)));
    }
}
