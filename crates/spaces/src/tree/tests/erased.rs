//! Devices that erase while others edit: all have the same in the end, also one that has heard of nothing before and one that makes its tables anew,
//! and what was erased is in nobody's log.

use super::*;
use crate::{EntryId, make_anew};

impl Device {
    /// Takes from another what it has more of all logs, as it has it.
    pub(super) fn hear(&mut self, other: &MemoryKv) {
        let log = Log::of(SPACE);
        for device in log.frontier(other).unwrap().into_keys() {
            let known = log
                .position(&self.kv, device)
                .unwrap()
                .map_or(0, |position| position.seq);
            for logged in log.entries_after(other, device, known, usize::MAX).unwrap() {
                let sent = Logged::from_bytes(&logged.to_bytes()).unwrap();
                assert_eq!(sent, logged);
                assert_eq!(self.take(&sent).unwrap(), Append::New);
            }
        }
    }

    /// All entries that are here.
    fn entries(&self) -> Vec<(NodeId, Entry)> {
        let log = Log::of(SPACE);
        let devices = log.frontier(&self.kv).unwrap().into_keys();
        let all = devices.flat_map(|device| log.entries_after(&self.kv, device, 0, usize::MAX).unwrap());
        all.map(|logged| logged.open().unwrap())
            .map(|(entry, device)| (device, entry))
            .collect()
    }

    /// What is to be said again of an entry without this content; nothing when it has it not.
    fn says(&self, (device, entry): (NodeId, &Entry), content: u8) -> Option<Vec<Change>> {
        let changes = Tree::of(SPACE).open(&self.keys, entry).unwrap();
        let id = EntryId { device, seq: entry.seq };
        Change::without((id, entry), changes, &mut |file| file.content[..] == [content])
    }

    /// Whether what is in a file can be told from any log.
    fn tells(&self, content: u8) -> bool {
        let mut entries = self.entries();
        let log = Log::of(SPACE);
        for (device, entry) in entries.clone() {
            for by in log.notices(&self.kv, device, entry.seq).unwrap() {
                entries.push((device, by));
            }
        }
        entries
            .iter()
            .any(|(device, entry)| self.says((*device, entry), content).is_some())
    }

    /// Lets go of all files with this content, and erases it.
    pub(super) fn erase(&mut self, content: u8) {
        let is_it = |head: &Head| matches!(&head.value, Value::File(file) if file.content[..] == [content]);
        let rows = |table| self.kv.scan(table, &[], None, usize::MAX).unwrap();
        let mut changes = Vec::new();
        let free = |parent, name: Name, op| Change::Set {
            parent,
            name,
            value: None,
            replaces: vec![op],
            fate: Fate::Freed,
        };
        for (key, row) in rows(Table::Registers) {
            let heads: Vec<Head> = from_canonical(&row).unwrap();
            let parent = DirId(key[32..48].try_into().unwrap());
            let name = || Name::try_from(String::from_utf8(key[48..].to_vec()).unwrap()).unwrap();
            changes.extend(
                heads
                    .iter()
                    .filter(|head| is_it(head))
                    .map(|head| free(parent, name(), head.op)),
            );
        }
        for (_, row) in rows(Table::Kept) {
            let kept: Kept = from_canonical(&row).unwrap();
            if is_it(&kept.head) {
                changes.push(free(kept.parent, kept.name, kept.head.op));
            }
        }
        self.write(&changes, Vec::new(), Vec::new());
        for (device, entry) in self.entries() {
            for again in self.says((device, &entry), content).into_iter().flatten() {
                self.say_erased(again.restates().unwrap(), &[again]);
            }
        }
    }

    fn say_erased(&mut self, erased: EntryId, changes: &[Change]) -> Logged {
        self.now += 1;
        let body = Body {
            sealed: Tree::of(SPACE).seal(self.keys.of(None).unwrap(), changes, &SystemEntropy),
            erases: Some(erased),
            ..Body::default()
        };
        let now = Timestamp::from_millis(self.now);
        let logged = Log::of(SPACE).next_entry(&self.kv, &self.key, now, body).unwrap();
        self.take(&logged).unwrap();
        logged
    }

