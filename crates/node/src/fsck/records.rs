//! The metadata database itself, and what in it belongs to no space: settings, records of the pool, tickets, what was stored already.

use super::{
    Check, Fault, Finding, FsckProgress, Inhabitant,
    files::{keep_aside, set_aside},
    logs::LogDamage,
};
use crate::{
    error::{HomeError, MetaError},
    home::{Home, META},
    meta::{Meta, RowTable, WrongRow, sound},
    overlaid::Overlaid,
    records::PoolRecord,
    roster::Roster,
    spare::Reserve,
};
use potluck_types::{ByteSize, Hash, PoolId, to_canonical};
use serde_bytes::ByteBuf;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    sync::Arc,
};

/// What only the database that is thrown away is asked for: the other is not written.
const WRITING: [&str; 3] = ["replaying", "writing", "committing"];

/// What was found in the database, and is to be put right.
#[derive(Default)]
struct Damage {
    pool: Option<PoolId>,
    rows: Vec<WrongRow>,
    logs: LogDamage,
}

impl<P: FnMut(FsckProgress)> Check<'_, P> {
    /// Checks the database over an overlay, repairs it, and tells which pool its records are of.
    pub(super) fn metadata(&mut self, home: &Home, inhabitant: &Inhabitant) -> Result<Option<PoolId>, HomeError> {
        self.at.doing = "names";
        let path = home.meta_path();
        if !path.exists() {
            self.report.findings.push(Finding::new(META, Fault::NoDatabase));
            return Ok(None);
        }
        let first = self.report.findings.len();
        // redb tells of some damage by a panic.
        let examined = sound(|| {
            let file = Overlaid::open(self.path, META).map_err(|source| MetaError {
                action: "opening",
                source: source.into(),
            })?;
            let mut meta = Meta::over(file, Arc::new(Reserve::none()))?;
            if !meta.check()? {
                self.report.findings.push(Finding::new(META, Fault::Sums));
            }
            self.examine(&meta, inhabitant)
        });
        let len = fs::metadata(&path).map_or(0, |found| found.len());
        self.at.bytes = ByteSize(len);
        let damage = match examined {
            Ok(damage) => damage,
            Err(error) if WRITING.contains(&error.action) => {
                return Err(HomeError::Io {
                    action: "cannot replay the logs in",
                    file: std::env::temp_dir(),
                    source: io::Error::other(error.source),
                });
            }
            Err(error) if !error.is_damage() => {
                let reason = error.source.to_string();
                self.report
                    .findings
                    .push(Finding::new(META, Fault::Unreadable { reason }));
                return Ok(None);
            }
            Err(error) => {
                let (path, reason) = (self.path.to_owned(), error.source.to_string());
                self.found(META, Fault::Database { reason }, || set_aside(&path, META).map(drop));
                if !home.meta_path().exists() {
                    self.report.findings.push(Finding::new(META, Fault::NoDatabase));
                }
                return Ok(None);
            }
        };
        if self.options.repair && !(damage.rows.is_empty() && damage.logs.is_nothing_to_repair()) {
            match self.amend(home, &damage) {
                Ok(()) => {
                    let found = self.report.findings[first..].iter_mut();
                    let repaired = found.filter(|finding| finding.fault.repair().is_some());
                    repaired.for_each(|finding| finding.is_repaired = true);
                }
                Err(error) => tracing::warn!(%error, "the database could not be repaired"),
            }
        }
        Ok(damage.pool)
    }

    fn examine(&mut self, meta: &Meta, inhabitant: &Inhabitant) -> Result<Damage, MetaError> {
        let mut damage = Damage {
            rows: meta.wrong_rows()?,
            ..Damage::default()
        };
        let records = readable_records(meta)?;
        self.report.records = records.len() as u64;
        let roster = roster_of(&records);
        match &roster {
            Some(roster) => {
                self.membership(roster, inhabitant);
                damage.pool = Some(roster.pool());
                damage.rows.extend(unproven(roster, &records));
            }
            None => self
                .report
                .findings
                .push(Finding::new(place(RowTable::Records), Fault::NoGenesis)),
        }
        let mut counts: BTreeMap<RowTable, u64> = BTreeMap::new();
        damage
            .rows
            .iter()
            .for_each(|row| *counts.entry(row.table).or_default() += 1);
        for (table, count) in counts {
            self.report
                .findings
                .push(Finding::new(place(table), Fault::Rows { count }));
        }
        damage.logs = self.logs(meta, roster.as_ref(), inhabitant.user.as_ref())?;
        Ok(damage)
    }

    fn membership(&mut self, roster: &Roster, inhabitant: &Inhabitant) {
        let Some(node) = &inhabitant.node else { return };
        let fault = match (roster.user_of(node.node_id()), &inhabitant.user) {
            (None, _) => Fault::NotAMember,
            (Some(owner), Some(user)) if owner != user.id() => Fault::OtherUser,
            _ => return,
        };
        self.report.findings.push(Finding::new(place(RowTable::Records), fault));
    }

    /// Puts the database right, what is taken out being kept first.
    fn amend(&self, home: &Home, damage: &Damage) -> Result<(), MetaError> {
        let failed = |source: io::Error| MetaError {
            action: "setting aside",
            source: source.into(),
        };
        let mut by_table: BTreeMap<RowTable, Vec<(ByteBuf, ByteBuf)>> = BTreeMap::new();
        for row in &damage.rows {
            let pair = (ByteBuf::from(row.key.clone()), ByteBuf::from(row.value.clone()));
            by_table.entry(row.table).or_default().push(pair);
        }
        for (table, rows) in by_table {
            keep_aside(self.path, &format!("{}.rows", table.name()), &to_canonical(&rows)).map_err(failed)?;
        }
        let meta = Meta::open(&home.disk())?;
        meta.remove_rows(&damage.rows)?;
        damage.logs.repair(&meta, |name, entries| {
            keep_aside(self.path, name, entries).map_err(failed)
        })
    }
}

fn place(table: RowTable) -> String {
    format!("{META}, {}", table.name())
}

/// The records that are what their keys say.
fn readable_records(meta: &Meta) -> Result<Vec<PoolRecord>, MetaError> {
    let mut records = Vec::new();
    meta.each_record(|key, value| {
        if Hash::of(value).as_bytes() == key {
            records.extend(PoolRecord::from_bytes(value));
        }
    })?;
    Ok(records)
}

/// What the records add up to, if the first one is there and good.
fn roster_of(records: &[PoolRecord]) -> Option<Roster> {
    let mut rosters = records.iter().filter_map(|record| match record {
        PoolRecord::Genesis(genesis) => Roster::new(genesis.clone()).ok(),
        _ => None,
    });
    let mut roster = rosters.next()?;
    let mut in_order: Vec<&PoolRecord> = records.iter().collect();
    in_order.sort_by_key(|record| record.kind());
    for record in in_order {
        let _ = roster.merge(record);
    }
    Some(roster)
}

/// Records that nothing vouches for.
fn unproven(roster: &Roster, records: &[PoolRecord]) -> Vec<WrongRow> {
    let known: BTreeSet<Hash> = roster.records().map(PoolRecord::hash).collect();
    let unknown = records.iter().filter(|record| !known.contains(&record.hash()));
    unknown
        .map(|record| WrongRow {
            table: RowTable::Records,
            key: record.hash().as_bytes().to_vec(),
            value: record.to_bytes(),
        })
        .collect()
}
