//! Snapshots: people take, read, bring back and remove them, and what each certainly has stays, whatever becomes of the files.

use super::{Broken, FOUNDED, HEARD_AFTER, History, OPERATION_MAX, Place, pick, see, told};
use crate::{
    ledger::{Promise, Seen},
    plan::SnapshotWork,
};
use potluck_node::{Name, Node, NodeError, Path, RestoreReport, Which};
use std::collections::{BTreeMap, BTreeSet};
use tokio::time::{Instant, timeout};

/// Snapshots that there are at a time at most: each file of each is read after each episode.
const SNAPSHOTS_MAX: usize = 4;

/// One that was acknowledged.
pub(super) struct Snapshot {
    place: Place,
    name: Name,
    taken: Instant,
    /// It is being brought back.
    is_busy: bool,
    /// What it certainly has.
    notes: BTreeMap<String, Promise>,
}

/// What a person's operation gave.
enum Done {
    /// With the files that nobody changed when it was begun.
    Taken(BTreeSet<String>, Result<(), String>),
    Read(String, Seen),
    /// With the files that it may have changed.
    BroughtBack(Vec<(usize, String)>, Result<RestoreReport, String>),
    Removed(Result<(), String>),
}

/// An operation that has ended.
pub(super) struct OfSnapshot {
    place: Place,
    name: Name,
    machine: usize,
    begun: Instant,
    done: Done,
}

impl Snapshot {
    /// A domain was lost, for now or for ever.
    pub(super) fn lose(&mut self, domain: usize) {
        self.notes.values_mut().for_each(|promise| promise.lose(domain));
    }

    /// A change of a file begins or ends: made so soon, it may be by who has not heard of the snapshot.
    pub(super) fn touch(&mut self, key: &(usize, String)) {
        if self.place.has(key) && self.taken.elapsed() < HEARD_AFTER {
            self.notes.remove(&key.1);
        }
    }

    /// A file is erased: it is not held.
    pub(super) fn forget(&mut self, key: &(usize, String)) {
        if self.place.has(key) {
            self.notes.remove(&key.1);
        }
    }

    fn may_be_changed(&self) -> bool {
        self.taken.elapsed() >= HEARD_AFTER && !self.is_busy
    }
}

impl History {
    pub(super) fn begin_with_snapshot(&mut self, work: SnapshotWork) {
        match work {
            SnapshotWork::Take { chance } => self.take_snapshot(chance),
            SnapshotWork::Read { chance } => self.read_of_snapshot(chance),
            SnapshotWork::Restore { chance } => self.bring_snapshot_back(chance),
            SnapshotWork::Remove { chance } => self.remove_snapshot(chance),
        }
    }

    fn take_snapshot(&mut self, chance: u64) {
        let worker = (chance % self.persons() as u64) as usize;
        let place = self.place_of(worker, chance >> 40);
        let worker = self.whole_in(worker, if place.is_founded { FOUNDED } else { "" });
        let Some((machine, node)) = self.node_of(worker, chance, true) else {
            return;
        };
        if self.snapshots.len() >= SNAPSHOTS_MAX {
            return;
        }
        self.snapshots_taken += 1;
        let name: Name = format!("snapshot-{}", self.snapshots_taken)
            .try_into()
            .expect("letters and digits");
        let keys = self.ledger.keys();
        let unchanged = keys.filter(|key| place.has(key) && !self.busy.contains(*key));
        let unchanged = unchanged.map(|(_, path)| path.clone()).collect();
        self.start_with_snapshot((place, name.clone()), machine, "is taken", async move {
            let taken = async { place.space(&node)?.take_snapshot(Some(name)).await };
            let taken = timeout(OPERATION_MAX, taken).await;
            Done::Taken(unchanged, told(taken).map(drop))
        });
    }

    fn read_of_snapshot(&mut self, chance: u64) {
        let Some(snapshot) = pick(&self.snapshots, chance >> 40) else {
            return;
        };
        let paths: Vec<&String> = snapshot.notes.keys().collect();
        let Some(path) = pick(&paths, chance >> 44).map(|path| (*path).clone()) else {
            return;
        };
        let (place, name) = (snapshot.place, snapshot.name.clone());
        let Some((machine, node)) = self.node_of(self.worker_in(place, chance), chance, false) else {
            return;
        };
        self.start_with_snapshot(
            (place, name.clone()),
            machine,
            &format!("is asked for {path}"),
            async move {
                let seen = read_of(&node, place, &name, &path).await;
                Done::Read(path, seen)
            },
        );
    }

