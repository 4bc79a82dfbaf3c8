//! The audit tells what is wrong with a store, and changes nothing of it.
#![allow(clippy::unwrap_used)]

mod common;

use common::{SPACE, shard_of};
use potluck_store::{Audit, Driver, Options, OsDisk, Overlay, Recovery, Store};
use potluck_types::{ByteSize, Shard, ShardId};
use redb::{ReadableTable, TableDefinition};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};
use tempfile::TempDir;

const SHARDS: TableDefinition<'_, &[u8; 33], &[u8; 64]> = TableDefinition::new("shards.1");

fn options() -> Options {
    Options {
        driver: Driver::Caller,
        pack_bytes: Some(ByteSize(40_000)),
        ..Options::new(ByteSize(100_000_000))
    }
}

/// A store of 40 shards in several packs, every eighth of them deleted, closed.
fn filled() -> (TempDir, Vec<Shard>) {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = Store::open_dir(folder.path(), options()).unwrap();
    let shards: Vec<Shard> = (0..40).map(|number| shard_of(number, 3000)).collect();
    for shard in &shards {
        store.put_wait(shard.clone(), SPACE).unwrap();
    }
    let (gone, kept): (Vec<_>, Vec<_>) = shards.into_iter().enumerate().partition(|(at, _)| at % 8 == 0);
    let gone: Vec<ShardId> = gone.iter().map(|(_, shard)| shard.id()).collect();
    store.delete(&gone).unwrap();
    (folder, kept.into_iter().map(|(_, shard)| shard).collect())
}

fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// What an audit over an overlay says; nothing on disk is another afterwards.
fn audit(folder: &Path) -> (Recovery, Audit) {
    let before = files(folder);
    let overlay = Overlay::new(Arc::new(OsDisk::read_only(folder)));
    let (store, recovery) = Store::open(Arc::new(overlay), options()).unwrap();
    let mut read = ByteSize(0);
    let found = store.audit(|bytes| read = bytes).unwrap();
    assert!(read <= found.bytes);
    drop(store);
    assert!(files(folder) == before, "the audit changed something");
    (recovery, found)
}

fn change_row(folder: &Path, id: ShardId, change: impl FnOnce(&mut [u8; 64]) -> bool) {
    let database = redb::Database::open(folder.join("index.redb")).unwrap();
    let write = database.begin_write().unwrap();
    {
        let mut table = write.open_table(SHARDS).unwrap();
        let mut key = [id.index; 33];
        key[..32].copy_from_slice(id.stripe.as_bytes());
        let mut row = *table.get(&key).unwrap().unwrap().value();
        if change(&mut row) {
            table.insert(&key, &row).unwrap();
        } else {
            table.remove(&key).unwrap();
        }
    }
    write.commit().unwrap();
}

#[test]
fn a_sound_store_is_told_to_be_sound() {
    let (folder, shards) = filled();
    let (recovery, found) = audit(folder.path());
    assert!(recovery.clean && found.is_index_sound());
    assert_eq!((found.shards, found.damaged.len()), (shards.len() as u64, 0));
    assert!(found.bytes.0 > 3000 * found.shards);
}

#[test]
fn a_flipped_bit_and_a_lost_pack_are_told() {
    let (folder, shards) = filled();
    let (store, _) = Store::open_dir(folder.path(), options()).unwrap();
    let rotten = store.entry(&shards[3].id()).unwrap().unwrap();
    let elsewhere = store.entry(&shards[30].id()).unwrap().unwrap().pack;
    let lost = store
        .entries(None, 100)
        .unwrap()
        .into_iter()
        .filter(|(_, entry)| entry.pack == elsewhere)
        .count();
    assert_ne!(rotten.pack, elsewhere);
    drop(store);
    let pack = |id: potluck_store::PackId| folder.path().join(format!("{:010}.pack", id.0));
    let mut bytes = fs::read(pack(rotten.pack)).unwrap();
    bytes[(rotten.offset + rotten.record_len()) as usize - 100] ^= 1;
    fs::write(pack(rotten.pack), bytes).unwrap();
    assert_eq!(audit(folder.path()).1.damaged, [shards[3].id()]);
    fs::remove_file(pack(elsewhere)).unwrap();
    let (recovery, found) = audit(folder.path());
    assert_eq!(
        (recovery.missing_packs, recovery.damaged.len()),
        (vec![elsewhere], lost)
    );
    assert_eq!(found.damaged, [shards[3].id()]);
}

#[test]
fn a_damaged_header_is_told_and_written_anew() {
    let (folder, shards) = filled();
    let pack = folder.path().join("0000000002.pack");
    let mut bytes = fs::read(&pack).unwrap();
    bytes[50] ^= 64;
    fs::write(&pack, bytes).unwrap();
    let (_, found) = audit(folder.path());
    assert_eq!(found.headless, [potluck_store::PackId(2)]);
    let (store, _) = Store::open_dir(folder.path(), options()).unwrap();
    store.restore_headers(&found.headless).unwrap();
    drop(store);
    // The index can be made anew from the packs again.
    Store::discard_index(folder.path()).unwrap();
    let (store, recovery) = Store::open_dir(folder.path(), options()).unwrap();
    assert_eq!((recovery.unreadable, recovery.damaged), (ByteSize(0), Vec::new()));
    assert_eq!(store.stats().shards, shards.len() as u64);
    drop(store);
    assert_eq!(audit(folder.path()).1.headless, []);
}

#[test]
fn an_index_that_lost_a_shard_or_points_elsewhere_is_told_and_made_anew() {
    let (folder, shards) = filled();
    let (hidden, moved) = (shards[5].id(), shards[9].id());
    change_row(folder.path(), hidden, |_| false);
    // To where the record before it starts.
    change_row(folder.path(), moved, |row| {
        let offset = u64::from_le_bytes(row[8..16].try_into().unwrap());
        let len = record_len(row);
        row[8..16].copy_from_slice(&(offset - len).to_le_bytes());
        true
    });
    let (recovery, found) = audit(folder.path());
    assert!(recovery.clean, "opening sees nothing of it");
    assert_eq!(found.misplaced, [moved]);
    let mut expected = vec![hidden, moved];
    expected.sort_unstable();
    assert_eq!(found.unlisted, expected);
    assert!(!found.is_index_sound() && !found.miscounted.is_empty());
    Store::discard_index(folder.path()).unwrap();
    let (store, recovery) = Store::open_dir(folder.path(), options()).unwrap();
    assert!(recovery.rebuilt);
    for shard in &shards {
        assert_eq!(store.get(&shard.id()).unwrap().as_ref(), Some(shard));
    }
    drop(store);
    assert!(audit(folder.path()).1.is_index_sound());
}

/// All shards of these tests have records of one length.
fn record_len(row: &[u8; 64]) -> u64 {
    let descriptor = u64::from(u16::from_le_bytes([row[24], row[25]]));
    let payload = u64::from(u32::from_le_bytes(row[4..8].try_into().unwrap()));
    (128 + descriptor.next_multiple_of(64) + payload).next_multiple_of(64)
}
