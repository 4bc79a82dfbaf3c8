//! Devices that write apart and meet: the same tree everywhere, and nothing lost.

mod apart;
mod areas;
mod checkpoint;
mod erased;

use super::*;
use crate::{
    Append, AppendError, Appended, AreaId, Body, Branch, Charter, EpochId, Kept, Liveness, Log, Logged, MemoryKv, Pins,
    Totals, Trash, View,
};
use potluck_crypto::{SigningKey, Speakers, UserKeys};
use potluck_types::{SystemEntropy, Timestamp};
use proptest::prelude::*;

const SPACE: SpaceId = SpaceId::from_bytes([9; 32]);

struct Device {
    key: SigningKey,
    keys: Keys,
    /// Under which of them it writes.
    epoch: Option<EpochId>,
    kv: MemoryKv,
    now: u64,
    /// What becomes of what it replaces.
    fate: Fate,
}

fn path(text: &str) -> Path {
    text.parse().unwrap()
}

fn stripe(i: u8) -> StripeId {
    StripeId::from_bytes([i; 32])
}

impl Device {
    fn new(seed: u8) -> Self {
        let space_key = BoxKey::from_bytes([5; 32]);
        Self {
            key: SigningKey::from_seed(&[seed; 32]),
            keys: Keys::private(space_key),
            epoch: None,
            kv: MemoryKv::default(),
            now: 1_000,
            fate: Fate::Freed,
        }
    }

    fn write(&mut self, changes: &[Change], pins: Vec<StripeId>, unpins: Vec<StripeId>) -> Logged {
        let area = changes.iter().find_map(Change::area);
        self.write_in(area, changes, pins, unpins)
    }

    fn write_in(
        &mut self,
        area: Option<AreaId>,
        changes: &[Change],
        pins: Vec<StripeId>,
        unpins: Vec<StripeId>,
    ) -> Logged {
        self.now += 1;
        let key = self.keys.within(self.epoch, area).unwrap();
        let sealed = Tree::of(SPACE).seal(&key, changes, &SystemEntropy);
        let now = Timestamp::from_millis(self.now);
        let entry = Log::of(SPACE)
            .next_entry(
                &self.kv,
                &self.key,
                now,
                Body {
                    pins,
                    unpins,
                    sealed,
                    epoch: self.epoch,
                    area,
                    ..Body::default()
                },
            )
            .unwrap();
        self.take(&entry).unwrap();
        entry
    }

    fn take(&mut self, signed: &Logged) -> Result<Append, AppendError> {
        let Appended {
            append, entry, device, ..
        } = Log::of(SPACE).append(&mut self.kv, signed)?;
        if append == Append::New {
            Tree::of(SPACE).apply(&mut self.kv, &self.keys, device, &entry).unwrap();
        }
        Ok(append)
    }

    /// Sets a path to a file that uses one stripe, or removes it.
    fn set(&mut self, at: &str, content: Option<u8>) -> Logged {
        self.set_content(at, content.map(|i| vec![i]))
    }

    fn set_content(&mut self, at: &str, content: Option<Vec<u8>>) -> Logged {
        let used = content.as_ref().map(|content| stripe(content[0]));
        let tree = Tree::of(SPACE);
        let (parent, leaf) = path(at).split().map(|(parent, leaf)| (parent, leaf.clone())).unwrap();
        let (mut changes, parent) = view().make_directories(&self.kv, &parent, &SystemEntropy).unwrap();
        let replaces = tree
            .heads(&self.kv, parent, &leaf)
            .unwrap()
            .into_iter()
            .map(|head| head.op)
            .collect();
        let value = content.map(|content| {
            Value::File(File {
                id: FileId::generate(parent.area(), &SystemEntropy),
                len: 1,
                modified: Timestamp::from_millis(0),
                executable: false,
                uses: vec![stripe(content[0])],
                content: ByteBuf::from(content),
                asked: None,
                survives: 0,
            })
        });
        changes.push(Change::Set {
            parent,
            name: leaf,
            value,
            replaces,
            fate: self.fate,
        });
        self.write(&changes, used.into_iter().collect(), Vec::new())
    }

    /// Moves what is at a path to another directory, or gives it another name, unless there is nothing, or that cannot be.
    fn rename(&mut self, from: &str, to: &str) -> Option<Logged> {
        let tree = Tree::of(SPACE);
        let (from, to) = (path(from), path(to));
        let found = view().find(&self.kv, &from).ok()??;
        let (parent, name) = to.split()?;
        let parent = view().directory(&self.kv, &parent).ok()?;
        if to.is_within(&from) || !tree.heads(&self.kv, parent, name).unwrap().is_empty() {
            return None;
        }
        let set = |(parent, name): (DirId, &Name), value, replaces| Change::Set {
            parent,
            name: name.clone(),
            value,
            replaces,
            fate: if self.fate.keeps() {
                Fate::Moved(60_000)
            } else {
                Fate::Carried
            },
        };
        let mut changes: Vec<_> = Head::distinct(&found.heads)
            .map(|head| set((parent, name), Some(again(&head.value)), Vec::new()))
            .collect();
        let name = from.split()?.1;
        changes.push(set(
            (found.parent, name),
            None,
            tree.all_ops(&self.kv, &found.heads).unwrap(),
        ));
        Some(self.write(&changes, Vec::new(), Vec::new()))
    }

    /// Removes a directory with all that is in it.
    fn remove_all(&mut self, at: &str) -> Option<Logged> {
        let tree = Tree::of(SPACE);
        let at = path(at);
        let found = view().find(&self.kv, &at).ok()??;
        let mut changes = Vec::new();
        let mut left = vec![(found.parent, at.split()?.1.clone(), found.heads)];
        while let Some((parent, name, heads)) = left.pop() {
            for head in &heads {
                if let Value::Directory(id) = head.value {
                    let listed = tree.list(&self.kv, id, None, 1000).unwrap();
                    left.extend(listed.into_iter().map(|listed| (id, listed.name, listed.heads)));
                }
            }
            changes.push(Change::Set {
                parent,
                name,
                value: None,
                replaces: tree.all_ops(&self.kv, &heads).unwrap(),
                fate: self.fate,
            });
        }
        changes.reverse();
        Some(self.write(&changes, Vec::new(), Vec::new()))
    }

