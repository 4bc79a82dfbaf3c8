//! The façade: what command line, web page, gateways and tests see of a node.

use crate::{
    api::{
        HealthInfo, Identity, Invitation, InviteOptions, LeaveProgress, NodeConfig, NodeInfo, NodeStatus, Probe,
        PutOptions, Stat, Status,
    },
    claims::Claims,
    collect,
    control::{Control, Event},
    download::{Download, PieceCache},
    driver, edit,
    error::{HomeError, JoinError, NodeError, Refusal, StartError},
    home::{Home, LOCK_PATIENCE},
    meta::{Invite, Meta},
    names, probe,
    protocol::{self, Credential, JoinReply, JoinRequest, PoolReply, PoolRequest},
    records::{Certificate, Genesis, PoolRecord, VERSION, sign},
    roster::Roster,
    serve,
    shared::Shared,
    sweep,
    upload::Upload,
};
use potluck_crypto::{Kit, KitMember, SigningKey, Ticket, derive};
use potluck_net::{Address, Endpoint, Inbox, Listen, NetworkConfig, Protocol};
use potluck_placement::{default_survive, geometry, survivable};
use potluck_spaces::{Name, Path};
use potluck_store::{Options, Store};
use potluck_types::{Clock, Entropy, NodeId, PoolId, SystemClock, SystemEntropy, limits};
use std::{
    ops::Range,
    path::Path as FilePath,
    str::FromStr,
    sync::{Arc, Mutex, atomic::AtomicBool, atomic::Ordering},
    time::Duration,
};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

/// How long listening may take to be confirmed.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(3);
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

/// What a node is made of before it belongs to a pool.
struct Parts {
    home: Home,
    meta: Meta,
    node_key: SigningKey,
    endpoint: Endpoint,
    inbox: Inbox,
    addresses: Vec<Address>,
    announce: Vec<Address>,
}

impl Parts {
    async fn prepare(config: &NodeConfig) -> Result<Self, StartError> {
        // What is written wrongly is told before anything is made.
        let listen: Vec<Listen> = parsed(&config.listen)?;
        let announce = parsed(&config.announce)?;
        let home = Home::take_within(&config.home, LOCK_PATIENCE).await?;
        let node_key = home.node_key(&SystemEntropy)?;
        home.refuse_missing(&home.meta_path())?;
        let meta = Meta::open(&home.meta_path())?;
        let network = NetworkConfig {
            listen: listen.clone(),
            mdns: config.mdns,
        };
        let (endpoint, mut inbox) = potluck_net::start(&node_key, &network).await?;
        let mut addresses = Vec::new();
        // TCP and QUIC each; a wildcard address is reported once for every interface.
        let deadline = tokio::time::Instant::now() + LISTEN_TIMEOUT;
        while addresses.len() < 2 * listen.len() {
            match tokio::time::timeout_at(deadline, inbox.events.recv()).await {
                Ok(Some(potluck_net::Event::Listening(address))) => addresses.push(address),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            }
        }
        Ok(Self {
            home,
            meta,
            node_key,
            endpoint,
            inbox,
            addresses,
            announce,
        })
    }
}

fn parsed<T: FromStr>(texts: &[String]) -> Result<Vec<T>, T::Err> {
    texts.iter().map(|text| text.parse()).collect()
}

impl Node {
    /// Whether a pool was made or joined in this home.
    pub fn has_pool(home: &FilePath) -> bool {
        Home::has_pool(home)
    }

    /// Makes a new pool, and starts its first node.
    pub async fn found(config: NodeConfig, pool_name: &str) -> Result<Self, StartError> {
        if pool_name.is_empty()
            || pool_name.len() > limits::POOL_NAME_BYTES_MAX
            || pool_name.chars().any(char::is_control)
        {
            return Err(StartError::PoolName(pool_name.chars().take(80).collect()));
        }
        let parts = Parts::prepare(&config).await?;
        refuse_occupied(&parts)?;
        let entropy: &dyn Entropy = &SystemEntropy;
        let user_key = parts.home.user_key(entropy)?;
        let genesis = Genesis {
            version: VERSION,
            name: pool_name.to_owned(),
            created: SystemClock.now(),
            nonce: entropy.bytes(),
        };
        let mut roster = Roster::new(sign(&user_key, &genesis))?;
        roster.merge(&own_certificate(&user_key, roster.pool(), parts.node_key.node_id(), 1))?;
        parts.meta.set_records(roster.records())?;
        parts.home.set_pool(roster.pool())?;
        Self::launch(parts, user_key, roster, config).await
    }

