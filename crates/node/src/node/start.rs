//! How a node comes to run: it founds a pool, joins one, comes back to one, or starts again in its home.

use super::Node;
use crate::{
    api::NodeConfig,
    branch,
    charters::{self, Charters},
    checkpoint,
    claims::Claims,
    control::{Control, Event},
    devices::{self, Hearing},
    download::PieceCache,
    driver,
    due::Due,
    erase,
    error::{HomeError, JoinError, Refusal, StartError},
    forks::Forks,
    freeing::Freeing,
    home::{Home, LOCK_PATIENCE, META},
    links::LinkState,
    meta::Meta,
    protocol::{self, Credential, JoinReply, JoinRequest},
    rails::Rails,
    records::{Certificate, Genesis, PoolRecord, VERSION, sign},
    roster::Roster,
    share,
    shared::Shared,
    space::Opened,
    spaces::{self, Spaces},
    turns::Turns,
    twin::Twin,
    world::{Network, World},
};
use futures::{StreamExt, stream::FuturesUnordered};
use potluck_crypto::{Kit, KitMember, Signed, SigningKey, Ticket, UserKeys};
use potluck_net::{Address, Endpoint, Inbox, Listen, Message, NetworkConfig, Protocol};
use potluck_store::{Options, Store};
use potluck_types::{NodeId, PoolId, limits};
use std::{
    path::Path as FilePath,
    str::FromStr,
    sync::{Arc, Mutex, RwLock, atomic::AtomicBool},
    time::Duration,
};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use zeroize::Zeroizing;

/// How long listening may take to be confirmed.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(3);

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

/// Whether a home has to be whole.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    /// One that belongs to a pool has all its files.
    AllOfIt,
    /// What the database had comes from the others: it is made anew.
    Keys,
}