    /// The paths of all directories, in order.
    fn directories(&self) -> Vec<String> {
        let (mut found, mut left) = (Vec::new(), vec![(Path::root(), DirId::ROOT)]);
        while let Some((at, directory)) = left.pop() {
            assert!(found.len() < 1000, "directories are in each other");
            for listed in Tree::of(SPACE).list(&self.kv, directory, None, 1000).unwrap() {
                let here = at.join(listed.name);
                for head in Head::distinct(&listed.heads) {
                    if let Value::Directory(id) = head.value {
                        found.push(here.to_string());
                        left.push((here.clone(), id));
                    }
                }
            }
        }
        found.sort();
        found
    }

    /// How many file versions have a name, wherever that is.
    fn versions(&self) -> usize {
        let rows = self.kv.scan(Table::Registers, &[], None, usize::MAX).unwrap();
        let count = |(_, row): &(Vec<u8>, Vec<u8>)| {
            let heads: Vec<Head> = from_canonical(row).unwrap();
            Head::distinct(&heads)
                .filter(|head| matches!(head.value, Value::File(_)))
                .count()
        };
        rows.iter().map(count).sum()
    }

    /// Lets go of all that the trash has of a path.
    fn empty_trash(&mut self, at: &str) -> Logged {
        let at = path(at);
        let (parent, name) = at.split().unwrap();
        let parent = view().directory(&self.kv, &parent).unwrap_or(DirId::ROOT);
        let kept = Trash::of(SPACE).at(&self.kv, parent, name).unwrap();
        let change = Change::Set {
            parent,
            name: name.clone(),
            value: None,
            replaces: kept.iter().map(|kept| kept.head.op).collect(),
            fate: Fate::Freed,
        };
        let given_up = Tree::of(SPACE)
            .given_up(&self.kv, std::slice::from_ref(&change))
            .unwrap();
        self.write(&[change], Vec::new(), given_up)
    }

    /// What the trash has of the root's names, with the contents, but for what lives on elsewhere.
    fn trash(&self) -> Vec<(String, u8)> {
        let kept = Trash::of(SPACE).list(&self.kv, DirId::ROOT, None, 1000).unwrap();
        let content = |kept: &Kept| match &kept.head.value {
            Value::File(file) => file.content[0],
            Value::Directory(_) | Value::Space(_) => 0,
        };
        let named = |(name, kept): &(Name, Vec<Kept>)| -> Vec<_> {
            let gone = kept.iter().filter(|kept| !kept.lives_on());
            gone.map(|kept| (name.to_string(), content(kept))).collect()
        };
        kept.iter().flat_map(named).collect()
    }

    /// All that is derived. What was replaced before it came is remembered only where that happened, and so is who removed a file first.
    fn state(&self) -> MemoryKv {
        let mut state = self.kv.clone();
        state
            .0
            .retain(|(table, _), _| !matches!(table, Table::Replaced | Table::Turnover));
        state
    }

    /// Every path with the contents of its values.
    fn files(&self) -> Vec<(String, Vec<u8>)> {
        let (mut found, mut directories) = (Vec::new(), vec![(Path::root(), DirId::ROOT)]);
        while let Some((at, directory)) = directories.pop() {
            for listed in Tree::of(SPACE).list(&self.kv, directory, None, 1000).unwrap() {
                let here = at.join(listed.name);
                let mut contents = Vec::new();
                for head in Head::distinct(&listed.heads) {
                    match &head.value {
                        Value::Directory(id) => directories.push((here.clone(), *id)),
                        Value::File(file) => contents.push(file.content[0]),
                        Value::Space(_) => {}
                    }
                }
                if !contents.is_empty() {
                    found.push((here.to_string(), contents));
                }
            }
        }
        found.sort();
        found
    }
}

#[test]
fn files_are_found_listed_replaced_and_removed() {
    let mut device = Device::new(1);
    device.set("/a/b/one", Some(1));
    device.set("/a/b/two", Some(2));
    device.set("/a/b/one", Some(3));
    assert_eq!(
        device.files(),
        [("/a/b/one".to_owned(), vec![3]), ("/a/b/two".to_owned(), vec![2])]
    );
    device.set("/a/b/two", None);
    assert_eq!(device.files(), [("/a/b/one".to_owned(), vec![3])]);
    assert!(matches!(
        view().find(&device.kv, &path("/a/x")),
        Err(TreeError::NotFound(_))
    ));
    assert!(matches!(
        view().directory(&device.kv, &path("/a/b/one")),
        Err(TreeError::NotADirectory(_))
    ));
}

#[test]
fn edits_apart_are_both_kept_and_an_edit_of_both_settles_it() {
    let (mut a, mut b) = (Device::new(1), Device::new(2));
    let first = a.set("/report", Some(1));
    b.take(&first).unwrap();
    let (from_a, from_b) = (a.set("/report", Some(2)), b.set("/report", Some(3)));
    a.take(&from_b).unwrap();
    b.take(&from_a).unwrap();
    assert_eq!(a.files(), b.files());
    assert_eq!(a.files()[0].1.len(), 2);
    let settled = a.set("/report", Some(4));
    b.take(&settled).unwrap();
    assert_eq!(b.files(), [("/report".to_owned(), vec![4])]);
}

#[test]
fn a_directory_made_twice_is_one() {
    let (mut a, mut b) = (Device::new(1), Device::new(2));
    let (from_a, from_b) = (a.set("/photos/x", Some(1)), b.set("/photos/y", Some(2)));
    a.take(&from_b).unwrap();
    b.take(&from_a).unwrap();
    assert_eq!(a.files(), b.files());
    assert_eq!(a.files().len(), 2);
}

