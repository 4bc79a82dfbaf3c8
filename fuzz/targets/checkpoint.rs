//! Pages of a checkpoint, unpacked, by a machine that is believed and means harm: each is taken or refused, and after those that were taken the tree can be read, and a later change goes through. What is no list of
//! pages may be what a machine signs of a checkpoint.

#![no_main]

use libfuzzer_sys::fuzz_target;
use potluck_crypto::{BoxKey, Signed, SigningKey};
use potluck_fuzz::{Nameless, Sevens};
use potluck_spaces::{
    Body, Checkpoint, DirId, Frontier, Keys, Log, MemoryKv, Path, Totals, Trash, Tree, Value, View, checkpoint,
};
use potluck_types::{SpaceId, Timestamp, from_canonical};
use serde_bytes::ByteBuf;

/// Directories that are looked at.
const DIRECTORIES: usize = 64;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(signed) = Signed::<Checkpoint>::from_bytes(bytes) {
        assert_eq!(signed.to_bytes(), bytes);
        if let Ok(verified) = signed.open() {
            let made = verified.into_value();
            assert!(!made.is_readable() || made.logs().len() <= 1000);
            let _ = made.entries();
        }
    }
    let Ok(pages) = from_canonical::<Vec<ByteBuf>>(bytes) else {
        return;
    };
    let space = SpaceId::from_bytes([1; 32]);
    let (log, tree, mut kv) = (Log::of(space), Tree::of(space), MemoryKv::default());
    let logs = Frontier::new();
    checkpoint::hold(&mut kv, space).expect("there is nothing");
    checkpoint::begin(&mut kv, space, &logs).expect("there is nothing");
    for page in &pages {
        // What was refused is given up as a whole.
        if checkpoint::take_plain(&mut kv, tree, page).is_err() {
            return;
        }
    }
    checkpoint::finish(&mut kv, space, &logs).expect("tables in memory");
    let view = View::of(tree, &Nameless);
    let (mut left, mut seen) = (vec![DirId::ROOT], 0);
    while let Some(directory) = left.pop() {
        view.path_of(&kv, directory).expect("a tree that can be read");
        let listed = tree.list(&kv, directory, None, 1000).expect("a tree that can be read");
        seen += 1;
        let heads = listed.iter().flat_map(|listed| &listed.heads);
        left.extend(heads.filter_map(|head| match head.value {
            Value::Directory(id) => Some(id),
            Value::File(_) | Value::Space(_) => None,
        }));
        if seen == DIRECTORIES {
            break;
        }
    }
    let _: Totals = Trash::of(space).totals(&kv).expect("it was checked");
    let (key, device) = (BoxKey::from_bytes([2; 32]), SigningKey::from_seed(&[3; 32]));
    let path: Path = "/a/b".parse().expect("a path");
    let Ok((changes, _)) = view.make_directories(&kv, &path, &Sevens) else {
        return;
    };
    let body = Body {
        sealed: tree.seal(&key, &changes, &Sevens),
        ..Body::default()
    };
    let Ok(signed) = log.next_entry(&kv, &device, Timestamp::from_millis(1), body) else {
        return;
    };
    let appended = log.append(&mut kv, &signed).expect("its own entry");
    tree.apply(&mut kv, &Keys::private(key), appended.device, &appended.entry)
        .expect("its own key");
});
