//! Rot, lost files and refusals: what the store finds, says and goes on with.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Crash, MemoryDisk, Mishap, SPACE, audit, open, options, paged, shard, shard_of};
use potluck_store::{ChangeError, GetError, OpenError, Options, PutError, Store};
use potluck_types::{ByteSize, Shard, ShardId};
use std::sync::Arc;

const ALL: ByteSize = ByteSize(u64::MAX);

fn fill(store: &Store, numbers: std::ops::Range<u64>) -> Vec<Shard> {
    let shards: Vec<Shard> = numbers.map(|number| shard(number, 3000)).collect();
    for shard in &shards {
        store.put_wait(shard.clone(), SPACE).unwrap();
    }
    shards
}

/// A store of some shards in some packs, closed.
fn filled(count: u64) -> (MemoryDisk, Vec<Shard>) {
    let disk = MemoryDisk::default();
    let (store, _) = open(&disk);
    let shards = fill(&store, 0..count);
    (disk, shards)
}

/// Asserts that exactly these are missing, and that all others come back bit for bit.
#[track_caller]
fn check_missing(store: &Store, shards: &[Shard], missing: &[ShardId]) {
    for shard in shards {
        let found = store.get(&shard.id()).unwrap();
        if missing.contains(&shard.id()) {
            assert_eq!(found, None);
        } else {
            assert_eq!(found.as_ref(), Some(shard));
        }
    }
    assert_eq!(audit(store).len(), shards.len() - missing.len());
}

#[test]
fn a_flipped_bit_is_found_by_the_scrub_wherever_it_is_and_costs_one_shard() {
    let (sound, shards) = filled(4);
    let (store, _) = open(&sound);
    let first = shards[1].id();
    let entry = store.entry(&first).unwrap().unwrap();
    drop(store);
    let pack = sound.packs()[0].clone();
    let payload = (128 + u64::from(entry.descriptor_len)).next_multiple_of(64);
    for at in (0..payload + u64::from(entry.payload_len)).step_by(37) {
        if (128 + u64::from(entry.descriptor_len)..payload).contains(&at) {
            continue; // Padding carries nothing.
        }
        let disk = sound.crash(Crash::LoseAll);
        disk.tamper(&pack, |bytes| bytes[(entry.offset + at) as usize] ^= 1 << (at % 8));
        let (store, recovery) = open(&disk);
        assert!(recovery.clean);
        if at >= 128 {
            let error = store.get(&first).unwrap_err();
            assert!(matches!(error, GetError::Damaged { id, .. } if id == first), "{error}");
        } else {
            let progress = store.scrub_step(ALL).unwrap();
            assert_eq!(
                (progress.damaged, progress.wrapped),
                (vec![first], true),
                "byte {at} of the header"
            );
        }
        assert_eq!(store.stats().damaged, 1);
        check_missing(&store, &shards, &[first]);
        // It stays away through a restart, until a new copy replaces it.
        drop(store);
        let (store, _) = open(&disk);
        check_missing(&store, &shards, &[first]);
        store.put_wait(shards[1].clone(), SPACE).unwrap();
        check_missing(&store, &shards, &[]);
        assert_eq!(store.scrub_step(ALL).unwrap().damaged, []);
    }
}

#[test]
fn a_damaged_shard_is_not_listed_though_the_disk_takes_no_note_of_it() {
    let (disk, shards) = filled(30);
    let lost = shards[11].id();
    let rot = |store: &Store| {
        let entry = store.entry(&lost).unwrap().unwrap();
        disk.tamper(&format!("{:010}.pack", entry.pack.0), |bytes| {
            bytes[(entry.offset + entry.record_len()) as usize - 64] ^= 1;
        });
    };
    let (store, _) = open(&disk);
    rot(&store);
    disk.befall(Mishap::ReadOnly);
    assert!(matches!(store.get(&lost), Err(GetError::Damaged { id, .. }) if id == lost));
    assert_eq!((store.get(&lost).unwrap(), store.entry(&lost).unwrap()), (None, None));
    assert_eq!(store.indexes_of(lost.stripe).unwrap(), Vec::<u8>::new());
    for limit in [1, 7, 100] {
        let listed = paged(&store, limit);
        assert_eq!((listed.len(), listed.contains(&lost)), (29, false));
    }
    // It is not taken for stored, and is stored anew when that is possible again.
    assert!(store.put_wait(shards[11].clone(), SPACE).is_err());
    disk.recover();
    store.put_wait(shards[11].clone(), SPACE).unwrap();
    check_missing(&store, &shards, &[]);
    drop(store);
    let (store, _) = open(&disk);
    check_missing(&store, &shards, &[]);
    assert_eq!(store.scrub_step(ALL).unwrap().damaged, []);

    // Who opens the store before that finds it again.
    rot(&store);
    disk.befall(Mishap::ReadOnly);
    assert!(store.scrub_step(ALL).is_err());
    assert_eq!(store.get(&lost).unwrap(), None);
    disk.recover();
    drop(store);
    let (store, _) = open(&disk);
    assert_eq!(store.scrub_step(ALL).unwrap().damaged, [lost]);
    check_missing(&store, &shards, &[lost]);
}