#[test]
fn stripes_are_used_until_the_last_file_lets_go() {
    let mut device = Device::new(1);
    device.set("/a", Some(7));
    device.set("/b", Some(7));
    let tree = Tree::of(SPACE);
    let removal = |device: &Device, at: &str| {
        let found = view().find(&device.kv, &path(at)).unwrap().unwrap();
        Change::Set {
            parent: found.parent,
            name: path(at).split().unwrap().1.clone(),
            value: None,
            replaces: found.heads.iter().map(|head| head.op).collect(),
            fate: Fate::Freed,
        }
    };
    let (a, b) = (removal(&device, "/a"), removal(&device, "/b"));
    let given_up = |device: &Device, changes: &[Change]| tree.given_up(&device.kv, changes).unwrap();
    assert_eq!(given_up(&device, std::slice::from_ref(&a)), []);
    assert_eq!(given_up(&device, &[a.clone(), b]), [stripe(7)]);
    device.set("/b", None);
    assert!(tree.is_used(&device.kv, stripe(7)).unwrap());
    assert_eq!(given_up(&device, &[a]), [stripe(7)]);
    device.set("/a", None);
    assert!(!tree.is_used(&device.kv, stripe(7)).unwrap());
}

#[test]
fn an_upload_that_never_ends_lets_go_of_its_stripes() {
    let mut device = Device::new(1);
    let tree = Tree::of(SPACE);
    let file = FileId::from_bytes([9; 16]);
    let uses = |stripes: Vec<StripeId>| Change::Uses { file, part: 0, stripes };
    device.write(
        &[uses(vec![stripe(1), stripe(2)])],
        vec![stripe(1), stripe(2)],
        Vec::new(),
    );
    device.set("/other", Some(2));
    assert!(tree.is_used(&device.kv, stripe(1)).unwrap());
    assert_eq!(tree.given_up(&device.kv, &[uses(Vec::new())]).unwrap(), [stripe(1)]);
    device.write(&[uses(Vec::new())], Vec::new(), vec![stripe(1)]);
    assert!(!tree.is_used(&device.kv, stripe(1)).unwrap());
    assert!(tree.is_used(&device.kv, stripe(2)).unwrap());
    let pins = Pins::of(SPACE).list(&device.kv, None, 10).unwrap();
    assert_eq!(pins.len(), 2);
    assert_eq!(
        Pins::of(SPACE).list(&device.kv, Some(pins[0].0), 10).unwrap(),
        pins[1..]
    );
}

/// The change that says that the only version of a path lies in another stripe now.
fn recode(device: &Device, at: &str, i: u8) -> Change {
    let found = view().find(&device.kv, &path(at)).unwrap().unwrap();
    let Value::File(file) = &found.heads[0].value else {
        unreachable!()
    };
    Change::Recode {
        parent: found.parent,
        name: path(at).split().unwrap().1.clone(),
        of: found.heads[0].op,
        file: File {
            id: FileId::generate(None, &SystemEntropy),
            uses: vec![stripe(i)],
            ..file.clone()
        },
    }
}

fn used(device: &Device) -> Vec<u8> {
    let is_used = |i: &u8| Tree::of(SPACE).is_used(&device.kv, stripe(*i)).unwrap();
    (0..20).filter(is_used).collect()
}

#[test]
fn a_version_that_moved_gives_way_to_an_edit_whichever_comes_first() {
    let (mut a, mut b) = (Device::new(1), Device::new(2));
    let made = a.set("/f", Some(1));
    b.take(&made).unwrap();
    let change = recode(&a, "/f", 11);
    assert_eq!(
        Tree::of(SPACE).given_up(&a.kv, std::slice::from_ref(&change)).unwrap(),
        [stripe(1)]
    );
    let moved = a.write(&[change], vec![stripe(11)], vec![stripe(1)]);
    assert_eq!(used(&a), [11]);
    let edited = b.set("/f", Some(2));
    // A third device gets all of it, the move before what it moves.
    for order in [[&made, &moved, &edited], [&made, &edited, &moved]] {
        let mut c = Device::new(3);
        for entry in order {
            c.take(entry).unwrap();
        }
        assert_eq!(c.files(), [("/f".to_owned(), vec![2])]);
        assert_eq!(used(&c), [2]);
    }
    a.take(&edited).unwrap();
    b.take(&moved).unwrap();
    for device in [&a, &b] {
        assert_eq!(device.files(), [("/f".to_owned(), vec![2])]);
        assert_eq!(used(device), [2]);
    }
}

#[test]
fn of_two_moves_of_one_version_the_later_counts_in_every_order() {
    let (mut a, mut b, mut c) = (Device::new(1), Device::new(2), Device::new(3));
    let made = a.set("/f", Some(1));
    b.take(&made).unwrap();
    c.take(&made).unwrap();
    let change = recode(&b, "/f", 11);
    let by_b = b.write(&[change], vec![stripe(11)], Vec::new());
    c.now += 10;
    let change = recode(&c, "/f", 12);
    let by_c = c.write(&[change], vec![stripe(12)], Vec::new());
    for order in [
        [&made, &by_b, &by_c],
        [&made, &by_c, &by_b],
        [&by_b, &made, &by_c],
        [&by_c, &by_b, &made],
        [&by_b, &by_c, &made],
    ] {
        let mut d = Device::new(4);
        for entry in order {
            d.take(entry).unwrap();
        }
        assert_eq!(used(&d), [12]);
        // An edit made before the move was seen replaces what it saw.
        let edited = a.set("/f", Some(3));
        d.take(&edited).unwrap();
        assert_eq!(d.files(), [("/f".to_owned(), vec![3])]);
        assert_eq!(used(&d), [3]);
        a = Device::new(1);
        a.take(&made).unwrap();
    }
}

