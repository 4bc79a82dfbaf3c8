//! The façade: what command line, web page, gateways and tests see of a node.

mod advice;
mod space;
mod start;

pub use space::Space;

use crate::{
    access,
    api::{
        Access, AccessEvent, Erased, Followed, Held, Identity, Invitation, InviteOptions, LeaveProgress, LetIn,
        LinkInfo, LinkMade, LinkOptions, MassIn, Member, NodeStatus, Person, Probe, Reconciled, RemoveOptions, Revoked,
        SpaceInfo, SpaceOptions, SpacePath, SpaceRemoval, Status, TrashInfo, Unshared, Verified,
    },
    audit, branch, checkpoint, collect, conflicts,
    control::AtHand,
    devices, driver, erase,
    error::NodeError,
    forks,
    links::{self, Linked},
    logs,
    meta::Invite,
    probe,
    protocol::{PoolReply, PoolRequest},
    rails,
    records::{Certificate, PoolRecord, sign},
    serve, share,
    shared::Shared,
    spaces, sweep,
    upload::{Safety, geometry_now},
    verify,
};
use advice::{Facts, advice};
use potluck_crypto::{Kit, KitMember, Link, Passphrase, Ticket};
use potluck_placement::survivable;
use potluck_spaces::{Liveness, Path};
use potluck_types::{NodeId, ShardId, SpaceId, SpaceName, StripeId, UserId, UserName};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path as FilePath,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

/// How long a member may take to say how its stripes are.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);
/// Members that a recovery kit names.
const KIT_MEMBERS: usize = 16;

/// A running node. Clones are handles on the same one.
#[derive(Clone)]
pub struct Node {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node")
            .field("id", &self.shared.me())
            .finish_non_exhaustive()
    }
}

impl Node {
    /// What its tasks share, for the fuzzer.
    #[cfg(fuzzing)]
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Who and where this node is.
    pub fn identity(&self) -> Identity {
        let (pool, pool_name) = self
            .shared
            .with_control(|control| (control.roster.pool(), control.roster.pool_name().to_owned()));
        Identity {
            node: self.shared.me(),
            user: self.shared.user,
            pool,
            pool_name,
            addresses: self.shared.announced_addresses(),
        }
    }

    /// Waits until every member that is not known to be away is connected and has told what this node lacks, or the node has run for so long that those who have not are away.
    /// Right after a start, a write would find nobody who takes its shards, a read nobody who has them, and a list might lack names.
    pub async fn gathered(&self) {
        branch::gathered(&self.shared).await;
    }

    /// Ends when this node is no member any more, other than by [`Node::part`]: its person took it out of the pool.
    pub async fn taken_out(&self) {
        self.shared.taken_out.cancelled().await;
    }

    /// Ends when this node has to give way to another one that runs with the same key: its home was copied.
    pub async fn gives_way(&self) {
        self.shared.twin.gives_way().await;
    }

