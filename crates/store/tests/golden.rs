//! The bytes on disk, once and for all: a change here is a change of the format, and needs a new version.
#![allow(clippy::unwrap_used)]

mod common;

use common::{MemoryDisk, SPACE, open, shard_of};

#[test]
fn a_pack_with_a_put_and_a_tombstone_has_these_bytes() {
    let disk = MemoryDisk::default();
    let (store, _) = open(&disk);
    let shard = shard_of(3, 100);
    store.put_wait(shard.clone(), SPACE).unwrap();
    store.delete(&[shard.id()]).unwrap();
    drop(store);
    let dump = format!(
        "STORE\n{}\n0000000001.pack\n{}",
        hex(&disk.bytes("STORE").unwrap()),
        hex(&disk.bytes("0000000001.pack").unwrap())
    );
    if std::env::var_os("POTLUCK_BLESS").is_some() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden.txt"), &dump).unwrap();
    }
    assert_eq!(dump, include_str!("golden.txt"));
}

/// Lines of 32 bytes.
fn hex(bytes: &[u8]) -> String {
    let line = |line: &[u8]| line.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n";
    bytes.chunks(32).map(line).collect()
}