#[test]
fn pins_tell_live_from_dead_from_unknown() {
    let mut device = Device::new(1);
    let liveness = |device: &Device, i| Pins::of(SPACE).state(&device.kv, stripe(i)).unwrap().liveness();
    device.write(&[], vec![stripe(1), stripe(2)], Vec::new());
    device.write(&[], Vec::new(), vec![stripe(1)]);
    assert_eq!(liveness(&device, 1), Liveness::Dead);
    assert_eq!(liveness(&device, 2), Liveness::Live);
    assert_eq!(liveness(&device, 3), Liveness::Unknown);
    device.write(&[], vec![stripe(1)], Vec::new());
    assert_eq!(liveness(&device, 1), Liveness::Live);
}

#[test]
fn logs_refuse_gaps_forks_and_forgeries() {
    let (mut a, mut b) = (Device::new(1), Device::new(2));
    let (one, two) = (a.set("/x", Some(1)), a.set("/x", Some(2)));
    assert!(matches!(
        b.take(&two),
        Err(AppendError::Gap {
            expected: 1,
            found: 2,
            ..
        })
    ));
    b.take(&one).unwrap();
    assert_eq!(b.take(&one).unwrap(), Append::Known);
    // Logs begin with 1: nothing before it is known.
    let (mut zeroth, _) = one.open().unwrap();
    zeroth.seq = 0;
    let zeroth = Logged::sign(&a.key, zeroth).unwrap();
    assert!(matches!(
        b.take(&zeroth),
        Err(AppendError::Gap {
            expected: 2,
            found: 0,
            ..
        })
    ));
    let mut copied = Device::new(1);
    let other = copied.set("/x", Some(9));
    assert!(matches!(b.take(&other), Err(AppendError::Fork { seq: 1, .. })));
    let mut bytes = two.to_bytes();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    assert!(Logged::from_bytes(&bytes).is_err() || b.take(&Logged::from_bytes(&bytes).unwrap()).is_err());
    b.take(&two).unwrap();
    assert_eq!(a.files(), b.files());
}

#[test]
fn entries_are_given_out_in_order_and_in_batches() {
    let mut device = Device::new(1);
    for i in 0..10 {
        device.set("/x", Some(i));
    }
    let (log, id) = (Log::of(SPACE), device.key.node_id());
    assert_eq!(log.entries_after(&device.kv, id, 0, 100).unwrap().len(), 10);
    assert_eq!(log.entries_after(&device.kv, id, 7, 100).unwrap().len(), 3);
    assert_eq!(log.entries_after(&device.kv, id, 2, 4).unwrap().len(), 4);
    assert_eq!(log.frontier(&device.kv).unwrap()[&id].seq, 10);
}

#[test]
fn what_is_removed_and_overwritten_is_in_the_trash_until_it_is_let_go_of() {
    let mut device = Device::new(1);
    device.fate = Fate::Kept(60_000);
    device.set("/f", Some(1));
    device.set("/f", Some(2));
    device.set("/f", None);
    assert_eq!(device.files(), []);
    assert_eq!(device.trash(), [("f".to_owned(), 2), ("f".to_owned(), 1)]);
    assert_eq!(used(&device), [1, 2]);
    assert!(!Tree::of(SPACE).is_needed(&device.kv, stripe(1)).unwrap());
    device.set("/g", Some(1));
    assert!(Tree::of(SPACE).is_needed(&device.kv, stripe(1)).unwrap());
    device.fate = Fate::Freed;
    device.set("/g", None);
    let trash = Trash::of(SPACE);
    let latest = &trash
        .at(&device.kv, DirId::ROOT, path("/f").split().unwrap().1)
        .unwrap()[0];
    assert!(!latest.removal.overwrites);
    assert_eq!(
        latest.removal.until.as_millis(),
        latest.removal.clock.as_millis() + 60_000
    );
    let expiring = trash.expiring(&device.kv, None, 10).unwrap();
    assert_eq!(expiring.len(), 2);
    assert_eq!(
        trash.expiring(&device.kv, Some(expiring[0]), 10).unwrap(),
        expiring[1..]
    );
    let totals = trash.totals(&device.kv).unwrap();
    assert_eq!((totals.files, totals.kept, totals.kept_bytes), (0, 2, 2));
    device.empty_trash("/f");
    assert_eq!((device.trash(), used(&device)), (Vec::new(), Vec::new()));
    assert_eq!(trash.totals(&device.kv).unwrap(), Totals::default());
    let is_dead = |i| Pins::of(SPACE).state(&device.kv, stripe(i)).unwrap().liveness() == Liveness::Dead;
    assert!(is_dead(1) && is_dead(2));
}

/// Removed apart: once for a month, once for a year, once for good. Whoever hears of them in whatever order has the same.
#[test]
fn of_two_removals_the_longer_counts_and_letting_go_counts_for_good() {
    let mut devices = [Device::new(1), Device::new(2), Device::new(3)];
    let made = devices[0].set("/f", Some(1));
    let mut removals = Vec::new();
    for (device, fate) in devices
        .iter_mut()
        .zip([Fate::Kept(30_000), Fate::Kept(365_000), Fate::Freed])
    {
        let _ = device.take(&made);
        device.fate = fate;
        removals.push(device.set("/f", None));
    }
    let [month, year, good] = &removals[..] else {
        unreachable!()
    };
    for (order, kept) in [
        (vec![&made, month, year], true),
        (vec![year, &made, month], true),
        (vec![month, year, &made], true),
        (vec![&made, month, good], false),
        (vec![good, &made, month], false),
        (vec![year, good, &made], false),
    ] {
        let mut device = Device::new(4);
        // The first device's removal follows what it has made.
        if order[0] == month || order[1] == month && order[0] != &made {
            device.take(&made).unwrap();
        }
        for entry in order {
            device.take(entry).unwrap();
        }
        let found = Trash::of(SPACE)
            .at(&device.kv, DirId::ROOT, path("/f").split().unwrap().1)
            .unwrap();
        assert_eq!(device.files(), []);
        match kept {
            true => assert_eq!(
                found[0].removal.until.as_millis(),
                found[0].removal.clock.as_millis() + 365_000
            ),
            false => assert!(found.is_empty() && used(&device).is_empty()),
        }
    }
}