    /// Starts the node of a home that belongs to a pool.
    pub async fn start(config: NodeConfig) -> Result<Self, StartError> {
        if !Home::has_pool(&config.home) {
            return Err(HomeError::Empty { home: config.home }.into());
        }
        let parts = Parts::prepare(&config).await?;
        let Some(roster) = load_roster(&parts.meta)? else {
            return Err(HomeError::Empty { home: config.home }.into());
        };
        let user_key = parts.home.user_key(&SystemEntropy)?;
        Self::launch(parts, user_key, roster, config).await
    }

    /// Joins a pool with a ticket, and starts.
    pub async fn join(config: NodeConfig, ticket: &str) -> Result<Self, JoinError> {
        let ticket: Ticket = ticket.parse()?;
        let parts = Parts::prepare(&config).await?;
        refuse_occupied(&parts)?;
        let secret = *ticket.secret.as_bytes();
        let node = parts.node_key.node_id();
        let own = if ticket.mine {
            None
        } else {
            Some(parts.home.user_key(&SystemEntropy).map_err(StartError::from)?)
        };
        let credential = match &own {
            None => Credential::TicketForMine { secret },
            Some(user) => Credential::Ticket {
                secret,
                certificate: certificate(user, ticket.pool, node, 1),
            },
        };
        let inviter = KitMember {
            node: ticket.inviter,
            addresses: ticket.addresses.clone(),
        };
        let asked = ask_to_join(&parts, ticket.pool, &ticket.pool_name, &[inviter], credential).await;
        let (roster, seed) = asked.map_err(|error| match error {
            // The inviter's clock decides, since this one may be wrong; but it explains why nobody is there.
            JoinError::Unreachable { .. } if ticket.is_expired(SystemClock.now()) => JoinError::Expired(ticket.expires),
            error => error,
        })?;
        let user_key = match (own, seed) {
            (Some(user), _) => user,
            (None, Some(seed)) => SigningKey::from_seed(&seed),
            (None, None) => return Err(JoinError::Nonsense("the user key is missing".to_owned())),
        };
        Ok(Self::enter(parts, user_key, roster, config).await?)
    }

    /// Brings a person back on a fresh machine: joins their pool with the key in their recovery kit.
    pub async fn restore(config: NodeConfig, kit: &Kit) -> Result<Self, JoinError> {
        let parts = Parts::prepare(&config).await?;
        refuse_occupied(&parts)?;
        let word = certificate(&kit.user, kit.pool, parts.node_key.node_id(), 1);
        let credential = Credential::Member { certificate: word };
        let (roster, _) = ask_to_join(&parts, kit.pool, &kit.pool_name, &kit.members, credential).await?;
        Ok(Self::enter(parts, kit.user.clone(), roster, config).await?)
    }

    /// Keeps what joining gave, then starts. The records come last: a home has a pool once they are there.
    async fn enter(parts: Parts, user_key: SigningKey, roster: Roster, config: NodeConfig) -> Result<Self, StartError> {
        parts.home.set_user_key(&user_key)?;
        parts.meta.set_records(roster.records())?;
        parts.home.set_pool(roster.pool())?;
        Self::launch(parts, user_key, roster, config).await
    }

