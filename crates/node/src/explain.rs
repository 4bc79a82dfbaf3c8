//! Where a file's data is, how many losses it survives, when it was last found sound, and what is being done for it.
//!
//! Stewards say who holds its stripes, and holders what they have and when they checked it: a shard counts only when its holder says that it is there. With
//! `check`, each is made to prove a part of it besides.

use crate::{
    api::{ExplainOptions, Explanation, MachineShare, ShardInfo, StripeInfo, StripeWork},
    audit, edit,
    error::NodeError,
    files::Files,
    names::custodians,
    protocol::{HOLDERS_MAX, Inspected, Known, PoolReply, PoolRequest},
    serve,
    shared::Shared,
    space::OpenSpace,
    standing::Outcome,
    stripes,
};
use potluck_placement::{View, survives};
use potluck_spaces::{DirId, File, Path, Tree, Value};
use potluck_types::{Geometry, NodeId, ShardId, StripeId};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Stripes that are told one by one, as long as so many shards suffice: an answer has to fit a frame of the local API.
const STRIPES_TOLD: usize = 500;
const SHARDS_TOLD: usize = 3000;
/// Files that are named because they survive less than they were made to.
const FILES_TOLD: usize = 10;
/// Stripes that are remembered, so that what several files share counts once. Of more, some count for each.
const SEEN_MAX: usize = 1 << 18;
/// Files and stripes that are looked at together.
const BATCH: usize = HOLDERS_MAX;

/// What is at a path: a file, or the files below it.
pub(crate) async fn explain(space: &OpenSpace, path: &Path, options: ExplainOptions) -> Result<Explanation, NodeError> {
    let mut account = Account::of(space, path, options);
    if let Some(directory) = directory_of(space, path).await? {
        let mut files = Files::below(space, vec![directory]);
        while let Some(found) = files.next().await? {
            let names = found.path.names().iter().cloned();
            account
                .add(names.fold(path.clone(), |at, name| at.join(name)), &found.file)
                .await?;
        }
    } else {
        let (task, at) = (space.clone(), path.clone());
        let (file, _) = Shared::blocking(move || edit::content_of(&at, &edit::head(&task, &at)?.value)).await?;
        account.add(path.clone(), &file).await?;
    }
    Ok(account.close().await)
}

async fn directory_of(space: &OpenSpace, path: &Path) -> Result<Option<DirId>, NodeError> {
    if path.names().is_empty() {
        return Ok(Some(DirId::ROOT));
    }
    let (task, path) = (space.clone(), path.clone());
    Shared::blocking(move || {
        let found = task.view().find(&task.read()?, &path)?;
        let head = found.and_then(|found| found.heads.into_iter().next());
        Ok(match head.map(|head| head.value) {
            Some(Value::Directory(id)) => Some(id),
            _ => None,
        })
    })
    .await
}

async fn stripes_of(space: &OpenSpace, file: &File) -> Result<Vec<StripeId>, NodeError> {
    let (task, id) = (space.clone(), file.id);
    Shared::blocking(move || Ok(Tree::of(task.id()).stripes_of(&task.read()?, id)?)).await
}

/// What is found of one stripe.
struct Found {
    known: Option<Known>,
    /// Shards that their holders say they have, and when each was found sound.
    there: Vec<(NodeId, Inspected)>,
    geometry: Option<Geometry>,
    /// How many losses it survives; none when it cannot be read.
    survives: Option<u8>,
}

impl Found {
    /// Works out how many losses it survives while who is here is as in this view.
    fn count(&mut self, view: &View) {
        let counting = self.there.iter().map(|(node, held)| (*node, held.index));
        let counting: Vec<_> = counting.filter(|(node, _)| view.counts(*node)).collect();
        self.survives = self.geometry.and_then(|geometry| survives(geometry, &counting, view));
    }
}