#[test]
fn what_is_in_the_trash_moves_to_other_stripes_as_what_has_a_name() {
    let (mut a, mut b) = (Device::new(1), Device::new(2));
    a.fate = Fate::Kept(60_000);
    let made = a.set("/f", Some(1));
    b.take(&made).unwrap();
    let change = recode(&b, "/f", 11);
    let moved = b.write(&[change], vec![stripe(11)], vec![stripe(1)]);
    let removed = a.set("/f", None);
    a.take(&moved).unwrap();
    b.take(&removed).unwrap();
    for device in [&a, &b] {
        assert_eq!(device.trash(), [("f".to_owned(), 1)]);
        assert_eq!(used(device), [11]);
    }
}

#[test]
fn files_are_counted_and_what_was_not_counted_can_be() {
    let mut device = Device::new(1);
    for name in ["/a", "/b/c", "/b/d"] {
        device.set(name, Some(1));
    }
    device.set("/a", None);
    let counted = Trash::of(SPACE).totals(&device.kv).unwrap();
    assert_eq!(counted.files, 2);
    device.kv.0.retain(|(table, _), _| *table != Table::Totals);
    Tree::count_all(&mut device.kv).unwrap();
    assert_eq!(Trash::of(SPACE).totals(&device.kv).unwrap(), counted);
}

/// The same as a version of its own: the old one lets go of its stripes when its name does.
fn again(value: &Value) -> Value {
    match value {
        Value::File(file) => Value::File(File {
            id: FileId::generate(file.id.area(), &SystemEntropy),
            ..file.clone()
        }),
        other => other.clone(),
    }
}

#[test]
fn what_its_author_sealed_wrongly_keeps_nobody_from_the_rest() {
    let user = UserKeys::new(SigningKey::from_seed(&[1; 32]));
    let now = Timestamp::from_millis(1);
    let charter = Charter::found(&user, &Speakers::default(), now, &SystemEntropy).unwrap();
    let (space, epoch) = (charter.space(), charter.current());
    let keys = charter.keys(&user, Timestamp::default());
    let (mut writer, mut reader) = (MemoryKv::default(), MemoryKv::default());
    let change = Change::Accept {
        until: Timestamp::from_millis(7),
    };
    let good = Tree::of(space).seal(keys.of(epoch).unwrap(), &[change], &SystemEntropy);
    for sealed in [vec![5; 100], vec![5], good] {
        let body = Body {
            sealed,
            epoch,
            ..Body::default()
        };
        let signed = Log::of(space).next_entry(&writer, user.signing(), now, body).unwrap();
        for kv in [&mut writer, &mut reader] {
            let Appended { entry, device, .. } = Log::of(space).append(kv, &signed).unwrap();
            Tree::of(space).apply(kv, &keys, device, &entry).unwrap();
        }
    }
    let totals = Trash::of(space).totals(&reader).unwrap();
    assert_eq!(totals.accepted, Timestamp::from_millis(7));
}

#[test]
fn of_two_settings_that_were_said_apart_the_later_holds() {
    let set = |device: &mut Device, survive| {
        let settings = Settings {
            survive,
            keep_ms: Some(1),
            quota: None,
        };
        device.write(&[Change::Settings(settings)], Vec::new(), Vec::new());
    };
    let settings = |device: &Device| Tree::of(SPACE).settings(&device.kv).unwrap();
    assert_eq!(settings(&Device::new(1)), Settings::default());
    let later = |other: &mut Device| {
        other.now += 10;
        set(other, Some(2));
    };
    let device = apart(&[], |one| set(one, Some(1)), later);
    assert_eq!(settings(&device).survive, Some(2));
    let device = apart(&[], later, |other| set(other, None));
    assert_eq!(settings(&device).survive, Some(2));
}

/// Devices that do something apart, and then meet.
fn apart(common: &[Logged], a: impl Fn(&mut Device), b: impl Fn(&mut Device)) -> Device {
    let (mut one, mut other) = (Device::new(1), Device::new(2));
    for entry in common {
        one.take(entry).unwrap();
        other.take(entry).unwrap();
    }
    a(&mut one);
    b(&mut other);
    let log = |device: &Device| {
        Log::of(SPACE)
            .entries_after(&device.kv, device.key.node_id(), 0, 100)
            .unwrap()
    };
    let (of_one, of_other) = (log(&one), log(&other));
    of_other.iter().for_each(|entry| _ = one.take(entry).unwrap());
    of_one.iter().for_each(|entry| _ = other.take(entry).unwrap());
    assert!(one.state() == other.state(), "the tables differ");
    one
}

fn before(paths: &[&str]) -> Vec<Logged> {
    let mut device = Device::new(9);
    paths.iter().zip(1..).map(|(at, i)| device.set(at, Some(i))).collect()
}

#[test]
fn directories_that_are_moved_into_each_other_hang_in_the_root() {
    let device = apart(
        &before(&["/a/one", "/b/two"]),
        |one| _ = one.rename("/a", "/b/a").unwrap(),
        |other| {
            other.now += 10;
            other.rename("/b", "/a/b").unwrap();
        },
    );
    assert_eq!(device.directories(), ["/b", "/b/a"]);
    assert_eq!(
        device.files(),
        [("/b/a/one".to_owned(), vec![1]), ("/b/two".to_owned(), vec![2])]
    );
    // It is moved from there as from anywhere.
    let mut device = device;
    device.rename("/b/a", "/c").unwrap();
    assert_eq!(device.directories(), ["/c", "/c/b"]);
}

