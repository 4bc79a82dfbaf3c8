//! Changes by a device that has the space's key and means harm: applied, they leave a tree that can still be read, and a
//! later change goes through.

#![no_main]

use libfuzzer_sys::fuzz_target;
use potluck_crypto::{BoxKey, SigningKey};
use potluck_fuzz::{Nameless, Sevens};
use potluck_spaces::{Body, Change, DirId, Keys, Log, MemoryKv, Path, Tree, View};
use potluck_types::{SpaceId, Timestamp, from_canonical, to_canonical};

fuzz_target!(|bytes: &[u8]| {
    let Ok(changes) = from_canonical::<Vec<Change>>(bytes) else {
        return;
    };
    assert_eq!(to_canonical(&changes), bytes);
    let (space, key, device) = (
        SpaceId::from_bytes([1; 32]),
        BoxKey::from_bytes([2; 32]),
        SigningKey::from_seed(&[3; 32]),
    );
    let keys = Keys::private(key.clone());
    let (log, tree, mut kv) = (Log::of(space), Tree::of(space), MemoryKv::default());
    let path: Path = "/a/b".parse().expect("a path");
    let view = View::of(tree, &Nameless);
    let good = |kv: &MemoryKv| view.make_directories(kv, &path, &Sevens).map(|(changes, _)| changes);
    let apply = |kv: &mut MemoryKv, changes: &[Change]| {
        let body = Body {
            sealed: tree.seal(&key, changes, &Sevens),
            ..Body::default()
        };
        let Ok(signed) = log.next_entry(kv, &device, Timestamp::from_millis(1), body) else {
            return;
        };
        let appended = log.append(kv, &signed).expect("its own entry");
        tree.apply(kv, &keys, appended.device, &appended.entry)
            .expect("its own key");
    };
    apply(&mut kv, &changes);
    tree.list(&kv, DirId::ROOT, None, 1000)
        .expect("a tree that can be read");
    if let Ok(changes) = good(&kv) {
        apply(&mut kv, &changes);
        view.directory(&kv, &path).expect("the directory that was made");
    }
});