/// A part of a file's stripes that waits to be looked at with others.
struct Part {
    path: Path,
    /// How many losses the file was made to survive.
    promised: u8,
    stripes: Vec<StripeId>,
}

/// What is added up.
struct Account<'a> {
    space: &'a OpenSpace,
    options: ExplainOptions,
    explanation: Explanation,
    machines: BTreeMap<NodeId, MachineShare>,
    work: Vec<(StripeWork, u64)>,
    waiting: Vec<Part>,
    /// Stripes that were looked at, and how many losses each survives.
    seen: HashMap<StripeId, Option<u8>>,
    /// The file that was found to survive too little last: its other parts add nothing.
    short: Option<Path>,
}

impl<'a> Account<'a> {
    fn of(space: &'a OpenSpace, path: &Path, options: ExplainOptions) -> Self {
        let now = space.steady();
        let nodes = space.with_control(|control| control.nodes(now));
        let share = |info: crate::api::NodeInfo| (info.id, MachineShare::of(info));
        Self {
            space,
            options,
            explanation: Explanation::of(path.clone()),
            machines: nodes.into_iter().map(share).collect(),
            work: Vec::new(),
            waiting: Vec::new(),
            seen: HashMap::new(),
            short: None,
        }
    }

    /// Adds a file. Its stripes are looked at together with those of others.
    async fn add(&mut self, path: Path, file: &File) -> Result<(), NodeError> {
        let stripes = stripes_of(self.space, file).await?;
        let explanation = &mut self.explanation;
        explanation.files += 1;
        explanation.bytes += file.len;
        explanation.inline += u64::from(stripes.is_empty());
        explanation.promised = explanation.promised.min(file.survives);
        for part in stripes.chunks(BATCH) {
            self.waiting.push(Part {
                path: path.clone(),
                promised: file.survives,
                stripes: part.to_vec(),
            });
            let stripes: usize = self.waiting.iter().map(|part| part.stripes.len()).sum();
            if stripes >= BATCH {
                self.look().await;
            }
        }
        Ok(())
    }

    /// Looks at what waits.
    async fn look(&mut self) {
        let parts = std::mem::take(&mut self.waiting);
        let mut stripes: Vec<StripeId> = parts.iter().flat_map(|part| part.stripes.iter().copied()).collect();
        stripes.sort_unstable();
        stripes.dedup();
        stripes.retain(|stripe| !self.seen.contains_key(stripe));
        let mut found = HashMap::new();
        for page in stripes.chunks(HOLDERS_MAX) {
            found.extend(look(self.space, page).await);
        }
        if self.options.check {
            self.check(&mut found).await;
        }
        for (stripe, one) in &found {
            self.add_stripe(*stripe, one);
            if self.seen.len() < SEEN_MAX {
                self.seen.insert(*stripe, one.survives);
            }
        }
        for Part {
            path,
            promised,
            stripes,
        } in parts
        {
            let survives = |stripe: &StripeId| match found.get(stripe) {
                Some(found) => found.survives,
                None => self.seen.get(stripe).copied().flatten(),
            };
            let is_short = stripes.iter().any(|stripe| survives(stripe) < Some(promised));
            if is_short && self.short.as_ref() != Some(&path) {
                self.explanation.short_files += 1;
                if self.explanation.short_paths.len() < FILES_TOLD {
                    self.explanation.short_paths.push(path.clone());
                }
                self.short = Some(path);
            }
        }
    }