#[test]
fn of_two_moves_of_a_directory_the_later_counts() {
    let mut device = apart(
        &before(&["/d/one", "/x/two", "/y/three"]),
        |one| _ = one.rename("/d", "/x/d").unwrap(),
        |other| {
            other.now += 10;
            other.rename("/d", "/y/e").unwrap();
        },
    );
    assert_eq!(device.directories(), ["/x", "/y", "/y/e"]);
    device.remove_all("/y/e").unwrap();
    assert_eq!(device.directories(), ["/x", "/y"]);
}

#[test]
fn what_is_put_into_a_directory_that_another_removes_is_not_lost() {
    let mut device = apart(
        &before(&["/a/b/one", "/a/two"]),
        |one| _ = one.remove_all("/a").unwrap(),
        |other| _ = other.set("/a/b/three", Some(3)),
    );
    assert_eq!(device.files(), [("/a/b/three".to_owned(), vec![3])]);
    assert_eq!(device.directories(), ["/a", "/a/b"]);
    // With the last that is in them they are gone.
    device.set("/a/b/three", None);
    assert!(device.directories().is_empty());
    device.set("/a/b/four", Some(4));
    assert_eq!(device.directories(), ["/a", "/a/b"]);
    device.remove_all("/a").unwrap();
    assert!(device.directories().is_empty() && device.files().is_empty());
}

struct Called;

impl crate::Machines for Called {
    fn called(&self, machine: NodeId) -> String {
        let is_first = machine == SigningKey::from_seed(&[1; 32]).node_id();
        if is_first { "laptop" } else { "a/b)c" }.to_owned()
    }
}

/// The space as a person sees it.
fn view() -> View<'static> {
    View::of(Tree::of(SPACE), &Called)
}

/// The names of the root, as a person sees them.
fn names(device: &Device) -> Vec<String> {
    let listed = Tree::of(SPACE).list(&device.kv, DirId::ROOT, None, 100).unwrap();
    let seen = listed
        .iter()
        .flat_map(|listed| view().seen(&listed.name, &listed.heads));
    seen.map(|seen| seen.name.to_string()).collect()
}

#[test]
fn each_value_of_a_name_is_found_under_a_name_of_its_own() {
    let long = format!("/{}.odt", "ü".repeat(125));
    for (at, copy) in [
        (
            "/report.odt",
            "report (conflict, laptop, 1970-01-01 00:00).odt".to_owned(),
        ),
        ("/.profile", ".profile (conflict, laptop, 1970-01-01 00:00)".to_owned()),
        (
            "/one.two three",
            "one (conflict, laptop, 1970-01-01 00:00).two three".to_owned(),
        ),
        (
            &long[..],
            format!("{} (conflict, laptop, 1970-01-01 00:00).odt", "ü".repeat(107)),
        ),
    ] {
        let device = apart(
            &[],
            |one| _ = one.set(at, Some(1)),
            |other| {
                other.now += 1;
                other.set(at, Some(2));
            },
        );
        assert_eq!(names(&device), [copy.clone(), at[1..].to_owned()]);
        let view = view();
        let content = |name: &str| match &view.find(&device.kv, &path(name)).unwrap().unwrap().heads[0].value {
            Value::File(file) => file.content[0],
            _ => 0,
        };
        assert_eq!((content(at), content(&format!("/{copy}"))), (2, 1));
        let found = view.find(&device.kv, &path(&format!("/{copy}"))).unwrap().unwrap();
        assert_eq!(
            (found.is_copy, found.heads.len(), found.name.as_str()),
            (true, 1, &at[1..])
        );
        for wrong in ["desk", "lap, x", "a-b-c"] {
            let other = copy.replace("laptop", wrong);
            assert!(view.find(&device.kv, &path(&format!("/{other}"))).is_err(), "{other}");
        }
    }
    // Machines are called what their people like.
    let device = apart(
        &[],
        |one| {
            one.now += 1;
            one.set("/f", Some(1));
        },
        |other| _ = other.set("/f", Some(2)),
    );
    assert_eq!(names(&device), ["f (conflict, a-b-c, 1970-01-01 00:00)", "f"]);
    // What two moved together conflicts like anything, and by one machine in one minute.
    let mut device = device;
    device.rename("/f", "/g").unwrap();
    device.rename("/g", "/h").unwrap();
    assert_eq!(names(&device), ["h (conflict, laptop, 1970-01-01 00:00)", "h"]);
}

#[test]
fn what_is_in_a_directory_beside_a_file_is_found() {
    let device = apart(
        &[],
        |one| _ = one.set("/x/f", Some(1)),
        |other| {
            other.now += 10;
            other.set("/x", Some(2));
        },
    );
    assert_eq!(names(&device), ["x (conflict, laptop, 1970-01-01 00:00)", "x"]);
    let view = view();
    let below = path("/x (conflict, laptop, 1970-01-01 00:00)/f");
    assert!(!view.find(&device.kv, &below).unwrap().unwrap().is_copy);
}

fn fates() -> impl Strategy<Value = Fate> {
    prop_oneof![
        Just(Fate::Carried),
        Just(Fate::Freed),
        (1u64..4).prop_map(|days| Fate::Kept(days * 86_400_000)),
        Just(Fate::Shelved(86_400_000)),
        (1u64..4).prop_map(|days| Fate::Moved(days * 86_400_000)),
    ]
}