    /// The tables that people see, and those that they follow from.
    pub(super) fn shown(&self) -> MemoryKv {
        let mut state = self.state();
        // Who has heard an entry and who has heard what is left of it have the same.
        state
            .0
            .retain(|(table, _), _| !matches!(table, Table::Restated | Table::Erased));
        state
    }
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    Put(usize, u8, u8),
    PutTwo(usize, u8, u8),
    Rename(usize, u8, u8),
    Remove(usize, u8),
    /// A directory is put into the other one, or taken out of it.
    Nest(usize, u8),
    RemoveDirectory(usize, u8),
    Recode(usize, u8),
    Erase(usize, u8),
    Meet(usize, usize),
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (who, at, content) = (0..3usize, 0..4u8, 1..6u8);
    let step = prop_oneof![
        (who.clone(), at.clone(), content.clone()).prop_map(|(who, at, content)| Step::Put(who, at, content)),
        (who.clone(), content.clone(), content.clone()).prop_map(|(who, one, two)| Step::PutTwo(who, one, two)),
        (who.clone(), at.clone(), 4..8u8).prop_map(|(who, from, to)| Step::Rename(who, from, to)),
        (who.clone(), at.clone()).prop_map(|(who, at)| Step::Remove(who, at)),
        (who.clone(), at.clone()).prop_map(|(who, at)| Step::Nest(who, at)),
        (who.clone(), 0..2u8).prop_map(|(who, at)| Step::RemoveDirectory(who, at)),
        (who.clone(), at).prop_map(|(who, at)| Step::Recode(who, at)),
        (who.clone(), content).prop_map(|(who, content)| Step::Erase(who, content)),
        (who.clone(), who).prop_map(|(from, to)| Step::Meet(from, to)),
    ];
    prop::collection::vec(step, 1..40)
}

fn place(at: u8) -> String {
    format!("/{}/{at}", at % 2)
}

pub(super) fn take_step(devices: &mut [Device], step: &Step) {
    match *step {
        Step::Put(who, at, content) => _ = devices[who].set(&place(at), Some(content)),
        // Two files in one entry, with what one of them was before.
        Step::PutTwo(who, one, two) => {
            let device = &mut devices[who];
            let set = |name: &str, content: u8| Change::Set {
                parent: DirId::ROOT,
                name: name.to_owned().try_into().unwrap(),
                value: Some(Value::File(File {
                    id: FileId::generate(None, &SystemEntropy),
                    len: 1,
                    modified: Timestamp::from_millis(0),
                    executable: false,
                    uses: vec![stripe(content)],
                    content: ByteBuf::from(vec![content]),
                    asked: None,
                    survives: 0,
                })),
                replaces: Tree::of(SPACE)
                    .heads(&device.kv, DirId::ROOT, &name.to_owned().try_into().unwrap())
                    .unwrap()
                    .into_iter()
                    .map(|head| head.op)
                    .collect(),
                fate: device.fate,
            };
            let changes = [set("one", one), set("two", two)];
            device.write(&changes, vec![stripe(one), stripe(two)], Vec::new());
        }
        Step::Rename(who, from, to) => _ = devices[who].rename(&place(from), &place(to)),
        Step::Remove(who, at) => _ = devices[who].set(&place(at), None),
        Step::Nest(who, at) => {
            let (inner, outer) = (at % 2, (at + 1) % 2);
            let (top, nested) = (format!("/{inner}"), format!("/{outer}/{inner}"));
            let (from, to) = if at < 2 { (top, nested) } else { (nested, top) };
            devices[who].rename(&from, &to);
        }
        Step::RemoveDirectory(who, at) => _ = devices[who].remove_all(&format!("/{at}")),
        Step::Recode(who, at) => {
            let found = view().find(&devices[who].kv, &path(&place(at)));
            if let Ok(Some(found)) = found
                && let Some(head) = found.heads.first()
                && let Value::File(file) = &head.value
                && !file.is_erased()
            {
                let file = File {
                    id: FileId::generate(None, &SystemEntropy),
                    ..file.clone()
                };
                let recode = Change::Recode {
                    parent: found.parent,
                    name: found.name.clone(),
                    of: head.op,
                    file,
                };
                devices[who].write(&[recode], Vec::new(), Vec::new());
            }
        }
        Step::Erase(who, content) => devices[who].erase(content),
        Step::Meet(from, to) if from != to => {
            let kv = devices[from].kv.clone();
            devices[to].hear(&kv);
        }
        Step::Meet(..) => {}
    }
}