    /// The pool as this node sees it; the counts of its health come from every live member.
    pub async fn status(&self) -> Result<Status, NodeError> {
        let shared = &self.shared;
        let now = shared.steady();
        let mut health = shared.health(now);
        let (mut nodes, peers) = shared.with_control(|control| (control.nodes(now), control.live_peers()));
        let AtHand { eligible: domains, .. } = shared.at_hand(None);
        let asked = peers.into_iter().map(|peer| async move {
            match tokio::time::timeout(HEALTH_TIMEOUT, shared.ask(peer, &PoolRequest::Health)).await {
                Ok(Ok(PoolReply::Health { counts, used })) => Ok((peer, counts, used)),
                _ => Err(peer),
            }
        });
        let mut silent = Vec::new();
        // What nodes told the pool of their disks is some seconds old.
        let mut used_now = BTreeMap::from([(shared.me(), shared.store.stats().on_disk)]);
        for answer in futures::future::join_all(asked).await {
            match answer {
                Ok((peer, counts, used)) => {
                    health.add(&counts);
                    used_now.insert(peer, used);
                }
                Err(peer) => silent.push(peer),
            }
        }
        for node in &mut nodes {
            node.used = used_now.get(&node.id).copied().unwrap_or(node.used);
            node.relayed_by = shared.endpoint.relay_of(node.id).flatten();
        }
        let geometry = geometry_now(shared, Safety::default())?;
        let (mut trash, mut masses) = (TrashInfo::default(), Vec::new());
        let (mut unreadable_files, mut unreadable_paths, mut in_conflict) = (0, Vec::new(), 0);
        for space in shared.open_spaces() {
            let (kept, lately) = rails::look(&space).await?;
            trash.files += kept.files;
            trash.bytes += kept.bytes;
            in_conflict += conflicts::count(&space).await?;
            let Some(name) = shared.spaces.name(space.id()) else {
                continue;
            };
            // Only who may write can answer.
            if space.may_write() {
                masses.extend(lately.into_iter().map(|mass| MassIn {
                    space: name.clone(),
                    mass,
                }));
            }
            let (files, paths) = shared.watch.lock().expect("never poisoned").files(space.id());
            unreadable_files += files;
            unreadable_paths.extend(paths.into_iter().map(|path| SpacePath {
                space: name.clone(),
                path,
            }));
        }
        let (rivals, mut parted) = (devices::rivals(shared), shared.forks.devices());
        parted.retain(|device| nodes.iter().any(|node| node.id == *device));
        let facts = Facts {
            nodes: &nodes,
            health: &health,
            domains,
            unreadable: &unreadable_paths,
            is_leaving: shared.leaving.load(Ordering::Relaxed),
            until_gone: shared.with_control(|control| control.until_gone(now)),
            has_changed: shared.with_control(|control| control.settled_since(now).is_none()),
            masses: &masses,
            is_copied: shared.twin.is_copied(),
            has_rivals: !rivals.is_empty(),
            parted: &parted,
        };
        Ok(Status {
            identity: self.identity(),
            layout_epoch: shared.with_control(|control| control.layouts().epoch()),
            advice: advice(&facts),
            nodes,
            health,
            silent,
            unreadable_files,
            unreadable_paths,
            trash,
            conflicts: in_conflict,
            masses,
            rivals,
            parted: parted.into_iter().collect(),
            default_survive: geometry.m(),
            survivable: survivable(domains),
            geometry: (geometry.k(), geometry.m()),
        })
    }

    /// Makes a ticket.
    pub async fn invite(&self, options: InviteOptions) -> Result<Invitation, NodeError> {
        let shared = Arc::clone(&self.shared);
        shared.refuse_old_key()?;
        let generation = shared.with_control(|control| control.roster.generation(shared.user));
        let (secret, hash) = serve::new_secret(&*shared.entropy);
        let expires = shared.now() + options.expires;
        let invite = Invite {
            expires,
            uses_left: options.uses.max(1),
            mine: options.mine,
            generation,
            used_by: Vec::new(),
        };
        let meta = Arc::clone(&shared.meta);
        Shared::blocking(move || meta.with_invite(hash, |slot| *slot = Some(invite))).await?;
        let identity = self.identity();
        let ticket = Ticket {
            pool: identity.pool,
            pool_name: identity.pool_name,
            inviter: identity.node,
            addresses: identity.addresses,
            secret,
            expires,
            mine: options.mine,
        };
        Ok(Invitation {
            ticket: ticket.to_string(),
            expires,
            uses: options.uses.max(1),
            mine: options.mine,
        })
    }

    /// Frees now what removed files left, and what uploads left that broke off so long ago, and makes checkpoints where there is much to replay; without this it happens every hour, and after a
    /// day. Gives the number of stripes that were given up.
    pub async fn sweep(&self, abandoned_after: Duration) -> Result<u64, NodeError> {
        let mut given_up = 0;
        for space in self.shared.written_spaces() {
            Box::pin(checkpoint::look(&space)).await?;
            given_up += collect::collect(&space, abandoned_after).await?;
        }
        sweep::sweep(&self.shared).await;
        driver::compact(&self.shared).await;
        Ok(given_up)
    }

    /// The person's private space.
    pub fn private(&self) -> Space {
        Space {
            space: self.shared.private(),
        }
    }

    /// A space by the name that the person gave it.
    ///
    /// # Errors
    /// When there is none of that name, or its keys are not here yet.
    pub fn space(&self, name: &SpaceName) -> Result<Space, NodeError> {
        let space = spaces::find(&self.shared, name)?;
        Ok(Space { space })
    }

    /// Founds a space.
    pub async fn create_space(&self, name: SpaceName) -> Result<SpaceInfo, NodeError> {
        self.create_space_with(name, SpaceOptions::default()).await
    }

    /// Founds a space in which this is to hold.
    pub async fn create_space_with(&self, name: SpaceName, options: SpaceOptions) -> Result<SpaceInfo, NodeError> {
        spaces::create(&self.shared, name, options).await
    }