/// What is known of one name, and what counts of it, after changes apart, in whatever order they come.
#[test]
fn what_was_moved_or_brought_back_is_known_where_it_was_when_and_counts_where_it_is() {
    let mut a = Device::new(1);
    let first = a.set("/f", Some(1));
    let mut b = Device::new(2);
    b.take(&first).unwrap();
    let of = |device: &Device| {
        let name = "f".to_owned().try_into().unwrap();
        Trash::of(SPACE).at(&device.kv, DirId::ROOT, &name).unwrap()
    };
    a.fate = Fate::Kept(60_000);
    b.fate = Fate::Kept(60_000);
    b.now = 5_000;
    let (removed, moved) = (a.set("/f", None), b.rename("/f", "/g").unwrap());
    let removed_at = removed.open().unwrap().0.clock;
    let tree = Tree::of(SPACE);
    // Who moves it alone knows that it was here until then, and counts it once.
    let [only] = &of(&b)[..] else { panic!("one version") };
    assert_eq!((only.removal.moved, only.lives_on()), (Moved::Only, true));
    assert!(only.was_there(only.head.clock) && only.was_there(Timestamp::from_millis(5_000)));
    let totals = tree.trash().totals(&b.kv).unwrap();
    assert_eq!((totals.files, totals.kept, totals.kept_bytes), (1, 0, 0));
    // It lives for as long as it has a name, or is in the trash itself.
    assert!(tree.does_live_on(&b.kv, only).unwrap());
    let mut freed = b.kv.clone();
    let g = tree
        .heads(&freed, DirId::ROOT, &"g".to_owned().try_into().unwrap())
        .unwrap();
    tree.release_value(&mut freed, &g[0].value).unwrap();
    assert!(!tree.does_live_on(&freed, only).unwrap() && tree.is_used(&freed, stripe(1)).unwrap());
    // Who removed it before did that then, on all machines.
    b.take(&removed).unwrap();
    a.take(&moved).unwrap();
    for device in [&a, &b] {
        let [both] = &of(device)[..] else { panic!("one version") };
        assert_eq!((both.removal.moved, both.removal.clock), (Moved::Also, removed_at));
    }
    assert!(a.state() == b.state(), "the tables differ");
}

/// Whoever has cut off what does not count knows what those know who never took it.
#[test]
fn what_is_cut_off_a_log_is_as_if_it_had_never_come() {
    let (mut a, mut other) = (Device::new(1), Device::new(2));
    let log = [
        a.set("/f", Some(1)),
        a.set("/g", Some(2)),
        a.set("/f", Some(3)),
        a.set("/g", None),
    ];
    let theirs = other.set("/h", Some(4));
    let (mut all, mut few) = (Device::new(3), Device::new(3));
    for entry in log.iter().chain([&theirs]) {
        all.take(entry).unwrap();
    }
    for entry in log[..2].iter().chain([&theirs]) {
        few.take(entry).unwrap();
    }
    let branch = Branch::of(SPACE, a.key.node_id());
    assert_eq!(branch.cut(&mut all.kv, &all.keys, Tree::of(SPACE), 2).unwrap(), 2);
    assert!(all.state() == few.state(), "the tables differ");
    assert_eq!(branch.next_aside(&all.kv).unwrap(), None);
    // Should it count after all, it is taken like any other.
    assert_eq!(all.take(&log[2]).unwrap(), Append::New);
}