#[test]
fn the_scrub_goes_on_where_it_was_after_a_restart() {
    let (disk, shards) = filled(30);
    let (store, _) = open(&disk);
    let last = store
        .entries(None, 100)
        .unwrap()
        .into_iter()
        .max_by_key(|(_, entry)| (entry.pack, entry.offset));
    let (id, entry) = last.unwrap();
    drop(store);
    disk.tamper(disk.packs().last().unwrap(), |bytes| {
        bytes[entry.offset as usize + 200] ^= 1;
    });
    let (mut steps, mut damaged) = (0, Vec::new());
    loop {
        let (store, _) = open(&disk);
        let progress = store.scrub_step(ByteSize(4000)).unwrap();
        damaged.extend(progress.damaged);
        steps += 1;
        if progress.wrapped {
            break;
        }
    }
    assert!(steps > 5, "{steps}");
    assert_eq!(damaged, [id]);
    let (store, _) = open(&disk);
    check_missing(&store, &shards, &[id]);
}

#[test]
fn a_lost_or_garbled_index_is_made_anew() {
    let (sound, mut shards) = filled(30);
    let (store, _) = open(&sound);
    let gone = shards.remove(3).id();
    store.delete(&[gone]).unwrap();
    drop(store);
    let garble: [&dyn Fn(&MemoryDisk); 5] = [
        &|disk| potluck_store::Disk::remove(disk, "index.redb").unwrap(),
        &|disk| disk.tamper("index.redb", Vec::clear),
        &|disk| disk.tamper("index.redb", |bytes| bytes.fill(0x5a)),
        &|disk| disk.tamper("index.redb", |bytes| bytes.truncate(9000)),
        &|disk| {
            disk.tamper("index.redb", |bytes| {
                bytes.iter_mut().skip(4096).for_each(|byte| *byte ^= 0x10);
            });
        },
    ];
    for garble in garble {
        let disk = sound.crash(Crash::LoseAll);
        garble(&disk);
        let (store, recovery) = open(&disk);
        assert!(recovery.rebuilt, "{recovery:?}");
        assert_eq!((recovery.damaged, recovery.unreadable), (vec![], ByteSize(0)));
        check_missing(&store, &shards, &[]);
        assert_eq!(store.get(&gone).unwrap(), None);
        drop(store);
        assert!(open(&disk).1.clean);
    }
}

#[test]
fn an_index_that_rots_page_by_page_never_tells_lies() {
    let (sound, shards) = filled(30);
    let len = sound.bytes("index.redb").unwrap().len();
    for at in (0..len).step_by(len / 400) {
        let disk = sound.crash(Crash::LoseAll);
        disk.tamper("index.redb", |bytes| bytes[at] ^= 0x40);
        let (store, _) = open(&disk);
        check_missing(&store, &shards, &[]);
    }
}

#[test]
fn a_rebuild_skips_what_rotted_in_the_middle() {
    let (disk, shards) = filled(12);
    let (store, _) = open(&disk);
    let id = shards[2].id();
    let entry = store.entry(&id).unwrap().unwrap();
    drop(store);
    disk.tamper(&disk.packs()[0], |bytes| bytes[entry.offset as usize + 1] ^= 1);
    potluck_store::Disk::remove(&disk, "index.redb").unwrap();
    let (store, recovery) = open(&disk);
    assert_eq!(recovery.unreadable.0, entry.record_len());
    check_missing(&store, &shards, &[id]);
}