    async fn launch(
        parts: Parts,
        user_key: SigningKey,
        roster: Roster,
        config: NodeConfig,
    ) -> Result<Self, StartError> {
        let Parts {
            home,
            meta,
            node_key,
            endpoint,
            inbox,
            addresses,
            announce,
        } = parts;
        let (path, capacity) = (home.store_path(), config.capacity);
        let (store, recovery) = Shared::blocking(move || Store::open_dir(&path, Options::new(capacity))).await?;
        if recovery.rebuilt || !recovery.damaged.is_empty() {
            let (damaged, missing_packs) = (recovery.damaged.len(), recovery.missing_packs.len());
            let (rebuilt, unreadable) = (recovery.rebuilt, recovery.unreadable);
            tracing::warn!(rebuilt, damaged, missing_packs, %unreadable, "the shard store was repaired as it opened");
        }
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let space_key = derive::private_space_key(&user_key);
        let (events, events_receiver) = mpsc::unbounded_channel();
        let topic = roster.pool().to_string();
        endpoint.set_members(roster.members());
        let layouts = meta.layouts()?;
        let control = Control::new(node_key.node_id(), roster, layouts, config.grace, clock.now());
        let shared = Arc::new(Shared {
            space: derive::private_space_id(user_key.user_id()),
            dedup_key: derive::dedup_key(&space_key),
            space_key,
            node_key,
            user_key,
            endpoint,
            store,
            meta: Arc::new(meta),
            clock,
            entropy: Arc::new(SystemEntropy),
            control: Mutex::new(control),
            events,
            write_window: Arc::new(Semaphore::new(limits::WRITE_WINDOW_BYTES)),
            names: tokio::sync::Mutex::new(()),
            claims: Claims::default(),
            writing: Claims::default(),
            recoding_alone: tokio::sync::Mutex::default(),
            recoding: Mutex::default(),
            watching_alone: tokio::sync::Mutex::default(),
            watch: Mutex::default(),
            cache: PieceCache::default(),
            suspects: Mutex::default(),
            checking: tokio::sync::Mutex::new(()),
            addresses: Mutex::new(addresses),
            announce,
            capacity: config.capacity,
            zone: config.zone,
            name: config.name,
            leaving: AtomicBool::new(false),
            caught_up: AtomicBool::new(false),
            stopping: CancellationToken::new(),
            home,
        });
        shared.endpoint.subscribe(topic).await;
        shared.announce_state();
        shared.run_event(Event::Damaged(recovery.damaged.len() as u64));
        tokio::spawn(driver::run(Arc::clone(&shared), inbox, events_receiver));
        Ok(Self { shared })
    }

    /// Who and where this node is.
    pub fn identity(&self) -> Identity {
        let (pool, pool_name) = self
            .shared
            .with_control(|control| (control.roster.pool(), control.roster.pool_name().to_owned()));
        Identity {
            node: self.shared.me(),
            user: self.shared.user_key.user_id(),
            pool,
            pool_name,
            addresses: self.shared.announced_addresses(),
        }
    }

    /// The pool as this node sees it; the counts of its health come from every live member.
    pub async fn status(&self) -> Result<Status, NodeError> {
        let shared = &self.shared;
        let now = shared.now();
        let mut health = shared.health(now);
        let (mut nodes, peers, domains) =
            shared.with_control(|control| (control.nodes(now), control.live_peers(), control.eligible_domains(now)));
        let asked = peers.into_iter().map(|peer| async move {
            match tokio::time::timeout(HEALTH_TIMEOUT, shared.ask(peer, &PoolRequest::Health)).await {
                Ok(Ok(PoolReply::Health(health))) => Ok(health),
                _ => Err(peer),
            }
        });
        let mut silent = Vec::new();
        for answer in futures::future::join_all(asked).await {
            match answer {
                Ok(theirs) => health.add(&theirs),
                Err(peer) => silent.push(peer),
            }
        }
        // What this node told the pool is some seconds old.
        if let Some(own) = nodes.iter_mut().find(|node| node.id == shared.me()) {
            own.used = shared.store.stats().on_disk;
        }
        let default = default_survive(domains);
        let geometry = geometry(domains, default)?;
        let (unreadable_files, unreadable_paths) = shared.watch.lock().expect("never poisoned").files(shared.space);
        Ok(Status {
            identity: self.identity(),
            layout_epoch: shared.with_control(|control| control.layouts().epoch()),
            advice: advice(&nodes, &health, domains, &unreadable_paths),
            nodes,
            health,
            silent,
            unreadable_files,
            unreadable_paths,
            default_survive: default,
            survivable: survivable(domains),
            geometry: (geometry.k(), geometry.m()),
        })
    }