/// Its home was restored from an image of the day before, it wrote while it was alone, and only then met who knew what it had written since.
#[test]
fn a_device_that_comes_back_older_keeps_what_it_wrote_and_undoes_nothing() {
    let (mut a, mut b) = (Device::new(1), Device::new(2));
    let (one, gone) = (a.set("/f", Some(1)), a.set("/gone", Some(9)));
    let mut image = Device {
        kv: a.kv.clone(),
        ..Device::new(1)
    };
    let log = [
        one,
        gone,
        a.set("/f", Some(2)),
        a.set("/gone", None),
        a.set("/later", Some(3)),
    ];
    for entry in &log {
        b.take(entry).unwrap();
    }
    image.now = 9_000;
    let beside = image.set("/f", Some(4));
    image.set("/alone", Some(5));
    let last = image.set("/alone", Some(6));
    assert!(matches!(b.take(&beside), Err(AppendError::Fork { seq: 3, .. })));

    let (branch, tree) = (Branch::of(SPACE, image.key.node_id()), Tree::of(SPACE));
    assert_eq!(branch.set_aside(&mut image.kv, &image.keys, tree, 2).unwrap(), 3);
    for (seq, entry) in [(3, &beside), (5, &last)] {
        assert!(branch.is_given_up(&image.kv, seq, entry.hash()).unwrap());
    }
    assert!(!branch.is_given_up(&image.kv, 3, log[2].hash()).unwrap());
    for entry in &log[2..] {
        image.take(entry).unwrap();
    }
    let said: Vec<_> = std::iter::from_fn(|| {
        let again = branch.next_aside(&image.kv).unwrap()?;
        let changes = tree.open(&image.keys, &again.entry).unwrap();
        let changes = again.changes(image.key.node_id(), changes);
        let entry = image.write(&changes, again.entry.pins, again.entry.unpins);
        let now = entry.open().unwrap().0.seq;
        branch.said_again(&mut image.kv, again.seq, now).unwrap();
        Some(entry)
    })
    .collect();
    for entry in &said {
        b.take(entry).unwrap();
    }
    assert_eq!(
        b.files(),
        [
            ("/alone".to_owned(), vec![6]),
            ("/f".to_owned(), vec![4, 2]),
            ("/later".to_owned(), vec![3])
        ]
    );
    assert_eq!(image.files(), b.files());
    image.kv.0.retain(|(table, _), _| *table != Table::GivenUp);
    assert!(image.state() == b.state(), "the tables differ");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Three devices edit, remove and empty the trash apart, and exchange logs at random; in the end all have all entries, and the same tables.
    #[test]
    fn all_orders_of_arrival_give_the_same_trash(
        steps in prop::collection::vec(
            (0usize..3, 0u8..3, prop::option::of(0u8..20), fates(), any::<bool>(), prop::option::of(0usize..3)),
            1..40,
        )
    ) {
        let mut devices = [Device::new(1), Device::new(2), Device::new(3)];
        let mut logs: [Vec<Logged>; 3] = Default::default();
        let exchange = |devices: &mut [Device; 3], logs: &[Vec<Logged>; 3], from: usize, to: usize| {
            for entry in &logs[from] {
                devices[to].take(entry).unwrap();
            }
        };
        for (who, at, content, fate, empties, meets) in steps {
            devices[who].fate = fate;
            let at = format!("/f{at}");
            let entry = if empties { devices[who].empty_trash(&at) } else { devices[who].set(&at, content) };
            logs[who].push(entry);
            if let Some(with) = meets {
                exchange(&mut devices, &logs, who, with);
            }
        }
        for (from, to) in [(2, 0), (1, 0), (0, 1), (2, 1), (1, 2), (0, 2)] {
            exchange(&mut devices, &logs, from, to);
        }
        for device in &devices[1..] {
            prop_assert_eq!(device.files(), devices[0].files());
            prop_assert_eq!(device.trash(), devices[0].trash());
            prop_assert!(device.state() == devices[0].state(), "the tables differ");
        }
        let totals = Trash::of(SPACE).totals(&devices[0].kv).unwrap();
        let versions: usize = devices[0].files().iter().map(|(_, contents)| contents.len()).sum();
        prop_assert_eq!((totals.files >= versions as u64, totals.kept), (true, devices[0].trash().len() as u64));
        let mut of_devices = std::collections::BTreeMap::<NodeId, u64>::new();
        let mut count = |head: &Head| {
            if let Value::File(file) = &head.value {
                *of_devices.entry(head.op.device).or_default() += file.len;
            }
        };
        let tree = Tree::of(SPACE);
        for (key, row) in devices[0].kv.scan(Table::Registers, SPACE.as_bytes(), None, usize::MAX).unwrap() {
            assert!(key.len() > 48);
            from_canonical::<Vec<Head>>(&row).unwrap().iter().for_each(&mut count);
        }
        for (_, row) in devices[0].kv.scan(Table::Kept, SPACE.as_bytes(), None, usize::MAX).unwrap() {
            let kept = from_canonical::<Kept>(&row).unwrap();
            if !kept.lives_on() {
                count(&kept.head);
            }
        }
        of_devices.retain(|_, bytes| *bytes > 0);
        prop_assert_eq!(tree.trash().written(&devices[0].kv).unwrap(), of_devices);
    }

    /// Four devices put files into directories, move these, and remove them, apart: in the end each directory is in one place, and each file in one.
    #[test]
    fn directories_stand_in_one_place_each(
        steps in prop::collection::vec((0usize..4, 0u8..4, 0u8..16, 0u8..16, fates(), prop::option::of(0usize..4)), 1..60)
    ) {
        // Directories in directories, up to two deep.
        let name = |i: u8| match i % 16 {
            i @ 0..4 => format!("/{i}"),
            i => format!("/{}/{}", i / 4, i % 4),
        };
        let mut devices = [1, 2, 3, 4].map(Device::new);
        let mut logs: [Vec<Logged>; 4] = Default::default();
        for (who, what, at, to, fate, meets) in steps {
            let device = &mut devices[who];
            device.fate = fate;
            let there = device.directories();
            let one_of = |i: u8| there.get(usize::from(i) % there.len().max(1)).map_or("/0", String::as_str);
            let entry = match what {
                0 => device.remove_all(one_of(at)),
                1 | 2 => {
                    let (from, into) = (one_of(at), if to == 0 { "" } else { one_of(to) });
                    let (_, leaf) = from.rsplit_once('/').unwrap();
                    device.rename(from, &format!("{into}/{leaf}"))
                }
                _ => Some(device.set(&format!("{}/f{}", name(at), to % 2), Some(to))),
            };
            logs[who].extend(entry);
            if let Some(with) = meets {
                logs[who].iter().for_each(|entry| _ = devices[with].take(entry).unwrap());
            }
        }
        for device in &mut devices {
            logs.iter().flatten().for_each(|entry| _ = device.take(entry).unwrap());
        }
        let directories = devices[0].directories();
        let shown: usize = devices[0].files().iter().map(|(_, contents)| contents.len()).sum();
        prop_assert_eq!(shown, devices[0].versions(), "a file is in no directory, or in several: {:?}", directories);
        for device in &devices[1..] {
            prop_assert_eq!(&device.directories(), &directories);
            prop_assert!(device.state() == devices[0].state(), "the tables differ");
        }
    }

    /// Three devices edit apart and exchange logs at random; in the end all have all entries, and the same tables.
    #[test]
    fn all_orders_of_arrival_give_the_same_tree(
        steps in prop::collection::vec((0usize..3, 0u8..5, prop::option::of(0u8..20), any::<bool>(), 0usize..3), 1..40)
    ) {
        let mut devices = [Device::new(1), Device::new(2), Device::new(3)];
        let mut logs: [Vec<Logged>; 3] = Default::default();
        let exchange = |devices: &mut [Device; 3], logs: &[Vec<Logged>; 3], from: usize, to: usize| {
            for entry in &logs[from] {
                devices[to].take(entry).unwrap();
            }
        };
        for (who, at, content, meet, with) in steps {
            let entry = devices[who].set(&format!("/d{}/f{at}", at % 2), content);
            logs[who].push(entry);
            if meet {
                exchange(&mut devices, &logs, who, with);
            }
        }
        for (from, to) in [(2, 0), (1, 0), (0, 1), (2, 1), (1, 2), (0, 2)] {
            exchange(&mut devices, &logs, from, to);
        }
        // One that had no key when the entries came.
        let mut late = Device::new(4);
        let keys = std::mem::take(&mut late.keys);
        for entry in logs.iter().flatten() {
            late.take(entry).unwrap();
        }
        prop_assert!(late.files().is_empty() && !Tree::of(SPACE).is_unsealed(&late.kv).unwrap());
        while Tree::of(SPACE).unseal(&mut late.kv, &keys, 3).unwrap().is_some() {}
        prop_assert!(Tree::of(SPACE).is_unsealed(&late.kv).unwrap());
        prop_assert!(late.state() == devices[0].state(), "the tables differ");
        let files = devices[0].files();
        for device in &devices[1..] {
            prop_assert_eq!(&device.files(), &files);
            prop_assert!(device.state() == devices[0].state(), "the tables differ");
        }
    }
}