impl Parts {
    async fn prepare(config: &NodeConfig, needs: Needs) -> Result<Self, StartError> {
        // What is written wrongly is told before anything is made.
        let listen: Vec<Listen> = parsed(&config.listen)?;
        let announce = parsed(&config.announce)?;
        let (home, node_key, meta) = open(config, needs).await?;
        let (endpoint, mut inbox) = match &config.world.network {
            Network::Overlay => {
                let network = NetworkConfig {
                    listen: listen.clone(),
                    mdns: config.mdns,
                    relay: config.relay,
                };
                potluck_net::start(&node_key, &network).await?
            }
            Network::Memory(network) => network.join(node_key.node_id()),
        };
        let mut addresses = Vec::new();
        // TCP and QUIC each; a wildcard address is reported once for every interface.
        let deadline = tokio::time::Instant::now() + LISTEN_TIMEOUT;
        let expected = match &config.world.network {
            Network::Overlay => 2 * listen.len(),
            Network::Memory(_) => 0,
        };
        while addresses.len() < expected {
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

/// What is on disk of a node, but for its shards.
async fn open(config: &NodeConfig, needs: Needs) -> Result<(Home, SigningKey, Meta), StartError> {
    let home = Home::take_within(&config.home, &*config.world.storage, LOCK_PATIENCE).await?;
    let passphrase = config.passphrase.clone();
    let home = Shared::blocking(move || home.unlock(passphrase.as_ref()).map(|()| home)).await?;
    let node_key = home.node_key(&*config.world.entropy)?;
    if needs == Needs::AllOfIt {
        home.refuse_missing(META)?;
    }
    let meta = Meta::open(&home.disk()).map_err(|error| match error.action {
        "opening" => StartError::Home(HomeError::Damaged {
            file: home.meta_path(),
            reason: error.source.to_string(),
        }),
        _ => error.into(),
    })?;
    Ok((home, node_key, meta))
}

fn parsed<T: FromStr>(texts: &[String]) -> Result<Vec<T>, T::Err> {
    texts.iter().map(|text| text.parse()).collect()
}

impl Node {
    /// Whether the keys of this home are under a passphrase.
    pub fn is_locked(home: &FilePath) -> bool {
        Home::is_locked(home)
    }

    /// Whether a pool was made or joined in this home.
    pub fn has_pool(home: &FilePath) -> bool {
        Home::is_of_a_pool(home)
    }

    /// Makes a new pool, and starts its first node.
    pub async fn found(config: NodeConfig, pool_name: &str) -> Result<Self, StartError> {
        if pool_name.is_empty()
            || pool_name.len() > limits::POOL_NAME_BYTES_MAX
            || pool_name.chars().any(char::is_control)
        {
            return Err(StartError::PoolName(pool_name.chars().take(80).collect()));
        }
        let parts = Parts::prepare(&config, Needs::AllOfIt).await?;
        refuse_occupied(&parts)?;
        refuse_lost(&parts.home)?;
        let World { clock, entropy, .. } = &config.world;
        let user = parts.home.user_keys(&**entropy)?;
        let genesis = Genesis {
            version: VERSION,
            name: pool_name.to_owned(),
            created: clock.now(),
            nonce: entropy.bytes(),
        };
        let mut roster = Roster::new(sign(user.signing(), &genesis))?;
        roster.merge(&own_certificate(&user, roster.pool(), parts.node_key.node_id(), 1))?;
        parts.meta.set_records(roster.records())?;
        parts.home.set_pool(roster.pool())?;
        Self::launch(parts, user, roster, config).await
    }

    /// Starts the node of a home that belongs to a pool.
    pub async fn start(config: NodeConfig) -> Result<Self, StartError> {
        let parts = Parts::prepare(&config, Needs::AllOfIt).await?;
        let Some(roster) = load_roster(&parts.meta)? else {
            refuse_lost(&parts.home)?;
            return Err(HomeError::Empty { home: config.home }.into());
        };
        if roster.user_of(parts.node_key.node_id()).is_none() {
            let pool = roster.pool_name().to_owned();
            return Err(HomeError::Left {
                home: config.home,
                pool,
            }
            .into());
        }
        let mut user = parts.home.user_keys(&*config.world.entropy)?;
        // One that came just before the last run ended.
        let id = user.id();
        if devices::follow(&mut user, roster.rotations(id), &parts.node_key) {
            parts.home.set_user_keys(&user, &*config.world.entropy)?;
        }
        Self::launch(parts, user, roster, config).await
    }

    /// Joins a pool with a ticket, and starts. A home that has lost its database comes back as the node that it was, with the shards that it has: by a ticket of its pool, to its person.
    pub async fn join(config: NodeConfig, ticket: &str) -> Result<Self, JoinError> {
        let ticket: Ticket = ticket.parse()?;
        let parts = Parts::prepare(&config, Needs::Keys).await?;
        refuse_occupied(&parts)?;
        refuse_other_pool(&parts.home, ticket.pool)?;
        let secret = *ticket.secret.as_bytes();
        let node = parts.node_key.node_id();
        let own = if ticket.mine {
            None
        } else {
            Some(parts.home.user_keys(&*config.world.entropy).map_err(StartError::from)?)
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
        let (roster, seeds) = asked.map_err(|error| match error {
            // The inviter's clock decides, since this one may be wrong; but it explains why nobody is there.
            JoinError::Unreachable { .. } if ticket.is_expired(config.world.clock.now()) => {
                JoinError::Expired(ticket.expires)
            }
            error => error,
        })?;
        let given = || UserKeys::of(seeds.iter().map(|seed| SigningKey::from_seed(seed)));
        let user = own
            .or_else(given)
            .ok_or_else(|| JoinError::Nonsense("the user key is missing".to_owned()))?;
        Ok(Self::enter(parts, user, roster, config).await?)
    }

    /// Brings a person back on a fresh machine: joins their pool with the key in their recovery kit.
    pub async fn restore(config: NodeConfig, kit: &Kit) -> Result<Self, JoinError> {
        let parts = Parts::prepare(&config, Needs::Keys).await?;
        refuse_occupied(&parts)?;
        refuse_other_pool(&parts.home, kit.pool)?;
        let word = certificate(&kit.user, kit.pool, parts.node_key.node_id(), 1);
        let credential = Credential::Member { certificate: word };
        let (roster, _) = ask_to_join(&parts, kit.pool, &kit.pool_name, &kit.members, credential).await?;
        Ok(Self::enter(parts, kit.user.clone(), roster, config).await?)
    }

    /// Keeps what joining gave, then starts. The records come last: a home has a pool once they are there.
    async fn enter(parts: Parts, user: UserKeys, roster: Roster, config: NodeConfig) -> Result<Self, StartError> {
        let user = keys_to_keep(&parts.home, user, &config)?;
        parts.home.set_user_keys(&user, &*config.world.entropy)?;
        parts.meta.set_records(roster.records())?;
        parts.home.set_pool(roster.pool())?;
        Self::launch(parts, user, roster, config).await
    }

    async fn launch(parts: Parts, user: UserKeys, roster: Roster, config: NodeConfig) -> Result<Self, StartError> {
        let Parts {
            home,
            meta,
            node_key,
            endpoint,
            inbox,
            addresses,
            announce,
        } = parts;
        let World {
            clock,
            entropy,
            storage,
            writer,
            network: _,
        } = config.world;
        let folder = home.store_path();
        let disk = storage.folder(&folder).map_err(|source| HomeError::Io {
            action: "cannot make",
            file: folder,
            source,
        })?;
        let options = Options {
            clock: Arc::clone(&clock),
            entropy: Arc::clone(&entropy),
            driver: writer,
            ..Options::new(config.capacity)
        };
        let (store, recovery) = Shared::blocking(move || Store::open(disk, options)).await?;
        if recovery.rebuilt || !recovery.damaged.is_empty() {
            let (damaged, missing_packs) = (recovery.damaged.len(), recovery.missing_packs.len());
            let (rebuilt, unreadable) = (recovery.rebuilt, recovery.unreadable);
            tracing::warn!(rebuilt, damaged, missing_packs, %unreadable, "the shard store was repaired as it opened");
        }
        let spaces = Spaces::of(Opened::private(&user));
        let charters = Charters::among(roster.speakers().clone());
        let (events, events_receiver) = mpsc::unbounded_channel();
        let topic = roster.pool().to_string();
        endpoint.set_members(roster.members());
        let (started, started_at) = (tokio::time::Instant::now(), clock.now());
        let control = Control::new(node_key.node_id(), roster, meta.remembered()?, config.grace, started_at);
        let rails = Rails::resume(config.retention, config.mass_change_share, meta.elapsed()?, started_at);
        let twin = Twin::begin(started_at);
        let shared = Arc::new(Shared {
            spaces,
            charters,
            node_key,
            user: user.id(),
            user_keys: RwLock::new(Arc::new(user)),
            hearing: Hearing::default(),
            endpoint,
            store,
            meta: Arc::new(meta),
            clock,
            entropy,
            control: Mutex::new(control),
            events,
            write_window: Arc::new(Semaphore::new(limits::WRITE_WINDOW_BYTES)),
            rails,
            twin,
            claims: Claims::default(),
            freeing: Freeing::default(),
            writing: Claims::default(),
            watch: Mutex::default(),
            cache: PieceCache::default(),
            suspects: Mutex::default(),
            reached: tokio::sync::Mutex::default(),
            forks: Forks::default(),
            fetching: Turns::default(),
            saving: tokio::sync::Mutex::new(()),
            agreed_reports: Mutex::default(),
            agreed_logs: Mutex::default(),
            addresses: Mutex::new(addresses),
            announce,
            capacity: config.capacity,
            zone: config.zone,
            region: config.region,
            name: config.name,
            leaving: AtomicBool::new(false),
            parting: AtomicBool::new(false),
            caught_up: AtomicBool::new(false),
            greetings: TaskTracker::new(),
            stopping: CancellationToken::new(),
            taken_out: CancellationToken::new(),
            started,
            started_at,
            watch_due: Due::after(Duration::MAX),
            recode_due: Due::after(Duration::MAX),
            links: LinkState::default(),
            catch_up_due: Due::after(Duration::MAX),
            sweep_due: Due::after(Duration::MAX),
            news: Notify::new(),
            handled: Notify::new(),
            home,
        });
        checkpoint::give_up_all(&shared).await?;
        spaces::make_current(&shared).await?;
        charters::look_again(&shared)?;
        let user = shared.user;
        let is_replaced = shared.with_control(|control| control.roster.generation(user) > 0);
        if is_replaced && let Err(error) = devices::hear_now(&shared) {
            tracing::error!(%error, "what follows from a key that was replaced is not all done");
        }
        if let Err(error) = spaces::refresh(&shared).await {
            tracing::error!(%error, "the catalogue of spaces cannot be read");
        }
        shared.endpoint.subscribe(topic).await;
        shared.announce_state();
        share::introduce(&shared).await;
        shared.run_event(Event::Damaged(recovery.damaged.len() as u64));
        tokio::spawn(driver::run(Arc::clone(&shared), inbox, events_receiver));
        tokio::spawn(erase_on(Arc::clone(&shared)));
        if shared.with_control(|control| control.roster.speakers().users().next().is_some()) {
            // What follows from a key that was replaced may not have been done to its end.
            devices::hear_soon(&shared);
        }
        Ok(Self { shared })
    }
}

fn load_roster(meta: &Meta) -> Result<Option<Roster>, StartError> {
    Ok(Roster::of(meta.records()?)?)
}

fn refuse_occupied(parts: &Parts) -> Result<(), StartError> {
    match load_roster(&parts.meta)? {
        Some(roster) => {
            let (home, pool) = (parts.home.path().to_owned(), roster.pool_name().to_owned());
            Err(match roster.user_of(parts.node_key.node_id()) {
                Some(_) => HomeError::Occupied { home, pool },
                None => HomeError::Left { home, pool },
            }
            .into())
        }
        None => Ok(()),
    }
}

/// A home that belongs to a pool, and has no records of it any more, is neither founded nor started: somebody has to let it in again.
fn refuse_lost(home: &Home) -> Result<(), HomeError> {
    match home.pool()? {
        None => Ok(()),
        Some(_) => Err(HomeError::Damaged {
            file: home.meta_path(),
            reason: "the records of the pool are lost".to_owned(),
        }),
    }
}

fn refuse_other_pool(home: &Home, pool: PoolId) -> Result<(), StartError> {
    match home.pool()? {
        Some(was) if was != pool.to_string() => Err(HomeError::Anothers {
            home: home.path().to_owned(),
        }
        .into()),
        _ => Ok(()),
    }
}

/// The keys of the person who comes: where it is a home that has lost its database, that is whose home it is, and no key that is there is lost.
fn keys_to_keep(home: &Home, given: UserKeys, config: &NodeConfig) -> Result<UserKeys, HomeError> {
    if !home.has_pool() {
        return Ok(given);
    }
    let own = home.user_keys(&*config.world.entropy)?;
    if own.id() != given.id() {
        return Err(HomeError::Anothers {
            home: home.path().to_owned(),
        });
    }
    Ok(if own.all().count() > given.all().count() {
        own
    } else {
        given
    })
}

fn certificate(user: &UserKeys, pool: PoolId, node: NodeId, seq: u64) -> Signed<Certificate> {
    sign(user.signing(), &Certificate::new(user, pool, node, seq))
}

fn own_certificate(user: &UserKeys, pool: PoolId, node: NodeId, seq: u64) -> PoolRecord {
    PoolRecord::Certificate(certificate(user, pool, node, seq))
}

/// Asks the members, all at once, until one lets this node in: some may be away, and the others should not have to wait for that.
async fn ask_to_join(
    parts: &Parts,
    pool: PoolId,
    pool_name: &str,
    members: &[KitMember],
    credential: Credential,
) -> Result<(Roster, Vec<Zeroizing<[u8; 32]>>), JoinError> {
    let request = protocol::encode(&JoinRequest { pool, credential });
    let mut reason = "no member's address is known".to_owned();
    let mut refusal: Option<Refusal> = None;
    let others = members.iter().filter(|member| member.node != parts.node_key.node_id());
    let mut asked: FuturesUnordered<_> = others.map(|member| ask_member(parts, member, &request)).collect();
    while let Some(answer) = asked.next().await {
        match answer {
            Ok(JoinReply::Welcome {
                records,
                user_seed,
                later_seeds,
            }) => {
                let seeds = user_seed.into_iter().chain(later_seeds);
                let seeds: Result<Vec<_>, _> = seeds.map(|seed| seed[..].try_into().map(Zeroizing::new)).collect();
                let seeds = seeds.map_err(|_| JoinError::Nonsense("a user key has another length".to_owned()))?;
                return Ok((welcome_roster(pool, &records.known().collect::<Vec<_>>())?, seeds));
            }
            Ok(JoinReply::Refused(why)) => refusal = Some(why),
            Ok(JoinReply::Standing(_)) => "it answers what was not asked".clone_into(&mut reason),
            Err(why) => reason = why,
        }
    }
    let pool = pool_name.to_owned();
    Err(match refusal {
        Some(refusal) => JoinError::Refused { pool, refusal },
        None => JoinError::Unreachable { pool, reason },
    })
}

async fn ask_member(parts: &Parts, member: &KitMember, request: &Message) -> Result<JoinReply, String> {
    let addresses = member.addresses.iter().filter_map(|text| text.parse().ok()).collect();
    let connected = parts.endpoint.connect(member.node, addresses).await;
    connected.map_err(|error| error.to_string())?;
    let reply = parts.endpoint.request(member.node, Protocol::Join, request).await;
    let reply = reply.map_err(|error| error.to_string())?;
    protocol::decode(&reply).map_err(|error| format!("its answer makes no sense: {error}"))
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

/// What was being erased when the node went down is gone on with, once the others are here.
async fn erase_on(shared: Arc<Shared>) {
    let stopping = shared.stopping.clone();
    tokio::select! {
        biased;
        () = stopping.cancelled() => {}
        () = async {
            branch::gathered(&shared).await;
            erase::go_on(&shared).await;
        } => {}
    }
}