    /// Makes a ticket.
    pub async fn invite(&self, options: InviteOptions) -> Result<Invitation, NodeError> {
        let shared = Arc::clone(&self.shared);
        let (secret, hash) = serve::new_secret(&*shared.entropy);
        let expires = shared.now() + options.expires;
        let invite = Invite {
            expires,
            uses_left: options.uses.max(1),
            mine: options.mine,
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

    /// One directory, in order of names, after a name, up to a number.
    pub async fn list(
        &self,
        path: &Path,
        after: Option<&Name>,
        limit: usize,
    ) -> Result<Vec<crate::api::Entry>, NodeError> {
        let (shared, path, after) = (Arc::clone(&self.shared), path.clone(), after.cloned());
        Shared::blocking(move || edit::list(&shared, &path, after.as_ref(), limit)).await
    }

    /// A file or directory in detail.
    pub async fn stat(&self, path: &Path) -> Result<Stat, NodeError> {
        let (shared, path) = (Arc::clone(&self.shared), path.clone());
        Shared::blocking(move || edit::stat(&shared, &path)).await
    }

    /// Begins to put files.
    pub fn upload(&self, options: PutOptions) -> Result<Upload, NodeError> {
        Upload::new(Arc::clone(&self.shared), options)
    }

    /// Begins to get a file, or a range of it; a range that goes beyond its end ends there.
    pub async fn download(&self, path: &Path, range: Option<Range<u64>>) -> Result<Download, NodeError> {
        let (shared, at) = (Arc::clone(&self.shared), path.clone());
        let (file, content) = Shared::blocking(move || edit::content(&shared, &at)).await?;
        let range = range.unwrap_or(0..file.len);
        if range.start > file.len || (range.start == file.len && file.len > 0) || range.start > range.end {
            return Err(NodeError::Range {
                path: path.clone(),
                len: file.len,
                start: range.start,
            });
        }
        Ok(Download::begin(
            Arc::clone(&self.shared),
            content,
            range.start..range.end.min(file.len),
        ))
    }

    /// Frees now what removed files left, and what uploads left that broke off so long ago; without this it happens every hour, and after a
    /// day. Gives the number of stripes that were given up.
    pub async fn sweep(&self, abandoned_after: Duration) -> Result<u64, NodeError> {
        let given_up = collect::collect(&self.shared, abandoned_after).await?;
        sweep::sweep(&self.shared).await;
        driver::compact(&self.shared).await;
        Ok(given_up)
    }

    /// Removes a file, or a directory with all that is in it. Gives the number of files.
    pub async fn remove(&self, path: &Path, recursive: bool) -> Result<u64, NodeError> {
        edit::remove(&self.shared, path, recursive).await
    }

    /// Gives a file or directory another name.
    pub async fn rename(&self, from: &Path, to: &Path) -> Result<(), NodeError> {
        edit::rename(&self.shared, from, to).await
    }

    /// What this person needs to come back after all their machines are lost.
    pub async fn kit(&self) -> Result<Kit, NodeError> {
        let now = self.shared.now();
        let identity = self.identity();
        let nodes = self.shared.with_control(|control| control.nodes(now));
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
            user: self.shared.user_key.clone(),
            pool: identity.pool,
            pool_name: identity.pool_name,
            members,
            made_at: now,
        })
    }

    /// Begins to leave: this node's shards go to the others first. Saying it twice changes nothing.
    pub async fn leave(&self) -> Result<(), NodeError> {
        self.shared.leaving.store(true, Ordering::Relaxed);
        self.shared.announce_state();
        names::hand_out(&self.shared).await;
        Ok(())
    }