    /// Says what is to hold in a space of this node's person from now on.
    pub async fn set_space(&self, name: &SpaceName, options: SpaceOptions) -> Result<SpaceInfo, NodeError> {
        spaces::set(&self.shared, name, options).await
    }

    /// The spaces of this person, with those that were removed and can be brought back if that is asked for.
    pub async fn spaces(&self, with_removed: bool) -> Result<Vec<SpaceInfo>, NodeError> {
        spaces::list(&self.shared, with_removed).await
    }

    /// A space in detail.
    pub async fn space_info(&self, name: &SpaceName) -> Result<SpaceInfo, NodeError> {
        spaces::info(&self.shared, name).await
    }

    /// Removes a space with all that is in it. It can be brought back for as long as was configured, unless it is to go now.
    pub async fn remove_space(&self, name: &SpaceName, options: RemoveOptions) -> Result<SpaceRemoval, NodeError> {
        spaces::remove(&self.shared, name, options).await
    }

    /// Brings back a space that was removed.
    pub async fn restore_space(&self, name: &SpaceName) -> Result<SpaceInfo, NodeError> {
        spaces::restore(&self.shared, name).await
    }

    /// Gives a space another name.
    pub async fn rename_space(&self, from: &SpaceName, to: &SpaceName) -> Result<(), NodeError> {
        spaces::rename(&self.shared, from, to).await
    }

    /// What this node's person wants to be called from now on.
    pub async fn call_me(&self, name: UserName) {
        share::call_me(&self.shared, name).await;
    }

    /// The people of the pool, this node's first.
    pub fn people(&self) -> Vec<Person> {
        share::people(&self.shared)
    }

    /// Lets a person, by their name or the end of their id, into a space of this person's.
    pub async fn share(&self, space: &SpaceName, with: &str, access: Access) -> Result<LetIn, NodeError> {
        Box::pin(share::share(&self.shared, space, None, with, access)).await
    }

    /// Lets a person into a directory of a space alone, and what is in it: they see nothing else. It is made anew for that, if nobody was let into it before, and then is a directory that
    /// is shared alone for good.
    pub async fn share_below(
        &self,
        space: &SpaceName,
        prefix: &Path,
        with: &str,
        access: Access,
    ) -> Result<LetIn, NodeError> {
        Box::pin(share::share(&self.shared, space, Some(prefix), with, access)).await
    }

    /// Takes a person out of a space: what is written from now on is sealed under a key that they do not have.
    pub async fn unshare(&self, space: &SpaceName, with: &str) -> Result<Unshared, NodeError> {
        share::unshare(&self.shared, space, None, with).await
    }

    /// Takes a person out of a directory that they were let into, and leaves them others.
    pub async fn unshare_below(&self, space: &SpaceName, prefix: &Path, with: &str) -> Result<Unshared, NodeError> {
        share::unshare(&self.shared, space, Some(prefix), with).await
    }

    /// Who may read a space, its owner first.
    pub async fn members(&self, space: &SpaceName) -> Result<Vec<Member>, NodeError> {
        share::members(&self.shared, space).await
    }

    /// Spaces that others have let this person into, and that have no name here yet.
    pub async fn offers(&self) -> Result<Vec<SpaceInfo>, NodeError> {
        spaces::offers(&self.shared).await
    }

    /// Takes a space that this person was let into: by what its owner calls it, or the end of its id.
    pub async fn accept(&self, offer: &str, called: Option<SpaceName>) -> Result<SpaceInfo, NodeError> {
        share::accept(&self.shared, offer, called).await
    }

    /// Makes a link to a file or directory of a space: whoever has it may read that, and what comes to be there.
    pub async fn link(&self, space: &SpaceName, path: &Path, options: LinkOptions) -> Result<LinkMade, NodeError> {
        let open = spaces::find(&self.shared, space)?;
        links::make(&open, space, path, options).await
    }

    /// The links into a space, the latest first.
    pub async fn links(&self, space: &SpaceName) -> Result<Vec<LinkInfo>, NodeError> {
        let (open, called) = (spaces::find(&self.shared, space)?, space.clone());
        Shared::blocking(move || links::list(&open, &called)).await
    }

    /// Ends a link: by its text, or by the start of its id. What was read by it may have been kept.
    pub async fn revoke_link(&self, which: &str) -> Result<LinkInfo, NodeError> {
        links::revoke(&self.shared, which).await
    }

    /// Opens a link of another member, with its password where it has one.
    pub async fn open_link(&self, link: &Link, password: Option<&str>) -> Result<Linked, NodeError> {
        links::open(&self.shared, link, password).await
    }