pub(super) fn all_meet(devices: &mut [Device]) {
    for _ in 0..2 {
        for from in 0..devices.len() {
            let kv = devices[from].kv.clone();
            devices.iter_mut().for_each(|device| device.hear(&kv));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn whoever_erases_when_all_have_the_same_and_a_newcomer_and_who_makes_all_anew_too(
        steps in steps(),
        kept in any::<bool>(),
    ) {
        let mut devices: Vec<Device> = (1..=3).map(Device::new).collect();
        for device in &mut devices {
            device.fate = if kept { Fate::Kept(60_000) } else { Fate::Freed };
        }
        for step in &steps {
            take_step(&mut devices, step);
        }
        all_meet(&mut devices);
        // What one moved while the other erased it is erased when they have met.
        devices[0].erase(1);
        all_meet(&mut devices);
        let (first, others) = devices.split_first().unwrap();
        for other in others {
            prop_assert!(other.shown() == first.shown(), "the tables differ");
        }
        for device in &devices {
            prop_assert!(!device.tells(1));
            let mut newcomer = Device::new(9);
            newcomer.hear(&device.kv);
            prop_assert!(newcomer.shown() == first.shown(), "a newcomer's differ");
            let mut anew = device.kv.clone();
            make_anew(SPACE, &mut anew, &device.keys, Tree::of(SPACE)).unwrap();
            let anew = Device { kv: anew, ..Device::new(8) };
            prop_assert!(anew.shown() == first.shown(), "those that are made anew differ");
        }
    }
}

#[test]
fn an_entry_without_its_changes_is_taken_with_the_word_of_who_erased_them_and_not_without() {
    let mut writer = Device::new(1);
    let entry = writer.set("/x", Some(1));
    let (device, bytes) = (writer.key.node_id(), entry.to_bytes());
    writer.erase(1);
    let log = Log::of(SPACE);
    let without = log.entry(&writer.kv, device, 1).unwrap().unwrap();
    assert_eq!(without.hash(), entry.hash());
    let mut other = Device::new(2);
    let stripped = |logged: &Logged| Logged::from_bytes(&logged.signed_alone()).unwrap();
    assert!(matches!(
        other.take(&stripped(&entry)),
        Err(AppendError::Stripped { seq: 1, .. })
    ));
    // The word of another entry is none.
    let frees = log.entry(&writer.kv, device, 2).unwrap().unwrap();
    assert!(matches!(
        other.take(&stripped(&entry).said_by(&frees)),
        Err(AppendError::Stripped { seq: 1, .. })
    ));
    other.take(&without).unwrap();
    // Who has heard of it takes no changes any more.
    assert_eq!(other.take(&entry).unwrap(), Append::Known);
    assert!(!other.tells(1));
    let mut late = Device::new(3);
    let notice = log.entry(&writer.kv, device, 3).unwrap().unwrap();
    let said = notice.open().unwrap().0;
    assert_eq!(said.erases, Some(EntryId { device, seq: 1 }));
    // An entry's own changes, and no others.
    let mut garbled = bytes;
    let at = garbled.len() - 1;
    garbled[at] ^= 1;
    assert!(
        Logged::from_bytes(&garbled)
            .map(|logged| late.take(&logged))
            .is_ok_and(|taken| taken.is_err())
    );
    late.hear(&writer.kv);
    assert_eq!(late.files(), []);
}

#[test]
fn what_is_said_again_counts_from_who_erased_and_from_nobody_else() {
    let (mut writer, mut owner, mut forger) = (Device::new(1), Device::new(2), Device::new(3));
    let entry = writer.set("/x", Some(1));
    let again = |content: u8| {
        let mut changes = Tree::of(SPACE).open(&writer.keys, &entry.open().unwrap().0).unwrap();
        for change in &mut changes {
            if let Change::Set {
                value: Some(Value::File(file)),
                ..
            } = change
            {
                file.content = ByteBuf::from(vec![content]);
            }
        }
        Change::Restate {
            device: writer.key.node_id(),
            seq: 1,
            clock: entry.open().unwrap().0.clock,
            changes,
        }
    };
    let forged = forger.write(&[again(7)], Vec::new(), Vec::new());
    let good = owner.say_erased(again(2).restates().unwrap(), &[again(2)]);
    let later = owner.write(&[again(3)], Vec::new(), Vec::new());
    let mut reader = Device::new(4);
    for logged in [&forged, &good, &later, &forged, &entry] {
        reader.take(logged).unwrap();
    }
    assert_eq!(reader.files(), [("/x".to_owned(), vec![2])]);
}

/// Whoever has it erased would say it for them, and be believed.
#[test]
fn what_an_entry_says_again_without_having_erased_it_is_not_said_again() {
    let (mut victim, mut writer) = (Device::new(1), Device::new(2));
    let entry = victim.set("/x", Some(1));
    let (device, seq) = (victim.key.node_id(), 1);
    let forged = Change::Restate {
        device,
        seq,
        clock: Timestamp::from_millis(1),
        changes: Vec::new(),
    };
    let own = writer.set("/y", Some(2)).open().unwrap().0;
    let changes = Tree::of(SPACE).open(&writer.keys, &own).unwrap();
    let both: Vec<_> = changes.into_iter().chain([forged]).collect();
    let with_forged = writer.write(&both, Vec::new(), Vec::new());
    let mut owner = Device::new(3);
    owner.hear(&writer.kv);
    owner.take(&entry).unwrap();
    let (said, by) = with_forged.open().unwrap();
    let again = owner.says((by, &said), 2).unwrap();
    let own = EntryId {
        device: by,
        seq: said.seq,
    };
    assert_eq!(again.iter().map(Change::restates).collect::<Vec<_>>(), [Some(own)]);
    owner.erase(2);
    assert!(owner.files().contains(&("/x".to_owned(), vec![1])));
    let mut newcomer = Device::new(4);
    newcomer.hear(&owner.kv);
    assert_eq!(newcomer.files(), owner.files());
    assert!(newcomer.shown() == owner.shown());
}