    fn add_stripe(&mut self, stripe: StripeId, found: &Found) {
        let explanation = &mut self.explanation;
        explanation.stripes += 1;
        match found.survives {
            Some(losses) => *explanation.survives.entry(losses).or_default() += 1,
            None => explanation.unreadable += 1,
        }
        let work = match &found.known {
            Some(known) => known.work.clone(),
            None => {
                explanation.unheard += 1;
                StripeWork::Nothing
            }
        };
        self.add_work(&work);
        for (node, Inspected { verified_at: at, .. }) in &found.there {
            if let Some(share) = self.machines.get_mut(node) {
                share.shards += 1;
                share.verified_at = Some(share.verified_at.map_or(*at, |known| known.min(*at)));
            }
        }
        let holders = found.known.iter().flat_map(|known| known.holders.iter().copied());
        let absent: Vec<_> = holders
            .filter(|(node, index)| {
                !found
                    .there
                    .iter()
                    .any(|(other, held)| (other, held.index) == (node, *index))
            })
            .collect();
        for (node, _) in &absent {
            if let Some(share) = self.machines.get_mut(node) {
                share.unconfirmed += 1;
            }
        }
        let told: usize = self.explanation.told.iter().map(|info| info.shards.len()).sum();
        if self.explanation.told.len() < STRIPES_TOLD && told < SHARDS_TOLD {
            let there = found.there.iter().map(|(node, held)| ShardInfo {
                node: *node,
                index: held.index,
                verified_at: Some(held.verified_at),
            });
            let absent = absent.into_iter().map(|(node, index)| ShardInfo {
                node,
                index,
                verified_at: None,
            });
            self.explanation.told.push(StripeInfo {
                stripe,
                geometry: found.geometry.map(|geometry| (geometry.k(), geometry.m())),
                survives: found.survives,
                shards: there.chain(absent).collect(),
                work,
            });
        }
    }

    /// Counts what is done; of several that wait for the same, the last end counts.
    fn add_work(&mut self, work: &StripeWork) {
        for (other, count) in &mut self.work {
            match (&mut *other, work) {
                (
                    StripeWork::Waiting { cause, until },
                    StripeWork::Waiting {
                        cause: same,
                        until: later,
                    },
                ) if cause == same => *until = (*until).max(*later),
                (other, work) if *other == *work => {}
                _ => continue,
            }
            *count += 1;
            return;
        }
        self.work.push((work.clone(), 1));
    }

    /// Lets each holder prove a part of each shard. What it does not prove does not count.
    async fn check(&mut self, found: &mut HashMap<StripeId, Found>) {
        let mut claims: BTreeMap<NodeId, Vec<(ShardId, u32)>> = BTreeMap::new();
        for (stripe, found) in found.iter() {
            let Some(known) = &found.known else { continue };
            for (node, held) in &found.there {
                let (stripe, index) = (*stripe, held.index);
                claims
                    .entry(*node)
                    .or_default()
                    .push((ShardId { stripe, index }, known.shard_len));
            }
        }
        for (node, outcomes) in audit::check(self.space.shared(), claims).await {
            let Some(share) = self.machines.get_mut(&node) else {
                continue;
            };
            for (shard, outcome) in outcomes {
                let count = match outcome {
                    Outcome::Proved => &mut share.proved,
                    Outcome::Wrong | Outcome::Lost => &mut share.failed,
                    Outcome::Offline | Outcome::Unknown => &mut share.unanswered,
                };
                *count += 1;
                if outcome != Outcome::Proved
                    && let Some(found) = found.get_mut(&shard.stripe)
                {
                    found
                        .there
                        .retain(|(holder, held)| (*holder, held.index) != (node, shard.index));
                }
            }
        }
        let view = self.space.present_view();
        found.values_mut().for_each(|found| found.count(&view));
    }

