//! Two who read all of a space, and two who read and write one directory of it, and nothing else.

use super::*;
use crate::{Scope, Snapshots, make_anew};

/// Who has all of it, and who has the area.
const WHOLE: std::ops::Range<usize> = 0..2;
const ALL: usize = 4;

fn area() -> AreaId {
    AreaId::of_tests(7)
}

fn epoch() -> EpochId {
    Hash::of(b"epoch")
}

fn space_key() -> BoxKey {
    BoxKey::from_bytes([5; 32])
}

/// All of them know a directory of the area, and one beside it, each with a file.
fn devices() -> Vec<Device> {
    let mut devices: Vec<Device> = (0..ALL).map(device).collect();
    let first = &mut devices[0];
    let top = Change::Set {
        parent: DirId::ROOT,
        name: "shared".to_owned().try_into().unwrap(),
        value: Some(Value::Directory(area().top())),
        replaces: Vec::new(),
        fate: Fate::Carried,
    };
    let said = [
        first.write(&[top], Vec::new(), Vec::new()),
        first.set("/shared/d/one", Some(1)),
        first.set("/other/one", Some(2)),
    ];
    for device in &mut devices[1..] {
        for entry in &said {
            device.take(entry).unwrap();
        }
    }
    devices
}

fn device(at: usize) -> Device {
    let area = (!WHOLE.contains(&at)).then(area);
    let mut device = Device {
        keys: Keys::of_epoch(epoch(), &space_key(), area),
        epoch: Some(epoch()),
        fate: Fate::Kept(1000),
        ..Device::new(u8::try_from(at).unwrap() + 1)
    };
    Tree::of(SPACE).show_areas(&mut device.kv, device.keys.scope()).unwrap();
    device
}