    /// Everything in the space may be another thing until it ends.
    fn bring_snapshot_back(&mut self, chance: u64) {
        let Some(snapshot) = pick(&self.snapshots, chance >> 40) else {
            return;
        };
        let (place, name) = (snapshot.place, snapshot.name.clone());
        let (is_free, notes) = (snapshot.may_be_changed(), snapshot.notes.clone());
        let keys: Vec<_> = self.ledger.keys().filter(|key| place.has(key)).cloned().collect();
        let Some((machine, node)) = self.node_of(self.worker_in(place, chance), chance, true) else {
            return;
        };
        if !is_free || self.episode_is_flood || keys.iter().any(|key| self.busy.contains(key)) {
            return;
        }
        self.snapshot_mut(&name).expect("it was picked").is_busy = true;
        for key in &keys {
            self.touch(key);
            if let Some(promise) = self.ledger.get_mut(key) {
                promise.attempt_to_bring_back(notes.get(&key.1));
            }
            self.busy.insert(key.clone());
        }
        self.start_with_snapshot((place, name.clone()), machine, "is brought back", async move {
            let brought = async { place.space(&node)?.restore_snapshot(&name, &Path::root(), None).await };
            Done::BroughtBack(keys, told(timeout(OPERATION_MAX, brought).await))
        });
    }

    fn remove_snapshot(&mut self, chance: u64) {
        let Some(snapshot) = pick(&self.snapshots, chance >> 40).filter(|snapshot| snapshot.may_be_changed()) else {
            return;
        };
        let (place, name) = (snapshot.place, snapshot.name.clone());
        let Some((machine, node)) = self.node_of(self.worker_in(place, chance), chance, true) else {
            return;
        };
        // What only it holds may go from now on.
        self.snapshots.retain(|snapshot| snapshot.name != name);
        self.start_with_snapshot((place, name.clone()), machine, "is removed", async move {
            let removed = async { place.space(&node)?.remove_snapshot(&name).await };
            Done::Removed(told(timeout(OPERATION_MAX, removed).await).map(drop))
        });
    }

    fn start_with_snapshot(
        &mut self,
        (place, name): (Place, Name),
        machine: usize,
        what: &str,
        work: impl Future<Output = Done> + Send + 'static,
    ) {
        self.outcome.operations += 1;
        self.pool
            .diary
            .tell(&format!("machine {machine}: {} {what}", called(place, &name)));
        let begun = Instant::now();
        self.works.spawn(async move {
            super::Finished::Snapshot(OfSnapshot {
                place,
                name,
                machine,
                begun,
                done: work.await,
            })
        });
    }

    fn snapshot_mut(&mut self, name: &Name) -> Option<&mut Snapshot> {
        self.snapshots.iter_mut().find(|snapshot| snapshot.name == *name)
    }

    pub(super) fn note_snapshot(&mut self, finished: OfSnapshot) -> Broken {
        let OfSnapshot {
            place,
            name,
            machine,
            begun,
            done,
        } = finished;
        let called = called(place, &name);
        if let Done::Taken(_, Err(reason)) | Done::BroughtBack(_, Err(reason)) | Done::Removed(Err(reason)) = &done {
            self.outcome.refused += 1;
            self.pool.diary.tell(&format!("{called}: {reason}"));
            self.refuse_to_hang(machine, reason, &called)?;
        }
        match done {
            Done::Taken(unchanged, Ok(())) => self.note_taken(place, name, begun, unchanged),
            Done::Taken(_, Err(_)) | Done::Removed(Err(_)) => {}
            Done::Removed(Ok(())) => self.pool.diary.tell(&format!("{called} is there no more")),
            Done::BroughtBack(keys, result) => self.note_brought_back(&name, keys, result.is_ok()),
            Done::Read(path, seen) => self.note_read_of(&name, machine, begun, (&path, &seen))?,
        }
        Ok(())
    }

    fn note_taken(&mut self, place: Place, name: Name, begun: Instant, unchanged: BTreeSet<String>) {
        let safety = self.safety_now(place);
        let mut notes = BTreeMap::new();
        for path in unchanged {
            let key = (place.owner, path);
            let was_touched = self.touched.get(&key).is_some_and(|touched| *touched >= begun);
            let is_unchanged = !was_touched && !self.busy.contains(&key);
            if let Some(noted) = self.ledger[&key].noted(&safety).filter(|_| is_unchanged) {
                notes.insert(key.1, noted);
            }
        }
        let (called, count) = (called(place, &name), notes.len());
        self.pool
            .diary
            .tell(&format!("{called} is there, and has {count} files for certain"));
        self.snapshots.push(Snapshot {
            place,
            name,
            taken: Instant::now(),
            is_busy: false,
            notes,
        });
    }

