//! Changes in an entry of an area, by one who means harm and has its key: whatever they say, what is outside of the area stays as it is, and what is in it can be read.

#![no_main]

use libfuzzer_sys::fuzz_target;
use potluck_crypto::{SigningKey, UserKeys};
use potluck_fuzz::{Nameless, Sevens, founded};
use potluck_spaces::{
    AreaId, Body, Change, Charter, DirId, Fate, File, FileId, Keys, Kv, Log, Logged, MemoryKv, Name, Path, Settings,
    Table, Tree, Value, View,
};
use potluck_types::{StripeId, Timestamp, from_canonical};
use std::sync::OnceLock;

/// A space that was founded, with a file in an area and one beside it.
struct Space {
    charter: Charter,
    keys: Keys,
    area: AreaId,
    kv: MemoryKv,
}

fn space() -> &'static Space {
    static SPACE: OnceLock<Space> = OnceLock::new();
    SPACE.get_or_init(|| {
        let (owner, charter): (UserKeys, Charter) = founded();
        let keys = charter.keys(&owner, Timestamp::default());
        let area = *charter.areas().first().expect("one was let into it");
        let mut space = Space {
            charter,
            keys,
            area,
            kv: MemoryKv::default(),
        };
        let file = |area| File {
            id: FileId::generate(area, &Sevens),
            len: 1,
            modified: Timestamp::default(),
            executable: false,
            content: vec![1].into(),
            uses: vec![StripeId::from_bytes([9; 32])],
            survives: 0,
            asked: None,
        };
        let set = |parent, name: &str, value| Change::Set {
            parent,
            name: Name::try_from(name.to_owned()).expect("a name"),
            value: Some(value),
            replaces: Vec::new(),
            fate: Fate::Carried,
        };
        let mut kv = MemoryKv::default();
        let outside = [
            set(DirId::ROOT, "plans", Value::Directory(area.top())),
            set(DirId::ROOT, "secret", Value::File(file(None))),
        ];
        space.say(&mut kv, 1, None, &outside);
        space.say(
            &mut kv,
            1,
            Some(area),
            &[set(area.top(), "file", Value::File(file(Some(area))))],
        );
        space.kv = kv;
        space
    })
}

impl Space {
    fn say(&self, kv: &mut MemoryKv, device: u8, area: Option<AreaId>, changes: &[Change]) {
        let (log, tree) = (Log::of(self.charter.space()), Tree::of(self.charter.space()));
        let epoch = self.charter.current();
        let key = self.keys.within(epoch, area).expect("the owner has all keys");
        let body = Body {
            sealed: tree.seal(&key, changes, &Sevens),
            epoch,
            area,
            ..Body::default()
        };
        let device = SigningKey::from_seed(&[device; 32]);
        let said: Result<Logged, _> = log.next_entry(kv, &device, Timestamp::from_millis(1), body);
        let Ok(said) = said else { return };
        let appended = log.append(kv, &said).expect("its own entry");
        tree.apply(kv, &self.keys, appended.device, &appended.entry)
            .expect("its own key");
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(changes) = from_canonical::<Vec<Change>>(bytes) else {
        return;
    };
    let space = space();
    let mut kv = space.kv.clone();
    space.say(&mut kv, 2, Some(space.area), &changes);
    let tree = Tree::of(space.charter.space());
    let list = |kv: &MemoryKv| tree.list(kv, DirId::ROOT, None, 1000).expect("it can be read");
    assert_eq!(list(&kv), list(&space.kv));
    assert_eq!(tree.settings(&kv).expect("it can be read"), Settings::default());
    // Which version a row is about stands in its key.
    for (table, version_at) in [(Table::Users, 64), (Table::Uses, 32)] {
        let of_secret = |kv: &MemoryKv| {
            let mut rows = kv.scan(table, &[], None, usize::MAX).expect("tables in memory");
            rows.retain(|(key, _)| !key[version_at..].starts_with(&[0xff; 4]));
            rows
        };
        assert_eq!(of_secret(&kv), of_secret(&space.kv));
    }
    let snapshots = kv.scan(Table::Snapshots, &[], None, 1).expect("tables in memory");
    assert_eq!(snapshots, []);
    let inside: Path = "/plans".parse().expect("a path");
    let top = View::of(tree, &Nameless).directory(&kv, &inside).expect("it is there");
    tree.list(&kv, top, None, 1000).expect("it can be read");
});