    /// How far the departure is. Nothing counts as handed over while others cannot say how the data is.
    pub async fn leave_progress(&self) -> Result<LeaveProgress, NodeError> {
        let status = self.status().await?;
        let shards = self.shared.store.stats().shards;
        let alone = !status.nodes.iter().any(|info| info.status == NodeStatus::Live);
        let health = &status.health;
        let left = health.endangered + health.unreadable + health.mending + health.queued;
        let unsure = shards > 0 && (alone || !status.silent.is_empty() || health.stripes() == 0);
        Ok(LeaveProgress {
            shards_left: if unsure { left.max(shards) } else { left },
            shards_total: shards,
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
        if user != Some(self.shared.user_key.user_id()) {
            return Err(NodeError::NotYours(node));
        }
        self.end_membership(node).await;
        Ok(())
    }

    /// Ends this node's membership, whatever it still holds: that is lost to the pool. [`Node::leave_progress`] tells.
    pub async fn part(&self) -> Result<(), NodeError> {
        self.end_membership(self.shared.me()).await;
        Ok(())
    }

    async fn end_membership(&self, node: NodeId) {
        let shared = &self.shared;
        let (pool, seq) = shared.with_control(|control| (control.roster.pool(), control.roster.certificate_seq(node)));
        let last = Certificate {
            version: VERSION,
            pool,
            node,
            seq: seq + 1,
            active: false,
        };
        let record = PoolRecord::Certificate(sign(&shared.user_key, &last));
        let peers = shared.with_control(|control| control.live_peers());
        // Told directly: gossip may not get out before this node does.
        let request = PoolRequest::Records(vec![record.clone()]);
        let told = peers.into_iter().map(|peer| shared.ask(peer, &request));
        futures::future::join_all(told).await;
        shared.introduce(record).await;
    }

    /// Where this node keeps its things.
    pub fn home(&self) -> &FilePath {
        self.shared.home.path()
    }

    /// Stops: no request is answered any more, and all is on disk when this returns.
    pub async fn stop(&self) {
        self.shared.stopping.cancel();
        let store = self.shared.store.clone();
        Shared::blocking(move || store.close()).await;
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

fn load_roster(meta: &Meta) -> Result<Option<Roster>, StartError> {
    let records = meta.records()?;
    let Some(genesis) = records.iter().find_map(|record| match record {
        PoolRecord::Genesis(signed) => Some(signed.clone()),
        _ => None,
    }) else {
        return Ok(None);
    };
    let mut roster = Roster::new(genesis)?;
    for record in &records {
        // Those that others rest on may come later: the roster keeps them aside until then.
        let _ = roster.merge(record);
    }
    Ok(Some(roster))
}

fn refuse_occupied(parts: &Parts) -> Result<(), StartError> {
    match load_roster(&parts.meta)? {
        Some(roster) => {
            let pool = roster.pool_name().to_owned();
            Err(HomeError::Occupied {
                home: parts.home.path().to_owned(),
                pool,
            }
            .into())
        }
        None => Ok(()),
    }
}

fn certificate(user: &SigningKey, pool: PoolId, node: NodeId, seq: u64) -> potluck_crypto::Signed<Certificate> {
    sign(
        user,
        &Certificate {
            version: VERSION,
            pool,
            node,
            seq,
            active: true,
        },
    )
}

fn own_certificate(user: &SigningKey, pool: PoolId, node: NodeId, seq: u64) -> PoolRecord {
    PoolRecord::Certificate(certificate(user, pool, node, seq))
}

/// Asks the members in turn, until one lets this node in.
async fn ask_to_join(
    parts: &Parts,
    pool: PoolId,
    pool_name: &str,
    members: &[KitMember],
    credential: Credential,
) -> Result<(Roster, Option<Zeroizing<[u8; 32]>>), JoinError> {
    let request = protocol::encode(&JoinRequest { pool, credential });
    let mut reason = "no member's address is known".to_owned();
    let mut refusal: Option<Refusal> = None;
    for member in members.iter().filter(|member| member.node != parts.node_key.node_id()) {
        let addresses = member.addresses.iter().filter_map(|text| text.parse().ok()).collect();
        if let Err(error) = parts.endpoint.connect(member.node, addresses).await {
            reason = error.to_string();
            continue;
        }
        let reply = match parts.endpoint.request(member.node, Protocol::Join, &request).await {
            Ok(reply) => reply,
            Err(error) => {
                reason = error.to_string();
                continue;
            }
        };
        match protocol::decode(&reply).map_err(|error| JoinError::Nonsense(error.to_string()))? {
            JoinReply::Welcome { records, user_seed } => {
                let seed = user_seed
                    .map(|seed| seed[..].try_into().map(Zeroizing::new))
                    .transpose();
                let seed = seed.map_err(|_| JoinError::Nonsense("the user key has another length".to_owned()))?;
                return Ok((welcome_roster(pool, &records)?, seed));
            }
            JoinReply::Refused(why) => refusal = Some(why),
        }
    }
    let pool = pool_name.to_owned();
    Err(match refusal {
        Some(refusal) => JoinError::Refused { pool, refusal },
        None => JoinError::Unreachable { pool, reason },
    })
}

/// The roster from the records that a member sent: of the pool that was asked for, or it is none.
fn welcome_roster(pool: PoolId, records: &[PoolRecord]) -> Result<Roster, JoinError> {
    let genesis = records.iter().find_map(|record| match record {
        PoolRecord::Genesis(signed) => Some(signed.clone()),
        _ => None,
    });
    let genesis = genesis.ok_or_else(|| JoinError::Nonsense("the pool's first record is missing".to_owned()))?;
    let mut roster = Roster::new(genesis).map_err(StartError::from)?;
    if roster.pool() != pool {
        return Err(JoinError::Nonsense("the records are of another pool".to_owned()));
    }
    for record in records {
        let _ = roster.merge(record);
    }
    Ok(roster)
}

/// What a person should do about what is wrong.
fn advice(nodes: &[NodeInfo], health: &HealthInfo, domains: usize, unreadable: &[Path]) -> Vec<String> {
    let mut advice = Vec::new();
    let away: Vec<String> = nodes
        .iter()
        .filter(|info| info.status == NodeStatus::Away)
        .map(NodeInfo::called)
        .collect();
    let stripes = |count| match count {
        1 => "1 stripe".to_owned(),
        count => format!("{count} stripes"),
    };
    let unusable = health.unreadable + health.lost;
    if health.unreadable > 0 && !away.is_empty() {
        advice.push(format!(
            "{} cannot be read now: bring back one of {}.",
            stripes(health.unreadable),
            away.join(", ")
        ));
    } else if unusable > 0 && health.gathering == 0 {
        advice.push(match unreadable.first() {
            Some(path) => format!("Put {path} and the other files that cannot be read again, or remove them: what is left of them does not suffice."),
            None => format!(
                "{} cannot be read: too few shards are left. `potluck status` on a machine of their owner names the files, to be put again.",
                stripes(unusable)
            ),
        });
    }
    if health.waiting.contains_key("no-domain") {
        advice.push(
            "Some data has fewer copies than it was made for, and no machine is free to take more: add a machine, or bring one back. One of yours that is lost for good: `potluck forget NODE`."
                .to_owned(),
        );
    }
    if health.waiting.contains_key("grace") {
        advice.push(format!(
            "Waiting for {} to come back before making their shards anew.",
            away.join(", ")
        ));
    }
    if nodes.len() == 1 {
        advice
            .push("This pool is one machine: nothing survives its loss. `potluck invite` asks another in.".to_owned());
    } else if domains < nodes.len() && domains <= 1 {
        advice.push("Only one failure domain has room: data survives no loss.".to_owned());
    }
    let full = nodes
        .iter()
        .filter(|info| info.capacity.0 > 0 && info.used.0 * 100 >= info.capacity.0 * 95);
    for info in full {
        advice.push(format!(
            "Node {} is full: give it more with `--capacity`, or remove data.",
            info.called()
        ));
    }
    advice
}