#[test]
fn a_payload_that_imitates_a_tombstone_deletes_nothing() {
    // A member stores a shard whose payload is the pack of another store: records, tombstones and all.
    let other = MemoryDisk::default();
    let (store, _) = Store::open(Arc::new(other.clone()), options()).unwrap();
    let victims = fill(&store, 0..3);
    store
        .delete(&victims.iter().map(Shard::id).collect::<Vec<_>>())
        .unwrap();
    drop(store);
    let imitation = other.bytes(&other.packs()[0]).unwrap();

    let disk = MemoryDisk::default();
    let (store, _) = open(&disk);
    for victim in &victims {
        store.put_wait(victim.clone(), SPACE).unwrap();
    }
    let hash = potluck_types::Hash::of(&imitation);
    let geometry = potluck_types::Geometry::new(1, 0).unwrap();
    let descriptor = potluck_types::Descriptor::new(geometry, imitation.len() as u32, vec![hash]).unwrap();
    let hostile = Shard::from_encoder(descriptor.clone(), descriptor.id(), 0, imitation.into());
    store.put_wait(hostile.clone(), SPACE).unwrap();
    let entry = store.entry(&hostile.id()).unwrap().unwrap();
    drop(store);
    // The header rots, so that the rebuild searches the payload for records.
    let pack = disk
        .packs()
        .into_iter()
        .find(|name| name.starts_with(&format!("{:010}", entry.pack.0)))
        .unwrap();
    disk.tamper(&pack, |bytes| bytes[entry.offset as usize] ^= 1);
    potluck_store::Disk::remove(&disk, "index.redb").unwrap();
    let (store, _) = open(&disk);
    check_missing(&store, &victims, &[]);
}

#[test]
fn a_truncated_pack_loses_what_it_lost_and_says_which() {
    let (disk, shards) = filled(30);
    let (store, _) = open(&disk);
    let pack = disk.packs()[1].clone();
    let entries = store.entries(None, 100).unwrap();
    drop(store);
    disk.tamper(&pack, |bytes| bytes.truncate(5000));
    let (store, recovery) = open(&disk);
    let mut lost: Vec<ShardId> = entries
        .iter()
        .filter(|(_, entry)| {
            pack.starts_with(&format!("{:010}", entry.pack.0)) && entry.offset + entry.record_len() > 5000
        })
        .map(|(id, _)| *id)
        .collect();
    lost.sort_unstable();
    assert!(!lost.is_empty());
    assert_eq!(recovery.damaged, lost);
    check_missing(&store, &shards, &lost);
    drop(store);
    assert!(open(&disk).1.clean);
}

#[test]
fn a_missing_pack_is_named() {
    let (disk, shards) = filled(30);
    let pack = disk.packs()[0].clone();
    potluck_store::Disk::remove(&disk, &pack).unwrap();
    let (store, recovery) = open(&disk);
    assert_eq!(recovery.missing_packs.len(), 1);
    assert!(!recovery.damaged.is_empty());
    check_missing(&store, &shards, &recovery.damaged);
    store.put_wait(shards[0].clone(), SPACE).unwrap();
}

#[test]
fn a_store_of_a_later_version_is_left_alone() {
    let (disk, _) = filled(2);
    disk.tamper("STORE", |bytes| bytes[8] = 9);
    let error = Store::open(Arc::new(disk), options()).err().unwrap();
    assert!(matches!(error, OpenError::NewerFormat { found: 9 }), "{error}");
}

#[test]
fn a_lost_superblock_is_made_anew_from_the_packs() {
    let (disk, shards) = filled(5);
    potluck_store::Disk::remove(&disk, "STORE").unwrap();
    check_missing(&open(&disk).0, &shards, &[]);
    disk.tamper("STORE", |bytes| bytes[20] ^= 1);
    check_missing(&open(&disk).0, &shards, &[]);
}

/// After a failed sync Linux forgets what it could not write, while readers still see it. What was not acknowledged
/// may be lost; nothing later may rest on it.
#[test]
fn a_failed_sync_is_never_believed() {
    let disk = MemoryDisk::default();
    let (store, _) = open(&disk);
    let before = fill(&store, 0..3);
    let victim = shard(50, 3000);
    disk.befall(Mishap::Syncs(".pack".to_owned(), 1));
    let error = store.put_wait(victim.clone(), SPACE).unwrap_err();
    assert!(matches!(error, PutError::Disk(_)), "{error}");
    assert_eq!(store.get(&victim.id()).unwrap(), None);
    // The second attempt is written anew, elsewhere, and survives.
    store.put_wait(victim.clone(), SPACE).unwrap();
    let after = fill(&store, 10..13);
    let deleted = before[0].id();
    disk.befall(Mishap::Syncs(".pack".to_owned(), 1));
    assert!(matches!(store.delete(&[deleted]), Err(ChangeError::Disk(_))));
    assert!(store.get(&deleted).unwrap().is_some());
    store.delete(&[deleted]).unwrap();
    for crash in [Crash::LoseAll, Crash::KeepAll, Crash::Scattered(1)] {
        let (store, _) = open(&disk.crash(crash));
        let all: Vec<Shard> = [&before[..], std::slice::from_ref(&victim), &after].concat();
        check_missing(&store, &all, &[deleted]);
    }
}