#[derive(Clone, Debug)]
enum Step {
    Put(usize, bool, u8, u8),
    Rename(usize, bool, u8, u8),
    /// A directory goes into another one, or is removed.
    Move(usize, bool, u8, u8),
    Remove(usize, bool, u8),
    /// A modified client of one who has only the area says something of what is outside of it.
    Intrude(usize, u8),
    Meet(usize, usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (who, inside, at, content) = (0..ALL, any::<bool>(), 0..6u8, 1..9u8);
    let here = (who.clone(), inside, at);
    let step = prop_oneof![
        4 => (here.clone(), content).prop_map(|((who, inside, at), content)| Step::Put(who, inside, at, content)),
        2 => (here.clone(), 0..6u8).prop_map(|((who, inside, at), to)| Step::Rename(who, inside, at, to)),
        2 => (here.clone(), 0..6u8).prop_map(|((who, inside, at), to)| Step::Move(who, inside, at, to)),
        2 => here.prop_map(|(who, inside, at)| Step::Remove(who, inside, at)),
        2 => (WHOLE.end..ALL, any::<u8>()).prop_map(|(who, what)| Step::Intrude(who, what)),
        4 => (who.clone(), who).prop_map(|(from, to)| Step::Meet(from, to)),
    ];
    prop::collection::vec(step, 1..50)
}

fn place(inside: bool, at: u8) -> String {
    let top = if inside { "shared" } else { "other" };
    format!("/{top}/d{}/{at}", at % 3)
}

fn directory(inside: bool, at: u8) -> String {
    let top = if inside { "shared" } else { "other" };
    format!("/{top}/d{}", at % 3)
}

fn take_step(devices: &mut [Device], step: &Step) {
    let has_it = |who: usize, inside: bool| inside || WHOLE.contains(&who);
    match *step {
        Step::Put(who, inside, at, content) if has_it(who, inside) => {
            let is_there = match inside {
                true => "/shared",
                false => "/other",
            };
            // Who removes all of it makes it anew, elsewhere: nobody who has only the area does.
            if view().find(&devices[who].kv, &path(is_there)).is_ok() {
                devices[who].set(&place(inside, at), Some(content));
            }
        }
        Step::Rename(who, inside, at, to) if has_it(who, inside) => {
            devices[who].rename(&place(inside, at), &format!("{}/to-{to}", directory(inside, to)));
        }
        Step::Move(who, inside, at, to) if has_it(who, inside) => {
            devices[who].rename(&directory(inside, at), &format!("{}/in-{to}", directory(inside, to)));
        }
        Step::Remove(who, inside, at) if has_it(who, inside) => {
            if at == 5 {
                devices[who].remove_all(&directory(inside, at));
            } else if view().find(&devices[who].kv, &path(&place(inside, at))).is_ok() {
                devices[who].set(&place(inside, at), None);
            }
        }
        Step::Intrude(who, what) => intrude(devices, who, what),
        Step::Meet(from, to) if from != to => tell(devices, from, to),
        _ => {}
    }
}

/// What it knows of the space it has from who reads all of it.
fn intrude(devices: &mut [Device], who: usize, what: u8) {
    let rows = devices[0].kv.scan(Table::Registers, &[], None, usize::MAX).unwrap();
    let outside: Vec<(DirId, Name, Vec<Head>)> = rows
        .iter()
        .map(|(key, row)| {
            let name = String::from_utf8(key[48..].to_vec()).unwrap();
            let dir = DirId(key[32..48].try_into().unwrap());
            (dir, name.try_into().unwrap(), from_canonical(row).unwrap())
        })
        .filter(|(dir, ..)| dir.area().is_none())
        .collect();
    let (parent, name, heads) = outside[usize::from(what) % outside.len()].clone();
    let replaces: Vec<OpId> = heads.iter().map(|head| head.op).collect();
    let set = |parent, value| Change::Set {
        parent,
        name: name.clone(),
        value,
        replaces: replaces.clone(),
        fate: Fate::Freed,
    };
    let file = File {
        id: FileId::generate(Some(area()), &SystemEntropy),
        len: 1,
        modified: Timestamp::from_millis(0),
        executable: false,
        uses: Vec::new(),
        content: ByteBuf::from([99]),
        asked: None,
        survives: 0,
    };
    let theirs = match &heads[0].value {
        Value::File(file) => file.id,
        Value::Directory(_) | Value::Space(_) => file.id,
    };
    let change = match what % 9 {
        0 => set(parent, None),
        1 => set(parent, Some(Value::File(file))),
        // In the area, but it replaces what is elsewhere, or takes a directory from there.
        2 => set(area().top(), None),
        3 => set(area().top(), Some(heads[0].value.clone())),
        4 => set(area().top(), Some(Value::Directory(area().top()))),
        5 => Change::Recode {
            parent: area().top(),
            name: name.clone(),
            of: replaces[0],
            file,
        },
        6 => Change::Uses {
            file: theirs,
            part: 0,
            stripes: Vec::new(),
        },
        7 => Change::Settings(Settings {
            survive: Some(0),
            keep_ms: Some(0),
            quota: Some(0),
        }),
        _ => Change::Snapshot {
            name: name.clone(),
            is_there: true,
        },
    };
    devices[who].write_in(Some(area()), &[change], Vec::new(), Vec::new());
}

fn tell(devices: &mut [Device], from: usize, to: usize) {
    let log = Log::of(SPACE);
    let theirs = log.frontier(&devices[from].kv).unwrap();
    for device in theirs.into_keys() {
        let known = log.position(&devices[to].kv, device).unwrap();
        let known = known.map_or(0, |position| position.seq);
        for entry in log.entries_after(&devices[from].kv, device, known, usize::MAX).unwrap() {
            devices[to].take(&entry).unwrap();
        }
    }
}

/// What is in a table, of directories in the area, or of others.
fn rows_of(kv: &MemoryKv, table: Table, inside: bool) -> Vec<(Vec<u8>, Vec<u8>)> {
    let is_it = |key: &[u8]| DirId(key[32..48].try_into().unwrap()).area().is_some() == inside;
    let mut rows = kv.scan(table, &[], None, usize::MAX).unwrap();
    rows.retain(|(key, _)| is_it(key));
    rows
}

/// The tables in which two differ, with a row of each.
fn differing(one: &Device, other: &Device) -> Vec<(Table, String)> {
    let (one, other) = (one.state().0, other.state().0);
    let keys: BTreeSet<_> = one.keys().chain(other.keys()).collect();
    // What an intruder says of what is not here yet is remembered where that happened.
    let keys = keys.into_iter().filter(|(table, _)| *table != Table::Recoded);
    let differs = keys.filter(|key| one.get(*key) != other.get(*key));
    let row = |row: Option<&Vec<u8>>| row.map(|row| String::from_utf8_lossy(row).into_owned());
    differs
        .map(|key| {
            (
                key.0,
                format!("{:?}: {:?} {:?}", &key.1[32..], row(one.get(key)), row(other.get(key))),
            )
        })
        .collect()
}

fn check(steps: &[Step]) {
    let mut devices = devices();
    for step in steps {
        take_step(&mut devices, step);
    }
    // What those say who have only the area changes nothing outside of it.
    let mut without = device(0);
    for author in [0, 1] {
        for known in 0..ALL {
            let author = devices[author].key.node_id();
            let at = Log::of(SPACE)
                .position(&without.kv, author)
                .unwrap()
                .map_or(0, |at| at.seq);
            let entries = Log::of(SPACE).entries_after(&devices[known].kv, author, at, usize::MAX);
            for entry in entries.unwrap() {
                without.take(&entry).unwrap();
            }
        }
    }
    for _ in 0..2 {
        for from in 0..ALL {
            for to in (0..ALL).filter(|to| *to != from) {
                tell(&mut devices, from, to);
            }
        }
    }
    assert_eq!(differing(&devices[0], &devices[1]), []);
    assert_eq!(differing(&devices[2], &devices[3]), []);
    for table in [Table::Registers, Table::KeptAt] {
        assert_eq!(
            rows_of(&devices[0].kv, table, false),
            rows_of(&without.kv, table, false)
        );
        // Who has the area sees of it what all others see.
        assert_eq!(
            rows_of(&devices[0].kv, table, true),
            rows_of(&devices[2].kv, table, true)
        );
        let theirs = rows_of(&devices[2].kv, table, false);
        assert!(
            theirs
                .iter()
                .all(|(key, _)| table == Table::Registers && key[48..] == *b"shared")
        );
    }
    let tree = Tree::of(SPACE);
    assert_eq!(tree.settings(&devices[0].kv).unwrap(), Settings::default());
    assert!(Snapshots::of(SPACE).list(&devices[0].kv).unwrap().is_empty());
    // The same for who comes later, or has the area only then.
    for (at, device) in devices.iter().enumerate() {
        let mut anew = device.kv.clone();
        make_anew(SPACE, &mut anew, &device.keys, tree).unwrap();
        let anew = Device {
            kv: anew,
            ..self::device(at)
        };
        assert_eq!(differing(&anew, device), [], "{at}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn an_area_is_the_same_for_all_and_nothing_in_it_changes_what_is_outside(steps in steps()) {
        check(&steps);
    }
}

#[test]
fn who_has_an_area_finds_it_in_the_root_and_nothing_else() {
    let devices = devices();
    assert_eq!(devices[2].files(), [("/shared/d/one".to_owned(), vec![1])]);
    assert_eq!(devices[0].files().len(), 2);
    let Scope::Areas { areas, .. } = devices[2].keys.scope() else {
        panic!("they have all of it");
    };
    assert_eq!(areas.len(), 1);
}

/// An entry of the area that erases another, and says so again of it.
fn erasing(device: &mut Device, erased: EntryId, changes: &[Change]) -> Logged {
    device.now += 1;
    let key = device.keys.within(device.epoch, Some(area())).unwrap();
    let body = Body {
        sealed: Tree::of(SPACE).seal(&key, changes, &SystemEntropy),
        erases: Some(erased),
        epoch: device.epoch,
        area: Some(area()),
        ..Body::default()
    };
    let now = Timestamp::from_millis(device.now);
    let logged = Log::of(SPACE).next_entry(&device.kv, &device.key, now, body).unwrap();
    device.take(&logged).unwrap();
    logged
}

#[test]
fn what_is_said_again_in_an_area_says_nothing_of_the_space_and_in_no_other_time() {
    let settings = Change::Settings(Settings {
        survive: Some(0),
        keep_ms: Some(0),
        quota: Some(0),
    });
    for wrong_clock in [false, true] {
        let mut devices = devices();
        let written = devices[2].set("/shared/d/x", Some(3));
        let (entry, device) = written.open().unwrap();
        let again = Change::Restate {
            device,
            seq: entry.seq,
            clock: entry.clock + Duration::from_millis(u64::from(wrong_clock)),
            changes: vec![settings.clone()],
        };
        let id = EntryId { device, seq: entry.seq };
        erasing(&mut devices[2], id, &[]);
        erasing(&mut devices[2], id, &[again]);
        tell(&mut devices, 2, 0);
        tell(&mut devices, 2, 3);
        assert_eq!(Tree::of(SPACE).settings(&devices[0].kv).unwrap(), Settings::default());
        // Who hears it nowhere else hears it, if it is of that time.
        let heard = Tree::of(SPACE).settings(&devices[3].kv).unwrap() != Settings::default();
        assert!(!(heard && wrong_clock));
    }
}

#[test]
fn an_entry_of_an_area_erases_nothing_elsewhere_and_gives_nothing_up() {
    let mut devices = devices();
    // Who had all of it has no more than an area.
    let written = devices[1].set("/other/kept", Some(4));
    let (entry, device) = written.open().unwrap();
    erasing(&mut devices[1], EntryId { device, seq: entry.seq }, &[]);
    for to in [0, 2] {
        tell(&mut devices, 1, to);
        let known = Log::of(SPACE)
            .entry(&devices[to].kv, device, entry.seq)
            .unwrap()
            .unwrap();
        assert!(!known.open().unwrap().0.is_erased());
    }
    assert!(devices[0].files().contains(&("/other/kept".to_owned(), vec![4])));
    // Also where it comes first.
    let mut later = self::device(0);
    let of = |author: usize| {
        let author = devices[author].key.node_id();
        Log::of(SPACE)
            .entries_after(&devices[0].kv, author, 0, usize::MAX)
            .unwrap()
    };
    for entry in of(0).iter().chain(&of(1)) {
        later.take(entry).unwrap();
    }
    assert_eq!(later.files(), devices[0].files());
    // Nobody takes one that gives up stripes.
    let body = Body {
        unpins: vec![stripe(1)],
        sealed: vec![1],
        epoch: Some(epoch()),
        area: Some(area()),
        ..Body::default()
    };
    let now = Timestamp::from_millis(9000);
    let forged = Log::of(SPACE)
        .next_entry(&devices[2].kv, &devices[2].key, now, body)
        .unwrap();
    assert!(matches!(devices[0].take(&forged), Err(AppendError::Foreign)));
}

#[test]
fn what_is_not_taken_takes_nobodys_word_away() {
    let mut devices = devices();
    let written = devices[2].set("/shared/d/x", Some(3));
    let (entry, author) = written.open().unwrap();
    let id = EntryId {
        device: author,
        seq: entry.seq,
    };
    let notice = erasing(&mut devices[0], id, &[]);
    let mut late = device(1);
    for logged in Log::of(SPACE)
        .entries_after(&devices[0].kv, devices[0].key.node_id(), 0, usize::MAX)
        .unwrap()
    {
        late.take(&logged).unwrap();
    }
    // One of no area that has its number, and comes without its changes.
    let body = Body {
        sealed: vec![1],
        epoch: Some(epoch()),
        ..Body::default()
    };
    let now = Timestamp::from_millis(9000);
    let nothing = MemoryKv::default();
    let forged = Log::of(SPACE).next_entry(&nothing, &devices[2].key, now, body).unwrap();
    let forged = Logged::from_bytes(&forged.signed_alone()).unwrap();
    assert!(matches!(late.take(&forged), Err(AppendError::Stripped { seq: 1, .. })));
    late.take(&written).unwrap();
    let known = Log::of(SPACE).entry(&late.kv, author, entry.seq).unwrap().unwrap();
    assert!(known.open().unwrap().0.is_erased());
    assert_eq!(known.notice().unwrap().unwrap(), notice.open().unwrap().0);
}
