//! The store: that it opens, that every shard is what its hash says, and that the index says where they are.

use super::{Check, Fault, Finding, FsckProgress, files::set_aside};
use crate::{
    error::HomeError,
    home::{Home, STORE},
};
use potluck_store::{Audit, Driver, IndexError, OpenError, Options, OsDisk, Overlay, Recovery, Store};
use potluck_types::{ByteSize, ShardId};
use std::{fs, io, path::Path, sync::Arc};

/// The files of the store that findings name.
const SUPERBLOCK: &str = "store/STORE";
const INDEX: &str = "store/index.redb";
const RESERVE: &str = "store/reserve";
/// What it is called while it is written.
const SUPERBLOCK_NEW: &str = "STORE.new";
const PACKS: &str = "store/*.pack";

/// What was found in the store, and is to be put right.
struct Damage {
    is_superblock_whole: bool,
    is_reserve_whole: bool,
    recovery: Recovery,
    audit: Audit,
}

impl Damage {
    fn is_index_sound(&self) -> bool {
        self.audit.is_index_sound() && !self.recovery.rebuilt
    }

    /// All shards that should be there and are not, each once.
    fn lost(&self) -> Vec<ShardId> {
        let mut lost = [&self.recovery.damaged[..], &self.audit.damaged].concat();
        lost.sort_unstable();
        lost.dedup();
        lost
    }
}

impl<P: FnMut(FsckProgress)> Check<'_, P> {
    /// Checks the store over an overlay, and repairs it.
    pub(super) fn store(&mut self, home: &Home) -> Result<(), HomeError> {
        let folder = home.store_path();
        if !folder.is_dir() {
            self.report.findings.push(Finding::new(STORE, Fault::NoStore));
            return Ok(());
        }
        self.strays(&folder);
        self.at.doing = "shards";
        let damage = match self.examine_store(&folder) {
            Ok(damage) => damage,
            Err(Trouble::Open(OpenError::Locked)) => {
                return Err(HomeError::Locked {
                    home: self.path.to_owned(),
                });
            }
            Err(error) => {
                let reason = error.to_string();
                self.report.findings.push(Finding::new(STORE, Fault::Store { reason }));
                return Ok(());
            }
        };
        (self.report.shards, self.report.bytes) = (damage.audit.shards, damage.audit.bytes);
        let faults = faults(&damage);
        let is_repaired = self.options.repair
            && !faults.is_empty()
            && repair(&folder, &damage)
                .inspect_err(|error| tracing::warn!(%error, "the store could not be repaired"))
                .is_ok();
        self.report
            .findings
            .extend(faults.into_iter().map(|(place, fault)| Finding {
                is_repaired,
                ..Finding::new(place, fault)
            }));
        Ok(())
    }

    /// Files that are none of a store's.
    fn strays(&mut self, folder: &Path) {
        let names = fs::read_dir(folder).into_iter().flatten().flatten();
        let mut names: Vec<String> = names
            .map(|file| file.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort_unstable();
        let home = self.path.to_owned();
        for name in names.iter().filter(|name| !is_of_store(name)) {
            let place = format!("{STORE}/{name}");
            if name == SUPERBLOCK_NEW {
                self.found(&place, Fault::LeftOver, || fs::remove_file(home.join(&place)));
            } else {
                self.found(&place, Fault::Strange, || set_aside(&home, &place).map(drop));
            }
        }
    }

    fn examine_store(&mut self, folder: &Path) -> Result<Damage, Trouble> {
        let len = |name: &str| fs::metadata(folder.join(name)).map_or(0, |found| found.len());
        let (superblock, reserve) = (Store::has_superblock(folder), len("reserve"));
        let overlay = Overlay::new(Arc::new(OsDisk::read_only(folder)));
        let (store, recovery) = Store::open(Arc::new(overlay), options())?;
        let (before, progress) = (self.at, &mut self.progress);
        let audit = store.audit(|bytes| {
            progress(FsckProgress {
                bytes: ByteSize(before.bytes.0 + bytes.0),
                ..before
            });
        })?;
        Ok(Damage {
            is_superblock_whole: superblock,
            is_reserve_whole: reserve == potluck_types::limits::STORE_RESERVE_BYTES as u64,
            recovery,
            audit,
        })
    }
}

fn is_of_store(name: &str) -> bool {
    let digits = name.strip_suffix(".pack");
    matches!(name, "STORE" | "index.redb" | "reserve")
        || digits.is_some_and(|digits| digits.len() == 10 && digits.bytes().all(|digit| digit.is_ascii_digit()))
}

#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Index(#[from] IndexError),
}

/// Nothing is put, so that what the store may use does not matter.
fn options() -> Options {
    Options {
        driver: Driver::Caller,
        ..Options::new(ByteSize(u64::MAX))
    }
}

fn faults(damage: &Damage) -> Vec<(&'static str, Fault)> {
    let (lost, packs) = (damage.lost().len() as u64, damage.recovery.missing_packs.len() as u64);
    let faults = [
        (!damage.is_superblock_whole).then_some((SUPERBLOCK, Fault::Superblock)),
        (!damage.is_reserve_whole).then_some((RESERVE, Fault::NoReserve)),
        (!damage.is_index_sound()).then_some((INDEX, Fault::Index)),
        (!damage.audit.headless.is_empty()).then_some((PACKS, Fault::PackHeaders)),
        (packs > 0).then_some((PACKS, Fault::Packs { count: packs })),
        (lost > 0).then_some((PACKS, Fault::Shards { count: lost })),
    ];
    faults.into_iter().flatten().collect()
}

/// Opening makes superblock, reserve and index anew.
fn repair(folder: &Path, damage: &Damage) -> io::Result<()> {
    if !damage.is_index_sound() {
        Store::discard_index(folder).map_err(io::Error::other)?;
    }
    let (store, _) = Store::open_dir(folder, options()).map_err(io::Error::other)?;
    for id in damage.lost() {
        // One that is damaged is no longer listed once it was read. What is whole behind a damaged header is stored anew.
        if let Ok(Some(shard)) = store.get(&id) {
            let entry = store.entry(&id).map_err(io::Error::other)?;
            store.delete(&[id]).map_err(io::Error::other)?;
            if let Some(entry) = entry {
                store.put_wait(shard, entry.space).map_err(io::Error::other)?;
            }
        }
    }
    store
        .restore_headers(&damage.audit.headless)
        .map_err(io::Error::other)?;
    store.close();
    let is_reserved = fs::metadata(folder.join("reserve")).is_ok();
    is_reserved
        .then_some(())
        .ok_or_else(|| io::ErrorKind::StorageFull.into())
}