/// A put fails at its sync, and before anything else is written the same shard is asked to be deleted, which needs
/// no write: it must not come back from the abandoned tail.
#[test]
fn an_answer_without_a_write_does_not_rest_on_an_abandoned_tail() {
    let disk = MemoryDisk::default();
    let (store, _) = open(&disk);
    fill(&store, 0..2);
    let victim = shard(50, 3000);
    disk.befall(Mishap::Syncs(".pack".to_owned(), 1));
    disk.befall(Mishap::Cuts);
    store.put_wait(victim.clone(), SPACE).unwrap_err();
    assert_eq!(store.delete(&[victim.id()]).unwrap(), 0);
    for crash in [Crash::LoseAll, Crash::KeepAll, Crash::Torn(3), Crash::Scattered(4)] {
        let image = disk.crash(crash);
        assert_eq!(open(&image).0.get(&victim.id()).unwrap(), None, "{crash:?}");
        potluck_store::Disk::remove(&image, "index.redb").unwrap();
        assert_eq!(
            open(&image).0.get(&victim.id()).unwrap(),
            None,
            "rebuilt after {crash:?}"
        );
    }
}

/// The process dies between a write and its sync, and the next one finds the shard in memory that no disk has. It
/// says "stored already": that must be true when the power goes.
#[test]
fn what_a_killed_process_left_in_memory_is_synced_before_it_is_relied_on() {
    let disk = MemoryDisk::default();
    let (store, _) = open(&disk);
    let shards = fill(&store, 0..2);
    // The next change is the write, the one after it the sync.
    disk.cut_at(disk.steps() + 2);
    let victim = shard(50, 3000);
    store.put_wait(victim.clone(), SPACE).unwrap_err();
    drop(store);
    disk.kill();
    let (store, recovery) = open(&disk);
    assert_eq!(recovery.replayed, 3);
    store.put_wait(victim.clone(), SPACE).unwrap();
    let all: Vec<Shard> = [&shards[..], &[victim]].concat();
    check_missing(&open(&disk.crash(Crash::LoseAll)).0, &all, &[]);
}

#[test]
fn a_bad_sector_is_damage_to_readers_and_to_the_scrub() {
    let disk = MemoryDisk::default();
    let (store, _) = open(&disk);
    let shards = fill(&store, 0..3);
    let (id, other) = (shards[1].id(), shards[2].id());
    let entry = store.entry(&id).unwrap().unwrap();
    disk.befall(Mishap::Reads(
        ".pack".to_owned(),
        entry.offset + 300..entry.offset + 301,
    ));
    assert!(matches!(store.get(&id), Err(GetError::Damaged { .. })));
    let entry = store.entry(&other).unwrap().unwrap();
    disk.befall(Mishap::Reads(
        ".pack".to_owned(),
        entry.offset + 300..entry.offset + 301,
    ));
    assert_eq!(store.scrub_step(ALL).unwrap().damaged, [other]);
    check_missing(&store, &shards, &[id, other]);
}

/// A process with too many open files took every pack that it could not open for damaged, dropped all that was in it, and compaction removed the file.
#[test]
fn a_want_of_file_descriptors_is_no_damage() {
    let disk = MemoryDisk::default();
    let (store, _) = open(&disk);
    let shards = fill(&store, 0..40);
    store
        .delete(&shards[..30].iter().map(Shard::id).collect::<Vec<_>>())
        .unwrap();
    store.close();
    drop(store);
    let (store, _) = open(&disk);
    disk.befall(Mishap::Opens(1000));
    assert!(store.scrub_step(ALL).is_err());
    assert!(store.compact_step(ALL).is_err());
    disk.recover();
    assert_eq!(store.scrub_step(ALL).unwrap().damaged, []);
    while !store.compact_step(ALL).unwrap().idle {}
    check_missing(&store, &shards[30..], &[]);
}