    /// Asks again about what was erased on this machine and not everybody had heard of.
    pub async fn erasures(&self) -> Result<Vec<Erased>, NodeError> {
        erase::asked_again(&self.shared).await
    }

    /// Says that all that was removed and overwritten up to now was meant, in every space.
    pub async fn accept_losses(&self) -> Result<(), NodeError> {
        for space in self.shared.written_spaces() {
            if !space.is_partial() && !rails::look(&space).await?.1.is_empty() {
                rails::accept(&space).await?;
            }
        }
        Ok(())
    }

    /// What this person needs to come back after all their machines are lost.
    pub async fn kit(&self) -> Result<Kit, NodeError> {
        let now = self.shared.now();
        let identity = self.identity();
        let steady = self.shared.steady();
        let nodes = self.shared.with_control(|control| control.nodes(steady));
        let members = nodes
            .into_iter()
            .filter(|info| !info.addresses.is_empty())
            .map(|info| KitMember {
                node: info.id,
                addresses: info.addresses,
            })
            .take(KIT_MEMBERS)
            .collect();
        Ok(Kit {
            user: (*self.shared.keys()).clone(),
            pool: identity.pool,
            pool_name: identity.pool_name,
            members,
            made_at: now,
        })
    }

    /// Puts the keys in this node's home under a passphrase, in place of another one, if there is one: its next start asks for it. Takes about a second.
    pub async fn lock_keys(&self, passphrase: Passphrase) -> Result<(), NodeError> {
        let shared = Arc::clone(&self.shared);
        Ok(Shared::blocking(move || shared.home.lock(&passphrase, &*shared.entropy)).await?)
    }

    /// Takes them out from under it. Whether they were under one.
    pub async fn unlock_keys(&self) -> Result<bool, NodeError> {
        let shared = Arc::clone(&self.shared);
        Ok(Shared::blocking(move || shared.home.unprotect()).await?)
    }

    /// Begins to leave: this node's shards go to the others first. Saying it twice changes nothing.
    pub async fn leave(&self) -> Result<(), NodeError> {
        self.shared.leaving.store(true, Ordering::Relaxed);
        self.shared.announce_state();
        logs::hand_out(&self.shared, true).await;
        Ok(())
    }

    /// Takes [`Node::leave`] back: this node is given shards again.
    pub fn stay(&self) {
        self.shared.leaving.store(false, Ordering::Relaxed);
        self.shared.announce_state();
    }

    /// How far the departure is. Nothing counts as handed over while others cannot say how the data is.
    pub async fn leave_progress(&self) -> Result<LeaveProgress, NodeError> {
        let status = self.status().await?;
        let shards = self.shared.store.stats().shards;
        let alone = !status.nodes.iter().any(|info| info.status == NodeStatus::Live);
        let health = &status.health;
        let left = health.endangered + health.unreadable + health.mending + health.queued;
        let unsure =
            shards > 0 && (alone || !status.silent.is_empty() || health.gathering > 0 || health.stripes() == 0);
        Ok(LeaveProgress {
            shards_left: if unsure { left.max(shards) } else { left },
            shards_total: shards,
            is_leaving: self.shared.leaving.load(Ordering::Relaxed),
        })
    }

    /// How this node looks from the others that are here.
    pub async fn probe(&self) -> Vec<Probe> {
        probe::ask(&self.shared).await
    }

    /// Takes a machine of this person out of the pool that is lost, or no longer theirs. What only it holds is lost to the pool.
    pub async fn forget(&self, node: NodeId) -> Result<(), NodeError> {
        let user = self.shared.with_control(|control| control.roster.user_of(node));
        if node == self.shared.me() {
            return Err(NodeError::ForgetSelf);
        }
        if user != Some(self.shared.user) {
            return Err(NodeError::NotYours(node));
        }
        self.shared.refuse_old_key()?;
        self.end_membership(node).await;
        Ok(())
    }

    /// Ends this node's membership, whatever it still holds: that is lost to the pool. [`Node::leave_progress`] tells.
    /// It must have been said before that it leaves, and not been taken back.
    pub async fn part(&self) -> Result<(), NodeError> {
        if !self.shared.leaving.load(Ordering::Relaxed) {
            return Err(NodeError::NotLeaving);
        }
        // What it says would not count.
        self.shared.refuse_old_key()?;
        self.shared.parting.store(true, Ordering::Relaxed);
        self.end_membership(self.shared.me()).await;
        Ok(())
    }