    fn note_brought_back(&mut self, name: &Name, keys: Vec<(usize, String)>, is_done: bool) {
        let hurt: Vec<usize> = self.hurt.iter().copied().collect();
        let snapshot = self.snapshot_mut(name).expect("it stays while it is brought back");
        snapshot.is_busy = false;
        let (place, notes) = (snapshot.place, snapshot.notes.clone());
        for key in keys {
            self.busy.remove(&key);
            self.touch(&key);
            if let (Some(promise), Some(noted), true) = (self.ledger.get_mut(&key), notes.get(&key.1), is_done) {
                promise.brought_back(noted);
                hurt.iter().for_each(|domain| promise.lose(*domain));
            }
        }
        if is_done {
            let called = called(place, name);
            self.pool.diary.tell(&format!("{called} is brought back"));
        }
    }

    fn note_read_of(&mut self, name: &Name, machine: usize, begun: Instant, (path, seen): (&str, &Seen)) -> Broken {
        let is_hurt = self.hurt.contains(&self.pool.plan.domains[machine]);
        let Some(snapshot) = self.snapshots.iter().find(|snapshot| snapshot.name == *name) else {
            return Ok(());
        };
        let Some(noted) = snapshot.notes.get(path) else {
            return Ok(());
        };
        self.outcome.checks += 1;
        let is_news = begun < snapshot.taken + HEARD_AFTER;
        let verdict = if is_hurt || is_news || self.episode_is_flood {
            noted.judge_lenient(seen)
        } else {
            noted.judge(seen)
        };
        let called = called(snapshot.place, name);
        verdict.map_err(|reason| format!("machine {machine}, {path} of {called}: {reason}; {noted:?}"))?;
        self.pool.diary.tell(&format!("{path} of {called} is as promised"));
        Ok(())
    }

    /// Every file that a snapshot certainly has is read there.
    pub(super) async fn snapshots_hold(&mut self) -> Broken {
        let survived = u8::try_from(self.pool.plan.survives()).unwrap_or(u8::MAX);
        let mut snapshots = std::mem::take(&mut self.snapshots);
        for Snapshot { place, name, notes, .. } in &mut snapshots {
            let mut kept = BTreeMap::new();
            for (path, mut noted) in std::mem::take(notes) {
                let chance = self.dice.roll(1 << 40);
                let Some((machine, node)) = self.node_of(self.worker_in(*place, chance), chance, false) else {
                    kept.insert(path, noted);
                    continue;
                };
                node.gathered().await;
                let seen = read_of(&node, *place, name, &path).await;
                self.outcome.checks += 1;
                noted.judge(&seen).map_err(|reason| {
                    let called = called(*place, name);
                    format!("all is mended; machine {machine}, {path} of {called}: {reason}; {noted:?}")
                })?;
                if let Seen::Bytes(bytes) = seen {
                    noted.settle(Some(&bytes), survived);
                    kept.insert(path, noted);
                }
            }
            *notes = kept;
        }
        self.snapshots = snapshots;
        Ok(())
    }

    /// All snapshots are removed, also those of which nobody knows whether they are there.
    pub(super) async fn snapshots_go(&mut self) -> Broken {
        for place in (0..self.persons()).flat_map(|person| [Place::of(person, ""), Place::of(person, FOUNDED)]) {
            let Some((machine, node)) = self.node_of(place.owner, 0, false) else {
                continue;
            };
            let Ok(space) = place.space(&node) else { continue };
            let removed = async {
                for snapshot in space.snapshots().await? {
                    space.remove_snapshot(&snapshot.name).await?;
                }
                Ok::<_, NodeError>(())
            };
            removed
                .await
                .map_err(|error| format!("machine {machine} cannot remove snapshots: {error}"))?;
        }
        self.snapshots.clear();
        Ok(())
    }
}

fn called(place: Place, name: &Name) -> String {
    format!("{name} of the space {} of person {}", place.name(), place.owner)
}

/// A file as a snapshot has it.
async fn read_of(node: &Node, place: Place, name: &Name, path: &str) -> Seen {
    let Ok(path) = path.parse() else { return Seen::Absent };
    let work = async {
        let space = place.space(node)?;
        let at = space.moment(name).await?;
        space.download_of(&path, Which::At(at), None).await?.read_to_end().await
    };
    see(work).await
}