#[test]
fn a_full_disk_reads_deletes_and_recovers() {
    let disk = MemoryDisk::default();
    let (store, _) = open(&disk);
    let mut shards = fill(&store, 0..20);
    disk.leave_free(Some(700));
    let error = store.put_wait(shard_of(99, 2000), SPACE).unwrap_err();
    assert!(matches!(&error, PutError::Disk(error) if error.is_full()), "{error}");
    check_missing(&store, &shards, &[]);
    // Not a byte is left, and still what is deleted stays deleted.
    disk.leave_free(Some(0));
    let gone: Vec<ShardId> = shards.drain(..15).map(|shard| shard.id()).collect();
    for id in &gone {
        assert_eq!(store.delete(&[*id]).unwrap(), 1);
    }
    for crash in [Crash::LoseAll, Crash::KeepAll] {
        let (store, _) = open(&disk.crash(crash));
        check_missing(&store, &shards, &[]);
    }
    while !store.compact_step(ALL).unwrap().idle {}
    assert!(disk.names().contains(&"reserve".to_owned()), "the reserve is back");
    store.put_wait(shard_of(99, 2000), SPACE).unwrap();
    store.delete(&[shard_of(99, 2000).id()]).unwrap();
    check_missing(&store, &shards, &[]);
}

#[test]
fn a_full_disk_in_the_middle_of_a_group_keeps_the_deletes() {
    let disk = MemoryDisk::default();
    let (store, _) = open(&disk);
    let shards = fill(&store, 0..2);
    disk.leave_free(Some(500));
    let (sender, outcomes) = std::sync::mpsc::channel();
    let tell = sender.clone();
    store.put(shard_of(99, 2000), SPACE, move |outcome| {
        tell.send(outcome.is_ok()).unwrap();
    });
    store.delete_then(vec![shards[0].id()], move |outcome| {
        sender.send(outcome.is_ok()).unwrap();
    });
    store.turn();
    assert_eq!(outcomes.iter().collect::<Vec<_>>(), [false, true]);
    check_missing(&open(&disk.crash(Crash::LoseAll)).0, &shards, &[shards[0].id()]);
}

#[test]
fn the_quota_refuses_puts_and_lets_deletes_through() {
    let disk = MemoryDisk::default();
    let capacity = ByteSize(4 << 20);
    let (store, _) = Store::open(Arc::new(disk), Options { capacity, ..options() }).unwrap();
    let mut stored = Vec::new();
    let error = loop {
        let shard = shard_of(stored.len() as u64, 8000);
        match store.put_wait(shard.clone(), SPACE) {
            Ok(()) => stored.push(shard.id()),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(error, PutError::Full { capacity: told, .. } if told == capacity),
        "{error}"
    );
    assert!(store.stats().on_disk <= capacity);
    assert!(stored.len() > 50);
    assert_eq!(store.delete(&stored).unwrap(), stored.len());
    while !store.compact_step(ALL).unwrap().idle {}
    assert!(store.stats().on_disk <= capacity);
    store.put_wait(shard_of(5000, 8000), SPACE).unwrap();
}

#[test]
fn what_waits_is_bounded() {
    let disk = MemoryDisk::default();
    let (store, _) = open(&disk);
    let shard = shard_of(1, 4 << 20);
    let (sender, outcomes) = std::sync::mpsc::channel();
    for _ in 0..20 {
        let sender = sender.clone();
        store.put(shard.clone(), SPACE, move |outcome| drop(sender.send(outcome)));
    }
    let refused: Vec<_> = outcomes.try_iter().collect();
    assert!(
        !refused.is_empty()
            && refused
                .iter()
                .all(|outcome| matches!(outcome, Err(PutError::Busy { .. })))
    );
}

#[test]
fn a_damaged_shard_is_not_copied_by_compaction() {
    let (disk, shards) = filled(12);
    let (store, _) = open(&disk);
    let first: Vec<(ShardId, u64)> = shards
        .iter()
        .map(|shard| (shard.id(), store.entry(&shard.id()).unwrap().unwrap()))
        .filter(|(_, entry)| entry.pack.0 == 1)
        .map(|(id, entry)| (id, entry.offset))
        .collect();
    let (keep, dead) = first.split_at(2);
    drop(store);
    // One with a rotten payload, one with a rotten header: the second can still be saved.
    disk.tamper(&disk.packs()[0], |bytes| {
        bytes[keep[0].1 as usize + 300] ^= 1;
        bytes[keep[1].1 as usize + 20] ^= 1;
    });
    let (store, _) = open(&disk);
    let dead: Vec<ShardId> = dead.iter().map(|(id, _)| *id).collect();
    store.delete(&dead).unwrap();
    while !store.compact_step(ALL).unwrap().idle {}
    let mut missing = dead;
    missing.push(keep[0].0);
    check_missing(&store, &shards, &missing);
    assert_eq!(store.stats().damaged, 1);
    assert_eq!(store.scrub_step(ALL).unwrap().damaged, []);
}