    async fn end_membership(&self, node: NodeId) {
        let shared = &self.shared;
        let (pool, seq) = shared.with_control(|control| (control.roster.pool(), control.roster.certificate_seq(node)));
        let last = Certificate {
            active: false,
            ..Certificate::new(&shared.keys(), pool, node, seq.saturating_add(1))
        };
        // Told directly: gossip may not get out before this node does.
        let record = PoolRecord::Certificate(sign(shared.keys().signing(), &last));
        shared.tell_all(record).await;
    }

    /// Takes machines out of this person's hands that are lost, or in another's: they are no members any more, and have a key that counts no more and opens nothing that comes later. All other
    /// machines of the person are to be among those that stay, so that none is given the next key that they do not know of.
    pub async fn revoke(&self, gone: &BTreeSet<NodeId>, stays: &BTreeSet<NodeId>) -> Result<Revoked, NodeError> {
        devices::revoke(&self.shared, gone, stays).await
    }

    /// Where another machine of the person's has replaced the key, too ([`Status::rivals`]): replaces both by one; which, if there are several that can be. What either took out is out.
    pub async fn reconcile(&self, which: Option<UserId>) -> Result<Reconciled, NodeError> {
        devices::reconcile(&self.shared, which).await
    }

    /// Follows a machine that goes on with another history than the one that is kept here ([`Status::parted`]). What it has given up of that is dropped here, and what it
    /// stands by is fetched from it; so it has to be here.
    pub async fn follow(&self, node: NodeId) -> Result<Followed, NodeError> {
        let (spaces, dropped) = forks::follow(&self.shared, node).await?;
        Ok(Followed { node, spaces, dropped })
    }

    /// Where this node keeps its things.
    pub fn home(&self) -> &FilePath {
        self.shared.home.path()
    }

    /// Stops: no request is answered any more, and all is on disk when this returns.
    pub async fn stop(&self) {
        self.shared.endpoint.close().await;
        self.shared.stopping.cancel();
        let store = self.shared.store.clone();
        Shared::blocking(move || store.close()).await;
    }

    /// Ends at once, as when the process is killed: nobody is told, nothing is put in order. For simulations, whose disks lose their power in the same moment.
    pub fn halt(&self) {
        self.shared.stopping.cancel();
    }

    /// Up to `limit` shards that this node holds, in the order of their ids, behind `after`. For whoever checks the books.
    pub async fn held(&self, after: Option<ShardId>, limit: usize) -> Result<Vec<Held>, NodeError> {
        let store = self.shared.store.clone();
        let entries = Shared::blocking(move || store.entries(after, limit)).await;
        let entries = entries.map_err(|error| NodeError::Store(error.to_string()))?;
        let held = |(shard, entry): (ShardId, potluck_store::Entry)| Held {
            shard,
            geometry: entry.geometry,
            space: entry.space,
        };
        Ok(entries.into_iter().map(held).collect())
    }

    /// Whether this node keeps a log of a space, with or without its keys.
    pub async fn keeps_log(&self, space: SpaceId) -> Result<bool, NodeError> {
        Ok(logs::spaces(&self.shared).await?.contains(&space))
    }

    /// What changed who can read or write in a space, the latest first.
    pub async fn access_log(&self, space: &SpaceName) -> Result<Vec<AccessEvent>, NodeError> {
        let (open, called) = (spaces::find(&self.shared, space)?, space.clone());
        Shared::blocking(move || access::events(&open, &called)).await
    }

    /// Checks the history of a space: every signature, the order of all entries, who was allowed to write them, and whether other machines keep the same.
    pub async fn verify(&self, space: &SpaceName) -> Result<Verified, NodeError> {
        verify::verify(&spaces::find(&self.shared, space)?).await
    }

    /// Makes a checkpoint of a space now, of however little; without this it happens when there is much to replay. Whether there was anything, and this person may.
    pub async fn make_checkpoint(&self, space: &SpaceName) -> Result<bool, NodeError> {
        Box::pin(checkpoint::make(&spaces::find(&self.shared, space)?)).await
    }

    /// Which of these stripes of a space are in use, as its custodians know it; nothing when none of them says. Any space: whoever checks the books asks.
    pub async fn in_use(&self, space: SpaceId, stripes: &[StripeId]) -> Option<Vec<bool>> {
        let (verdicts, _) = sweep::verdicts(&self.shared, space, stripes).await?;
        Some(verdicts.into_iter().map(|verdict| verdict == Liveness::Live).collect())
    }