    async fn close(mut self) -> Explanation {
        self.look().await;
        let keepers = self
            .space
            .with_control(|control| custodians(self.space.id(), control.view()));
        let mut machines: Vec<_> = self.machines.into_values().collect();
        for share in &mut machines {
            share.keeps_names = keepers.contains(&share.id) || share.id == self.space.me();
        }
        machines.retain(|share| share.shards + share.unconfirmed > 0 || share.keeps_names);
        machines.sort_by_key(|share| (std::cmp::Reverse(share.shards), share.id));
        let mut explanation = self.explanation;
        if let Some(regions) = self.space.regions(self.space.id()) {
            let is_there = |share: &&MachineShare| share.region.as_ref().is_some_and(|region| regions.contains(region));
            let shards = |share: &MachineShare| share.shards + share.unconfirmed;
            let there: u64 = machines.iter().filter(is_there).map(shards).sum();
            explanation.elsewhere = machines.iter().map(shards).sum::<u64>() - there;
            explanation.machines_there = self.space.machines_in(&regions).0;
            explanation.regions = Some(regions);
        }
        explanation.told.sort_by_key(|info| (info.survives, info.stripe));
        explanation.names_survive = u8::try_from(keepers.len().saturating_sub(1)).unwrap_or(u8::MAX);
        Explanation {
            machines,
            work: self.work,
            ..explanation
        }
    }
}

/// What stewards and holders say of these stripes.
async fn look(space: &OpenSpace, stripes: &[StripeId]) -> HashMap<StripeId, Found> {
    let by_steward = stripes::by_steward(space.shared(), stripes.to_vec()).await;
    let asked = by_steward
        .iter()
        .map(|(node, stripes)| stripes::known_to(space, *node, stripes));
    let known: BTreeMap<_, _> = futures::future::join_all(asked).await.into_iter().flatten().collect();
    let peers = space.with_control(|control| control.live_peers());
    let mut by_holder: BTreeMap<NodeId, Vec<StripeId>> = BTreeMap::new();
    for stripe in stripes {
        let holders: HashSet<NodeId> = match known.get(stripe) {
            Some(known) => known.holders.iter().map(|(node, _)| *node).collect(),
            // Its steward does not know it: everybody is asked.
            None => peers.iter().copied().chain([space.me()]).collect(),
        };
        for node in holders
            .into_iter()
            .filter(|node| *node == space.me() || peers.contains(node))
        {
            by_holder.entry(node).or_default().push(*stripe);
        }
    }
    let asked = by_holder.into_iter().map(|(node, stripes)| async move {
        let checked = inspect(space, node, &stripes).await;
        (node, stripes, checked)
    });
    let mut there: HashMap<StripeId, Vec<(NodeId, Inspected)>> = HashMap::new();
    for (node, stripes, checked) in futures::future::join_all(asked).await {
        for (stripe, shards) in stripes.into_iter().zip(checked) {
            let shards = shards.into_iter().map(|held| (node, held));
            there.entry(stripe).or_default().extend(shards);
        }
    }
    let view = space.present_view();
    let found = stripes.iter().map(|stripe| {
        let known = known.get(stripe).cloned();
        let mut there = there.remove(stripe).unwrap_or_default();
        let geometry = known.as_ref().map(|known| known.geometry);
        let geometry = geometry.or_else(|| there.first().map(|(_, held)| held.geometry));
        // What no shard of this stripe can be, or is told twice, is not one.
        there.retain(|(_, held)| Some(held.geometry) == geometry && held.index < held.geometry.n());
        there.sort_unstable_by_key(|(node, held)| (*node, held.index));
        there.dedup_by_key(|(node, held)| (*node, held.index));
        let mut found = Found {
            known,
            there,
            geometry,
            survives: None,
        };
        found.count(&view);
        (*stripe, found)
    });
    found.collect()
}

/// What a node says that it holds of stripes, and when it found each sound; nothing when it does not answer.
async fn inspect(space: &OpenSpace, node: NodeId, stripes: &[StripeId]) -> Vec<Vec<Inspected>> {
    if node == space.me() {
        let (store, stripes) = (space.store.clone(), stripes.to_vec());
        return Shared::blocking(move || serve::inspect(&store, &stripes)).await;
    }
    let request = PoolRequest::Inspect {
        stripes: stripes.to_vec(),
    };
    match space.ask(node, &request).await {
        Ok(PoolReply::Inspected(checked)) => checked,
        _ => Vec::new(),
    }
}