    /// Lets every member that is here prove parts of what it says that it holds, as far as this node is the one to ask; without this it happens all day, a few at
    /// a time.
    pub async fn audit(&self) {
        audit::probe_all(&self.shared).await;
    }

    /// Reads every shard of this node and drops what is damaged; gives how many were. The pool makes them anew.
    pub async fn scrub(&self) -> Result<u64, NodeError> {
        let store = self.shared.store.clone();
        let damaged = Shared::blocking(move || {
            let mut damaged = Vec::new();
            loop {
                let step = store
                    .scrub_step(potluck_types::ByteSize(64 << 20))
                    .map_err(|error| NodeError::Store(error.to_string()))?;
                damaged.extend(step.damaged);
                if step.wrapped {
                    return Ok::<_, NodeError>(damaged);
                }
            }
        })
        .await?;
        let count = damaged.len() as u64;
        if count > 0 {
            self.shared.lose(damaged);
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{FileMeta, NodeConfig, PutOptions},
        error::MetaError,
        world::World,
    };
    use potluck_spaces::{Kv, Share, Table};
    use potluck_types::{ByteSize, Timestamp};

    /// Tables of version 2, which knew neither where directories are nor what conflicts.
    fn forget(node: &Node) {
        let failed = |source| MetaError {
            action: "writing",
            source,
        };
        node.shared
            .meta
            .write(|kv| {
                for table in [Table::Placed, Table::Conflicts] {
                    for (key, _) in kv.scan(table, &[], None, usize::MAX).map_err(failed)? {
                        kv.delete(table, &key).map_err(failed)?;
                    }
                }
                for (key, _) in kv.scan(Table::Directories, &[], None, usize::MAX).map_err(failed)? {
                    kv.put(Table::Directories, &key, &[]).map_err(failed)?;
                }
                Ok::<_, MetaError>(())
            })
            .unwrap();
        node.shared.meta.set_setting("version", &2u32).unwrap();
    }

    fn tables(node: &Node) -> Vec<(Table, Vec<u8>, Vec<u8>)> {
        let kv = node.shared.read().unwrap();
        let compared = Table::DERIVED.into_iter().filter(|table| *table != Table::KeptUntil);
        let rows = compared.flat_map(|table| {
            let rows = kv.scan(table, &[], None, usize::MAX).unwrap();
            rows.into_iter().map(move |(key, value)| (table, key, value))
        });
        rows.collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn tables_of_an_older_version_are_made_anew() {
        let home = tempfile::tempdir().unwrap();
        let config = NodeConfig {
            home: home.path().to_owned(),
            listen: vec!["127.0.0.1:0".to_owned()],
            announce: Vec::new(),
            capacity: ByteSize(2_000_000_000),
            zone: None,
            region: None,
            name: None,
            mdns: false,
            relay: true,
            grace: Duration::from_secs(3600),
            world: World::default(),
            retention: Duration::from_secs(3600),
            mass_change_share: Share::HALF,
            passphrase: None,
        };
        let node = Node::found(config, "test").await.unwrap();
        let path = |text: &str| -> Path { text.parse().unwrap() };
        node.create_space("work".parse().unwrap()).await.unwrap();
        for space in [node.private(), node.space(&"work".parse().unwrap()).unwrap()] {
            for (at, content) in [("/a/b/one", "1"), ("/a/two", "2"), ("/a/two", "3"), ("/c/three", "4")] {
                let mut upload = space.upload(PutOptions::default()).unwrap();
                let meta = FileMeta {
                    modified: Timestamp::from_millis(1),
                    executable: false,
                };
                upload.put_file(path(at), meta, content.as_bytes()).await.unwrap();
                upload.finish().await.unwrap();
            }
            space.rename(&path("/a"), &path("/c/a")).await.unwrap();
            space
                .remove(&path("/c/a/b/one"), RemoveOptions::default())
                .await
                .unwrap();
        }
        let before = tables(&node);
        forget(&node);
        assert!(!node.shared.meta.is_current().unwrap() && tables(&node) != before);
        spaces::make_current(&node.shared).await.unwrap();
        assert!(node.shared.meta.is_current().unwrap() && tables(&node) == before);
        // A directory is moved by what is known of its place.
        let space = node.private();
        space.rename(&path("/c/a"), &path("/d")).await.unwrap();
        let listed = space.list(&path("/"), None, 10).await.unwrap();
        assert_eq!(listed.len(), 2);
        node.stop().await;
    }
}
